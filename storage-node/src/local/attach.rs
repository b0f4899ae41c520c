//! Attaches a volume on this node, and takes it over from another node if need be.

use super::{SERVING, until};
use crate::member::Member;
use hf_control::error::{Code, Problem};
use hf_control::ports::NodeAnswer;
use hf_meta_core::record::VolumeRecord;
use hf_meta_core::{Command, Refusal, Reply};
use hf_policy::{RequestId, Term};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an attach is decided anew while the volume is not ready, or its record moves.
const AGAIN: Duration = Duration::from_secs(10);

/// What the record says of this node and the volume when an attach is asked for.
enum Now {
    /// It is attached here, and served.
    Served(Term),
    /// It is attached here; the take-over is under way. Another term would begin it again, and on slow disks it would
    /// never end.
    Begun(Term),
    /// It is to be attached, and if need be taken from another node.
    ToAttach { steal: bool },
}

async fn now(m: &Member, v: &VolumeRecord, force: bool) -> Result<Now, Problem> {
    let Some(a) = &v.coordinator else { return Ok(Now::ToAttach { steal: false }) };
    // An attach overrides a detach that is under way: the open requests of its clients end with an error.
    let ours = a.node == m.node && m.is_ours(a.session) && !m.exports.is_ending(v.id, a.session);
    if ours && !a.maintenance {
        return Ok(if v.activated == v.term { Now::Served(v.term) } else { Now::Begun(v.term) });
    }
    if force || a.node == m.node {
        return Ok(Now::ToAttach { steal: true });
    }
    let live = crate::liveness::of_leader(m).await.ok_or_else(|| {
        Problem::new(Code::NoLeader, "no metadata leader answers").because("so it is unknown which nodes live")
    })?;
    Ok(Now::ToAttach { steal: !live.up.contains(&a.node) })
}

fn find(m: &Member, name: &str) -> Result<Arc<VolumeRecord>, Problem> {
    m.view.borrow().volume_named(name).cloned().ok_or_else(|| Problem::no("volume", name))
}

/// Attaches the volume on this node, and answers when it is served.
pub(super) async fn attach(m: &Member, name: &str, force: bool, request: RequestId) -> Result<NodeAnswer, Problem> {
    let began = Instant::now();
    let session = m.new_session();
    let (vol, term) = loop {
        let v = find(m, name)?;
        let steal = match now(m, &v, force).await? {
            Now::Served(term) => return Ok(NodeAnswer::Attached { term: u64::from(term.0), ms: 0, already: true }),
            Now::Begun(term) => break (v.id, term),
            Now::ToAttach { steal } => steal,
        };
        let cmd = Command::Attach { vol: v.id, epoch: v.epoch, node: m.node, session, steal, maintenance: false };
        match m.propose(request, cmd).await.map_err(|e| Problem::new(Code::NotInTime, e.to_string()))? {
            Ok(Reply::Attached(term)) => break (v.id, term),
            Ok(other) => return Err(Problem::new(Code::Internal, format!("an attach was answered with {other:?}"))),
            Err(Refusal::EpochMismatch { .. } | Refusal::NotReady(_)) if began.elapsed() < AGAIN => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(e) => return Err(Problem::from(e)),
        }
    };
    let lost = |what: &str| Some(Err(Problem::new(Code::State, format!("volume {name} was {what} meanwhile"))));
    let served = until(m, SERVING, |s| {
        let v = s.volumes.get(&vol)?;
        if v.term > term {
            return lost("attached elsewhere");
        }
        if v.term == term && v.coordinator.is_none() {
            return lost("detached");
        }
        let exported = v.policy().is_ok_and(|p| p.exports.nbd);
        (v.activated == term && (!exported || m.exports.get(&v.name).is_some())).then_some(Ok(()))
    });
    match served.await {
        Some(done) => done?,
        None => {
            let why = m.waits_for(vol).unwrap_or_else(|| "the record does not say why".into());
            return Ok(NodeAnswer::Waits(why));
        }
    }
    // The leader is told at once.
    m.look.notify_one();
    Ok(NodeAnswer::Attached { term: u64::from(term.0), ms: began.elapsed().as_millis() as u64, already: false })
}

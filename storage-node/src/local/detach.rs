//! Detaches a volume from this node: the export ends, open requests are answered, then the record lets it go.

use super::{SERVING, until};
use crate::member::Member;
use hf_control::error::{Code, Problem};
use hf_control::ports::NodeAnswer;
use hf_policy::VolumeId;
use std::collections::BTreeSet;

/// What the detach of a volume waits for, as its coordinators tell.
async fn what_it_waits_for(m: &Member, vol: VolumeId) -> String {
    let (mut requests, mut all) = (0, BTreeSet::new());
    for r in &m.reactors {
        let status = r.status().await;
        let shards = status.volumes.iter().filter(|v| v.vol == vol).flat_map(|v| &v.shards);
        for d in shards.filter_map(|s| s.draining) {
            requests += d.requests;
            all.insert(d.waits_for.to_string());
        }
    }
    match requests {
        0 => "no request is open here, but the record does not say yet that it is detached".into(),
        n => format!("{n} of its clients' requests are open ({})", all.into_iter().collect::<Vec<_>>().join("; ")),
    }
}

/// Detaches the volume from this node.
pub(super) async fn detach(m: &Member, name: &str) -> Result<NodeAnswer, Problem> {
    let v = m.view.borrow().volume_named(name).cloned().ok_or_else(|| Problem::no("volume", name))?;
    let Some(a) = v.coordinator.clone() else { return Ok(NodeAnswer::Detached) };
    if a.node != m.node {
        return Err(Problem::new(Code::Busy, "the attachment moved meanwhile").so("try again"));
    }
    m.exports.end(v.id, a.session);
    for r in &m.reactors {
        r.send(hf_reactor::Mail::StopVolume { vol: v.id, session: a.session });
    }
    let gone = until(m, SERVING, |s| {
        let now = s.volumes.get(&v.id).and_then(|x| x.coordinator.as_ref()).map(|x| x.session);
        (now != Some(a.session)).then_some(())
    });
    match gone.await {
        Some(()) => Ok(NodeAnswer::Detached),
        None => Ok(NodeAnswer::Waits(what_it_waits_for(m, v.id).await)),
    }
}

//! Attaches a volume on this node, and takes it over from another node if need be.

use super::{Answer, SERVING, Service, VISIBLE, find, refused, text, until};
use crate::member::Member;
use hf_meta_core::{Command, Refusal, Reply};
use hf_meta_proto::pb;
use hf_policy::{RequestId, VolumeId};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tonic::Status;

/// What the detach of a volume waits for, as its coordinators tell.
pub(super) async fn what_it_waits_for(m: &Member, vol: VolumeId) -> String {
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

impl Service {
    /// Attaches the volume on this node, and answers when it is served.
    pub(super) async fn attach_here(
        &self,
        m: &Member,
        r: &pb::AttachRequest,
        request: RequestId,
    ) -> Answer<pb::TextReply> {
        let began = Instant::now();
        let session = m.new_session();
        let name = &r.name;
        let term = loop {
            let v = find(&m.view.borrow().clone(), name)?;
            let mut steal = false;
            if let Some(a) = &v.coordinator {
                // An attach overrides a detach that is under way: the open requests of its clients end with
                // an error.
                let ours = a.node == m.node && m.is_ours(a.session) && !m.exports.is_ending(v.id, a.session);
                if ours && !a.maintenance {
                    if v.activated == v.term {
                        return text(
                            format!("volume {name} is already attached here"),
                            serde_json::json!({"volume": name}),
                        );
                    }
                    // The take-over is under way. Another term would begin it again, and on slow disks it
                    // would never end.
                    break v.term;
                }
                steal = r.force || a.node == m.node || !self.liveness(m).await?.up.contains(&a.node);
            }
            let cmd = Command::Attach { vol: v.id, epoch: v.epoch, node: m.node, session, steal, maintenance: false };
            match m.propose(request, cmd).await.map_err(|e| Status::unavailable(e.to_string()))? {
                Ok(Reply::Attached(term)) => break term,
                Ok(_) => return Err(Status::internal("unexpected answer to an attach")),
                Err(Refusal::EpochMismatch { .. } | Refusal::NotReady(_)) if began.elapsed() < VISIBLE => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(e) => return Err(refused(e)),
            }
        };
        let served = until(m, SERVING, |s| {
            let v = s.volume_named(name)?;
            if v.term > term {
                return Some(Err(Status::aborted(format!("volume {name} was attached elsewhere meanwhile"))));
            }
            if v.term == term && v.coordinator.is_none() {
                return Some(Err(Status::aborted(format!("volume {name} was detached meanwhile"))));
            }
            let exported = v.policy().is_ok_and(|p| p.exports.nbd);
            (v.activated == term && (!exported || m.exports.get(name).is_some())).then_some(Ok(exported))
        });
        let exported = match served.await {
            Some(done) => done?,
            None => {
                let vol = m.view.borrow().volume_named(name).map(|v| v.id);
                let why = vol.and_then(|v| m.waits_for(v)).unwrap_or_else(|| "the record does not say why".into());
                return Err(Status::deadline_exceeded(format!(
                    "volume {name} is attached here, but does not serve yet: {why} (holdfast volume show {name})"
                )));
            }
        };
        let ms = began.elapsed().as_millis() as u64;
        let here = &self.0.cfg.name;
        let uri = exported.then(|| format!("nbd://{}/{name}", self.0.cfg.nbd));
        let socket = self.0.cfg.nbd_socket.as_ref().filter(|_| exported);
        let unix = socket.map(|p| format!("nbd+unix:///{name}?socket={}", p.display()));
        let json =
            serde_json::json!({"volume": name, "node": here, "uri": uri, "unix_uri": unix, "term": term, "ms": ms});
        let at = uri.unwrap_or_else(|| "not exported (exports=none)".into());
        text(format!("volume {name} attached on node {here} in {ms} ms: {at}"), json)
    }
}

//! Repair. The leader decides every
//! [`EVERY`] what replicas need (`hf_meta_core::plan::repair`); it proposes that, or asks a node to look
//! after a detached volume. Nodes report how far their syncs are.

use crate::member::Member;
use hf_meta_core::Command;
use hf_meta_core::plan::Step;
use hf_meta_core::plan::repair::steps;
use hf_meta_core::record::VolumeRecord;
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use hf_policy::{Epoch, NodeId, Rid, ShardId, VolumeId};
use hf_reactor::{Mail, VolumeStatus};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Status;

/// How often the leader decides what replicas need.
const EVERY: Duration = Duration::from_millis(700);

/// Carries out the leader's decisions while this node leads; otherwise waits.
pub async fn run(m: Arc<Member>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(live) = m.liveness_as_leader() else { continue };
        let state = m.view.borrow().clone();
        for step in steps(&state, &live) {
            match step {
                // The command compares the epoch; a decision that was overtaken is made again in the next
                // round.
                Step::Do(cmd) => {
                    if let Ok(Err(e)) = m.propose_new(cmd).await {
                        tracing::debug!("repair: {e}");
                    }
                }
                Step::Maintain { vol, node, epoch } => ask(&m, node, vol, Some(epoch)).await,
                Step::Release { vol, node } => ask(&m, node, vol, None).await,
            }
        }
    }
}

/// Asks a node to look after a volume's replicas on the record of the epoch `begin`, or, if that is `None`,
/// to stop.
async fn ask(m: &Member, node: NodeId, vol: VolumeId, begin: Option<Epoch>) {
    let addr = m.view.borrow().nodes.get(&node).map(|n| n.addr.api.clone());
    let Some(ch) = addr.and_then(|a| hf_meta_proto::channel(&a).ok()) else { return };
    let mut c = PeerClient::new(ch);
    let epoch = begin.map_or(0, |e| e.0);
    let asked = c.maintain(pb::MaintainRequest { vol: vol.0, begin: begin.is_some(), epoch });
    if let Ok(Err(e)) = tokio::time::timeout(Duration::from_secs(2), asked).await {
        tracing::debug!(node = %node, volume = %vol, "maintenance: {}", e.message());
    }
}

/// Whether some coordinator holds a lease of one of the volume's replicas on this node.
async fn leased_here(m: &Member, v: &VolumeRecord) -> bool {
    let mut held = Vec::new();
    for r in &m.reactors {
        held.extend(r.status().await.disks.into_iter().flat_map(|d| d.replicas));
    }
    v.replicas().any(|(_, r)| held.iter().any(|h| h.rid == r.rid && h.leased))
}

/// Begins or ends the maintenance of a volume's replicas on this node. Refused if the record has moved past
/// `epoch`, or if the volume's coordinator is alive.
pub async fn maintain(m: &Member, vol: VolumeId, begin: bool, epoch: Epoch) -> Result<(), Status> {
    let state = m.view.borrow().clone();
    let Some(v) = state.volumes.get(&vol) else { return Err(Status::not_found("no such volume")) };
    match (&v.coordinator, begin) {
        (Some(a), true) if a.maintenance && a.node == m.node => {}
        (_, true) if epoch != v.epoch => return Err(Status::aborted("the record has moved")),
        // A coordinator that is cut off from the leader only still works; its leases of replicas show that
        // (docs/protocol.md, "Volumes that nobody coordinates").
        (Some(a), true) if !a.maintenance && leased_here(m, v).await => {
            return Err(Status::failed_precondition("the coordinator of the volume is alive"));
        }
        (held, true) => {
            let (session, steal) = (m.new_session(), held.is_some());
            let cmd = Command::Attach { vol, epoch: v.epoch, node: m.node, session, steal, maintenance: true };
            let done = m.propose_new(cmd).await.map_err(|e| Status::unavailable(e.to_string()))?;
            done.map_err(|e| Status::failed_precondition(e.to_string()))?;
        }
        (Some(a), false) if a.maintenance && a.node == m.node => {
            m.exports.end(vol, a.session);
            m.reactors.iter().for_each(|r| r.send(Mail::StopVolume { vol, session: a.session }));
        }
        (_, false) => {}
    }
    Ok(())
}

/// The speed of each sync of this node, measured from one heartbeat to the next: time, bytes copied by then,
/// bytes per second.
#[derive(Default)]
pub struct Rates(BTreeMap<(ShardId, Rid), (Instant, u64, u64)>);

impl Rates {
    /// The progress of a volume's syncs and scrubs, with their speed.
    pub fn progress(&mut self, v: &VolumeStatus) -> Vec<pb::SyncProgress> {
        let mut out = Vec::new();
        for (index, s) in v.shards.iter().enumerate() {
            let shard = ShardId { vol: v.vol, index: index as u32 };
            if let Some(x) = s.scrub {
                let done = x.report.chunks + x.report.skipped;
                out.push(pb::SyncProgress {
                    vol: v.vol.0,
                    shard: shard.index,
                    rid: 0,
                    stage: "scrub".into(),
                    chunks: done + x.left,
                    chunks_done: done,
                    copied_bytes: x.report.repaired * hf_policy::BLOCK_BYTES,
                    bytes_per_second: 0,
                });
            }
            let Some(x) = s.sync else {
                self.0.retain(|(known, _), _| *known != shard);
                continue;
            };
            let copied = x.copied_blocks * hf_policy::BLOCK_BYTES;
            let (at, before, rate) = self.0.get(&(shard, x.rid)).copied().unwrap_or((Instant::now(), copied, 0));
            let ms = at.elapsed().as_millis() as u64;
            let rate = if ms >= 400 { copied.saturating_sub(before) * 1000 / ms } else { rate };
            if ms >= 400 || !self.0.contains_key(&(shard, x.rid)) {
                self.0.insert((shard, x.rid), (Instant::now(), copied, rate));
            }
            out.push(pb::SyncProgress {
                vol: v.vol.0,
                shard: shard.index,
                rid: x.rid.0,
                stage: format!("{:?}", x.stage).to_lowercase(),
                chunks: x.chunks,
                chunks_done: x.chunks_done,
                copied_bytes: copied,
                bytes_per_second: rate,
            });
        }
        out
    }
}

//! Repair, and the operators' commands that change nodes, disks and replicas. The leader decides every
//! [`EVERY`] what replicas need (`hf_meta_core::plan::repair`); it proposes that, or asks a node to look
//! after a detached volume. Nodes report how far their syncs are.

use crate::identity::random;
use crate::member::Member;
use hf_meta_core::command::Job;
use hf_meta_core::plan::Step;
use hf_meta_core::plan::repair::steps;
use hf_meta_core::record::{ClusterState, DiskState, NodeMode, ReplicaRecord, VolumeRecord};
use hf_meta_core::{Command, Refusal};
use hf_meta_proto::pb::{self, api_client::ApiClient, change_request::What};
use hf_policy::{DiskId, Epoch, Lineage, NodeId, Rid, ShardId, VolumeId};
use hf_reactor::{Mail, VolumeStatus};
use std::collections::{BTreeMap, BTreeSet};
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
    let mut c = ApiClient::new(ch);
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

/// The progress of syncs as JSON, for `status`.
pub fn syncs_json(list: &[pb::SyncProgress]) -> Vec<serde_json::Value> {
    let one = |s: &pb::SyncProgress| {
        serde_json::json!({
            "volume": s.vol, "shard": s.shard, "replica": s.rid, "stage": s.stage, "chunks": s.chunks,
            "chunks_done": s.chunks_done, "copied_bytes": s.copied_bytes, "bytes_per_second": s.bytes_per_second,
        })
    };
    list.iter().map(one).collect()
}

fn not_found(kind: &str, name: &str) -> Status {
    Status::not_found(Refusal::NotFound { kind: kind.into(), name: name.into() }.to_string())
}

/// The command for an operator's change, and the text to answer when it is done.
pub fn change(state: &ClusterState, what: Option<What>, up: &BTreeSet<NodeId>) -> Result<(Command, String), Status> {
    let node = |name: &str| state.node_named(name).map(|n| n.id).ok_or_else(|| not_found("node", name));
    let disk = |id: u64| {
        let found = state.disks.contains_key(&DiskId(id)).then_some(DiskId(id));
        found.ok_or_else(|| not_found("disk", &format!("#{id}")))
    };
    Ok(match what {
        None => return Err(Status::invalid_argument("the request says nothing to change")),
        Some(What::NodeMode(r)) => {
            let (mode, said) = match r.mode.as_str() {
                "active" => (NodeMode::Active, "is active"),
                "draining" => (NodeMode::Draining, "is being drained; watch it with holdfast job list"),
                "maintenance" => (NodeMode::Maintenance, "is in maintenance: nothing is rebuilt while it is away"),
                other => return Err(Status::invalid_argument(format!("no node mode \"{other}\""))),
            };
            (Command::SetNodeMode { node: node(&r.node)?, mode }, format!("node {} {said}", r.node))
        }
        Some(What::RemoveNode(name)) => {
            (Command::RemoveNode { node: node(&name)? }, format!("node {name} removed; its daemon can be stopped"))
        }
        Some(What::DiskDrain(r)) => {
            let said = if r.draining { "is being drained" } else { "is in use again" };
            (Command::SetDiskDraining { disk: disk(r.disk)?, draining: r.draining }, format!("disk {} {said}", r.disk))
        }
        Some(What::PauseJob(r)) => pause(state, r)?,
        Some(What::RemoveDisk(id)) => (Command::RemoveDisk { disk: disk(id)? }, format!("disk {id} removed")),
        Some(What::RebuildPaused(paused)) => {
            let word = if paused { "paused" } else { "resumed" };
            (Command::PauseRebuild { paused }, format!("making and moving of replicas {word}"))
        }
        Some(What::Voters(n)) => {
            (Command::SetVoters { voters: n as usize }, format!("{n} nodes vote as soon as that many are there"))
        }
        Some(What::ForceInsync(r)) => force(state, r, up)?,
        Some(What::Scrub(r)) => {
            let v = state.volume_named(&r.volume).ok_or_else(|| not_found("volume", &r.volume))?;
            let said = if r.on {
                format!("volume {} is being scrubbed; watch it with holdfast job list", r.volume)
            } else {
                format!("the scrub of volume {} is given up", r.volume)
            };
            (Command::Scrub { vol: v.id, epoch: v.epoch, on: r.on }, said)
        }
        Some(What::MoveReplica(r)) => {
            let v = state.volume_named(&r.volume).ok_or_else(|| not_found("volume", &r.volume))?;
            let (rid, moving) = (Rid(r.rid), r.moving);
            let word = if moving { "moves elsewhere; watch it with holdfast job list" } else { "stays where it is" };
            let said = format!("replica {} of volume {} {word}", r.rid, r.volume);
            (Command::Move { vol: v.id, shard: r.shard, epoch: v.epoch, rid, moving }, said)
        }
        Some(What::Rebalance(on)) => {
            let said = if on {
                "replicas move from full disks to empty ones; watch it with holdfast job list"
            } else {
                "rebalancing is given up; copies under way are completed"
            };
            (Command::Rebalance { on }, said.to_string())
        }
        Some(What::DiskInService(id)) => {
            let disk = disk(id)?;
            if matches!(state.disks.get(&disk).map(|d| &d.state), Some(DiskState::Failed(_))) {
                return Err(Status::failed_precondition(format!(
                    "disk {id} has failed for good; restart its node once the disk works again"
                )));
            }
            (Command::SetDiskState { disk, state: DiskState::Ok, fault: None }, format!("disk {id} is trusted again"))
        }
    })
}

/// The command that holds a job or lets it go on, and the text to answer.
fn pause(state: &ClusterState, r: pb::PauseJob) -> Result<(Command, String), Status> {
    let node = |name: &str| state.node_named(name).map(|n| n.id).ok_or_else(|| not_found("node", name));
    let disk = |id: u64| {
        let found = state.disks.contains_key(&DiskId(id)).then_some(DiskId(id));
        found.ok_or_else(|| not_found("disk", &format!("#{id}")))
    };
    let scrubbed = || state.volume_named(&r.scrub).map(|v| v.id).ok_or_else(|| not_found("volume", &r.scrub));
    let (of, name) = match (r.node.as_str(), r.scrub.as_str(), r.disk, r.rebalance) {
        ("", "", 0, true) => (Job::Rebalance, "rebalancing".to_string()),
        ("", "", 0, false) => (Job::Replica(Rid(r.replica)), format!("replica {}", r.replica)),
        ("", "", id, _) => (Job::Disk(disk(id)?), format!("the drain of disk {id}")),
        ("", volume, ..) => (Job::Scrub(scrubbed()?), format!("the scrub of volume {volume}")),
        (name, ..) => (Job::Node(node(name)?), format!("the drain of node {name}")),
    };
    let word = match (r.paused, of) {
        (false, _) => "goes on",
        (true, Job::Scrub(_)) => "is held",
        (true, Job::Replica(_)) => "is held; a copy under way to it stops",
        (true, _) => "is held; copies under way are completed",
    };
    Ok((Command::PauseJob { of, paused: r.paused }, format!("{name} {word}")))
}

/// The command for a force-insync. It is refused unless the volume's name is given once more, and while a
/// member of the in-sync set may still answer.
fn force(state: &ClusterState, r: pb::ForceInsync, up: &BTreeSet<NodeId>) -> Result<(Command, String), Status> {
    let v = state.volume_named(&r.volume).ok_or_else(|| not_found("volume", &r.volume))?;
    if r.confirm != r.volume {
        return Err(Status::invalid_argument(format!(
            "this declares one replica of {} the truth and abandons what only the others hold; if you mean it, confirm with --confirm {}",
            r.volume, r.volume
        )));
    }
    let shard = v.shards.get(r.shard as usize);
    let replica = shard.and_then(|s| s.replicas.get(&Rid(r.rid)));
    let Some(replica) = replica else { return Err(not_found("replica", &format!("#{} of shard {}", r.rid, r.shard))) };
    if replica.in_sync() && shard.is_some_and(|s| s.in_sync().len() == 1) {
        return Err(Status::failed_precondition("that replica is already the only one in sync; attach the volume"));
    }
    if replica.store_uuid.is_none() {
        return Err(Status::failed_precondition(format!("replica {} was never filled: it holds nothing", r.rid)));
    }
    let works = |r: &ReplicaRecord| up.contains(&r.node) && state.disk_works(r.disk);
    if let Some(other) =
        shard.and_then(|s| s.replicas.values().find(|o| o.in_sync() && o.rid != replica.rid && works(o)))
    {
        let node = state.nodes.get(&other.node).map_or("?", |n| n.name.as_str());
        return Err(Status::failed_precondition(format!(
            "replica {} on node {node} is in sync and may still answer: attach the volume; or, if it is lost for good, stop that node first",
            other.rid
        )));
    }
    let cmd = Command::ForceInsync {
        vol: v.id,
        shard: r.shard,
        epoch: v.epoch,
        rid: Rid(r.rid),
        lineage: Lineage(random()),
        operator: r.operator,
        reason: r.reason,
    };
    Ok((
        cmd,
        format!("replica {} of volume {} is the truth now, under a new lineage; attach the volume", r.rid, r.volume),
    ))
}

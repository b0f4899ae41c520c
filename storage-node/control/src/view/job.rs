//! Jobs: whatever moves, copies or compares replicas, read off the record.

use super::{Evidence, Look, evidence};
use crate::model::{Job, JobKind, JobState};
use hf_meta_core::record::{DiskState, NodeMode, ReplicaRecord, VolumeRecord};
use hf_meta_core::soft::SyncTold;
use hf_policy::{CHUNK_BYTES, DiskId, Rid, ShardId};
use std::collections::BTreeSet;

/// The name of the rebalancing.
pub const REBALANCE: &str = "rebalance/cluster";

fn plain(kind: JobKind, subject: String, held: bool, message: &str, because: &str) -> Job {
    Job {
        id: format!("{}/{subject}", kind.word()),
        kind,
        subject,
        node: None,
        state: if held { JobState::Held } else { JobState::Running },
        message: message.into(),
        why_waiting: None,
        replicas_left: None,
        done_bytes: None,
        total_bytes: None,
        copied_bytes: None,
        bytes_per_second: None,
        eta_seconds: None,
        because: because.into(),
    }
}

/// All jobs. It looks at every replica.
pub fn jobs(look: Look) -> Vec<Job> {
    let s = look.state;
    let mut jobs = Vec::new();
    if s.rebalancing {
        let moving = s.volumes.values().flat_map(|v| v.replicas()).filter(|(_, r)| r.moving).count();
        let message = format!("disks are evened out, {moving} replicas on the move");
        let job = plain(JobKind::Rebalance, "cluster".into(), s.rebalance_paused, &message, "an operator asked for it");
        jobs.push(Job { replicas_left: Some(moving as u64), ..job });
    }
    jobs.extend(drains(look));
    for v in s.volumes.values() {
        jobs.extend(scrub(look, v));
        if calm(v) && !away_matters(look) {
            continue;
        }
        jobs.extend(v.replicas().filter_map(|(shard, r)| replica(look, v, shard, r)));
    }
    jobs.sort_by(|a, b| a.id.cmp(&b.id));
    jobs
}

/// Is no replica of the volume out, moving or held?
fn calm(v: &VolumeRecord) -> bool {
    v.replicas().all(|(_, r)| r.in_sync() && !r.moving && !r.leaving)
}

/// Is some node or disk to be emptied? Then replicas that are in sync are jobs, too.
fn away_matters(look: Look) -> bool {
    look.state.nodes.values().any(|n| n.mode == NodeMode::Draining)
        || look.state.disks.values().any(|d| d.draining || matches!(d.state, DiskState::Failing(_)))
}

/// One job by its name.
pub fn job(look: Look, id: &str) -> Option<Job> {
    match id.split_once('/') {
        Some(("replica", n)) => {
            let v = look.state.volume_of_replica(Rid(n.parse().ok()?))?;
            let (shard, r) = v.replicas().find(|(_, r)| r.rid.0.to_string() == n)?;
            replica(look, v, shard, r)
        }
        Some(("scrub", name)) => scrub(look, look.state.volume_named(name)?),
        _ => jobs(look).into_iter().find(|j| j.id == id),
    }
}

/// The names of jobs about a volume.
pub(super) fn names_about(look: Look, v: &VolumeRecord) -> Vec<String> {
    let scrubs = scrub(look, v).map(|j| j.id);
    let fills = v.replicas().filter_map(|(shard, r)| replica(look, v, shard, r)).map(|j| j.id);
    scrubs.into_iter().chain(fills).collect()
}

fn drains(look: Look) -> Vec<Job> {
    let s = look.state;
    let mut jobs = Vec::new();
    for n in s.nodes.values().filter(|n| n.mode == NodeMode::Draining) {
        let job =
            plain(JobKind::Node, n.name.clone(), n.drain_paused, "is being drained", "an operator drains the node");
        jobs.extend(drain(look, job, |r| r.node == n.id, s.volumes_at(n.id)));
    }
    for d in s.disks.values() {
        let failing = matches!(d.state, DiskState::Failing(_));
        if !d.draining && !failing {
            continue;
        }
        let (message, because) = match failing {
            true => ("is failing and being emptied", "the disk fails"),
            false => ("is being drained", "an operator drains the disk"),
        };
        let job = plain(JobKind::Disk, d.id.to_string(), d.drain_paused, message, because);
        jobs.extend(drain(look, job, |r| r.disk == d.id, s.volumes_at(d.node)));
    }
    jobs
}

/// The progress of a drain. A drain of what holds nothing any more is done and no job: otherwise a script that waits
/// for the end of all jobs would wait for ever.
fn drain<'a>(
    look: Look,
    job: Job,
    there: impl Fn(&ReplicaRecord) -> bool,
    volumes: impl Iterator<Item = &'a std::sync::Arc<VolumeRecord>>,
) -> Option<Job> {
    let (mut left, mut disks, mut shards) = (0u64, BTreeSet::<DiskId>::new(), BTreeSet::<ShardId>::new());
    let (mut bytes, mut told) = (0u64, true);
    for (shard, r) in volumes.flat_map(|v| v.replicas()).filter(|(_, r)| there(r)) {
        left += 1;
        disks.insert(r.disk);
        shards.insert(shard);
        match look.soft.and_then(|s| s.replica_bytes(r.node, r.rid)) {
            Some(b) => bytes += b,
            None => told = false,
        }
    }
    if left == 0 {
        return None;
    }
    let of_these = |x: &&SyncTold| x.rid.is_some() && shards.contains(&ShardId { vol: x.vol, index: x.shard });
    let rate: u64 = look.soft.map_or(0, |s| s.syncs().filter(of_these).map(|x| x.bytes_per_second).sum());
    Some(Job {
        replicas_left: Some(left),
        total_bytes: told.then_some(bytes),
        bytes_per_second: Some(rate),
        eta_seconds: bytes.checked_div(rate).filter(|_| told).map(|s| s + 1),
        message: format!("{}: {left} replicas left", job.message),
        ..job
    })
}

fn scrub(look: Look, v: &VolumeRecord) -> Option<Job> {
    let record = v.scrub.as_ref()?;
    let here = look
        .soft
        .map_or_else(Vec::new, |s| s.syncs().filter(|x| x.vol == v.id && x.rid.is_none()).cloned().collect::<Vec<_>>());
    let sum = |f: fn(&SyncTold) -> u64| here.iter().map(f).sum::<u64>();
    let job = plain(JobKind::Scrub, v.name.clone(), record.paused, "is being scrubbed", "its policy, or an operator");
    let waits = here.is_empty() && !record.paused;
    Some(Job {
        node: v.coordinator.as_ref().map(|a| look.state.node_name(a.node)),
        state: if waits { JobState::Waiting } else { job.state },
        why_waiting: waits.then(|| "no node looks after the volume yet".into()),
        done_bytes: Some(sum(|x| x.chunks_done).saturating_mul(CHUNK_BYTES)),
        total_bytes: Some(sum(|x| x.chunks).saturating_mul(CHUNK_BYTES)).filter(|_| !here.is_empty()),
        copied_bytes: Some(sum(|x| x.copied_bytes)),
        ..job
    })
}

fn replica(look: Look, v: &VolumeRecord, shard: ShardId, r: &ReplicaRecord) -> Option<Job> {
    let node = look.state.nodes.get(&r.node);
    let disk = look.state.disks.get(&r.disk);
    let failing = disk.is_some_and(|d| matches!(d.state, DiskState::Failing(_)));
    let draining = node.is_some_and(|n| n.mode == NodeMode::Draining) || disk.is_some_and(|d| d.draining);
    let moving = r.moving || r.leaving || draining || failing;
    let sync = look
        .soft
        .and_then(|s| s.syncs().find(|x| x.rid == Some(r.rid) && x.vol == shard.vol && x.shard == shard.index));
    let away = evidence(look.soft, r.node) != Evidence::Fresh;
    let (state, message, waits) = match (r.in_sync(), moving, sync) {
        (true, false, _) => return None,
        _ if r.paused => (JobState::Held, "is held", None),
        (true, true, _) => {
            (JobState::Waiting, "leaves when the others are in sync", Some("its successor is not in sync yet"))
        }
        (false, true, _) => (JobState::Running, "is removed", None),
        (false, false, Some(_)) => (JobState::Running, "is brought in", None),
        (false, false, None) if away => (JobState::Waiting, "waits for its node", Some("its node does not answer")),
        (false, false, None) => (
            JobState::Waiting,
            "waits its turn",
            Some("as many copies are under way as may be at once, or no node looks after the volume yet"),
        ),
    };
    let left = sync.map_or(0, |x| x.chunks.saturating_sub(x.chunks_done).saturating_mul(CHUNK_BYTES));
    let because = match () {
        () if failing => "its disk fails",
        () if draining => "an operator drains its disk or node",
        () if moving => "it is to live elsewhere",
        () => "the policy asks for as many copies",
    };
    let job = plain(JobKind::Replica, r.rid.to_string(), false, message, because);
    Some(Job {
        subject: if shard.index > 0 { format!("{} shard {}", v.name, shard.index) } else { v.name.clone() },
        node: Some(look.state.node_name(r.node)),
        state,
        why_waiting: waits.map(String::from),
        done_bytes: sync.map(|x| x.chunks_done.saturating_mul(CHUNK_BYTES)),
        total_bytes: sync.map(|x| x.chunks.saturating_mul(CHUNK_BYTES)),
        copied_bytes: sync.map(|x| x.copied_bytes),
        bytes_per_second: sync.map(|x| x.bytes_per_second),
        // An upper bound: chunks are compared first, and only what differs is copied.
        eta_seconds: sync.and_then(|x| left.checked_div(x.bytes_per_second)).map(|s| s + 1),
        ..job
    })
}

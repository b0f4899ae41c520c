//! Which jobs are there, by the record alone, and which of them a change of other resources touches.

use super::dirty::Dirty;
use super::key::{JobKey, Key};
use hf_meta_core::ClusterState;
use hf_meta_core::record::{DiskRecord, DiskState, NodeMode, NodeRecord, ReplicaRecord, VolumeRecord};
use hf_policy::{DiskId, NodeId, VolumeId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Is the node to be emptied?
fn drains(n: &NodeRecord) -> bool {
    n.mode == NodeMode::Draining
}

/// Is the disk to be emptied?
fn empties(d: &DiskRecord) -> bool {
    d.draining || matches!(d.state, DiskState::Failing(_))
}

/// Nodes and disks that are to be emptied, few as a rule.
#[derive(PartialEq)]
struct Emptied {
    nodes: BTreeSet<NodeId>,
    disks: BTreeSet<DiskId>,
}

impl Emptied {
    fn of(state: &ClusterState) -> Emptied {
        Emptied {
            nodes: state.nodes.values().filter(|n| drains(n)).map(|n| n.id).collect(),
            disks: state.disks.values().filter(|d| empties(d)).map(|d| d.id).collect(),
        }
    }

    /// Is a job about this replica? One is unless it is in sync and may stay where it is.
    fn concerns(&self, r: &ReplicaRecord) -> bool {
        !r.in_sync() || r.moving || r.leaving || self.nodes.contains(&r.node) || self.disks.contains(&r.disk)
    }

    /// The jobs about a volume and its replicas, with their names.
    fn jobs(&self, v: &VolumeRecord) -> Vec<(JobKey, String)> {
        let scrub = v.scrub.is_some().then(|| (JobKey::Scrub(v.id), format!("scrub/{}", v.name)));
        let replicas = v.replicas().filter(|(_, r)| self.concerns(r)).map(|(_, r)| r.rid);
        scrub.into_iter().chain(replicas.map(|rid| (JobKey::Replica(rid), format!("replica/{rid}")))).collect()
    }
}

/// Does the node still hold a replica?
fn holds(state: &ClusterState, node: NodeId) -> bool {
    state.disks.values().any(|d| d.node == node && state.load(d.id).placed > 0)
}

/// The name of a job; none if it is not there.
pub(super) fn name(state: &ClusterState, job: JobKey) -> Option<String> {
    match job {
        JobKey::Node(id) => {
            let n = state.nodes.get(&id).filter(|n| drains(n) && holds(state, id))?;
            Some(format!("node/{}", n.name))
        }
        JobKey::Disk(id) => {
            let there = state.disks.get(&id).is_some_and(|d| empties(d)) && state.load(id).placed > 0;
            there.then(|| format!("disk/{id}"))
        }
        JobKey::Replica(rid) => {
            let v = state.volume_of_replica(rid)?;
            let (_, r) = v.replicas().find(|(_, r)| r.rid == rid)?;
            Emptied::of(state).concerns(r).then(|| format!("replica/{rid}"))
        }
        JobKey::Scrub(id) => {
            let v = state.volumes.get(&id).filter(|v| v.scrub.is_some())?;
            Some(format!("scrub/{}", v.name))
        }
        JobKey::Rebalance => state.rebalancing.then(|| "rebalance/cluster".into()),
    }
}

/// Notes whether a job that is not a volume's is there now, or gone.
fn of_other(old: &ClusterState, new: &ClusterState, job: JobKey, dirty: &mut Dirty) {
    match (name(old, job), name(new, job)) {
        (before, Some(now)) => {
            dirty.gone.extend(before.filter(|b| *b != now).map(|b| (Key::Job(job), b)));
            dirty.jobs.insert(job);
        }
        (Some(before), None) => dirty.gone.push((Key::Job(job), before)),
        (None, None) => {}
    }
}

/// Notes the jobs that the volumes, nodes and disks noted so far touch. `gone`: volumes that are not there any more.
pub(super) fn touched(old: &ClusterState, new: &ClusterState, gone: &[VolumeId], dirty: &mut Dirty) {
    let volumes: Vec<VolumeId> = dirty.sorted().iter().chain(gone).copied().collect();
    if !volumes.is_empty() {
        let (before, after) = (Emptied::of(old), Emptied::of(new));
        let same = before == after;
        for id in &volumes {
            let (was, is) = (old.volumes.get(id), new.volumes.get(id));
            let now = is.map_or_else(Vec::new, |v| after.jobs(v));
            // Of most volumes only what is heard of their nodes has changed.
            if !(same && was.zip(is).is_some_and(|(a, b)| Arc::ptr_eq(a, b))) {
                let gone = was.map_or_else(Vec::new, |v| before.jobs(v)).into_iter().filter(|job| !now.contains(job));
                dirty.gone.extend(gone.map(|(job, name)| (Key::Job(job), name)));
            }
            dirty.jobs.extend(now.into_iter().map(|(job, _)| job));
        }
    }
    let nodes = dirty.nodes.iter().copied().map(JobKey::Node);
    let others: Vec<JobKey> = nodes.chain(dirty.disks.iter().copied().map(JobKey::Disk)).collect();
    others.into_iter().for_each(|job| of_other(old, new, job, dirty));
    let moves = !volumes.is_empty() || old.rebalance_paused != new.rebalance_paused;
    if old.rebalancing != new.rebalancing || new.rebalancing && moves {
        of_other(old, new, JobKey::Rebalance, dirty);
    }
}

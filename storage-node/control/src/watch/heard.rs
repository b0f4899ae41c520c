//! What differs in what the leader hears. It costs the number of nodes, and what changed.

use super::dirty::Dirty;
use crate::view::{Evidence, evidence};
use hf_meta_core::ClusterState;
use hf_meta_core::soft::{DiskTold, Group, NodeTold, Soft, VolumeTold};
use hf_policy::{DiskId, NodeId, Rid, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A node as it was at the last tick.
struct Seen {
    life: Evidence,
    told: Option<Arc<NodeTold>>,
}

/// What the leader heard at the last tick.
#[derive(Default)]
pub(super) struct Heard {
    nodes: BTreeMap<NodeId, Seen>,
    group: Option<Group>,
}

impl Heard {
    /// Keeps what is heard now; there was nothing before.
    pub fn begin(&mut self, state: &ClusterState, soft: Option<&Soft>) {
        for id in state.nodes.keys() {
            let told = soft.and_then(|s| s.nodes.get(id)).map(|n| n.told.clone());
            self.nodes.insert(*id, Seen { life: evidence(soft, *id), told });
        }
        self.group = soft.map(|s| s.group.clone());
    }

    /// Notes what is different now, and keeps what is heard now.
    pub fn compare(&mut self, state: &ClusterState, soft: Option<&Soft>, dirty: &mut Dirty) {
        self.nodes.retain(|id, _| state.nodes.contains_key(id));
        for id in state.nodes.keys() {
            let life = evidence(soft, *id);
            let told = soft.and_then(|s| s.nodes.get(id)).map(|n| &n.told);
            match self.nodes.get(id) {
                Some(was) if was.life != life => flipped(state, *id, dirty),
                None if life != Evidence::Unknown => flipped(state, *id, dirty),
                Some(Seen { told: Some(was), .. }) => {
                    told.into_iter().for_each(|now| tells(state, *id, was, now, dirty))
                }
                // What it tells for the first time comes with its first sign of life.
                Some(Seen { told: None, .. }) | None => {}
            }
            self.nodes.insert(*id, Seen { life, told: told.cloned() });
        }
        let group = soft.map(|s| &s.group);
        if !same_group(self.group.as_ref(), group) {
            let members = |g: Option<&Group>| -> BTreeSet<NodeId> {
                g.into_iter().flat_map(|g| g.leader.iter().chain(&g.voters).chain(&g.learners).copied()).collect()
            };
            let there = |n: &NodeId| state.nodes.contains_key(n);
            dirty.nodes.extend(members(self.group.as_ref()).into_iter().chain(members(group)).filter(there));
            dirty.cluster = true;
            self.group = group.cloned();
        }
    }
}

fn same_group(a: Option<&Group>, b: Option<&Group>) -> bool {
    let parts = |g: &Group| (g.leader, g.term, g.changing);
    match (a, b) {
        (Some(a), Some(b)) => parts(a) == parts(b) && a.voters == b.voters && a.learners == b.learners,
        (None, None) => true,
        _ => false,
    }
}

/// A node answers, or does so no more: nothing that is on it looks as before.
fn flipped(state: &ClusterState, id: NodeId, dirty: &mut Dirty) {
    dirty.nodes.insert(id);
    dirty.disks.extend(state.disks.values().filter(|d| d.node == id).map(|d| d.id));
    dirty.volumes_at(state, id);
}

fn tells(state: &ClusterState, id: NodeId, was: &Arc<NodeTold>, now: &Arc<NodeTold>, dirty: &mut Dirty) {
    if Arc::ptr_eq(was, now) {
        return; // Lawful: it has told nothing since.
    }
    let node = |t: &NodeTold| (t.commands, t.data_dir_full, t.clock_ahead_ms / 1000);
    if node(was) != node(now) {
        dirty.nodes.insert(id);
    }
    let disks: BTreeSet<DiskId> = was.disks.keys().chain(now.disks.keys()).copied().collect();
    for disk in disks {
        let Some(record) = state.disks.get(&disk) else { continue };
        let (before, after) = (was.disks.get(&disk), now.disks.get(&disk));
        let service = |t: &DiskTold| (t.in_service, t.fault.clone());
        let serves = before.map(service) == after.map(service);
        // A hundredth of the disk is what people see of its fill.
        let fill = |t: &DiskTold| (u128::from(t.used) * 100 / u128::from(record.capacity.max(1)), t.entries);
        if !serves || before.map(fill) != after.map(fill) {
            dirty.disks.insert(disk);
        }
        if !serves {
            dirty.volumes_on(state, id, disk);
        }
    }
    volumes(&was.volumes, &now.volumes, dirty);
    if was.refused != now.refused {
        let (before, after): (BTreeSet<Rid>, BTreeSet<Rid>) =
            (was.refused.iter().copied().collect(), now.refused.iter().copied().collect());
        let changed = before.symmetric_difference(&after);
        dirty.volumes.extend(changed.filter_map(|rid| state.volume_of_replica(*rid)).map(|v| v.id));
    }
}

/// Volumes that are served otherwise than before. One pass over both maps.
fn volumes(was: &Arc<BTreeMap<VolumeId, VolumeTold>>, now: &Arc<BTreeMap<VolumeId, VolumeTold>>, dirty: &mut Dirty) {
    if Arc::ptr_eq(was, now) {
        return; // Lawful: a node tells of its volumes only when they change.
    }
    let (mut a, mut b) = (was.iter().peekable(), now.iter().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some((x, _)), Some((y, _))) => **x.min(y),
            (Some((x, _)), None) => **x,
            (None, Some((y, _))) => **y,
            (None, None) => return,
        };
        let before = a.next_if(|(k, _)| **k == next).map(|(_, v)| v);
        let after = b.next_if(|(k, _)| **k == next).map(|(_, v)| v);
        if before != after {
            dirty.volumes.push(next);
        }
    }
}

//! What differs between two records of the cluster. It costs what changed.

use super::dirty::Dirty;
use super::key::Key;
use hf_meta_core::ClusterState;
use hf_meta_core::record::{DiskRecord, NodeRecord, Removed, VolumeRecord};
use hf_policy::{DiskId, NodeId, VolumeId};
use std::collections::BTreeSet;

/// Notes everything that the newer record has and the older one has not. Returns the volumes that are gone.
pub(super) fn compare(old: &ClusterState, new: &ClusterState, dirty: &mut Dirty) -> Vec<VolumeId> {
    let from = old.revision;
    let gone = removals(old, new, dirty);
    for v in new.volumes.changed_since(from) {
        volume(old.volumes.get(&v.id).map(|v| &**v), &v, dirty);
    }
    for n in new.nodes.changed_since(from) {
        node(old, new, &n, dirty);
    }
    for d in new.disks.changed_since(from) {
        disk(old, new, &d, dirty);
    }
    for t in new.tombstones.changed_since(from) {
        dirty.disks.insert(t.disk);
    }
    let events = new.events.iter().rev().take_while(|e| e.rev > from).map(|e| e.rev);
    dirty.events.extend(events);
    dirty.events.sort_unstable();
    dirty.events.dedup();
    dirty.health |= old.mutes_rev != new.mutes_rev;
    dirty.cluster |= (old.name.as_str(), old.version, old.voters) != (new.name.as_str(), new.version, new.voters)
        || old.rebuild_paused != new.rebuild_paused;
    gone
}

/// What was removed since the older record.
fn removed(old: &ClusterState, new: &ClusterState) -> Vec<Removed> {
    if old.revision >= new.removals_floor {
        return new.removals.iter().rev().take_while(|(rev, _)| *rev > old.revision).map(|(_, r)| *r).collect();
    }
    // So much was removed that the record does not remember all of it: both records are compared as a whole.
    let volumes = old.volumes.keys().filter(|k| !new.volumes.contains_key(k)).map(|k| Removed::Volume(*k));
    let nodes = old.nodes.keys().filter(|k| !new.nodes.contains_key(k)).map(|k| Removed::Node(*k));
    let disks = old.disks.keys().filter(|k| !new.disks.contains_key(k)).map(|k| Removed::Disk(*k));
    let tombstones = old.tombstones.keys().filter(|k| !new.tombstones.contains_key(k)).map(|k| Removed::Tombstone(*k));
    volumes.chain(nodes).chain(disks).chain(tombstones).collect()
}

fn removals(old: &ClusterState, new: &ClusterState, dirty: &mut Dirty) -> Vec<VolumeId> {
    let mut gone = Vec::new();
    for what in removed(old, new) {
        match what {
            // What came and went between the two records was never told of. Numbers are not used again.
            Removed::Volume(id) => {
                let Some(v) = old.volumes.get(&id) else { continue };
                dirty.gone.push((Key::Volume(id), v.name.clone()));
                placed(v, dirty);
                gone.push(id);
            }
            Removed::Node(id) => {
                let Some(n) = old.nodes.get(&id) else { continue };
                dirty.gone.push((Key::Node(id), n.name.clone()));
                dirty.cluster = true;
            }
            Removed::Disk(id) => {
                let Some(d) = old.disks.get(&id) else { continue };
                dirty.gone.push((Key::Disk(id), id.to_string()));
                dirty.nodes.insert(d.node);
            }
            // It took a place in its disk's table of replicas.
            Removed::Tombstone(rid) => dirty.disks.extend(old.tombstones.get(&rid).map(|t| t.disk)),
        }
    }
    gone
}

/// Disks and nodes show how much is placed on them and attached to them.
fn placed(v: &VolumeRecord, dirty: &mut Dirty) {
    for (_, r) in v.replicas() {
        dirty.disks.insert(r.disk);
        dirty.nodes.insert(r.node);
    }
    dirty.nodes.extend(v.coordinator.iter().flat_map(|a| [Some(a.node), a.home]).flatten());
}

fn volume(old: Option<&VolumeRecord>, new: &VolumeRecord, dirty: &mut Dirty) {
    dirty.volumes.push(new.id);
    let Some(old) = old else { return placed(new, dirty) };
    if old.name != new.name {
        dirty.gone.push((Key::Volume(new.id), old.name.clone()));
    }
    let place = |v: &VolumeRecord| -> BTreeSet<(u32, DiskId)> {
        v.replicas().map(|(shard, r)| (shard.index, r.disk)).collect()
    };
    let at = |v: &VolumeRecord| -> Option<(NodeId, Option<NodeId>, bool)> {
        v.coordinator.as_ref().map(|a| (a.node, a.home, a.maintenance))
    };
    if old.size != new.size || at(old) != at(new) || place(old) != place(new) {
        placed(old, dirty);
        placed(new, dirty);
    }
}

fn node(old: &ClusterState, new: &ClusterState, n: &NodeRecord, dirty: &mut Dirty) {
    dirty.nodes.insert(n.id);
    let Some(before) = old.nodes.get(&n.id) else { return };
    if before.name != n.name {
        dirty.gone.push((Key::Node(n.id), before.name.clone()));
    }
    // These are all that volumes show of a node, so a mere restart touches none of them.
    let shown = |n: &NodeRecord| (n.name.clone(), n.addr.nbd.clone(), n.mode, n.drain_paused);
    if shown(before) != shown(n) {
        dirty.volumes_at(new, n.id);
        dirty.disks.extend(new.disks.values().filter(|d| d.node == n.id).map(|d| d.id));
    }
}

fn disk(old: &ClusterState, new: &ClusterState, d: &DiskRecord, dirty: &mut Dirty) {
    dirty.disks.insert(d.id);
    let Some(before) = old.disks.get(&d.id) else {
        dirty.nodes.insert(d.node);
        return;
    };
    let shown = |d: &DiskRecord| (d.state.clone(), d.fault, d.draining, d.drain_paused);
    if shown(before) != shown(d) {
        dirty.volumes_on(new, d.node, d.id);
    }
}

//! How many replicas are filled or caught up at once, in the whole cluster and on one disk: the return of a
//! node, or the loss of a third of the nodes, must not load all disks and links at the same time.
//!
//! The leader decides it when a coordinator wants to begin a sync (`SyncStart`), because only the leader sees
//! all syncs. A coordinator that is refused asks again a little later. The leader counts what it was told, so
//! its count may be wrong for a moment; only speed depends on it.

use crate::command::Command;
use crate::outcome::Refusal;
use crate::record::{ClusterState, ReplicaState, ShardRecord};
use hf_policy::{DiskId, NodeId, Rid, VolumeId};
use std::collections::BTreeSet;

/// Syncs at once for each node that is up.
pub const SYNCS_PER_NODE: usize = 2;
/// Syncs at once that one disk receives.
pub const SYNCS_PER_DISK: usize = 2;
/// Syncs that clients wait for, per node or disk, in addition to the others: they need not wait for others to
/// end, but all of them at once would only slow each other down.
pub const URGENT: usize = 2;

/// A sync that is under way, as far as the leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Going {
    /// The volume of the shard.
    pub vol: VolumeId,
    /// Number of the shard in its volume.
    pub shard: u32,
    /// The replica that is being filled.
    pub rid: Rid,
}

impl Going {
    /// The sync that a command would begin, if it is a `SyncStart`.
    pub fn of(cmd: &Command) -> Option<Going> {
        match cmd {
            Command::SyncStart { vol, shard, rid, .. } => Some(Going { vol: *vol, shard: *shard, rid: *rid }),
            _ => None,
        }
    }

    /// The disk that receives; none if the replica is in sync already, or no node that holds its data is up:
    /// a sync that cannot run takes no place.
    fn receiver(&self, state: &ClusterState, up: &BTreeSet<NodeId>) -> Option<DiskId> {
        let s = state.volumes.get(&self.vol)?.shards.get(self.shard as usize)?;
        let source = s.replicas.values().any(|r| state.is_available(r) && up.contains(&r.node));
        s.replicas.get(&self.rid).filter(|r| source && !r.in_sync()).map(|r| r.disk)
    }

    /// Do clients wait for it? They do while fewer replicas are in sync, on disks that work, than a write needs.
    fn is_urgent(&self, state: &ClusterState) -> bool {
        state.volumes.get(&self.vol).is_some_and(|v| {
            let there = |s: &ShardRecord| s.replicas.values().filter(|r| state.is_available(r)).count();
            let there = v.shards.get(self.shard as usize).map_or(0, there);
            v.policy().is_ok_and(|p| there < p.min_replicas as usize)
        })
    }

    /// Does the record say that it has begun?
    pub fn is_recorded(&self, state: &ClusterState) -> bool {
        let shard = state.volumes.get(&self.vol).and_then(|v| v.shards.get(self.shard as usize));
        let replica = shard.and_then(|s| s.replicas.get(&self.rid));
        replica.is_some_and(|r| matches!(r.state, ReplicaState::Syncing { .. }))
    }
}

/// May `want` begin beside the syncs that are under way, with these nodes up?
pub fn room(state: &ClusterState, going: &[Going], up: &BTreeSet<NodeId>, want: Going) -> Result<(), Refusal> {
    // Lawful: it takes no place, because nobody can send now or nothing is left to receive.
    let Some(disk) = want.receiver(state, up) else { return Ok(()) };
    let urgent = want.is_urgent(state);
    // A sync that clients wait for is counted against others of that kind only.
    let before = going.iter().filter(|g| **g != want && (!urgent || g.is_urgent(state)));
    let others: Vec<DiskId> = before.filter_map(|g| g.receiver(state, up)).collect();
    let per_disk = if urgent { URGENT } else { SYNCS_PER_DISK };
    if others.iter().filter(|d| **d == disk).count() >= per_disk {
        return Err(Refusal::Busy(format!("disk #{disk} receives {per_disk} replicas already")));
    }
    let most = if urgent { URGENT } else { SYNCS_PER_NODE } * up.len().max(1);
    if others.len() >= most {
        return Err(Refusal::Busy(format!(
            "{most} replicas are being filled already, as many as {} nodes may",
            up.len()
        )));
    }
    Ok(())
}

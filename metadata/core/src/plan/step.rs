//! What a plan consists of, and whether a replica may stay where it is.

use super::inventory::Liveness;
use crate::command::Command;
use crate::record::*;
use hf_policy::attributes::Media;
use hf_policy::{Epoch, NodeId, Policy, VolumeId};

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The leader proposes this command.
    Do(Command),
    /// The volume is not attached, or its node stays away, and its replicas need a coordinator: this node
    /// should be it for a while.
    Maintain {
        /// The volume that nobody has attached.
        vol: VolumeId,
        /// The node that is to coordinate it for a while.
        node: NodeId,
        /// The epoch of the record on which this was decided.
        epoch: Epoch,
    },
    /// The maintenance is over.
    Release {
        /// The volume whose maintenance is over.
        vol: VolumeId,
        /// The node that coordinates it now and is to detach it.
        node: NodeId,
    },
}

/// What decides between disks that are equally good for a new replica of a shard: it is equal as long as the volume's
/// record is, and spreads volumes and shards over the disks.
pub(crate) fn seed(v: &VolumeRecord, shard: u32) -> u64 {
    [v.id.0, u64::from(shard), v.epoch.0].into_iter().fold(0, |seed: u64, n| {
        let mixed = (seed ^ n).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    })
}

/// May a replica stay where it is?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may stay, also if its node is away for a short time.
    Keep,
    /// It should live elsewhere; until then it counts.
    Move,
    /// Its disk or node is gone for good, or has been away for too long.
    Gone,
}

/// Whether a replica may stay, by its disk, its node and the policy.
pub fn standing(state: &ClusterState, live: &Liveness, policy: &Policy, r: &ReplicaRecord) -> Standing {
    // Lawful: a record that was rescued from disks may name a node that nobody knows any more.
    let (Some(disk), Some(node)) = (state.disks.get(&r.disk), state.nodes.get(&r.node)) else { return Standing::Gone };
    if !state.disk_works(r.disk) {
        return Standing::Gone;
    }
    // Its node cannot make it (its disk has no entry left, or is not in service): it is to be made elsewhere.
    if r.store_uuid.is_none() && live.refused.contains(&r.rid) {
        return Standing::Gone;
    }
    let up = live.up.contains(&r.node);
    let away = live.away.get(&r.node).copied().unwrap_or(0);
    if !up && node.mode != NodeMode::Maintenance && away >= policy.rebuild_after / 1000 {
        return Standing::Gone;
    }
    let allowed = policy.nodes.is_empty() || policy.nodes.contains(&node.name);
    let fits = policy.media == Media::Any || policy.media == disk.media;
    let failing = matches!(disk.state, DiskState::Failing(_));
    // While the drain of its node or disk is held, it may stay.
    let draining = disk.draining && !disk.drain_paused || node.mode == NodeMode::Draining && !node.drain_paused;
    if r.leaving || (r.moving && !r.paused) || failing || draining || !allowed || !fits {
        return Standing::Move;
    }
    Standing::Keep
}

//! What two states were found to differ in, gathered before it becomes changes.

use super::key::{JobKey, Key};
use hf_meta_core::ClusterState;
use hf_meta_core::record::VolumeRecord;
use hf_policy::{DiskId, NodeId, VolumeId};
use std::collections::BTreeSet;

/// What may look different.
#[derive(Default)]
pub(super) struct Dirty {
    /// Volumes; [`Dirty::sorted`] brings them in order, each once.
    pub volumes: Vec<VolumeId>,
    /// Nodes, each once.
    pub nodes: BTreeSet<NodeId>,
    /// Disks, each once.
    pub disks: BTreeSet<DiskId>,
    /// Jobs that are there.
    pub jobs: BTreeSet<JobKey>,
    /// Names that stand for nothing any more.
    pub gone: Vec<(Key, String)>,
    /// Revisions that brought events.
    pub events: Vec<u64>,
    /// The health of the cluster.
    pub health: bool,
    /// The cluster as a whole.
    pub cluster: bool,
}

impl Dirty {
    /// Every volume that concerns a node.
    pub fn volumes_at(&mut self, state: &ClusterState, node: NodeId) {
        self.volumes.extend(state.volumes_at(node).map(|v| v.id));
    }

    /// Every volume with a replica on a disk.
    pub fn volumes_on(&mut self, state: &ClusterState, node: NodeId, disk: DiskId) {
        let there = |v: &VolumeRecord| v.replicas().any(|(_, r)| r.disk == disk);
        self.volumes.extend(state.volumes_at(node).filter(|v| there(v)).map(|v| v.id));
    }

    /// The volumes, in the order of their numbers and each once.
    pub fn sorted(&mut self) -> &[VolumeId] {
        self.volumes.sort_unstable();
        self.volumes.dedup();
        &self.volumes
    }

    /// Does the cluster as a whole show any of this?
    pub fn touches_cluster(&self) -> bool {
        self.cluster
            || self.health
            || !(self.volumes.is_empty() && self.nodes.is_empty() && self.disks.is_empty())
            || self.gone.iter().any(|(k, _)| !matches!(k, Key::Job(_)))
    }
}

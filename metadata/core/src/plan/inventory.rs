//! What the leader knows of the cluster when it plans: the record, and which nodes answer.

use crate::record::*;
use hf_policy::placement::DiskView;
use hf_policy::{DiskId, NodeId, Rid};
use std::collections::{BTreeMap, BTreeSet};

/// The leader's soft state that planning looks at: which nodes answer, and how full disks are. It decides *when* and
/// *where*, never what is true.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    /// Nodes that answer.
    pub up: BTreeSet<NodeId>,
    /// Bytes in use per disk, as last reported.
    pub used: BTreeMap<DiskId, u64>,
    /// Replicas that each disk's table can hold at most, as last reported.
    pub entries: BTreeMap<DiskId, u64>,
    /// Nodes that do not answer, and for how many milliseconds.
    pub away: BTreeMap<NodeId, u64>,
    /// Replicas that their nodes could not make, as they told last.
    pub refused: BTreeSet<Rid>,
    /// Disks that refused a replica lately: no replica is moved there for now, or it would be refused again and again.
    pub refusing: BTreeSet<DiskId>,
    /// The leader's wall clock in Unix milliseconds, for periodic work; 0: not known, nothing is due.
    pub wall_ms: u64,
}

/// The disks as placement sees them, in the order of their numbers. It looks at every disk, but at no volume.
pub fn inventory(state: &ClusterState, live: &Liveness) -> Vec<DiskView> {
    state
        .disks
        .values()
        .filter_map(|d| {
            let node = state.nodes.get(&d.node)?;
            let load = state.load(d.id);
            Some(DiskView {
                disk: d.id,
                node: d.node,
                node_name: node.name.clone(),
                labels: node.labels.clone(),
                media: d.media,
                capacity: d.capacity,
                used: live.used.get(&d.id).copied().unwrap_or(0),
                placed: load.placed,
                replicas: load.replicas,
                entries: live.entries.get(&d.id).copied(),
                node_up: live.up.contains(&d.node),
                disk_ok: d.state == DiskState::Ok && !d.draining && node.mode == NodeMode::Active,
            })
        })
        .collect()
}

/// Finds a disk in an inventory, which is in the order of their numbers.
pub(crate) fn find(inventory: &[DiskView], disk: DiskId) -> Option<&DiskView> {
    inventory.binary_search_by_key(&disk, |d| d.disk).ok().and_then(|i| inventory.get(i))
}

//! The cluster as a whole: its leader, its capacity, and how much of it is in which state.

use super::{Look, disk_state, evidence, node, volume_state};
use crate::model::{Capacity, Cluster, Counts, Severity};
use hf_meta_core::command::COMMAND_VERSION;
use hf_policy::NodeId;
use std::collections::BTreeMap;

/// The cluster as the API shows it. Volumes are counted by `states`, which the caller keeps up to date: to look at all
/// of them costs too much for every call.
pub fn cluster(look: Look, states: Option<&Counts>) -> Cluster {
    let s = look.state;
    let mut nodes = Counts::new();
    let mut disks = Counts::new();
    for n in s.nodes.values() {
        *nodes.entry(node::word(evidence(look.soft, n.id)).into()).or_default() += 1;
    }
    for d in s.disks.values() {
        *disks.entry(disk_state(look, d).word.into()).or_default() += 1;
    }
    let health = look.alerts.health(s.revision);
    let group = look.soft.map(|s| s.group.clone()).unwrap_or_default();
    Cluster {
        id: s.cluster.to_string(),
        name: s.name.clone(),
        revision: s.revision,
        version: s.version,
        newest_version: COMMAND_VERSION,
        leader: group.leader.map(|l| s.node_name(l)),
        voters: group.voters.iter().map(|v| s.node_name(*v)).collect(),
        voters_wanted: s.voters as u64,
        voters_changing: group.changing,
        answered_by: s.node_name(look.here),
        capacity: capacity(look),
        nodes,
        disks,
        volumes: states.cloned().unwrap_or_else(|| counted(look)),
        rebuild_paused: s.rebuild_paused,
        worst: if look.soft.is_none() { Severity::Error } else { health.worst },
        health: if look.soft.is_none() { "unknown".into() } else { health.state },
    }
}

/// Volumes by state; it looks at all of them.
pub fn counted(look: Look) -> Counts {
    let mut counts = Counts::new();
    for v in look.state.volumes.values() {
        *counts.entry(volume_state(look, v).word().into()).or_default() += 1;
    }
    counts
}

/// Capacity of the disks that serve, and what is spare if the node with the most data is lost.
pub(crate) fn capacity(look: Look) -> Capacity {
    let (mut raw, mut used, mut provisioned) = (0u64, 0u64, 0u64);
    let mut by_node: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
    for d in look.state.disks.values() {
        provisioned = provisioned.saturating_add(look.state.load(d.id).placed);
        if !disk_state(look, d).serves() {
            continue;
        }
        let told = look.soft.and_then(|s| s.disk(d.node, d.id)).map_or(0, |t| t.used);
        raw = raw.saturating_add(d.capacity);
        used = used.saturating_add(told);
        let node = by_node.entry(d.node).or_default();
        *node = (node.0.saturating_add(told), node.1.saturating_add(d.capacity));
    }
    let largest = by_node.iter().max_by_key(|(_, (used, _))| *used).map(|(n, (used, raw))| (*n, *used, *raw));
    let (lost_used, lost_raw) = largest.map_or((0, 0), |(_, used, raw)| (used, raw));
    let free_elsewhere = (raw - lost_raw).saturating_sub(used - lost_used);
    Capacity {
        raw_bytes: raw,
        used_bytes: used,
        provisioned_bytes: provisioned,
        over_commit: if raw == 0 { 0.0 } else { (provisioned as f64 / raw as f64 * 1000.0).round() / 1000.0 },
        spare_bytes: free_elsewhere as i64 - lost_used as i64,
        largest_node: largest.map(|(n, ..)| look.state.node_name(n)),
        largest_node_used_bytes: lost_used,
    }
}

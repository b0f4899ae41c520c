//! Which of the volumes that are attached to this node are served, and what the others wait for, in words.
//!
//! It decides nothing. What it says of a replica's disk is what the record says.

use crate::member::Member;
use hf_meta_core::record::{ClusterState, DiskState, VolumeRecord};
use hf_meta_core::soft::VolumeTold;
use hf_policy::{Rid, VolumeId};
use hf_reactor::{ReactorStatus, VolumeStatus};
use hf_repl_core::coordinator::Phase;
use std::collections::BTreeMap;

/// Volumes that the record attaches to this node.
pub(super) fn volumes(m: &Member, state: &ClusterState, all: &[ReactorStatus]) -> BTreeMap<VolumeId, VolumeTold> {
    let running: BTreeMap<VolumeId, &VolumeStatus> = all.iter().flat_map(|r| &r.volumes).map(|v| (v.vol, v)).collect();
    let mut told = BTreeMap::new();
    for v in state.volumes_at(m.node) {
        let Some(a) = v.coordinator.as_ref().filter(|a| a.node == m.node) else { continue };
        let here = running.get(&v.id).filter(|r| r.session == a.session);
        let exported = m.exports.has(v.id, a.session);
        let wanted = !a.maintenance && v.policy().is_ok_and(|p| p.exports.nbd);
        let waits_for = match here {
            None => Some("it begins".to_string()),
            Some(r) => take_over(state, v, r),
        };
        let waits_for = waits_for.or_else(|| {
            let recorded = (v.activated != v.term).then(|| "the record does not say yet that it is served".to_string());
            recorded.or_else(|| (wanted && !exported).then(|| "it is not exported yet".to_string()))
        });
        let connections = here.map_or(0, |r| r.connections as u32);
        let (serving, waits_for) = (waits_for.is_none(), waits_for.unwrap_or_default());
        told.insert(v.id, VolumeTold { session: a.session, serving, waits_for, connections });
    }
    told
}

/// What the take-over of a volume waits for; none: nothing.
fn take_over(state: &ClusterState, v: &VolumeRecord, running: &VolumeStatus) -> Option<String> {
    if running.shards.len() < v.shards.len() {
        return Some(format!("{} of its {} shards begin", v.shards.len() - running.shards.len(), v.shards.len()));
    }
    running.shards.iter().enumerate().find_map(|(i, s)| match (s.phase, s.unsealed) {
        (Phase::Serving, _) => None,
        (Phase::Sealing, Some(rid)) => Some(format!("take-over of shard {i} waits for {}", replica(state, v, rid))),
        (Phase::Sealing, None) => Some(format!("take-over of shard {i} begins")),
        (Phase::Reconciling, _) => Some(format!("take-over of shard {i} makes its replicas equal")),
        (Phase::Fenced, _) => Some(format!("shard {i} was taken over elsewhere")),
    })
}

/// A replica in words, and what is known against it.
fn replica(state: &ClusterState, v: &VolumeRecord, rid: Rid) -> String {
    let Some((_, r)) = v.replicas().find(|(_, r)| r.rid == rid) else { return format!("replica {rid}") };
    let place = format!("replica {rid} on node {}", state.node_name(r.node));
    match state.disks.get(&r.disk).map(|d| (&d.state, &d.path)) {
        Some((DiskState::Failed(why), path)) => format!("{place}, whose disk {} ({path}) has failed: {why}", r.disk),
        _ => place,
    }
}

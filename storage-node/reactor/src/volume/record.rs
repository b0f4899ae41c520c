//! A shard's part of the cluster's record, as its coordinator sees it, and which of its members are near.

use crate::event::Identity;
use hf_meta_core::record::{ClusterState, ReplicaState, VolumeRecord};
use hf_policy::Rid;
use hf_repl_core::coordinator as co;

/// What the record says of a shard.
pub(super) fn record_of(v: &VolumeRecord, shard: u32) -> co::Record {
    let replicas = || v.shards.get(shard as usize).map(|s| &s.replicas).into_iter().flatten();
    let in_sync = replicas().filter(|(_, r)| r.in_sync());
    let out = replicas().filter_map(|(rid, r)| {
        let (base, sync_id) = match r.state {
            // Who is not wanted any more is not brought back.
            _ if r.leaving => return None,
            ReplicaState::InSync => return None,
            ReplicaState::Out { base } => (base, None),
            ReplicaState::Syncing { base, sync_id } => (base, Some(sync_id)),
        };
        Some((*rid, co::OutInfo { node: r.node, store_uuid: r.store_uuid, base, position: r.position, sync_id }))
    });
    co::Record {
        activated: v.served_term(shard),
        served: v.activated == v.term,
        term: v.term,
        epoch: v.epoch,
        session: v.coordinator.as_ref().map(|a| a.session),
        lineage: v.lineage,
        in_sync: in_sync
            .map(|(rid, r)| (*rid, co::MemberInfo { node: r.node, store_uuid: r.store_uuid.unwrap_or_default() }))
            .collect(),
        out: out.collect(),
        leaving: replicas().filter(|(_, r)| r.leaving).map(|(rid, _)| *rid).collect(),
        paused: replicas().filter(|(_, r)| r.fill_held()).map(|(rid, _)| *rid).collect(),
        scrub_paused: v.scrub.as_ref().is_some_and(|s| s.paused),
        scrub: v.scrub.as_ref().filter(|s| !s.done.contains_key(&shard)).map(|s| s.id),
    }
}

/// Members by nearness to a node: itself, then same rack, zone, region.
pub(super) fn nearest(state: &ClusterState, v: &VolumeRecord, shard: u32, id: &Identity) -> Vec<Rid> {
    let mine = state.nodes.get(&id.node).map(|n| n.labels.clone()).unwrap_or_default();
    let distance = |node| {
        if node == id.node {
            return 0;
        }
        let theirs = state.nodes.get(&node).map(|n| &n.labels);
        let same = |k: &str| mine.contains_key(k) && mine.get(k) == theirs.and_then(|t| t.get(k));
        ["rack", "zone", "region"].iter().position(|k| same(k)).map_or(4, |p| p + 1)
    };
    let mut list: Vec<_> = v.shards[shard as usize].replicas.values().map(|r| (distance(r.node), r.rid)).collect();
    list.sort_unstable();
    list.into_iter().map(|(_, r)| r).collect()
}

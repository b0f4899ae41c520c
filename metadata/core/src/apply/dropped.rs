//! Members that leave a shard's in-sync set: what of the record changes, and what the event says of it.

use super::absent::{no_replica, no_shard};
use crate::outcome::Refusal;
use crate::record::*;
use hf_policy::{DiskId, NodeId, Rid, Ver, broken, invariant};
use std::collections::{BTreeMap, BTreeSet};

/// Disks that the text of one event names at most.
const NAMED: usize = 5;

/// The members that a coordinator takes out, as it told.
pub(super) struct Leavers<'a> {
    pub rids: &'a [Rid],
    pub base: Ver,
    pub told: &'a BTreeMap<Rid, u64>,
    pub reasons: &'a BTreeMap<Rid, DropReason>,
    pub at_ms: u64,
}

/// A replica that has left the set.
pub(super) struct Gone {
    pub rid: Rid,
    pub node: NodeId,
    pub disk: DiskId,
    pub reason: Option<DropReason>,
}

/// Takes members out of a shard's in-sync set, which keeps at least one, and gives up joins. The caller raises
/// the record's epoch. Returns the replicas that were members.
pub(super) fn drop_of(v: &mut VolumeRecord, shard: u32, who: &Leavers<'_>) -> Result<Vec<Gone>, Refusal> {
    let next = v.epoch.next();
    let s = v.shards.get_mut(shard as usize).ok_or_else(|| no_shard(shard))?;
    if let Some(rid) = who.rids.iter().find(|r| !s.replicas.contains_key(r)) {
        return Err(no_replica(*rid));
    }
    if s.in_sync().iter().all(|r| who.rids.contains(r)) {
        return Err(Refusal::LastReplica);
    }
    let mut gone = Vec::new();
    for rid in who.rids {
        let Some(r) = s.replicas.get_mut(rid) else {
            broken!("replica {rid} was there a moment ago");
            continue;
        };
        // Only a member of the set can be dropped; a base never moves up for one that was out already (I9).
        if r.in_sync() {
            let reason = who.reasons.get(rid).copied();
            r.state = ReplicaState::Out { base: who.base };
            r.out_since = next;
            r.position = who.told.get(rid).copied().unwrap_or(0);
            r.dropped = reason.map(|reason| Dropped { reason, at_ms: who.at_ms });
            gone.push(Gone { rid: r.rid, node: r.node, disk: r.disk, reason });
        } else if let ReplicaState::Syncing { base, .. } = r.state {
            // A join is given up: an Add that is still under way is refused from here on.
            r.state = ReplicaState::Out { base };
        }
    }
    invariant!(!s.in_sync().is_empty(), "shard {shard} of volume {} lost its last replica in sync", v.id);
    Ok(gone)
}

/// What follows in a text: the reasons, if any were told.
fn because<'a>(gone: impl Iterator<Item = &'a Gone>) -> String {
    let words: BTreeSet<&str> = gone.filter_map(|g| g.reason).map(DropReason::words).collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(": {}", words.into_iter().collect::<Vec<_>>().join("; ")),
    }
}

impl ClusterState {
    /// The event's text for one member. Texts are part of the state, so those of a version never change.
    pub(super) fn text_of_drop(&self, version: u32, name: &str, g: &Gone, left: usize) -> String {
        let (rid, node) = (g.rid, self.node_name(g.node));
        if version < 3 {
            return format!("volume {name}: replica {rid} on node {node} dropped, {left} in sync");
        }
        let (disk, why) = (g.disk, because([g].into_iter()));
        format!("volume {name}: replica {rid} on disk {disk} of node {node} dropped, {left} in sync{why}")
    }

    /// The event's text for the members of one node that left together, each with the number that is left in its shard.
    pub(super) fn text_of_drops(&self, version: u32, name: &str, node: NodeId, gone: &[(Gone, usize)]) -> String {
        if let [(g, left)] = gone {
            return self.text_of_drop(version, name, g, *left);
        }
        let least = gone.iter().map(|(_, left)| *left).min().unwrap_or(0);
        let (node, n) = (self.node_name(node), gone.len());
        if version < 3 {
            return format!(
                "volume {name}: {n} replicas on node {node} dropped, at least {least} in sync in each shard"
            );
        }
        let disks: BTreeSet<DiskId> = gone.iter().map(|(g, _)| g.disk).collect();
        let more = if disks.len() > NAMED { ", …" } else { "" };
        let named: Vec<String> = disks.iter().take(NAMED).map(DiskId::to_string).collect();
        let (disks, why) = (named.join(", "), because(gone.iter().map(|(g, _)| g)));
        format!(
            "volume {name}: {n} replicas on node {node} (disks {disks}{more}) dropped, at least {least} in sync in each shard{why}"
        )
    }
}

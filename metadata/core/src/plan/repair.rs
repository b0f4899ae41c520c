//! Repair: what the leader does so that every shard has the replicas that its policy asks for, on nodes and disks that
//! may have them.
//!
//! It is decided anew from the record and from which nodes answer, once a second and not per commit: it walks
//! every volume. There is no job state but the record itself, so repair survives the leader's death. Make
//! before break: a replica leaves only when enough others are in sync. Only a coordinator takes members out
//! of the in-sync set; here they are marked as leaving.

use super::growth;
use super::inventory::{Liveness, find, inventory};
use super::step::{Standing, Step, seed, standing};
use super::upkeep::{may_take, rebalance, scrubs};
use crate::command::Command;
use crate::record::*;
use hf_policy::placement::{self, DiskView};
use hf_policy::{DiskId, NodeId, Policy};
use std::collections::{BTreeMap, BTreeSet};

/// New replicas that are filled at once, per node that is up: the loss of a third of the nodes must not load all disks.
const REBUILDS_PER_NODE: usize = 2;
/// New replicas that are filled at once on one disk.
const REBUILDS_PER_DISK: usize = 2;

/// Is the move of this replica held: its own, or the drain of its node or disk?
fn held(state: &ClusterState, r: &ReplicaRecord) -> bool {
    let node = state.nodes.get(&r.node).is_some_and(|n| n.mode == NodeMode::Draining && n.drain_paused);
    node || r.move_held() || state.disks.get(&r.disk).is_some_and(|d| d.draining && d.drain_paused)
}

struct Shard<'a> {
    keep: Vec<&'a ReplicaRecord>,
    /// Replicas that may stay, but another one that counts is in the same failure domain.
    twins: Vec<&'a ReplicaRecord>,
    others: Vec<&'a ReplicaRecord>,
}

/// Sorts a shard's replicas into those that count and the others. Of two in one failure domain only one counts.
fn sort<'a>(state: &ClusterState, live: &Liveness, policy: &Policy, inv: &[DiskView], s: &'a ShardRecord) -> Shard<'a> {
    let mut all: Vec<&ReplicaRecord> = s.replicas.values().collect();
    all.sort_by_key(|r| (!r.in_sync(), r.rid));
    let mut domains = BTreeSet::new();
    let mut sorted = Shard { keep: Vec::new(), twins: Vec::new(), others: Vec::new() };
    for r in all {
        let domain = find(inv, r.disk).and_then(|d| placement::domain_of(policy.failure_domain, d));
        match (standing(state, live, policy, r), domain) {
            (Standing::Keep, Some(d)) if domains.insert(d.clone()) => sorted.keep.push(r),
            (Standing::Keep, Some(_)) => sorted.twins.push(r),
            _ => sorted.others.push(r),
        }
    }
    sorted
}

/// Everything that should be done now, in the order in which it is to be proposed. It follows from the arguments alone,
/// down to the disk that a new replica goes to: who asks beforehand gets the answer that will be acted on.
pub fn steps(state: &ClusterState, live: &Liveness) -> Vec<Step> {
    let mut out = Vec::new();
    let mut inv = inventory(state, live);
    let filling = |r: &&ReplicaRecord| {
        live.up.contains(&r.node)
            && state.disk_works(r.disk)
            && !r.fill_held()
            && !live.refused.contains(&r.rid)
            && matches!(r.state, ReplicaState::Out { base } | ReplicaState::Syncing { base, .. } if base == hf_policy::Ver::ZERO)
    };
    // A replica that no node can fill now takes no part of the budget.
    let fillable = state.volumes.values().filter(|v| attended(state, live, v)).flat_map(|v| &v.shards);
    let fillable = fillable.filter(|s| s.replicas.values().any(|r| state.is_available(r) && live.up.contains(&r.node)));
    let busy: Vec<_> = fillable.flat_map(|s| s.replicas.values()).filter(filling).collect();
    let mut budget = (REBUILDS_PER_NODE * live.up.len()).saturating_sub(busy.len());
    let mut per_disk: BTreeMap<DiskId, usize> = BTreeMap::new();
    busy.iter().for_each(|r| *per_disk.entry(r.disk).or_default() += 1);
    if !state.rebuild_paused {
        scrubs(state, live, &mut out);
    }
    rebalance(state, live, &inv, &mut out);
    for v in state.volumes.values() {
        let Ok(policy) = v.policy() else { continue };
        attend(state, live, v, policy, &mut out);
        if state.rebuild_paused {
            continue;
        }
        if let Some(cmd) = growth::step(state, live, v, policy, &inv) {
            if let Command::ReplaceUnmade { shard, disk: Some(disk), .. } = &cmd {
                let taken = inv.iter_mut().filter(|d| d.disk == *disk);
                taken.for_each(|d| (d.placed, d.replicas) = (d.placed + v.shard_bytes(*shard), d.replicas + 1));
            }
            out.push(Step::Do(cmd));
            continue;
        }
        if !attended(state, live, v) {
            continue;
        }
        for (index, s) in v.shards.iter().enumerate().take(v.begun() as usize) {
            let sorted = sort(state, live, policy, &inv, s);
            // One change of a volume at a time, because each raises its epoch.
            let held = s.replicas.values().any(|r| held(state, r));
            let refusing = &live.refusing;
            let limits =
                Limits { per_disk: &per_disk, refusing, add: budget > 0, rebalancing: state.rebalancing, held };
            let step = shard_step(v, index as u32, s, policy, &sorted, &inv, &limits);
            if let Some(cmd) = step {
                if let Command::AddReplica { disk, .. } = &cmd {
                    budget -= 1;
                    *per_disk.entry(*disk).or_default() += 1;
                    // The replica is counted before the next choice is made.
                    let taken = inv.iter_mut().filter(|d| d.disk == *disk);
                    let bytes = v.shard_bytes(index as u32);
                    taken.for_each(|d| (d.placed, d.replicas) = (d.placed + bytes, d.replicas + 1));
                }
                out.push(Step::Do(cmd));
                break;
            }
        }
    }
    out
}

/// What bounds new replicas.
struct Limits<'a> {
    /// Replicas being filled, by disk.
    per_disk: &'a BTreeMap<DiskId, usize>,
    /// Disks that refused a replica lately.
    refusing: &'a BTreeSet<DiskId>,
    /// May one more replica be added?
    add: bool,
    /// A rebalancing is under way: a replica that moves goes only where that evens disks out.
    rebalancing: bool,
    /// The move of one of the shard's replicas is held.
    held: bool,
}

#[allow(clippy::too_many_arguments)]
fn shard_step(
    v: &VolumeRecord,
    shard: u32,
    s: &ShardRecord,
    policy: &Policy,
    sorted: &Shard<'_>,
    inv: &[DiskView],
    limits: &Limits<'_>,
) -> Option<Command> {
    let want = policy.replicas as usize;
    let (vol, epoch) = (v.id, v.epoch);
    // A replica that has left is removed, whatever has happened since: its disk may be the only one that a
    // new replica can go to.
    if let Some(r) = s.replicas.values().find(|r| r.leaving && !r.in_sync()) {
        return Some(Command::RemoveReplica { vol, shard, epoch, rid: r.rid });
    }
    if sorted.keep.len() < want {
        if !limits.add {
            return None; // Lawful: as many are being filled as may at once.
        }
        let moved = s.replicas.values().find(|r| r.moving && !r.paused && !r.leaving && limits.rebalancing);
        let bytes = v.shard_bytes(shard);
        let allowed = |d: &&DiskView| {
            limits.per_disk.get(&d.disk).is_none_or(|n| *n < REBUILDS_PER_DISK)
                && !limits.refusing.contains(&d.disk)
                && moved.is_none_or(|r| may_take(inv, r, d, bytes))
        };
        return match (place_one(v, shard, s, policy, sorted, inv, &allowed), moved) {
            (Some(disk), _) => Some(Command::AddReplica { vol, shard, epoch, disk }),
            // The disks have changed since it was chosen to move: it stays.
            (None, Some(r)) => Some(Command::Move { vol, shard, epoch, rid: r.rid, moving: false }),
            (None, None) => None,
        };
    }
    if sorted.keep.iter().filter(|r| r.in_sync()).count() < want {
        return None; // Lawful: some are still catching up, and until then nothing is taken away.
    }
    let surplus = || {
        let attached = v.coordinator.as_ref().map(|a| a.node);
        // A replica that a held drain has brought already is not taken away again.
        let extra = sorted.keep.iter().filter(|_| sorted.keep.len() > want && !limits.held);
        extra.copied().max_by_key(|r| (!r.in_sync(), Some(r.node) != attached, r.rid))
    };
    let twins = sorted.twins.iter().filter(|_| !limits.held);
    let r = sorted.others.iter().chain(twins).next().copied().or_else(surplus)?;
    match (r.in_sync(), r.leaving) {
        (false, _) => Some(Command::RemoveReplica { vol, shard, epoch, rid: r.rid }),
        (true, false) => Some(Command::Leave { vol, shard, epoch, rid: r.rid }),
        (true, true) => None, // Its coordinator takes it out of the set.
    }
}

/// A disk for one more replica, in a failure domain that no replica that counts is in.
#[allow(clippy::too_many_arguments)]
fn place_one(
    v: &VolumeRecord,
    shard: u32,
    s: &ShardRecord,
    policy: &Policy,
    sorted: &Shard<'_>,
    inv: &[DiskView],
    allowed: &dyn Fn(&&DiskView) -> bool,
) -> Option<DiskId> {
    let domain = |d: &DiskView| placement::domain_of(policy.failure_domain, d);
    let of = |r: &&ReplicaRecord| find(inv, r.disk).and_then(domain);
    let taken: BTreeSet<String> = sorted.keep.iter().filter_map(of).collect();
    let free = |d: &&DiskView| {
        !s.replicas.values().any(|r| r.disk == d.disk) && domain(d).is_none_or(|name| !taken.contains(&name))
    };
    let choice: Vec<DiskView> = inv.iter().filter(free).filter(allowed).cloned().collect();
    let one = Policy { replicas: 1, min_replicas: 1, ..policy.clone() };
    placement::place(&one, v.shard_bytes(shard), &choice, seed(v, shard)).ok()?.first().copied()
}

/// Does a coordinator have something to do for the volume's replicas?
pub fn needs_coordinator(state: &ClusterState, live: &Liveness, v: &VolumeRecord, policy: &Policy) -> bool {
    if v.scrub.as_ref().is_some_and(|s| !s.paused) {
        return true;
    }
    v.replicas().filter(|(shard, _)| v.has_begun(shard.index)).any(|(_, r)| {
        let there = live.up.contains(&r.node) && state.disk_works(r.disk);
        let gone = standing(state, live, policy, r) == Standing::Gone;
        if r.in_sync() { r.leaving || gone } else { there && !r.leaving && !r.fill_held() && r.store_uuid.is_some() }
    })
}

/// Does the volume have a coordinator now, or will repair see to one? Not if its node is away for a short time.
fn attended(state: &ClusterState, live: &Liveness, v: &VolumeRecord) -> bool {
    let Some(a) = v.coordinator.as_ref().filter(|a| !a.maintenance && !live.up.contains(&a.node)) else { return true };
    v.policy().is_ok_and(|p| abandoned(state, live, p, a.node))
}

/// Has the node that has the volume attached been away for so long that its replicas are made anew elsewhere?
fn abandoned(state: &ClusterState, live: &Liveness, policy: &Policy, node: NodeId) -> bool {
    let away = live.away.get(&node).copied().unwrap_or(0);
    let meant = state.nodes.get(&node).is_some_and(|n| n.mode == NodeMode::Maintenance);
    !live.up.contains(&node) && !meant && away >= policy.rebuild_after / 1000
}

/// Gives a volume whose replicas need a coordinator one for a while, if it is detached or if the node that has it
/// attached stays away. Without a coordinator no member is taken out and none brought in, so its replicas could only
/// become fewer.
fn attend(state: &ClusterState, live: &Liveness, v: &VolumeRecord, policy: &Policy, out: &mut Vec<Step>) {
    let needed = needs_coordinator(state, live, v, policy) && !state.rebuild_paused;
    let here = v.coordinator.as_ref();
    match here {
        Some(a) if a.maintenance && live.up.contains(&a.node) && !needed => {
            out.push(Step::Release { vol: v.id, node: a.node });
        }
        Some(a) if a.maintenance && live.up.contains(&a.node) => {}
        Some(a) if !a.maintenance && !abandoned(state, live, policy, a.node) => {}
        _ if needed && v.attachable() => {
            let able = |r: &&ReplicaRecord| state.is_available(r) && live.up.contains(&r.node);
            let node =
                v.shards.first().and_then(|s| s.replicas.values().filter(able).min_by_key(|r| (r.leaving, r.rid)));
            out.extend(node.map(|r| Step::Maintain { vol: v.id, node: r.node, epoch: v.epoch }));
        }
        _ => {}
    }
}

//! Upkeep that the leader decides beside repair: which scrubs are due, and which replicas a rebalancing moves next.

use super::inventory::{Liveness, find};
use super::step::Step;
use crate::command::Command;
use crate::record::*;
use hf_policy::Policy;
use hf_policy::placement::{self, DiskView};
use std::collections::BTreeSet;

/// Begins scrubs that are due, the one that waits longest first; at most one per node that is up runs at once.
pub(crate) fn scrubs(state: &ClusterState, live: &Liveness, out: &mut Vec<Step>) {
    let going = state.volumes.values().filter(|v| v.scrub.as_ref().is_some_and(|s| !s.paused)).count();
    let mut due: Vec<(u64, &VolumeRecord)> = Vec::new();
    for v in state.volumes.values().filter(|v| v.scrub.is_none() && v.attachable()) {
        let every = v.policy().map_or(0, |p| p.scrub_interval / 1000);
        let last = v.scrubbed.map_or(v.created_ms, |s| s.at_ms);
        if every > 0 && live.wall_ms >= last.saturating_add(every) {
            due.push((last, v));
        }
    }
    due.sort_by_key(|(last, v)| (*last, v.id));
    let room = live.up.len().saturating_sub(going);
    let begin = |(_, v): (u64, &VolumeRecord)| Step::Do(Command::Scrub { vol: v.id, epoch: v.epoch, on: true });
    out.extend(due.into_iter().take(room).map(begin));
}

/// How full a disk would be with `more` bytes placed on it, in parts of a million.
fn share(d: &DiskView, more: u64) -> u128 {
    u128::from(d.placed + more) * 1_000_000 / u128::from(d.capacity.max(1))
}

/// Is a move of `bytes` from one disk to another worth it? It is if the fuller disk is still the fuller one afterwards.
fn gains(from: &DiskView, to: &DiskView, bytes: u64) -> bool {
    let after = u128::from(from.placed.saturating_sub(bytes)) * 1_000_000 / u128::from(from.capacity.max(1));
    bytes > 0 && after >= share(to, bytes)
}

/// May a rebalancing put what `r` holds onto `to`? Every such move makes the fuller of two disks emptier and
/// the emptier one no fuller than that, so the moves come to an end.
pub(crate) fn may_take(inv: &[DiskView], r: &ReplicaRecord, to: &DiskView, bytes: u64) -> bool {
    find(inv, r.disk).is_some_and(|from| gains(from, to, bytes))
}

/// A replica of this shard that a rebalancing could move, and how much fuller its disk is than the best other one.
fn candidate<'a>(
    state: &ClusterState,
    v: &VolumeRecord,
    index: u32,
    s: &'a ShardRecord,
    inv: &[DiskView],
) -> Option<(u128, &'a ReplicaRecord)> {
    let policy = v.policy().ok()?;
    let whole = s.replicas.len() == policy.replicas as usize;
    if !whole || s.replicas.values().any(|r| !state.is_available(r) || r.leaving || r.moving) {
        return None;
    }
    let bytes = v.shard_bytes(index);
    let view = |r: &ReplicaRecord| find(inv, r.disk);
    let domain = |d: &DiskView| placement::domain_of(policy.failure_domain, d);
    let one = Policy { replicas: 1, min_replicas: 1, ..policy.clone() };
    let best = |r: &'a ReplicaRecord| {
        let from = view(r)?;
        let others: BTreeSet<_> = s.replicas.values().filter(|o| o.rid != r.rid).filter_map(view).map(domain).collect();
        let free = |d: &&DiskView| !s.replicas.values().any(|o| o.disk == d.disk) && !others.contains(&domain(d));
        let fits = |d: &&DiskView| placement::place(&one, bytes, std::slice::from_ref(*d), 0).is_ok();
        let to = inv.iter().filter(free).filter(fits).min_by_key(|d| share(d, bytes))?;
        gains(from, to, bytes).then(|| (share(from, 0) - share(to, 0), r))
    };
    s.replicas.values().filter_map(best).max_by_key(|(gain, r)| (*gain, r.rid))
}

/// The next move of a rebalancing, or its end.
pub(crate) fn rebalance(state: &ClusterState, live: &Liveness, inv: &[DiskView], out: &mut Vec<Step>) {
    if !state.rebalancing || state.rebuild_paused || state.rebalance_paused {
        return; // Lawful: no rebalancing is under way, or it is held.
    }
    let moves: Vec<_> =
        state.volumes.values().flat_map(|v| v.replicas()).map(|(_, r)| r).filter(|r| r.moving).collect();
    let (moving, held) = (moves.len(), moves.iter().filter(|r| r.paused).count());
    // At most one per node at once: the next choice is made when this one shows in the record.
    if moving - held >= live.up.len().max(1) {
        return; // Lawful: as many move as may at once.
    }
    let shards = state.volumes.values().flat_map(|v| {
        v.shards
            .iter()
            .enumerate()
            .filter_map(move |(i, s)| candidate(state, v, i as u32, s, inv).map(|(gain, r)| (gain, v, i as u32, r)))
    });
    match shards.max_by_key(|(gain, v, i, _)| (*gain, v.id, *i)) {
        Some((_, v, shard, r)) => {
            out.push(Step::Do(Command::Move { vol: v.id, shard, epoch: v.epoch, rid: r.rid, moving: true }));
        }
        None if moving == 0 => out.push(Step::Do(Command::Rebalance { on: false })),
        None => {}
    }
}

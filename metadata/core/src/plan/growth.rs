//! Shards that are not part of their volume yet, because replicas of them are still to be made: what the leader does
//! when a node or disk that should make one cannot, or does not answer. Nothing was ever written to these shards, so
//! nothing is copied, and no coordinator is asked.

use super::inventory::{Liveness, find};
use super::step::{Standing, seed, standing};
use crate::command::Command;
use crate::mutant::{self, Mutant};
use crate::record::*;
use hf_policy::placement::{self, DiskView};
use hf_policy::{DiskId, Policy};
use std::collections::BTreeSet;

/// Does this replica keep its shard from becoming part of the volume, or would it be lost at once if it did?
fn hinders(state: &ClusterState, live: &Liveness, policy: &Policy, r: &ReplicaRecord) -> bool {
    let gone = standing(state, live, policy, r) == Standing::Gone;
    if r.store_uuid.is_some() {
        return gone;
    }
    let works = state.disks.get(&r.disk).is_some_and(|d| d.state == DiskState::Ok);
    gone || !works || !live.up.contains(&r.node)
}

/// The next change of this volume's shards that are still to be made, if one is due.
pub(crate) fn step(
    state: &ClusterState,
    live: &Liveness,
    v: &VolumeRecord,
    policy: &Policy,
    inv: &[DiskView],
) -> Option<Command> {
    if mutant::is(Mutant::UnmadeStays) {
        return None;
    }
    let waiting = v.shards.iter().enumerate().skip(v.begun() as usize);
    waiting.map(|(i, s)| (i as u32, s)).find_map(|(shard, s)| {
        let bad = |r: &&ReplicaRecord| r.in_sync() && hinders(state, live, policy, r);
        let r = s.replicas.values().find(bad)?;
        let (vol, epoch, rid) = (v.id, v.epoch, r.rid);
        let disk = place(live, v, shard, s, r, policy, inv);
        // Without a disk elsewhere the shard begins with fewer replicas, as if this one had been lost a moment later.
        let good = s.replicas.values().filter(|o| o.in_sync() && !hinders(state, live, policy, o)).count();
        let enough = good >= (policy.min_replicas as usize).max(1);
        (disk.is_some() || enough).then_some(Command::ReplaceUnmade { vol, shard, epoch, rid, disk })
    })
}

/// A disk for the successor of `old`, in a failure domain that no other replica of the shard is in.
#[allow(clippy::too_many_arguments)]
fn place(
    live: &Liveness,
    v: &VolumeRecord,
    shard: u32,
    s: &ShardRecord,
    old: &ReplicaRecord,
    policy: &Policy,
    inv: &[DiskView],
) -> Option<DiskId> {
    let domain = |d: &DiskView| placement::domain_of(policy.failure_domain, d);
    let others = s.replicas.values().filter(|r| r.rid != old.rid && r.in_sync());
    let taken: BTreeSet<String> = others.filter_map(|r| find(inv, r.disk).and_then(domain)).collect();
    let free = |d: &&DiskView| {
        !s.replicas.values().any(|r| r.disk == d.disk) && domain(d).is_none_or(|name| !taken.contains(&name))
    };
    let takes = |d: &&DiskView| !live.refusing.contains(&d.disk);
    let choice: Vec<DiskView> = inv.iter().filter(free).filter(takes).cloned().collect();
    let one = Policy { replicas: 1, min_replicas: 1, ..policy.clone() };
    placement::place(&one, v.shard_bytes(shard), &choice, seed(v, shard)).ok()?.first().copied()
}

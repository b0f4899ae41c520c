//! Where the replicas of new volumes and of new shards go.

use super::inventory::{Liveness, inventory};
use crate::outcome::Refusal;
use crate::record::*;
use hf_policy::placement::{self, DiskView};
use hf_policy::policy::{AttrMap, change_online};
use hf_policy::{DiskId, Policy, SHARD_BYTES};

/// What a placement's refusal is to who asked: the rules exclude too many disks, or these are full.
fn cannot(r: placement::Refusal) -> Refusal {
    if r.lacks_room() { Refusal::NoSpace(r.to_string()) } else { Refusal::Unplaceable(r.to_string()) }
}

/// Places shards `from..to` of a volume; each choice is counted before the next is made.
fn place_shards(
    policy: &Policy,
    from: u64,
    mut inventory: Vec<DiskView>,
    salt: u64,
) -> Result<Vec<Vec<DiskId>>, Refusal> {
    let mut out = Vec::new();
    for index in from..policy.size.div_ceil(SHARD_BYTES) {
        let need = policy.size.saturating_sub(index * SHARD_BYTES).min(SHARD_BYTES);
        let disks = placement::place(policy, need, &inventory, salt.wrapping_add(index)).map_err(cannot)?;
        for d in inventory.iter_mut().filter(|d| disks.contains(&d.disk)) {
            d.placed += need;
            d.replicas += 1;
        }
        out.push(disks);
    }
    Ok(out)
}

/// The same without disks that refused a replica lately, unless no other disks will do.
fn place_willing(
    policy: &Policy,
    from: u64,
    inventory: Vec<DiskView>,
    live: &Liveness,
    salt: u64,
) -> Result<Vec<Vec<DiskId>>, Refusal> {
    let willing = inventory.iter().filter(|d| !live.refusing.contains(&d.disk)).cloned().collect();
    place_shards(policy, from, willing, salt).or_else(|_| place_shards(policy, from, inventory, salt))
}

/// Decides where a new volume's replicas go. `salt` is any number the caller finds random.
pub fn create_volume(
    state: &ClusterState,
    live: &Liveness,
    name: &str,
    attrs: &AttrMap,
    salt: u64,
) -> Result<Vec<Vec<DiskId>>, Refusal> {
    hf_policy::policy::valid_name(name).map_err(|why| Refusal::Invalid(format!("volume name \"{name}\": {why}")))?;
    if state.volume_named(name).is_some() {
        return Err(Refusal::Exists { kind: "volume".into(), name: name.into() });
    }
    let policy = Policy::from_attrs(attrs).map_err(|e| Refusal::Invalid(e.to_string()))?;
    place_willing(&policy, 0, inventory(state, live), live, salt)
}

/// Decides where the shards go that a change of the policy adds, because the volume grows.
pub fn set_policy(
    state: &ClusterState,
    live: &Liveness,
    v: &VolumeRecord,
    change: &AttrMap,
    salt: u64,
) -> Result<Vec<Vec<DiskId>>, Refusal> {
    let attrs = change_online(&v.attrs, change).map_err(|e| Refusal::Invalid(e.to_string()))?;
    let policy = Policy::from_attrs(&attrs).map_err(|e| Refusal::Invalid(e.to_string()))?;
    // Replicas that the new policy asks for must have a place before it is accepted.
    if ["replicas", "nodes", "media", "failure_domain"].iter().any(|k| change.contains_key(*k)) {
        let mut inv = inventory(state, live);
        // A replica that the volume has there already needs no further entry.
        for (_, r) in v.replicas() {
            inv.iter_mut().filter(|d| d.disk == r.disk).for_each(|d| d.replicas -= 1);
        }
        placement::place(&policy, 0, &inv, salt).map_err(cannot)?;
    }
    let grown = policy.size - v.size.min(policy.size);
    let mut inv = inventory(state, live);
    // Growth inside the last shard adds to the disks that hold it: they must have room too.
    if grown > 0
        && let Some(last) = v.shards.last()
    {
        let room = (v.shards.len() as u64 * SHARD_BYTES).saturating_sub(v.size).min(grown);
        for d in inv.iter_mut().filter(|d| last.replicas.values().any(|r| r.disk == d.disk)) {
            d.placed += room;
            if d.placed > d.capacity.saturating_mul(placement::OVERCOMMIT) {
                return Err(Refusal::NoSpace(format!(
                    "volume {}: disk {} of node {} has no room for {} more",
                    v.name,
                    d.disk,
                    d.node_name,
                    hf_policy::format_size(room)
                )));
            }
        }
    }
    place_willing(&policy, v.shards.len() as u64, inv, live, salt)
}

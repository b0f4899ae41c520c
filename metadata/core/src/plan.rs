//! Leader-side decisions, made from the state before a command is proposed.

use crate::command::Refusal;
use crate::record::*;
use hf_policy::placement::{self, DiskView};
use hf_policy::policy::{AttrMap, change_online};
use hf_policy::{DiskId, NodeId, Policy, Rid, SHARD_BYTES};
use std::collections::{BTreeMap, BTreeSet};

/// The leader's soft state that planning looks at: who answers, and how full disks are. Only used for *when* and *where*,
/// never for what is true.
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
    /// Disks that refused a replica lately: none is moved there for now, or it would go round and round.
    pub refusing: BTreeSet<DiskId>,
    /// The leader's wall clock in Unix milliseconds, for what happens every so often; 0: not known, nothing is due.
    pub wall_ms: u64,
}

/// What placement sees of the cluster.
pub fn inventory(state: &ClusterState, live: &Liveness) -> Vec<DiskView> {
    let mut placed: BTreeMap<DiskId, u64> = BTreeMap::new();
    let mut replicas: BTreeMap<DiskId, u64> = BTreeMap::new();
    state.tombstones.values().for_each(|t| *replicas.entry(t.disk).or_default() += 1);
    for v in state.volumes.values() {
        for (shard, r) in v.replicas() {
            *placed.entry(r.disk).or_default() += v.shard_bytes(shard.index);
            *replicas.entry(r.disk).or_default() += 1;
        }
    }
    state
        .disks
        .values()
        .filter_map(|d| {
            let node = state.nodes.get(&d.node)?;
            Some(DiskView {
                disk: d.id,
                node: d.node,
                node_name: node.name.clone(),
                labels: node.labels.clone(),
                media: d.media,
                capacity: d.capacity,
                used: live.used.get(&d.id).copied().unwrap_or(0),
                placed: placed.get(&d.id).copied().unwrap_or(0),
                replicas: replicas.get(&d.id).copied().unwrap_or(0),
                entries: live.entries.get(&d.id).copied(),
                node_up: live.up.contains(&d.node),
                disk_ok: d.state == DiskState::Ok && !d.draining && node.mode == NodeMode::Active,
            })
        })
        .collect()
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
        let disks = placement::place(policy, need, &inventory, salt.wrapping_add(index))
            .map_err(|r| Refusal::Invalid(r.to_string()))?;
        for d in inventory.iter_mut().filter(|d| disks.contains(&d.disk)) {
            d.placed += need;
            d.replicas += 1;
        }
        out.push(disks);
    }
    Ok(out)
}

/// The same, without disks that refused a replica lately, if others will do.
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

/// Decides where the shards go that a policy change (growth) adds.
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
        // (What the volume has there already needs no further entry.)
        for (_, r) in v.replicas() {
            inv.iter_mut().filter(|d| d.disk == r.disk).for_each(|d| d.replicas -= 1);
        }
        placement::place(&policy, 0, &inv, salt).map_err(|r| Refusal::Invalid(r.to_string()))?;
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
                return Err(Refusal::Invalid(format!(
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

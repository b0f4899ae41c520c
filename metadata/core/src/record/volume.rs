//! What the cluster remembers of a volume: its policy, its shards and their replicas, who has it attached, its scrub.

use super::attrs::Attrs;
use super::dropped::Dropped;
use super::records::{Record, replace};
use crate::cow::CowMap;
use crate::mutant::{self, Mutant};
use hf_policy::{
    AttrError, DiskId, Epoch, Lineage, NodeId, Policy, Rid, SHARD_BYTES, SessionId, ShardId, StoreUuid, Term, Ver,
    VolumeId,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Whether a replica holds every acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ReplicaState {
    /// It holds every acknowledged write.
    InSync,
    /// It missed writes; it holds every acknowledged write up to `base`.
    Out {
        /// It holds every acknowledged write up to this version.
        base: Ver,
    },
    /// It is out, and is being caught up.
    Syncing {
        /// It holds every acknowledged write up to this version.
        base: Ver,
        /// The id of the sync.
        sync_id: u64,
    },
}

/// One copy of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaRecord {
    /// Its id, never reused.
    pub rid: Rid,
    /// The disk that it is on.
    pub disk: DiskId,
    /// The disk's node.
    pub node: NodeId,
    /// The identity of the storage that its node made for it; none until it is made.
    pub store_uuid: Option<StoreUuid>,
    /// Whether it is in the in-sync set, and what it is known to hold.
    pub state: ReplicaState,
    /// The epoch at which it last left the in-sync set.
    #[serde(default)]
    pub out_since: Epoch,
    /// Journal position that it last reported before it was dropped, at which everything up to its base was there; 0:
    /// unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub position: u64,
    /// It is not wanted where it is: its coordinator takes it out of the in-sync set when enough others are in it.
    #[serde(default)]
    pub leaving: bool,
    /// It should live elsewhere; until a successor is in sync it counts as any other.
    #[serde(default)]
    pub moving: bool,
    /// An operator holds its move, if it is moving, else its filling.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Why and when it last left the in-sync set. None: it is in sync, never was, or nobody told (before version 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
}

impl ReplicaRecord {
    /// A new replica, whose storage is still to be made by the disk's node.
    pub fn new(rid: Rid, disk: DiskId, node: NodeId, state: ReplicaState, out_since: Epoch) -> ReplicaRecord {
        ReplicaRecord {
            rid,
            disk,
            node,
            store_uuid: None,
            state,
            out_since,
            position: 0,
            leaving: false,
            moving: false,
            paused: false,
            dropped: None,
        }
    }
    /// Is its filling held?
    pub fn fill_held(&self) -> bool {
        self.paused && !self.moving
    }
    /// Is its move held? It is caught up as any other replica.
    pub fn move_held(&self) -> bool {
        self.paused && self.moving
    }
    /// Is it in the in-sync set?
    pub fn in_sync(&self) -> bool {
        self.state == ReplicaState::InSync
    }
}

/// A shard of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRecord {
    /// Its replicas by id.
    pub replicas: BTreeMap<Rid, ReplicaRecord>,
    /// The volume's term when this shard became part of it (by commands of version 1: when it was added); 0
    /// if the volume began with it. Its replicas had promised nothing before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: Term,
}

pub(super) fn is_zero<T: Default + PartialEq>(t: &T) -> bool {
    *t == T::default()
}

impl ShardRecord {
    /// The in-sync set.
    pub fn in_sync(&self) -> BTreeSet<Rid> {
        self.replicas.values().filter(|r| r.in_sync()).map(|r| r.rid).collect()
    }
}

/// Which node has a volume attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The node that has the volume attached.
    pub node: NodeId,
    /// The id of the attachment, drawn by the node; 0: nobody's.
    pub session: SessionId,
    /// When, in Unix milliseconds of the proposer's clock.
    pub since_ms: u64,
    /// The node only looks after replicas: it exports nothing, and any node may take the volume.
    #[serde(default)]
    pub maintenance: bool,
    /// During maintenance that was begun because the node of an attachment stays away: that node. It gets the
    /// attachment back, under a new term, when the work is done or when it asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<NodeId>,
}

/// What is recorded of a snapshot. No release takes any yet; the field is here so that records need not change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRecord {
    /// Number inside the volume.
    pub id: u64,
    /// For each shard the last version that it holds.
    pub cuts: Vec<Ver>,
}

/// What a scrub of a shard or of a volume met. All but `chunks` and `skipped` count blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubReport {
    /// Chunks read and compared on every in-sync replica.
    pub chunks: u64,
    /// Chunks for which a replica did not answer in time.
    pub skipped: u64,
    /// Blocks that a replica could not read, or whose checksum is wrong.
    pub bad: u64,
    /// Blocks of an older version than others have: a disk lost a write.
    pub behind: u64,
    /// Blocks that were replaced from another replica.
    pub repaired: u64,
    /// Blocks that are bad on every replica.
    pub lost: u64,
    /// Blocks of equal versions with different bytes: which is right cannot be told.
    pub diverged: u64,
}

impl ScrubReport {
    /// The sum of two reports.
    pub fn plus(self, o: ScrubReport) -> ScrubReport {
        ScrubReport {
            chunks: self.chunks + o.chunks,
            skipped: self.skipped + o.skipped,
            bad: self.bad + o.bad,
            behind: self.behind + o.behind,
            repaired: self.repaired + o.repaired,
            lost: self.lost + o.lost,
            diverged: self.diverged + o.diverged,
        }
    }
}

/// A scrub that is under way: each shard's coordinator reports when it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubRecord {
    /// Its id: the revision that began it.
    pub id: u64,
    /// Unix milliseconds of the proposer's clock.
    pub since_ms: u64,
    /// The reports of the shards that are done.
    #[serde(default)]
    pub done: BTreeMap<u32, ScrubReport>,
    /// The scrub is held by an operator.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// The outcome of the last scrub that was completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubResult {
    /// Unix milliseconds of the proposer's clock.
    pub at_ms: u64,
    /// What it met.
    pub report: ScrubReport,
}

/// What is recorded of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRecord {
    /// Its number, given by the cluster.
    pub id: VolumeId,
    /// Its name, unique.
    pub name: String,
    /// Its attributes as set (defaults are not stored), with the policy that they mean.
    pub attrs: Attrs,
    /// Its size in bytes, that of its policy.
    pub size: u64,
    /// The history that its replicas belong to; only a last resort changes it.
    pub lineage: Lineage,
    /// Raised by every attach.
    pub term: Term,
    /// Raised by every change of this record.
    pub epoch: Epoch,
    /// The node that has it attached, if one has.
    pub coordinator: Option<Attachment>,
    /// Its shards, in the order of the bytes that they cover.
    pub shards: Vec<ShardRecord>,
    /// Its snapshots, in the order of their numbers.
    #[serde(default)]
    pub snaps: Vec<SnapshotRecord>,
    /// The last term in which it was served: every replica in sync had promised it.
    #[serde(default)]
    pub activated: Term,
    /// The scrub that is under way.
    #[serde(default)]
    pub scrub: Option<ScrubRecord>,
    /// The last scrub that was completed.
    #[serde(default)]
    pub scrubbed: Option<ScrubResult>,
    /// When it was created, in Unix milliseconds of the proposer's clock.
    pub created_ms: u64,
    /// Revision of the last change.
    pub rev: u64,
}

impl VolumeRecord {
    /// What its attributes mean. An error is one of input: no command puts attributes on record that cannot be parsed.
    pub fn policy(&self) -> Result<&Policy, &AttrError> {
        self.attrs.policy()
    }
    /// Bytes of the volume that shard `index` covers.
    pub fn shard_bytes(&self, index: u32) -> u64 {
        self.size.saturating_sub(u64::from(index) * SHARD_BYTES).min(SHARD_BYTES)
    }
    /// Has every replica in sync of this shard been made by its node? A new shard of a volume that grew begins then.
    pub fn shard_made(&self, index: u32) -> bool {
        let shard = self.shards.get(index as usize);
        shard.is_some_and(|s| s.replicas.values().all(|r| !r.in_sync() || r.store_uuid.is_some()))
    }
    /// The last term in which this shard is known to have been served: every replica in sync had promised it. 0: none.
    pub fn served_term(&self, index: u32) -> Term {
        let old = self.shards.get(index as usize).is_some_and(|s| self.activated > s.since);
        if old { self.activated } else { Term(0) }
    }
    /// How many shards are part of the volume: those before the first one whose replicas are still to be
    /// made. The number never shrinks. Shards beyond it were never served, so their replicas may be exchanged
    /// freely.
    pub fn begun(&self) -> u32 {
        let all = self.shards.len() as u32;
        if mutant::is(Mutant::PartBeforeMade) {
            return all;
        }
        (0..all).find(|i| !self.shard_made(*i)).unwrap_or(all)
    }
    /// Is this shard part of the volume?
    pub fn has_begun(&self, index: u32) -> bool {
        index < self.begun()
    }
    /// Bytes that can be used now: those of the shards that are part of the volume.
    pub fn made_size(&self) -> u64 {
        (0..self.begun()).map(|i| self.shard_bytes(i)).sum::<u64>().min(self.size)
    }
    /// May it be attached? A volume that was never attached must have all its shards; one that grows may be
    /// attached without those that are still to be made.
    pub fn attachable(&self) -> bool {
        self.begun() > 0 && (self.term > Term(0) || self.ready())
    }
    /// The nodes that it concerns: they hold a replica, or have it attached, or get it back after a maintenance.
    fn nodes(&self) -> BTreeSet<NodeId> {
        let attached = self.coordinator.iter().flat_map(|a| [Some(a.node), a.home]).flatten();
        self.replicas().map(|(_, r)| r.node).chain(attached).collect()
    }
    /// Every replica, with its shard.
    pub fn replicas(&self) -> impl Iterator<Item = (ShardId, &ReplicaRecord)> {
        let vol = self.id;
        self.shards
            .iter()
            .enumerate()
            .flat_map(move |(i, s)| s.replicas.values().map(move |r| (ShardId { vol, index: i as u32 }, r)))
    }
    /// Has every replica in sync, of every shard, been made by its node?
    pub fn ready(&self) -> bool {
        self.replicas().all(|(_, r)| !r.in_sync() || r.store_uuid.is_some())
    }
}

/// What is placed on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes that its replicas can grow to: the sum over their shards of what the volume's size covers.
    pub placed: u64,
    /// Number of its replicas.
    pub replicas: u64,
}

/// Volumes by name, by replica and by node, and what they place on each disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeIndex {
    names: CowMap<(String, VolumeId), ()>,
    replicas: CowMap<(Rid, VolumeId), ()>,
    nodes: CowMap<(NodeId, VolumeId), ()>,
    loads: CowMap<DiskId, Load>,
}

impl VolumeIndex {
    /// The volume of a name; of several (in input that this code did not write) the one with the least id.
    pub(crate) fn named(&self, name: &str) -> Option<VolumeId> {
        let first = self.names.range_from(&(name.to_string(), VolumeId(0))).next();
        first.filter(|((n, _), ())| n == name).map(|((_, id), ())| *id)
    }

    /// The volumes in the order of their names, from the first one after `name` on.
    pub(crate) fn after_name(&self, name: &str) -> impl Iterator<Item = VolumeId> + '_ {
        self.names.range_from(&(name.to_string(), VolumeId(u64::MAX))).map(|((_, id), ())| *id)
    }

    /// The replicas in the order of their numbers, from `rid` on, each with its volume.
    pub(crate) fn replicas_from(&self, rid: Rid) -> impl Iterator<Item = (Rid, VolumeId)> + '_ {
        self.replicas.range_from(&(rid, VolumeId(0))).map(|(key, ())| *key)
    }

    /// The volume that a replica is of; of several the one with the least id.
    pub(crate) fn of_replica(&self, rid: Rid) -> Option<VolumeId> {
        let first = self.replicas.range_from(&(rid, VolumeId(0))).next();
        first.filter(|((r, _), ())| *r == rid).map(|((_, id), ())| *id)
    }

    /// The volumes that concern a node, in the order of their ids.
    pub(crate) fn at(&self, node: NodeId) -> impl Iterator<Item = VolumeId> + '_ {
        let from = self.nodes.range_from(&(node, VolumeId(0))).map(|(key, ())| *key);
        from.take_while(move |(n, _)| *n == node).map(|(_, vol)| vol)
    }

    /// What is placed on a disk.
    pub(crate) fn load(&self, disk: DiskId) -> Load {
        self.loads.get(&disk).copied().unwrap_or_default()
    }

    /// A volume's replicas come into the index, or go out of it.
    fn count(&mut self, v: &VolumeRecord, comes: bool) {
        for (shard, r) in v.replicas() {
            let (bytes, key) = (v.shard_bytes(shard.index), (r.rid, v.id));
            let mut load = self.load(r.disk);
            // (Wrapping: sizes may come from a damaged file, and what came must be what goes.)
            if comes {
                self.replicas.insert(key, ());
                (load.placed, load.replicas) = (load.placed.wrapping_add(bytes), load.replicas + 1);
            } else {
                self.replicas.remove(&key);
                (load.placed, load.replicas) = (load.placed.wrapping_sub(bytes), load.replicas.saturating_sub(1));
            }
            match load.replicas {
                0 => drop(self.loads.remove(&r.disk)),
                _ => drop(self.loads.insert(r.disk, load)),
            }
        }
    }
}

impl Record for VolumeRecord {
    type Key = VolumeId;
    type Index = VolumeIndex;
    const KIND: &'static str = "volume";

    fn key(&self) -> VolumeId {
        self.id
    }
    fn rev(&self) -> u64 {
        self.rev
    }
    fn index(index: &mut VolumeIndex, old: Option<&Self>, new: Option<&Self>) {
        let name = |v: &VolumeRecord| (v.name.clone(), v.id);
        replace(&mut index.names, old.map(name), new.map(name));
        let (before, now) = (old.map(VolumeRecord::nodes), new.map(VolumeRecord::nodes));
        if before != now {
            let key = |n: NodeId, v: Option<&VolumeRecord>| v.map(|v| (n, v.id));
            let (before, now) = (before.unwrap_or_default(), now.unwrap_or_default());
            before.difference(&now).for_each(|n| replace(&mut index.nodes, key(*n, old), None));
            now.difference(&before).for_each(|n| replace(&mut index.nodes, None, key(*n, new)));
        }
        let same = |a: &VolumeRecord, b: &VolumeRecord| {
            let place = |v: &VolumeRecord| v.replicas().map(|(s, r)| (s.index, r.rid, r.disk)).collect::<Vec<_>>();
            a.size == b.size && place(a) == place(b)
        };
        if old.zip(new).is_some_and(|(a, b)| same(a, b)) {
            return; // Lawful: most changes of a volume leave its replicas where they are.
        }
        old.into_iter().for_each(|v| index.count(v, false));
        new.into_iter().for_each(|v| index.count(v, true));
    }
}

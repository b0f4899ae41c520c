//! What the cluster remembers of a volume: its policy, its shards and their replicas, who has it attached, its scrub.

use super::attrs::Attrs;
use super::records::{Record, replace};
use crate::cow::CowMap;
use crate::mutant::{self, Mutant};
use hf_policy::{
    AttrError, DiskId, Epoch, Lineage, NodeId, Policy, Rid, SHARD_BYTES, SessionId, ShardId, StoreUuid, Term, Ver,
    VolumeId,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A replica's standing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Holds every acknowledged write.
    InSync,
    /// Missed writes; holds every acknowledged write up to `base`.
    Out {
        /// Known lower bound.
        base: Ver,
    },
    /// Out, and catching up.
    Syncing {
        /// Known lower bound.
        base: Ver,
        /// Which sync.
        sync_id: u64,
    },
}

/// One copy of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// Its id, never reused.
    pub rid: Rid,
    /// Where it lives.
    pub disk: DiskId,
    /// The disk's node.
    pub node: NodeId,
    /// The storage it was initialised with; `None` until its node has made it.
    pub store_uuid: Option<StoreUuid>,
    /// Its standing.
    pub state: ReplicaState,
    /// The epoch at which it last left the in-sync set.
    #[serde(default)]
    pub out_since: Epoch,
    /// How far its disk's journal had got when it was dropped, as it had last told: all up to its base was there. 0: nobody knows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub position: u64,
    /// It is not wanted here any more: its coordinator takes it out when the others can do without it.
    #[serde(default)]
    pub leaving: bool,
    /// It should live elsewhere; it is as good as any as long as it is there.
    #[serde(default)]
    pub moving: bool,
    /// An operator holds it: its move, if it is moving, else its filling.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

impl ReplicaRecord {
    /// It is not to be filled now.
    pub fn fill_held(&self) -> bool {
        self.paused && !self.moving
    }
    /// It is not to be moved now; it is caught up as any other.
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
pub struct ShardRecord {
    /// Its replicas.
    pub replicas: BTreeMap<Rid, ReplicaRecord>,
    /// The volume's term when this shard became part of it (by commands of version 1: when it was added); 0 if the volume began
    /// with it. Its replicas promised nothing before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: Term,
}

fn is_zero<T: Default + PartialEq>(t: &T) -> bool {
    *t == T::default()
}

impl ShardRecord {
    /// The in-sync set.
    pub fn in_sync(&self) -> BTreeSet<Rid> {
        self.replicas.values().filter(|r| r.in_sync()).map(|r| r.rid).collect()
    }
}

/// Who has a volume attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The node.
    pub node: NodeId,
    /// The attachment.
    pub session: SessionId,
    /// When, in Unix milliseconds of the proposer's clock.
    pub since_ms: u64,
    /// Only to look after replicas: not exported, and anybody may take the volume.
    #[serde(default)]
    pub maintenance: bool,
    /// While replicas are looked after because the node that has the volume attached stays away: that node. It is given the
    /// attachment back, under a new term, when the work is done or when it asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<NodeId>,
}

/// A snapshot's record (taken by a later release; here so that records need not change).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Number inside the volume.
    pub id: u64,
    /// Per shard: the last version it holds.
    pub cuts: Vec<Ver>,
}

/// What a scrub of one shard, or of a volume, met. Blocks, but for `chunks` and `skipped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Chunks read and compared on every in-sync replica.
    pub chunks: u64,
    /// Chunks that a replica did not answer for in time.
    pub skipped: u64,
    /// Unreadable or rotten on a replica.
    pub bad: u64,
    /// An older version than others have: a write that a disk lost.
    pub behind: u64,
    /// Replaced from another replica.
    pub repaired: u64,
    /// Bad on every replica.
    pub lost: u64,
    /// The same version with different bytes: nobody can say which is right.
    pub diverged: u64,
}

impl ScrubReport {
    /// Both together.
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

/// A scrub that goes on: each shard's coordinator reports when it is through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubRecord {
    /// The revision that began it.
    pub id: u64,
    /// Unix milliseconds of the proposer's clock.
    pub since_ms: u64,
    /// Shards that are through.
    #[serde(default)]
    pub done: BTreeMap<u32, ScrubReport>,
    /// An operator holds it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// The last scrub that came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubResult {
    /// Unix milliseconds of the proposer's clock.
    pub at_ms: u64,
    /// What it met.
    pub report: ScrubReport,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its number.
    pub id: VolumeId,
    /// Its name, unique.
    pub name: String,
    /// Its attributes as set (defaults are not stored), with the policy that they mean.
    pub attrs: Attrs,
    /// Bytes.
    pub size: u64,
    /// Its history.
    pub lineage: Lineage,
    /// Raised by every attach.
    pub term: Term,
    /// Raised by every change of this record.
    pub epoch: Epoch,
    /// Who has it attached.
    pub coordinator: Option<Attachment>,
    /// Its shards, in order.
    pub shards: Vec<ShardRecord>,
    /// Its snapshots.
    #[serde(default)]
    pub snaps: Vec<SnapshotRecord>,
    /// The last term that reached service (status only).
    #[serde(default)]
    pub activated: Term,
    /// The scrub that goes on.
    #[serde(default)]
    pub scrub: Option<ScrubRecord>,
    /// The last one.
    #[serde(default)]
    pub scrubbed: Option<ScrubResult>,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Revision of the last change.
    pub rev: u64,
}

impl VolumeRecord {
    /// What its attributes mean. An error is one of input: no command puts attributes on record that cannot be parsed.
    pub fn policy(&self) -> Result<&Policy, &AttrError> {
        self.attrs.policy()
    }
    /// How many bytes of the volume shard `index` covers.
    pub fn shard_bytes(&self, index: u32) -> u64 {
        self.size.saturating_sub(u64::from(index) * SHARD_BYTES).min(SHARD_BYTES)
    }
    /// Is this shard's storage there? A grown volume's new shard begins when its replicas have been made.
    pub fn shard_made(&self, index: u32) -> bool {
        let shard = self.shards.get(index as usize);
        shard.is_some_and(|s| s.replicas.values().all(|r| !r.in_sync() || r.store_uuid.is_some()))
    }
    /// The newest term that this shard is known to have been served in: every replica in sync had promised it. 0: none yet.
    pub fn served_term(&self, index: u32) -> Term {
        let old = self.shards.get(index as usize).is_some_and(|s| self.activated > s.since);
        if old { self.activated } else { Term(0) }
    }
    /// How many shards are part of the volume: those before the first one whose storage is still to be made. It never shrinks, and
    /// what is beyond it was never served, so its replicas may be exchanged freely.
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
    /// Bytes that can be used now: up to the first shard whose storage is still to be made.
    pub fn made_size(&self) -> u64 {
        (0..self.begun()).map(|i| self.shard_bytes(i)).sum::<u64>().min(self.size)
    }
    /// May it be attached? A volume that grows may be, without what is still to be made; one that was never attached is to have all
    /// that was asked for.
    pub fn attachable(&self) -> bool {
        self.begun() > 0 && (self.term > Term(0) || self.ready())
    }
    /// Every replica with its shard.
    pub fn replicas(&self) -> impl Iterator<Item = (ShardId, &ReplicaRecord)> {
        let vol = self.id;
        self.shards
            .iter()
            .enumerate()
            .flat_map(move |(i, s)| s.replicas.values().map(move |r| (ShardId { vol, index: i as u32 }, r)))
    }
    /// Has every in-sync replica been made by its node?
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

/// Volumes by name and by replica, and what they place on each disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeIndex {
    names: CowMap<(String, VolumeId), ()>,
    replicas: CowMap<(Rid, VolumeId), ()>,
    loads: CowMap<DiskId, Load>,
}

impl VolumeIndex {
    /// The volume of a name; of several (in input that this code did not write) the one with the least id.
    pub(crate) fn named(&self, name: &str) -> Option<VolumeId> {
        let first = self.names.range_from(&(name.to_string(), VolumeId(0))).next();
        first.filter(|((n, _), ())| n == name).map(|((_, id), ())| *id)
    }

    /// The volume that a replica is of; of several the one with the least id.
    pub(crate) fn of_replica(&self, rid: Rid) -> Option<VolumeId> {
        let first = self.replicas.range_from(&(rid, VolumeId(0))).next();
        first.filter(|((r, _), ())| *r == rid).map(|((_, id), ())| *id)
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

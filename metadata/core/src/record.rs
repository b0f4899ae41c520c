//! What the cluster remembers: nodes, disks, volumes, replicas; plus what makes requests exactly-once and
//! watchers catch up.

mod log;
mod node;

pub use log::*;
pub use node::*;

use crate::mutant::{self, Mutant};
use crate::outcome::Outcome;
use hf_policy::attributes::Media;
use hf_policy::policy::AttrMap;
use hf_policy::{
    ClusterId, DiskId, DiskUuid, Epoch, Lineage, NodeId, RequestId, Rid, SHARD_BYTES, SessionId, ShardId, StoreUuid,
    Term, Ver, VolumeId,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Outcomes kept for exactly-once. A client retries within minutes; at 100 changes a second this is over a minute.
pub const REQUESTS_KEPT: usize = 8192;
/// Events kept for `holdfast events`.
pub const EVENTS_KEPT: usize = 2048;
/// Removals kept for watch deltas; a watcher further behind gets the whole image.
pub const REMOVALS_KEPT: usize = 4096;

/// A disk's health, as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskState {
    /// In use.
    Ok,
    /// Failed for good (C4), and why.
    Failed(String),
    /// It met more bad blocks than its error budget: it serves what it holds until that lives elsewhere, and gets nothing new.
    Failing(String),
}

/// A disk of a node's pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Its number.
    pub id: DiskId,
    /// Its node.
    pub node: NodeId,
    /// From its superblock.
    pub uuid: DiskUuid,
    /// Directory or device on its node, for people.
    pub path: String,
    /// Its class; never `any`.
    pub media: Media,
    /// Bytes for data.
    pub capacity: u64,
    /// Health.
    pub state: DiskState,
    /// Its replicas move elsewhere, and it gets no new ones.
    #[serde(default)]
    pub draining: bool,
    /// Its drain is held: nothing more is begun because of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain_paused: bool,
    /// Revision of the last change.
    pub rev: u64,
}

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
    /// Its policy, as set (defaults are not stored).
    pub attrs: AttrMap,
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

/// A replica whose data its node must delete, and may only delete because of this record (I20).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The replica.
    pub rid: Rid,
    /// Of which shard.
    pub shard: ShardId,
    /// On which disk.
    pub disk: DiskId,
    /// Of which node.
    pub node: NodeId,
    /// Revision of the last change.
    pub rev: u64,
}

/// Something that happened, for `holdfast events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The revision that brought it.
    pub rev: u64,
    /// Unix milliseconds of the proposer's clock.
    pub at_ms: u64,
    /// A stable word: `volume.created`, `replica.dropped`, …
    pub kind: String,
    /// What it is about, by name.
    pub subject: String,
    /// One line for people.
    pub text: String,
}

/// What a removal removed, for watch deltas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removed {
    /// A volume.
    Volume(VolumeId),
    /// A tombstone, its data being gone.
    Tombstone(Rid),
    /// A node.
    Node(NodeId),
    /// A disk.
    Disk(DiskId),
}

/// The next unused numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextIds {
    /// Node.
    pub node: u64,
    /// Disk.
    pub disk: u64,
    /// Volume.
    pub volume: u64,
    /// Replica.
    pub rid: u64,
}

/// Everything the cluster agrees on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Which cluster; none before `Init`.
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// Raised by every change.
    pub revision: u64,
    /// Unused numbers.
    pub next: NextIds,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Disks.
    pub disks: BTreeMap<DiskId, DiskRecord>,
    /// Volumes.
    pub volumes: BTreeMap<VolumeId, VolumeRecord>,
    /// Replicas to delete.
    pub tombstones: BTreeMap<Rid, Tombstone>,
    /// Recent outcomes by request, oldest first in `request_order`.
    pub requests: BTreeMap<RequestId, Outcome>,
    /// Insertion order of `requests`.
    pub request_order: VecDeque<RequestId>,
    /// Recent events.
    pub events: VecDeque<Event>,
    /// Recent removals.
    pub removals: VecDeque<(u64, Removed)>,
    /// Removals up to this revision are forgotten.
    pub removals_floor: u64,
    /// Removed nodes that may be voters or learners until the leader has changed that: where they are, and with which log.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub removed_members: BTreeMap<NodeId, NodeRecord>,
    /// How many nodes should vote on metadata.
    #[serde(default = "three")]
    pub voters: usize,
    /// Nobody makes or moves replicas for now.
    #[serde(default)]
    pub rebuild_paused: bool,
    /// Replicas are moved from full disks to empty ones until that gains nothing more.
    #[serde(default)]
    pub rebalancing: bool,
    /// That is held.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebalance_paused: bool,
}

fn three() -> usize {
    3
}

impl Default for ClusterState {
    fn default() -> Self {
        ClusterState {
            cluster: ClusterId::NONE,
            name: String::new(),
            revision: 0,
            next: NextIds { node: 1, disk: 1, volume: 1, rid: 1 },
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            requests: BTreeMap::new(),
            request_order: VecDeque::new(),
            events: VecDeque::new(),
            removals: VecDeque::new(),
            removals_floor: 0,
            removed_members: BTreeMap::new(),
            voters: three(),
            rebuild_paused: false,
            rebalancing: false,
            rebalance_paused: false,
        }
    }
}

impl ClusterState {
    /// A volume by name.
    pub fn volume_named(&self, name: &str) -> Option<&VolumeRecord> {
        self.volumes.values().find(|v| v.name == name)
    }
    /// A node, also one that was removed and is still a member of the metadata group.
    pub fn member(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&id).or_else(|| self.removed_members.get(&id))
    }
    /// A node by name.
    pub fn node_named(&self, name: &str) -> Option<&NodeRecord> {
        self.nodes.values().find(|n| n.name == name)
    }
    /// A node's name, or its number if unknown.
    pub fn node_name(&self, id: NodeId) -> String {
        self.nodes.get(&id).map_or_else(|| format!("#{id}"), |n| n.name.clone())
    }
}

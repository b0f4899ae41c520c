//! The whole of what the cluster agrees on: [`ClusterState`].

use super::records::{Record, Records};
use super::{DiskRecord, Load, NodeRecord, VolumeRecord, u128Hex};
use crate::cow::{CowMap, CowQueue};
use crate::outcome::Outcome;
use hf_policy::{ClusterId, DiskId, DiskUuid, NodeId, RequestId, Rid, ShardId, VolumeId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Outcomes kept for exactly-once. A client retries within minutes; at 100 changes a second this is over a minute.
pub const REQUESTS_KEPT: usize = 8192;
/// Events kept for `holdfast events`.
pub const EVENTS_KEPT: usize = 2048;
/// Removals kept for watch deltas; a watcher further behind gets the whole image.
pub const REMOVALS_KEPT: usize = 4096;

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

impl Record for Tombstone {
    type Key = Rid;
    /// Number of tombstones by disk.
    type Index = CowMap<DiskId, u64>;
    const KIND: &'static str = "tombstone";

    fn key(&self) -> Rid {
        self.rid
    }
    fn rev(&self) -> u64 {
        self.rev
    }
    fn index(index: &mut CowMap<DiskId, u64>, old: Option<&Self>, new: Option<&Self>) {
        let now = |index: &CowMap<DiskId, u64>, disk| index.get(disk).copied().unwrap_or(0);
        if let Some(t) = old {
            match now(index, &t.disk).saturating_sub(1) {
                0 => drop(index.remove(&t.disk)),
                n => drop(index.insert(t.disk, n)),
            }
        }
        if let Some(t) = new {
            index.insert(t.disk, now(index, &t.disk) + 1);
        }
    }
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
    pub nodes: Records<NodeRecord>,
    /// Disks.
    pub disks: Records<DiskRecord>,
    /// Volumes.
    pub volumes: Records<VolumeRecord>,
    /// Replicas to delete.
    pub tombstones: Records<Tombstone>,
    /// Recent outcomes by request, oldest first in `request_order`.
    pub requests: CowMap<RequestId, Outcome>,
    /// Insertion order of `requests`.
    pub request_order: CowQueue<RequestId>,
    /// Recent events.
    pub events: CowQueue<Event>,
    /// Recent removals.
    pub removals: CowQueue<(u64, Removed)>,
    /// Removals up to this revision are forgotten.
    pub removals_floor: u64,
    /// Removed nodes that may be voters or learners until the leader has changed that: where they are, and with which log.
    #[serde(default, skip_serializing_if = "Records::is_empty")]
    pub removed_members: Records<NodeRecord>,
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
            nodes: Records::default(),
            disks: Records::default(),
            volumes: Records::default(),
            tombstones: Records::default(),
            requests: CowMap::new(),
            request_order: CowQueue::new(),
            events: CowQueue::new(),
            removals: CowQueue::new(),
            removals_floor: 0,
            removed_members: Records::default(),
            voters: three(),
            rebuild_paused: false,
            rebalancing: false,
            rebalance_paused: false,
        }
    }
}

impl ClusterState {
    /// A volume by name.
    pub fn volume_named(&self, name: &str) -> Option<&Arc<VolumeRecord>> {
        self.volumes.get(&self.volumes.index().named(name)?)
    }
    /// The volume that a replica is of.
    pub fn volume_of_replica(&self, rid: Rid) -> Option<&Arc<VolumeRecord>> {
        self.volumes.get(&self.volumes.index().of_replica(rid)?)
    }
    /// What is placed on a disk. Replicas count that were removed and whose data is still there; their bytes do not.
    pub fn load(&self, disk: DiskId) -> Load {
        let load = self.volumes.index().load(disk);
        Load { replicas: load.replicas + self.tombstones.index().get(&disk).copied().unwrap_or(0), ..load }
    }
    /// A node, also one that was removed and is still a member of the metadata group.
    pub fn member(&self, id: NodeId) -> Option<&Arc<NodeRecord>> {
        self.nodes.get(&id).or_else(|| self.removed_members.get(&id))
    }
    /// A node by name.
    pub fn node_named(&self, name: &str) -> Option<&Arc<NodeRecord>> {
        self.nodes.get(&self.nodes.index().named(name)?)
    }
    /// A node by the uuid of its data directory.
    pub fn node_of_uuid(&self, uuid: u128Hex) -> Option<&Arc<NodeRecord>> {
        self.nodes.get(&self.nodes.index().of_uuid(uuid)?)
    }
    /// A disk by the uuid in its superblock; of several (in input that this code did not write) the one with the least id.
    pub fn disk_of_uuid(&self, uuid: DiskUuid) -> Option<&Arc<DiskRecord>> {
        let ((first, id), ()) = self.disks.index().range_from(&(uuid, DiskId(0))).next()?;
        self.disks.get(id).filter(|_| *first == uuid)
    }
    /// A node's name, or its number if unknown.
    pub fn node_name(&self, id: NodeId) -> String {
        self.nodes.get(&id).map_or_else(|| format!("#{id}"), |n| n.name.clone())
    }
}

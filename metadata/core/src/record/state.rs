//! The whole of what the cluster agrees on: [`ClusterState`].

use super::records::{Record, Records};
use super::volume::is_zero;
use super::{DiskRecord, DiskState, Event, Load, Mute, NodeRecord, ReplicaRecord, VolumeRecord, u128Hex};
use crate::cow::{CowMap, CowQueue};
use crate::outcome::Outcome;
use crate::version::{COMMAND_VERSION, FIRST_VERSION};
use hf_policy::{ClusterId, DiskId, DiskUuid, NodeId, RequestId, Rid, ShardId, VolumeId};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::sync::Arc;

/// Outcomes that are kept for exactly-once. A client retries within a minute; at 100 changes a second this is longer.
pub const REQUESTS_KEPT: usize = 8192;
/// Events kept for `holdfast events`.
pub const EVENTS_KEPT: usize = 2048;
/// Removals kept for watch deltas; a watcher further behind gets the whole image.
pub const REMOVALS_KEPT: usize = 4096;

/// A replica whose data its node must delete. A node deletes data only because of this record (I20).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    /// The replica whose data is to be deleted.
    pub rid: Rid,
    /// The shard that it was a replica of.
    pub shard: ShardId,
    /// The disk that holds its data.
    pub disk: DiskId,
    /// The node of the disk.
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

/// What was removed, for watch deltas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Removed {
    /// A volume was deleted.
    Volume(VolumeId),
    /// A tombstone went, because its data is deleted.
    Tombstone(Rid),
    /// A node was removed.
    Node(NodeId),
    /// A disk was removed.
    Disk(DiskId),
}

/// The next unused numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextIds {
    /// The number that the next node gets.
    pub node: u64,
    /// The number that the next disk gets.
    pub disk: u64,
    /// The number that the next volume gets.
    pub volume: u64,
    /// The number that the next replica gets.
    pub rid: u64,
}

/// Everything the cluster agrees on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterState {
    /// The cluster's id; none before `Init`.
    pub cluster: ClusterId,
    /// The cluster's name, for people.
    pub name: String,
    /// The version by which commands are encoded and applied; raised from [`FIRST_VERSION`] by
    /// [`crate::Command::RaiseVersion`] alone.
    #[serde(default = "first_version", deserialize_with = "known_version")]
    pub version: u32,
    /// Raised by every change.
    pub revision: u64,
    /// Numbers that were never given.
    pub next: NextIds,
    /// The nodes of the cluster.
    pub nodes: Records<NodeRecord>,
    /// The disks of all nodes.
    pub disks: Records<DiskRecord>,
    /// The volumes of the cluster.
    pub volumes: Records<VolumeRecord>,
    /// Replicas that were removed and whose data is still to be deleted.
    pub tombstones: Records<Tombstone>,
    /// Outcomes by request, for exactly-once; at most [`REQUESTS_KEPT`].
    pub requests: CowMap<RequestId, Outcome>,
    /// The requests of these outcomes, the oldest first.
    pub request_order: CowQueue<RequestId>,
    /// The last events, for people; at most [`EVENTS_KEPT`].
    pub events: CowQueue<Event>,
    /// The last removals with their revisions; at most [`REMOVALS_KEPT`].
    pub removals: CowQueue<(u64, Removed)>,
    /// Removals up to this revision are forgotten; a follower of an older revision needs the whole state.
    pub removals_floor: u64,
    /// Removed nodes that are still voters or learners, until the leader has changed the configuration.
    #[serde(default, skip_serializing_if = "Records::is_empty")]
    pub removed_members: Records<NodeRecord>,
    /// How many nodes should vote on metadata.
    #[serde(default = "three")]
    pub voters: usize,
    /// Replicas are neither made nor moved now, because an operator stopped it.
    #[serde(default)]
    pub rebuild_paused: bool,
    /// A rebalancing is under way: replicas move from full disks to empty ones until that gains nothing more.
    #[serde(default)]
    pub rebalancing: bool,
    /// The rebalancing is held by an operator.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebalance_paused: bool,
    /// Health checks that are muted, the oldest first; at most [`super::MUTES_KEPT`].
    #[serde(default, skip_serializing_if = "CowQueue::is_empty")]
    pub mutes: CowQueue<Mute>,
    /// Revision of the last change of the mutes; 0: there never was one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mutes_rev: u64,
}

pub(crate) fn first_version() -> u32 {
    FIRST_VERSION
}

/// Reads a version and refuses one that this code does not know: it would apply commands by the wrong rules.
pub(crate) fn known_version<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    match u32::deserialize(d)? {
        v @ 1..=COMMAND_VERSION => Ok(v),
        v => Err(D::Error::custom(format!(
            "the cluster's record has version {v}, this release knows 1 to {COMMAND_VERSION}: upgrade this node"
        ))),
    }
}

fn three() -> usize {
    3
}

impl Default for ClusterState {
    fn default() -> Self {
        ClusterState {
            cluster: ClusterId::NONE,
            name: String::new(),
            version: FIRST_VERSION,
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
            mutes: CowQueue::new(),
            mutes_rev: 0,
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
    /// The volumes in the order of their names, from the first one after `name` on. No name is empty, so the empty text
    /// stands before all.
    pub fn volumes_after(&self, name: &str) -> impl Iterator<Item = &Arc<VolumeRecord>> {
        self.volumes.index().after_name(name).filter_map(|id| self.volumes.get(&id))
    }
    /// The nodes in the order of their names, from the first one after `name` on.
    pub fn nodes_after(&self, name: &str) -> impl Iterator<Item = &Arc<NodeRecord>> {
        self.nodes.index().after_name(name).filter_map(|id| self.nodes.get(&id))
    }
    /// Every replica in the order of its number, from `rid` on, with its volume.
    pub fn replicas_from(&self, rid: Rid) -> impl Iterator<Item = (Rid, &Arc<VolumeRecord>)> {
        self.volumes.index().replicas_from(rid).filter_map(|(rid, vol)| Some((rid, self.volumes.get(&vol)?)))
    }
    /// The volumes that concern a node, in the order of their ids: it holds a replica of them, has them
    /// attached, or gets them back after a maintenance. Costs their number, not that of all volumes.
    pub fn volumes_at(&self, node: NodeId) -> impl Iterator<Item = &Arc<VolumeRecord>> {
        self.volumes.index().at(node).filter_map(|vol| self.volumes.get(&vol))
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
    /// A disk by the uuid in its superblock; of several (in input that this code did not write) the one with
    /// the least id.
    pub fn disk_of_uuid(&self, uuid: DiskUuid) -> Option<&Arc<DiskRecord>> {
        let ((first, id), ()) = self.disks.index().range_from(&(uuid, DiskId(0))).next()?;
        self.disks.get(id).filter(|_| *first == uuid)
    }
    /// Is the disk known, and has it not failed? Replicas on another one are not available, whatever their state is.
    pub fn disk_works(&self, disk: DiskId) -> bool {
        self.disks.get(&disk).is_some_and(|d| !matches!(d.state, DiskState::Failed(_)))
    }
    /// Is a replica in sync, on a disk that is not on record as failed? Whether its node answers is not on record.
    pub fn is_available(&self, r: &ReplicaRecord) -> bool {
        let failed = |d: &Arc<DiskRecord>| matches!(d.state, DiskState::Failed(_));
        r.in_sync() && !self.disks.get(&r.disk).is_some_and(failed)
    }
    /// A node's name, or its number if unknown.
    pub fn node_name(&self, id: NodeId) -> String {
        self.nodes.get(&id).map_or_else(|| format!("#{id}"), |n| n.name.clone())
    }
}

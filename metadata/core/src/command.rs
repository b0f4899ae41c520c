//! Every mutation of the cluster.
//!
//! The encoding is JSON under an [`Envelope`] with a version (`docs/wire.md`): rare, small, readable in the log. A field that a
//! node does not know is refused: ignored by one node and honoured by another it would fork the state. New fields and new
//! commands therefore come with a new version, which a cluster uses once all its nodes know it ([`Command::RaiseVersion`],
//! decisions/0035).

mod envelope;

pub use envelope::*;

use crate::record::{Addresses, DiskState, NodeMode, OwnLog, ScrubReport};
use hf_policy::attributes::Media;
use hf_policy::policy::AttrMap;
use hf_policy::{
    BootId, ClusterId, DiskId, DiskUuid, Epoch, Lineage, NodeId, Rid, SessionId, StoreUuid, Term, Ver, VolumeId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A job: something that goes on until it is done, and can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Job {
    /// A node's drain.
    Node(NodeId),
    /// A disk's drain.
    Disk(DiskId),
    /// Disks are evened out.
    Rebalance,
    /// A volume's scrub.
    Scrub(VolumeId),
    /// A replica is filled, caught up, or moved.
    Replica(Rid),
}

/// What one shard's coordinator wants of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardChange {
    /// Which shard.
    pub shard: u32,
    /// What.
    pub what: ShardStep,
}

/// See the commands of the same names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ShardStep {
    /// [`Command::Drop`].
    Drop {
        /// Who.
        rids: Vec<Rid>,
        /// They hold every acknowledged write up to here.
        base: Ver,
        /// How far the journal of each one's disk had got, as it had last told the caller.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        told: BTreeMap<Rid, u64>,
    },
    /// [`Command::Add`].
    Add {
        /// Who.
        rid: Rid,
        /// The storage it has now.
        store_uuid: StoreUuid,
    },
    /// [`Command::Scrubbed`].
    Scrubbed {
        /// Which scrub.
        id: u64,
        /// What it met.
        report: ScrubReport,
    },
}

/// Every mutation. Commands about a volume name the epoch they were decided on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Names the cluster; the very first command.
    Init {
        /// Random.
        cluster: ClusterId,
        /// For people.
        name: String,
    },
    /// Adds a node, or updates the one with this uuid.
    PutNode {
        /// Unique.
        name: String,
        /// The number it was given before; none when it joins. Who was removed meanwhile must not come back as a new one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeId>,
        /// Of its data directory.
        uuid: BootId,
        /// Where it is reached.
        addr: Addresses,
        /// Topology and free labels.
        labels: std::collections::BTreeMap<String, String>,
        /// Release.
        version: String,
        /// What its metadata log says of itself, once it has one.
        #[serde(default)]
        log: Box<OwnLog>,
    },
    /// Adds a disk, or updates the one with this uuid.
    PutDisk {
        /// Whose.
        node: NodeId,
        /// From its superblock.
        uuid: DiskUuid,
        /// Where on its node.
        path: String,
        /// Class.
        media: Media,
        /// Bytes for data.
        capacity: u64,
    },
    /// Records a disk's health.
    SetDiskState {
        /// Which.
        disk: DiskId,
        /// Its health.
        state: DiskState,
    },
    /// Creates a volume with replicas on these disks (decided by [`crate::plan`]).
    CreateVolume {
        /// Unique.
        name: String,
        /// Checked attributes.
        attrs: AttrMap,
        /// Random.
        lineage: Lineage,
        /// Per shard: the disks.
        shards: Vec<Vec<DiskId>>,
    },
    /// Deletes a detached volume; its replicas become tombstones.
    DeleteVolume {
        /// Which.
        vol: VolumeId,
        /// Compare-and-set.
        epoch: Epoch,
    },
    /// Changes attributes (grow included; a grown volume may need more shards).
    SetPolicy {
        /// Which.
        vol: VolumeId,
        /// Compare-and-set.
        epoch: Epoch,
        /// What changes.
        change: AttrMap,
        /// Disks of shards that are new.
        new_shards: Vec<Vec<DiskId>>,
    },
    /// A node has initialised a replica's storage.
    ReplicaMade {
        /// Of which volume.
        vol: VolumeId,
        /// Which replica.
        rid: Rid,
        /// What it was initialised with.
        store_uuid: StoreUuid,
    },
    /// A node has deleted a removed replica's data.
    ReplicaGone {
        /// Which replica.
        rid: Rid,
    },
    /// Gives the volume to a node: a new term.
    Attach {
        /// Which.
        vol: VolumeId,
        /// Compare-and-set.
        epoch: Epoch,
        /// To whom.
        node: NodeId,
        /// The attachment.
        session: SessionId,
        /// Take it from its present coordinator, which is dead or told to let go.
        steal: bool,
        /// Only to look after its replicas.
        #[serde(default)]
        maintenance: bool,
    },
    /// The coordinator has drained and lets go.
    Detach {
        /// Which.
        vol: VolumeId,
        /// Must be the present attachment.
        session: SessionId,
    },
    /// The coordinator reached service (status only).
    Activated {
        /// Which.
        vol: VolumeId,
        /// Its term.
        term: Term,
    },
    /// Takes members out of the in-sync set. An empty list is a no-op bump that resolves an unknown `Add`.
    Drop {
        /// Which volume.
        vol: VolumeId,
        /// Which shard.
        shard: u32,
        /// Compare-and-set.
        epoch: Epoch,
        /// The caller's.
        term: Term,
        /// Who.
        rids: Vec<Rid>,
        /// They hold every acknowledged write up to here.
        base: Ver,
        /// How far the journal of each one's disk had got, as it had last told the caller.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        told: BTreeMap<Rid, u64>,
    },
    /// What the coordinators of several shards of one volume want, all decided on one record: each change is done or refused by itself,
    /// and the epoch is raised once. Refused only if every change is.
    Together {
        /// Which volume.
        vol: VolumeId,
        /// Compare-and-set.
        epoch: Epoch,
        /// The caller's.
        term: Term,
        /// At most one of each shard.
        changes: Vec<ShardChange>,
    },
    /// Replaces a replica of a shard that is not part of the volume yet, because its node does not make it: nothing was ever written
    /// there.
    ReplaceUnmade {
        /// Which volume.
        vol: VolumeId,
        /// Which shard.
        shard: u32,
        /// Compare-and-set.
        epoch: Epoch,
        /// Who.
        rid: Rid,
        /// Where the new one goes. Without a place the replica leaves the in-sync set, and the shard begins with the others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk: Option<DiskId>,
    },
    /// Out → Syncing.
    SyncStart {
        /// Which volume.
        vol: VolumeId,
        /// Which shard.
        shard: u32,
        /// Compare-and-set.
        epoch: Epoch,
        /// The caller's.
        term: Term,
        /// Who.
        rid: Rid,
        /// Which sync.
        sync_id: u64,
    },
    /// Syncing → InSync.
    Add {
        /// Which volume.
        vol: VolumeId,
        /// Which shard.
        shard: u32,
        /// Compare-and-set.
        epoch: Epoch,
        /// The caller's.
        term: Term,
        /// Who.
        rid: Rid,
        /// The storage it has now.
        store_uuid: StoreUuid,
    },
    /// A new replica, Out with base 0.
    AddReplica {
        /// Which volume.
        vol: VolumeId,
        /// Which shard.
        shard: u32,
        /// Compare-and-set.
        epoch: Epoch,
        /// Where.
        disk: DiskId,
    },
    /// Marks a replica as not wanted where it is.
    Leave {
        /// Which volume.
        vol: VolumeId,
        /// Which shard.
        shard: u32,
        /// Compare-and-set.
        epoch: Epoch,
        /// Who.
        rid: Rid,
    },
    /// Says what is wanted of a node.
    SetNodeMode {
        /// Which.
        node: NodeId,
        /// What.
        mode: NodeMode,
    },
    /// Forgets a node that holds nothing any more.
    RemoveNode {
        /// Which.
        node: NodeId,
    },
    /// Moves a disk's replicas elsewhere, or stops doing so.
    SetDiskDraining {
        /// Which.
        disk: DiskId,
        /// Yes or no.
        draining: bool,
    },
    /// Holds a job, or lets it go on. What was begun of it is finished, but a copy is not.
    #[serde(alias = "pause_drain")]
    PauseJob {
        /// Which.
        of: Job,
        /// Hold it.
        paused: bool,
    },
    /// Forgets a disk that holds nothing any more.
    RemoveDisk {
        /// Which.
        disk: DiskId,
    },
    /// Stops or resumes making and moving replicas, for the whole cluster.
    PauseRebuild {
        /// Stop.
        paused: bool,
    },
    /// Moves a replica elsewhere, or leaves it where it is after all.
    Move {
        /// Which volume.
        vol: VolumeId,
        /// Which shard.
        shard: u32,
        /// Compare-and-set.
        epoch: Epoch,
        /// Who.
        rid: Rid,
        /// Yes or no.
        moving: bool,
    },
    /// Begins or ends to move replicas from full disks to empty ones.
    Rebalance {
        /// Begin.
        on: bool,
    },
    /// Begins a scrub of a volume, or ends it.
    Scrub {
        /// Which volume.
        vol: VolumeId,
        /// Compare-and-set.
        epoch: Epoch,
        /// Begin.
        on: bool,
    },
    /// A coordinator is through with a shard's scrub.
    Scrubbed {
        /// Which volume.
        vol: VolumeId,
        /// Which shard.
        shard: u32,
        /// Compare-and-set.
        epoch: Epoch,
        /// The caller's.
        term: Term,
        /// Which scrub.
        id: u64,
        /// What it met.
        report: ScrubReport,
    },
    /// How many nodes should vote on metadata: 1, 3 or 5.
    SetVoters {
        /// So many.
        voters: usize,
    },
    /// Removes a replica that is not in-sync.
    RemoveReplica {
        /// Which volume.
        vol: VolumeId,
        /// Which shard.
        shard: u32,
        /// Compare-and-set.
        epoch: Epoch,
        /// Who.
        rid: Rid,
    },
    /// The last resort: one replica becomes the truth, under a new lineage.
    ForceInsync {
        /// Which volume.
        vol: VolumeId,
        /// Which shard.
        shard: u32,
        /// Compare-and-set.
        epoch: Epoch,
        /// Who.
        rid: Rid,
        /// Random.
        lineage: Lineage,
        /// Who ordered it.
        operator: String,
        /// And why.
        reason: String,
    },
    /// Records a snapshot that every member holds.
    SnapAdd {
        /// Which volume.
        vol: VolumeId,
        /// Compare-and-set.
        epoch: Epoch,
        /// The caller's.
        term: Term,
        /// Number.
        id: u64,
        /// Per shard.
        cuts: Vec<Ver>,
    },
    /// Forgets a snapshot.
    SnapDel {
        /// Which volume.
        vol: VolumeId,
        /// Compare-and-set.
        epoch: Epoch,
        /// Number.
        id: u64,
    },
    /// Raises the version by which commands are encoded and applied, by one. There is no way back: from then on every node
    /// must know it. The leader proposes it only while every node has told that it does.
    RaiseVersion {
        /// The new version: one more than the present one.
        to: u32,
    },
}

impl Command {
    /// The first envelope version that has this command.
    pub fn since(&self) -> u32 {
        match self {
            Command::Together { .. } | Command::ReplaceUnmade { .. } | Command::RaiseVersion { .. } => 2,
            _ => 1,
        }
    }
}

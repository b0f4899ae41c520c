//! Every mutation of the cluster.
//!
//! The encoding is JSON under an [`Envelope`] with a version (`docs/wire.md`): rare, small, readable in the
//! log. A field that a node does not know is refused: ignored by one node and honoured by another it would
//! fork the state. New fields and new commands therefore come with a new version, which a cluster uses once
//! all its nodes know it ([`Command::RaiseVersion`], decisions/0035).

mod by_version;
mod envelope;
mod shard;

pub use crate::version::{COMMAND_VERSION, FIRST_VERSION};
pub use envelope::*;
pub use shard::*;

use crate::record::{Addresses, DiskFault, DiskState, DropReason, NodeMode, OwnLog, ScrubReport};
use hf_policy::attributes::Media;
use hf_policy::policy::AttrMap;
use hf_policy::{
    BootId, ClusterId, DiskId, DiskUuid, Epoch, Lineage, NodeId, Rid, SessionId, StoreUuid, Term, Ver, VolumeId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A job: work that goes on until it is done, and that an operator can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Job {
    /// The drain of a node.
    Node(NodeId),
    /// The drain of a disk.
    Disk(DiskId),
    /// The rebalancing of the cluster's disks.
    Rebalance,
    /// The scrub of a volume.
    Scrub(VolumeId),
    /// The filling, catching up or moving of a replica.
    Replica(Rid),
}

/// Every mutation of the cluster. Commands about a volume name the epoch on which they were decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Names the cluster; the very first command.
    Init {
        /// Drawn at random by the proposer.
        cluster: ClusterId,
        /// The cluster's name, for people.
        name: String,
    },
    /// Adds a node, or updates the one with this uuid.
    PutNode {
        /// Unique among nodes, chosen by the operator.
        name: String,
        /// The number that the node was given before; none when it joins. With a number it must be on record:
        /// a node that was removed meanwhile must not come back as a new one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeId>,
        /// Made once for the node's data directory.
        uuid: BootId,
        /// The addresses at which the node is reached.
        addr: Addresses,
        /// Topology and free labels.
        labels: std::collections::BTreeMap<String, String>,
        /// The release that the node runs, for people.
        version: String,
        /// What the node's metadata log says of itself; empty before the node has one.
        #[serde(default)]
        log: Box<OwnLog>,
    },
    /// Adds a disk, or updates the one with this uuid.
    PutDisk {
        /// The node whose disk it is.
        node: NodeId,
        /// From its superblock.
        uuid: DiskUuid,
        /// Directory or device on its node, for people.
        path: String,
        /// The class of the disk; never `any`.
        media: Media,
        /// Bytes for data.
        capacity: u64,
    },
    /// Records a disk's health.
    SetDiskState {
        /// The disk that it is about.
        disk: DiskId,
        /// The health to be recorded.
        state: DiskState,
        /// What is wrong with it; absent: nothing, or not known. New in version 3.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<DiskFault>,
    },
    /// Creates a volume with replicas on these disks (decided by [`crate::plan`]).
    CreateVolume {
        /// Unique among volumes, chosen by the operator.
        name: String,
        /// Attributes in normal form, checked by the proposer.
        attrs: AttrMap,
        /// Drawn at random by the proposer.
        lineage: Lineage,
        /// For each shard the disks that get a replica.
        shards: Vec<Vec<DiskId>>,
    },
    /// Deletes a detached volume; its replicas become tombstones.
    DeleteVolume {
        /// The volume that it is about.
        vol: VolumeId,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
    },
    /// Changes attributes (grow included; a grown volume may need more shards).
    SetPolicy {
        /// The volume that it is about.
        vol: VolumeId,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The attributes that change, with their new values.
        change: AttrMap,
        /// For each shard that growth adds the disks that get a replica.
        new_shards: Vec<Vec<DiskId>>,
    },
    /// A node has initialised a replica's storage.
    ReplicaMade {
        /// Of which volume.
        vol: VolumeId,
        /// The replica that it is about.
        rid: Rid,
        /// The identity of the storage, drawn by the node.
        store_uuid: StoreUuid,
    },
    /// A node has deleted a removed replica's data.
    ReplicaGone {
        /// The replica that it is about.
        rid: Rid,
    },
    /// Gives the volume to a node, under a new term.
    Attach {
        /// The volume that it is about.
        vol: VolumeId,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The node that gets the volume.
        node: NodeId,
        /// The id of the new attachment, drawn by the node.
        session: SessionId,
        /// Take the volume from its present coordinator, which is dead or told to let go.
        steal: bool,
        /// The node only looks after the volume's replicas; it exports nothing.
        #[serde(default)]
        maintenance: bool,
    },
    /// The coordinator has answered every request and lets the volume go.
    Detach {
        /// The volume that it is about.
        vol: VolumeId,
        /// The attachment that ends; it must be the present one.
        session: SessionId,
    },
    /// The coordinator has taken over and serves: every replica in sync has promised its term.
    Activated {
        /// The volume that it is about.
        vol: VolumeId,
        /// The term that is served now.
        term: Term,
    },
    /// Takes members out of the in-sync set. With an empty list it only raises the epoch, so that an `Add`
    /// whose outcome is unknown is refused from then on.
    Drop {
        /// The volume that it is about.
        vol: VolumeId,
        /// Number of the shard in its volume.
        shard: u32,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The caller's term; it must be the record's.
        term: Term,
        /// The replicas that leave.
        rids: Vec<Rid>,
        /// A version up to which each of them holds every acknowledged write.
        base: Ver,
        /// For each of them the position of its disk's journal, as it last told the caller; absent: not known.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        told: BTreeMap<Rid, u64>,
        /// Why each of them leaves; absent: not known. New in version 3.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        reasons: BTreeMap<Rid, DropReason>,
    },
    /// Changes of several shards of one volume, all decided on one record. Each is done or refused by itself,
    /// and the epoch is raised once. The command is refused only if every change is.
    Together {
        /// The volume that it is about.
        vol: VolumeId,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The caller's term; it must be the record's.
        term: Term,
        /// The changes, at most one of each shard.
        changes: Vec<ShardChange>,
    },
    /// Replaces a replica that its node does not make, in a shard that is not part of the volume yet: nothing was ever
    /// written there.
    ReplaceUnmade {
        /// The volume that it is about.
        vol: VolumeId,
        /// Number of the shard in its volume.
        shard: u32,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The replica that it is about.
        rid: Rid,
        /// The disk of the new replica. None: the old one leaves the in-sync set, and the shard begins with the others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk: Option<DiskId>,
    },
    /// A replica that is out begins to be caught up.
    SyncStart {
        /// The volume that it is about.
        vol: VolumeId,
        /// Number of the shard in its volume.
        shard: u32,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The caller's term; it must be the record's.
        term: Term,
        /// The replica that it is about.
        rid: Rid,
        /// The id of the sync, drawn by the coordinator.
        sync_id: u64,
    },
    /// A replica that was caught up becomes a member of the in-sync set.
    Add {
        /// The volume that it is about.
        vol: VolumeId,
        /// Number of the shard in its volume.
        shard: u32,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The caller's term; it must be the record's.
        term: Term,
        /// The replica that it is about.
        rid: Rid,
        /// The storage that it was filled in.
        store_uuid: StoreUuid,
    },
    /// Adds a replica that holds nothing yet: it is out, with base 0.
    AddReplica {
        /// The volume that it is about.
        vol: VolumeId,
        /// Number of the shard in its volume.
        shard: u32,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The disk that is to hold it.
        disk: DiskId,
    },
    /// Marks a replica as not wanted where it is.
    Leave {
        /// The volume that it is about.
        vol: VolumeId,
        /// Number of the shard in its volume.
        shard: u32,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The replica that it is about.
        rid: Rid,
    },
    /// Records what the operator wants of a node.
    SetNodeMode {
        /// The node that it is about.
        node: NodeId,
        /// The mode that it gets.
        mode: NodeMode,
    },
    /// Forgets a node that holds nothing any more.
    RemoveNode {
        /// The node that it is about.
        node: NodeId,
    },
    /// Moves a disk's replicas elsewhere, or stops doing so.
    SetDiskDraining {
        /// The disk that it is about.
        disk: DiskId,
        /// True: move them. False: stop.
        draining: bool,
    },
    /// Holds a job, or lets it go on. Steps that are under way complete, except copies, which stop.
    #[serde(alias = "pause_drain")]
    PauseJob {
        /// The job to be held or let go on.
        of: Job,
        /// True: hold it. False: let it go on.
        paused: bool,
    },
    /// Forgets a disk that holds nothing any more.
    RemoveDisk {
        /// The disk that it is about.
        disk: DiskId,
    },
    /// Stops or resumes making and moving replicas, for the whole cluster.
    PauseRebuild {
        /// True: stop. False: resume.
        paused: bool,
    },
    /// Moves a replica elsewhere, or leaves it where it is after all.
    Move {
        /// The volume that it is about.
        vol: VolumeId,
        /// Number of the shard in its volume.
        shard: u32,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The replica that it is about.
        rid: Rid,
        /// True: move it. False: leave it where it is.
        moving: bool,
    },
    /// Begins or ends a rebalancing, which moves replicas from full disks to empty ones.
    Rebalance {
        /// True: begin. False: end.
        on: bool,
    },
    /// Begins a scrub of a volume, or ends it.
    Scrub {
        /// The volume that it is about.
        vol: VolumeId,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// True: begin. False: give the present one up.
        on: bool,
    },
    /// A coordinator has scrubbed its shard.
    Scrubbed {
        /// The volume that it is about.
        vol: VolumeId,
        /// Number of the shard in its volume.
        shard: u32,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The caller's term; it must be the record's.
        term: Term,
        /// The scrub's id; one that is over is refused.
        id: u64,
        /// What the scrub of this shard met.
        report: ScrubReport,
    },
    /// How many nodes should vote on metadata: 1, 3 or 5.
    SetVoters {
        /// The number of voters that is aimed at.
        voters: usize,
    },
    /// Removes a replica that is not in-sync.
    RemoveReplica {
        /// The volume that it is about.
        vol: VolumeId,
        /// Number of the shard in its volume.
        shard: u32,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The replica that it is about.
        rid: Rid,
    },
    /// The last resort: one replica becomes the only member of the in-sync set, under a new lineage.
    ForceInsync {
        /// The volume that it is about.
        vol: VolumeId,
        /// Number of the shard in its volume.
        shard: u32,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The replica that it is about.
        rid: Rid,
        /// Drawn at random by the proposer.
        lineage: Lineage,
        /// The operator who ordered it, for the event.
        operator: String,
        /// Why it was ordered, for the event.
        reason: String,
    },
    /// Records a snapshot that every member holds.
    SnapAdd {
        /// The volume that it is about.
        vol: VolumeId,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The caller's term; it must be the record's.
        term: Term,
        /// Number of the snapshot, above all of the volume's.
        id: u64,
        /// For each shard the last version that the snapshot holds.
        cuts: Vec<Ver>,
    },
    /// Forgets a snapshot.
    SnapDel {
        /// The volume that it is about.
        vol: VolumeId,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// Number of the snapshot to be forgotten.
        id: u64,
    },
    /// Raises the version by which commands are encoded and applied, by one. There is no way back: from then
    /// on every node must know it. The leader proposes it only while every node has told that it does.
    RaiseVersion {
        /// The new version: one more than the present one.
        to: u32,
    },
    /// Gives a volume that is attached nowhere another name.
    RenameVolume {
        /// The volume that it is about.
        vol: VolumeId,
        /// Compare-and-set: the record's epoch when this was decided.
        epoch: Epoch,
        /// The new name, unique among volumes.
        name: String,
    },
    /// Mutes a health check for a while, or changes the mute that there is for this code and subject.
    Mute {
        /// The code of the check.
        code: String,
        /// What the check is about; empty: every subject.
        subject: String,
        /// Who mutes it.
        by: String,
        /// Why, for people.
        reason: String,
        /// When the mute ends, Unix milliseconds.
        until_ms: u64,
        /// It stays although the check is raised for more, or more severely.
        sticky: bool,
        /// For how many subjects the check is raised now.
        count: u64,
    },
    /// Ends a mute.
    Unmute {
        /// The code of the muted check.
        code: String,
        /// The subject of the mute, as it was given.
        subject: String,
    },
}

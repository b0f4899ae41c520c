//! Nodes and their disks.

use super::common::list;
use super::{Condition, HealthRef, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What the operator wants of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It holds replicas and gets new ones.
    Active,
    /// Its replicas move elsewhere, and it gets no new ones.
    Draining,
    /// It will be away: nothing is made anew elsewhere because of that.
    Maintenance,
}

/// A node's part in the metadata group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// It leads the metadata group.
    Leader,
    /// It votes on metadata.
    Voter,
    /// It catches up before it votes.
    Learner,
    /// It follows the record.
    Follower,
    /// The node that answered does not know, because it hears no leader.
    Unknown,
}

/// The addresses at which a node is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeAddresses {
    /// Control plane, `host:port`.
    pub api: String,
    /// Replication between nodes, `host:port`.
    pub data: String,
    /// NBD exports, `host:port`; empty if they are off.
    pub nbd: String,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its number in the cluster, never reused.
    pub id: u64,
    /// Its name, unique.
    pub name: String,
    /// The revision of the record that changed it last.
    pub revision: u64,
    /// Identity of its data directory.
    pub uuid: String,
    /// Where it is reached.
    pub addresses: NodeAddresses,
    /// Topology and free labels.
    pub labels: BTreeMap<String, String>,
    /// The release that it runs.
    pub version: String,
    /// What the operator wants of it.
    pub mode: Mode,
    /// Its drain is held.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub held: bool,
    /// Its part in the metadata group.
    pub part: Part,
    /// Its state in one word: `up`, `down` or `unknown`.
    pub state: String,
    /// Seconds since the leader heard it; absent if the leader has not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heard_seconds: Option<f64>,
    /// What holds of it: Up, ClockOk, SpaceOk.
    pub conditions: Vec<Condition>,
    /// Health codes that are raised about it.
    pub health: Vec<HealthRef>,
    /// Numbers of its disks.
    pub disks: Vec<u64>,
    /// Replicas that it holds by the record.
    pub replicas: u64,
    /// Volumes that are attached to it.
    pub attached: u64,
}

/// Places in a disk's replica table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Slots {
    /// Replicas that are placed on the disk, or are to be deleted from it.
    pub used: u64,
    /// Replicas that its table can hold; absent if it has not been told.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub total: Option<u64>,
}

/// A disk of some node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Disk {
    /// Its number in the cluster, never reused.
    pub id: u64,
    /// The revision of the record that changed it last.
    pub revision: u64,
    /// The identity in its superblock.
    pub uuid: String,
    /// Name of its node.
    pub node: String,
    /// Directory or device on its node.
    pub path: String,
    /// Its class: `nvme`, `ssd` or `hdd`.
    pub media: String,
    /// Bytes that it has for data.
    pub capacity_bytes: u64,
    /// Bytes in use, as its node told last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub used_bytes: Option<u64>,
    /// Bytes that the volumes placed on it may grow to.
    pub provisioned_bytes: u64,
    /// Places in its replica table.
    pub replica_slots: Slots,
    /// Its state in one word: `ok`, `failing`, `failed`, `missing`, `away` or `unknown`.
    pub state: String,
    /// What is wrong with it; absent if nothing is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// The kind of its fault: `io`, `gone`, `other_identity`, `busy`, `latched`, `unreadable` or `error_budget`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fault: Option<String>,
    /// Since when it has its state, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Time>,
    /// Its replicas move elsewhere, and it gets no new ones.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub draining: bool,
    /// Its drain is held.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub held: bool,
    /// How its I/O is done: `io_uring` or `threads`; absent if it is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backend: Option<String>,
    /// What holds of it: InService, Healthy.
    pub conditions: Vec<Condition>,
    /// Health codes that are raised about it.
    pub health: Vec<HealthRef>,
}

/// What adding a disk answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DiskOutcome {
    /// What happened, in a sentence.
    pub message: String,
    /// The revision of the record that has the disk.
    pub revision: u64,
    /// The new disk.
    pub disk: Disk,
}

list!(
    /// A page of nodes, in the order of their names.
    NodeList of Node
);
list!(
    /// A page of disks, in the order of their numbers.
    DiskList of Disk
);

//! Volumes and their replicas.

use super::common::list;
use super::{Condition, HealthRef, Time, VolumeSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A volume's state in one word; of several that hold, the gravest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Every copy that the policy asks for is there and answers; if it is attached, it is served.
    Ok,
    /// Its replicas are being created for the first time.
    Creating,
    /// It is larger than the part that can be used yet.
    Growing,
    /// Copies are missing; reads and writes go on.
    Degraded,
    /// Fewer copies answer than `min_replicas`: reads go on, writes wait.
    WritesWait,
    /// It is attached, and its node does not serve it.
    NotServed,
    /// No copy that holds every acknowledged write answers.
    Unavailable,
    /// There is no fresh evidence.
    Unknown,
}

impl VolumeState {
    /// The word of the API.
    pub fn word(self) -> &'static str {
        match self {
            VolumeState::Ok => "ok",
            VolumeState::Creating => "creating",
            VolumeState::Growing => "growing",
            VolumeState::Degraded => "degraded",
            VolumeState::WritesWait => "writes_wait",
            VolumeState::NotServed => "not_served",
            VolumeState::Unavailable => "unavailable",
            VolumeState::Unknown => "unknown",
        }
    }
}

/// A replica's state in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopyState {
    /// It holds every acknowledged write, by the record, and its node told lately that its disk serves.
    InSync,
    /// Its node has not made it yet.
    Creating,
    /// It missed writes, and waits to be caught up.
    Out,
    /// It is being caught up.
    Syncing,
    /// It is in sync by the record, but its node does not answer.
    Away,
    /// Its disk does not serve.
    DiskDown,
    /// There is no fresh evidence yet.
    Unknown,
}

impl CopyState {
    /// The word of the API.
    pub fn word(self) -> &'static str {
        match self {
            CopyState::InSync => "in_sync",
            CopyState::Creating => "creating",
            CopyState::Out => "out",
            CopyState::Syncing => "syncing",
            CopyState::Away => "away",
            CopyState::DiskDown => "disk_down",
            CopyState::Unknown => "unknown",
        }
    }
}

/// One copy of a shard of a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Replica {
    /// Its number in the cluster, never reused.
    pub id: u64,
    /// Name of its volume.
    pub volume: String,
    /// Number of the shard in its volume.
    pub shard: u32,
    /// Name of the node that holds it.
    pub node: String,
    /// Number of the disk that holds it.
    pub disk: u64,
    /// Its state, by record and fresh evidence.
    pub state: CopyState,
    /// Why it is not in sync, in a sentence; absent if it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// Since when it is not in sync, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Time>,
    /// Bytes that it takes on its disk, as its node told last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub used_bytes: Option<u64>,
    /// It is to live elsewhere, and leaves when others are in sync.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub moving: bool,
    /// An operator holds its move, or its filling.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub held: bool,
    /// Its copy, while one is under way.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sync: Option<Sync>,
}

/// The progress of a copy to a replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sync {
    /// What it does now: `comparing`, `copying`, …
    pub stage: String,
    /// Bytes compared or copied so far.
    pub done_bytes: u64,
    /// Bytes to be compared.
    pub total_bytes: u64,
    /// Bytes copied so far: only what differs is copied.
    pub copied_bytes: u64,
    /// Speed of the copy.
    pub bytes_per_second: u64,
}

/// Where a volume is attached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attachment {
    /// Name of the node.
    pub node: String,
    /// The attachment's term; each attach raises it.
    pub term: u64,
    /// Since when it is attached.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Time>,
    /// Whether clients' requests are answered, as the node told lately; absent: unknown.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub serving: Option<bool>,
    /// What it waits for, while it does not serve.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waits_for: Option<String>,
    /// Connections of clients, as the node told lately.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub clients: Option<u32>,
    /// Where clients reach the volume.
    pub uris: Vec<String>,
    /// The node is away, and this one looks after the replicas meanwhile.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub looked_after_by: Option<String>,
}

/// What the last scrub of a volume met.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Scrubbed {
    /// When it was completed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Time>,
    /// Chunks of 1 MiB that were read and compared on every in-sync replica.
    pub chunks: u64,
    /// Chunks for which a replica did not answer in time.
    pub skipped: u64,
    /// Blocks that were unreadable, wrong, or older than on other replicas.
    pub bad: u64,
    /// Blocks that were replaced from another replica.
    pub repaired: u64,
    /// Blocks that are bad on every replica.
    pub lost: u64,
    /// Blocks of equal versions with different bytes.
    pub diverged: u64,
}

/// A volume of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Its number in the cluster, never reused.
    pub id: u64,
    /// Its name, unique.
    pub name: String,
    /// The revision of the record that changed it last.
    pub revision: u64,
    /// Raised by every change of it; give it in `If-Match`.
    pub epoch: u64,
    /// When it was created.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<Time>,
    /// Its free labels, by key.
    pub labels: BTreeMap<String, String>,
    /// Its policy as it was set.
    pub spec: VolumeSpec,
    /// Its policy with all defaults.
    pub effective: VolumeSpec,
    /// The size that clients see once all of it is made.
    pub size_bytes: u64,
    /// The part that can be used; less than its size while it grows.
    pub usable_bytes: u64,
    /// Bytes that its replicas take on their disks, all together; absent while some are not told.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub used_bytes: Option<u64>,
    /// Its state in one word.
    pub state: VolumeState,
    /// The state's reason in a sentence; absent if it is ok.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// What holds of it: Ready, Attached, Served, Writable, Redundant, Placed.
    pub conditions: Vec<Condition>,
    /// Health codes that are raised about it.
    pub health: Vec<HealthRef>,
    /// Where it is attached, if it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attachment: Option<Attachment>,
    /// Copies that answer and are in sync, in the shard that has the fewest.
    pub copies_ok: u32,
    /// Copies that the policy asks for.
    pub copies_wanted: u32,
    /// Its replicas, by shard and number; in a list of volumes the first 16.
    pub replicas: Vec<Replica>,
    /// Number of its replicas.
    pub replicas_total: u64,
    /// Names of jobs that are about it.
    pub jobs: Vec<String>,
    /// What the last scrub met.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scrubbed: Option<Scrubbed>,
}

/// What a change of a volume answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VolumeOutcome {
    /// What happened, in a sentence.
    pub message: String,
    /// The change is in force. False: it is recorded, and goes on.
    pub done: bool,
    /// What the change waits for, while it is not done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waiting_for: Option<String>,
    /// The revision of the record that has the change.
    pub revision: u64,
    /// The volume after the change; with `dry_run` absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub volume: Option<Volume>,
    /// With `dry_run`: the disks that would get a replica, for each shard.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub would_place: Option<Vec<Vec<u64>>>,
    /// Nothing was changed: `dry_run` was asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub dry_run: bool,
}

/// What a volume did in one interval of its node's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatsPoint {
    /// The end of the interval.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
    /// Reads answered in a second.
    pub reads_per_second: f64,
    /// Writes answered in a second.
    pub writes_per_second: f64,
    /// Bytes read in a second.
    pub read_bytes_per_second: u64,
    /// Bytes written in a second.
    pub written_bytes_per_second: u64,
    /// Half of the reads took no longer; absent if there was none.
    pub read_p50_seconds: Option<f64>,
    /// 99 of 100 reads took no longer; absent if there was none.
    pub read_p99_seconds: Option<f64>,
    /// Half of the writes took no longer; absent if there was none.
    pub write_p50_seconds: Option<f64>,
    /// 99 of 100 writes took no longer; absent if there was none.
    pub write_p99_seconds: Option<f64>,
}

/// A volume's recent history, kept by the node to which it is attached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VolumeStats {
    /// Name of the volume.
    pub volume: String,
    /// Name of the node that kept the history; absent if the volume is not attached.
    pub node: Option<String>,
    /// Seconds between two points.
    pub interval_seconds: u64,
    /// The points, oldest first; at most 15 minutes.
    pub points: Vec<StatsPoint>,
}

list!(
    /// A page of volumes, in the order of their names.
    VolumeList of Volume
);
list!(
    /// A page of replicas, in the order of their numbers.
    ReplicaList of Replica
);

//! Jobs: whatever moves, copies or compares replicas. No job has a record of its own; each follows from the
//! cluster's record, so it survives everything that the record survives, and its name says what it is about.

use super::common::list;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Empties a node.
    Node,
    /// Empties a disk.
    Disk,
    /// Fills, catches up or removes a replica.
    Replica,
    /// Reads and compares all replicas of a volume.
    Scrub,
    /// Moves replicas from full disks to empty ones.
    Rebalance,
}

impl JobKind {
    /// The first half of a job's name.
    pub fn word(self) -> &'static str {
        match self {
            JobKind::Node => "node",
            JobKind::Disk => "disk",
            JobKind::Replica => "replica",
            JobKind::Scrub => "scrub",
            JobKind::Rebalance => "rebalance",
        }
    }
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It goes on.
    Running,
    /// It waits for its turn, or for something that `why_waiting` names.
    Waiting,
    /// An operator holds it.
    Held,
}

/// A job that goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its name: `node/NAME`, `disk/ID`, `replica/ID`, `scrub/VOLUME` or `rebalance/cluster`.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// What it is about: the name of the node or volume, or the number of the disk.
    pub subject: String,
    /// Name of the node that does the work, where one does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// How it stands.
    pub state: JobState,
    /// What happens, in a few words.
    pub message: String,
    /// Why it waits, while it does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why_waiting: Option<String>,
    /// Replicas that are still to be moved, of a drain.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replicas_left: Option<u64>,
    /// Bytes that are done, where they are counted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub done_bytes: Option<u64>,
    /// Bytes that are to be done, where they are counted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub total_bytes: Option<u64>,
    /// Bytes copied so far: only what differs is copied.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub copied_bytes: Option<u64>,
    /// Speed, where it is measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_per_second: Option<u64>,
    /// Seconds that are left at most, at the present speed; absent if that cannot be told.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eta_seconds: Option<u64>,
    /// What asked for it: a policy, an operator, a failing disk.
    pub because: String,
}

list!(
    /// A page of jobs, in the order of their names.
    JobList of Job
);

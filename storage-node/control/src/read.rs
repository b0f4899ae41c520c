//! Every read, as a value: it is made by a door, goes to the leader if another node leads, and is answered there.

use serde::{Deserialize, Serialize};

/// What a list is narrowed to, and where its page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// At most so many items; 0: the default, 100. At most 1,000.
    pub limit: usize,
    /// The cursor of the page before.
    pub after: Option<String>,
    /// Part of the name; of a replica: of its volume's.
    pub name: Option<String>,
    /// Only this state.
    pub state: Option<String>,
    /// Only what has this health code. Replicas and jobs have none.
    pub health: Option<String>,
    /// Only what concerns this node.
    pub node: Option<String>,
    /// Only what is on this disk.
    pub disk: Option<u64>,
    /// Only what belongs to this volume.
    pub volume: Option<String>,
    /// Only what has these labels: `key=value`, `key!=value` or `key`, separated by commas. A replica has those of its
    /// volume, a disk those of its node, a job none.
    pub label: Option<String>,
}

/// Everything that can be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Query {
    /// A list of volumes.
    Volumes(Filter),
    /// One volume, by its name.
    Volume(String),
    /// A list of replicas.
    Replicas(Filter),
    /// One replica, by its number.
    Replica(u64),
    /// A list of nodes.
    Nodes(Filter),
    /// One node, by its name.
    Node(String),
    /// A list of disks.
    Disks(Filter),
    /// One disk, by its number.
    Disk(u64),
    /// A list of jobs.
    Jobs(Filter),
    /// One job, by its name.
    Job(String),
    /// Events after a revision.
    Events {
        /// Events of later revisions only.
        after: u64,
        /// At most so many.
        limit: usize,
        /// Only about this subject.
        subject: Option<String>,
        /// Only of this kind.
        kind: Option<String>,
    },
    /// Health codes that are raised.
    Health,
    /// The cluster as a whole.
    Cluster,
}

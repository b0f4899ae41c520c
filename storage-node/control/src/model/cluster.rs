//! The cluster as a whole.

use super::Severity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Capacity of all disks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// Bytes for data of all disks on record that serve.
    pub raw_bytes: u64,
    /// Bytes in use on them, as told last.
    pub used_bytes: u64,
    /// Bytes that all replicas may grow to.
    pub provisioned_bytes: u64,
    /// Provisioned over raw; 1 or less: every volume can be filled.
    pub over_commit: f64,
    /// Bytes that are free on the nodes that are left when the node with the most bytes in use is lost, less
    /// what that node holds. Negative: so much could not be rebuilt.
    pub spare_bytes: i64,
    /// Name of the node whose loss would cost the most.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub largest_node: Option<String>,
    /// Bytes in use on that node.
    pub largest_node_used_bytes: u64,
}

/// How many of something are in which state.
pub type Counts = BTreeMap<String, u64>;

/// The cluster as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// The identity of the cluster.
    pub id: String,
    /// The name that it has.
    pub name: String,
    /// The revision of the record.
    pub revision: u64,
    /// The version by which its record is written.
    pub version: u32,
    /// The newest version that the node that answers can write.
    pub newest_version: u32,
    /// Name of the node that leads; absent: none does, no change is possible, attached volumes go on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub leader: Option<String>,
    /// Names of the nodes that vote.
    pub voters: Vec<String>,
    /// How many nodes should vote.
    pub voters_wanted: u64,
    /// The set of voters is being changed: do not stop nodes now.
    pub voters_changing: bool,
    /// Name of the node that answers.
    pub answered_by: String,
    /// Capacity of all disks.
    pub capacity: Capacity,
    /// Nodes by state.
    pub nodes: Counts,
    /// Disks by state.
    pub disks: Counts,
    /// Volumes by state.
    pub volumes: Counts,
    /// Making and moving of replicas is held.
    pub rebuild_paused: bool,
    /// The gravest health code that is raised and not silenced.
    pub worst: Severity,
    /// In one word: `ok`, `warning`, `error` or `unknown`.
    pub health: String,
}

/// An attribute of a volume's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttributeInfo {
    /// The key of the attribute.
    pub key: String,
    /// What a value looks like.
    pub values: String,
    /// Its default; empty: it must be set.
    pub default: String,
    /// Whether it changes online: `yes`, `grow`, `moves data` or `no`.
    pub online: String,
    /// The release that introduced it.
    pub since: String,
    /// What it does.
    pub help: String,
    /// What its values are: `bytes`, `seconds`, `count`, `percent`, `flag`, `word` or `names`.
    pub kind: String,
    /// The words that it may be, if it is one of a few.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub words: Vec<String>,
}

/// All attributes of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttributeList {
    /// The attributes, in the order people read them.
    pub items: Vec<AttributeInfo>,
}

/// All attributes of a policy, from the attribute table.
pub fn attributes() -> AttributeList {
    use hf_policy::attribute::Kind;
    let kind = |k: Kind| match k {
        Kind::Bytes => "bytes",
        Kind::Seconds => "seconds",
        Kind::Count => "count",
        Kind::Percent => "percent",
        Kind::Flag => "flag",
        Kind::Word(_) => "word",
        Kind::Names => "names",
    };
    let words = |k: Kind| match k {
        Kind::Word(words) => words.iter().map(|w| w.to_string()).collect(),
        _ => Vec::new(),
    };
    let row = |a: &hf_policy::Attribute| AttributeInfo {
        key: a.key.into(),
        values: a.values.into(),
        default: a.default.shown().into(),
        online: a.online.text().into(),
        since: a.since.into(),
        help: a.help.into(),
        kind: kind(a.kind).into(),
        words: words(a.kind),
    };
    AttributeList { items: hf_policy::TABLE.iter().map(row).collect() }
}

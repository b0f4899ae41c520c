//! Nodes.

use super::log::LogRecord;
use hf_policy::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a node is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Control plane: Raft, metadata, API (`host:port`).
    pub api: String,
    /// Replication (`host:port`).
    pub data: String,
    /// NBD export (`host:port`), empty if off.
    pub nbd: String,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id, also its Raft id.
    pub id: NodeId,
    /// Unique, chosen by the operator.
    pub name: String,
    /// Made once per data directory: a node that lost its directory is another node.
    pub uuid: u128Hex,
    /// Where it is reached.
    pub addr: Addresses,
    /// Topology and free labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Release it runs, for people.
    #[serde(default)]
    pub version: String,
    /// What the operator wants of it.
    #[serde(default)]
    pub mode: NodeMode,
    /// Its drain is held: nothing more is begun because of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain_paused: bool,
    /// Its metadata log.
    #[serde(default)]
    pub log: LogRecord,
    /// Revision of the last change.
    pub rev: u64,
}

/// What the operator wants of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeMode {
    /// Holds replicas.
    #[default]
    Active,
    /// Its replicas move elsewhere, and it gets no new ones.
    Draining,
    /// It will be away: nothing is made anew because of that, and it gets no new replicas.
    Maintenance,
}

/// A `u128` that reads as hexadecimal.
#[allow(non_camel_case_types)]
pub type u128Hex = hf_policy::BootId;

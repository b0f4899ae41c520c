//! What the cluster remembers of a node.

use super::log::LogRecord;
use super::records::{Record, replace};
use crate::cow::CowMap;
use hf_policy::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The addresses at which a node is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// Control plane: Raft, metadata, API (`host:port`).
    pub api: String,
    /// Replication between nodes (`host:port`).
    pub data: String,
    /// NBD exports (`host:port`); empty if they are off.
    pub nbd: String,
}

/// What is recorded of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    /// Its id, also its Raft id.
    pub id: NodeId,
    /// Unique, chosen by the operator.
    pub name: String,
    /// Made once per data directory: a node that lost its directory is another node.
    pub uuid: u128Hex,
    /// The addresses at which it is reached.
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
    /// Its drain is held by an operator: nothing more is begun because of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain_paused: bool,
    /// What is recorded of its metadata log.
    #[serde(default)]
    pub log: LogRecord,
    /// Revision of the last change.
    pub rev: u64,
}

/// Nodes by name and by uuid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeIndex {
    names: CowMap<(String, NodeId), ()>,
    uuids: CowMap<(u128Hex, NodeId), ()>,
}

impl NodeIndex {
    /// The node of a name; of several (in input that this code did not write) the one with the least id.
    pub(crate) fn named(&self, name: &str) -> Option<NodeId> {
        let first = self.names.range_from(&(name.to_string(), NodeId(0))).next();
        first.filter(|((n, _), ())| n == name).map(|((_, id), ())| *id)
    }

    /// The nodes in the order of their names, from the first one after `name` on.
    pub(crate) fn after_name(&self, name: &str) -> impl Iterator<Item = NodeId> + '_ {
        self.names.range_from(&(name.to_string(), NodeId(u64::MAX))).map(|((_, id), ())| *id)
    }

    /// The node of a uuid; of several the one with the least id.
    pub(crate) fn of_uuid(&self, uuid: u128Hex) -> Option<NodeId> {
        let first = self.uuids.range_from(&(uuid, NodeId(0))).next();
        first.filter(|((u, _), ())| *u == uuid).map(|((_, id), ())| *id)
    }
}

impl Record for NodeRecord {
    type Key = NodeId;
    type Index = NodeIndex;
    const KIND: &'static str = "node";

    fn key(&self) -> NodeId {
        self.id
    }
    fn rev(&self) -> u64 {
        self.rev
    }
    fn index(index: &mut NodeIndex, old: Option<&Self>, new: Option<&Self>) {
        let name = |n: &NodeRecord| (n.name.clone(), n.id);
        let uuid = |n: &NodeRecord| (n.uuid, n.id);
        replace(&mut index.names, old.map(name), new.map(name));
        replace(&mut index.uuids, old.map(uuid), new.map(uuid));
    }
}

/// What the operator wants of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NodeMode {
    /// The node holds replicas and gets new ones.
    #[default]
    Active,
    /// The node's replicas move elsewhere, and it gets no new ones.
    Draining,
    /// The node will be away: nothing is made anew elsewhere because of that, and it gets no new replicas.
    Maintenance,
}

/// A `u128` that reads as hexadecimal.
#[allow(non_camel_case_types)]
pub type u128Hex = hf_policy::BootId;

//! What the verbs need of the node that runs them. The daemon implements it; a test does so over
//! `ClusterState::apply`, without a process.

use crate::error::Problem;
use crate::read::Query;
use hf_meta_core::plan::Liveness;
use hf_meta_core::{ClusterState, Command, Outcome};
use hf_policy::{NodeId, RequestId};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::sync::Arc;

/// What only one certain node can do. It goes there over the nodes' own protocol, with its caller: one hop, never a
/// redirect, because clients may not reach the addresses of nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NodeVerb {
    /// Attach a volume here, and answer when it is served.
    Attach {
        /// The name that it has.
        volume: String,
        /// Take it even from a node that answers.
        force: bool,
        /// The request, the same in all its repeats.
        request: RequestId,
    },
    /// End the export here, answer open requests, and let the volume go.
    Detach {
        /// The name that it has.
        volume: String,
    },
    /// Format a disk and add it to the pool.
    AddDisk {
        /// Directory or device.
        path: String,
        /// Bytes of a directory's file system to use.
        size: Option<u64>,
        /// Its class; none: as the kernel says.
        media: Option<String>,
    },
    /// The recent history of a volume that is attached here.
    Stats {
        /// The name that it has.
        volume: String,
    },
}

/// What a node answers to a [`NodeVerb`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeAnswer {
    /// It is attached and served.
    Attached {
        /// The attachment's term.
        term: u64,
        /// How long it took, in milliseconds.
        ms: u64,
        /// It was attached before.
        already: bool,
    },
    /// It is detached.
    Detached,
    /// It goes on; what it waits for.
    Waits(String),
    /// The disk has this number.
    Disk(u64),
    /// The history that was asked for.
    Stats(crate::model::VolumeStats),
}

/// Why a proposal has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// It was sent to nobody: no leader answers.
    NoLeader(String),
    /// It may or may not have been applied.
    Unknown(String),
}

/// What a verb needs of the node that runs it.
pub trait Ports: Send + Sync {
    /// The newest record that this node has.
    fn view(&self) -> Arc<ClusterState>;
    /// This node; none before it is part of a cluster.
    fn here(&self) -> NodeId;
    /// Waits until the view is as new as the leader's is now; false: no leader answers.
    fn freshen(&self) -> impl Future<Output = bool> + Send;
    /// What the leader knows of who lives; none if no leader answers.
    fn liveness(&self) -> impl Future<Output = Option<Liveness>> + Send;
    /// Reads at the leader, or here if no leader answers. The text is JSON.
    fn read(&self, query: Query) -> impl Future<Output = Result<String, Problem>> + Send;
    /// Proposes a command and waits for its outcome; at most once for each request.
    fn propose(&self, request: RequestId, cmd: Command) -> impl Future<Output = Result<Outcome, Unanswered>> + Send;
    /// What came of a request, if the cluster knows.
    fn outcome_of(&self, request: RequestId) -> impl Future<Output = Option<Outcome>> + Send;
    /// Waits until the view is newer than `revision`, or these milliseconds are over.
    fn changed(&self, revision: u64, patience_ms: u64) -> impl Future<Output = ()> + Send;
    /// Waits until the node that has the volume obeys its record of this epoch. The error says what that waits for.
    fn in_force(
        &self,
        volume: hf_policy::VolumeId,
        epoch: hf_policy::Epoch,
    ) -> impl Future<Output = Result<(), String>> + Send;
    /// Has a node do what only it can.
    fn on_node(&self, node: NodeId, verb: NodeVerb) -> impl Future<Output = Result<NodeAnswer, Problem>> + Send;
    /// Monotonic milliseconds, from any moment on.
    fn now_ms(&self) -> u64;
    /// Wall clock in Unix milliseconds.
    fn wall_ms(&self) -> u64;
    /// A number that no other caller gets.
    fn random(&self) -> u128;
}

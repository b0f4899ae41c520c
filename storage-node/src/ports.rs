//! What verbs need of this node: the daemon's side of the control layer.

use crate::ask;
use crate::member::Member;
use crate::node::Node;
use hf_control::error::Problem;
use hf_control::ports::{NodeAnswer, NodeVerb, Ports, Unanswered};
use hf_control::read::Query;
use hf_meta_core::plan::Liveness;
use hf_meta_core::{ClusterState, Command, Outcome};
use hf_policy::{Epoch, NodeId, RequestId, VolumeId};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A member of a cluster, as verbs see it.
pub struct Here {
    /// The node that was asked.
    pub node: Arc<Node>,
    /// Its part in the cluster.
    pub member: Arc<Member>,
}

/// The beginning of this process's monotonic milliseconds.
static BEGAN: OnceLock<Instant> = OnceLock::new();

impl Ports for Here {
    fn view(&self) -> Arc<ClusterState> {
        self.member.view.borrow().clone()
    }

    fn here(&self) -> NodeId {
        self.member.node
    }

    async fn freshen(&self) -> bool {
        self.member.freshen().await
    }

    async fn liveness(&self) -> Option<Liveness> {
        crate::liveness::of_leader(&self.member).await
    }

    async fn read(&self, query: Query) -> Result<String, Problem> {
        ask::read(&self.member, query).await.map(|r| r.text)
    }

    async fn propose(&self, request: RequestId, cmd: Command) -> Result<Outcome, Unanswered> {
        // Nobody can tell whether a proposal without an answer was applied: its sender may have reached a leader.
        self.member.propose(request, cmd).await.map_err(|e| Unanswered::Unknown(e.to_string()))
    }

    async fn outcome_of(&self, request: RequestId) -> Option<Outcome> {
        self.member.outcome_of(request).await
    }

    async fn changed(&self, revision: u64, patience_ms: u64) {
        let mut rx = self.member.view.clone();
        let newer = rx.wait_for(|s| s.revision > revision);
        let _ = tokio::time::timeout(Duration::from_millis(patience_ms), newer).await;
    }

    async fn in_force(&self, volume: VolumeId, epoch: Epoch) -> Result<(), String> {
        crate::in_force::everywhere(&self.member, volume, epoch).await
    }

    async fn on_node(&self, node: NodeId, verb: NodeVerb) -> Result<NodeAnswer, Problem> {
        ask::on_node(&self.node, &self.member, node, verb).await
    }

    fn now_ms(&self) -> u64 {
        BEGAN.get_or_init(Instant::now).elapsed().as_millis() as u64
    }

    fn wall_ms(&self) -> u64 {
        crate::member::wall_ms()
    }

    fn random(&self) -> u128 {
        crate::identity::random()
    }
}

//! What other nodes ask of this one: Raft messages (checked for cluster and addressee), proposals, joining, watching,
//! heartbeats.

use crate::heard::{Heard, Took, wall_ms};
use crate::raft_loop::MetaHandle;
use crate::raft_net;
use crate::status::Proposed;
use hf_meta_core::{ClusterState, Envelope};
use hf_meta_proto::pb::{self, peer_client::PeerClient, peer_server::Peer};
use hf_policy::{ClusterId, DiskId, NodeId, RequestId};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

/// How long the leader may take to answer a request that is handed on to it.
const HANDED_ON: Duration = Duration::from_secs(1);
/// The gRPC service that other nodes call.
pub struct PeerService {
    /// The cluster that this node belongs to.
    pub cluster: ClusterId,
    /// The id of this node.
    pub node: NodeId,
    /// The handle to this node's member of the group.
    pub meta: MetaHandle,
    /// The newest state this node has (its own or followed).
    pub view: watch::Receiver<Arc<ClusterState>>,
    /// The leader's soft state, if this node leads.
    pub heard: Arc<Mutex<Heard>>,
    /// Set when this node stops.
    pub stopping: watch::Receiver<bool>,
}

impl PeerService {
    fn leader_hint(&self) -> (u64, String) {
        let leader = self.meta.status.borrow().leader;
        let api = leader.and_then(|l| self.view.borrow().nodes.get(&l).map(|n| n.addr.api.clone()));
        (leader.map_or(0, |l| l.0), api.unwrap_or_default())
    }

    fn check(&self, cluster: &[u8]) -> Result<(), Status> {
        if cluster == self.cluster.0.to_be_bytes() {
            return Ok(());
        }
        Err(Status::permission_denied(format!("this node belongs to cluster {}, the caller to another", self.cluster)))
    }

    /// Has a command committed, or refuses it at once.
    async fn decide(&self, env: Envelope) -> Proposed {
        if !self.meta.status.borrow().is_leader {
            return Proposed::NotLeader;
        }
        let state = self.meta.state.borrow().clone();
        let admitted = self.heard.lock().map_or(Ok(()), |mut h| h.admit(&state, &env.cmd));
        match admitted {
            Ok(()) => self.meta.propose(env).await,
            Err(busy) => Proposed::Outcome(Err(busy)),
        }
    }

    async fn propose_here(&self, bytes: &[u8]) -> Result<pb::ProposeReply, Status> {
        let env = Envelope::decode(bytes).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let mut reply = pb::ProposeReply::default();
        match self.decide(env).await {
            Proposed::Outcome(o) => {
                reply.outcome = serde_json::to_vec(&o).map_err(|e| Status::internal(e.to_string()))?;
            }
            Proposed::NotLeader => reply.not_leader = true,
            Proposed::Unknown => reply.unknown = true,
        }
        (reply.leader, reply.leader_api) = self.leader_hint();
        reply.revision = self.meta.state.borrow().revision;
        Ok(reply)
    }
}

impl PeerService {
    /// The leader's answer to a request that this node hands on, because it hears the leader and the caller does not.
    async fn hand_on(&self, r: &pb::ProposeRequest) -> Option<pb::ProposeReply> {
        let (leader, api) = self.leader_hint();
        if !r.relay || leader == self.node.0 || api.is_empty() {
            return None;
        }
        let mut peer = PeerClient::new(hf_meta_proto::channel(&api).ok()?);
        let asked = peer.propose(pb::ProposeRequest { relay: false, ..r.clone() });
        let mut status = self.meta.status.clone();
        tokio::select! {
            r = tokio::time::timeout(HANDED_ON, asked) => r.ok()?.ok().map(Response::into_inner),
            // Another one leads by now, this node perhaps.
            _ = status.wait_for(|s| s.leader.is_none_or(|l| l.0 != leader)) => None,
        }
    }

    /// The outcome of a request in the leader's state, which is as new as any record that a leader has given out.
    fn outcome_here(&self, request: &[u8]) -> Result<pb::ProposeReply, Status> {
        let id = request.try_into().map_err(|_| Status::invalid_argument("a request id has 16 bytes"))?;
        let mut reply = pb::ProposeReply { not_leader: !self.meta.status.borrow().is_leader, ..Default::default() };
        (reply.leader, reply.leader_api) = self.leader_hint();
        let known = self.meta.state.borrow().requests.get(&RequestId(u128::from_be_bytes(id))).cloned();
        if let Some(outcome) = known.filter(|_| !reply.not_leader) {
            reply.outcome = serde_json::to_vec(&outcome).map_err(|e| Status::internal(e.to_string()))?;
        }
        Ok(reply)
    }
}

/// The stream of what a follower is missing.
pub type DeltaStream = Pin<Box<dyn Stream<Item = Result<pb::WatchEvent, Status>> + Send>>;

/// What changes, for clients that watch.
pub type FollowStream = Pin<Box<dyn Stream<Item = Result<pb::FollowItem, Status>> + Send>>;

/// An answer, and then nothing until the node stops.
pub type AliveStream = Pin<Box<dyn Stream<Item = Result<pb::Empty, Status>> + Send>>;

/// Deltas from `from` on, as the view moves. Each is computed against what was sent before, so that missed
/// revisions do not matter.
pub fn deltas(view: watch::Receiver<Arc<ClusterState>>, from: u64) -> DeltaStream {
    let mut at = from;
    let stream = tokio_stream::wrappers::WatchStream::new(view).filter_map(move |state| {
        if state.revision < at {
            return None;
        }
        let delta = state.delta_since(at)?;
        at = state.revision;
        let bytes = serde_json::to_vec(&delta).map_err(|e| Status::internal(e.to_string()));
        Some(bytes.map(|delta| pb::WatchEvent { delta }))
    });
    Box::pin(stream)
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn raft(&self, r: Request<pb::RaftRequest>) -> Result<Response<pb::Empty>, Status> {
        let r = r.into_inner();
        self.check(&r.cluster)?;
        if r.to != self.node.0 {
            // A reused address: the sender must look again (hazards: Restate 724d86e1e).
            return Err(Status::failed_precondition(format!("this is node {}, not {}", self.node, r.to)));
        }
        let logs = raft_net::heard(&r).ok_or_else(|| Status::invalid_argument("a log's id has 16 bytes"))?;
        self.meta.step(&r.message, logs);
        Ok(Response::new(pb::Empty {}))
    }

    async fn propose(&self, r: Request<pb::ProposeRequest>) -> Result<Response<pb::ProposeReply>, Status> {
        let r = r.into_inner();
        self.check(&r.cluster)?;
        if let Some(reply) = self.hand_on(&r).await {
            return Ok(Response::new(reply));
        }
        if r.request.is_empty() {
            return self.propose_here(&r.envelope).await.map(Response::new);
        }
        self.outcome_here(&r.request).map(Response::new)
    }

    async fn join(&self, r: Request<pb::JoinRequest>) -> Result<Response<pb::JoinReply>, Status> {
        let r = r.into_inner();
        let reply = self.propose_here(&r.envelope).await?;
        let state = serde_json::to_vec(&**self.view.borrow()).map_err(|e| Status::internal(e.to_string()))?;
        let cluster = self.cluster.0.to_be_bytes().to_vec();
        Ok(Response::new(pb::JoinReply { reply: Some(reply), cluster, state }))
    }

    type WatchStream = DeltaStream;

    async fn watch(&self, r: Request<pb::WatchRequest>) -> Result<Response<DeltaStream>, Status> {
        let r = r.into_inner();
        self.check(&r.cluster)?;
        Ok(Response::new(deltas(self.view.clone(), r.from_revision)))
    }

    type AliveStream = AliveStream;

    async fn alive(&self, r: Request<pb::AliveRequest>) -> Result<Response<AliveStream>, Status> {
        self.check(&r.into_inner().cluster)?;
        let stop = tokio_stream::wrappers::WatchStream::new(self.stopping.clone());
        let until = stop.map_while(|stopping| (!stopping).then_some(Ok(pb::Empty {})));
        Ok(Response::new(Box::pin(until)))
    }

    async fn living(&self, r: Request<pb::LivingRequest>) -> Result<Response<pb::LivingReply>, Status> {
        self.check(&r.into_inner().cluster)?;
        let status = self.meta.status.borrow().clone();
        let known = self.heard.lock().ok().filter(|_| status.is_leader).map(|mut h| {
            let state = self.view.borrow().clone();
            h.lead(status.term, state.nodes.keys().copied());
            h.liveness(&state)
        });
        let Some(live) = known else { return Ok(Response::new(pb::LivingReply::default())) };
        let entries = |d: &DiskId| live.entries.get(d).copied().unwrap_or(0);
        let disk = |(d, used): (&DiskId, &u64)| pb::DiskUse {
            disk: d.0,
            used: *used,
            entries: entries(d),
            ..Default::default()
        };
        let used = live.used.iter().map(disk).collect();
        let (up, refusing) = (live.up.iter().map(|n| n.0).collect(), live.refusing.iter().map(|d| d.0).collect());
        Ok(Response::new(pb::LivingReply { leader: true, up, used, refusing }))
    }

    async fn ask(&self, _: Request<pb::AskRequest>) -> Result<Response<pb::AskReply>, Status> {
        Err(Status::unimplemented("only a whole node answers questions"))
    }

    type FollowStream = FollowStream;

    async fn follow(&self, _: Request<pb::FollowRequest>) -> Result<Response<FollowStream>, Status> {
        Err(Status::unimplemented("only a whole node tells its watchers"))
    }

    async fn maintain(&self, _: Request<pb::MaintainRequest>) -> Result<Response<pb::Empty>, Status> {
        Err(Status::unimplemented("only a whole node looks after replicas"))
    }

    async fn in_force(&self, _: Request<pb::InForceRequest>) -> Result<Response<pb::InForceReply>, Status> {
        Err(Status::unimplemented("only a whole node knows what it obeys"))
    }

    async fn heartbeat(&self, r: Request<pb::HeartbeatRequest>) -> Result<Response<pb::HeartbeatReply>, Status> {
        let r = r.into_inner();
        self.check(&r.cluster)?;
        let status = self.meta.status.borrow().clone();
        let state = self.view.borrow().clone();
        let took = self.heard.lock().ok().filter(|_| status.is_leader && !r.asks).map(|mut h| {
            h.lead(status.term, state.nodes.keys().copied());
            h.take(&state, r, wall_ms())
        });
        let Took { seq, anew } = took.unwrap_or_default();
        let (leader_node, leader_api) = self.leader_hint();
        let (leader, revision) = (status.is_leader, state.revision);
        Ok(Response::new(pb::HeartbeatReply { leader, leader_node, leader_api, revision, took: seq, anew }))
    }
}

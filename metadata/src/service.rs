//! What other nodes ask of this one: Raft messages (checked for cluster and addressee), proposals, joining, watching,
//! heartbeats.

use crate::raft_loop::MetaHandle;
use crate::raft_net;
use crate::status::Proposed;
use hf_meta_core::command::FIRST_VERSION;
use hf_meta_core::limits::{Going, room};
use hf_meta_core::plan::Liveness;
use hf_meta_core::{ClusterState, Command, Envelope, Refusal};
use hf_meta_proto::pb::{self, peer_client::PeerClient, peer_server::Peer};
use hf_policy::{ClusterId, DiskId, NodeId, RequestId, Rid, VolumeId};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

/// After this silence a node is taken for dead (protocol §10).
pub const T_DEAD: Duration = Duration::from_secs(5);
/// How long the leader may take to answer a request that is handed on to it.
const HANDED_ON: Duration = Duration::from_secs(1);
/// A coordinator that was allowed a sync tells of it within this time, or does not do it.
const TOLD: Duration = Duration::from_secs(3);

/// For this long a disk that refused a replica is given no other one.
const REFUSES: Duration = Duration::from_secs(60);

/// The leader's soft state: when each node was heard, and what it told. It decides when to act, never what is true.
#[derive(Default)]
pub struct Heard {
    nodes: BTreeMap<NodeId, Instant>,
    used: BTreeMap<DiskId, u64>,
    entries: BTreeMap<DiskId, u64>,
    syncs: BTreeMap<NodeId, Vec<pb::SyncProgress>>,
    /// Replicas that each node could not make, as it told last.
    refused: BTreeMap<NodeId, Vec<u64>>,
    /// Disks that refused a replica, and when.
    refusing: BTreeMap<DiskId, Instant>,
    /// The newest version of commands that each node can apply, as it told last.
    speaks: BTreeMap<NodeId, u32>,
    /// Syncs that were allowed lately; their coordinators may not have told of them yet.
    allowed: BTreeMap<Going, Instant>,
    /// The Raft term in which this node leads and hears.
    term: u64,
}

impl Heard {
    /// Which nodes answer now, and what planning looks at beside that.
    pub fn liveness(&self) -> Liveness {
        let up = self.nodes.iter().filter(|(_, t)| t.elapsed() < T_DEAD).map(|(n, _)| *n).collect();
        let away = |(n, t): (&NodeId, &Instant)| (t.elapsed() >= T_DEAD).then(|| (*n, t.elapsed().as_millis() as u64));
        let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let refused = self.refused.values().flatten().map(|r| Rid(*r)).collect();
        let refusing = self.refusing.iter().filter(|(_, t)| t.elapsed() < REFUSES).map(|(d, _)| *d).collect();
        let away = self.nodes.iter().filter_map(away).collect();
        Liveness { up, used: self.used.clone(), entries: self.entries.clone(), away, refused, refusing, wall_ms }
    }

    /// Takes a node's heartbeat.
    pub fn beat(&mut self, node: NodeId, disks: &[pb::DiskUse], syncs: Vec<pb::SyncProgress>) {
        self.nodes.insert(node, Instant::now());
        self.used.extend(disks.iter().map(|d| (DiskId(d.disk), d.used)));
        // (A node of an older release does not say how large the tables are.)
        self.entries.extend(disks.iter().filter(|d| d.entries > 0).map(|d| (DiskId(d.disk), d.entries)));
        self.syncs.insert(node, syncs);
    }

    /// The newest version of commands that a node can apply. 0: it is of a release before this was told,
    /// which knows the first.
    pub fn speaks(&mut self, node: NodeId, version: u32) {
        self.speaks.insert(node, version.max(FIRST_VERSION));
    }

    /// May the cluster's version be raised? Only while every node that applies the log, or follows the
    /// record, has told this leader that it knows the new one: there is no way back.
    fn all_speak(&self, state: &ClusterState, to: u32) -> Result<(), Refusal> {
        for n in state.nodes.values().chain(state.removed_members.values()) {
            let why = match self.speaks.get(&n.id) {
                Some(known) if *known >= to => continue,
                Some(known) => format!("it runs release {}, which knows versions up to {known}", n.version),
                None => "it has not told yet which versions it knows".into(),
            };
            return Err(Refusal::State(format!(
                "the version cannot be raised to {to} because of node {}: {why}",
                n.name
            )));
        }
        Ok(())
    }

    /// Takes the list of replicas that a node cannot make.
    pub fn cannot_make(&mut self, state: &ClusterState, node: NodeId, rids: Vec<u64>) {
        if !rids.is_empty() {
            let disk = |rid: &u64| {
                let v = state.volume_of_replica(Rid(*rid))?;
                v.replicas().find(|(_, r)| r.rid.0 == *rid && r.node == node).map(|(_, r)| (r.disk, Instant::now()))
            };
            self.refusing.extend(rids.iter().filter_map(disk));
        }
        self.refused.insert(node, rids);
    }

    /// Syncs that are under way, as the nodes that are up told last.
    pub fn syncs(&self) -> Vec<pb::SyncProgress> {
        let up = self.liveness().up;
        self.syncs.iter().filter(|(n, _)| up.contains(n)).flat_map(|(_, s)| s.clone()).collect()
    }

    /// May this be proposed now? What fills replicas may have to wait, and a raise of the version needs every node.
    pub fn admit(&mut self, state: &ClusterState, cmd: &Command) -> Result<(), Refusal> {
        if let Command::RaiseVersion { to } = cmd {
            return self.all_speak(state, *to);
        }
        let Some(want) = Going::of(cmd) else { return Ok(()) };
        self.allowed.retain(|_, t| t.elapsed() < TOLD);
        let told = self.syncs().into_iter().filter(|s| s.rid != 0).map(|s| Going {
            vol: VolumeId(s.vol),
            shard: s.shard,
            rid: Rid(s.rid),
        });
        let mut going: Vec<Going> = told.filter(|g| g.is_recorded(state)).chain(self.allowed.keys().copied()).collect();
        going.sort();
        going.dedup();
        room(state, &going, &self.liveness().up, want)?;
        self.allowed.insert(want, Instant::now());
        Ok(())
    }

    /// To be called first by the leader. A new leader has heard nobody yet, so it gives every node the time
    /// of [`T_DEAD`] before it takes the node for dead; without that, volumes would be taken from nodes that
    /// live.
    pub fn lead(&mut self, term: u64, all: impl Iterator<Item = NodeId>) {
        if self.term != term {
            self.term = term;
            self.nodes = all.map(|n| (n, Instant::now())).collect();
            self.allowed.clear();
            self.syncs.clear();
            self.refused.clear();
            self.speaks.clear();
            self.refusing.clear();
        }
    }
}

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
            h.lead(status.term, self.view.borrow().nodes.keys().copied());
            h.liveness()
        });
        let Some(live) = known else { return Ok(Response::new(pb::LivingReply::default())) };
        let entries = |d| live.entries.get(d).copied().unwrap_or(0);
        let used =
            live.used.iter().map(|(d, used)| pb::DiskUse { disk: d.0, used: *used, entries: entries(d) }).collect();
        let (up, refusing) = (live.up.iter().map(|n| n.0).collect(), live.refusing.iter().map(|d| d.0).collect());
        Ok(Response::new(pb::LivingReply { leader: true, up, used, refusing }))
    }

    async fn in_force(&self, _: Request<pb::InForceRequest>) -> Result<Response<pb::InForceReply>, Status> {
        Err(Status::unimplemented("only a whole node knows what it obeys"))
    }

    async fn heartbeat(&self, r: Request<pb::HeartbeatRequest>) -> Result<Response<pb::HeartbeatReply>, Status> {
        let r = r.into_inner();
        self.check(&r.cluster)?;
        let leader = self.meta.status.borrow().is_leader;
        if leader
            && !r.asks
            && let Ok(mut h) = self.heard.lock()
        {
            h.beat(NodeId(r.node), &r.disks, r.syncs);
            h.speaks(NodeId(r.node), r.commands);
            h.cannot_make(&self.view.borrow(), NodeId(r.node), r.refused);
        }
        let (leader_node, leader_api) = self.leader_hint();
        let revision = self.view.borrow().revision;
        Ok(Response::new(pb::HeartbeatReply { leader, leader_node, leader_api, revision }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hf_meta_core::record::{ReplicaRecord, ReplicaState, VolumeRecord};
    use hf_policy::{Epoch, Lineage};

    /// What a node told counts until it tells something else; what was allowed counts until it is told; other
    /// commands always pass.
    #[test]
    fn the_leader_counts_what_was_told_and_what_it_allowed() {
        let mut s = ClusterState::default();
        let disk = |rid: u64| if rid < 10 { DiskId(1) } else { DiskId(2) };
        let replica = |rid: u64, state| ReplicaRecord::new(Rid(rid), disk(rid), NodeId(1), state, Epoch(1));
        for vol in 1..=6u64 {
            let base = hf_policy::Ver::ZERO;
            let state = if vol <= 2 { ReplicaState::Syncing { base, sync_id: 1 } } else { ReplicaState::Out { base } };
            let both = [replica(vol, state), replica(vol + 10, ReplicaState::InSync)];
            let mut v = volume(vol);
            v.shards[0].replicas = both.into_iter().map(|r| (r.rid, r)).collect();
            s.volumes.insert(v);
        }
        let start = |vol: u64| Command::SyncStart {
            vol: VolumeId(vol),
            shard: 0,
            epoch: Epoch(1),
            term: hf_policy::Term(1),
            rid: Rid(vol),
            sync_id: 9,
        };
        let told =
            |vol: u64| pb::SyncProgress { vol, shard: 0, rid: vol, stage: "copying".into(), ..Default::default() };
        let mut h = Heard::default();
        h.beat(NodeId(1), &[], Vec::new());
        h.beat(NodeId(2), &[], vec![told(1), told(2)]);
        assert!(matches!(h.admit(&s, &start(3)), Err(Refusal::Busy(_))));
        assert_eq!(h.admit(&s, &start(2)), Ok(()), "it goes on already");
        assert_eq!(h.admit(&s, &Command::PauseRebuild { paused: true }), Ok(()));
        // It tells that both are over: two may begin, before anybody tells of them, and no third.
        h.allowed.clear();
        h.beat(NodeId(2), &[], Vec::new());
        assert_eq!((h.admit(&s, &start(3)), h.admit(&s, &start(4))), (Ok(()), Ok(())));
        assert!(h.admit(&s, &start(5)).is_err());
        // Nobody tells of them for long: they do not go on.
        h.allowed.values_mut().for_each(|t| *t -= TOLD);
        assert_eq!(h.admit(&s, &start(5)), Ok(()));
    }

    #[test]
    fn the_version_is_raised_only_when_every_node_knows_the_new_one() {
        let mut s = ClusterState::default();
        for id in 1..=3u64 {
            let text = serde_json::json!({
                "id": id, "name": format!("n{id}"), "uuid": format!("{id:032x}"), "version": "9",
                "addr": {"api": "", "data": "", "nbd": ""}, "rev": 1,
            });
            s.nodes.insert(serde_json::from_value::<hf_meta_core::record::NodeRecord>(text).unwrap());
        }
        let (mut h, raise) = (Heard::default(), Command::RaiseVersion { to: 3 });
        let refused = |h: &mut Heard| h.admit(&s, &raise).unwrap_err().to_string();
        h.speaks(NodeId(1), 3);
        h.speaks(NodeId(2), 0);
        assert!(refused(&mut h).contains("node n2: it runs release 9, which knows versions up to 2"));
        h.speaks(NodeId(2), 3);
        assert!(refused(&mut h).contains("node n3: it has not told yet"));
        h.speaks(NodeId(3), 4);
        assert_eq!(h.admit(&s, &raise), Ok(()));
        // Another leader knows nothing yet.
        h.lead(5, s.nodes.keys().copied());
        assert!(refused(&mut h).contains("has not told yet"));
    }

    fn volume(id: u64) -> VolumeRecord {
        let text = serde_json::json!({
            "id": id, "name": format!("v{id}"), "attrs": {"size": "4096", "replicas": "2"}, "size": 4096, "lineage": Lineage(1),
            "term": 1, "epoch": 1, "coordinator": null, "shards": [{"replicas": {}}], "snaps": [], "activated": 1,
            "created_ms": 0, "rev": 1,
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_new_leader_takes_nobody_for_dead() {
        let all = || [NodeId(1), NodeId(2), NodeId(3)].into_iter();
        let mut h = Heard::default();
        h.lead(4, all());
        assert_eq!(h.liveness().up.len(), 3, "nobody was heard yet, and nobody is dead");
        h.nodes.clear();
        h.lead(4, all());
        assert!(h.liveness().up.is_empty(), "within a term what was heard counts");
        h.lead(9, all());
        assert_eq!(h.liveness().up.len(), 3, "it leads again: what it knew is old");
    }
}

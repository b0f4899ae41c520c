//! A node that is part of a cluster: what it knows of the record, whom it asks, and what runs on it.

use crate::export::{ExportTable, Seats};
use crate::identity::random;
use crate::pulse::Pulse;
use crate::told::Told;
use hf_meta::MetaHandle;
use hf_meta::service::Heard;
use hf_meta_core::command::{COMMAND_VERSION, FIRST_VERSION};
use hf_meta_core::plan::Liveness;
use hf_meta_core::{ClusterState, Command, Envelope, Outcome};
use hf_meta_proto::LeaderClient;
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use hf_policy::{BootId, ClusterId, NodeId, RequestId, SessionId};
use hf_reactor::{self as reactor, Memory};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// So many replicas that cannot be made are told of at once.
const REFUSED: usize = 256;

/// A node that is part of a cluster.
pub struct Member {
    /// The cluster that the node is part of.
    pub cluster: ClusterId,
    /// This node's id in the cluster.
    pub node: NodeId,
    /// Where it is reached; its record may not say so yet.
    pub api: String,
    /// The id of this process.
    pub boot: BootId,
    /// The node's part in the metadata group.
    pub meta: MetaHandle,
    /// The newest state known here.
    pub view: watch::Receiver<Arc<ClusterState>>,
    /// Writes the view.
    pub view_tx: watch::Sender<Arc<ClusterState>>,
    /// Finds the leader.
    pub leader: LeaderClient,
    /// What it has said last of the record.
    pub told: Told,
    /// The leader's soft state.
    pub heard: Arc<Mutex<Heard>>,
    /// The reactors, by their numbers.
    pub reactors: Vec<reactor::Handle>,
    /// What the attached volumes' clients did lately.
    pub history: Arc<crate::history::Shared>,
    /// The node's payload memory.
    pub memory: Memory,
    /// What this node exports now.
    pub exports: ExportTable,
    /// Room for NBD connections.
    pub seats: Seats,
    /// Which reactor has which disk.
    pub disk_reactor: Mutex<std::collections::BTreeMap<hf_policy::DiskId, usize>>,
    /// Disks that could not be opened, and why.
    pub broken: Mutex<Vec<(hf_policy::DiskId, String)>>,
    /// Replicas that the record wants here and that cannot be made.
    pub unmade: Mutex<std::collections::BTreeSet<hf_policy::Rid>>,
    /// The revision of the record that everything here obeys: reactors, exports.
    pub obeyed: watch::Sender<u64>,
    /// Notices when this process was paused.
    pub pulse: Pulse,
}

/// The wall clock, for people only.
pub fn wall_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl Member {
    /// A session of this process: its upper half says so.
    pub fn new_session(&self) -> SessionId {
        SessionId((self.boot.0 & !u128::from(u64::MAX)) | (random() & u128::from(u64::MAX)))
    }

    /// Was this session made by this process? One of an earlier life is never served again (I19).
    pub fn is_ours(&self, session: SessionId) -> bool {
        session.0 >> 64 == self.boot.0 >> 64
    }

    /// What this node knows of who lives, if it leads.
    pub fn liveness_as_leader(&self) -> Option<Liveness> {
        let status = self.meta.status.borrow().clone();
        let mut h = self.heard.lock().ok().filter(|_| status.is_leader)?;
        h.lead(status.term, self.view.borrow().nodes.keys().copied());
        Some(h.liveness())
    }

    /// One sign of life to a node, and what it knows.
    pub async fn beat(
        &self,
        addr: &str,
        disks: Vec<pb::DiskUse>,
        syncs: Vec<pb::SyncProgress>,
    ) -> Option<pb::HeartbeatReply> {
        let refused = self.refused();
        let ch = hf_meta_proto::channel(addr).ok()?;
        let cluster = self.cluster.0.to_be_bytes().to_vec();
        let (node, commands) = (self.node.0, COMMAND_VERSION);
        let req = pb::HeartbeatRequest { node, cluster, disks, syncs, asks: false, refused, commands };
        let sent = tokio::time::timeout(Duration::from_secs(1), PeerClient::new(ch).heartbeat(req)).await;
        sent.ok()?.ok().map(tonic::Response::into_inner)
    }

    /// What the leader is told that this node cannot make: a bounded number of it.
    pub fn refused(&self) -> Vec<u64> {
        self.unmade.lock().map(|u| u.iter().take(REFUSED).map(|r| r.0).collect()).unwrap_or_default()
    }

    /// Waits until this node's view is as new as the leader's is now, so that what an operator asks here is
    /// decided on the present. Without a leader it returns false, at once: what is proposed then is
    /// compare-and-set anyway.
    pub async fn freshen(&self) -> bool {
        let status = self.meta.status.borrow().clone();
        if status.is_leader {
            // What was applied here shows in the view a moment later.
            let applied = self.meta.state.borrow().revision;
            let mut rx = self.view.clone();
            let seen = tokio::time::timeout(Duration::from_secs(5), rx.wait_for(|v| v.revision >= applied)).await;
            return matches!(seen, Ok(Ok(_)));
        }
        let known = status.leader.and_then(|l| self.view.borrow().nodes.get(&l).map(|n| n.addr.api.clone()));
        let looked = tokio::time::timeout(Duration::from_secs(1), self.leader.look(known, &self.peers())).await;
        let Ok(Some((_, revision))) = looked else { return false };
        let mut rx = self.view.clone();
        let seen = tokio::time::timeout(Duration::from_secs(5), rx.wait_for(|v| v.revision >= revision)).await;
        matches!(seen, Ok(Ok(_)))
    }

    /// Every address that may lead. (After a rescue from disks alone the record does not say where nodes are
    /// until they have.)
    pub fn peers(&self) -> Vec<String> {
        let known = self.view.borrow();
        let others = known.nodes.values().map(|n| n.addr.api.clone()).filter(|a| !a.is_empty() && *a != self.api);
        others.chain([self.api.clone()]).collect()
    }

    /// Addresses of the voters.
    pub fn votes(&self) -> Vec<String> {
        let (view, raft) = (self.view.borrow(), self.meta.status.borrow());
        raft.voters.iter().filter_map(|v| view.nodes.get(&NodeId(*v)).map(|n| n.addr.api.clone())).collect()
    }

    /// Proposes a command and waits for its outcome; exactly once per request id.
    pub async fn propose(&self, request: RequestId, cmd: Command) -> Result<Outcome, hf_meta_proto::ProposeError> {
        self.leader.propose(&self.envelope(request, cmd), &self.peers(), Duration::from_secs(15)).await
    }

    /// Waits until everything here obeys a record that was the newest at some moment after this was called. A
    /// leader's own word is not enough for that, it may have been succeeded: something is committed.
    pub async fn catch_up(&self, nothing_new: Command) -> bool {
        let env = self.envelope(RequestId(random()), nothing_new);
        let asked = self.leader.propose_seen(&env, &self.peers(), Duration::from_secs(5)).await;
        let Ok((_, revision)) = asked else { return false };
        self.obeys(revision, Duration::from_secs(5)).await
    }

    /// Waits until everything here obeys this revision of the record, or a later one.
    pub async fn obeys(&self, revision: u64, patience: Duration) -> bool {
        let mut rx = self.obeyed.subscribe();
        matches!(tokio::time::timeout(patience, rx.wait_for(|r| *r >= revision)).await, Ok(Ok(_)))
    }

    /// What came of a request, if the cluster knows. Asked for when a repeated request seems impossible by now.
    pub async fn outcome_of(&self, request: RequestId) -> Option<Outcome> {
        self.leader.outcome_of(request, &self.peers(), Duration::from_secs(5)).await.ok().flatten()
    }

    /// A command by the version of the record as it is known here: an older one means what it always meant.
    fn envelope(&self, request: RequestId, cmd: Command) -> Envelope {
        Envelope { v: self.view.borrow().version, request, at_ms: wall_ms(), cmd }
    }

    /// With a fresh request id.
    pub async fn propose_new(&self, cmd: Command) -> Result<Outcome, hf_meta_proto::ProposeError> {
        self.propose(RequestId(random()), cmd).await
    }
}

/// A command of a node that knows no record yet: the first version, which every cluster still applies as it was meant.
pub fn first_envelope(request: RequestId, cmd: Command) -> Envelope {
    Envelope { v: FIRST_VERSION, request, at_ms: wall_ms(), cmd }
}

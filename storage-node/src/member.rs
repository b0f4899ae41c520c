//! A node that is part of a cluster: what it knows of the record, whom it asks, and what runs on it.

use crate::export::{ExportTable, Seats};
use crate::identity::random;
use crate::pulse::Pulse;
use crate::told::Told;
use hf_host_config::state_log::StateLog;
use hf_meta::MetaHandle;
pub use hf_meta::heard::wall_ms;
use hf_meta::heard::{Heard, MOST_REFUSED};
use hf_meta_core::command::FIRST_VERSION;
use hf_meta_core::plan::Liveness;
use hf_meta_core::record::DiskFault;
use hf_meta_core::soft::{DiskTold, Group, Soft, VolumeTold};
use hf_meta_core::{ClusterState, Command, Envelope, Outcome};
use hf_meta_proto::LeaderClient;
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use hf_policy::{BootId, ClusterId, DiskId, NodeId, RequestId, SessionId, VolumeId};
use hf_reactor::{self as reactor, Memory};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

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
    /// Known disks that are not open, and why.
    pub trouble: Mutex<BTreeMap<DiskId, (DiskFault, String)>>,
    /// This node's disks as they were found last.
    pub disks_found: watch::Sender<Arc<BTreeMap<DiskId, DiskTold>>>,
    /// The volumes that are attached here, as they were found last.
    pub served: watch::Sender<Arc<BTreeMap<VolumeId, VolumeTold>>>,
    /// Troubles that repeat, for the log.
    pub states: StateLog,
    /// To look at once what this node's disks are doing.
    pub look: tokio::sync::Notify,
    /// The API listens beyond loopback, and asks nobody who it is.
    pub insecure: bool,
    /// Only what was set aside is left of the space of `data_dir`.
    pub data_dir_full: AtomicBool,
    /// Replicas that the record wants here and that cannot be made.
    pub unmade: Mutex<std::collections::BTreeSet<hf_policy::Rid>>,
    /// The revision of the record that everything here obeys: reactors, exports.
    pub obeyed: watch::Sender<u64>,
    /// Notices when this process was paused.
    pub pulse: Pulse,
    /// The events of the last 30 days, once their files are open.
    pub event_log: std::sync::OnceLock<Arc<Mutex<crate::event_log::EventLog>>>,
    /// The leader's hub of changes, and who listens to it.
    pub watching: crate::watching::Watching,
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
        self.soft_as_leader().map(|s| s.liveness())
    }

    /// What this node has heard of all nodes, if it leads.
    pub fn soft_as_leader(&self) -> Option<Soft> {
        let status = self.meta.status.borrow().clone();
        let state = self.view.borrow().clone();
        let mut h = self.heard.lock().ok().filter(|_| status.is_leader)?;
        h.lead(status.term, state.nodes.keys().copied());
        let group = Group {
            leader: status.leader,
            term: status.term,
            voters: status.voters.iter().copied().map(NodeId).collect(),
            learners: status.learners.iter().copied().map(NodeId).collect(),
            changing: status.changing,
        };
        Some(h.soft(group, &state))
    }

    /// What a volume waits for that is attached here and not served; none: it is served, or not known here.
    pub fn waits_for(&self, vol: VolumeId) -> Option<String> {
        self.served.borrow().get(&vol).filter(|v| !v.serving).map(|v| v.waits_for.clone())
    }

    /// Notes that a disk is not in service, and why.
    pub fn in_trouble(&self, disk: DiskId, fault: DiskFault, why: String) {
        if let Ok(mut t) = self.trouble.lock() {
            t.insert(disk, (fault, why));
        }
        self.look.notify_one();
    }

    /// One sign of life to a node, and what it knows.
    pub async fn beat(&self, addr: &str, beat: pb::HeartbeatRequest) -> Option<pb::HeartbeatReply> {
        let ch = hf_meta_proto::channel(addr).ok()?;
        let sent = tokio::time::timeout(Duration::from_secs(1), PeerClient::new(ch).heartbeat(beat)).await;
        sent.ok()?.ok().map(tonic::Response::into_inner)
    }

    /// What the leader is told that this node cannot make: a bounded number of it.
    pub fn refused(&self) -> Vec<u64> {
        self.unmade.lock().map(|u| u.iter().take(MOST_REFUSED).map(|r| r.0).collect()).unwrap_or_default()
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

    /// A command by the version of the record as it is known here: an older one means what it always meant, and what
    /// it cannot say is left out.
    fn envelope(&self, request: RequestId, cmd: Command) -> Envelope {
        let v = self.view.borrow().version;
        Envelope { v, request, at_ms: wall_ms(), cmd: cmd.at(v) }
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

//! The daemon: listens, waits to be given a cluster, then runs metadata, disks, reactors, exports and the agent until it is
//! told to stop.

use crate::config::Config;
use crate::export::{Doors, ExportTable, Seats};
use crate::identity::{DataDir, Identity, random};
use crate::listen::{bind, bind_socket, raise_descriptors};
use crate::reactor;
use crate::reactor::Memory;
use hf_meta::raft_log::{FORGOT, LogError, RaftLog};
use hf_meta::service::{Heard, PeerService};
use hf_meta::{MetaHandle, raft_net};
use hf_meta_core::plan::Liveness;
use hf_meta_core::{ClusterState, Command, Envelope, Outcome};
use hf_meta_proto::LeaderClient;
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use hf_policy::{BootId, ClusterId, NodeId, RequestId, SessionId};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long NBD connections may take to end at a clean stop; a reactor gives each one five seconds.
const CLIENTS_STOP: Duration = Duration::from_secs(8);

/// A node that is part of a cluster.
pub struct Member {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Where it is reached; its record may not say so yet.
    pub api: String,
    /// This process.
    pub boot: BootId,
    /// Raft.
    pub meta: MetaHandle,
    /// The newest state known here.
    pub view: watch::Receiver<Arc<ClusterState>>,
    /// Writes the view.
    pub view_tx: watch::Sender<Arc<ClusterState>>,
    /// Finds the leader.
    pub leader: LeaderClient,
    /// What it has said last of the record.
    pub told: crate::agent::Told,
    /// The leader's soft state.
    pub heard: Arc<Mutex<Heard>>,
    /// Reactors.
    pub reactors: Vec<reactor::Handle>,
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
    pub pulse: crate::pulse::Pulse,
}

/// The daemon.
pub struct Node {
    /// Configuration.
    pub cfg: Config,
    /// Data directory.
    pub dir: DataDir,
    /// Identity, as on disk.
    pub identity: Mutex<Identity>,
    /// This process.
    pub boot: BootId,
    /// Set once.
    pub member: OnceLock<Arc<Member>>,
    /// Connections that have not said yet what they want.
    pub doors: Doors,
    /// Set when the daemon stops.
    pub stopping: watch::Sender<bool>,
    /// Serialises init, join and disk changes.
    pub admin: tokio::sync::Mutex<()>,
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
        let req = pb::HeartbeatRequest { node: self.node.0, cluster, disks, syncs, asks: false, refused };
        let sent = tokio::time::timeout(Duration::from_secs(1), PeerClient::new(ch).heartbeat(req)).await;
        sent.ok()?.ok().map(tonic::Response::into_inner)
    }

    /// What the leader is told that this node cannot make: a bounded number of it.
    pub fn refused(&self) -> Vec<u64> {
        self.unmade.lock().map(|u| u.iter().take(REFUSED).map(|r| r.0).collect()).unwrap_or_default()
    }

    /// Waits until this node's view is as new as the leader's is now, so that what an operator asks here is decided on the
    /// present. Without a leader it returns false, at once: what is proposed then is compare-and-set anyway.
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

    /// Every address that may lead. (After a rescue from disks alone the record does not say where nodes are until they have.)
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
        self.leader.propose(&envelope(request, cmd), &self.peers(), Duration::from_secs(15)).await
    }

    /// Waits until everything here obeys a record that was the newest at some moment after this was called. A leader's own word is not
    /// enough for that, it may have been succeeded: something is committed.
    pub async fn catch_up(&self, nothing_new: Command) -> bool {
        let env = envelope(RequestId(random()), nothing_new);
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

    /// With a fresh request id.
    pub async fn propose_new(&self, cmd: Command) -> Result<Outcome, hf_meta_proto::ProposeError> {
        self.propose(RequestId(random()), cmd).await
    }
}

/// So many replicas that cannot be made are told of at once.
const REFUSED: usize = 256;

/// A command as this node proposes it.
pub fn envelope(request: RequestId, cmd: Command) -> Envelope {
    Envelope { v: hf_meta_core::command::COMMAND_VERSION, request, at_ms: wall_ms(), cmd }
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(cfg: Config) -> anyhow::Result<()> {
    raise_descriptors(cfg.nbd_connections);
    let dir = DataDir::open(&cfg.data_dir)?;
    let identity = dir.identity()?;
    let api = bind("api", &cfg.api).await?;
    let data = bind("data", &cfg.data).await?;
    let nbd = bind("nbd", &cfg.nbd).await?;
    let http = match &cfg.http {
        Some(a) => Some(bind("http", a).await?),
        None => None,
    };
    let joined = identity.cluster.is_some();
    let (stop_tx, stop) = watch::channel(false);
    let node = Arc::new(Node {
        cfg,
        dir,
        identity: Mutex::new(identity),
        boot: BootId(random()),
        member: OnceLock::new(),
        doors: Doors::default(),
        stopping: stop_tx,
        admin: tokio::sync::Mutex::new(()),
    });
    if joined {
        node.start_member().await?;
    }
    let server = tokio::spawn(crate::api::serve(node.clone(), api, stop.clone()));
    tokio::spawn(crate::export::accept_data(node.clone(), data));
    tokio::spawn(crate::export::accept_nbd(node.clone(), nbd));
    if let Some(path) = node.cfg.nbd_socket.clone() {
        let l = bind_socket(&path)?;
        tokio::spawn(crate::export::accept_nbd_unix(node.clone(), l));
    }
    if let Some(l) = http {
        tokio::spawn(crate::http::serve(node.clone(), l));
    }
    notify("READY=1");
    tracing::info!(name = node.cfg.name, api = node.cfg.api, member = joined, "holdfast node is up");
    if !joined {
        tracing::info!(
            "not part of a cluster yet: holdfast cluster init, or holdfast node join --seed <api of a node>"
        );
    }
    wait_for_end(&node).await?;
    notify("STOPPING=1");
    tracing::info!("stopping");
    node.shutdown().await;
    let _ = node.stopping.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(3), server).await;
    if let Some(p) = &node.cfg.nbd_socket {
        let _ = std::fs::remove_file(p);
    }
    Ok(())
}

async fn wait_for_end(node: &Arc<Node>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let failed = async {
        loop {
            if let Some(m) = node.member.get() {
                let mut failed = m.meta.failed.clone();
                let why = failed.wait_for(Option::is_some).await.ok().and_then(|w| w.clone());
                return why.unwrap_or_else(|| "the metadata thread ended".into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
        why = failed => Err(anyhow::anyhow!("metadata failed, the node stops rather than guess: {why}")),
    }
}

/// Tells systemd, if it asked to be told.
fn notify(state: &str) {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return };
    let Ok(s) = std::os::unix::net::UnixDatagram::unbound() else { return };
    let sent = match path.strip_prefix('@') {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            std::os::unix::net::SocketAddr::from_abstract_name(name).and_then(|a| s.send_to_addr(state.as_bytes(), &a))
        }
        None => s.send_to(state.as_bytes(), &path),
    };
    if let Err(e) = sent {
        tracing::debug!("systemd notify: {e}");
    }
}

/// Every connection gets its last replies and is closed: all reactors at once, for a bounded time.
async fn stop_clients(m: &Member) {
    let mut stopped = Vec::new();
    for r in &m.reactors {
        let (tx, rx) = tokio::sync::oneshot::channel();
        r.send(reactor::Mail::StopClients(tx));
        stopped.push(rx);
    }
    let all = async {
        for rx in stopped {
            let _ = rx.await;
        }
    };
    if tokio::time::timeout(CLIENTS_STOP, all).await.is_err() {
        tracing::warn!("some NBD connections did not end in time; requests in flight on them are not answered");
    }
}

impl Node {
    /// The member part, or why there is none.
    pub fn member(&self) -> Result<Arc<Member>, tonic::Status> {
        self.member.get().cloned().ok_or_else(|| {
            tonic::Status::failed_precondition(
                "this node is not part of a cluster yet; run holdfast cluster init on the first node, then holdfast node join on the others",
            )
        })
    }

    /// This node's own record.
    pub fn put_node(&self) -> Command {
        let uuid = self.identity.lock().map(|i| i.uuid).unwrap_or_default();
        let member = self.member.get();
        Command::PutNode {
            log: member.map(|m| Box::new(m.meta.status.borrow().own.clone())).unwrap_or_default(),
            node: member.map(|m| m.node),
            name: self.cfg.name.clone(),
            uuid,
            addr: hf_meta_core::record::Addresses {
                api: self.cfg.api.clone(),
                data: self.cfg.data.clone(),
                nbd: self.cfg.nbd.clone(),
            },
            labels: self.cfg.labels.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Opens the metadata store.
    pub fn raft_log(&self) -> anyhow::Result<RaftLog> {
        let reserve = self.dir.reserve();
        // Before it is opened: on a full file system it could not be.
        if let Err(e) = reserve.tend() {
            // A quota, perhaps: without a reserve it works as well, until the space is gone.
            tracing::warn!("data_dir {}: no space can be set aside: {e}", self.dir.path.display());
        }
        let log = RaftLog::open_within(&self.dir.path.join("meta"), self.cfg.metadata_memory).map_err(|e| match e {
            LogError::Damaged(_) => anyhow::anyhow!("data_dir {}: {e}. {FORGOT}", self.dir.path.display()),
            e => e.into(),
        })?;
        Ok(log.with_reserve(reserve))
    }

    /// Starts everything that a member of a cluster runs.
    pub async fn start_member(self: &Arc<Self>) -> anyhow::Result<()> {
        let id = self.identity.lock().map_err(|_| anyhow::anyhow!("identity lock"))?.clone();
        let log = self.raft_log()?;
        if log.is_empty() && id.has_log {
            anyhow::bail!(
                "data_dir {}: its metadata (meta) is gone, and with it what this node has voted for. {FORGOT}",
                self.dir.path.display()
            );
        }
        let (out_tx, out_rx) = mpsc::channel(8192);
        let meta = MetaHandle::start(hf_meta::Start {
            node: id.node,
            cluster: id.cluster,
            log,
            out: out_tx,
            voter_grace_ms: self.cfg.replace_voter_after / 1000,
            noted: crate::disks::noted_ages(&id).await,
        })?;
        let saved = DataDir::view(&self.dir.path);
        let own = meta.state.borrow().clone();
        let first: Arc<ClusterState> = match saved {
            Some(s) if own.revision == 0 => Arc::new(s),
            _ => own,
        };
        let (view_tx, view) = watch::channel(first);
        tokio::spawn(raft_net::run(id.cluster, id.node, meta.clone(), view.clone(), out_rx));
        let who = reactor::Identity { cluster: id.cluster, node: id.node, boot: self.boot };
        let (events_tx, events) = mpsc::unbounded_channel();
        let memory = Memory::new(self.cfg.payload_memory as u64);
        tokio::spawn(crate::memory::give_back_when_idle(memory.exports.clone()));
        let reactors: std::io::Result<Vec<_>> =
            (0..self.cfg.reactors).map(|i| reactor::start(i, who, events_tx.clone(), memory.clone())).collect();
        let member = Arc::new(Member {
            cluster: id.cluster,
            node: id.node,
            api: self.cfg.api.clone(),
            boot: self.boot,
            meta,
            view,
            view_tx,
            leader: LeaderClient::new(id.cluster),
            heard: Arc::default(),
            reactors: reactors?,
            memory,
            exports: ExportTable::default(),
            seats: Seats::new(self.cfg.nbd_connections),
            disk_reactor: Mutex::default(),
            broken: Mutex::default(),
            unmade: Mutex::default(),
            obeyed: watch::Sender::new(0),
            pulse: Default::default(),
            told: Default::default(),
        });
        crate::disks::open_known(self, &member);
        if self.member.set(member.clone()).is_err() {
            anyhow::bail!("this node is part of a cluster already");
        }
        crate::agent::start(self.clone(), member, events);
        Ok(())
    }

    /// Once this node has a log it remembers outside of it that there is one.
    pub async fn remember_log(self: Arc<Self>, m: Arc<Member>) {
        let mut status = m.meta.status.clone();
        if status.wait_for(|s| s.applied > 0).await.is_err() {
            return;
        }
        let _one = self.admin.lock().await;
        let changed = self.identity.lock().ok().and_then(|mut id| {
            let first = !std::mem::replace(&mut id.has_log, true);
            first.then(|| id.clone())
        });
        if let Some(Err(e)) = changed.map(|id| self.dir.save(&id)) {
            tracing::warn!("data_dir {}: {e}", self.dir.path.display());
        }
    }

    /// The service other nodes use.
    pub fn peer_service(&self) -> Result<PeerService, tonic::Status> {
        let m = self.member()?;
        Ok(PeerService {
            cluster: m.cluster,
            node: m.node,
            meta: m.meta.clone(),
            view: m.view.clone(),
            heard: m.heard.clone(),
            stopping: self.stopping.subscribe(),
        })
    }

    /// Clean stop: no more requests are taken, those in flight are answered, disks are checkpointed, Raft ends. Volumes stay
    /// attached on record: the node takes them up again when it comes back, or another one takes them over.
    async fn shutdown(&self) {
        let Some(m) = self.member.get() else { return };
        m.exports.close();
        stop_clients(m).await;
        for r in &m.reactors {
            let (tx, rx) = tokio::sync::oneshot::channel();
            r.send(reactor::Mail::Shutdown(tx));
            if tokio::time::timeout(Duration::from_secs(30), rx).await.is_err() {
                tracing::warn!("a reactor did not finish its checkpoint in time; its journal will be replayed");
            }
        }
        m.meta.stop().await;
    }
}

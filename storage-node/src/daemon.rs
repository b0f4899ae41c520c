//! The daemon: listens, waits to be given a cluster, then runs metadata, disks, reactors, exports and the
//! agent until it is told to stop.

use crate::config::Config;
use crate::export::{Doors, ExportTable, Seats};
use crate::identity::{DataDir, random};
use crate::listen::{bind, bind_socket, raise_descriptors};
use crate::member::Member;
use crate::node::{Joining, Node};
use hf_meta::log::FORGOT;
use hf_meta::{MetaHandle, raft_net};
use hf_meta_core::ClusterState;
use hf_meta_proto::LeaderClient;
use hf_policy::BootId;
use hf_reactor::{self as reactor, Memory};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long NBD connections may take to end at a clean stop; a reactor gives each one five seconds.
const CLIENTS_STOP: Duration = Duration::from_secs(8);

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
    let (joins, joining) = mpsc::channel(1);
    let node = Arc::new(Node {
        cfg,
        dir,
        identity: Mutex::new(identity),
        boot: BootId(random()),
        member: OnceLock::new(),
        member_by: Mutex::default(),
        doors: Doors::default(),
        stopping: stop_tx,
        admin: tokio::sync::Mutex::new(()),
        joins,
    });
    if joined {
        start_member(&node).await?;
    }
    tokio::spawn(start_when_asked(node.clone(), joining));
    let server = tokio::spawn(crate::peer::serve(node.clone(), api, stop.clone()));
    tokio::spawn(crate::accept::accept_data(node.clone(), data));
    tokio::spawn(crate::accept::accept_nbd(node.clone(), nbd));
    if let Some(path) = node.cfg.nbd_socket.clone() {
        let l = bind_socket("nbd_socket", &path)?;
        tokio::spawn(crate::accept::accept_nbd_unix(node.clone(), l));
    }
    if let Some(l) = http {
        tokio::spawn(crate::doors::rest::serve_tcp(node.clone(), l));
    }
    if let Some(path) = node.cfg.api_socket.clone() {
        let l = bind_socket("api_socket", &path)?;
        tokio::spawn(crate::doors::rest::serve_unix(node.clone(), l));
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
    shutdown(&node).await;
    let _ = node.stopping.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(3), server).await;
    for p in [&node.cfg.nbd_socket, &node.cfg.api_socket].into_iter().flatten() {
        let _ = std::fs::remove_file(p);
    }
    Ok(())
}

/// A node that was given a cluster becomes a member of it.
async fn start_when_asked(node: Arc<Node>, mut joining: mpsc::Receiver<Joining>) {
    while let Some(answer) = joining.recv().await {
        let _ = answer.send(start_member(&node).await);
    }
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

/// Starts everything that a member of a cluster runs.
async fn start_member(node: &Arc<Node>) -> anyhow::Result<()> {
    let id = node.identity.lock().map_err(|_| anyhow::anyhow!("identity lock"))?.clone();
    let log = node.raft_log()?;
    if log.is_empty() && id.has_log {
        anyhow::bail!(
            "data_dir {}: its metadata (meta) is gone, and with it what this node has voted for. {FORGOT}",
            node.dir.path.display()
        );
    }
    let (out_tx, out_rx) = mpsc::channel(8192);
    let meta = MetaHandle::start(hf_meta::Start {
        node: id.node,
        cluster: id.cluster,
        log,
        out: out_tx,
        voter_grace_ms: node.cfg.replace_voter_after / 1000,
        noted: crate::disks::noted_ages(&id).await,
    })?;
    let saved = DataDir::view(&node.dir.path);
    let own = meta.state.borrow().clone();
    let first: Arc<ClusterState> = match saved {
        Some(s) if own.revision == 0 => Arc::new(s),
        _ => own,
    };
    let (view_tx, view) = watch::channel(first);
    tokio::spawn(raft_net::run(id.cluster, id.node, meta.clone(), view.clone(), out_rx));
    let who = reactor::Identity { cluster: id.cluster, node: id.node, boot: node.boot };
    let (events_tx, events) = mpsc::unbounded_channel();
    let memory = Memory::new(node.cfg.payload_memory as u64);
    tokio::spawn(crate::memory::give_back_when_idle(memory.exports.clone()));
    let reactors: std::io::Result<Vec<_>> =
        (0..node.cfg.reactors).map(|i| reactor::start(i, who, events_tx.clone(), memory.clone())).collect();
    let member = Arc::new(Member {
        cluster: id.cluster,
        node: id.node,
        api: node.cfg.api.clone(),
        boot: node.boot,
        meta,
        view,
        view_tx,
        leader: LeaderClient::new(id.cluster),
        heard: Arc::default(),
        reactors: reactors?,
        history: Default::default(),
        memory,
        exports: ExportTable::default(),
        seats: Seats::new(node.cfg.nbd_connections),
        disk_reactor: Mutex::default(),
        trouble: Mutex::default(),
        disks_found: watch::Sender::default(),
        served: watch::Sender::default(),
        states: Default::default(),
        look: Default::default(),
        insecure: node.cfg.insecure,
        data_dir_full: Default::default(),
        unmade: Mutex::default(),
        obeyed: watch::Sender::new(0),
        pulse: Default::default(),
        told: Default::default(),
        watching: Default::default(),
        event_log: Default::default(),
    });
    crate::disks::open_known(node, &member);
    if node.member.set(member.clone()).is_err() {
        anyhow::bail!("this node is part of a cluster already");
    }
    crate::agent::start(node.clone(), member, events);
    Ok(())
}

/// Clean stop: no more requests are taken, those in flight are answered, disks are checkpointed, Raft ends.
/// Volumes stay attached on record: the node takes them up again when it comes back, or another one takes
/// them over.
async fn shutdown(node: &Node) {
    let Some(m) = node.member.get() else { return };
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

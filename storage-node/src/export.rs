//! Accepting connections: NBD is negotiated here, then the socket goes to the volume's reactor; replication's hello is read
//! here, then the socket goes to the disk's.

use crate::node::{Member, Node};
use crate::reactor::{Mail, NbdStream};
use hf_frontends::nbd::handshake::greeting;
use hf_frontends::nbd::{Agreed, ExportInfo, Exports, Handshake, Next};
use hf_policy::{DiskId, SessionId, VolumeId};
use hf_repl_core::wire::{MAX_VERSION, MIN_VERSION, Refused};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a negotiation may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Negotiations at once; more wait in the listen queue.
const NEGOTIATING: usize = 256;

/// A volume this node serves now.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What clients see.
    pub info: ExportInfo,
    /// The volume.
    pub vol: VolumeId,
    /// The attachment.
    pub session: SessionId,
    /// Where it is coordinated.
    pub reactor: usize,
}

/// What this node exports, by name; nothing any more once it is closed.
pub struct ExportTable(RwLock<Option<BTreeMap<String, Entry>>>);

impl Default for ExportTable {
    fn default() -> Self {
        ExportTable(RwLock::new(Some(BTreeMap::new())))
    }
}

impl ExportTable {
    /// Adds or replaces an export.
    pub fn put(&self, e: Entry) {
        if let Ok(mut t) = self.0.write()
            && let Some(t) = t.as_mut()
        {
            t.insert(e.info.name.clone(), e);
        }
    }
    /// Takes an attachment's exports away.
    pub fn remove(&self, vol: VolumeId, session: SessionId) {
        if let Ok(mut t) = self.0.write()
            && let Some(t) = t.as_mut()
        {
            t.retain(|_, e| e.vol != vol || e.session != session);
        }
    }
    /// Takes all away, for good: the node stops.
    pub fn close(&self) {
        if let Ok(mut t) = self.0.write() {
            *t = None;
        }
    }
    /// Is this attachment exported?
    pub fn has(&self, vol: VolumeId, session: SessionId) -> bool {
        self.all().iter().any(|e| e.vol == vol && e.session == session)
    }
    /// One export.
    pub fn get(&self, name: &str) -> Option<Entry> {
        self.0.read().ok()?.as_ref()?.get(name).cloned()
    }
    /// All of them.
    pub fn all(&self) -> Vec<Entry> {
        let t = self.0.read();
        t.map(|t| t.iter().flat_map(|t| t.values().cloned()).collect()).unwrap_or_default()
    }
}

/// Room for NBD connections: each holds a seat from before its negotiation to its end.
pub struct Seats {
    room: Arc<Semaphore>,
    refused: AtomicU64,
}

impl Seats {
    /// So many.
    pub fn new(most: usize) -> Seats {
        Seats { room: Arc::new(Semaphore::new(most)), refused: AtomicU64::new(0) }
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        let seat = self.room.clone().try_acquire_owned().ok();
        if seat.is_none() {
            let n = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
            // Once, twice, four times…: who comes again and again does not fill the log.
            if n.is_power_of_two() {
                tracing::warn!(refused = n, "an NBD connection was closed at once: nbd_connections are open already");
            }
        }
        seat
    }

    /// Connections that found no room.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

struct View<'a>(&'a Member);

impl Exports for View<'_> {
    fn list(&self) -> Vec<String> {
        self.0.exports.all().into_iter().map(|e| e.info.name).collect()
    }
    fn find(&self, name: &str) -> Result<ExportInfo, String> {
        if let Some(e) = self.0.exports.get(name) {
            return Ok(e.info);
        }
        let s = self.0.view.borrow();
        Err(match s.volume_named(name) {
            None => format!("no volume is named \"{name}\""),
            Some(v) => match &v.coordinator {
                None => format!("volume {name} is not attached; run holdfast volume attach {name}"),
                Some(a) if a.node == self.0.node => format!("volume {name} is being attached; try again in a moment"),
                Some(a) => format!("volume {name} is attached on node {}", s.node_name(a.node)),
            },
        })
    }
}

async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    m: &Member,
    s: &mut S,
) -> std::io::Result<Option<(Agreed, Vec<u8>)>> {
    s.write_all(&greeting()).await?;
    let mut h = Handshake::default();
    let mut buf = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        // What is told of an export is to be true: after a pause of this process it may not be.
        m.pulse.fresh().await;
        let mut out = Vec::new();
        let (used, next) = h.feed(&buf, &View(m), &mut out);
        buf.drain(..used);
        s.write_all(&out).await?;
        match next {
            Next::Close => return Ok(None),
            Next::Transmission(a) => return Ok(Some((*a, buf))),
            Next::More => {}
        }
        let n = s.read(&mut chunk).await?;
        if n == 0 {
            return Ok(None);
        }
        buf.extend_from_slice(&chunk[..n]);
    }
}

fn hand_over(m: &Member, agreed: Agreed, rest: Vec<u8>, stream: NbdStream, seat: OwnedSemaphorePermit) {
    let Some(e) = m.exports.get(&agreed.export.name) else { return };
    m.reactors[e.reactor].send(Mail::Nbd { stream, agreed: Box::new(agreed), vol: e.vol, rest, seat });
}

/// Negotiates, then hands the socket over.
async fn serve_nbd<S: AsyncRead + AsyncWrite + Unpin>(
    m: Arc<Member>,
    mut s: S,
    into: fn(S) -> std::io::Result<NbdStream>,
) {
    let Some(seat) = m.seats.take() else { return };
    match tokio::time::timeout(PATIENCE, negotiate(&m, &mut s)).await {
        Ok(Ok(Some((agreed, rest)))) => {
            if let Ok(s) = into(s) {
                hand_over(&m, agreed, rest, s, seat);
            }
        }
        Ok(Ok(None)) => {}
        Ok(Err(e)) => tracing::debug!("NBD negotiation: {e}"),
        Err(_) => tracing::debug!("NBD negotiation took too long"),
    }
}

/// Accepts for ever, a bounded number at once; `work` gets each connection once this node is part of a cluster.
async fn accept_each<S, A, F>(node: Arc<Node>, mut accept: impl FnMut() -> A, work: impl Fn(Arc<Member>, S) -> F)
where
    A: Future<Output = std::io::Result<S>>,
    F: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(NEGOTIATING));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok(s) = accept().await else {
            // Out of descriptors: those who are served go on.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(m) = node.member.get().cloned() else { continue };
        let work = work(m, s);
        tokio::spawn(async move {
            let _permit = permit;
            work.await;
        });
    }
}

/// NBD over TCP.
pub async fn accept_nbd(node: Arc<Node>, l: TcpListener) {
    let accept = || async { l.accept().await.map(|(s, _)| s) };
    accept_each(node, accept, |m, s| serve_nbd(m, s, |s: tokio::net::TcpStream| s.into_std().map(NbdStream::Tcp)))
        .await;
}

/// NBD over a Unix socket.
pub async fn accept_nbd_unix(node: Arc<Node>, l: UnixListener) {
    let accept = || async { l.accept().await.map(|(s, _)| s) };
    accept_each(node, accept, |m, s| serve_nbd(m, s, |s: tokio::net::UnixStream| s.into_std().map(NbdStream::Unix)))
        .await;
}

/// Replication from other nodes' coordinators.
pub async fn accept_data(node: Arc<Node>, l: TcpListener) {
    let accept = || async { l.accept().await.map(|(s, _)| s) };
    accept_each(node, accept, serve_data).await;
}

/// Reads the hello, checks it, hands the socket to the reactor of the disk that is meant.
async fn serve_data(m: Arc<Member>, mut s: tokio::net::TcpStream) {
    let hello = match hf_repl::accept(&mut s).await {
        Ok(h) => h,
        Err(e) => return tracing::warn!("replication connection refused: {e}"),
    };
    if hello.common_version().is_none() {
        let text = format!("this node speaks wire versions {MIN_VERSION} to {MAX_VERSION}");
        return hf_repl::refuse(&mut s, Refused::Version, text).await;
    }
    if hello.cluster != m.cluster.0.to_be_bytes() {
        return hf_repl::refuse(&mut s, Refused::Cluster, "another cluster".into()).await;
    }
    let disk = DiskId(hello.disk);
    let reactor = m.disk_reactor.lock().ok().and_then(|d| d.get(&disk).copied());
    let Some(reactor) = reactor else {
        return hf_repl::refuse(&mut s, Refused::Disk, format!("disk {disk} is not in service here")).await;
    };
    if let Ok(stream) = s.into_std() {
        m.reactors[reactor].send(Mail::Data { stream, disk });
    }
}

//! Accepting connections: NBD is negotiated here, then the socket goes to the volume's reactor; replication's hello is read
//! here, then the socket goes to the disk's.

mod room;

pub use room::{Door, Seats};

use crate::node::{Member, Node};
use crate::reactor::{Mail, NbdStream};
use hf_frontends::nbd::handshake::greeting;
use hf_frontends::nbd::{Agreed, ExportInfo, Exports, Handshake, Next};
use hf_policy::{DiskId, SessionId, VolumeId};
use hf_repl_core::wire::{MAX_VERSION, MIN_VERSION, Refused};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::OwnedSemaphorePermit;

/// How long a negotiation may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Negotiations at once at each listener; more wait in the listen queue until the oldest one is over, or has had [`GRACE`].
pub const NEGOTIATING: usize = 2048;
/// How long a negotiation may take though all places are taken. A client that answers needs a few round trips.
const GRACE: Duration = Duration::from_millis(500);

/// The doors of this node's listeners.
pub struct Doors {
    /// NBD over TCP.
    pub nbd: Arc<Door>,
    /// NBD over the Unix socket.
    pub nbd_unix: Arc<Door>,
    /// Replication.
    pub data: Arc<Door>,
}

impl Default for Doors {
    fn default() -> Self {
        let door = || Door::new(NEGOTIATING, GRACE);
        Doors { nbd: door(), nbd_unix: door(), data: door() }
    }
}

impl Doors {
    /// Each with its name.
    pub fn all(&self) -> [(&'static str, &Door); 3] {
        [("nbd", &self.nbd), ("nbd_socket", &self.nbd_unix), ("data", &self.data)]
    }
}

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

/// What this node exports, by name; nothing any more once it is closed. An attachment that is asked
/// to end is not exported again.
pub struct ExportTable {
    open: RwLock<Option<Table>>,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<String, Entry>,
    /// Attachments that were asked to end, as long as the record names them.
    ending: BTreeSet<(VolumeId, SessionId)>,
}

impl Default for ExportTable {
    fn default() -> Self {
        ExportTable { open: RwLock::new(Some(Table::default())) }
    }
}

impl ExportTable {
    fn change(&self, f: impl FnOnce(&mut Table)) {
        if let Ok(mut t) = self.open.write()
            && let Some(t) = t.as_mut()
        {
            f(t)
        }
    }
    /// Adds or replaces an export, unless its attachment was asked to end.
    pub fn put(&self, e: Entry) {
        self.change(|t| {
            if !t.ending.contains(&(e.vol, e.session)) {
                t.entries.insert(e.info.name.clone(), e);
            }
        });
    }
    /// Takes an attachment's exports away.
    pub fn remove(&self, vol: VolumeId, session: SessionId) {
        self.change(|t| t.entries.retain(|_, e| e.vol != vol || e.session != session));
    }
    /// Takes an attachment's exports away for good: it was asked to end, however long that takes.
    pub fn end(&self, vol: VolumeId, session: SessionId) {
        self.change(|t| {
            t.ending.insert((vol, session));
            t.entries.retain(|_, e| e.vol != vol || e.session != session);
        });
    }
    /// Was this attachment asked to end?
    pub fn is_ending(&self, vol: VolumeId, session: SessionId) -> bool {
        self.open.read().is_ok_and(|t| t.as_ref().is_some_and(|t| t.ending.contains(&(vol, session))))
    }
    /// Forgets attachments that have ended: the record does not name them any more.
    pub fn forget_ended(&self, named: impl Fn(VolumeId) -> Option<SessionId>) {
        self.change(|t| t.ending.retain(|(vol, session)| named(*vol) == Some(*session)));
    }
    /// Takes all away, for good: the node stops.
    pub fn close(&self) {
        if let Ok(mut t) = self.open.write() {
            *t = None;
        }
    }
    /// Is this attachment exported?
    pub fn has(&self, vol: VolumeId, session: SessionId) -> bool {
        self.all().iter().any(|e| e.vol == vol && e.session == session)
    }
    /// One export.
    pub fn get(&self, name: &str) -> Option<Entry> {
        self.open.read().ok()?.as_ref()?.entries.get(name).cloned()
    }
    /// All of them.
    pub fn all(&self) -> Vec<Entry> {
        let t = self.open.read();
        t.map(|t| t.iter().flat_map(|t| t.entries.values().cloned()).collect()).unwrap_or_default()
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
                Some(a) if self.0.exports.is_ending(v.id, a.session) => format!("volume {name} is being detached"),
                Some(a) if a.node == self.0.node => format!("volume {name} is being attached; try again in a moment"),
                Some(a) => format!("volume {name} is attached on node {}", s.node_name(a.node)),
            },
        })
    }
}

/// What a negotiation ends in: what was agreed, bytes read beyond it, and the connection's seat.
type Negotiated = (Agreed, Vec<u8>, OwnedSemaphorePermit);

async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(m: &Member, s: &mut S) -> std::io::Result<Option<Negotiated>> {
    s.write_all(&greeting()).await?;
    let mut h = Handshake::default();
    let mut buf = Vec::new();
    loop {
        // What is told of an export is to be true: after a pause of this process it may not be.
        m.pulse.fresh().await;
        let mut out = Vec::new();
        let (used, next) = h.feed(&buf, &View(m), &mut out);
        buf.drain(..used);
        let seat = match next {
            // Before the client is told that it may go on: without a seat it is closed instead.
            Next::Transmission(_) => match m.seats.take() {
                None => return Ok(None),
                seat => seat,
            },
            _ => None,
        };
        s.write_all(&out).await?;
        match (next, seat) {
            (Next::Close, _) => return Ok(None),
            (Next::Transmission(a), Some(seat)) => return Ok(Some((*a, buf, seat))),
            // Long answers are sent before the options behind them are looked at.
            _ if used > 0 && !buf.is_empty() => continue,
            _ => {}
        }
        buf.reserve(1024);
        if s.read_buf(&mut buf).await? == 0 {
            return Ok(None);
        }
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
    match tokio::time::timeout(PATIENCE, negotiate(&m, &mut s)).await {
        Ok(Ok(Some((agreed, rest, seat)))) => {
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
async fn accept_each<S, A, F>(
    node: Arc<Node>,
    door: fn(&Doors) -> &Arc<Door>,
    mut accept: impl FnMut() -> A,
    work: impl Fn(Arc<Member>, S) -> F,
) where
    A: Future<Output = std::io::Result<S>>,
    F: Future<Output = ()> + Send + 'static,
{
    let door = door(&node.doors);
    loop {
        door.room().await;
        let Ok(s) = accept().await else {
            // Out of descriptors: those who are served go on.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if let Some(m) = node.member.get().cloned() {
            door.enter(work(m, s));
        }
    }
}

/// NBD over TCP.
pub async fn accept_nbd(node: Arc<Node>, l: TcpListener) {
    let accept = || async { l.accept().await.map(|(s, _)| s) };
    accept_each(
        node,
        |d| &d.nbd,
        accept,
        |m, s| serve_nbd(m, s, |s: tokio::net::TcpStream| s.into_std().map(NbdStream::Tcp)),
    )
    .await;
}

/// NBD over a Unix socket.
pub async fn accept_nbd_unix(node: Arc<Node>, l: UnixListener) {
    let accept = || async { l.accept().await.map(|(s, _)| s) };
    accept_each(
        node,
        |d| &d.nbd_unix,
        accept,
        |m, s| serve_nbd(m, s, |s: tokio::net::UnixStream| s.into_std().map(NbdStream::Unix)),
    )
    .await;
}

/// Replication from other nodes' coordinators.
pub async fn accept_data(node: Arc<Node>, l: TcpListener) {
    let accept = || async { l.accept().await.map(|(s, _)| s) };
    accept_each(node, |d| &d.data, accept, serve_data).await;
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
        m.reactors[reactor].send(Mail::Data { stream, disk, capabilities: hello.capabilities });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_that_was_asked_to_end_is_not_exported_again() {
        let t = ExportTable::default();
        let (vol, old, new) = (VolumeId(1), SessionId(1), SessionId(2));
        let info = ExportInfo { name: "v".into(), size: 4096, read_only: false, description: String::new() };
        let put = |session| t.put(Entry { info: info.clone(), vol, session, reactor: 0 });
        put(old);
        t.end(vol, old);
        put(old);
        assert!(t.get("v").is_none() && t.is_ending(vol, old));
        t.forget_ended(|_| Some(old));
        assert!(t.is_ending(vol, old), "the record names it");
        // A newer attachment of the same volume is exported, and the earlier one is forgotten.
        put(new);
        t.forget_ended(|_| Some(new));
        assert!(t.has(vol, new) && !t.is_ending(vol, old));
    }
}

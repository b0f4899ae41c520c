//! Accepting connections: NBD is negotiated here, then the socket goes to the volume's reactor; replication's
//! hello is read here, then the socket goes to the disk's.

use crate::export::{Door, Doors};
use crate::member::Member;
use crate::node::Node;
use hf_frontends::nbd::handshake::greeting;
use hf_frontends::nbd::{Agreed, ExportInfo, Exports, Handshake, Next};
use hf_policy::DiskId;
use hf_reactor::Mail;
use hf_reactor::net::Stream;
use hf_repl_core::wire::{MAX_VERSION, MIN_VERSION, Refused};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::OwnedSemaphorePermit;

/// How long a negotiation may take.
const PATIENCE: Duration = Duration::from_secs(10);
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
                Some(a) if a.node == self.0.node => match self.0.waits_for(v.id) {
                    Some(why) => format!("volume {name} is attached here and not served yet: {why}"),
                    None => format!("volume {name} is being attached; try again in a moment"),
                },
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

fn hand_over(m: &Member, agreed: Agreed, rest: Vec<u8>, stream: Stream, seat: OwnedSemaphorePermit) {
    let Some(e) = m.exports.get(&agreed.export.name) else { return };
    m.reactors[e.reactor].send(Mail::Nbd { stream, agreed: Box::new(agreed), vol: e.vol, rest, seat });
}

/// Negotiates, then hands the socket over.
async fn serve_nbd<S: AsyncRead + AsyncWrite + Unpin>(
    m: Arc<Member>,
    mut s: S,
    into: fn(S) -> std::io::Result<Stream>,
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
    accept_each(node, |d| &d.nbd, accept, |m, s| serve_nbd(m, s, Stream::tcp)).await;
}

/// NBD over a Unix socket.
pub async fn accept_nbd_unix(node: Arc<Node>, l: UnixListener) {
    let accept = || async { l.accept().await.map(|(s, _)| s) };
    accept_each(node, |d| &d.nbd_unix, accept, |m, s| serve_nbd(m, s, Stream::unix)).await;
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
        Err(e) => return m.states.warn("replication", "", &format!("replication connection refused: {e}")),
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

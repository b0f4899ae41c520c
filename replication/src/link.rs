//! One connection: hello, frames in, frames out.

use crate::buffers::AlignedBuf;
use bytes::{Bytes, BytesMut};
use hf_policy::BootId;
use hf_repl_core::message::{Envelope, Msg};
use hf_repl_core::wire::{self, Frame, HEADER_BYTES, HELLO_BYTES, Hello, HelloReply, Refused, WireError};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

/// How long a connect and a hello may take.
const HELLO_TIME: Duration = Duration::from_secs(2);
/// Bytes that may wait on one link; whoever exceeds it is too slow, and the link is given up.
const MAX_QUEUED: usize = 256 << 20;
/// After so long without a sign of life from the other side's kernel a link is given up.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);

/// A link that ended, and why.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The other side's bytes.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// No hello of ours.
    #[error("the other side does not speak Holdfast replication")]
    NotHello,
    /// The other side said no.
    #[error("refused: {0}")]
    Refused(String),
    /// Too slow.
    #[error("no answer in time")]
    Timeout,
}

/// Bytes of frames that went over a link, and its predecessors to the same disk. (What TCP adds is not in it.)
#[derive(Clone, Default)]
pub struct Traffic(Rc<Cell<(u64, u64)>>);

impl Traffic {
    /// Bytes sent.
    pub fn sent(&self) -> u64 {
        self.0.get().0
    }
    /// Bytes received.
    pub fn received(&self) -> u64 {
        self.0.get().1
    }
    fn add(&self, sent: usize, received: usize) {
        let (s, r) = self.0.get();
        self.0.set((s + sent as u64, r + received as u64));
    }
}

/// Frames that wait to be sent. Bounded; closing it ends the writer.
#[derive(Clone, Default)]
pub struct Queue(Rc<QueueInner>);

#[derive(Default)]
struct QueueInner {
    frames: RefCell<VecDeque<Frame>>,
    bytes: RefCell<usize>,
    closed: RefCell<bool>,
    wake: Notify,
}

impl Queue {
    /// Puts a message at the end.
    pub fn send(&self, env: &Envelope, msg: &Msg) {
        let q = &self.0;
        if *q.closed.borrow() {
            return;
        }
        let frame = wire::encode(env, msg);
        *q.bytes.borrow_mut() += frame.len();
        if *q.bytes.borrow() > MAX_QUEUED {
            return self.close();
        }
        q.frames.borrow_mut().push_back(frame);
        q.wake.notify_one();
    }

    /// Ends the link.
    pub fn close(&self) {
        *self.0.closed.borrow_mut() = true;
        self.0.frames.borrow_mut().clear();
        self.0.wake.notify_one();
    }
}

/// Sends what the queue holds, many frames in one system call, until it is closed or the socket fails.
pub async fn write_frames(mut w: OwnedWriteHalf, q: Queue, traffic: Traffic) -> Result<(), LinkError> {
    loop {
        let mut pieces: VecDeque<Bytes> = VecDeque::new();
        {
            let mut frames = q.0.frames.borrow_mut();
            while pieces.len() < 128 {
                let Some(f) = frames.pop_front() else { break };
                *q.0.bytes.borrow_mut() -= f.len();
                pieces.push_back(f.head);
                pieces.extend(f.payload.into_iter().filter(|p| !p.is_empty()));
            }
        }
        if *q.0.closed.borrow() {
            return Ok(());
        }
        if pieces.is_empty() {
            q.0.wake.notified().await;
            continue;
        }
        let bytes = pieces.iter().map(Bytes::len).sum();
        write_all(&mut w, pieces).await?;
        traffic.add(bytes, 0);
    }
}

/// Writes every piece, vectored.
pub async fn write_all<W: AsyncWriteExt + Unpin>(w: &mut W, mut pieces: VecDeque<Bytes>) -> std::io::Result<()> {
    while !pieces.is_empty() {
        let slices: Vec<IoSlice<'_>> = pieces.iter().take(64).map(|p| IoSlice::new(p)).collect();
        let mut n = w.write_vectored(&slices).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        while n > 0 {
            let Some(front) = pieces.front_mut() else { break };
            let take = n.min(front.len());
            let _ = front.split_to(take);
            n -= take;
            if front.is_empty() {
                pieces.pop_front();
            }
        }
    }
    Ok(())
}

/// Reads frames and hands them on, until the socket or the format fails.
pub async fn read_frames(r: OwnedReadHalf, traffic: Traffic, mut on: impl FnMut(Envelope, Msg)) -> LinkError {
    let mut r = BufReader::with_capacity(64 << 10, r);
    loop {
        match read_frame(&mut r).await {
            Ok((env, msg, bytes)) => {
                traffic.add(0, bytes);
                on(env, msg);
            }
            Err(e) => return e,
        }
    }
}

async fn read_frame(r: &mut BufReader<OwnedReadHalf>) -> Result<(Envelope, Msg, usize), LinkError> {
    let mut raw = [0u8; HEADER_BYTES];
    r.read_exact(&mut raw).await?;
    let h = wire::parse_header(&raw)?;
    let mut body = BytesMut::zeroed(h.body as usize);
    r.read_exact(&mut body).await?;
    let payload = if h.payload == 0 {
        Bytes::new()
    } else {
        // Straight into a buffer that the disk can take: the payload's only copy.
        let mut buf = AlignedBuf::zeroed(h.payload as usize);
        r.read_exact(buf.bytes_mut()).await?;
        buf.freeze()
    };
    let msg = wire::decode(&raw, &h, &body, payload)?;
    Ok((h.env, msg, HEADER_BYTES + h.body as usize + h.payload as usize))
}

/// Connects to a node's data port for one of its disks.
pub async fn dial(addr: &str, hello: &Hello) -> Result<(TcpStream, BootId), LinkError> {
    let talk = async {
        let mut s = TcpStream::connect(addr).await?;
        watch_over(&s, LINK_TIMEOUT)?;
        s.write_all(&hello.to_frame()).await?;
        let mut raw = [0u8; HELLO_BYTES];
        s.read_exact(&mut raw).await?;
        let reply = HelloReply::from_frame(&raw).ok_or(LinkError::NotHello)?;
        if reply.refused != Refused::Accepted as i32 {
            return Err(LinkError::Refused(reply.text));
        }
        let boot: [u8; 16] = reply.boot.as_slice().try_into().map_err(|_| LinkError::NotHello)?;
        Ok((s, BootId(u128::from_be_bytes(boot))))
    };
    tokio::time::timeout(HELLO_TIME, talk).await.map_err(|_| LinkError::Timeout)?
}

/// A peer that lost power says nothing: the kernel notices for us, within `timeout`. A peer that takes no bytes for so long is
/// given up as well.
pub fn watch_over(s: &TcpStream, timeout: Duration) -> std::io::Result<()> {
    s.set_nodelay(true)?;
    let sock = socket2::SockRef::from(s);
    let probe = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(2))
        .with_retries(3);
    sock.set_tcp_keepalive(&probe)?;
    sock.set_tcp_user_timeout(Some(timeout))
}

/// Reads the hello of a new connection. Anything else on the port ends it.
pub async fn accept(s: &mut TcpStream) -> Result<Hello, LinkError> {
    watch_over(s, LINK_TIMEOUT)?;
    let mut raw = [0u8; HELLO_BYTES];
    tokio::time::timeout(HELLO_TIME, s.read_exact(&mut raw)).await.map_err(|_| LinkError::Timeout)??;
    Hello::from_frame(&raw).ok_or(LinkError::NotHello)
}

/// Says no, with words.
pub async fn refuse(s: &mut TcpStream, why: Refused, text: String) {
    let reply = HelloReply { refused: why as i32, text, ..Default::default() };
    let _ = tokio::time::timeout(HELLO_TIME, s.write_all(&reply.to_frame())).await;
}

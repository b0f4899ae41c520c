//! One connection: hello, frames in, frames out.
//!
//! It promises that the messages that come out are those that went in, and that a damaged byte ends
//! the link. What is sent when is decided by `hf_repl_core::flow`.

use crate::buffers::AlignedBuf;
use bytes::{Bytes, BytesMut};
use hf_policy::{BootId, Tick};
use hf_repl_core::flow::{self, End, Flow};
use hf_repl_core::message::{Envelope, Msg};
use hf_repl_core::wire::{self, HEADER_BYTES, HELLO_BYTES, Header, Hello, HelloReply, Refused, WireError};
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
/// A link is given up after this long without a sign of life from the other side's kernel.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);

/// A link that ended, and why.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket has failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The other side has sent bytes that are no frame.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// What the other side has sent is no hello of this protocol.
    #[error("the other side does not speak Holdfast replication")]
    NotHello,
    /// The other side has refused the hello.
    #[error("refused: {0}")]
    Refused(String),
    /// The other side has not answered in time.
    #[error("no answer in time")]
    Timeout,
    /// More messages wait at one end than the other may have asked for.
    #[error("more messages than a link may hold")]
    Bound,
}

/// Bytes of frames that went over a link, and its predecessors to the same disk. (What TCP adds is
/// not counted.)
#[derive(Clone, Default)]
pub struct Traffic(Rc<Cell<(u64, u64)>>);

impl Traffic {
    /// Bytes that were sent.
    pub fn sent(&self) -> u64 {
        self.0.get().0
    }

    /// Bytes that were received.
    pub fn received(&self) -> u64 {
        self.0.get().1
    }
    fn add(&self, sent: usize, received: usize) {
        let (s, r) = self.0.get();
        self.0.set((s + sent as u64, r + received as u64));
    }
}

/// One end of a link: what waits to be sent, and what is known of requests (`hf_repl_core::flow`).
/// Closing it ends the writer.
#[derive(Clone)]
pub struct Queue(Rc<QueueInner>);

struct QueueInner {
    flow: RefCell<Flow>,
    closed: Cell<bool>,
    wake: Notify,
    clock: fn() -> Tick,
}

impl Queue {
    /// One end of a new link. `credited`: the other end has the capability `LINK_CREDIT`. `clock`
    /// is the node's.
    pub fn new(end: End, credited: bool, clock: fn() -> Tick) -> Queue {
        let flow = RefCell::new(Flow::new(clock(), end, credited));
        Queue(Rc::new(QueueInner { flow, closed: Cell::new(false), wake: Notify::new(), clock }))
    }

    /// Queues a message, unless the link has ended.
    pub fn send(&self, env: Envelope, msg: Msg) {
        if self.0.closed.get() {
            return;
        }
        self.0.flow.borrow_mut().push(env, msg);
        self.0.wake.notify_one();
    }

    /// Looks at what the link knows and decides.
    pub fn flow(&self) -> std::cell::Ref<'_, Flow> {
        self.0.flow.borrow()
    }

    /// Changes what the link may do; it is looked at again afterwards.
    pub fn change<T>(&self, what: impl FnOnce(&mut Flow) -> T) -> T {
        let answer = what(&mut self.0.flow.borrow_mut());
        self.0.wake.notify_one();
        answer
    }

    /// A request that waited for room and may be begun now. This does not wake the writer, which
    /// asks it whenever it is woken, and would wake itself for ever.
    pub fn next_parked(&self) -> Option<(Envelope, Msg)> {
        self.0.flow.borrow_mut().next_parked((self.0.clock)())
    }

    /// Ends the link.
    pub fn close(&self) {
        self.0.closed.set(true);
        self.0.wake.notify_one();
    }

    /// A frame has been read. What it says of the link may let the writer go on.
    fn on_frame(&self, h: &Header) {
        let mut flow = self.0.flow.borrow_mut();
        flow.on_header((self.0.clock)(), h);
        if flow.has_work() {
            self.0.wake.notify_one();
        }
    }

    /// Bytes of a frame that is still coming have been read.
    fn on_bytes(&self, bytes: usize) {
        let mut flow = self.0.flow.borrow_mut();
        flow.on_bytes((self.0.clock)(), bytes as u64);
        if flow.has_work() {
            self.0.wake.notify_one();
        }
    }

    fn answered(&self, env: &Envelope) {
        let mut flow = self.0.flow.borrow_mut();
        flow.answered((self.0.clock)(), &flow::key(env));
        if flow.has_work() {
            self.0.wake.notify_one();
        }
    }

    fn on_message(&self, env: Envelope, msg: Msg, bytes: u64) -> Option<(Envelope, Msg)> {
        let mut flow = self.0.flow.borrow_mut();
        let message = flow.on_message((self.0.clock)(), env, msg, bytes);
        if flow.has_work() {
            self.0.wake.notify_one();
        }
        message
    }
}

/// About how many bytes are given to the socket in one system call: an urgent message waits for no
/// more than that.
const BATCH: usize = 1 << 20;

/// Sends what the queue lets go, many frames in one system call, until it is closed or the socket
/// fails. `room` is called when something has left or changed: requests that waited for room may be
/// begun.
///
/// # Errors
/// The socket has failed, or the other end has broken a bound.
pub async fn write_frames(
    mut w: OwnedWriteHalf,
    q: Queue,
    traffic: Traffic,
    mut room: impl FnMut(&Queue),
) -> Result<(), LinkError> {
    loop {
        let mut pieces: VecDeque<Bytes> = VecDeque::new();
        let mut bytes = 0;
        {
            let mut flow = q.0.flow.borrow_mut();
            let now = (q.0.clock)();
            while pieces.len() < 128
                && bytes < BATCH
                && let Some(f) = flow.pop(now)
            {
                bytes += f.len();
                pieces.push_back(f.head);
                pieces.extend(f.payload.into_iter().filter(|p| !p.is_empty()));
            }
            if flow.is_broken() {
                return Err(LinkError::Bound);
            }
        }
        if q.0.closed.get() {
            return Ok(());
        }
        if pieces.is_empty() {
            q.0.wake.notified().await;
            room(&q);
            continue;
        }
        write_all(&mut w, pieces).await?;
        traffic.add(bytes, 0);
        room(&q);
    }
}

/// Writes every piece, vectored.
///
/// # Errors
/// The socket has failed.
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

/// Reads frames and hands on the messages that are to be looked at now, until the socket or the
/// format fails.
pub async fn read_frames(r: OwnedReadHalf, q: Queue, traffic: Traffic, mut on: impl FnMut(Envelope, Msg)) -> LinkError {
    let mut r = BufReader::with_capacity(64 << 10, r);
    let mut partial = None;
    loop {
        match read_frame(&mut r, &mut partial, &q, &traffic).await {
            Ok(None) => {}
            Ok(Some((env, msg, counted))) => {
                if let Some((env, msg)) = q.on_message(env, msg, counted) {
                    on(env, msg);
                    q.answered(&env);
                }
                if q.flow().is_broken() {
                    return LinkError::Bound;
                }
            }
            Err(e) => return e,
        }
    }
}

/// A message whose payload comes in frames of its own, as far as it has come.
struct Partial {
    raw: [u8; HEADER_BYTES],
    header: Header,
    body: BytesMut,
    payload: AlignedBuf,
    filled: usize,
    /// Bytes that its frames counted so far.
    counted: u64,
}

/// Fills `place` with payload, and tells the queue of every part that arrives.
async fn fill(r: &mut BufReader<OwnedReadHalf>, q: &Queue, place: &mut [u8]) -> Result<(), LinkError> {
    let mut at = 0;
    while at < place.len() {
        let n = r.read(&mut place[at..]).await?;
        if n == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        at += n;
        if at < place.len() {
            q.on_bytes(n);
        }
    }
    Ok(())
}

/// Reads one frame; returns the message that it completes, if any, and the bytes that its frames counted.
async fn read_frame(
    r: &mut BufReader<OwnedReadHalf>,
    partial: &mut Option<Partial>,
    q: &Queue,
    traffic: &Traffic,
) -> Result<Option<(Envelope, Msg, u64)>, LinkError> {
    let mut raw = [0u8; HEADER_BYTES];
    r.read_exact(&mut raw).await?;
    let h = wire::parse_header(&raw)?;
    traffic.add(0, HEADER_BYTES + h.body as usize + h.payload as usize);
    if h.is_credit() || h.is_part() {
        wire::verify_link(&raw, &h)?;
        if h.is_part() {
            let p = partial.as_mut().ok_or(WireError::Malformed(25))?;
            let end = p.filled + h.payload as usize;
            let place = p.payload.bytes_mut().get_mut(p.filled..end).ok_or(WireError::Malformed(25))?;
            fill(r, q, place).await?;
            (p.filled, p.counted) = (end, p.counted + h.counted());
        }
        q.on_frame(&h);
        let Some(p) = partial.take_if(|p| p.filled == p.header.link.parts as usize) else { return Ok(None) };
        let msg = wire::decode(&p.raw, &p.header, &p.body, p.payload.freeze())?;
        return Ok(Some((p.header.env, msg, p.counted)));
    }
    let mut body = BytesMut::zeroed(h.body as usize);
    r.read_exact(&mut body).await?;
    if h.link.parts > 0 {
        if partial.is_some() {
            return Err(WireError::Malformed(25).into());
        }
        wire::verify_head(&raw, &h, &body)?;
        q.on_frame(&h);
        let payload = AlignedBuf::zeroed(h.link.parts as usize);
        let counted = h.counted();
        *partial = Some(Partial { raw, header: h, body, payload, filled: 0, counted });
        return Ok(None);
    }
    let payload = if h.payload == 0 {
        Bytes::new()
    } else {
        // Straight into a buffer that the disk can take: the payload's only copy.
        let mut buf = AlignedBuf::zeroed(h.payload as usize);
        fill(r, q, buf.bytes_mut()).await?;
        buf.freeze()
    };
    let msg = wire::decode(&raw, &h, &body, payload)?;
    q.on_frame(&h);
    Ok(Some((h.env, msg, h.counted())))
}

/// Connects to a node's data port for one of its disks. Returns the socket, the other process and
/// its capabilities.
///
/// # Errors
/// There is no connection, no answer in time, no answer of this protocol, or a refusal.
pub async fn dial(addr: &str, hello: &Hello) -> Result<(TcpStream, BootId, u64), LinkError> {
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
        Ok((s, BootId(u128::from_be_bytes(boot)), reply.capabilities))
    };
    tokio::time::timeout(HELLO_TIME, talk).await.map_err(|_| LinkError::Timeout)?
}

/// Has the kernel notice within `timeout` that a peer has lost power, or has stopped taking bytes:
/// the socket fails then.
///
/// # Errors
/// The socket's options cannot be set.
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
///
/// # Errors
/// No hello of this protocol has come in time.
pub async fn accept(s: &mut TcpStream) -> Result<Hello, LinkError> {
    watch_over(s, LINK_TIMEOUT)?;
    let mut raw = [0u8; HELLO_BYTES];
    tokio::time::timeout(HELLO_TIME, s.read_exact(&mut raw)).await.map_err(|_| LinkError::Timeout)??;
    Hello::from_frame(&raw).ok_or(LinkError::NotHello)
}

/// Refuses a hello, with words for people. Whether they arrive does not matter.
pub async fn refuse(s: &mut TcpStream, why: Refused, text: String) {
    let reply = HelloReply { refused: why as i32, text, ..Default::default() };
    let _ = tokio::time::timeout(HELLO_TIME, s.write_all(&reply.to_frame())).await;
}

//! An NBD connection in its transmission phase, on the volume's reactor.
//!
//! An idle connection costs one task and one 8 KiB read buffer; a write's payload gets
//! a buffer of its own, aligned for the disk (the payload's only copy). Requests enter the coordinator in the order they
//! arrive. What a client sent completely before it said goodbye or shut its sending side is carried out and answered, then the
//! socket is closed. When it is gone both ways, nothing more of it is begun once that has been seen (docs/wire.md).

use super::NbdStream;
use super::core::{Core, CoreRef};
use super::intake::{Client, Held, Intake, Ticket};
use super::replies::{Replies, STALLED, answer, stalled};
use bytes::Bytes;
use hf_frontends::nbd::transmission::{FLAG_FAST_ZERO, FLAG_NO_HOLE, HEADER_BYTES};
use hf_frontends::nbd::{Agreed, Command, Errno, MAX_REQUEST, Request, parse_request, reply};
use hf_policy::{CHUNK_BYTES, VolumeId};
use hf_repl::AlignedBuf;
use hf_repl_core::IoError;
use hf_repl_core::coordinator::{ClientOp, ClientReply};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// How long an unreachable client may stay unnoticed. Longer than a replication link's: a client that leaves its receive window
/// shut for so long is taken for one, too.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// When a connection has to end, requests in flight are answered within this time, or not at all.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Chunks of zeroes that one request writes at once.
const ZERO_WINDOW: u64 = 8;
/// What a client sent and nobody wants any more: so much of it is read before the socket is closed, because closing over
/// unread bytes resets the connection, which may cost the client its last replies.
const MAX_DISCARD: usize = 16 << 20;

struct Conn {
    core: CoreRef,
    vol: VolumeId,
    agreed: Agreed,
    intake: Rc<Intake>,
    replies: Rc<Replies>,
    /// Those who left before it came.
    before: Vec<Rc<Client>>,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.intake.leave(&self.replies.client);
        if let Ok(mut c) = self.core.try_borrow_mut() {
            c.connection_ended();
        }
    }
}

/// Takes a negotiated connection over.
pub(super) fn start(
    core: &CoreRef,
    stream: NbdStream,
    agreed: Agreed,
    vol: VolumeId,
    rest: Vec<u8>,
    seat: OwnedSemaphorePermit,
) {
    let intake = core.borrow().volumes.get(&vol).map(|h| h.intake.clone()).filter(|i| !i.is_closing());
    let Some(intake) = intake else { return };
    let core = core.clone();
    tokio::task::spawn_local(async move {
        let begin = |fd| {
            // Counted from here until it is dropped.
            core.borrow_mut().connections += 1;
            let (client, before) = intake.enter(fd);
            Conn { core: core.clone(), vol, agreed, intake, replies: Replies::new(client), before }
        };
        let served = match stream {
            NbdStream::Tcp(s) => over_tcp(s, begin, rest).await,
            NbdStream::Unix(s) => over_unix(s, begin, rest).await,
        };
        drop(seat);
        if let Err(e) = served {
            tracing::debug!(volume = %vol, "NBD connection ended: {e}");
        }
    });
}

/// The connection is dropped before its socket, whose descriptor it uses.
async fn over_tcp(s: std::net::TcpStream, begin: impl FnOnce(RawFd) -> Conn, rest: Vec<u8>) -> io::Result<()> {
    let mut s = tokio::net::TcpStream::from_std(s)?;
    hf_repl::link::watch_over(&s, CLIENT_TIMEOUT)?;
    let conn = begin(s.as_raw_fd());
    let (r, w) = s.split();
    let served = conn.serve(rest, r, w).await;
    drop(conn);
    served
}

/// As over TCP; here the kernel tells at once when the other process is gone.
async fn over_unix(
    s: std::os::unix::net::UnixStream,
    begin: impl FnOnce(RawFd) -> Conn,
    rest: Vec<u8>,
) -> io::Result<()> {
    let mut s = tokio::net::UnixStream::from_std(s)?;
    let conn = begin(s.as_raw_fd());
    let (r, w) = s.split();
    let served = conn.serve(rest, r, w).await;
    drop(conn);
    served
}

impl Conn {
    async fn serve<R, W>(&self, rest: Vec<u8>, r: R, w: W) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut r = tokio::io::BufReader::with_capacity(8 << 10, io::Cursor::new(rest).chain(r));
        let mut writer = pin!(self.replies.write(&self.intake, w));
        tokio::select! {
            biased;
            () = self.intake.closed() => {}
            ended = &mut writer => return ended,
            ended = self.requests(&mut r) => ended?,
        }
        // It said goodbye, or we do: what is in flight is answered, then the socket is closed.
        self.intake.stop_reading(&self.replies.client);
        let too_long = async {
            self.intake.closed().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        let answered = tokio::select! {
            ended = &mut writer => ended,
            () = too_long => Err(io::Error::other("closed before every request in flight was answered")),
        };
        discard(&mut r).await;
        answered
    }

    /// Takes requests until the client says goodbye or shuts its sending side.
    async fn requests(&self, r: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        self.intake.wait_for(&self.before).await;
        loop {
            let mut head = [0u8; HEADER_BYTES];
            match r.read_exact(&mut head).await {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(e) => return Err(e),
            }
            let q = parse_request(&head).ok_or_else(|| io::Error::other("not an NBD request"))?;
            if q.command == Command::Disconnect {
                return Ok(());
            }
            if q.command == Command::Write && q.len > MAX_REQUEST {
                return Err(io::Error::other(format!("a write of {} bytes is beyond the bound", q.len)));
            }
            let mut waited = self.replies.room().await;
            let (held, waited_for_bytes) = self.intake.payload.take(payload_of(&q)).await;
            let mut payload = Bytes::new();
            if q.command == Command::Write {
                let mut buf = AlignedBuf::zeroed(q.len as usize);
                if !self.fill(r, buf.bytes_mut()).await? {
                    return Ok(());
                }
                payload = buf.freeze();
            }
            let (ticket, waited_for_slot) = self.intake.admit(&self.replies.client).await;
            waited |= waited_for_bytes | waited_for_slot;
            // While it waited, its client may have vanished, come back, and sent newer requests: then this one is too late.
            if waited && self.replies.client.is_gone() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            super::pause::over(&self.core).await;
            self.request(q, payload, ticket, held);
        }
    }

    /// Reads a payload; false if the client shut its sending side in the middle of it.
    async fn fill(&self, r: &mut (impl AsyncRead + Unpin), buf: &mut [u8]) -> io::Result<bool> {
        let mut at = 0;
        while at < buf.len() {
            match tokio::time::timeout(STALLED, r.read(&mut buf[at..])).await {
                Ok(n) => match n? {
                    0 => return Ok(false),
                    n => at += n,
                },
                Err(_) if self.intake.is_contended() => return Err(stalled()),
                Err(_) => {}
            }
        }
        Ok(true)
    }

    fn fail(&self, q: &Request, errno: Errno, text: &str) {
        self.replies.push(reply::error(self.agreed.structured, q.cookie, errno, text), Vec::new(), None);
    }

    /// `ticket` and `held` are given back when the request is answered.
    fn request(&self, q: Request, payload: Bytes, ticket: Ticket, held: Held) {
        let (size, read_only) = {
            let c = self.core.borrow();
            c.volumes.get(&self.vol).map_or((0, true), |h| (h.size, h.read_only || self.agreed.export.read_only))
        };
        let a = &self.agreed;
        if let Err(e) = q.check(size, read_only, a.structured, a.base_allocation) {
            return self.fail(&q, e, "the request does not fit this export");
        }
        let len = u64::from(q.len);
        let op = match q.command {
            Command::Read if q.len == 0 => None,
            Command::Read => Some(ClientOp::Read { off: q.offset, len: q.len }),
            Command::Write if q.len == 0 => None,
            Command::Write => Some(ClientOp::Write { off: q.offset, data: payload }),
            // Whoever wants no hole wants the space to be there: zeroes are written as data.
            Command::WriteZeroes if q.flags & FLAG_NO_HOLE != 0 && q.flags & FLAG_FAST_ZERO != 0 => {
                return self.fail(&q, Errno::NotSup, "zeroes without a hole are not fast");
            }
            Command::WriteZeroes if q.flags & FLAG_NO_HOLE != 0 && len > 0 => {
                tokio::task::spawn_local(self.zeroes(q).run(ticket, held));
                return;
            }
            Command::Trim | Command::WriteZeroes if q.len > 0 => Some(ClientOp::Zero { off: q.offset, len }),
            Command::Trim | Command::WriteZeroes | Command::Cache => None,
            Command::Flush => Some(ClientOp::Flush),
            Command::BlockStatus => Some(ClientOp::Status { off: q.offset, len }),
            Command::Disconnect | Command::Unknown(_) => return self.fail(&q, Errno::Invalid, "unknown command"),
        };
        match op {
            None => self.replies.push(answer(a.structured, &q, Ok(ClientReply::Done)), Vec::new(), None),
            Some(op) => self.submit(q, op, ticket, held),
        }
    }

    fn submit(&self, q: Request, op: ClientOp, ticket: Ticket, held: Held) {
        let (replies, structured) = (self.replies.clone(), self.agreed.structured);
        let mut c = self.core.borrow_mut();
        let done = Box::new(move |result: Result<ClientReply, IoError>| {
            replies.finish(structured, &q, result, held);
            drop(ticket);
        });
        c.client(self.vol, op, done);
        c.drain();
    }

    fn zeroes(&self, q: Request) -> Zeroes {
        Zeroes {
            core: self.core.clone(),
            vol: self.vol,
            intake: self.intake.clone(),
            replies: self.replies.clone(),
            structured: self.agreed.structured,
            q,
            window: Rc::default(),
        }
    }
}

/// What a request counts in the volume's payload bytes.
fn payload_of(q: &Request) -> u64 {
    match q.command {
        Command::Write => u64::from(q.len).next_multiple_of(hf_repl::buffers::ALIGN as u64),
        Command::Read => u64::from(q.len.min(MAX_REQUEST)),
        Command::WriteZeroes if q.flags & FLAG_NO_HOLE != 0 => u64::from(q.len).min(ZERO_WINDOW * CHUNK_BYTES),
        _ => 0,
    }
}

/// Reads away what is there already, a bounded amount of it.
async fn discard(r: &mut (impl AsyncRead + Unpin)) {
    let mut buf = vec![0u8; 64 << 10];
    let mut left = MAX_DISCARD;
    while left > 0 {
        match tokio::time::timeout(Duration::ZERO, r.read(&mut buf)).await {
            Ok(Ok(n)) if n > 0 => left = left.saturating_sub(n),
            _ => return,
        }
    }
}

/// Zeroes that must occupy space: written as data, a few chunks at a time, answered once.
struct Zeroes {
    core: CoreRef,
    vol: VolumeId,
    intake: Rc<Intake>,
    replies: Rc<Replies>,
    structured: bool,
    q: Request,
    window: Rc<Window>,
}

/// Chunks in flight, and the first error.
#[derive(Default)]
struct Window {
    in_flight: Cell<u64>,
    error: RefCell<Option<IoError>>,
    done: Notify,
}

impl Zeroes {
    async fn run(self, ticket: Ticket, held: Held) {
        let zero = AlignedBuf::zeroed(CHUNK_BYTES as usize).freeze();
        let (mut at, end) = (self.q.offset, self.q.offset + u64::from(self.q.len));
        while at < end {
            self.at_most(ZERO_WINDOW - 1).await;
            // Nobody would hear how this ended, and a newer client may write here: it stops where it is.
            if self.replies.client.is_gone() || self.window.error.borrow().is_some() {
                break;
            }
            if self.intake.is_closing() {
                *self.window.error.borrow_mut() = Some(IoError::Fenced);
                break;
            }
            let n = (CHUNK_BYTES - at % CHUNK_BYTES).min(end - at);
            self.write(at, zero.slice(..n as usize));
            at += n;
        }
        self.at_most(0).await;
        let result = self.window.error.borrow_mut().take().map_or(Ok(ClientReply::Done), Err);
        self.replies.finish(self.structured, &self.q, result, held);
        drop(ticket);
    }

    async fn at_most(&self, n: u64) {
        while self.window.in_flight.get() > n {
            self.window.done.notified().await;
        }
    }

    fn write(&self, off: u64, data: Bytes) {
        let w = self.window.clone();
        w.in_flight.set(w.in_flight.get() + 1);
        let done = Box::new(move |result: Result<ClientReply, IoError>| {
            w.in_flight.set(w.in_flight.get() - 1);
            if let Err(e) = result {
                w.error.borrow_mut().get_or_insert(e);
            }
            w.done.notify_one();
        });
        let mut c = self.core.borrow_mut();
        c.client(self.vol, ClientOp::Write { off, data }, done);
        Core::drain(&mut c);
    }
}

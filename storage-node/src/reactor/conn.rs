//! An NBD connection in its transmission phase, on the volume's reactor.
//!
//! An idle connection costs one task and one 8 KiB read buffer; a write's payload gets buffers of its own, aligned for the
//! disk (the payload's only copy), one for each piece of a large write ([`super::pieces`]). Requests enter the coordinator in the order they
//! arrive. What a client sent completely before it said goodbye or shut its sending side is carried out and answered, then the
//! socket is closed. When it is gone both ways, nothing more of it is begun once that has been seen (docs/wire.md).

use super::NbdStream;
use super::core::{Core, CoreRef};
use super::intake::{Intake, Ticket};
use super::pieces::{self, Pieces};
use super::replies::{Replies, STALLED, answer, stalled};
use super::volume_host::ConnectionId;
use bytes::Bytes;
use hf_frontends::nbd::transmission::{FLAG_FAST_ZERO, FLAG_NO_HOLE, HEADER_BYTES};
use hf_frontends::nbd::{Agreed, Command, Errno, MAX_REQUEST, Request, parse_request, reply};
use hf_policy::{CHUNK_BYTES, VolumeId};
use hf_repl::AlignedBuf;
use hf_repl::budget::Permit;
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

const NO_FIT: &str = "the request does not fit this export";

struct Conn {
    id: ConnectionId,
    core: CoreRef,
    vol: VolumeId,
    agreed: Agreed,
    intake: Rc<Intake>,
    replies: Rc<Replies>,
    /// Those who had left when it came have places before this one.
    mark: u64,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.intake.leave(&self.replies.client);
        if let Ok(mut c) = self.core.try_borrow_mut() {
            c.connection_ended();
            c.give_up(self.vol, self.id);
            c.drain();
        }
    }
}

/// A request that is not begun yet, while its connection may end.
struct Unanswered<'a> {
    conn: &'a Conn,
    q: &'a Request,
    whole: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.whole {
            self.conn.fail(self.q, Errno::Shutdown, &IoError::Fenced.to_string());
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
            let (client, mark) = intake.enter(fd)?;
            // Counted from here until it is dropped.
            let id = core.borrow_mut().connection_begun();
            Ok(Conn { id, core: core.clone(), vol, agreed, intake, replies: Replies::new(client), mark })
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
async fn over_tcp(
    s: std::net::TcpStream,
    begin: impl FnOnce(RawFd) -> io::Result<Conn>,
    rest: Vec<u8>,
) -> io::Result<()> {
    let mut s = tokio::net::TcpStream::from_std(s)?;
    hf_repl::link::watch_over(&s, CLIENT_TIMEOUT)?;
    let conn = begin(s.as_raw_fd())?;
    let (r, w) = s.split();
    let served = conn.serve(rest, r, w).await;
    drop(conn);
    served
}

/// As over TCP; here the kernel tells at once when the other process is gone.
async fn over_unix(
    s: std::os::unix::net::UnixStream,
    begin: impl FnOnce(RawFd) -> io::Result<Conn>,
    rest: Vec<u8>,
) -> io::Result<()> {
    let mut s = tokio::net::UnixStream::from_std(s)?;
    let conn = begin(s.as_raw_fd())?;
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
        self.intake.wait_for(self.mark, &self.replies.client).await;
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
            let waited = self.replies.room().await;
            if let Err(e) = self.check(&q) {
                if q.command == Command::Write && !self.swallow(r, q.len).await? {
                    return Ok(());
                }
                self.fail(&q, e, NO_FIT);
                continue;
            }
            if q.command == Command::Write {
                if !self.write(q, r, waited).await? {
                    return Ok(());
                }
            } else if pieces::reads_in_pieces(&q, self.agreed.structured) {
                self.read_in_pieces(q, waited).await?;
            } else if q.command == Command::Flush {
                // It waits for nothing, and takes no place from others.
                self.flush(q);
            } else {
                let (held, waited_for_bytes) = self.replies.client.payload.take(payload_of(&q)).await;
                let ticket = self.place(waited | waited_for_bytes).await?;
                self.awake(&q, true).await;
                match self.check(&q) {
                    Ok(()) => self.request(q, ticket, held),
                    Err(e) => self.fail(&q, e, NO_FIT),
                }
            }
        }
    }

    /// Waits for a place among the requests in flight. While a request waited, its client may have vanished, come back, and sent
    /// newer requests: then this one is too late.
    async fn place(&self, waited: bool) -> io::Result<Ticket> {
        let (ticket, waited_for_slot) = self.intake.admit(&self.replies.client).await;
        if (waited | waited_for_slot) && self.replies.client.is_gone() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(ticket)
    }

    /// Waits until this node knows the record, if it was paused. What the export is may have changed then. If the attachment is over
    /// instead, a request that was read `whole` is told so: nothing of it was begun.
    async fn awake(&self, q: &Request, whole: bool) {
        let unanswered = Unanswered { conn: self, q, whole };
        super::pause::over(&self.core).await;
        std::mem::forget(unanswered);
    }

    /// May this export be asked that, as it is now?
    fn check(&self, q: &Request) -> Result<(), Errno> {
        let (size, read_only) = {
            let c = self.core.borrow();
            c.volumes.get(&self.vol).map_or((0, true), |h| (h.size, h.read_only || self.agreed.export.read_only))
        };
        q.check(size, read_only, self.agreed.structured, self.agreed.base_allocation)
    }

    /// Takes a write's payload and begins it, a piece at a time; false if the client shut its sending side in the middle.
    async fn write(&self, q: Request, r: &mut (impl AsyncRead + Unpin), mut waited: bool) -> io::Result<bool> {
        let (mut at, mut whole) = (0, None);
        while at < q.len {
            let (held, waited_for_bytes) = self.replies.client.payload.take_piece(pieces::most(&q, at)).await;
            let n = pieces::length(&q, at, held.bytes());
            let mut buf = AlignedBuf::zeroed(n as usize);
            if !self.fill(r, buf.bytes_mut()).await? {
                return Ok(false);
            }
            let ticket = self.place(waited | waited_for_bytes).await?;
            self.awake(&q, n == q.len).await;
            waited = false;
            let (off, data) = (q.offset + u64::from(at), buf.freeze());
            at += n;
            // Asked again: the export may have become read-only while the data came.
            let fits = self.check(&q);
            if n == q.len {
                match fits {
                    Ok(()) => self.submit(q, ClientOp::Write { off, data }, ticket, held),
                    Err(e) => self.fail(&q, e, NO_FIT),
                }
                return Ok(true);
            }
            let new = || Pieces::new(q, self.agreed.structured, self.replies.clone());
            let whole = whole.get_or_insert_with(new).clone();
            whole.begin(at == q.len);
            if let Err(e) = fits {
                whole.refused(e, NO_FIT, held, ticket);
                continue;
            }
            let done = Box::new(move |result| whole.write_done(result, held, ticket));
            self.begin(ClientOp::Write { off, data }, done);
        }
        if q.len == 0 {
            self.replies.push(answer(self.agreed.structured, &q, Ok(ClientReply::Done)), Vec::new(), None);
        }
        Ok(true)
    }

    /// Asks for a large read a piece at a time, as the client takes the answers.
    async fn read_in_pieces(&self, q: Request, mut waited: bool) -> io::Result<()> {
        let whole = Pieces::new(q, true, self.replies.clone());
        let mut at = 0;
        while at < q.len {
            waited |= self.replies.room().await;
            let (held, waited_for_bytes) = self.replies.client.payload.take_piece(pieces::most(&q, at)).await;
            let ticket = self.place(waited | waited_for_bytes).await?;
            self.awake(&q, false).await;
            waited = false;
            let (off, len) = (q.offset + u64::from(at), pieces::length(&q, at, held.bytes()));
            at += len;
            self.replies.promise(len);
            whole.begin(at == q.len);
            let whole = whole.clone();
            let done = Box::new(move |result| {
                whole.read_done((off, len), result, held);
                drop(ticket);
            });
            self.begin(ClientOp::Read { off, len }, done);
        }
        Ok(())
    }

    fn flush(&self, q: Request) {
        let (replies, structured) = (self.replies.clone(), self.agreed.structured);
        let ticket = self.intake.admit_at_once(&self.replies.client);
        let done = Box::new(move |result| {
            replies.push(answer(structured, &q, result), Vec::new(), None);
            drop(ticket);
        });
        self.begin(ClientOp::Flush, done);
    }

    /// Reads a payload away that is not wanted; false if the client shut its sending side in the middle of it.
    async fn swallow(&self, r: &mut (impl AsyncRead + Unpin), len: u32) -> io::Result<bool> {
        let mut left = len as usize;
        let mut buf = vec![0u8; left.min(16 << 10)];
        while left > 0 {
            let n = left.min(buf.len());
            if !self.fill(r, &mut buf[..n]).await? {
                return Ok(false);
            }
            left -= n;
        }
        Ok(true)
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

    /// Begins a request that fits this export; `ticket` and `held` are given back when it is answered.
    fn request(&self, q: Request, ticket: Ticket, held: Permit) {
        let len = u64::from(q.len);
        let op = match q.command {
            Command::Read if q.len == 0 => None,
            Command::Read => Some(ClientOp::Read { off: q.offset, len: q.len }),
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
            Command::Write | Command::Disconnect | Command::Unknown(_) => {
                return self.fail(&q, Errno::Invalid, "unknown command");
            }
        };
        match op {
            None => self.replies.push(answer(self.agreed.structured, &q, Ok(ClientReply::Done)), Vec::new(), None),
            Some(op) => self.submit(q, op, ticket, held),
        }
    }

    fn submit(&self, q: Request, op: ClientOp, ticket: Ticket, held: Permit) {
        let (replies, structured) = (self.replies.clone(), self.agreed.structured);
        if let ClientOp::Read { len, .. } = op {
            replies.promise(len);
        }
        let done = Box::new(move |result: Result<ClientReply, IoError>| {
            replies.finish(structured, &q, result, held);
            drop(ticket);
        });
        self.begin(op, done);
    }

    /// Hands an operation to the coordinator; `done` is called exactly once.
    fn begin(&self, op: ClientOp, done: Box<dyn FnOnce(Result<ClientReply, IoError>)>) {
        let mut c = self.core.borrow_mut();
        c.client(self.vol, self.id, op, done);
        c.drain();
    }

    fn zeroes(&self, q: Request) -> Zeroes {
        Zeroes {
            id: self.id,
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

/// What a request that is not cut counts in the node's payload memory.
fn payload_of(q: &Request) -> u64 {
    match q.command {
        Command::Read => u64::from(q.len.min(MAX_REQUEST)),
        // All of its writes are of the same chunk of zeroes.
        Command::WriteZeroes if q.flags & FLAG_NO_HOLE != 0 => u64::from(q.len).min(CHUNK_BYTES),
        _ => 0,
    }
}

/// Reads away what is there already, a bounded amount of it.
async fn discard(r: &mut (impl AsyncRead + Unpin)) {
    let mut buf = vec![0u8; 16 << 10];
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
    id: ConnectionId,
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
    async fn run(self, ticket: Ticket, held: Permit) {
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
        c.client(self.vol, self.id, ClientOp::Write { off, data }, done);
        Core::drain(&mut c);
    }
}

//! The driver of a client's connection, for a front end of any protocol (`hf_frontends::door` says what the
//! two promise each other).
//!
//! An idle connection costs one task and one 8 KiB read buffer; a request's payload gets a buffer of its own,
//! aligned for the disk (the payload's only copy). What a client sent completely before it said goodbye or
//! shut its sending side is carried out and answered, then the socket is closed. When it is gone both ways,
//! nothing more of it is begun once that has been seen (docs/wire.md).
//!
//! Two lanes run side by side, so that a front end may go on reading while one of its requests waits: one
//! reads from the socket, the other waits for memory and places. Where nothing has to be waited for, a
//! request passes neither.

use super::replies::{Replies, STALLED, stalled};
use super::words;
use crate::latency;
use crate::net::{OpenStream, Stream};
use crate::volume::blank;
use crate::volume::intake::Ticket;
use crate::volume::port::Port;
use hf_frontends::door::{self, FrontEnd, In, MOST_HEAD, Op, Out, Shape, Task};
use hf_host_config::clock::now;
use hf_policy::{Tick, broken};
use hf_repl::AlignedBuf;
use hf_repl::budget::{PIECE, Permit};
use hf_repl_core::IoError;
use hf_repl_core::coordinator::{ClientOp, ClientReply};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::Notify;

/// How long an unreachable client may stay unnoticed. Longer than a replication link's: a client that leaves
/// its receive window shut for so long is taken for one, too.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// When a connection has to end, requests in flight are answered within this time, or not at all.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// What a client sent and nobody wants any more: so much of it is read before the socket is closed, because
/// closing over unread bytes resets the connection, which may cost the client its last replies.
const MAX_DISCARD: usize = 16 << 20;
/// Bytes of a buffer for what is read and forgotten.
const DISCARD: usize = 16 << 10;
const READ_BUFFER: usize = 8 << 10;

const _: () = assert!(door::PIECE == PIECE);

/// What a task holds of the node.
#[derive(Default)]
struct Held {
    buf: Option<AlignedBuf>,
    permit: Option<Permit>,
    ticket: Option<Ticket>,
    /// When it came.
    arrived: Option<Tick>,
    /// As what it is counted once it ends, if it was begun.
    counts: Option<latency::Op>,
    /// It has waited: its client may have vanished meanwhile, come back, and sent newer requests.
    waited: bool,
    /// Bytes that it will send to the client.
    promised: u32,
}

impl Held {
    /// It came at this moment, unless it had come before.
    fn came(&mut self, t: Tick) {
        self.arrived.get_or_insert(t);
    }
}

/// What the reading lane does next.
enum Read {
    Head(usize),
    Fill { task: Task, size: usize, at: usize, len: usize },
    Skip(usize),
}

/// What the waiting lane does next.
enum Wait {
    Reserve { task: Task, bytes: u64, cut: bool },
    Place(Task),
    Begin(Task, Op),
}

/// What outlives the connection for as long as one of its requests is in flight.
struct Shared<F> {
    front: RefCell<F>,
    replies: Replies,
    held: RefCell<Vec<Held>>,
    reads: RefCell<VecDeque<Read>>,
    to_read: Notify,
    waits: RefCell<VecDeque<Wait>>,
    to_wait: Notify,
    /// The next request has waited before it was read.
    late: Cell<bool>,
    /// The task that has its place and waits for the end of a pause of this process.
    asleep: Cell<Option<Task>>,
    /// The front end has said how the connection ends.
    over: RefCell<Option<io::Result<()>>>,
    deadline: Cell<Option<Tick>>,
    rearm: Notify,
    scratch: RefCell<Vec<Out>>,
    /// How long the volume's requests took.
    latency: Rc<latency::Recorder>,
}

struct Driver<F> {
    port: Port,
    shared: Rc<Shared<F>>,
}

/// Serves a connection to its end. `rest` are bytes of its first requests that were read already.
pub(super) async fn serve<F: FrontEnd + 'static>(
    stream: Stream,
    front: F,
    rest: Vec<u8>,
    open: impl FnOnce(RawFd) -> io::Result<Port>,
) -> io::Result<()> {
    let mut s: OpenStream = stream.open(CLIENT_TIMEOUT)?;
    let port = open(s.fd())?;
    let shared = Shared {
        front: RefCell::new(front),
        replies: Replies::new(port.client.clone()),
        held: RefCell::default(),
        reads: RefCell::default(),
        to_read: Notify::new(),
        waits: RefCell::default(),
        to_wait: Notify::new(),
        late: Cell::new(false),
        asleep: Cell::new(None),
        over: RefCell::new(None),
        deadline: Cell::new(None),
        rearm: Notify::new(),
        scratch: RefCell::default(),
        latency: port.intake.latency.clone(),
    };
    let driver = Driver { port, shared: Rc::new(shared) };
    let (r, w) = s.split();
    let served = driver.serve(rest, r, w).await;
    // Before its socket, whose descriptor the port uses.
    drop(driver);
    served
}

impl<F: FrontEnd + 'static> Driver<F> {
    async fn serve<R, W>(&self, rest: Vec<u8>, r: R, w: W) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let intake = &self.port.intake;
        let mut r = tokio::io::BufReader::with_capacity(READ_BUFFER, io::Cursor::new(rest).chain(r));
        let mut writer = pin!(self.shared.replies.write(intake, w));
        tokio::select! {
            biased;
            () = intake.closed() => {}
            ended = &mut writer => return ended,
            ended = self.requests(&mut r) => ended?,
        }
        // It said goodbye, or we do: what is in flight is answered, then the socket is closed.
        self.shared.feed(In::Closing(self.shared.asleep.get()), None);
        intake.stop_reading(&self.port.client);
        let too_long = async {
            intake.closed().await;
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
        self.port.turn().await;
        self.shared.feed(In::Open, Some(&self.port));
        tokio::select! {
            biased;
            ended = self.read(r) => ended,
            ended = self.wait() => ended,
            () = self.clock() => Ok(()),
        }
    }

    /// The reading lane.
    async fn read(&self, r: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        let s = &self.shared;
        loop {
            if let Some(end) = s.over.borrow_mut().take() {
                return end;
            }
            let next = s.reads.borrow_mut().pop_front();
            match next {
                None => s.to_read.notified().await,
                Some(Read::Head(n)) => {
                    if !s.replies.has_room() {
                        s.replies.room().await;
                        s.late.set(true);
                    }
                    let mut head = [0u8; MOST_HEAD];
                    match r.read_exact(&mut head[..n]).await {
                        Ok(_) => {}
                        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                        Err(e) => return Err(e),
                    }
                    s.feed(In::Head(&head[..n], self.shape()), Some(&self.port));
                }
                Some(Read::Fill { task, size, at, len }) => {
                    let held = s.with(task, |h| h.buf.take());
                    let mut buf = held.unwrap_or_else(|| AlignedBuf::zeroed(size));
                    let Some(part) = buf.bytes_mut().get_mut(at..at + len) else {
                        broken!("a payload's part lies outside of its buffer");
                        return Err(io::Error::other("a payload's part lies outside of its buffer"));
                    };
                    if !self.fill(r, part).await? {
                        return Ok(());
                    }
                    s.with(task, |h| h.buf = Some(buf));
                    s.feed(In::Filled(task), Some(&self.port));
                }
                Some(Read::Skip(n)) => {
                    if !self.skip(r, n).await? {
                        return Ok(());
                    }
                    s.feed(In::Skipped, Some(&self.port));
                }
            }
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
                Err(_) if self.port.intake.is_contended() => return Err(stalled()),
                Err(_) => {}
            }
        }
        Ok(true)
    }

    /// Reads a payload away; false if the client shut its sending side in the middle of it.
    async fn skip(&self, r: &mut (impl AsyncRead + Unpin), mut left: usize) -> io::Result<bool> {
        let mut buf = vec![0u8; left.min(DISCARD)];
        while left > 0 {
            let n = left.min(buf.len());
            if !self.fill(r, &mut buf[..n]).await? {
                return Ok(false);
            }
            left -= n;
        }
        Ok(true)
    }

    /// The waiting lane.
    async fn wait(&self) -> io::Result<()> {
        let s = &self.shared;
        loop {
            let next = s.waits.borrow_mut().pop_front();
            match next {
                None => s.to_wait.notified().await,
                Some(Wait::Reserve { task, bytes, cut }) => {
                    let payload = &self.port.client.payload;
                    let (permit, waited) =
                        if cut { payload.take_piece(bytes).await } else { payload.take(bytes).await };
                    let bytes = permit.bytes();
                    s.with(task, |h| {
                        h.waited |= waited;
                        h.permit = Some(permit);
                    });
                    s.feed(In::Room(task, bytes), Some(&self.port));
                }
                Some(Wait::Place(task)) => {
                    let full = !s.replies.has_room();
                    s.replies.room().await;
                    let waited = s.with(task, |h| h.waited) | full;
                    let ticket = self.port.place(waited).await?;
                    s.asleep.set(Some(task));
                    self.port.awake().await;
                    s.asleep.set(None);
                    s.with(task, |h| h.ticket = Some(ticket));
                    s.feed(In::Placed(task, self.shape()), Some(&self.port));
                }
                Some(Wait::Begin(task, op)) => s.begin(task, op, &self.port, now()),
            }
        }
    }

    /// Tells the front end when its deadline has passed.
    async fn clock(&self) {
        let s = &self.shared;
        loop {
            match s.deadline.get() {
                None => s.rearm.notified().await,
                Some(t) => {
                    let left = Duration::from_micros(t.since(now()));
                    if tokio::time::timeout(left, s.rearm.notified()).await.is_err() {
                        s.feed(In::Tick, Some(&self.port));
                    }
                }
            }
        }
    }

    fn shape(&self) -> Shape {
        self.port.shape()
    }
}

impl<F: FrontEnd + 'static> Shared<F> {
    #[inline]
    fn with<T>(&self, task: Task, f: impl FnOnce(&mut Held) -> T) -> T {
        let mut held = self.held.borrow_mut();
        if task >= held.len() {
            held.resize_with(task + 1, Held::default);
        }
        f(&mut held[task])
    }

    /// Tells the front end what has happened, and does what it says. Without a port (inside of the reactor, or when the
    /// connection is closing) what needs one is left to the waiting lane.
    fn feed(self: &Rc<Self>, input: In, port: Option<&Port>) {
        self.feed_with(now(), input, port, &mut None);
    }

    fn feed_with(self: &Rc<Self>, t: Tick, input: In, port: Option<&Port>, permit: &mut Option<Permit>) {
        let mut out = self.scratch.take();
        self.front.borrow_mut().input(t, input, &mut out);
        // An answer that needs no waiting is given at once.
        while let Some(next) = self.act(t, &mut out, port, permit) {
            self.front.borrow_mut().input(t, next, &mut out);
        }
        self.scratch.replace(out);
        let deadline = self.front.borrow().next_deadline();
        if self.deadline.replace(deadline) != deadline {
            self.rearm.notify_one();
        }
    }

    fn act(
        self: &Rc<Self>,
        t: Tick,
        out: &mut Vec<Out>,
        port: Option<&Port>,
        permit: &mut Option<Permit>,
    ) -> Option<In<'static>> {
        let mut next = None;
        for o in out.drain(..) {
            // Only where nothing else waits, and one answer at a time: what comes first goes first.
            let at_once = port.filter(|_| next.is_none() && self.waits.borrow().is_empty());
            match o {
                Out::Read(n) => self.to_read(Read::Head(n.min(MOST_HEAD))),
                Out::Fill { task, size, at, len } => self.to_read(Read::Fill { task, size, at, len }),
                Out::Skip(n) => self.to_read(Read::Skip(n)),
                Out::Reserve { task, bytes, cut } => match at_once.and_then(|p| p.try_reserve(bytes, cut)) {
                    Some(permit) => {
                        next = Some(In::Room(task, permit.bytes()));
                        self.with(task, |h| {
                            h.came(t);
                            h.permit = Some(permit);
                        });
                    }
                    None => {
                        self.with(task, |h| h.came(t));
                        self.to_wait(Wait::Reserve { task, bytes, cut });
                    }
                },
                Out::Place(task) => {
                    let late = self.late.take();
                    let waited = self.with(task, |h| {
                        h.came(t);
                        h.waited |= late;
                        h.waited
                    });
                    let at_once = at_once.filter(|_| !waited && self.replies.has_room());
                    match at_once.and_then(|p| Some((p.try_place()?, p.shape()))) {
                        Some((ticket, shape)) => {
                            next = Some(In::Placed(task, shape));
                            self.with(task, |h| h.ticket = Some(ticket));
                        }
                        None => self.to_wait(Wait::Place(task)),
                    }
                }
                Out::Begin(task, op) => match at_once {
                    Some(port) => self.begin(task, op, port, t),
                    None => {
                        self.with(task, |h| h.came(t));
                        self.to_wait(Wait::Begin(task, op));
                    }
                },
                Out::Send(head, data) => {
                    let held = if data.is_empty() { None } else { permit.take() };
                    self.replies.push(head, data, held);
                }
                Out::Drop(task) => drop(self.with(task, std::mem::take)),
                Out::Leave => self.end(Ok(())),
                Out::Close(why) => self.end(Err(io::Error::other(why))),
            }
        }
        next
    }

    #[inline]
    fn to_read(&self, read: Read) {
        self.reads.borrow_mut().push_back(read);
        self.to_read.notify_one();
    }

    fn to_wait(&self, wait: Wait) {
        self.waits.borrow_mut().push_back(wait);
        self.to_wait.notify_one();
    }

    fn end(&self, how: io::Result<()>) {
        self.over.borrow_mut().get_or_insert(how);
        self.to_read.notify_one();
    }

    /// Begins a task; what it holds is given back when it has ended and its answer is sent.
    fn begin(self: &Rc<Self>, task: Task, op: Op, port: &Port, t: Tick) {
        let buf = self.with(task, |h| {
            h.ticket.get_or_insert_with(|| port.place_at_once());
            h.came(t);
            h.counts = words::counted_as(op);
            h.promised = if let Op::Read { len, .. } = op { len } else { 0 };
            h.buf.take()
        });
        let shared = self.clone();
        let op = match op {
            Op::Read { off, len } => {
                self.replies.promise(len);
                ClientOp::Read { off, len }
            }
            Op::Write { off } => ClientOp::Write { off, data: buf.map(AlignedBuf::freeze).unwrap_or_default() },
            Op::Zero { off, len } => ClientOp::Zero { off, len },
            Op::Flush => ClientOp::Flush,
            Op::Status { off, len } => ClientOp::Status { off, len },
            Op::Blank { off, len } => {
                let hand = port.hand();
                tokio::task::spawn_local(async move {
                    let result = blank::write(hand, off, len).await;
                    shared.ended(task, result);
                });
                return;
            }
        };
        port.begin(op, Box::new(move |result| shared.ended(task, result)));
    }

    fn ended(self: &Rc<Self>, task: Task, result: Result<ClientReply, IoError>) {
        let mut held = self.with(task, std::mem::take);
        let t = now();
        if let (Some(op), Some(arrived)) = (held.counts, held.arrived) {
            self.latency.count(op, t.since(arrived));
        }
        if held.promised > 0 {
            self.replies.promise_over(held.promised);
        }
        self.feed_with(t, In::Ended(task, words::end(result)), None, &mut held.permit);
    }
}

/// Reads away what is there already, a bounded amount of it.
async fn discard(r: &mut (impl AsyncRead + Unpin)) {
    let mut buf = vec![0u8; DISCARD];
    let mut left = MAX_DISCARD;
    while left > 0 {
        match tokio::time::timeout(Duration::ZERO, r.read(&mut buf)).await {
            Ok(Ok(n)) if n > 0 => left = left.saturating_sub(n),
            _ => return,
        }
    }
}

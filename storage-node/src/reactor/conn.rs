//! An NBD connection in its transmission phase, on the volume's reactor.
//!
//! An idle connection costs one task and one 8 KiB read buffer; a write's payload gets
//! a buffer of its own, aligned for the disk (the payload's only copy). Requests enter the coordinator in the order they
//! arrive. When the client vanishes, what it sent completely is carried out, the rest is dropped.

use super::NbdStream;
use super::core::{Core, CoreRef};
use bytes::Bytes;
use hf_frontends::nbd::transmission::{FLAG_FAST_ZERO, FLAG_NO_HOLE, FLAG_REQ_ONE, HEADER_BYTES};
use hf_frontends::nbd::{Agreed, Command, Errno, MAX_REQUEST, Request, parse_request, reply};
use hf_policy::{CHUNK_BYTES, VolumeId};
use hf_repl::AlignedBuf;
use hf_repl_core::IoError;
use hf_repl_core::coordinator::{ClientOp, ClientReply};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::Notify;

/// Replies that wait for the socket, and what is in flight.
#[derive(Default)]
struct Replies {
    pieces: RefCell<VecDeque<Bytes>>,
    /// Bytes of them, those being written included.
    queued: RefCell<usize>,
    in_flight: RefCell<usize>,
    /// Something to send, or room for another request.
    wake: Notify,
    room: Notify,
}

/// Reply bytes a client may leave unread before no more of its requests are taken.
const MAX_UNREAD: usize = 64 << 20;

struct Conn {
    core: CoreRef,
    vol: VolumeId,
    agreed: Agreed,
    replies: Rc<Replies>,
}

/// Takes a negotiated connection over.
pub(super) fn start(core: &CoreRef, stream: NbdStream, agreed: Agreed, vol: VolumeId, rest: Vec<u8>) {
    let core = core.clone();
    tokio::task::spawn_local(async move {
        let closed = {
            let mut c = core.borrow_mut();
            c.connections += 1;
            let Some(h) = c.volumes.get_mut(&vol).filter(|h| !h.over) else {
                c.connections -= 1;
                return;
            };
            h.connections += 1;
            h.closed.clone()
        };
        let conn = Conn { core: core.clone(), vol, agreed, replies: Rc::default() };
        let served = async {
            match stream {
                NbdStream::Tcp(s) => {
                    let s = tokio::net::TcpStream::from_std(s)?;
                    s.set_nodelay(true)?;
                    let (r, w) = s.into_split();
                    conn.serve(io::Cursor::new(rest), r, w).await
                }
                NbdStream::Unix(s) => {
                    let (r, w) = tokio::net::UnixStream::from_std(s)?.into_split();
                    conn.serve(io::Cursor::new(rest), r, w).await
                }
            }
        };
        tokio::select! {
            r = served => if let Err(e) = r { tracing::debug!(volume = %vol, "NBD connection ended: {e}") },
            () = closed.notified() => tracing::info!(volume = %vol, "NBD connection closed: the attachment is over"),
        }
        let mut c = core.borrow_mut();
        c.connections -= 1;
        if let Some(h) = c.volumes.get_mut(&vol) {
            h.connections = h.connections.saturating_sub(1);
        }
    });
}

impl Conn {
    async fn serve<R, W>(&self, rest: io::Cursor<Vec<u8>>, r: R, mut w: W) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let replies = self.replies.clone();
        let writer = async {
            loop {
                let pieces = std::mem::take(&mut *replies.pieces.borrow_mut());
                if pieces.is_empty() {
                    replies.wake.notified().await;
                    continue;
                }
                let bytes: usize = pieces.iter().map(Bytes::len).sum();
                hf_repl::link::write_all(&mut w, pieces).await?;
                *replies.queued.borrow_mut() -= bytes;
                replies.room.notify_one();
            }
        };
        tokio::select! {
            r = self.requests(rest.chain(r)) => {
                // The client said goodbye: what is in flight is answered first.
                if r.is_ok() {
                    while *self.replies.in_flight.borrow() > 0 {
                        self.replies.room.notified().await;
                    }
                }
                r
            }
            e = writer => e,
        }
    }

    async fn requests(&self, r: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut r = tokio::io::BufReader::with_capacity(8 << 10, r);
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
            let mut payload = Bytes::new();
            if q.command == Command::Write {
                if q.len > MAX_REQUEST {
                    return Err(io::Error::other(format!("a write of {} bytes is beyond the bound", q.len)));
                }
                let mut buf = AlignedBuf::zeroed(q.len as usize);
                r.read_exact(buf.bytes_mut()).await?;
                payload = buf.freeze();
            }
            self.room().await;
            self.request(q, payload);
        }
    }

    /// Waits until another request may be in flight (`queue_depth`); meanwhile the client's bytes wait in the socket.
    async fn room(&self) {
        loop {
            let depth = self.core.borrow().volumes.get(&self.vol).map_or(1, |h| h.queue_depth);
            if *self.replies.in_flight.borrow() < depth && *self.replies.queued.borrow() < MAX_UNREAD {
                return;
            }
            self.replies.room.notified().await;
        }
    }

    fn fail(&self, q: &Request, errno: Errno, text: &str) {
        self.push(reply::error(self.agreed.structured, q.cookie, errno, text), Vec::new());
    }

    fn push(&self, head: Vec<u8>, data: Vec<Bytes>) {
        push(&self.replies, head, data);
    }

    fn request(&self, q: Request, payload: Bytes) {
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
            Command::WriteZeroes if q.flags & FLAG_NO_HOLE != 0 && len > 0 => return self.provisioned_zeroes(q),
            Command::Trim | Command::WriteZeroes if q.len > 0 => Some(ClientOp::Zero { off: q.offset, len }),
            Command::Trim | Command::WriteZeroes | Command::Cache => None,
            Command::Flush => Some(ClientOp::Flush),
            Command::BlockStatus => Some(ClientOp::Status { off: q.offset, len }),
            Command::Disconnect | Command::Unknown(_) => return self.fail(&q, Errno::Invalid, "unknown command"),
        };
        match op {
            None => self.push(answer(a.structured, &q, Ok(ClientReply::Done)), Vec::new()),
            Some(op) => self.submit(q, op),
        }
    }

    fn submit(&self, q: Request, op: ClientOp) {
        *self.replies.in_flight.borrow_mut() += 1;
        let (replies, structured) = (self.replies.clone(), self.agreed.structured);
        let mut c = self.core.borrow_mut();
        let done = Box::new(move |result: Result<ClientReply, IoError>| finish(&replies, structured, &q, result));
        c.client(self.vol, op, done);
        c.drain();
    }

    /// Zeroes that must occupy space: written as data, chunk by chunk, answered once.
    fn provisioned_zeroes(&self, q: Request) {
        *self.replies.in_flight.borrow_mut() += 1;
        let zero = AlignedBuf::zeroed(CHUNK_BYTES as usize).freeze();
        let (mut at, end) = (q.offset, q.offset + u64::from(q.len));
        let left = Rc::new(RefCell::new((end - at).div_ceil(CHUNK_BYTES)));
        let worst = Rc::new(RefCell::new(Ok(ClientReply::Done)));
        let mut c = self.core.borrow_mut();
        while at < end {
            let n = CHUNK_BYTES.min(end - at);
            let (replies, structured) = (self.replies.clone(), self.agreed.structured);
            let (left, worst) = (left.clone(), worst.clone());
            let done = Box::new(move |result: Result<ClientReply, IoError>| {
                if result.is_err() {
                    *worst.borrow_mut() = result;
                }
                *left.borrow_mut() -= 1;
                if *left.borrow() == 0 {
                    finish(&replies, structured, &q, worst.borrow().clone());
                }
            });
            c.client(self.vol, ClientOp::Write { off: at, data: zero.slice(..n as usize) }, done);
            at += n;
        }
        Core::drain(&mut c);
    }
}

fn push(replies: &Replies, head: Vec<u8>, data: Vec<Bytes>) {
    *replies.queued.borrow_mut() += head.len() + data.iter().map(Bytes::len).sum::<usize>();
    let mut p = replies.pieces.borrow_mut();
    p.push_back(Bytes::from(head));
    p.extend(data);
    replies.wake.notify_one();
}

fn finish(replies: &Replies, structured: bool, q: &Request, result: Result<ClientReply, IoError>) {
    *replies.in_flight.borrow_mut() -= 1;
    replies.room.notify_one();
    match result {
        Ok(ClientReply::Data(data)) => push(replies, reply::read_head(structured, q.cookie, q.offset, q.len), data),
        other => push(replies, answer(structured, q, other), Vec::new()),
    }
}

/// A reply without data.
fn answer(structured: bool, q: &Request, result: Result<ClientReply, IoError>) -> Vec<u8> {
    match result {
        Ok(ClientReply::Extents(e)) => reply::block_status(q.cookie, &e, q.flags & FLAG_REQ_ONE != 0),
        Ok(_) if q.command == Command::Read => reply::read_head(structured, q.cookie, q.offset, 0),
        Ok(_) => reply::done(structured, q.cookie),
        Err(e) => {
            let errno = match e {
                IoError::Io => Errno::Io,
                IoError::NoSpace => Errno::NoSpace,
                IoError::Fenced => Errno::Shutdown,
                IoError::Invalid => Errno::Invalid,
            };
            reply::error(structured, q.cookie, errno, &e.to_string())
        }
    }
}

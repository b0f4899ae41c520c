//! Large requests in pieces: a write is begun piece by piece as its data arrives, a structured read is answered piece by piece.
//!
//! So an unfinished request holds the memory of one piece, and not its whole length, and no place among the requests in
//! flight (docs/decisions/0029). A piece lies in one chunk of the volume. A write that is cut off in the middle may have been
//! carried out up to there, as any write over several chunks may when its coordinator fails.

use super::intake::Ticket;
use super::replies::{Replies, errno};
use hf_frontends::nbd::reply::Errno;
use hf_frontends::nbd::transmission::FLAG_DF;
use hf_frontends::nbd::{Command, Request, reply};
use hf_policy::{BLOCK_BYTES, CHUNK_BYTES};
use hf_repl::budget::{PIECE, Permit};
use hf_repl_core::IoError;
use hf_repl_core::coordinator::ClientReply;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The answer to a read comes in pieces: it is large, and its client takes several chunks.
pub(super) fn reads_in_pieces(q: &Request, structured: bool) -> bool {
    let cut = structured && q.flags & FLAG_DF == 0;
    q.command == Command::Read && cut && u64::from(q.len) > PIECE
}

/// The most bytes that the next piece may have: what is left of a small request, of a large one up to the chunk's end.
pub(super) fn most(q: &Request, done: u32) -> u64 {
    let (at, left) = (q.offset + u64::from(done), u64::from(q.len - done));
    let bytes = if u64::from(q.len) <= PIECE { left } else { left.min(CHUNK_BYTES - at % CHUNK_BYTES) };
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// The length of the next piece, given the bytes that it may hold; it ends where a block does, or with the request.
pub(super) fn length(q: &Request, done: u32, bytes: u64) -> u32 {
    let (at, end) = (q.offset + u64::from(done), q.offset + u64::from(q.len));
    let most = most(q, done).min(bytes);
    let piece_end = if at + most >= end { end } else { ((at + most) / BLOCK_BYTES * BLOCK_BYTES).min(end) };
    (piece_end - at) as u32
}

/// A request whose pieces are under way.
pub(super) struct Pieces {
    q: Request,
    structured: bool,
    replies: Rc<Replies>,
    open: Cell<u32>,
    /// The last piece has been begun.
    all_begun: Cell<bool>,
    /// What the first piece that failed says.
    failed: RefCell<Option<(Errno, String)>>,
    /// Its last chunk, or its answer, is on its way.
    answered: Cell<bool>,
}

/// The connection ended before all of a read was begun (a detach, a fence): whoever got a part of it is told that the rest does not
/// come.
impl Drop for Pieces {
    fn drop(&mut self) {
        if !self.answered.get() && self.q.command == Command::Read {
            let e = IoError::Fenced;
            self.replies.push(reply::error_chunk(self.q.cookie, errno(e), &e.to_string(), true), Vec::new(), None);
        }
    }
}

impl Pieces {
    pub(super) fn new(q: Request, structured: bool, replies: Rc<Replies>) -> Rc<Pieces> {
        let (open, all_begun, failed) = (Cell::new(0), Cell::new(false), RefCell::default());
        Rc::new(Pieces { q, structured, replies, open, all_begun, failed, answered: Cell::new(false) })
    }

    /// A piece is begun; is it the request's last one?
    pub(super) fn begin(&self, last: bool) {
        self.open.set(self.open.get() + 1);
        self.all_begun.set(last);
    }

    /// A piece of a read is over: it is answered by a chunk of its own.
    pub(super) fn read_done(&self, (offset, len): (u64, u32), result: Result<ClientReply, IoError>, held: Permit) {
        let last = self.one_less();
        self.replies.promise_over(len);
        let cookie = self.q.cookie;
        match result {
            Ok(ClientReply::Data(data)) => {
                self.replies.push(reply::data_head(cookie, offset, len, last), data, Some(held));
            }
            other => {
                let e = other.err().unwrap_or(IoError::Io);
                self.replies.push(reply::error_chunk(cookie, errno(e), &e.to_string(), last), Vec::new(), None);
            }
        }
    }

    /// A piece of a write is over: with the last one the request is answered, by what the first that failed says.
    pub(super) fn write_done(&self, result: Result<ClientReply, IoError>, held: Permit, ticket: Ticket) {
        match result {
            Ok(_) => self.piece_over(held, ticket),
            Err(e) => self.refused(errno(e), &e.to_string(), held, ticket),
        }
    }

    /// A piece of a write failed, or was never begun.
    pub(super) fn refused(&self, errno: Errno, why: &str, held: Permit, ticket: Ticket) {
        self.failed.borrow_mut().get_or_insert_with(|| (errno, why.to_string()));
        self.piece_over(held, ticket);
    }

    fn piece_over(&self, held: Permit, ticket: Ticket) {
        drop(held);
        if self.one_less() {
            let reply = match self.failed.borrow_mut().take() {
                None => reply::done(self.structured, self.q.cookie),
                Some((errno, why)) => reply::error(self.structured, self.q.cookie, errno, &why),
            };
            self.replies.push(reply, Vec::new(), None);
        }
        drop(ticket);
    }

    /// One piece less is open; was it the request's last?
    fn one_less(&self) -> bool {
        self.open.set(self.open.get().saturating_sub(1));
        let last = self.open.get() == 0 && self.all_begun.get();
        self.answered.set(last);
        last
    }
}

//! Large requests in pieces: a write is begun piece by piece as its data arrives, and a structured read is
//! answered piece by piece.
//!
//! A piece lies in one chunk of the volume and ends where a block does, or with its request.

use super::transmission::FLAG_DF;
use super::{Command, Errno, Request, reply};
use crate::door::{End, Fault, PIECE};
use bytes::Bytes;
use hf_policy::{BLOCK_BYTES, CHUNK_BYTES};

/// Whether a read is answered in pieces: it is large, and its client takes several chunks.
pub(super) fn reads_in_pieces(q: &Request, structured: bool) -> bool {
    let cut = structured && q.flags & FLAG_DF == 0;
    q.command == Command::Read && cut && u64::from(q.len) > PIECE
}

/// The most bytes that the next piece may have, in whole blocks: the rest of a small request, or of a large
/// one up to the chunk's end. `done`: bytes before the piece.
pub(super) fn most(q: &Request, done: u32) -> u64 {
    let (at, left) = (q.offset + u64::from(done), u64::from(q.len - done));
    let bytes = if u64::from(q.len) <= PIECE { left } else { left.min(CHUNK_BYTES - at % CHUNK_BYTES) };
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// The length of the next piece in bytes, if it may have `bytes` bytes.
pub(super) fn length(q: &Request, done: u32, bytes: u64) -> u32 {
    let (at, end) = (q.offset + u64::from(done), q.offset + u64::from(q.len));
    let most = most(q, done).min(bytes);
    let piece_end = if at + most >= end { end } else { ((at + most) / BLOCK_BYTES * BLOCK_BYTES).min(end) };
    (piece_end - at) as u32
}

/// A request whose pieces are under way.
pub(super) struct Pieces {
    q: Request,
    /// Number of pieces in flight.
    open: u32,
    /// The last piece has been begun.
    all_begun: bool,
    /// The error of the first piece that failed.
    failed: Option<(Errno, String)>,
}

impl Pieces {
    pub(super) fn new(q: Request) -> Pieces {
        Pieces { q, open: 0, all_begun: false, failed: None }
    }

    pub(super) fn request(&self) -> &Request {
        &self.q
    }

    /// Notes that a piece is begun; `last`: it is the request's last one.
    pub(super) fn begin(&mut self, last: bool) {
        self.open += 1;
        self.all_begun = last;
    }

    /// Whether no piece is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.open == 0
    }

    /// Whether every piece has been begun.
    pub(super) fn is_begun(&self) -> bool {
        self.all_begun
    }

    /// Ends a piece of a read. Returns the head and the data of the chunk that answers it.
    pub(super) fn read_done(&mut self, (offset, len): (u64, u32), end: End) -> (Vec<u8>, Vec<Bytes>) {
        self.one_less();
        let (last, cookie) = (self.is_idle() && self.all_begun, self.q.cookie);
        match end {
            End::Data(data) => (reply::data_head(cookie, offset, len, last), data),
            other => {
                let fault = if let End::Failed(f) = other { f } else { Fault::Io };
                (reply::error_chunk(cookie, reply::errno(fault), &fault.to_string(), last), Vec::new())
            }
        }
    }

    /// Ends a piece of a write.
    pub(super) fn write_done(&mut self, end: End) {
        match end {
            End::Failed(f) => self.refused(reply::errno(f), &f.to_string()),
            _ => self.one_less(),
        }
    }

    /// Ends a piece of a write that failed or was never begun.
    pub(super) fn refused(&mut self, errno: Errno, why: &str) {
        self.failed.get_or_insert_with(|| (errno, why.to_string()));
        self.one_less();
    }

    /// The answer to a write, once its last piece is over: the error of the first piece that failed, if there
    /// is one.
    pub(super) fn written(&self, structured: bool) -> Option<Vec<u8>> {
        let over = self.is_idle() && self.all_begun;
        over.then(|| match &self.failed {
            None => reply::done(structured, self.q.cookie),
            Some((errno, why)) => reply::error(structured, self.q.cookie, *errno, why),
        })
    }

    /// The chunk that ends a read of which not every piece was begun: an error.
    pub(super) fn cut_off(&self) -> Option<Vec<u8>> {
        let cut = self.q.command == Command::Read && !self.all_begun;
        let f = Fault::Fenced;
        cut.then(|| reply::error_chunk(self.q.cookie, reply::errno(f), &f.to_string(), true))
    }

    fn one_less(&mut self) {
        hf_policy::invariant!(self.open > 0, "a piece of request {} ended twice", self.q.cookie);
        self.open = self.open.saturating_sub(1);
    }
}

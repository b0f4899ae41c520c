//! What a connection sends, on its way to the socket.

use crate::volume::intake::{Client, Intake};
use bytes::Bytes;
use hf_repl::budget::Permit;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Bytes that a client may have asked for and not read before no more of its requests are taken.
const MAX_UNREAD: usize = 32 << 20;
/// Bytes that are given to the socket in one go: small enough that a client which reads is seen to.
const BATCH: usize = 1 << 20;
/// A client that stops in the middle of a request, or takes no reply bytes, for so long is cut off, if others
/// wait for what it holds. If nobody does, it may take its time.
pub(super) const STALLED: Duration = Duration::from_secs(3);

pub(super) fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client does not go on, and others wait for the memory it holds")
}

/// What waits for the socket.
pub(super) struct Replies {
    client: Rc<Client>,
    /// Head or data; the last piece of a read's answer holds the volume's payload bytes until it is written.
    pieces: RefCell<VecDeque<(Bytes, Option<Permit>)>>,
    /// Bytes of them, those being written included.
    queued: Cell<usize>,
    /// Bytes that were asked for and are not among the pieces yet.
    promised: Cell<usize>,
    room: Notify,
}

impl Replies {
    pub(super) fn new(client: Rc<Client>) -> Replies {
        let (queued, promised) = (Cell::new(0), Cell::new(0));
        Replies { client, pieces: RefCell::default(), queued, promised, room: Notify::new() }
    }

    /// Has the client read enough that another request may be taken?
    pub(super) fn has_room(&self) -> bool {
        self.queued.get() + self.promised.get() < MAX_UNREAD
    }

    /// Waits until it has.
    pub(super) async fn room(&self) {
        while !self.has_room() {
            self.room.notified().await;
        }
    }

    /// So many bytes of data will come.
    pub(super) fn promise(&self, bytes: u32) {
        self.promised.set(self.promised.get() + bytes as usize);
    }

    /// The data came, or will not come.
    pub(super) fn promise_over(&self, bytes: u32) {
        self.promised.set(self.promised.get().saturating_sub(bytes as usize));
        self.room.notify_waiters();
    }

    pub(super) fn push(&self, head: Vec<u8>, data: Vec<Bytes>, held: Option<Permit>) {
        self.queued.set(self.queued.get() + head.len() + data.iter().map(Bytes::len).sum::<usize>());
        let mut p = self.pieces.borrow_mut();
        p.push_back((Bytes::from(head), None));
        p.extend(data.into_iter().map(|d| (d, None)));
        if let Some(last) = p.back_mut() {
            last.1 = held;
        }
        self.client.wake.notify_one();
    }

    fn batch(&self) -> (VecDeque<Bytes>, Vec<Permit>, usize) {
        let (mut pieces, mut held, mut bytes) = (VecDeque::new(), Vec::new(), 0);
        let mut waiting = self.pieces.borrow_mut();
        while bytes < BATCH
            && let Some((piece, hold)) = waiting.pop_front()
        {
            bytes += piece.len();
            held.extend(hold);
            pieces.push_back(piece);
        }
        (pieces, held, bytes)
    }

    /// Writes replies until no more can come, then shuts the sending side.
    pub(super) async fn write(&self, intake: &Intake, mut w: impl AsyncWrite + Unpin) -> io::Result<()> {
        loop {
            let (pieces, held, bytes) = self.batch();
            if pieces.is_empty() {
                if self.client.is_finished() {
                    return w.shutdown().await;
                }
                self.client.wake.notified().await;
                continue;
            }
            let mut written = pin!(hf_repl::link::write_all(&mut w, pieces));
            loop {
                match tokio::time::timeout(STALLED, &mut written).await {
                    Ok(result) => break result?,
                    Err(_) if intake.is_contended() => return Err(stalled()),
                    Err(_) => {}
                }
            }
            drop(held);
            self.queued.set(self.queued.get().saturating_sub(bytes));
            self.room.notify_waiters();
        }
    }
}

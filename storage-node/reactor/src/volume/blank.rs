//! Zeroes that must take space: written as data, a few chunks at a time, and answered once.

use super::port::Hand;
use hf_policy::CHUNK_BYTES;
use hf_repl::AlignedBuf;
use hf_repl_core::IoError;
use hf_repl_core::coordinator::{ClientOp, ClientReply};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tokio::sync::Notify;

/// Chunks that are written at once.
const WINDOW: u64 = 8;

/// Chunks in flight, and the first error.
#[derive(Default)]
struct Progress {
    in_flight: Cell<u64>,
    error: RefCell<Option<IoError>>,
    done: Notify,
}

impl Progress {
    async fn at_most(&self, n: u64) {
        while self.in_flight.get() > n {
            self.done.notified().await;
        }
    }
}

/// Writes `len` bytes of zeroes from `off` on. It stops where it is when its client is gone, for a newer
/// client may write here, and when the attachment ends.
pub(crate) async fn write(hand: Hand, off: u64, len: u64) -> Result<ClientReply, IoError> {
    let progress: Rc<Progress> = Rc::default();
    let zero = AlignedBuf::zeroed(CHUNK_BYTES as usize).freeze();
    let (mut at, end) = (off, off + len);
    while at < end {
        progress.at_most(WINDOW - 1).await;
        if hand.client.is_gone() || progress.error.borrow().is_some() {
            break;
        }
        if hand.intake.is_closing() {
            *progress.error.borrow_mut() = Some(IoError::Fenced);
            break;
        }
        let n = (CHUNK_BYTES - at % CHUNK_BYTES).min(end - at);
        let p = progress.clone();
        p.in_flight.set(p.in_flight.get() + 1);
        let done = Box::new(move |result: Result<ClientReply, IoError>| {
            p.in_flight.set(p.in_flight.get() - 1);
            if let Err(e) = result {
                p.error.borrow_mut().get_or_insert(e);
            }
            p.done.notify_one();
        });
        hand.begin(ClientOp::Write { off: at, data: zero.slice(..n as usize) }, done);
        at += n;
    }
    progress.at_most(0).await;
    let error = progress.error.borrow_mut().take();
    error.map_or(Ok(ClientReply::Done), Err)
}

//! Requests over a link that are not answered yet: how many bytes of answers may be on their way back, and whether a request that
//! is not answered yet waits its turn or has been forgotten.

use super::Key;
use super::window::{Sample, Window};
use hf_policy::{BLOCK_BYTES, CHUNK_BLOCKS, MS, Tick};
use std::collections::BTreeMap;

/// Answers asked for at first, in bytes.
const FIRST: u64 = 1 << 20;
/// The least bytes of answers that are asked for at once.
const FLOOR: u64 = 256 << 10;
/// The queue at the other end's disk and on the way back that is tolerated, in microseconds.
const SLACK: u64 = 100 * MS;
/// A request may be overtaken by so many bytes, and by twice what was under way when it was sent.
const OVERTAKEN: u64 = 1 << 20;

/// Bytes that have moved in one direction since the link came up, and when they last did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub bytes: u64,
    pub at: Tick,
}

struct Sent {
    at: Tick,
    /// Bytes that had moved in the direction that matters.
    moved: u64,
    /// Bytes under way in that direction, its own included.
    ahead: u64,
    /// Bytes of answers that had come.
    answered: u64,
    alone: bool,
    /// Bytes that the link had carried when the request's own last byte had been put into it; none while some are left.
    end: Option<u64>,
}

struct Asked {
    /// Bytes of its answer; 0 if it is small.
    back: u64,
    /// Bytes it counts itself.
    out: u64,
    sent: Option<Sent>,
}

/// See the module.
pub(super) struct Requests {
    by: BTreeMap<Key, Asked>,
    window: Window,
    /// Bytes of answers that were asked for and have not come.
    coming: u64,
    /// Bytes of answers that have come.
    answered: u64,
    /// Bytes of requests that were sent and are not answered.
    open: u64,
    /// Bytes of requests with payload that were answered.
    done: Moved,
    blocked: bool,
}

impl Requests {
    pub fn new(now: Tick) -> Requests {
        let window = Window::new(now, FIRST, FLOOR, SLACK);
        Requests {
            by: BTreeMap::new(),
            window,
            coming: 0,
            answered: 0,
            open: 0,
            done: Moved { bytes: 0, at: now },
            blocked: false,
        }
    }

    /// A request is queued. False if it waits to be sent already: then there is nothing to add.
    pub fn queued(&mut self, key: Key, back: u64, out: u64) -> bool {
        let unsent = self.by.get(&key).is_some_and(|a| a.sent.is_none());
        if !unsent {
            self.by.entry(key).or_insert(Asked { back, out, sent: None });
        }
        !unsent
    }

    /// May a request go out now whose answer is large? One always may.
    pub fn may_ask(&mut self) -> bool {
        let may = self.coming < self.window.bytes();
        self.blocked |= !may;
        may
    }

    /// The request goes out, or goes out again.
    pub fn sent(&mut self, now: Tick, key: Key, back: Moved) {
        let Some(a) = self.by.get_mut(&key).filter(|a| a.sent.is_none()) else { return };
        let alone = self.coming <= FLOOR;
        self.coming += a.back;
        self.open += a.out;
        let (moved, ahead) = match a.back {
            0 => (self.done.bytes, self.open),
            _ => (back.bytes, self.coming),
        };
        a.sent = Some(Sent { at: now, moved, ahead, answered: self.answered, alone, end: None });
    }

    /// The last byte of a request is in the link, which has been given `sent` bytes by then.
    pub fn left(&mut self, key: &Key, sent: u64) {
        if let Some(s) = self.by.get_mut(key).and_then(|a| a.sent.as_mut()) {
            s.end.get_or_insert(sent);
        }
    }

    /// Its answer has come, or nobody wants it any more.
    pub fn over(&mut self, now: Tick, key: &Key) {
        let Some(a) = self.by.remove(key) else { return };
        let Some(s) = a.sent else { return };
        self.open -= a.out;
        if a.back == 0 {
            self.done = Moved { bytes: self.done.bytes + a.out, at: now };
            return;
        }
        self.coming -= a.back;
        self.answered += a.back;
        let limited = std::mem::take(&mut self.blocked);
        let delivered = self.answered - s.answered;
        self.window.sample(now, Sample { sent: s.at, acked: a.back, delivered, limited, alone: s.alone });
    }

    /// Requests of these are forgotten, with what was to come for them.
    pub fn forget(&mut self, gone: impl Fn(&Key) -> bool) {
        self.by.retain(|k, a| {
            let goes = gone(k);
            if goes && a.sent.is_some() {
                self.coming -= a.back;
                self.open -= a.out;
            }
            !goes
        });
    }

    /// Is this request still open?
    pub fn is_open(&self, key: &Key) -> bool {
        self.by.contains_key(key)
    }

    /// Does the request wait its turn while what it waits for moves? What has not been sent, or not been received, waits for the link.
    /// What has been received waits for those before it to be answered. Its answer is missing when nothing of that has moved for
    /// `patience` microseconds, or when much more has moved than was before it.
    pub fn waits(&self, now: Tick, key: &Key, patience: u64, out: Moved, back: Moved) -> bool {
        let Some(a) = self.by.get(key) else { return false };
        let moves = |m: Moved| now.since(m.at) < patience;
        let Some(s) = &a.sent else { return moves(out) || moves(back) };
        let received = s.end.is_some_and(|end| end <= out.bytes);
        if now.since(s.at) < patience || (!received && moves(out)) {
            return true;
        }
        let way = if a.back > 0 { back } else { self.done };
        moves(way) && way.bytes - s.moved <= 2 * s.ahead + OVERTAKEN
    }

    /// Bytes of answers on their way.
    pub fn coming(&self) -> u64 {
        self.coming
    }
}

/// Bytes of the answer to a read of so many blocks, near enough.
pub(super) fn read_answer(blocks: u64) -> u64 {
    blocks * (BLOCK_BYTES + 17) + 164
}

/// Bytes of the answer that lists a chunk's blocks, at most.
pub(super) const LIST_ANSWER: u64 = 18 * CHUNK_BLOCKS + 164;

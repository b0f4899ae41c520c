//! Requests over a link that are not answered yet: how many bytes of answers may be on their way back, and
//! whether a request that is not answered yet waits its turn or has been forgotten.

use super::Key;
use super::window::{Sample, Window};
use hf_policy::{BLOCK_BYTES, CHUNK_BLOCKS, MS, ShardId, Tick};
use std::collections::BTreeMap;

/// Answers asked for at first, in bytes.
const FIRST: u64 = 1 << 20;
/// The least bytes of answers that are asked for at once.
const FLOOR: u64 = 256 << 10;
/// The queue at the other end's disk and on the way back that is tolerated, in microseconds.
const SLACK: u64 = 100 * MS;
/// A request may be overtaken by so many bytes, and by twice what was to come before it when it was sent.
const OVERTAKEN: u64 = 16 << 10;
/// What an answered request counts at least, in bytes: many small ones tell of a lost one too.
const LEAST_COUNTED: u64 = 4096;

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
    /// Bytes that may come before it: those under way, and as much of each other shard as of its own, since
    /// they take turns.
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

/// What a request is to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    New,
    /// It waits to be sent already: there is nothing to add.
    Waits,
    /// It has been sent; the room for its answer is counted.
    Repeat,
}

/// See the module.
pub(super) struct Requests {
    by: BTreeMap<Key, Asked>,
    window: Window,
    /// Bytes of answers that were asked for and have not come.
    coming: u64,
    /// Large answers that were asked for and have not come, by shard.
    by_shard: BTreeMap<ShardId, usize>,
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
            by_shard: BTreeMap::new(),
            answered: 0,
            open: 0,
            done: Moved { bytes: 0, at: now },
            blocked: false,
        }
    }

    /// A request comes to the link.
    pub fn queued(&mut self, key: Key, back: u64, out: u64) -> Coming {
        match self.by.get(&key) {
            Some(a) if a.sent.is_none() => Coming::Waits,
            Some(_) => Coming::Repeat,
            None => {
                let out = if back > 0 { out } else { out.max(LEAST_COUNTED) };
                self.by.insert(key, Asked { back, out, sent: None });
                Coming::New
            }
        }
    }

    /// May a request of this shard go out though no other may? Nothing of it is under way: whatever holds up
    /// the others is not to hold up this one.
    pub fn is_idle(&self, shard: &ShardId) -> bool {
        !self.by_shard.contains_key(shard)
    }

    /// May a request go out now whose answer is large?
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
        if a.back > 0 {
            *self.by_shard.entry(key.0).or_default() += 1;
        }
        let (moved, ahead) = match a.back {
            0 => (self.done.bytes, self.open + a.out),
            _ => (back.bytes, self.coming + a.back * self.by_shard.len() as u64),
        };
        a.sent = Some(Sent { at: now, moved, ahead, answered: self.answered, alone, end: None });
    }

    /// The last byte of a request is in the link, which has been given `sent` bytes by then.
    pub fn left(&mut self, key: &Key, sent: u64) {
        if let Some(s) = self.by.get_mut(key).and_then(|a| a.sent.as_mut()) {
            s.end.get_or_insert(sent);
        }
    }

    /// Its answer has come.
    pub fn over(&mut self, now: Tick, key: &Key) {
        let Some(a) = self.by.remove(key) else { return };
        let Some(s) = a.sent else { return };
        self.settle(key, a.back, a.out);
        if a.back == 0 {
            self.done = Moved { bytes: self.done.bytes + a.out, at: now };
            return;
        }
        self.answered += a.back;
        let limited = std::mem::take(&mut self.blocked);
        let delivered = self.answered - s.answered;
        self.window.sample(now, Sample { sent: s.at, acked: a.back, delivered, limited, alone: s.alone });
    }

    /// A request that was sent counts as under way no more.
    fn settle(&mut self, key: &Key, back: u64, out: u64) {
        self.coming -= back;
        self.open -= out;
        if back > 0
            && let Some(n) = self.by_shard.get_mut(&key.0)
        {
            *n -= 1;
            if *n == 0 {
                self.by_shard.remove(&key.0);
            }
        }
    }

    /// Nobody wants the answer any more. Says whether the request has been sent.
    pub fn withdraw(&mut self, key: &Key) -> bool {
        let Some(a) = self.by.remove(key) else { return true };
        if a.sent.is_some() {
            self.settle(key, a.back, a.out);
        }
        a.sent.is_some()
    }

    /// Requests of these are withdrawn.
    pub fn forget(&mut self, gone: impl Fn(&Key) -> bool) {
        let keys: Vec<Key> = self.by.keys().filter(|k| gone(k)).copied().collect();
        for k in &keys {
            self.withdraw(k);
        }
    }

    /// Is this request still open?
    pub fn is_open(&self, key: &Key) -> bool {
        self.by.contains_key(key)
    }

    /// Does the request wait its turn while what it waits for moves? A request with a large answer waits for
    /// answers to come. One with payload waits for the link until it has been received, and for those before
    /// it to be answered, which also makes room for those behind. Its answer is missing when nothing of that
    /// has moved for `patience` microseconds, or when much more has moved since it was sent than was to come
    /// before it.
    pub fn waits(&self, now: Tick, key: &Key, patience: u64, out: Moved, back: Moved) -> bool {
        let Some(a) = self.by.get(key) else { return false };
        let moves = |m: Moved| now.since(m.at) < patience;
        let way = if a.back > 0 { back } else { self.done };
        let Some(s) = &a.sent else { return moves(way) || (a.back == 0 && moves(out)) };
        let received = s.end.is_some_and(|end| end <= out.bytes);
        if now.since(s.at) < patience || (!received && moves(out)) {
            return true;
        }
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

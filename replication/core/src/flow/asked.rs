//! Requests over a link that are not answered: how many bytes of answers may be in flight, and
//! whether a request without an answer waits its turn or is lost.
//!
//! What the other end answers, and how often, is its own affair: only what this end has counted
//! itself is taken for granted.

use super::Key;
use super::window::{Sample, Window};
use hf_policy::{BLOCK_BYTES, CHUNK_BLOCKS, MS, ShardId, Tick, broken, invariant};
use std::collections::BTreeMap;

/// Answers asked for at first, in bytes.
const FIRST: u64 = 1 << 20;
/// The least bytes of answers that are asked for at once.
const FLOOR: u64 = 256 << 10;
/// The queue at the other end's disk and in the network that is tolerated, in microseconds.
const SLACK: u64 = 100 * MS;
/// Bytes that may overtake a request, besides twice those that were to come before it when it was sent.
const OVERTAKEN: u64 = 16 << 10;
/// Bytes that an answered request counts for at least: many small ones tell of a lost one too.
const LEAST_COUNTED: u64 = 4096;

/// Bytes that have moved in one direction since the link came up, and when they last did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub bytes: u64,
    pub at: Tick,
}

/// What is noted of a request when it is sent.
struct Sent {
    at: Tick,
    /// Bytes that had moved in the direction that matters for it.
    moved: u64,
    /// Bytes that may come before its answer: those in flight, and as much of each other shard as
    /// of its own, since they take turns.
    ahead: u64,
    /// Bytes of answers that had come.
    answered: u64,
    /// Little else was in flight.
    alone: bool,
    /// Bytes that the link had carried when the request's own last byte had been put into it; none
    /// while some are left.
    end: Option<u64>,
}

/// A request that is not answered.
struct Asked {
    /// Bytes of its answer; 0 if it is small.
    back: u64,
    /// Bytes that it counts for itself.
    out: u64,
    /// Nothing while it waits to be sent.
    sent: Option<Sent>,
}

/// What the link knows of a request that comes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    /// It does not know it.
    New,
    /// It waits to be sent already: there is nothing to add.
    Waits,
    /// It has been sent; the room for its answer is counted.
    Repeat,
}

/// The requests of one link that are not answered.
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
    /// Something has waited for the window since the last sample.
    blocked: bool,
}

impl Requests {
    /// The requests of a link that came up at `now`.
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

    /// A request comes to the link. Its answer is of `back` bytes (0: small), itself it is of `out` bytes.
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

    /// May a request of this shard go out though no other may? Nothing of it is in flight: what
    /// holds up the others is not to hold up this one.
    pub fn is_idle(&self, shard: &ShardId) -> bool {
        !self.by_shard.contains_key(shard)
    }

    /// May a request go out now whose answer is large? If not, that is remembered.
    pub fn may_ask(&mut self) -> bool {
        let may = self.coming < self.window.bytes();
        self.blocked |= !may;
        may
    }

    /// The request goes out, or goes out again; `back` is what has moved on the way back.
    pub fn sent(&mut self, now: Tick, key: Key, back: Moved) {
        // (A repeat, which is counted, or a message that no answer is awaited for.)
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
        // (It was answered before, or withdrawn; or it is answered before it was sent, as an
        // earlier attempt.)
        let Some(a) = self.by.remove(key) else { return };
        let Some(s) = a.sent else { return };
        self.settle(key, a.back, a.out);
        if a.back == 0 {
            self.done = Moved { bytes: self.done.bytes + a.out, at: now };
            return;
        }
        self.answered += a.back;
        let limited = std::mem::take(&mut self.blocked);
        invariant!(self.answered >= s.answered, "fewer answers have come than had when it was asked");
        let delivered = self.answered - s.answered;
        self.window.sample(now, Sample { sent: s.at, acked: a.back, delivered, limited, alone: s.alone });
    }

    /// A request that was sent does not count as in flight any more.
    fn settle(&mut self, key: &Key, back: u64, out: u64) {
        invariant!(self.coming >= back, "an answer of {back} bytes was in flight, of {} in all", self.coming);
        invariant!(self.open >= out, "a request of {out} bytes was open, of {} in all", self.open);
        self.coming = self.coming.saturating_sub(back);
        self.open = self.open.saturating_sub(out);
        invariant!(
            !self.by.is_empty() || (self.coming, self.open) == (0, 0),
            "nothing is asked, and {} bytes of answers and {} of requests are in flight",
            self.coming,
            self.open
        );
        if back == 0 {
            return;
        }
        match self.by_shard.get_mut(&key.0) {
            Some(n) => {
                invariant!(*n > 0, "shard {:?} has no large answer in flight", key.0);
                *n = n.saturating_sub(1);
                if *n == 0 {
                    self.by_shard.remove(&key.0);
                }
            }
            None => broken!("shard {:?} has no large answer in flight", key.0),
        }
    }

    /// The answer is not wanted any more. Says whether the request has been sent.
    pub fn withdraw(&mut self, key: &Key) -> bool {
        // (It is answered, so it was sent.)
        let Some(a) = self.by.remove(key) else { return true };
        if a.sent.is_some() {
            self.settle(key, a.back, a.out);
        }
        a.sent.is_some()
    }

    /// Withdraws the requests that `gone` names.
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

    /// Does the request wait its turn, on a link that moves? `out` and `back` are what has moved in
    /// either direction.
    ///
    /// A request with a large answer waits for answers to come. One with payload waits for the link
    /// until it has been received, and for those before it to be answered, which also makes room
    /// for those behind. Its answer is missing when nothing of that has moved for `patience`
    /// microseconds, or when much more has moved since it was sent than was to come before it.
    pub fn waits(&self, now: Tick, key: &Key, patience: u64, out: Moved, back: Moved) -> bool {
        // (It is answered, or was never asked over this link.)
        let Some(a) = self.by.get(key) else { return false };
        let moves = |m: Moved| now.since(m.at) < patience;
        let way = if a.back > 0 { back } else { self.done };
        let Some(s) = &a.sent else { return moves(way) || (a.back == 0 && moves(out)) };
        let received = s.end.is_some_and(|end| end <= out.bytes);
        if now.since(s.at) < patience || (!received && moves(out)) {
            return true;
        }
        invariant!(way.bytes >= s.moved, "less has moved than had when the request was sent");
        moves(way) && way.bytes.saturating_sub(s.moved) <= 2 * s.ahead + OVERTAKEN
    }

    /// Bytes of answers in flight.
    pub fn coming(&self) -> u64 {
        self.coming
    }
}

/// About how many bytes the answer to a read of so many blocks has.
pub(super) fn read_answer(blocks: u64) -> u64 {
    blocks * (BLOCK_BYTES + 17) + 164
}

/// Bytes of the answer that lists a chunk's blocks, at most.
pub(super) const LIST_ANSWER: u64 = 18 * CHUNK_BLOCKS + 164;

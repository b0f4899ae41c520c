//! Requests that came over a link and are not answered: none is begun twice, no more answers are
//! made than the link takes, and memory that is held for requests is counted until they are
//! answered.

use super::Key;
use crate::message::{Envelope, Msg};
use hf_policy::{MS, Tick, invariant};
use std::collections::{BTreeMap, VecDeque};

/// The most requests of one link that wait to be begun. The other end asks for no more than its
/// window; one that asks for more is cut off.
pub(super) const MOST_PARKED: usize = 64 << 10;

/// An answer that has been in the making for this long is stuck at the disk, in microseconds.
const STUCK: u64 = 1_000 * MS;
/// How often stuck answers are looked for, in microseconds.
const LOOK_EVERY: u64 = 100 * MS;

/// What a request holds until it is answered.
enum Holds {
    /// The bytes of its own payload.
    Payload(u64),
    /// Room for an answer of so many bytes, since that moment.
    Answer(u64, Tick),
    /// Nothing: it waits for room for an answer of so many bytes.
    Nothing(u64),
}

/// Whether a request is to be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// It is to be begun now.
    Now,
    /// It waits here for room.
    Later,
    /// It is being done, or waits here: there is nothing to do.
    Already,
}

/// The requests of one link that are not answered.
#[derive(Default)]
pub(super) struct Served {
    by: BTreeMap<Key, Holds>,
    /// Requests that wait for room.
    parked: VecDeque<(Envelope, Msg)>,
    /// Bytes of answers that are being made.
    making: u64,
    /// Bytes of those that are stuck, as of `looked`.
    stuck: u64,
    /// When stuck answers were last looked for.
    looked: Tick,
    /// Bytes of requests that are not answered.
    holding: u64,
}

impl Served {
    /// Bytes of answers that are being made.
    pub fn making(&self) -> u64 {
        self.making
    }

    /// Bytes of answers that are being made and are not stuck at the disk: stuck ones must not hold
    /// up others, of replicas that are well. At most `most` bytes are left out, so that there is a
    /// bound even where everything is slow.
    pub fn moving(&mut self, now: Tick, most: u64) -> u64 {
        if now.since(self.looked) >= LOOK_EVERY {
            let stuck = |h: &Holds| match h {
                Holds::Answer(n, began) if now.since(*began) >= STUCK => *n,
                _ => 0,
            };
            (self.stuck, self.looked) = (self.by.values().map(stuck).sum(), now);
        }
        self.making.saturating_sub(self.stuck.min(most))
    }

    /// Bytes of requests that are not answered.
    pub fn holding(&self) -> u64 {
        self.holding
    }

    /// Requests that wait for room.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Bytes of a request have come in.
    pub fn holds(&mut self, bytes: u64) {
        self.holding += bytes;
    }

    /// Bytes that were counted by [`Served::holds`] are let go.
    pub fn lets_go(&mut self, bytes: u64) {
        invariant!(self.holding >= bytes, "{bytes} bytes are let go, and {} are held", self.holding);
        self.holding = self.holding.saturating_sub(bytes);
    }

    /// A request with payload has come, whose bytes are held already.
    pub fn payload(&mut self, key: Key, bytes: u64) -> Begin {
        if self.by.contains_key(&key) {
            self.lets_go(bytes);
            return Begin::Already;
        }
        self.by.insert(key, Holds::Payload(bytes));
        Begin::Now
    }

    /// A request has come whose answer is of `answer` bytes; `room` says whether there is room for it.
    pub fn asks(&mut self, now: Tick, key: Key, answer: u64, room: bool) -> Begin {
        if self.by.contains_key(&key) {
            return Begin::Already;
        }
        if !room || !self.parked.is_empty() {
            self.by.insert(key, Holds::Nothing(answer));
            return Begin::Later;
        }
        self.making += answer;
        self.by.insert(key, Holds::Answer(answer, now));
        Begin::Now
    }

    /// The request waits here for room.
    pub fn park(&mut self, env: Envelope, msg: Msg) {
        self.parked.push_back((env, msg));
    }

    /// There is room for a request that waits: takes the first one.
    pub fn unpark(&mut self, now: Tick, key_of: impl Fn(&Envelope) -> Key) -> Option<(Envelope, Msg)> {
        let (env, msg) = self.parked.pop_front()?;
        // (Another request under the same key was answered: the other end named two alike, and gets
        // one answer.)
        let holds = self.by.get_mut(&key_of(&env))?;
        if let Holds::Nothing(answer) = *holds {
            self.making += answer;
            *holds = Holds::Answer(answer, now);
        }
        Some((env, msg))
    }

    /// The request is answered, or will never be.
    pub fn over(&mut self, key: &Key) {
        if let Some(holds) = self.by.remove(key) {
            self.give_back(holds);
        }
    }

    fn give_back(&mut self, holds: Holds) {
        match holds {
            Holds::Payload(n) => self.lets_go(n),
            Holds::Answer(n, _) => {
                invariant!(self.making >= n, "an answer of {n} bytes is made, of {} in all", self.making);
                self.making = self.making.saturating_sub(n);
            }
            Holds::Nothing(_) => {}
        }
        invariant!(!self.by.is_empty() || self.making == 0, "no request is served, and {} bytes are made", self.making);
    }

    /// The requests that `gone` names will not be answered: the replica is gone.
    pub fn forget(&mut self, gone: impl Fn(&Key) -> bool, key_of: impl Fn(&Envelope) -> Key) {
        self.parked.retain(|(env, _)| !gone(&key_of(env)));
        let keys: Vec<Key> = self.by.keys().filter(|k| gone(k)).copied().collect();
        keys.iter().for_each(|k| self.over(k));
    }
}

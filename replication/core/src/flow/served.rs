//! Requests that came over a link and are not answered yet: none is begun twice, no more answers are made than
//! the link takes, and memory held for requests is counted until they are answered.

use super::Key;
use crate::message::{Envelope, Msg};
use hf_policy::{MS, Tick};
use std::collections::{BTreeMap, VecDeque};

/// Requests of one link that wait to be begun. The other end asks for no more than its window; one that does
/// is cut off.
pub(super) const MOST_PARKED: usize = 64 << 10;

/// An answer that has been in the making for so long is stuck at the disk, in microseconds.
const STUCK: u64 = 1_000 * MS;
/// How often it is looked for what is stuck.
const LOOK_EVERY: u64 = 100 * MS;

/// What a request holds until it is answered.
enum Holds {
    /// Its own bytes.
    Payload(u64),
    /// Room for its answer, since then.
    Answer(u64, Tick),
    /// It waits for room, of this many bytes.
    Nothing(u64),
}

/// Whether a request is to be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    Now,
    /// It waits here for room.
    Later,
    /// It is being done, or waits here: there is nothing to do.
    Already,
}

/// See the module.
#[derive(Default)]
pub(super) struct Served {
    by: BTreeMap<Key, Holds>,
    parked: VecDeque<(Envelope, Msg)>,
    /// Bytes of answers that are being made.
    making: u64,
    /// Of them those that are stuck, as of when that was last looked at.
    stuck: u64,
    looked: Tick,
    /// Bytes of requests that are not answered.
    holding: u64,
}

impl Served {
    pub fn making(&self) -> u64 {
        self.making
    }

    /// Bytes of answers that are being made and are not stuck at the disk: those must not hold up others, of
    /// replicas that are well. As much as `most` is left out at most, so that there is a bound even where
    /// everything is slow.
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
    pub fn holding(&self) -> u64 {
        self.holding
    }
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Bytes of a request have come in.
    pub fn holds(&mut self, bytes: u64) {
        self.holding += bytes;
    }

    /// Bytes that were counted by [`Served::holds`] are let go.
    pub fn lets_go(&mut self, bytes: u64) {
        self.holding = self.holding.saturating_sub(bytes);
    }

    /// A request with payload has come, of bytes that are held already.
    pub fn payload(&mut self, key: Key, bytes: u64) -> Begin {
        if self.by.contains_key(&key) {
            self.lets_go(bytes);
            return Begin::Already;
        }
        self.by.insert(key, Holds::Payload(bytes));
        Begin::Now
    }

    /// A request has come whose answer is of so many bytes.
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

    pub fn park(&mut self, env: Envelope, msg: Msg) {
        self.parked.push_back((env, msg));
    }

    /// There is room for one that waits.
    pub fn unpark(&mut self, now: Tick, key_of: impl Fn(&Envelope) -> Key) -> Option<(Envelope, Msg)> {
        let (env, msg) = self.parked.pop_front()?;
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
            Holds::Answer(n, _) => self.making = self.making.saturating_sub(n),
            Holds::Nothing(_) => {}
        }
    }

    /// Requests to these will not be answered: who would have done it is gone.
    pub fn forget(&mut self, gone: impl Fn(&Key) -> bool, key_of: impl Fn(&Envelope) -> Key) {
        self.parked.retain(|(env, _)| !gone(&key_of(env)));
        let keys: Vec<Key> = self.by.keys().filter(|k| gone(k)).copied().collect();
        keys.iter().for_each(|k| self.over(k));
    }
}

//! FIFO range locks over blocks: writes exclusive, reads shared (protocol §6, I5).
//!
//! A request is granted when it conflicts with none that is granted and with none that waits before
//! it, so nobody starves.

use hf_policy::{BlockRange, invariant};
use std::collections::{BTreeMap, VecDeque};

/// A range that is locked, or that a request waits to lock.
#[derive(Clone, Copy, Debug)]
struct Held {
    range: BlockRange,
    exclusive: bool,
}

impl Held {
    fn conflicts(&self, other: &Held) -> bool {
        (self.exclusive || other.exclusive) && self.range.overlaps(other.range)
    }
}

/// The locks of one shard, by the ids of their owners.
#[derive(Default, Debug)]
pub struct RangeLock {
    granted: BTreeMap<u64, Held>,
    waiting: VecDeque<(u64, Held)>,
}

impl RangeLock {
    /// Asks for a lock; true if granted at once, else it comes out of [`RangeLock::release`] later.
    /// An id may have one lock at a time.
    pub fn acquire(&mut self, id: u64, range: BlockRange, exclusive: bool) -> bool {
        invariant!(!range.is_empty(), "{id} locks no blocks");
        let want = Held { range, exclusive };
        let free =
            !self.granted.values().any(|h| h.conflicts(&want)) && !self.waiting.iter().any(|(_, h)| h.conflicts(&want));
        if free {
            let before = self.granted.insert(id, want);
            invariant!(before.is_none(), "{id} has a lock and asks for another");
        } else {
            self.waiting.push_back((id, want));
        }
        free
    }

    /// Gives a lock back, or a place in the queue; returns the ids whose locks are granted now, in order.
    pub fn release(&mut self, id: u64) -> Vec<u64> {
        if self.granted.remove(&id).is_none() {
            let asked = self.waiting.len();
            self.waiting.retain(|(w, _)| *w != id);
            if self.waiting.len() == asked {
                return Vec::new(); // It had none.
            }
        }
        let mut granted = Vec::new();
        let mut before: Vec<Held> = Vec::new();
        let mut kept = VecDeque::new();
        while let Some((id, want)) = self.waiting.pop_front() {
            let blocked =
                self.granted.values().any(|h| h.conflicts(&want)) || before.iter().any(|h| h.conflicts(&want));
            if blocked {
                before.push(want);
                kept.push_back((id, want));
            } else {
                let twice = self.granted.insert(id, want);
                invariant!(twice.is_none(), "{id} is granted a second lock");
                granted.push(id);
            }
        }
        self.waiting = kept;
        invariant!(self.waiting.is_empty() || !self.granted.is_empty(), "locks are waited for, and none is held");
        granted
    }

    /// The ids of locks that are held or waited for.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.granted.keys().copied().chain(self.waiting.iter().map(|(id, _)| *id))
    }

    /// Is this lock waited for?
    pub fn is_waiting(&self, id: u64) -> bool {
        self.waiting.iter().any(|(w, _)| *w == id)
    }

    /// Checks what must hold between calls; for the simulator and for tests.
    ///
    /// # Errors
    /// Says which two locks are held, or which is waited for, against the rule.
    pub fn check(&self) -> Result<(), String> {
        for (id, held) in &self.granted {
            if let Some((other, _)) = self.granted.range(id + 1..).find(|(_, h)| h.conflicts(held)) {
                return Err(format!("locks {id} and {other} conflict, and both are held"));
            }
        }
        for (at, (id, want)) in self.waiting.iter().enumerate() {
            let before = self.waiting.iter().take(at).map(|(_, h)| h);
            if !self.granted.values().chain(before).any(|h| h.conflicts(want)) {
                return Err(format!("lock {id} is waited for, and nothing is in its way"));
            }
        }
        Ok(())
    }

    /// How many locks are held or waited for.
    pub fn len(&self) -> usize {
        self.granted.len() + self.waiting.len()
    }

    /// No lock is held or waited for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random requests: no two conflicting ones are ever held together, and conflicting ones are
    /// granted in the order of asking.
    #[test]
    fn conflicting_requests_are_granted_in_order_and_never_together() {
        for seed in 1..200u64 {
            let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut rnd = move |n: u64| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x % n
            };
            let mut l = RangeLock::default();
            let mut held: BTreeMap<u64, (BlockRange, bool)> = BTreeMap::new();
            let mut asked: BTreeMap<u64, (BlockRange, bool)> = BTreeMap::new();
            for id in 0..300 {
                let (r, e) = (BlockRange::new(rnd(20), 1 + rnd(6) as u32), rnd(2) == 0);
                asked.insert(id, (r, e));
                let mut now = if l.acquire(id, r, e) { vec![id] } else { vec![] };
                while rnd(3) == 0 && !held.is_empty() {
                    let k = *held.keys().nth(rnd(held.len() as u64) as usize).unwrap();
                    held.remove(&k);
                    now.extend(l.release(k));
                }
                for n in now {
                    let (r, e) = asked.remove(&n).unwrap();
                    assert!(held.values().all(|(hr, he)| !((*he || e) && hr.overlaps(r))), "seed {seed}");
                    assert!(
                        asked.range(..n).all(|(_, (ar, ae))| !((*ae || e) && ar.overlaps(r))),
                        "seed {seed}: overtaken"
                    );
                    held.insert(n, (r, e));
                }
            }
            while let Some(k) = held.keys().next().copied() {
                held.remove(&k);
                for n in l.release(k) {
                    held.insert(n, asked.remove(&n).unwrap());
                }
            }
            assert!(l.is_empty() && asked.is_empty(), "seed {seed}: someone waits for ever");
        }
    }
}

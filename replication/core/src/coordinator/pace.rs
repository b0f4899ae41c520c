//! How fast copying to replicas and scrubbing may go: as fast as it can while clients are idle, and no faster than what lengthens
//! their slowest hundredth (p99) by the policy's `rebuild_impact`; never slower than a floor, so that it always ends.
//!
//! Measured, not guessed: while there are clients, every second begins with a short pause of copying. What requests take in the
//! pauses is the yardstick; what they take otherwise is held against it, and the rate follows, a quarter at a time.
//! It bounds only this shard's copying: other volumes' syncs on the same disks are bounded by how many may go on at once.

use hf_policy::{MS, Tick};
use std::collections::VecDeque;

/// Bytes a second below which copying never falls.
pub const FLOOR: u64 = 4 << 20;
const START: u64 = 64 << 20;
const CEILING: u64 = 8 << 30;
/// A round: a pause first (if there are clients), then copying.
const ROUND: u64 = 1_000 * MS;
const PAUSE: u64 = 120 * MS;
/// What was on its way when the pause began is not the pause's.
const SETTLE: u64 = 25 * MS;
/// Fewer requests than this say nothing.
const ENOUGH: usize = 40;
/// The yardstick's memory, in requests.
const MEMORY: usize = 1_000;
/// Microseconds that are nobody's pain.
const SLACK: u64 = 200;

/// The pace of one shard's background work.
pub(super) struct Pace {
    /// Percent.
    pub impact: u32,
    rate: u64,
    /// Bytes that may still be begun; negative after a large piece.
    budget: i64,
    filled: Tick,
    round: Tick,
    /// Latencies in microseconds: in pauses, and beside copying.
    calm: VecDeque<u32>,
    beside: Vec<u32>,
    /// There were clients in the last round.
    clients: bool,
    running: bool,
}

impl Pace {
    pub fn new(impact: u32) -> Pace {
        Pace {
            impact,
            rate: START,
            budget: 0,
            filled: Tick(0),
            round: Tick(0),
            calm: VecDeque::new(),
            beside: Vec::new(),
            clients: false,
            running: false,
        }
    }

    /// Bytes a second that are allowed now.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Background work goes on, or none does.
    pub fn run(&mut self, now: Tick, on: bool) {
        if on && !self.running {
            self.rate = START;
            self.budget = 0;
            self.filled = now;
            self.round = now;
            self.beside.clear();
            self.clients = self.calm.len() >= ENOUGH;
        }
        self.running = on;
    }

    fn pausing(&self, now: Tick) -> bool {
        self.clients && now.since(self.round) < PAUSE
    }

    /// A client's request took so long.
    pub fn observe(&mut self, now: Tick, us: u64) {
        let us = us.min(u64::from(u32::MAX)) as u32;
        if !self.running || (self.pausing(now) && now.since(self.round) >= SETTLE) {
            if self.calm.len() == MEMORY {
                self.calm.pop_front();
            }
            self.calm.push_back(us);
        } else if !self.pausing(now) && self.beside.len() < 64 * MEMORY {
            self.beside.push(us);
        }
    }

    /// May another piece be begun? `busy`: some are on their way.
    pub fn ready(&mut self, now: Tick, busy: bool) -> bool {
        if now.since(self.round) >= ROUND {
            self.turn();
            self.round = now;
        }
        let earned = u128::from(self.rate) * u128::from(now.since(self.filled)) / 1_000_000;
        self.filled = now;
        // What was not used is not saved up for long.
        let most = (self.rate / 8).max(FLOOR) as i64;
        self.budget = self.budget.saturating_add(earned.min(1 << 40) as i64).min(most);
        // Slow copying is spread out: one piece after the other.
        !self.pausing(now) && self.budget > 0 && (!busy || self.rate > 16 * FLOOR)
    }

    /// So many bytes were begun.
    pub fn spend(&mut self, bytes: u64) {
        self.budget = self.budget.saturating_sub(bytes.min(1 << 40) as i64);
    }

    fn turn(&mut self) {
        self.clients = self.beside.len() + self.calm.len().min(ENOUGH) > ENOUGH && !self.beside.is_empty();
        if self.beside.len() < ENOUGH {
            // Next to nobody is there to be hurt.
            self.rate = (self.rate * 2).min(CEILING);
            self.beside.clear();
            return;
        }
        let mut calm: Vec<u32> = self.calm.iter().copied().collect();
        if calm.len() >= ENOUGH {
            let allowed = p99(&mut calm) * (100 + u64::from(self.impact)) / 100 + SLACK;
            let hurts = p99(&mut self.beside) > allowed;
            self.rate = if hurts { self.rate * 3 / 4 } else { self.rate * 5 / 4 }.clamp(FLOOR, CEILING);
        }
        self.clients = true;
        self.beside.clear();
    }
}

/// The value that 99 of 100 do not exceed.
fn p99(values: &mut [u32]) -> u64 {
    let at = (values.len() * 99 / 100).min(values.len().saturating_sub(1));
    let (_, v, _) = values.select_nth_unstable(at);
    u64::from(*v)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shard whose requests take `base` plus what copying beside them costs; returns the rate and p99 of the last rounds.
    fn run(impact: u32, clients_per_s: u64, base: u64, cost_per_mib_s: u64, seconds: u64) -> (u64, u64, u64) {
        let mut p = Pace::new(impact);
        let (mut now, mut x, mut copied) = (Tick(1_000_000), 7u64, 0u64);
        let mut noise = || {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 33) % 100
        };
        // Clients were there before.
        for _ in 0..clients_per_s.min(2_000) {
            p.observe(now, base + noise());
        }
        p.run(now, true);
        let end = now.plus(seconds * 1_000_000);
        let (mut acc, mut recent, mut late) = (0u64, Vec::new(), 0u64);
        let mut going = 0u64;
        while now < end {
            now = now.plus(1_000);
            going = going * 9 / 10;
            while p.ready(now, false) {
                p.spend(1 << 20);
                copied += 1 << 20;
                going += p.rate() / 10;
                if end.since(now) < 10_000_000 {
                    late += 1 << 20;
                }
            }
            acc += clients_per_s;
            while acc >= 1_000 {
                acc -= 1_000;
                let us = base + noise() + (going.min(p.rate()) >> 20) * cost_per_mib_s;
                p.observe(now, us);
                if end.since(now) < 10_000_000 {
                    recent.push(us as u32);
                }
            }
        }
        let worst = if recent.is_empty() { 0 } else { p99(&mut recent) };
        (copied, late / 10, worst)
    }

    #[test]
    fn without_clients_it_is_as_fast_as_it_can() {
        let (copied, rate, _) = run(20, 0, 0, 0, 20);
        assert!(copied > 8 << 30 && rate > 1 << 30, "{copied} {rate}");
    }

    #[test]
    fn clients_pay_what_the_policy_says_and_not_more() {
        let base = 2_000;
        let gentle = run(10, 3_000, base, 20, 60);
        let usual = run(20, 3_000, base, 20, 60);
        let rough = run(100, 3_000, base, 20, 60);
        assert!(gentle.1 < usual.1 && usual.1 < rough.1, "{gentle:?} {usual:?} {rough:?}");
        // The rate swings about the bound by a quarter, so the pain does too.
        assert!(usual.2 < (base + 100) * 140 / 100 + 2 * SLACK, "{usual:?}");
        assert!(gentle.2 < (base + 100) * 125 / 100 + 2 * SLACK, "{gentle:?}");
    }

    #[test]
    fn it_never_stops_wholly() {
        let (copied, _, _) = run(0, 3_000, 100, 100_000, 30);
        assert!(copied >= 25 * FLOOR, "{copied}");
    }
}

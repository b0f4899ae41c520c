//! How fast copying to replicas and scrubbing may go: as fast as they can while clients are idle,
//! and no faster than what lengthens their slowest hundredth (p99) by the policy's
//! `rebuild_impact`; never slower than a floor, so that they always end.
//!
//! Measured, not guessed: while there are clients, copying rests every twentieth second. The
//! yardstick is what requests take in the second half of a rest, and took before copying began: the
//! lowest p99 of the last minute. (The first half still feels what was copied before: the target
//! destages, disks are busy.) What requests take otherwise is held against the yardstick, second by
//! second, and the rate follows. It begins low and doubles until clients are hurt, then moves by a
//! quarter, or halves when they are hurt much.
//!
//! It bounds only this shard's copying: other volumes' syncs on the same disks are bounded by how
//! many may go on at once.

use hf_policy::{BLOCK_BYTES, CHUNK_BLOCKS, MS, Tick, invariant};
use std::collections::VecDeque;

/// The least rate of copying, in bytes a second.
pub const FLOOR: u64 = 4 << 20;
/// The rate at which copying begins beside clients, in bytes a second.
const START: u64 = 2 * FLOOR;
/// The rate at which it begins without clients.
const ALONE: u64 = 256 << 20;
/// The greatest rate.
const CEILING: u64 = 8 << 30;
/// A piece that clients hardly notice, in bytes.
const SMALL: u64 = 128 << 10;
/// A piece that keeps a disk and a link busy, in bytes.
const LARGE: u64 = 4 << 20;
/// The rate is looked at once in this time, in microseconds.
const ROUND: u64 = 1_000 * MS;
/// While there are clients, copying rests in one of so many rounds.
const REST_EVERY: u32 = 20;
/// Requests that began earlier in a rest still feel what was copied before, in microseconds.
const SETTLE: u64 = 500 * MS;
/// Requests that make a p99. Fewer are gathered over several rounds, at most [`PATIENCE`].
const ENOUGH: usize = 40;
const PATIENCE: u32 = 10;
/// Rounds without a request after which clients are taken to be gone.
const GONE: u32 = 3;
/// Requests whose p99 is one yardstick.
const MEMORY: usize = 1_000;
/// The yardstick is the lowest of so many p99s.
const YARDSTICKS: usize = 3;
/// Latency increase that is ignored as noise, in microseconds.
const SLACK: u64 = 200;

/// The pace of one shard's background work.
pub(super) struct Pace {
    /// Percent by which copying may lengthen the clients' p99.
    pub impact: u32,
    /// Bytes a second, from [`FLOOR`] to [`CEILING`].
    rate: u64,
    /// Bytes that may still be begun; negative after a large piece.
    budget: i64,
    /// When the budget was last filled up.
    filled: Tick,
    /// When this round began.
    round: Tick,
    /// Latencies of undisturbed requests, in microseconds: the last [`MEMORY`].
    calm: VecDeque<u32>,
    /// Latencies of requests beside copying, in microseconds.
    beside: Vec<u32>,
    /// p99 of `calm` when copying began and after each rest since.
    yardsticks: VecDeque<u64>,
    /// Copying rests in this round.
    resting: bool,
    /// Rounds since copying rested, and when it began again.
    since_rest: u32,
    rested: Tick,
    /// Clients have not been hurt yet.
    rising: bool,
    /// When the last request was answered; 0 before the first.
    seen: Tick,
    /// Rounds without a request.
    idle: u32,
    /// Rounds that `beside` was gathered over.
    gathered: u32,
    /// Background work goes on.
    running: bool,
    /// p99 in microseconds of the last round that told: undisturbed (the yardstick), and beside copying.
    pub measured: (u64, u64),
}

impl Pace {
    /// The pace of a shard that copies nothing yet.
    pub fn new(impact: u32) -> Pace {
        Pace {
            impact,
            rate: START,
            budget: 0,
            filled: Tick(0),
            round: Tick(0),
            calm: VecDeque::new(),
            beside: Vec::new(),
            yardsticks: VecDeque::new(),
            resting: false,
            since_rest: 0,
            rested: Tick(0),
            rising: true,
            seen: Tick(0),
            idle: 0,
            gathered: 0,
            running: false,
            measured: (0, 0),
        }
    }

    /// What must hold of it between steps.
    pub fn check(&self) -> Result<(), String> {
        if !(FLOOR..=CEILING).contains(&self.rate) {
            return Err(format!("copying goes at {} bytes a second", self.rate));
        }
        if self.calm.len() > MEMORY || self.yardsticks.len() > YARDSTICKS || self.beside.len() > 64 * MEMORY {
            return Err("the pace remembers more than it may".into());
        }
        Ok(())
    }

    /// Bytes a second that are allowed now.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Background work goes on, or (`on` false) none does.
    pub fn run(&mut self, now: Tick, on: bool) {
        if on && !self.running {
            self.budget = 0;
            self.filled = now;
            self.round = now;
            self.beside.clear();
            self.yardsticks.clear();
            (self.idle, self.gathered) = (0, 0);
            (self.resting, self.since_rest, self.rested) = (false, 0, now);
            // (Right after an attachment it is not known whether there are clients.)
            let gone = self.seen > Tick(0) && now.since(self.seen) >= u64::from(GONE) * ROUND;
            self.rate = if gone { ALONE } else { START };
            self.rising = true;
            self.measure();
        }
        self.running = on;
    }

    /// A client's request that began at `began` is answered.
    pub fn observe(&mut self, now: Tick, began: Tick) {
        invariant!(began <= now, "a request is answered before it began");
        let us = now.since(began).min(u64::from(u32::MAX)) as u32;
        self.seen = now;
        if !self.running || (self.resting && began >= self.round.plus(SETTLE)) {
            if self.calm.len() == MEMORY {
                self.calm.pop_front();
            }
            self.calm.push_back(us);
            return;
        }
        // (A request that began in a rest and ends right after it says nothing about copying.)
        let felt = began >= self.rested || now.since(self.rested) >= ROUND;
        if self.running && !self.resting && felt && self.beside.len() < 64 * MEMORY {
            self.beside.push(us);
        }
    }

    /// Bytes that may be in flight at once: slow copying is spread out, one small piece after the other.
    pub fn at_once(&self) -> u64 {
        if self.is_slow() { SMALL } else { LARGE }
    }

    /// Blocks of one piece at most.
    pub fn piece_blocks(&self) -> u32 {
        if self.is_slow() { (SMALL / BLOCK_BYTES) as u32 } else { CHUNK_BLOCKS as u32 }
    }

    fn is_slow(&self) -> bool {
        self.rate < 16 * FLOOR
    }

    /// May another piece be begun? Fills the budget up first.
    pub fn ready(&mut self, now: Tick) -> bool {
        if now.since(self.round) >= ROUND {
            self.turn(now);
            self.round = now;
        }
        let earned = u128::from(self.rate) * u128::from(now.since(self.filled)) / 1_000_000;
        invariant!(self.filled <= now, "the budget was filled in the future");
        self.filled = now;
        // What was not used is not saved up for long, or it would come in one go.
        let most = (self.rate / 8) as i64;
        self.budget = self.budget.saturating_add(earned.min(1 << 40) as i64).min(most);
        !self.resting && self.budget > 0
    }

    /// Copying of so many bytes has begun.
    pub fn spend(&mut self, bytes: u64) {
        self.budget = self.budget.saturating_sub(bytes.min(1 << 40) as i64);
    }

    /// The p99 of `calm` is one more yardstick.
    fn measure(&mut self) {
        if self.calm.len() >= ENOUGH {
            if self.yardsticks.len() == YARDSTICKS {
                self.yardsticks.pop_front();
            }
            let mut calm: Vec<u32> = self.calm.iter().copied().collect();
            self.yardsticks.push_back(p99(&mut calm));
            invariant!(self.yardsticks.len() <= YARDSTICKS, "{} yardsticks", self.yardsticks.len());
        }
    }

    /// A round is over: the rate follows from what was seen in it.
    fn turn(&mut self, now: Tick) {
        if self.resting {
            (self.resting, self.since_rest, self.rested) = (false, 0, now);
            self.measure();
            return;
        }
        self.since_rest += 1;
        if self.beside.is_empty() {
            // There are no clients to be hurt; but they may only have paused.
            self.idle += 1;
            self.rate *= 2;
            if self.idle >= GONE {
                self.rate = self.rate.max(ALONE);
            }
            self.rate = self.rate.min(CEILING);
            return;
        }
        // Without a yardstick one is needed first.
        self.resting = self.since_rest >= if self.yardsticks.is_empty() { 1 } else { REST_EVERY };
        if std::mem::take(&mut self.idle) >= GONE {
            // They are back: what it had come to without them is not for them.
            (self.rate, self.rising) = (self.rate.min(START), true);
            return self.beside.clear();
        }
        self.gathered += 1;
        if self.beside.len() < ENOUGH && self.gathered < PATIENCE {
            return;
        }
        let rate = match self.yardsticks.iter().min().copied() {
            None => self.rate * 5 / 4,
            Some(yardstick) => self.judged(yardstick),
        };
        self.rate = rate.clamp(FLOOR, CEILING);
        invariant!(!self.resting || self.since_rest > 0, "copying rests twice in a row");
        self.gathered = 0;
        self.beside.clear();
    }

    /// The rate that follows from what requests took beside copying.
    fn judged(&mut self, yardstick: u64) -> u64 {
        let beside = p99(&mut self.beside);
        self.measured = (yardstick, beside);
        let allowed = yardstick * (100 + u64::from(self.impact)) / 100 + SLACK;
        self.rising &= beside <= allowed;
        match () {
            _ if self.rising => self.rate * 2,
            _ if beside <= allowed => self.rate * 5 / 4,
            _ if beside <= allowed * 3 / 2 => self.rate * 3 / 4,
            _ => self.rate / 2,
        }
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

    fn run(impact: u32, clients_per_s: u64, base: u64, cost_per_mib_s: u64, seconds: u64) -> (u64, u64, u64) {
        lasting(0, impact, clients_per_s, base, cost_per_mib_s, seconds)
    }

    /// A shard whose requests take `base` plus what copying beside them costs; returns what was
    /// copied, and the rate and the p99 of the last ten seconds. The cost goes on for a while after
    /// what was copied: `lasts` ms until it is a third.
    fn lasting(
        lasts: u64,
        impact: u32,
        clients_per_s: u64,
        base: u64,
        cost_per_mib_s: u64,
        seconds: u64,
    ) -> (u64, u64, u64) {
        let mut p = Pace::new(impact);
        let (mut now, mut x, mut copied) = (Tick(1_000_000), 7u64, 0u64);
        let mut noise = || {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 33) % 100
        };
        // Clients were there before.
        for _ in 0..(clients_per_s * 10).min(2_000) {
            p.observe(now.plus(base + noise()), now);
        }
        p.run(now, true);
        let end = now.plus(seconds * 1_000_000);
        let (mut acc, mut recent, mut late) = (0u64, Vec::new(), 0u64);
        let (mut going, mut tail) = (0u64, 0u64);
        while now < end {
            now = now.plus(1_000);
            going = going * 9 / 10;
            tail -= tail / lasts.max(1);
            while p.ready(now) {
                p.spend(1 << 20);
                tail += (1_000 << 20) / lasts.max(1);
                copied += 1 << 20;
                going += p.rate() / 10;
                if end.since(now) < 10_000_000 {
                    late += 1 << 20;
                }
            }
            acc += clients_per_s;
            while acc >= 1_000 {
                acc -= 1_000;
                let felt = if lasts > 0 { tail } else { going.min(p.rate()) };
                let us = base + noise() + (felt >> 20) * cost_per_mib_s;
                p.observe(now, Tick(now.0.saturating_sub(us)));
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

    #[test]
    fn what_copying_leaves_behind_is_not_taken_for_the_clients_own() {
        // Whatever is copied is felt for a fifth of a second. For minutes: what was measured before
        // has long been forgotten.
        let base = 2_000;
        for seconds in [15, 50, 110, 290, 600] {
            let (_, rate, worst) = lasting(200, 20, 3_000, base, 20, seconds);
            assert!(worst < (base + 100) * 140 / 100 + 2 * SLACK, "{worst} after {seconds} s, {rate}");
        }
    }

    #[test]
    fn a_load_that_grew_for_itself_is_the_new_yardstick_after_a_while() {
        let mut p = Pace::new(20);
        let mut now = Tick(1_000_000);
        (0..1_000).for_each(|_| p.observe(now, Tick(now.0 - 1_000)));
        p.run(now, true);
        let mut fastest = 0;
        for ms in 0..180_000u64 {
            now = now.plus(1_000);
            while p.ready(now) {
                p.spend(1 << 20);
            }
            // From the tenth second on every request takes three times as long, whether there is
            // copying or not.
            p.observe(now, Tick(now.0.saturating_sub(if ms < 10_000 { 1_000 } else { 3_000 })));
            if (20_000..60_000).contains(&ms) {
                assert!(p.rate() <= 1 << 30, "{}", p.rate());
            }
            fastest = fastest.max(if ms > 100_000 { p.rate() } else { 0 });
        }
        assert!(fastest > 256 << 20, "{fastest}");
    }

    #[test]
    fn it_begins_gently_beside_clients_and_at_once_without() {
        let mut p = Pace::new(20);
        let mut now = Tick(1_000_000);
        (0..1_000).for_each(|_| p.observe(now, Tick(now.0 - 1_000)));
        p.run(now.plus(1_000), true);
        assert_eq!(p.rate(), START);
        p.run(now.plus(2_000), false);
        // They have been gone for a minute.
        now = now.plus(60_000_000);
        p.run(now, true);
        assert_eq!(p.rate(), ALONE);
    }

    #[test]
    fn clients_that_come_back_do_not_meet_the_rate_that_was_without_them() {
        let mut p = Pace::new(20);
        let mut now = Tick(1_000_000);
        p.observe(now, now);
        p.run(now, true);
        let mut go = |clients: bool| {
            for _ in 0..10_000 {
                now = now.plus(1_000);
                p.ready(now);
                if clients {
                    p.observe(now, Tick(now.0 - 1_000));
                }
            }
            p.rate()
        };
        assert!(go(false) >= ALONE);
        // They are not hurt, so it grows again, but from where it begins beside clients.
        let rate = go(true);
        assert!((START..=START << 9).contains(&rate), "{rate}");
        assert!(go(false) >= ALONE);
    }

    #[test]
    fn a_few_requests_count_too() {
        // Ten a second, which copying would hurt much: gathered over several rounds they say so.
        let (copied, rate, _) = lasting(200, 20, 10, 2_000, 200, 120);
        assert!(rate < 32 << 20 && copied >= 100 * FLOOR, "{copied} {rate}");
    }
}

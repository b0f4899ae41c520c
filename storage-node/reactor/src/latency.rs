//! How long clients' requests took: plain arrays of counts that a reactor keeps without an atomic or a lock.
//!
//! A request is counted once, when it ends, whether it succeeded or not. Its duration goes from its arrival (its
//! header has been read) to its answer, so it includes the wait for memory and for a place among the requests in
//! flight, and, of a write, the arrival of its payload. A request that is carried out in pieces is counted by piece.
//! The bounds are the same everywhere, so histograms can be added and subtracted; they lie at most a third apart,
//! which is how exact a quantile is. There is no clock here.

use std::cell::RefCell;
use std::rc::Rc;

/// The kinds of requests that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read of data.
    Read,
    /// A write of data, or of zeroes that take space.
    Write,
    /// A flush of the volume.
    Flush,
    /// A trim, or zeroes that give their space back.
    Trim,
}

impl Op {
    /// All of them, in the order of their numbers.
    pub const ALL: [Op; 4] = [Op::Read, Op::Write, Op::Flush, Op::Trim];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Op::Read => "read",
            Op::Write => "write",
            Op::Flush => "flush",
            Op::Trim => "trim",
        }
    }
}

/// Bounds in one power of ten.
const PATTERN: [u32; 10] = [10, 12, 15, 20, 25, 30, 40, 50, 65, 80];
/// Powers of ten that have bounds: 10 µs and on, below 10 s.
const POWERS: usize = 6;
/// How many bounds there are.
const BOUNDS_LEN: usize = PATTERN.len() * POWERS + 1;
/// How many counts a histogram has: one for each bound, and one for what is beyond the last.
pub const BUCKETS: usize = BOUNDS_LEN + 1;

/// Upper bounds in microseconds, each part of its bucket: from 10 µs to 10 s.
pub const BOUNDS_US: [u32; BOUNDS_LEN] = bounds();

const fn bounds() -> [u32; BOUNDS_LEN] {
    let mut all = [10_000_000; BOUNDS_LEN];
    let (mut i, mut scale) = (0, 1);
    while i < BOUNDS_LEN - 1 {
        all[i] = PATTERN[i % PATTERN.len()] * scale;
        i += 1;
        if i.is_multiple_of(PATTERN.len()) {
            scale *= 10;
        }
    }
    all
}

/// How many requests took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Absent until something is counted: most volumes never see a trim.
    counts: Option<Box<[u64; BUCKETS]>>,
    sum_us: u64,
}

impl Histogram {
    /// Counts a request that took so many microseconds.
    #[inline]
    pub fn count(&mut self, us: u64) {
        let counts = self.counts.get_or_insert_with(|| Box::new([0; BUCKETS]));
        let at = BOUNDS_US.partition_point(|b| u64::from(*b) < us);
        counts[at] += 1;
        self.sum_us = self.sum_us.wrapping_add(us);
    }

    /// Adds what another one has counted.
    pub fn add(&mut self, other: &Histogram) {
        let Some(more) = &other.counts else { return };
        let counts = self.counts.get_or_insert_with(|| Box::new([0; BUCKETS]));
        counts.iter_mut().zip(more.iter()).for_each(|(a, b)| *a += b);
        self.sum_us = self.sum_us.wrapping_add(other.sum_us);
    }

    /// What was counted since an earlier state of this one. If `earlier` is of something else, which shows by
    /// counts that went down, this is everything that was counted.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let (Some(now), Some(then)) = (&self.counts, &earlier.counts) else { return self.clone() };
        if now.iter().zip(then.iter()).any(|(a, b)| a < b) {
            return self.clone();
        }
        let mut counts = now.clone();
        counts.iter_mut().zip(then.iter()).for_each(|(a, b)| *a -= b);
        Histogram { counts: Some(counts), sum_us: self.sum_us.wrapping_sub(earlier.sum_us) }
    }

    /// Number of requests that were counted.
    pub fn total(&self) -> u64 {
        self.counts.as_ref().map_or(0, |c| c.iter().sum())
    }

    /// Their durations together, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// Requests that took at most `us` microseconds, where `us` is one of [`BOUNDS_US`]; for another value, those of
    /// the buckets that lie wholly below it.
    pub fn at_most(&self, us: u32) -> u64 {
        let n = BOUNDS_US.partition_point(|b| *b <= us);
        self.counts.as_ref().map_or(0, |c| c[..n].iter().sum())
    }

    /// The duration in microseconds that this percentage of the requests did not exceed, interpolated within its
    /// bucket; none if nothing was counted. Beyond the last bound it is the last bound.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let counts = self.counts.as_ref()?;
        let total = self.total();
        let rank = (total * percent).div_ceil(100).clamp(1, total.max(1));
        let mut below = 0;
        for (i, n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            if below + n >= rank {
                let Some(upper) = BOUNDS_US.get(i) else { break };
                let lower = if i == 0 { 0 } else { BOUNDS_US[i - 1] };
                return Some(u64::from(lower) + u64::from(upper - lower) * (rank - below) / n);
            }
            below += n;
        }
        (total > 0).then(|| u64::from(BOUNDS_US[BOUNDS_LEN - 1]))
    }
}

/// A histogram for each kind of request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency([Histogram; Op::ALL.len()]);

impl Latency {
    /// The histogram of one kind.
    pub fn of(&self, op: Op) -> &Histogram {
        &self.0[op as usize]
    }

    /// Counts a request that took so many microseconds.
    #[inline]
    pub fn count(&mut self, op: Op, us: u64) {
        self.0[op as usize].count(us);
    }

    /// Adds what another one has counted.
    pub fn add(&mut self, other: &Latency) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| a.add(b));
    }

    /// Requests of all kinds.
    pub fn total(&self) -> u64 {
        self.0.iter().map(Histogram::total).sum()
    }
}

/// What is counted of one attachment, shared by its connections. When it is dropped, or asked to, it hands over what
/// it has to the reactor's sum of attachments that are over, so that the reactor's sum never goes down.
pub(crate) struct Recorder {
    counted: RefCell<Latency>,
    ended: Rc<RefCell<Latency>>,
}

impl Recorder {
    /// Nothing is counted yet; `ended` is the reactor's sum.
    pub fn new(ended: Rc<RefCell<Latency>>) -> Rc<Recorder> {
        Rc::new(Recorder { counted: RefCell::default(), ended })
    }

    /// Counts a request that took so many microseconds.
    #[inline]
    pub fn count(&self, op: Op, us: u64) {
        self.counted.borrow_mut().count(op, us);
    }

    /// A copy of what was counted and not handed over.
    pub fn counted(&self) -> Latency {
        self.counted.borrow().clone()
    }

    /// Hands over what was counted.
    pub fn hand_over(&self) {
        let counted = self.counted.take();
        self.ended.borrow_mut().add(&counted);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(durations: &[u64]) -> Histogram {
        let mut h = Histogram::default();
        durations.iter().for_each(|us| h.count(*us));
        h
    }

    #[test]
    fn bounds_ascend_by_at_most_a_third_and_end_at_ten_seconds() {
        assert_eq!((BOUNDS_US[0], BOUNDS_US[10], BOUNDS_US[BOUNDS_LEN - 1]), (10, 100, 10_000_000));
        for w in BOUNDS_US.windows(2) {
            assert!(w[0] < w[1] && w[1] * 3 <= w[0] * 4, "{w:?}");
        }
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let h = of(&[0, 10, 11, 50, 51, 10_000_000, 10_000_001, u64::from(u32::MAX) + 7]);
        assert_eq!((h.at_most(10), h.at_most(12), h.at_most(50), h.at_most(65)), (2, 3, 4, 5));
        assert_eq!((h.at_most(10_000_000), h.total()), (6, 8));
        assert_eq!(h.sum_us(), 10 + 11 + 50 + 51 + 10_000_000 + 10_000_001 + u64::from(u32::MAX) + 7);
        // No bound: only whole buckets below it count.
        assert_eq!(h.at_most(49), 3);
    }

    #[test]
    fn percentiles_lie_within_a_bucket_of_the_truth() {
        let all: Vec<u64> = (1..=10_000).map(|i| i * i / 50).collect();
        let h = of(&all);
        for p in [1, 10, 50, 90, 99, 100] {
            let truth = all[(all.len() * p as usize).div_ceil(100) - 1];
            let told = h.percentile(p).unwrap();
            assert!(told * 4 >= truth * 3 - 40 && told * 3 <= truth * 4 + 40, "p{p}: {told}, in truth {truth}");
        }
        assert_eq!(Histogram::default().percentile(50), None);
        assert_eq!(of(&[u64::MAX / 2]).percentile(99), Some(10_000_000));
        assert_eq!(of(&[200]).since(&of(&[200])).percentile(50), None);
    }

    #[test]
    fn a_difference_is_what_came_between_and_a_restart_counts_from_zero() {
        let (then, now) = (of(&[20, 300]), of(&[20, 300, 300, 7000]));
        let d = now.since(&then);
        assert_eq!((d.total(), d.sum_us(), d.at_most(300)), (2, 7300, 1));
        assert_eq!(then.since(&now), then);
        assert_eq!(now.since(&Histogram::default()), now);
        assert_eq!(now.since(&now).total(), 0);
    }

    #[test]
    fn kinds_are_counted_apart_and_the_sum_of_a_reactor_never_goes_down() {
        let ended: Rc<RefCell<Latency>> = Rc::default();
        let r = Recorder::new(ended.clone());
        r.count(Op::Read, 100);
        r.count(Op::Trim, 5);
        assert_eq!((r.counted().of(Op::Read).total(), r.counted().of(Op::Write).total()), (1, 0));
        r.hand_over();
        assert_eq!((r.counted().total(), ended.borrow().total()), (0, 2));
        // An answer that comes after its attachment is over is not lost.
        r.count(Op::Read, 100);
        drop(r);
        assert_eq!((ended.borrow().of(Op::Read).total(), ended.borrow().of(Op::Trim).total()), (2, 1));
    }
}

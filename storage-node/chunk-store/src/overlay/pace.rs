//! How many chunks are destaged at once: as many as the foreground does not notice, and at least as
//! many as the fill level demands.
//!
//! The driver reports how long each foreground operation (journal writes and reads) took on the
//! disk; the store has no clock. Their duration while nothing is destaged is the baseline. When
//! they take much longer beside destaging, the number of chunks destaged at once is halved, down to
//! one; otherwise it rises by one. The fill level sets a minimum: from half full, where a
//! checkpoint begins, to three quarters it rises from one to the maximum, so that destaging ends
//! before clients have to wait.

use hf_policy::invariant;

/// The kind of a foreground operation. Each kind has its own baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Group,
    Read,
}

/// How long one kind of operation takes, in microseconds: exponential averages.
#[derive(Clone, Copy, Debug, Default)]
struct Measure {
    calm: u64,
    busy: u64,
    /// True if it was measured since the last decision.
    seen: bool,
}

/// Latency increase ignored as noise, in microseconds.
const NEGLIGIBLE: u64 = 100;
/// Number of operations measured before each decision.
const SAMPLES: u32 = 8;

impl Measure {
    fn take(&mut self, us: u64, busy: bool) {
        let (average, weight) = if busy { (&mut self.busy, 4) } else { (&mut self.calm, 16) };
        *average = if *average == 0 { us } else { (*average * (weight - 1) + us) / weight };
        self.seen |= busy;
    }

    fn stretched(&self) -> bool {
        self.seen && self.calm > 0 && self.busy > self.calm * 3 / 2 + NEGLIGIBLE
    }
}

/// The number of chunks destaged at once.
#[derive(Debug)]
pub(crate) struct Pace {
    most: usize,
    allowed: usize,
    measures: [Measure; 2],
    samples: u32,
    /// Chunks destaged since the last foreground operation. A client that does one thing after
    /// another is absent at any one moment and present all the same.
    alone: usize,
}

impl Pace {
    pub(crate) fn new(most: usize) -> Pace {
        Pace { most: most.max(1), allowed: most.max(1), measures: [Measure::default(); 2], samples: 0, alone: most }
    }

    /// A foreground operation took `us` microseconds; `busy` says whether chunks were being
    /// destaged.
    pub(crate) fn took(&mut self, kind: Kind, us: u64, busy: bool) {
        self.measures[kind as usize].take(us, busy);
        self.alone = 0;
        if !busy {
            return;
        }
        self.samples += 1;
        if self.samples < SAMPLES {
            return;
        }
        self.samples = 0;
        self.allowed = if self.measures.iter().any(Measure::stretched) {
            (self.allowed / 2).max(1)
        } else {
            (self.allowed + 1).min(self.most)
        };
        self.measures.iter_mut().for_each(|m| m.seen = false);
    }

    /// A destage has ended.
    pub(crate) fn destaged(&mut self) {
        self.alone = self.alone.saturating_add(1);
    }

    /// How many chunks may be destaged at once now. `fill` is that of the journal or the overlay,
    /// whichever is fuller, in thousandths.
    pub(crate) fn limit(&self, fill: u64, foreground: bool) -> usize {
        if !foreground && self.alone >= self.most {
            return self.most;
        }
        let over = fill.saturating_sub(500).min(250) as usize;
        self.allowed.max(1 + (self.most - 1) * over / 250)
    }

    /// Verifies that the number is between one and the maximum.
    pub(crate) fn check(&self) {
        invariant!((1..=self.most).contains(&self.allowed), "{} of {} chunks at once", self.allowed, self.most);
        invariant!(self.samples < SAMPLES, "{} samples and no decision", self.samples);
    }

    /// How many chunks the foreground allows to be destaged at once.
    pub(crate) fn allowed(&self) -> usize {
        self.allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(p: &mut Pace, kind: Kind, us: u64, busy: bool, n: u32) {
        (0..n).for_each(|_| p.took(kind, us, busy));
    }

    #[test]
    fn the_foreground_slows_it_down_and_fill_forces_it() {
        let mut p = Pace::new(16);
        feed(&mut p, Kind::Group, 200, false, 50);
        feed(&mut p, Kind::Group, 250, true, 80);
        assert_eq!(p.limit(500, true), 16, "nobody notices");
        feed(&mut p, Kind::Group, 900, true, SAMPLES);
        assert_eq!(p.limit(500, true), 8);
        feed(&mut p, Kind::Group, 900, true, 10 * SAMPLES);
        assert_eq!(p.limit(500, true), 1, "slowed down, never stopped");
        assert_eq!((p.limit(625, true), p.limit(750, true), p.limit(1000, true)), (8, 16, 16));
        assert_eq!(p.limit(500, false), 1, "who was there a moment ago comes again");
        (0..16).for_each(|_| p.destaged());
        assert_eq!(p.limit(500, false), 16, "nobody is there to notice");
        assert_eq!(p.limit(500, true), 1);
        // It gets better: one more at a time.
        feed(&mut p, Kind::Group, 210, true, 3 * SAMPLES);
        assert_eq!(p.limit(500, true), 4);
    }

    #[test]
    fn reads_count_as_well_and_have_a_measure_of_their_own() {
        let mut p = Pace::new(16);
        feed(&mut p, Kind::Group, 3000, false, 50);
        feed(&mut p, Kind::Read, 100, false, 50);
        feed(&mut p, Kind::Group, 3000, true, SAMPLES);
        assert_eq!(p.limit(0, true), 16);
        feed(&mut p, Kind::Read, 1500, true, 2 * SAMPLES);
        assert!(p.limit(0, true) <= 8);
        // Nobody reads any more: what reads took is no reason any longer.
        feed(&mut p, Kind::Group, 3000, true, 20 * SAMPLES);
        assert_eq!(p.limit(0, true), 16);
    }

    #[test]
    fn without_a_measure_of_calm_nothing_is_slowed_down() {
        let mut p = Pace::new(16);
        feed(&mut p, Kind::Group, 9000, true, 100);
        assert_eq!(p.limit(0, true), 16);
    }
}

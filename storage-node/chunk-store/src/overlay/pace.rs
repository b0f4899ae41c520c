//! How many chunks are destaged at once: as many as the foreground does not notice, and at least as many as the fill demands.
//!
//! The host says how long each foreground operation took on the disk (journal groups and reads; the store itself has no clock).
//! What they take while nothing is destaged is the measure; when they take much longer beside destaging, fewer chunks are destaged
//! at once, down to one; when they do not, one more. Fill forces: from half full, where a checkpoint begins, to three quarters
//! the least number rises from one to all there are, so that a destage that was slowed always ends before clients have to wait.

use hf_policy::invariant;

/// A foreground operation's kind: each has its own measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Group,
    Read,
}

/// What one kind takes, microseconds: averages that follow slowly.
#[derive(Clone, Copy, Debug, Default)]
struct Measure {
    calm: u64,
    busy: u64,
    /// It was measured since the number was last decided on.
    seen: bool,
}

/// Below this nobody cares, microseconds.
const NEGLIGIBLE: u64 = 100;
/// So many operations are looked at before the number changes again.
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
    /// Chunks destaged since anybody in the foreground was last seen: one who does one thing after another is not there at each
    /// moment, and is there all the same.
    alone: usize,
}

impl Pace {
    pub(crate) fn new(most: usize) -> Pace {
        Pace { most: most.max(1), allowed: most.max(1), measures: [Measure::default(); 2], samples: 0, alone: most }
    }

    /// A foreground operation took so long; `busy`: beside destaging.
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

    /// A chunk is in place.
    pub(crate) fn destaged(&mut self) {
        self.alone = self.alone.saturating_add(1);
    }

    /// The number now. `fill` is in thousandths of the journal or the overlay, whichever is fuller.
    pub(crate) fn limit(&self, fill: u64, foreground: bool) -> usize {
        if !foreground && self.alone >= self.most {
            return self.most;
        }
        let over = fill.saturating_sub(500).min(250) as usize;
        self.allowed.max(1 + (self.most - 1) * over / 250)
    }

    /// Verifies that destaging is slowed down at most to one chunk at once, and never stopped.
    pub(crate) fn check(&self) {
        invariant!((1..=self.most).contains(&self.allowed), "{} of {} chunks at once", self.allowed, self.most);
        invariant!(self.samples < SAMPLES, "{} samples and no decision", self.samples);
    }

    /// The number that the foreground allows.
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

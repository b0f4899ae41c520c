//! When a coordinator wants to be stepped next although nothing happens: a table of deadlines, one
//! per reason.
//!
//! After every step the coordinator writes down the deadline of each reason anew, from its state,
//! so that no timer can outlive what it was for. The next deadline is the minimum and costs nothing
//! to ask for: a driver of many volumes keeps them ordered by it and steps only those that are due.
//! It says when, never what: the step looks at the state.

use hf_policy::{MS, Tick};

/// The grain of deadlines while something is outstanding, in microseconds: what is due meanwhile is
/// due together.
pub(super) const ROUND: u64 = 20 * MS;

/// A reason to be stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// A take-over goes on: seals are repeated, the missing are dropped.
    TakeOver,
    /// Requests to members are repeated, or held against the member.
    Pending,
    /// Reads wait for a member's answer, or for leases.
    Reads,
    /// Refused writes are tried again.
    Again,
    /// Suspects are dropped, and a proposal without an answer is repeated.
    Suspects,
    /// Clients' requests wait for the record to say that the term is served.
    Queued,
    /// A sync is going on.
    Sync,
    /// A scrub is asked for.
    Scrub,
    /// Leases, or signs of life, are asked for.
    Leases,
    /// A member that failed to sync may be tried again.
    Retry,
}

const TIMERS: usize = Timer::Retry as usize + 1;

/// The deadlines of one coordinator.
pub(super) struct Timers {
    /// Before this moment nothing that is counted in rounds is looked at again.
    pub next_round: Tick,
    deadlines: [Option<Tick>; TIMERS],
}

impl Timers {
    /// No deadlines yet; the first round is at `now`.
    pub fn new(now: Tick) -> Timers {
        Timers { next_round: now, deadlines: [None; TIMERS] }
    }

    /// The deadline of this reason, or none; never before the next round.
    pub fn set(&mut self, timer: Timer, at: Option<Tick>) {
        self.deadlines[timer as usize] = at.map(|at| at.max(self.next_round));
    }

    /// This reason is due with the next round, if it is there at all.
    pub fn set_round(&mut self, timer: Timer, on: bool) {
        self.set(timer, on.then_some(self.next_round));
    }

    /// No deadline any more: the attachment is over.
    pub fn clear(&mut self) {
        self.deadlines = [None; TIMERS];
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Tick> {
        self.deadlines.iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_deadline_is_the_earliest_and_never_before_the_next_round() {
        let mut t = Timers::new(Tick(100));
        assert_eq!(t.next(), None);
        t.set(Timer::Leases, Some(Tick(500)));
        t.set(Timer::Retry, Some(Tick(300)));
        assert_eq!(t.next(), Some(Tick(300)));
        t.set(Timer::Retry, Some(Tick(20)));
        assert_eq!(t.next(), Some(Tick(100)));
        t.set_round(Timer::Retry, false);
        assert_eq!(t.next(), Some(Tick(500)));
        t.clear();
        assert_eq!(t.next(), None);
    }
}

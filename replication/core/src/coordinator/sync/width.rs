//! How many bytes of copying may be in flight at once: as many as are answered soon.
//!
//! Everything that is in flight waits in the same queues as clients' writes, and what is not
//! answered in time is taken for lost. So the width begins small, grows by what is answered as soon
//! as anything ever was (it doubles in every round trip, as in TCP's slow start, RFC 5681 §3.1;
//! that a longer time than the least one tells of a queue is the idea of TCP Vegas), and halves
//! when answers take long: down to what keeps a slow disk busy, and below that only when a request
//! is about to be repeated. A link is too narrow only if it does not carry the least width within
//! the replica's timeout.
//!
//! It does not decide how fast copying goes: that is `pace.rs`.

use hf_policy::{Tick, invariant};

/// The width at the beginning of an attachment, in bytes.
const FIRST: u64 = 32 << 10;
/// The least width, in bytes.
const LEAST: u64 = 16 << 10;
/// The width that keeps a disk busy whose every answer takes long, in bytes.
const DISK: u64 = 128 << 10;
/// The greatest width, in bytes.
const MOST: u64 = 4 << 20;

/// The width of one shard's copying. It outlives an attempt: the next one begins with what was learned.
pub(in crate::coordinator) struct Width {
    /// From [`LEAST`] to [`MOST`].
    bytes: u64,
    /// The shortest time that an answer took, in microseconds, since something was late.
    least: u64,
    /// What was sent before this moment says nothing about the width since.
    narrowed: Tick,
}

impl Default for Width {
    fn default() -> Self {
        Width { bytes: FIRST, least: u64::MAX, narrowed: Tick(0) }
    }
}

impl Width {
    /// What must hold of it between steps.
    pub fn check(&self) -> Result<(), String> {
        let bounded = (LEAST..=MOST).contains(&self.bytes);
        if bounded { Ok(()) } else { Err(format!("a width of {} bytes", self.bytes)) }
    }

    /// Bytes that may be in flight now.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `bytes` of `of` in flight, sent at `sent`, were answered; `timeout` is the replica's, in
    /// microseconds.
    pub fn answered(&mut self, now: Tick, sent: Tick, bytes: u64, of: u64, timeout: u64) {
        invariant!(sent <= now, "an answer came before its question");
        if sent < self.narrowed {
            return; // It tells of the width before.
        }
        let took = now.since(sent);
        self.least = self.least.min(took);
        let queued = took - self.least;
        if took >= timeout / 2 {
            self.narrow(now, self.bytes / 2);
        } else if queued >= timeout / 4 && self.bytes > DISK {
            self.narrow(now, (self.bytes / 2).max(DISK));
        } else if of >= self.bytes / 2 && (queued <= timeout / 10 || self.bytes < DISK && took < timeout / 4) {
            self.bytes = (self.bytes + bytes).min(MOST);
        }
        invariant!(self.bytes >= LEAST, "a width of {} bytes", self.bytes);
    }

    /// A request that was sent at `sent` was not answered in time.
    pub fn failed(&mut self, now: Tick, sent: Tick) {
        if sent >= self.narrowed {
            self.narrow(now, self.bytes / 4);
            self.least = u64::MAX;
        }
    }

    fn narrow(&mut self, now: Tick, bytes: u64) {
        self.bytes = bytes.max(LEAST);
        self.narrowed = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hf_policy::MS;

    const TIMEOUT: u64 = 1_000 * MS;

    #[test]
    fn it_doubles_in_every_round_trip_that_is_used_however_long_the_way() {
        for way in [MS, 120 * MS, 400 * MS] {
            let mut w = Width::default();
            let mut now = Tick(1_000_000);
            for round in 1..=10 {
                let of = w.bytes();
                (0..of / LEAST).for_each(|_| w.answered(now.plus(way), now, LEAST, of, TIMEOUT));
                assert_eq!(w.bytes(), (FIRST << round).min(MOST));
                now = now.plus(way + MS);
            }
        }
        // Little on the way proves little.
        let mut w = Width::default();
        (0..100).for_each(|_| w.answered(Tick(2_000), Tick(1_000), 4096, 4096, TIMEOUT));
        assert_eq!(w.bytes(), FIRST);
    }

    #[test]
    fn slow_answers_narrow_it_once_each_round_trip_and_a_slow_disk_only_so_far() {
        let mut w = Width { bytes: 5 * DISK / 4, ..Width::default() };
        let mut now = Tick(1_000_000);
        w.answered(now.plus(MS), now, 0, MOST, TIMEOUT);
        for _ in 0..20 {
            (0..8).for_each(|_| w.answered(now.plus(TIMEOUT / 3), now, LEAST, MOST, TIMEOUT));
            now = now.plus(TIMEOUT / 3 + MS);
        }
        assert_eq!(w.bytes(), DISK);
        // It gets there from below, too, if answers take long but not very long.
        w.narrow(now, LEAST);
        for _ in 0..20 {
            w.answered(now.plus(TIMEOUT / 5), now, LEAST, MOST, TIMEOUT);
        }
        assert_eq!(w.bytes(), DISK);
        w.answered(now.plus(TIMEOUT / 2), now, LEAST, DISK, TIMEOUT);
        assert_eq!(w.bytes(), DISK / 2);
    }

    #[test]
    fn many_that_are_late_at_once_are_one_failure() {
        let mut w = Width { bytes: MOST, ..Width::default() };
        let (sent, now) = (Tick(1_000_000), Tick(3_000_000));
        (0..9).for_each(|i| w.failed(now.plus(i), sent));
        assert_eq!(w.bytes(), MOST / 4);
        w.failed(now.plus(10 * MS), now.plus(MS));
        assert_eq!(w.bytes(), MOST / 16);
    }
}

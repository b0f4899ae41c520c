//! How many bytes of one kind may be in flight over a link: as many as keep it busy, and little more.
//!
//! Bytes beyond that wait in a queue of the network, where they delay everybody and can neither be
//! taken back nor overtaken by something more urgent. The window grows while answers come as soon
//! as they ever did (it doubles in a round trip, as TCP's slow start, RFC 5681 §3.1). When answers
//! are later than the shortest round trip by more than the slack, it becomes what the link was
//! measured to carry in that round trip plus the slack. The idea that a longer round trip tells of
//! a queue is TCP Vegas'; that of a measured rate, and of emptying the queue now and then to see
//! the true round trip again, is BBR's.
//!
//! It promises: never below the floor; one decrease per round trip. It does not decide who sends next.

use hf_policy::{MS, Tick, invariant};

/// Upper bound of any window, in bytes: more than 10 Gbit/s carry in 40 ms.
const MOST: u64 = 64 << 20;
/// When no answer has been as fast as the shortest round trip for this long, that one is measured
/// again, in microseconds.
const STALE: u64 = 10_000 * MS;

/// What one answer tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When the bytes were sent whose arrival is known now.
    pub sent: Tick,
    /// Bytes of which this answer is the first to tell.
    pub acked: u64,
    /// Bytes that arrived between `sent` and now.
    pub delivered: u64,
    /// Something waited for the window meanwhile.
    pub limited: bool,
    /// No more than the floor was in flight when they were sent.
    pub alone: bool,
}

/// The window of one direction of one link.
#[derive(Debug)]
pub(super) struct Window {
    /// From `floor` to [`MOST`].
    bytes: u64,
    floor: u64,
    /// A queue of this length, in microseconds of the link's time, is tolerated.
    slack: u64,
    /// The shortest round trip, in microseconds; `u64::MAX` before the first.
    least: u64,
    /// When a round trip was last as short as that.
    least_at: Tick,
    /// Samples of what was sent before tell nothing about the window since.
    cut_at: Tick,
    /// The shortest round trip is being measured again, since then.
    probe: Option<Tick>,
}

impl Window {
    /// A window that begins with `first` bytes.
    pub fn new(now: Tick, first: u64, floor: u64, slack: u64) -> Window {
        Window { bytes: first.max(floor), floor, slack, least: u64::MAX, least_at: now, cut_at: now, probe: None }
    }

    /// Bytes that may be in flight now.
    pub fn bytes(&self) -> u64 {
        if self.probe.is_some() { self.floor } else { self.bytes }
    }

    /// Takes what an answer tells.
    pub fn sample(&mut self, now: Tick, s: Sample) {
        invariant!(s.sent <= now, "an answer came before its question");
        let took = now.since(s.sent).max(1);
        let probed = self.probe.is_some_and(|since| s.sent >= since && s.alone);
        if probed || took <= self.least.saturating_add(self.slack / 8) {
            self.least = if probed { took } else { self.least.min(took) };
            self.least_at = now;
            self.probe = None;
        } else if self.probe.is_none() && now.since(self.least_at) >= STALE {
            self.probe = Some(now);
        }
        let queued = took.saturating_sub(self.least);
        if queued > 2 * self.slack {
            if s.sent >= self.cut_at {
                let carried = u128::from(s.delivered) * u128::from(self.least + self.slack) / u128::from(took);
                self.bytes = u64::try_from(carried).unwrap_or(MOST).min(self.bytes).max(self.floor);
                self.cut_at = now;
            }
        } else if queued <= self.slack && s.limited {
            self.bytes = (self.bytes + s.acked).min(MOST);
        }
        invariant!((self.floor..=MOST).contains(&self.bytes), "a window of {} bytes", self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: u64 = 32 << 10;
    const SLACK: u64 = 40 * MS;

    /// Runs a link of `rate` bytes a second and `way` microseconds of round trip, always full, for
    /// `secs` seconds. Answers the window in the end, the bytes carried in the last second and the
    /// longest queue then, in us.
    fn full_link(rate: u64, way: u64, secs: u64) -> (u64, u64, u64) {
        let mut w = Window::new(Tick(0), 64 << 10, FLOOR, SLACK);
        let mut flying = std::collections::VecDeque::new();
        let (mut free, mut flight, mut acked, mut last, mut longest) = (0u64, 0u64, 0u64, 0u64, 0u64);
        let mut now = 0u64;
        while now < secs * 1_000_000 {
            while flight < w.bytes() {
                let piece = (w.bytes() / 4).clamp(8 << 10, 1 << 20);
                free = free.max(now) + (piece * 1_000_000 / rate).max(1);
                flying.push_back((free + way, now, piece, acked, flight <= FLOOR));
                flight += piece;
            }
            let Some((due, sent, piece, then, alone)) = flying.pop_front() else { break };
            now = due;
            flight -= piece;
            acked += piece;
            if now > (secs - 1) * 1_000_000 {
                last += piece;
                longest = longest.max(now - sent - way);
            }
            w.sample(
                Tick(now),
                Sample { sent: Tick(sent), acked: piece, delivered: acked - then, limited: true, alone },
            );
        }
        (w.bytes(), last, longest)
    }

    #[test]
    fn it_fills_any_link_and_keeps_the_queue_short() {
        for (rate, floor) in [(125_000, true), (25_000_000, false), (1_250_000_000, false)] {
            for way in [0, 2 * MS, 40 * MS] {
                let (window, last, longest) = full_link(rate, way, 25);
                assert!(last >= rate * 96 / 100, "{rate} B/s, {way} us: {last} carried in a second");
                let bound = if floor { 500 * MS } else { 4 * SLACK };
                assert!(longest <= bound, "{rate} B/s, {way} us: a queue of {longest} us at {window} bytes");
            }
        }
    }

    #[test]
    fn a_longer_way_is_noticed_and_no_queue_forever() {
        let mut w = Window { least: MS, ..Window::new(Tick(0), 1 << 20, FLOOR, SLACK) };
        // The way is 200 ms now; the window shrinks, then the way is measured anew and it grows again.
        let mut now = Tick(1_000_000);
        for _ in 0..200 {
            let sent = now;
            now = now.plus(200 * MS);
            let alone = w.bytes() <= FLOOR;
            w.sample(now, Sample { sent, acked: w.bytes(), delivered: w.bytes(), limited: true, alone });
        }
        assert_eq!(w.bytes(), MOST, "least {} us", w.least);
    }

    #[test]
    fn what_did_not_need_the_window_does_not_change_it() {
        let mut w = Window::new(Tick(0), 64 << 10, FLOOR, SLACK);
        for i in 0..100 {
            let sent = Tick(i * 1_000);
            w.sample(sent.plus(500), Sample { sent, acked: 4096, delivered: 4096, limited: false, alone: true });
        }
        assert_eq!(w.bytes(), 64 << 10);
    }
}

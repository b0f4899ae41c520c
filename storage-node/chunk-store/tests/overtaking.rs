//! Operations that are in flight together: no older one wins over a newer one, whatever their kinds
//! (C3).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::order::{self, Act, Bench, Kind};
use hf_policy::Ver;
use proptest::prelude::*;

fn act(kind: Kind, start: u64, len: u32, seq: u64) -> Act {
    Act { kind, start, len, ver: Ver::new(1, seq) }
}

/// Submits all of them, then completes what began last first.
fn last_first(acts: &[Act]) {
    let mut b = Bench::new();
    b.submit(act(Kind::Checkpoint, 0, 0, 0));
    b.finish(|_| 0);
    acts.iter().for_each(|a| b.submit(*a));
    b.finish(|n| n - 1);
    b.check(&format!("{acts:?}"));
}

#[test]
fn a_direct_write_in_flight_does_not_win_over_a_newer_small_one() {
    last_first(&[act(Kind::Write, 0, 16, 9005), act(Kind::Write, 3, 1, 9006)]);
}

#[test]
fn a_direct_write_in_flight_does_not_win_over_a_newer_zero() {
    last_first(&[act(Kind::Write, 0, 16, 9005), act(Kind::Zero, 0, 256, 9006)]);
    last_first(&[act(Kind::Write, 256, 16, 9005), act(Kind::Zero, 0, 512, 9006)]);
}

#[test]
fn a_direct_write_in_flight_does_not_win_over_a_newer_direct_one() {
    last_first(&[act(Kind::Write, 0, 32, 9005), act(Kind::Write, 16, 16, 9006)]);
}

#[test]
fn a_zero_in_flight_is_known_to_every_chunk_it_covers() {
    last_first(&[act(Kind::Zero, 0, 512, 9010), act(Kind::Write, 256, 1, 9005), act(Kind::Write, 0, 1, 9006)]);
    last_first(&[act(Kind::Zero, 0, 512, 9010), act(Kind::Copy, 256, 1, 9005)]);
}

#[test]
fn of_any_two_operations_in_flight_the_newer_wins() {
    order::every_pair_in_flight();
}

proptest! {
    // (A failure names its seed and its operations; nothing is kept in files.)
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_all_operations_in_flight_the_newest_wins(seed in any::<u64>(), acts in 2..14usize) {
        order::all_in_flight(seed, acts, false);
    }

    /// Copies that go back to an older term's version apply in the order of submission, like
    /// everything in their chunk.
    #[test]
    fn a_copy_that_goes_back_meets_what_was_submitted_before_it(seed in any::<u64>(), acts in 2..14usize) {
        order::all_in_flight(seed, acts, true);
    }
}

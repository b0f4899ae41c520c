//! Each rule of the store's order and space is broken once, and a test must notice. A mutant that
//! nobody notices means that the rule is not tested, or not needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::{order, rewritten, room};
use hf_store::mutant::{self, Mutant};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The scenario that must fail while the rule is broken. (That it passes while none is, its own
/// test says.)
const CAUGHT_BY: &[(Mutant, fn())] = &[
    (Mutant::DirectOvertaken, order::every_pair_in_flight),
    (Mutant::ZeroOfFirstChunk, order::every_pair_in_flight),
    (Mutant::DirectOvertaken, random_acts),
    (Mutant::ZeroOfFirstChunk, random_acts),
    (Mutant::RewrittenIsBad, rewritten::a_read_that_meets_rewrites_is_no_bad_block),
    (Mutant::SlotsAreUnits, room::an_empty_disk_takes_requests_of_every_size),
    (Mutant::SlotsAreUnits, room::entries_that_run_low_are_counted_as_entries),
    (Mutant::PartsAreNoRoom, room::parts_of_chunks_that_were_zeroed_are_room),
    (Mutant::SlowNeverWaits, room::slow_operations_wait_for_space),
    (Mutant::FreesHeldUnits, room::a_unit_stays_while_a_write_to_it_is_in_flight),
];

fn random_acts() {
    (0..200).for_each(|seed| order::all_in_flight(seed, 8, seed % 2 == 1));
}

#[test]
fn every_broken_rule_is_noticed() {
    std::panic::set_hook(Box::new(|_| {}));
    for (m, scenario) in CAUGHT_BY {
        mutant::set(Some(*m));
        let noticed = catch_unwind(AssertUnwindSafe(scenario)).is_err();
        mutant::set(None);
        assert!(noticed, "{m:?} was not noticed");
    }
}

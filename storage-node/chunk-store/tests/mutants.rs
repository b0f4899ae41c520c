//! Each rule of the store that can be broken on purpose is broken once, and a test must notice.
//! `cargo test -p hf-store --features mutants --test all mutants::every_broken_rule`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::{crash, entries, hostile, lost_pages};
use hf_policy::broken;
use hf_store::mutant::{self, ALL, Mutant};

/// The tests that notice each: the first alone is enough, the others are there to be tried by
/// whoever breaks a rule.
fn watchers(m: Mutant) -> &'static [fn()] {
    match m {
        Mutant::AnySaltWillDo => &[hostile::a_disk_of_version_1_gets_a_salt_when_it_is_opened],
        Mutant::PayloadUnmasked => &[hostile::headers_from_a_disks_own_future_are_payload],
        Mutant::EntryReusedEarly => {
            &[entries::a_new_replica_has_nothing_of_the_one_before_it, entries::replicas_that_come_and_go_never_mix]
        }
        Mutant::SlotReusedEarly => &[entries::a_slot_is_there_for_every_acknowledged_write_after_a_crash],
        Mutant::LostUnitsForgotten => &[
            lost_pages::a_deleted_replicas_units_come_back_though_its_page_is_lost,
            lost_pages::a_lost_page_on_a_full_disk_costs_no_acknowledged_write,
            lost_pages::lost_pages_on_a_full_disk_at_random,
        ],
        Mutant::UnreadableUnitsGiven => &[lost_pages::a_page_that_is_readable_again_still_has_its_units],
        Mutant::OpeningTrustsCaches => &[crash::what_a_replay_found_in_a_cache_survives_the_power_loss_after_it],
        Mutant::TableNamedEarly => &[entries::a_full_table_grows],
        Mutant::SpentPromiseCounts => &[crash::a_random_life_breaks_no_invariant],
        // Rules of order and space: tests/order_mutants.rs.
        Mutant::DirectOvertaken
        | Mutant::ZeroOfFirstChunk
        | Mutant::RewrittenIsBad
        | Mutant::SlotsAreUnits
        | Mutant::PartsAreNoRoom
        | Mutant::SlowNeverWaits
        | Mutant::FreesHeldUnits => &[],
    }
}

#[test]
fn every_broken_rule_of_the_store_is_noticed() {
    std::panic::set_hook(Box::new(|_| {}));
    let missed: Vec<String> = ALL
        .iter()
        .flat_map(|m| watchers(*m).iter().enumerate().map(move |(i, test)| (*m, i, *test)))
        .filter_map(|(m, i, test)| {
            mutant::set(Some(m));
            let noticed = std::panic::catch_unwind(test).is_err();
            mutant::set(None);
            println!("{m:?} {i}: {}", if noticed { "noticed" } else { "NOT NOTICED" });
            (!noticed).then(|| format!("{m:?} by test {i}"))
        })
        .collect();
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

/// As a release build does it: what is broken is told and nothing panics; all data is as it should
/// be, and no other test could have noticed.
#[test]
fn a_broken_invariant_is_told_though_no_data_is_wrong() {
    let life = |m| {
        mutant::set(m);
        let told = broken::kept(|| (crash::a_random_life(77), broken::take()).1);
        mutant::set(None);
        told
    };
    assert_eq!(life(None), None);
    let told = life(Some(Mutant::SpentPromiseCounts)).expect("nothing was told");
    assert!(told.contains("units are promised, not"), "{told}");
}

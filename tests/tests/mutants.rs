//! Each rule of the protocol is broken once, and the simulator must notice. A mutant that nobody notices means that the rule is
//! not tested, or not needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_meta_core::mutant::{self, ALL, Mutant};
use hf_tests::sim;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The first seed that notices, and how.
fn caught(m: Mutant, budget: u64) -> Option<(u64, String)> {
    mutant::set(Some(m));
    let found = (0..budget).find_map(|seed| match catch_unwind(AssertUnwindSafe(|| sim::run(seed, 12_000))) {
        Ok(Ok(_)) => None,
        Ok(Err(e)) => Some((seed, e)),
        Err(_) => Some((seed, "an assertion failed".into())),
    });
    mutant::set(None);
    found
}

#[test]
fn every_broken_rule_is_noticed() {
    let budget: u64 = std::env::var("HOLDFAST_MUTANT_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3_000);
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    let mut seeds = Vec::new();
    for m in ALL {
        match caught(*m, budget) {
            Some((seed, how)) => {
                println!("{m:?}: seed {seed}: {}", how.chars().take(100).collect::<String>());
                seeds.push(seed);
            }
            None => {
                println!("{m:?}: NOT NOTICED in {budget} seeds");
                missed.push(*m);
            }
        }
    }
    let _ = std::panic::take_hook();
    seeds.sort_unstable();
    println!(
        "mutants: {} of {} noticed, median seed {}, worst {}",
        seeds.len(),
        ALL.len(),
        seeds.get(seeds.len() / 2).unwrap_or(&0),
        seeds.last().unwrap_or(&0)
    );
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

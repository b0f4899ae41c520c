//! Volumes of several shards that grow under faults: seeds of a simulator of their own. With a
//! broken rule, some seed must fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::sim::growth::{Grown, run};

const STEPS: u64 = 6_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|s| s.parse().ok())
}

/// `HOLDFAST_GROWTH_SEEDS=n` runs seeds 0..n; `HOLDFAST_GROWTH_SEED=s` replays one.
#[test]
fn what_a_volume_has_stays_usable_while_it_grows_under_faults() {
    if let Some(seed) = number("HOLDFAST_GROWTH_SEED") {
        println!("seed {seed}: {:?}", run(seed, STEPS));
        return;
    }
    let seeds = number("HOLDFAST_GROWTH_SEEDS").unwrap_or(400);
    let mut total = Grown::default();
    for seed in 0..seeds {
        let g = run(seed, STEPS).unwrap_or_else(|e| {
            panic!("seed {seed}: {e}\nreplay: HOLDFAST_GROWTH_SEED={seed} cargo test -p hf-tests --test pure growth")
        });
        total.growths += g.growths;
        total.crashes += g.crashes;
        total.lost_disks += g.lost_disks;
        total.replaced += g.replaced;
        total.together += g.together;
        total.attaches += g.attaches;
        total.detaches += g.detaches;
        total.acked += g.acked;
        total.reads += g.reads;
    }
    println!("seeds 0..{seeds}: {total:?}");
    let all = [total.growths, total.crashes, total.lost_disks, total.replaced, total.together, total.detaches];
    assert!(seeds < 100 || all.iter().all(|n| *n > 0) && total.acked > seeds * 10, "{total:?}");
}

#[cfg(feature = "mutants")]
#[test]
fn a_broken_rule_of_growth_is_noticed() {
    use hf_meta_core::mutant::{self, GROWTH};
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for m in GROWTH {
        mutant::set(Some(*m));
        let bad = |seed: &u64| !matches!(std::panic::catch_unwind(|| run(*seed, STEPS)), Ok(Ok(_)));
        let found = (0..400).find(bad);
        mutant::set(None);
        println!("{m:?}: seed {found:?}");
        missed.extend(found.is_none().then_some(*m));
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

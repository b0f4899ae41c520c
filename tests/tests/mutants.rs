//! Each rule of the protocol is broken once, and the simulator must notice. A mutant that nobody
//! notices means that the rule is not tested, or not needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_meta_core::mutant::{self, ALL, GROWTH, Mutant, OF_LINKS, RECORD};
use hf_tests::sim::{self, Metadata, Stores};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Over real members, without changes of the replica set.
const STILL: [&str; 5] = ["holds", "changes", "chunks", "forces", "detach"];

/// Seeds that catch the rarer mutants, and the faults that they run without. They are tried first,
/// so that the search is short as long as they hold.
const HINTS: &[(Mutant, Metadata, u64, &[&str])] = &[
    (Mutant::SyncForgetsZeroesOfNothing, Metadata::StandIn, 5097, &["chunks", "forces", "detach"]),
    (Mutant::OneNotesForAll, Metadata::Raft, 8922, &STILL),
    (Mutant::SyncTrustsBase, Metadata::Raft, 29863, &STILL),
    (Mutant::IgnoreStoreUuid, Metadata::Raft, 6663, &STILL),
    (Mutant::JoinEarly, Metadata::StandIn, 7816, &[]),
    (Mutant::ServeBeforeCopied, Metadata::StandIn, 1185, &[]),
    (Mutant::StrictBelievesLeases, Metadata::StandIn, 3948, &[]),
    (Mutant::JoinCountsLate, Metadata::StandIn, 3826, &[]),
    (Mutant::SyncListsEarly, Metadata::StandIn, 3500, &[]),
    (Mutant::ForceKeepsBase, Metadata::StandIn, 4323, &[]),
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|s| s.parse().ok())
}

/// The first seed that notices, and how; other seeds than the known ones run without the faults in `off`.
fn caught(m: Mutant, meta: Metadata, budget: u64, off: &[&str]) -> Option<(u64, String)> {
    mutant::set(Some(m));
    let hint = HINTS.iter().filter(|(h, ..)| *h == m).map(|(_, meta, seed, off)| (*meta, *seed, *off));
    let from = number("HOLDFAST_MUTANT_FROM").unwrap_or(0);
    let found = hint.chain((from..from + budget).map(|seed| (meta, seed, off))).find_map(|(meta, seed, off)| {
        let off: Vec<String> = off.iter().map(|o| o.to_string()).collect();
        let run = || sim::run_on(meta, seed, 12_000, Stores::Model, &off);
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(_)) => None,
            Ok(Err(e)) => Some((seed, e)),
            Err(_) => Some((seed, "an assertion failed".into())),
        }
    });
    mutant::set(None);
    found
}

/// `HOLDFAST_MUTANT_SEEDS=n`: each gets n seeds. `HOLDFAST_MUTANT_FROM=s`: from seed s on.
/// `HOLDFAST_MUTANT=Name`: only that one. `HOLDFAST_SIM_OFF=fault,fault`: without these.
/// `HOLDFAST_MUTANT_RAFT=1`: over real raft-rs members.
#[test]
fn every_broken_rule_is_noticed() {
    let budget = number("HOLDFAST_MUTANT_SEEDS").unwrap_or(12_000);
    let only = std::env::var("HOLDFAST_MUTANT").ok();
    let chosen: Vec<Mutant> = ALL
        .iter()
        .copied()
        // One shard, as here, does not show them; other tests do.
        .filter(|m| !OF_LINKS.contains(m) && !GROWTH.contains(m) && !RECORD.contains(m))
        .filter(|m| only.as_ref().is_none_or(|o| o.split(',').any(|o| format!("{m:?}") == o)))
        .collect();
    let off = std::env::var("HOLDFAST_SIM_OFF").unwrap_or_default();
    let off: Vec<&str> = off.split(',').filter(|f| !f.is_empty()).collect();
    let raft = std::env::var_os("HOLDFAST_MUTANT_RAFT").is_some();
    let meta = if raft { Metadata::Raft } else { Metadata::StandIn };
    std::panic::set_hook(Box::new(|_| {}));
    let queue = Mutex::new(chosen.clone().into_iter());
    let (missed, seeds) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let Some(m) = queue.lock().unwrap().next() else { return };
                    match caught(m, meta, budget, &off) {
                        Some((seed, how)) => {
                            println!("{m:?}: seed {seed}: {}", how.chars().take(100).collect::<String>());
                            seeds.lock().unwrap().push(seed);
                        }
                        None => {
                            println!("{m:?}: NOT NOTICED in {budget} seeds");
                            missed.lock().unwrap().push(m);
                        }
                    }
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    let (missed, mut seeds) = (missed.into_inner().unwrap(), seeds.into_inner().unwrap());
    seeds.sort_unstable();
    println!(
        "mutants: {} of {} noticed, median seed {}, worst {}",
        seeds.len(),
        chosen.len(),
        seeds.get(seeds.len() / 2).unwrap_or(&0),
        seeds.last().unwrap_or(&0)
    );
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

//! The protocol under loss, duplication, reordering, crashes, partitions and take-overs: 20,000
//! seeds over a model of the store, and some thousand over the real chunk store on simulated disks,
//! with power loss and failing writes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::sim::{LATER, Metadata, Outcome, Stores, run_on, run_without};

/// Faults to leave out.
fn off() -> Vec<String> {
    let names = std::env::var("HOLDFAST_SIM_OFF").unwrap_or_default();
    names.split(',').filter(|n| !n.is_empty()).map(String::from).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|s| s.parse().ok())
}

/// A seed that failed once, and the faults that did not exist yet then.
type Pinned = (u64, &'static [&'static str]);

/// The faults that were added last.
const NEW: [&str; 5] = ["unrecorded", "holds", "chunks", "forces", "detach"];

/// ... over real members, whose replica set did not change either.
const GROUP: [&str; 6] = ["unrecorded", "holds", "changes", "chunks", "forces", "detach"];

/// Seeds from before any of the later faults existed.
const fn old(seed: u64) -> Pinned {
    (seed, LATER)
}

/// Seeds from before reads could be strict, and syncs be refused.
const fn lenient(seed: u64) -> Pinned {
    (seed, &["strict", "busy", "pages", "copies", "unrecorded", "holds", "chunks", "forces", "detach"])
}

/// Runs seeds 0..n and every pinned one, on all cores. With `name` set in the environment it
/// replays that single seed and prints its outcome.
fn judge(meta: Metadata, stores: Stores, name: &str, pinned: &[Pinned], default: u64) -> Option<(u64, Outcome)> {
    if let Some(seed) = number(name) {
        println!("seed {seed}: {:?}", run_on(meta, seed, 12_000, stores, &off()));
        return None;
    }
    for (seed, without) in pinned {
        let without: Vec<String> = without.iter().map(|w| w.to_string()).collect();
        run_on(meta, *seed, 12_000, stores, &without).unwrap_or_else(|e| panic!("seed {seed} {without:?}: {e}"));
    }
    let seeds = number(&format!("{name}S")).unwrap_or(default);
    let (off, threads) = (off(), std::thread::available_parallelism().map_or(1, |n| n.get() as u64));
    let part = |first: u64| {
        let mut total = Outcome::default();
        for seed in (first..seeds).step_by(threads as usize) {
            // (An assertion's own words are above it.)
            let run = || run_on(meta, seed, 12_000, stores, &off);
            let replay = || format!("replay: {name}={seed} cargo test -p hf-tests --test pure sim");
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                Ok(Ok(o)) => total.add(&o),
                Ok(Err(e)) => panic!("seed {seed}: {e}\n{}", replay()),
                Err(_) => panic!("seed {seed}: an assertion failed\n{}", replay()),
            }
        }
        total
    };
    let total = std::thread::scope(|s| {
        let part = &part;
        let parts: Vec<_> = (0..threads).map(|t| s.spawn(move || part(t))).collect();
        parts.into_iter().fold(Outcome::default(), |mut all, p| {
            all.add(&p.join().unwrap());
            all
        })
    });
    println!("seeds 0..{seeds}, {stores:?} stores, {meta:?}: {total:?}");
    let changed =
        [total.adds, total.newcomers, total.leaves, total.removes, total.moves, total.deletions, total.drains];
    let asked =
        [total.policies, total.resumed, total.jumps, total.unaligned, total.flushes, total.chunks, total.forced];
    let ended = [total.stops, total.held_stops, total.detaches];
    let changed = if meta == Metadata::Raft { &[][..] } else { &changed };
    assert!(
        !off.is_empty() || changed.iter().chain(&asked).chain(&ended).all(|n| *n > 0),
        "something never happened: {total:?}"
    );
    assert!(total.acked_writes > seeds * 10 && total.drops > seeds / 4 && total.attaches > seeds, "{total:?}");
    Some((seeds, total))
}

const PINNED: [Pinned; 21] = [
    old(116),
    old(359),
    old(1095),
    old(1757),
    old(2621),
    old(5327),
    old(8476),
    old(11891),
    old(12707),
    lenient(12),
    lenient(3228),
    lenient(3357),
    lenient(5192),
    (1282, &["copies", "unrecorded", "holds", "chunks", "forces", "detach"]),
    (191, &NEW),
    (3811, &NEW),
    (15962, &NEW),
    (12469, &NEW),
    (163, &NEW),
    (2606, &["chunks", "forces", "detach"]),
    (41367, &["detach"]),
];
const PINNED_GROUP: [Pinned; 10] = [
    (290, &GROUP),
    (3021, &GROUP),
    (906, &GROUP),
    (1556, &GROUP),
    (4041, &GROUP),
    (1407, &GROUP),
    (2636, &GROUP),
    (1205, &["chunks", "forces", "detach"]),
    (1562, &["chunks", "forces", "detach"]),
    (1809, &["chunks", "forces", "detach"]),
];
const PINNED_REAL: [Pinned; 7] = [(12, &NEW), (108, &NEW), old(253), old(418), old(1812), lenient(99), lenient(1054)];

/// `HOLDFAST_SIM_SEEDS=n` runs seeds 0..n; `HOLDFAST_SIM_SEED=s` replays one.
#[test]
fn histories_stay_linearizable_and_the_volume_stays_alive() {
    judge(Metadata::StandIn, Stores::Model, "HOLDFAST_SIM_SEED", &PINNED, 20_000);
}

/// `HOLDFAST_REAL_SEEDS=n` runs seeds 0..n; `HOLDFAST_REAL_SEED=s` replays one.
#[test]
fn the_same_over_the_real_chunk_store_on_disks_that_lose_power_fail_and_rot() {
    let Some((seeds, total)) = judge(Metadata::StandIn, Stores::Real, "HOLDFAST_REAL_SEED", &PINNED_REAL, 1_500) else {
        return;
    };
    assert!(total.failed_disks > seeds / 8 && total.rots > seeds / 8 && total.full > 0, "{total:?}");
}

/// The second configuration: real raft-rs members on the simulated nodes. `HOLDFAST_GROUP_SEEDS=n`,
/// `HOLDFAST_GROUP_SEED=s`.
#[test]
fn the_same_over_real_raft_members_that_crash_and_are_cut_off_with_their_nodes() {
    let run = judge(Metadata::Raft, Stores::Model, "HOLDFAST_GROUP_SEED", &PINNED_GROUP, 3_000);
    let Some((seeds, total)) = run else { return };
    // Leaders change in the middle of things.
    assert!(total.elections > 2 * seeds, "{total:?}");
    // And so does the replica set.
    assert!(total.adds > seeds / 8 && total.deletions > seeds / 8 && total.moves > 0 && total.drains > 0, "{total:?}");
}

/// A failure that cannot be repeated cannot be debugged.
#[test]
fn a_seed_is_the_same_run_every_time() {
    for (stores, seed) in [(Stores::Model, 7), (Stores::Model, 8), (Stores::Real, 7), (Stores::Real, 8)] {
        let raft = || format!("{:?}", run_on(Metadata::Raft, seed, 12_000, stores, &[]));
        assert_eq!(raft(), raft(), "seed {seed} over real members");
        let run = || format!("{:?}", run_without(seed, 12_000, stores, &[]));
        assert_eq!(run(), run(), "seed {seed}");
    }
}

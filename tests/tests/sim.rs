//! The protocol under loss, duplication, reordering, crashes, partitions and take-overs: at least 2,000 seeds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::sim::{run, run_without};

/// Faults to leave out.
fn off() -> Vec<String> {
    let names = std::env::var("HOLDFAST_SIM_OFF").unwrap_or_default();
    names.split(',').filter(|n| !n.is_empty()).map(String::from).collect()
}

/// `HOLDFAST_SIM_SEEDS=n` runs seeds 0..n; `HOLDFAST_SIM_SEED=s` replays one.
#[test]
fn histories_stay_linearizable_and_the_volume_stays_alive() {
    if let Some(seed) = std::env::var("HOLDFAST_SIM_SEED").ok().and_then(|s| s.parse().ok()) {
        println!("seed {seed}: {:?}", run_without(seed, 12_000, &off()));
        return;
    }
    // Every seed that ever failed.
    for seed in [116, 1095, 1757, 2621, 5327] {
        run(seed, 12_000).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
    let seeds: u64 = std::env::var("HOLDFAST_SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2500);
    let mut total = hf_tests::sim::Outcome::default();
    let off = off();
    for seed in 0..seeds {
        match run_without(seed, 12_000, &off) {
            Ok(o) => {
                total.acked_writes += o.acked_writes;
                total.reads += o.reads;
                total.attaches += o.attaches;
                total.drops += o.drops;
                total.crashes += o.crashes;
                total.reconciled += o.reconciled;
                total.full += o.full;
                total.joins += o.joins;
                total.synced += o.synced;
                total.wipes += o.wipes;
                total.lost += o.lost;
                total.dramas += o.dramas;
                total.scrubs += o.scrubs;
                total.rots += o.rots;
                total.healed += o.healed;
            }
            Err(e) => panic!("seed {seed}: {e}\nreplay: HOLDFAST_SIM_SEED={seed} cargo test -p hf-tests --test sim"),
        }
    }
    println!("seeds 0..{seeds}: {total:?}");
    assert!(total.acked_writes > seeds * 10 && total.drops > seeds / 4 && total.attaches > seeds, "{total:?}");
}

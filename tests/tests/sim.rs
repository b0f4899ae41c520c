//! The protocol under loss, duplication, reordering, crashes, partitions and take-overs: 20,000 seeds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::sim::{Outcome, run, run_without};

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
    for seed in [116, 1095, 1757, 2621, 5327, 11891] {
        run(seed, 12_000).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
    let seeds: u64 = std::env::var("HOLDFAST_SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20_000);
    let (off, threads) = (off(), std::thread::available_parallelism().map_or(1, |n| n.get() as u64));
    let part = |first: u64| {
        let mut total = Outcome::default();
        for seed in (first..seeds).step_by(threads as usize) {
            match run_without(seed, 12_000, &off) {
                Ok(o) => total.add(&o),
                Err(e) => {
                    panic!("seed {seed}: {e}\nreplay: HOLDFAST_SIM_SEED={seed} cargo test -p hf-tests --test sim")
                }
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
    println!("seeds 0..{seeds}: {total:?}");
    assert!(total.acked_writes > seeds * 10 && total.drops > seeds / 4 && total.attaches > seeds, "{total:?}");
}

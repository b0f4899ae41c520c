//! Crash states: at every step of random workloads the power goes, with every kind of loss the
//! simulated disk knows; what was acknowledged must be there, whole; what was not may be there,
//! whole; nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common::*;
use hf_policy::*;
use hf_store::format::page::BlockState;
use hf_store::sim::{Rng, SimDisk};
use hf_store::*;
use std::collections::BTreeMap;

const ZERO: [u8; 4096] = [0; 4096];

fn verify(
    mut disk: SimDisk,
    (allowed, aged): (&BTreeMap<u64, Vec<BlockContent>>, u64),
    context: &str,
) -> (SimDisk, BTreeMap<u64, BlockContent>) {
    let mut store = recovery::open(&mut disk, config()).unwrap_or_else(|e| panic!("{context}: {e}"));
    let noted = store.superblock().log_age.age;
    assert!(noted >= aged, "{context}: the log was said to be noted at age {aged}, the disk says {noted}");
    let all = read_all(&mut disk, &mut store, RID);
    let mut now = BTreeMap::new();
    for (b, (info, data)) in all {
        let ok = allowed[&b].iter().find(|(ver, want)| match want {
            Some(bytes) => info.state == BlockState::Data && info.ver == *ver && data == *bytes,
            None => !info.state.is_bad() && info.state != BlockState::Data && data[..] == ZERO[..],
        });
        let Some(found) = ok else {
            panic!(
                "{context}: block {b} holds {info:?} ({:02x?}…), allowed {:?}",
                &data[..16],
                allowed[&b].iter().map(|c| c.0).collect::<Vec<_>>()
            );
        };
        now.insert(b, (info.ver, found.1.clone()));
    }
    (disk, now)
}

/// 50,000 crash states (quality.md), each verified block by block. `HOLDFAST_CRASH_SEEDS` sets how
/// many seeds.
#[test]
fn every_acknowledged_write_survives_power_loss() {
    let seeds: u64 = std::env::var("HOLDFAST_CRASH_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(400);
    // SAFETY: sets two numbers of the allocator. Disks are made and dropped by the million; giving
    // their memory back to the kernel each time costs more than the store does.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let states: u64 = std::thread::scope(|s| {
        let part = |t: u64| s.spawn(move || (t..seeds).step_by(threads as usize).map(crash_states).sum::<u64>());
        let parts: Vec<_> = (0..threads).map(part).collect();
        parts.into_iter().map(|p| p.join().unwrap()).sum()
    });
    println!("{states} crash states recovered, 0 acknowledged lost, 0 torn, seeds 0..{seeds}");
    assert!(states >= 100 * seeds, "{states}");
}

/// A random workload, with a power loss at every other step.
fn crash_states(seed: u64) -> u64 {
    // Journals of different sizes: in a small one space is reused all the time.
    let mut w = World::with_journal(seed, 24 << 20, [1 << 20, 4 << 20][usize::from(seed.is_multiple_of(4))]);
    let mut pick = Rng::new(seed ^ 0xabcd);
    let mut states = 0;
    for step in 0..260 {
        w.random_step();
        if step % 2 == 0 || w.flights.is_empty() {
            let mut disk = w.disk.clone();
            disk.crash(&mut pick);
            verify(disk, (&w.allowed(), w.aged), &format!("seed {seed} step {step}"));
            states += 1;
        }
    }
    w.quiesce();
    states
}

/// Crash, go on writing, crash again: what one recovery showed, the next must show too (a block
/// must not flip back).
#[test]
fn repeated_crashes_never_take_back_what_was_seen() {
    for seed in 0..60 {
        let mut w = World::new(1000 + seed, 24 << 20);
        for round in 0..6 {
            for _ in 0..120 {
                w.random_step();
            }
            let allowed = w.allowed();
            w.disk.crash(&mut w.rng);
            // Opening twice shows the same (a crash during recovery is fine: it writes nothing).
            let (disk, first) = verify(w.disk.clone(), (&allowed, w.aged), &format!("seed {seed} round {round}"));
            let (disk, second) = verify(disk, (&allowed, w.aged), &format!("seed {seed} round {round} again"));
            assert_eq!(first, second);
            w.disk = disk;
            w.acked = first;
            w.flights.clear();
            w.reads.clear();
            w.others.clear();
            w.store = recovery::open(&mut w.disk, config()).unwrap();
            let mut out = Vec::new();
            w.store.start(&mut out);
            w.out = out;
            w.term += 1;
            w.seq = 0;
            w.submit(Op::UpdateReplica(ReplicaRec { promised_term: Term(w.term), ..rec() }), "promise");
        }
        w.quiesce();
    }
}

/// A process is killed while a write is on its way, and the power goes later: what the replay found
/// in the disk's cache has been shown and built upon, so it must not be gone.
#[test]
pub fn what_a_replay_found_in_a_cache_survives_the_power_loss_after_it() {
    let mut w = World::new(9, 24 << 20);
    w.write(BlockRange::new(1, 1));
    w.quiesce();
    w.write(BlockRange::new(2, 1));
    let shown = w.flights.values().next().unwrap().effect.clone();
    // Its group has reached the cache; nobody was told.
    w.reopen();
    w.acked.extend(shown);
    w.read(BlockRange::new(0, 8));
    w.quiesce();
    w.term += 1;
    w.seq = 0;
    w.write(BlockRange::new(3, 1));
    w.quiesce();
    w.disk.crash_keeping(|_| false);
    w.reopen();
    w.read(BlockRange::new(0, 8));
    w.quiesce();
}

/// Random acts of all kinds, each answered as the model says. The store verifies its own state
/// after each.
pub fn a_random_life(seed: u64) {
    let mut w = World::new(seed, 24 << 20);
    for _ in 0..400 {
        w.random_step();
    }
    w.quiesce();
    w.submit(Op::Checkpoint, "checkpoint");
    w.quiesce();
    for chunk in 0..BLOCKS / 256 {
        w.read(BlockRange::new(chunk * 256, 256));
    }
    w.quiesce();
    assert!(w.reads_checked >= BLOCKS / 256 && w.refused == 0 && w.failed.is_none(), "{:?}", w.store.stats());
}

#[test]
pub fn a_random_life_breaks_no_invariant() {
    a_random_life(77);
}

/// Long runs without a crash: reads always match, the journal wraps many times, units are neither
/// lost nor doubled.
#[test]
fn a_long_life_keeps_reads_right_and_space_accounted() {
    for seed in 0..12 {
        let mut w = World::new(5000 + seed, 24 << 20);
        for _ in 0..6000 {
            w.random_step();
        }
        w.quiesce();
        w.zero(BlockRange::new(0, BLOCKS as u32));
        w.quiesce();
        // Freed units come back with the checkpoint after the one that frees them.
        for _ in 0..3 {
            w.submit(Op::Checkpoint, "checkpoint");
            w.quiesce();
        }
        let s = w.store.stats();
        assert!(s.checkpoints > 2 && w.reads_checked > 20, "{s:?}");
        assert!(w.aged > 10 && w.aged == w.age, "every age that was told is noted: {} of {}", w.aged, w.age);
        assert_eq!(s.units_free, s.units_total, "units leaked: {s:?}");
        assert_eq!(s.journal_used, 0);
        assert!(w.store.is_clean());
        let mut disk = w.disk.clone();
        disk.crash(&mut w.rng);
        let again = recovery::open(&mut disk, config()).unwrap().stats();
        assert_eq!(again.units_free, s.units_free, "units leaked over a restart");
    }
}

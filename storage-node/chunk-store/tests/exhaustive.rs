//! Every workload of up to four operations, every moment the power can go, every set of unsynced blocks that can survive
//! (CrashMonkey's bet: bugs that lose data show in short workloads). What was acknowledged is there, whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
use bytes::Bytes;
use common::*;
use hf_policy::*;
use hf_store::format::page::BlockState;
use hf_store::sim::SimDisk;
use hf_store::*;
use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// Up to so many blocks in the disk's cache every subset is tried; beyond that none, all, each alone and all but each.
const EVERY_SUBSET: usize = 6;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Writes block 0, block 1, or both in one.
    Write(u64, u32),
    /// Zeroes both.
    Zero,
    Checkpoint,
}

const STEPS: [Step; 5] = [Step::Write(0, 1), Step::Write(1, 1), Step::Write(0, 2), Step::Zero, Step::Checkpoint];

fn begin(w: &mut World, s: Step) {
    match s {
        Step::Write(start, len) => w.write(BlockRange::new(start, len)),
        Step::Zero => w.zero(BlockRange::new(0, 2)),
        Step::Checkpoint => drop(w.submit(Op::Checkpoint, "checkpoint")),
    }
}

/// Blocks 0 and 1 as the store has them.
fn read(disk: &mut SimDisk) -> Vec<(Ver, BlockState, Bytes)> {
    let mut store = recovery::open(disk, config()).unwrap();
    let mut out = Vec::new();
    store.step(Input::Op { id: 1, op: Op::Read { rid: RID, range: BlockRange::new(0, 2) } }, &mut out);
    loop {
        for o in std::mem::take(&mut out) {
            match o {
                Output::Disk { tag, op } => disk.submit(tag, op),
                Output::Done { result: Ok(Answer::Read { blocks, data }), .. } => {
                    let one =
                        |(i, b): (usize, &engine::BlockInfo)| (b.ver, b.state, data.slice(i * 4096..(i + 1) * 4096));
                    return blocks.iter().enumerate().map(one).collect();
                }
                other => panic!("{other:?}"),
            }
        }
        let (tag, result) = disk.complete(0).expect("an answer");
        store.step(Input::DiskDone { tag, result }, &mut out);
    }
}

/// Every set of survivors at this moment that was not seen before.
fn judge(w: &World, seen: &mut BTreeSet<u64>, context: &str) -> u64 {
    let volatile = w.disk.volatile();
    let n = volatile.len();
    let masks: Vec<u64> = if n <= EVERY_SUBSET {
        (0..1 << n).collect()
    } else {
        let all = (1u64 << n.min(63)) - 1;
        (0..n.min(63)).flat_map(|i| [1 << i, all & !(1 << i)]).chain([0, all]).collect()
    };
    let allowed = w.allowed();
    let mut states = 0;
    for mask in masks {
        let mut disk = w.disk.clone();
        disk.crash_keeping(|i| mask >> i.min(63) & 1 == 1);
        let mut h = DefaultHasher::new();
        volatile.iter().for_each(|b| disk.block(*b).hash(&mut h));
        (w.disk.media_generation(), &w.flights.keys().collect::<Vec<_>>()).hash(&mut h);
        if !seen.insert(h.finish()) {
            continue;
        }
        states += 1;
        for (b, (ver, state, data)) in read(&mut disk).into_iter().enumerate() {
            let fits = allowed[&(b as u64)].iter().any(|(v, want)| match want {
                Some(bytes) => state == BlockState::Data && ver == *v && data == *bytes,
                None => state != BlockState::Bad && state != BlockState::Data && data.iter().all(|x| *x == 0),
            });
            assert!(
                fits,
                "{context}, survivors {mask:#b} of {volatile:?}: block {b} holds {ver} {state:?} {:x?}",
                &data[..16]
            );
        }
    }
    states
}

/// Runs one workload, with its operations begun all at once or each after the one before, and the disk completing the oldest or the
/// newest request first; the power goes after every completion.
fn explore(workload: &[Step], at_once: bool, newest_first: bool) -> u64 {
    let context = format!("{workload:?} at_once={at_once} newest_first={newest_first}");
    let mut w = World::with_journal(7, 16 << 20, 1 << 20);
    let mut seen = BTreeSet::new();
    let mut states = 0;
    let mut finish = |w: &mut World, states: &mut u64| {
        *states += judge(w, &mut seen, &context);
        while w.disk.pending() > 0 {
            let i = if newest_first { w.disk.pending() - 1 } else { 0 };
            if let Some((tag, result)) = w.disk.complete(i) {
                w.input(Input::DiskDone { tag, result });
            }
            *states += judge(w, &mut seen, &context);
        }
    };
    for s in workload {
        begin(&mut w, *s);
        if !at_once {
            finish(&mut w, &mut states);
        }
    }
    finish(&mut w, &mut states);
    states
}

#[test]
fn every_short_workload_survives_every_power_loss() {
    let longest: usize = std::env::var("HOLDFAST_EXHAUSTIVE").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    let mut workloads: Vec<Vec<Step>> = vec![Vec::new()];
    let mut at = 0;
    while at < workloads.len() {
        let w = workloads[at].clone();
        at += 1;
        if w.len() < longest {
            workloads.extend(STEPS.iter().map(|s| w.iter().copied().chain([*s]).collect::<Vec<_>>()));
        }
    }
    let half = |t: usize| -> u64 {
        let mine = workloads.iter().skip(1 + t).step_by(2);
        mine.map(|w| explore(w, true, false) + explore(w, true, true) + explore(w, false, false)).sum()
    };
    let states: u64 = std::thread::scope(|s| {
        let (half, other) = (&half, s.spawn(|| half(1)));
        half(0) + other.join().unwrap()
    });
    println!(
        "{} workloads of up to {longest} operations, {states} different crash states, all recovered",
        workloads.len() - 1
    );
    assert!(states > workloads.len() as u64 * 3, "{states}");
}

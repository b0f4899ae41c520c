//! Every workload of up to four operations, every moment the power can go, every set of unsynced
//! blocks that can survive (CrashMonkey's bet: bugs that lose data show in short workloads).
//!
//! The model is a list: what blocks 0 and 1 hold after each operation, were they done one after the
//! other. After a crash they hold one entry of that list, whole, and none from before the last
//! operation that was answered. A promise is there if it was answered; and where it is seen, so is
//! every operation submitted before it (they cannot take effect later). What a conditional copy
//! answers is predicted too.
//!
//! Time is bounded by knowing again what was seen: recovery is a function of the disk's content, so
//! equal disks are opened once, whatever workload and moment they come from; each crash state is
//! still judged by what its own workload allows.
// (Two threads of the test share what they find; the store has no lock.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_types)]

use crate::common::*;
use bytes::Bytes;
use hf_policy::*;
use hf_store::engine::{Content, CopyItem};
use hf_store::format::page::BlockState;
use hf_store::sim::SimDisk;
use hf_store::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Up to so many blocks in the disk's cache every subset is tried; beyond that none, all, each
/// alone and all but each.
const EVERY_SUBSET: usize = 6;
/// A version that is older than everything a workload writes.
const OLD: Ver = Ver { term: Term(0), seq: Seq(1) };

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Writes block 0, block 1, or both in one.
    Write(u64, u32),
    /// Zeroes both blocks.
    Zero,
    Checkpoint,
    /// One copy of two records: new data for block 0, a newer zero for block 1.
    Copy,
    /// Resync to an older history: only a block of an older term than the coordinator's is taken
    /// back.
    Back,
    /// Block 0 becomes bad: nobody has what it should hold.
    Mark,
    /// Block 0 gets the very bytes of its version again.
    Repair,
    /// A copy decided on what is not there any more, and a repair with another version's bytes:
    /// neither is done.
    Late,
    /// Zeroes the whole chunk: one version for all of it.
    Trim,
    /// Promises the next term (what a seal does).
    Promise,
}

use Step::*;
const STEPS: [Step; 12] =
    [Write(0, 1), Write(1, 1), Write(0, 2), Zero, Checkpoint, Copy, Back, Mark, Repair, Promise, Trim, Late];

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    Zero,
    Data,
    Bad,
}

/// A block: its version says which bytes are meant (see [`bytes_of`]).
type Cell = (Ver, Holds);

fn bytes_of(ver: Ver, block: u64) -> Bytes {
    tagged(u64::from(ver.term.0) << 40 | ver.seq.0, block)
}

/// What a disk holds when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    blocks: [Cell; 2],
    promised: Term,
}

/// An operation's place in the list of states.
struct Begun {
    id: OpId,
    /// A checkpoint is of what was answered before it; its own answer says nothing of what was not.
    checkpoint: bool,
    promise: Option<Term>,
    /// What a copy must answer.
    applied: Option<Vec<bool>>,
}

/// A store, its disk, and the model.
struct Run {
    disk: SimDisk,
    store: Store,
    out: Vec<Output>,
    term: u32,
    seq: u64,
    /// Does the chunk exist? Zeroes of nothing leave no trace.
    exists: bool,
    states: Vec<[Cell; 2]>,
    begun: Vec<Begun>,
    answered: BTreeSet<OpId>,
}

impl Run {
    fn new(mut disk: SimDisk) -> Run {
        let store = recovery::open(&mut disk, config()).unwrap();
        let states = vec![[(Ver::ZERO, Holds::Zero); 2]];
        let (begun, answered) = (Vec::new(), BTreeSet::new());
        let mut r = Run { disk, store, out: Vec::new(), term: 1, seq: 0, exists: false, states, begun, answered };
        // The superblock of this open; what comes before it waits for it and goes into one group.
        r.store.start(&mut r.out);
        r.drain();
        while r.disk.pending() > 0 {
            r.complete(0);
        }
        r
    }

    fn drain(&mut self) {
        for o in std::mem::take(&mut self.out) {
            match o {
                Output::Disk { tag, op } => self.disk.submit(tag, op),
                Output::Done { id, result } => {
                    let begun = self.begun.iter().find(|b| b.id == id).unwrap();
                    let want = begun.applied.clone().map_or(Answer::Done, Answer::Copied);
                    assert_eq!(result, Ok(want), "operation {id}");
                    assert!(self.answered.insert(id), "operation {id} was answered twice");
                }
                Output::Failed(why) => panic!("{why}"),
            }
        }
    }

    fn complete(&mut self, i: usize) {
        let Some((tag, result)) = self.disk.complete(i) else { return };
        self.store.step(Input::DiskDone { tag, result }, &mut self.out);
        self.store.check();
        self.drain();
    }

    fn submit(&mut self, op: Op, after: [Cell; 2], promise: Option<Term>, applied: Option<Vec<bool>>) {
        let id = self.begun.len() as OpId;
        self.states.push(after);
        self.begun.push(Begun { id, checkpoint: matches!(op, Op::Checkpoint), promise, applied });
        self.store.step(Input::Op { id, op }, &mut self.out);
        self.store.check();
        self.drain();
    }

    fn now(&self) -> [Cell; 2] {
        self.states[self.states.len() - 1]
    }

    fn next_ver(&mut self) -> Ver {
        self.seq += 1;
        Ver::new(self.term, self.seq)
    }

    /// Does an item apply (protocol §7 step 4), and what is there then?
    fn item(&self, b: usize, seen: Ver, src: Ver, holds: Holds, repair: bool) -> (CopyItem, bool, Cell) {
        let (ver, has) = self.now()[b];
        let undone = seen == ver && src != ver && ver.term.0 < self.term;
        let mends = seen == ver && src == ver && (has == Holds::Bad || has == Holds::Data);
        let applies = if repair { mends } else { src > ver || undone };
        let data = bytes_of(src, b as u64);
        let content = match holds {
            Holds::Zero => Content::Zero,
            Holds::Bad => Content::Bad,
            Holds::Data => Content::Data(crc::payload(&data), data),
        };
        let item = CopyItem { block: BlockIx(b as u64), seen, src, content, repair };
        (item, applies, if applies { (src, holds) } else { (ver, has) })
    }

    fn copy(&mut self, parts: Vec<(CopyItem, bool, Cell)>) {
        let (mut after, mut items, mut applied) = (self.now(), Vec::new(), Vec::new());
        for (item, applies, cell) in parts {
            after[item.block.0 as usize] = cell;
            self.exists |= applies;
            items.push(item);
            applied.push(applies);
        }
        self.submit(Op::Copy { rid: RID, term: Term(self.term), items }, after, None, Some(applied));
    }

    fn begin(&mut self, s: Step) {
        let mut after = self.now();
        let [(first, _), (second, _)] = after;
        match s {
            Write(start, len) => {
                let ver = self.next_ver();
                let range = BlockRange::new(start, len);
                let data: Vec<Bytes> = range.iter().map(|b| bytes_of(ver, b.0)).collect();
                let data = Bytes::from(data.concat());
                range.iter().for_each(|b| after[b.0 as usize] = (ver, Holds::Data));
                self.exists = true;
                let crcs = crc::payloads(&data);
                self.submit(Op::Write { rid: RID, ver, start: range.start, data, crcs }, after, None, None);
            }
            Zero | Trim => {
                let ver = self.next_ver();
                let len = if s == Trim { 256 } else { 2 };
                if self.exists {
                    after = [(ver, Holds::Zero); 2];
                }
                let op = Op::Zero { rid: RID, ver, range: BlockRange::new(0, len), keep: false };
                self.submit(op, after, None, None);
            }
            Checkpoint => self.submit(Op::Checkpoint, after, None, None),
            Copy => {
                let ver = self.next_ver();
                let parts = [(0, first, Holds::Data), (1, second, Holds::Zero)];
                self.copy(parts.map(|(b, seen, h)| self.item(b, seen, ver, h, false)).into());
            }
            Back => self.copy(vec![self.item(0, first, OLD, Holds::Data, false)]),
            Mark => {
                let ver = self.next_ver();
                self.copy(vec![self.item(0, first, ver, Holds::Bad, false)]);
            }
            Repair => self.copy(vec![self.item(0, first, first, Holds::Data, true)]),
            Late => {
                let (seen, ver) = (Ver::new(9, 9), self.next_ver());
                let other = Ver::new(0, 7);
                let parts = [(0, first, other, true), (1, seen, ver, false)];
                self.copy(parts.map(|(b, seen, src, repair)| self.item(b, seen, src, Holds::Data, repair)).into());
            }
            Promise => {
                self.term += 1;
                self.seq = 0;
                let rec = ReplicaRec { promised_term: Term(self.term), ..rec() };
                self.submit(Op::UpdateReplica(rec), after, Some(Term(self.term)), None);
            }
        }
    }

    /// May a disk that is opened now show this?
    fn allows(&self, seen: &Seen) -> bool {
        let answered = |b: &&Begun| self.answered.contains(&b.id);
        let effects = self.begun.iter().filter(answered).filter(|b| !b.checkpoint);
        let last = effects.map(|b| b.id as usize + 1).max().unwrap_or(0);
        let promised = self.begun.iter().filter(answered).filter_map(|b| b.promise).max().unwrap_or(Term(1));
        // Everything submitted before a promise that is there, is there.
        let before = self.begun.iter().find(|b| b.promise == Some(seen.promised)).map_or(0, |b| b.id as usize);
        seen.promised >= promised && self.states[last.max(before)..].contains(&seen.blocks)
    }
}

/// Blocks 0 and 1 and the promise as a store has them.
fn look(disk: &mut SimDisk, store: &mut Store) -> Seen {
    let mut out = Vec::new();
    store.step(Input::Op { id: 1, op: Op::Read { rid: RID, range: BlockRange::new(0, 2) } }, &mut out);
    store.check();
    loop {
        for o in std::mem::take(&mut out) {
            match o {
                Output::Disk { tag, op } => disk.submit(tag, op),
                Output::Done { result: Ok(Answer::Read { blocks, data }), .. } => {
                    let cell = |b: usize| {
                        let (info, bytes) = (blocks[b], &data[b * 4096..(b + 1) * 4096]);
                        let holds = match info.state {
                            BlockState::Absent | BlockState::Zero => Holds::Zero,
                            BlockState::Data => Holds::Data,
                            BlockState::Bad | BlockState::Lost => Holds::Bad,
                        };
                        let zero = bytes.iter().all(|x| *x == 0);
                        let right = if holds == Holds::Data { bytes == bytes_of(info.ver, b as u64) } else { zero };
                        assert!(right, "block {b} at {info:?} holds {:x?}", &bytes[..16]);
                        (info.ver, holds)
                    };
                    let promised = store.replica(RID).map_or(Term(0), |r| r.promised_term);
                    return Seen { blocks: [cell(0), cell(1)], promised };
                }
                other => panic!("{other:?}"),
            }
        }
        let (tag, result) = disk.complete(0).expect("an answer");
        store.step(Input::DiskDone { tag, result }, &mut out);
        store.check();
    }
}

/// Opens a disk; of every sixteenth, and of every second that was taken back, looks again after the
/// store has gone on from there and destaged all.
fn recover(disk: &mut SimDisk, number: u64) -> Seen {
    let mut store = recovery::open(disk, config()).unwrap();
    let seen = look(disk, &mut store);
    if number.is_multiple_of(16) || (number.is_multiple_of(2) && seen.blocks[0].0 == OLD) {
        let mut out = Vec::new();
        store.start(&mut out);
        store.step(Input::Op { id: 2, op: Op::Checkpoint }, &mut out);
        store.check();
        loop {
            for o in std::mem::take(&mut out) {
                match o {
                    Output::Disk { tag, op } => disk.submit(tag, op),
                    Output::Done { result, .. } => assert_eq!(result, Ok(Answer::Done)),
                    Output::Failed(why) => panic!("{why}"),
                }
            }
            let Some((tag, result)) = disk.complete(0) else { break };
            store.step(Input::DiskDone { tag, result }, &mut out);
            store.check();
        }
        let mut again = recovery::open(disk, config()).unwrap();
        assert_eq!(look(disk, &mut again), seen, "a checkpoint after the recovery changed something");
    }
    seen
}

/// What is known of disks, by fingerprint; and how many crash states were judged.
#[derive(Default)]
struct Known {
    disks: Mutex<BTreeMap<u64, Seen>>,
    states: AtomicU64,
    /// By what block 0 held, in the order of [`Holds`].
    held: [AtomicU64; 3],
}

/// Every set of survivors at this moment.
fn judge(r: &Run, known: &Known, context: &dyn Fn() -> String) {
    let volatile = r.disk.volatile();
    let n = volatile.len();
    let masks: Vec<u64> = if n <= EVERY_SUBSET {
        (0..1 << n).collect()
    } else {
        let all = (1u64 << n.min(63)) - 1;
        (0..n.min(63)).flat_map(|i| [1 << i, all & !(1 << i)]).chain([0, all]).collect()
    };
    let mut different = BTreeSet::new();
    for mask in masks {
        let keep = |i: usize| mask >> i.min(63) & 1 == 1;
        let print = r.disk.fingerprint_keeping(keep);
        if !different.insert(print) {
            continue;
        }
        let before = known.disks.lock().unwrap().get(&print).copied();
        let seen = before.unwrap_or_else(|| {
            let mut disk = r.disk.clone();
            disk.crash_keeping(keep);
            assert_eq!(disk.fingerprint(), print);
            let seen = recover(&mut disk, print >> 7);
            known.disks.lock().unwrap().insert(print, seen);
            seen
        });
        assert!(
            r.allows(&seen),
            "{}, survivors {mask:#b} of {volatile:?}: {seen:?}; of {:?}, answered {:?}",
            context(),
            r.states,
            r.answered
        );
        known.held[seen.blocks[0].1 as usize].fetch_add(1, Ordering::Relaxed);
    }
    known.states.fetch_add(different.len() as u64, Ordering::Relaxed);
}

/// Runs one workload, with its operations begun all at once or each after the one before, and the
/// disk completing the oldest or the newest request first; the power goes after every completion.
/// (One after the other, what happens before the last operation begins is the shorter workload's.)
fn explore(base: &SimDisk, workload: &[Step], at_once: bool, newest_first: bool, known: &Known) {
    let context = || format!("{workload:?} at_once={at_once} newest_first={newest_first}");
    let mut r = Run::new(base.clone());
    let finish = |r: &mut Run, judged: bool| {
        while r.disk.pending() > 0 {
            r.complete(if newest_first { r.disk.pending() - 1 } else { 0 });
            if judged {
                judge(r, known, &context);
            }
        }
    };
    for (i, s) in workload.iter().enumerate() {
        if !at_once && i > 0 {
            finish(&mut r, false);
        }
        r.begin(*s);
    }
    judge(&r, known, &context);
    finish(&mut r, true);
    assert_eq!(r.answered.len(), workload.len(), "{}: stuck", context());
}

#[test]
fn every_short_workload_survives_every_power_loss() {
    let longest: usize = std::env::var("HOLDFAST_EXHAUSTIVE").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    let mut workloads: Vec<Vec<Step>> = vec![Vec::new()];
    let mut at = 0;
    while at < workloads.len() {
        let w = workloads[at].clone();
        at += 1;
        // `Late` does nothing: workloads of four have room for something better.
        let late = w.contains(&Late);
        let steps = &STEPS[..STEPS.len() - usize::from(w.len() >= 3)];
        if w.len() < longest && !(late && w.len() >= 3) {
            workloads.extend(steps.iter().map(|s| w.iter().copied().chain([*s]).collect::<Vec<_>>()));
        }
    }
    let base = World::with_journal(7, 16 << 20, 1 << 20).disk;
    let known = Known::default();
    let part = |t: usize| {
        for w in workloads.iter().skip(1 + t).step_by(2) {
            for (at_once, newest_first) in [(true, false), (true, true), (false, false)] {
                explore(&base, w, at_once, newest_first, &known);
            }
        }
    };
    std::thread::scope(|s| {
        s.spawn(|| part(1));
        part(0);
    });
    let (states, disks) = (known.states.into_inner(), known.disks.into_inner().unwrap().len());
    let held = known.held.map(AtomicU64::into_inner);
    println!(
        "{} workloads of up to {longest} operations, {states} crash states on {disks} different disks, all recovered to what is \
         allowed; block 0 was zero, data, bad {:?} times",
        workloads.len() - 1,
        held
    );
    assert!(states > workloads.len() as u64 * 3 && disks > workloads.len(), "{states} on {disks}");
    assert!(held.iter().all(|n| *n > states / 20), "{held:?}");
}

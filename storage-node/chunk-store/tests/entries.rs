//! Entries and slots of deleted replicas: they are used again only when no crash can bring back
//! what stood there. And the table of replicas: it grows when it is full, over any crash, and what
//! does not fit is refused with the number.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common::*;
use hf_policy::*;
use hf_store::geometry::EXTENSION_ENTRIES;
use hf_store::sim::Rng;
use hf_store::*;

/// Completes operations in order until this holds.
fn pump(w: &mut World, mut until: impl FnMut(&World) -> bool) {
    while !until(w) && w.complete(0) {}
}

/// The journal's write alone, which is the last that was begun.
fn complete_last(w: &mut World) {
    w.complete(w.disk.pending() - 1);
}

/// A replica is written to and deleted while a checkpoint destages; another one is made as soon as
/// that checkpoint is durable.
fn deleted_beside_a_checkpoint(w: &mut World) -> Rid {
    w.put(RID, Ver::new(7, 1), 0, &[tagged(1, 0)]);
    w.quiesce();
    w.submit(Op::Checkpoint, "checkpoint");
    w.put(RID, Ver::new(9, 1000), 256, &[tagged(2, 256)]);
    complete_last(w);
    w.submit(Op::DeleteReplica { rid: RID }, "delete");
    complete_last(w);
    let n = w.store.stats().checkpoints;
    pump(w, |w| w.store.stats().checkpoints > n);
    w.submit(Op::CreateReplica(other(6)), "create");
    pump(w, |w| !w.others.values().any(|o| *o == "create"));
    Rid(6)
}

/// A new replica must not inherit what the journal still says of the one that had its entry: its
/// highest version is what a take-over and the check for storage that was put back go by.
#[test]
pub fn a_new_replica_has_nothing_of_the_one_before_it() {
    let mut w = World::new(1, 64 << 20);
    let b = deleted_beside_a_checkpoint(&mut w);
    assert_eq!(w.store.max_ver(b), Ver::ZERO);
    w.disk.crash_keeping(|_| false);
    for round in 0..3 {
        w.reopen();
        assert_eq!(w.store.max_ver(b), Ver::ZERO, "opened {round}");
        assert!(w.store.chunks_since(b, Ver::ZERO, ChunkIx(0), 10).is_empty());
        w.ask(Op::Checkpoint).unwrap();
        w.quiesce();
    }
    assert_eq!(w.store.replicas().count(), 1);
    let s = w.store.stats();
    assert_eq!((s.entries_used, s.slots_free), (1, u64::from(w.store.superblock().geometry.slots)));
}

/// All slots are in use; a replica is deleted and its slot goes to an acknowledged write of another
/// one.
#[test]
pub fn a_slot_is_there_for_every_acknowledged_write_after_a_crash() {
    let mut w = World::new(1, 64 << 20);
    w.ask(Op::CreateReplica(other(7))).unwrap();
    let slots = u64::from(w.store.superblock().geometry.slots);
    w.put(RID, Ver::new(7, 1), 0, &[tagged(1, 0)]);
    for i in 0..slots - 1 {
        let (ver, range) = (Ver::new(1, i + 1), BlockRange::new(i * 256, 1));
        w.ask(Op::Zero { rid: Rid(7), ver, range, keep: true }).unwrap();
    }
    w.settle_space();
    assert_eq!(w.store.stats().slots_free, 0);
    w.put(RID, Ver::new(7, 2), 1, &[tagged(2, 1)]);
    w.quiesce();
    w.submit(Op::DeleteReplica { rid: RID }, "delete");
    complete_last(&mut w);
    w.submit(Op::CreateReplica(other(6)), "create");
    pump(&mut w, |w| !w.others.values().any(|o| *o == "create"));
    // It waits for the slot, and gets it; the power goes the moment it is acknowledged.
    let id = w.put(Rid(6), Ver::new(1, 1), 5 * 256, &[tagged(3, 5 * 256)]);
    pump(&mut w, |w| !w.others.contains_key(&id));
    assert_eq!(w.failed, None);
    w.disk.crash_keeping(|_| false);
    w.reopen();
    assert_eq!(w.look_at(Rid(6), 5 * 256).1, tagged(3, 5 * 256));
}

/// Replicas come and go at random, their entries and slots are used again, and the power goes at
/// any time: each replica that is there holds what was acknowledged to it, and no other one's.
#[test]
pub fn replicas_that_come_and_go_never_mix() {
    for seed in 0..40 {
        come_and_go(seed);
    }
}

fn come_and_go(seed: u64) {
    let mut w = World::with_journal(seed, 24 << 20, 1 << 20);
    let mut rng = Rng::new(seed ^ 0x7777);
    // Of each: the highest sequence number that was acknowledged. Its term is its own number.
    let mut live: std::collections::BTreeMap<u64, u64> = Default::default();
    let mut next = 100;
    for step in 0..220 {
        let chosen = live.keys().nth(rng.below(live.len() as u64) as usize).copied();
        match (rng.below(10), chosen) {
            (0..=1, _) if live.len() < 6 => {
                if w.ask_while_busy(Op::CreateReplica(other(next)), &mut rng) {
                    live.insert(next, 0);
                }
                next += 1;
            }
            (2, Some(rid)) => {
                live.remove(&rid);
                assert!(w.ask_while_busy(Op::DeleteReplica { rid: Rid(rid) }, &mut rng));
            }
            (3, _) => {
                w.submit(Op::Checkpoint, "checkpoint");
            }
            (4, _) => w.input(Input::Housekeep),
            (5..=7, Some(rid)) => {
                let seq = live[&rid] + 1;
                let at = rng.below(16) * 256 + rng.below(200);
                let data = tagged(rid, at);
                let crcs = crc::payloads(&data);
                let op = Op::Write { rid: Rid(rid), ver: Ver::new(rid as u32, seq), start: BlockIx(at), data, crcs };
                if w.ask_while_busy(op, &mut rng) {
                    live.insert(rid, seq);
                }
            }
            _ => {
                w.complete_one();
            }
        }
        if step % 4 == 0 {
            let mut disk = w.disk.clone();
            disk.crash(&mut rng);
            let store = recovery::open(&mut disk, config()).unwrap_or_else(|e| panic!("seed {seed} step {step}: {e}"));
            for (rid, seq) in &live {
                let top = store.max_ver(Rid(*rid));
                assert_eq!(top.seq.0, *seq, "seed {seed} step {step}: replica {rid} has {top}");
                assert!(*seq == 0 || top.term.0 == *rid as u32, "seed {seed} step {step}: replica {rid} has {top}");
            }
        }
    }
}

/// As many replicas as anybody likes: the table takes units when it is full, and survives a crash
/// at every step of that.
#[test]
pub fn a_full_table_grows() {
    let mut w = World::new(2, 64 << 20);
    let base = u64::from(w.store.superblock().geometry.replicas);
    let units = w.store.stats().units_free;
    let many = base + u64::from(EXTENSION_ENTRIES) + 20;
    let mut rng = Rng::new(3);
    let mut made = vec![RID.0];
    for i in 0..many {
        let rid = 1000 + i;
        w.submit(Op::CreateReplica(other(rid)), "create");
        let at_the_edge = made.len() as u64 % 64 > 61 || made.len() as u64 % 64 < 4;
        while w.others.values().any(|o| *o == "create") {
            w.complete_one();
            if at_the_edge {
                check_crash(&w, &made, &mut rng);
            }
        }
        made.push(rid);
        if i % 16 == 9 {
            w.submit(Op::Checkpoint, "checkpoint");
            while at_the_edge && w.complete_one() {
                check_crash(&w, &made, &mut rng);
            }
        }
        if at_the_edge {
            // An age of the log is a superblock of its own, between checkpoints.
            w.note_age();
            w.put(Rid(rid), Ver::new(1, 1), 0, &[tagged(rid, 0)]);
        }
        check_crash(&w, &made, &mut rng);
    }
    w.quiesce();
    assert_eq!(w.store.stats().entries_used, many + 1);
    w.settle_space();
    check_crash(&w, &made, &mut rng);
    assert_eq!(w.store.superblock().extensions.len(), 2);
    // All go, and as many come again without another unit.
    for rid in made.drain(..) {
        w.ask(Op::DeleteReplica { rid: Rid(rid) }).unwrap();
    }
    w.settle_space();
    let s = w.store.stats();
    assert_eq!((s.entries_used, s.units_free, s.units_unaccounted), (0, units - 2, 0), "{s:?}");
    for i in 0..many {
        w.ask(Op::CreateReplica(other(5000 + i))).unwrap();
        made.push(5000 + i);
    }
    w.settle_space();
    w.reopen();
    check_crash(&w, &made, &mut rng);
    assert_eq!(w.store.superblock().extensions.len(), 2);
    assert_eq!(w.store.stats().units_unaccounted, 0);
}

fn check_crash(w: &World, made: &[u64], rng: &mut Rng) {
    let mut disk = w.disk.clone();
    disk.crash(rng);
    let store = recovery::open(&mut disk, config()).unwrap_or_else(|e| panic!("with {} replicas: {e}", made.len()));
    for rid in made {
        assert!(store.replica(Rid(*rid)).is_some(), "replica {rid} of {} is gone", made.len());
    }
    assert_eq!(store.stats().units_unaccounted, 0);
}

/// Without a unit to grow by a create is refused with the number; a disk of version 1 has what it
/// has.
#[test]
fn a_table_that_cannot_grow_refuses_with_the_number() {
    let mut w = World::version_1(4, 64 << 20);
    let refused = |w: &mut World| {
        for i in 0..300 {
            if let Err(e) = w.ask(Op::CreateReplica(other(1000 + i))) {
                assert_eq!(w.store.stats().entries_free, 0);
                return (e, w.store.stats().entries_used);
            }
        }
        panic!("never refused");
    };
    let (e, used) = refused(&mut w);
    assert_eq!((e.clone(), used), (StoreError::NoEntry(64), 64));
    assert!(e.to_string().contains("all 64 entries are taken"), "{e}");
    // A bound that the operator gave.
    let bounded = Config { replicas: 10, ..config() };
    let mut w = World::formatted(4, 64 << 20, params(), bounded);
    assert_eq!(w.store.stats().entries_free, 9);
    let (e, used) = refused(&mut w);
    assert_eq!((e, used), (StoreError::NoEntry(10), 10));
    // Data fills the disk: what is left is for data that was promised.
    let mut w = World::new(4, 24 << 20);
    w.ask(Op::CreateReplica(other(7))).unwrap();
    let unit = |n: u64| (0..16).map(|b| tagged(n, b)).collect::<Vec<_>>();
    let full = (0..600).position(|n| w.try_put(Rid(7), Ver::new(1, n + 1), n * 16, &unit(n)).is_err());
    assert!(full.is_some());
    let (e, used) = refused(&mut w);
    assert_eq!((e, used), (StoreError::NoEntry(64), 64));
}

/// A replica is made and written to while a checkpoint writes its index pages. The page with its
/// entry is not among them, one with its slot is, and is encoded late: the index must not name what
/// it does not have.
#[test]
pub fn an_index_names_no_replica_that_came_while_it_was_written() {
    let mut w = World::new(1, 4 << 30);
    w.ask(Op::CreateReplica(ReplicaRec { blocks: 256 * 8000, ..other(7) })).unwrap();
    let touch = |w: &mut World, term: u32, chunk: u64| {
        let (ver, range) = (Ver::new(term, chunk + 1), BlockRange::new(chunk * 256, 1));
        w.submit(Op::Zero { rid: Rid(7), ver, range, keep: true }, "zero");
    };
    (0..4500).for_each(|chunk| touch(&mut w, 1, chunk));
    w.quiesce();
    w.settle_space();
    // Slot pages that do not lie together, more than are written at once; and the one from which
    // the next slot comes.
    (0..18).for_each(|n| touch(&mut w, 2, n * 252 + 60));
    touch(&mut w, 2, 4499);
    w.quiesce();
    let before = w.store.stats();
    w.submit(Op::Checkpoint, "checkpoint");
    pump(&mut w, |w| w.store.stats().disk_syncs > before.disk_syncs);
    let destaged = w.store.stats().disk_writes;
    pump(&mut w, |w| w.store.stats().disk_writes > destaged);
    assert_eq!(w.store.stats().checkpoints, before.checkpoints);
    w.submit(Op::CreateReplica(other(9)), "create");
    complete_last(&mut w);
    w.put(Rid(9), Ver::new(1, 1), 0, &[tagged(1, 0)]);
    complete_last(&mut w);
    assert!(!w.others.values().any(|o| *o != "checkpoint"), "both are acknowledged: {:?}", w.others);
    pump(&mut w, |w| w.store.stats().checkpoints > before.checkpoints);
    w.disk.crash_keeping(|_| false);
    w.reopen();
    assert_eq!(w.look_at(Rid(9), 0).1, tagged(1, 0));
}

/// A replica is deleted twice, and the second time is in the journal only after a checkpoint has
/// begun: its entry becomes free once.
#[test]
pub fn an_entry_of_a_replica_that_is_deleted_twice_becomes_free_once() {
    let mut w = World::new(1, 64 << 20);
    w.ask(Op::CreateReplica(other(6))).unwrap();
    w.settle_space();
    (0..8).for_each(|n| {
        w.put(RID, Ver::new(7, 1 + n), n * 256, &[tagged(1, n * 256)]);
    });
    w.quiesce();
    let n = w.store.stats().checkpoints;
    for _ in 0..2 {
        w.submit(Op::DeleteReplica { rid: Rid(6) }, "delete");
        complete_last(&mut w);
    }
    assert!(!w.others.values().any(|o| *o == "delete"));
    pump(&mut w, |w| w.store.stats().checkpoints > n);
    w.submit(Op::CreateReplica(other(8)), "create");
    complete_last(&mut w);
    w.quiesce();
    w.settle_space();
    assert!(w.store.replica(Rid(8)).is_some(), "a replica that was made is gone");
    w.reopen();
    assert!(w.store.replica(Rid(8)).is_some());
    assert_eq!(w.store.stats().entries_used, 2);
}

/// What is written to a replica while its deletion is on its way goes with it: nothing of it stays
/// in memory or keeps its units.
#[test]
pub fn writes_behind_a_deletion_leave_nothing_behind() {
    for whole in [false, true] {
        let mut w = World::new(1, 64 << 20);
        w.settle_space();
        let free = w.store.stats().units_free;
        w.ask(Op::CreateReplica(other(6))).unwrap();
        w.submit(Op::DeleteReplica { rid: Rid(6) }, "delete");
        let blocks: Vec<_> = (0..if whole { 16 } else { 1 }).map(|b| tagged(1, b)).collect();
        w.put(Rid(6), Ver::new(1, 1), 0, &blocks);
        w.quiesce();
        w.settle_space();
        let s = w.store.stats();
        assert_eq!((s.overlay_bytes, s.units_free, s.entries_used), (0, free, 1), "whole units: {whole}");
        assert!(w.store.is_clean());
    }
}

/// A promise that comes while a deletion is on its way does not bring the replica back, without
/// what its overlay held.
#[test]
pub fn a_deletion_is_not_undone_by_what_comes_behind_it() {
    let mut w = World::new(1, 64 << 20);
    w.settle_space();
    let free = w.store.stats().units_free;
    w.ask(Op::CreateReplica(other(6))).unwrap();
    w.put(Rid(6), Ver::new(1, 1), 0, &[tagged(1, 0)]);
    w.quiesce();
    w.submit(Op::DeleteReplica { rid: Rid(6) }, "delete");
    w.submit(Op::UpdateReplica(ReplicaRec { promised_term: Term(9), ..other(6) }), "promise");
    while !w.others.is_empty() && w.complete(0) {}
    assert!(!w.store.replicas().any(|r| r.rid == Rid(6)));
    w.reopen();
    w.quiesce();
    w.settle_space();
    let s = w.store.stats();
    assert_eq!((w.store.replica(Rid(6)).is_some(), s.units_free, s.entries_used), (false, free, 1));
}

/// The second deletion is still on its way to the journal when a checkpoint could free the entry:
/// it must not meet another replica there.
#[test]
pub fn an_entry_stays_while_a_second_deletion_is_on_its_way() {
    let mut w = World::new(1, 64 << 20);
    w.ask(Op::CreateReplica(other(6))).unwrap();
    w.settle_space();
    let n = w.store.stats().checkpoints;
    w.submit(Op::DeleteReplica { rid: Rid(6) }, "delete");
    complete_last(&mut w);
    w.submit(Op::DeleteReplica { rid: Rid(6) }, "again");
    // All but its group, which was begun behind the checkpoint's first sync.
    assert_eq!(w.disk.pending(), 2);
    w.complete(0);
    while w.store.stats().checkpoints == n {
        assert!(w.complete(1), "the group is the first now");
    }
    w.submit(Op::CreateReplica(other(8)), "create");
    w.put(Rid(8), Ver::new(1, 1), 0, &[tagged(8, 0)]);
    while w.complete(0) {}
    assert_eq!(w.look_at(Rid(8), 0).1, tagged(8, 0));
    w.settle_space();
    assert_eq!(w.store.stats().entries_used, 2, "the entry of the deleted one is free in the end");
    w.reopen();
    assert_eq!(w.look_at(Rid(8), 0).1, tagged(8, 0));
}

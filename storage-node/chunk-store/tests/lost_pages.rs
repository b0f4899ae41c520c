//! Chunk pages that are lost take the knowledge with them where the chunk's units are. The units
//! come back: when the replica is deleted, when the chunk is written anew, and at once when the
//! disk is full and an acknowledged write needs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common::*;
use bytes::Bytes;
use hf_policy::*;
use hf_store::format::page::BlockState;
use hf_store::sim::Rng;
use hf_store::*;

fn unit(tag: u64, at: u64) -> Vec<Bytes> {
    (0..16).map(|b| tagged(tag, at + b)).collect()
}

/// Blocks of the disk that hold a chunk page of this replica.
fn pages(w: &World, rid: Rid) -> Vec<u64> {
    let of = |b: &u64| w.disk.block(*b)[..4] == *b"HFPG" && w.disk.block(*b)[28..36] == rid.0.to_le_bytes();
    w.disk.written().into_iter().filter(of).collect()
}

fn rot(w: &mut World, rid: Rid) {
    let all = pages(w, rid);
    assert!(!all.is_empty());
    all.into_iter().for_each(|b| w.disk.flip(b, 77));
}

#[test]
pub fn a_deleted_replicas_units_come_back_though_its_page_is_lost() {
    let mut w = World::new(1, 64 << 20);
    w.settle_space();
    let free = w.store.stats().units_free;
    for u in 0..16 {
        w.put(RID, Ver::new(1, 1 + u), u * 16, &unit(1, u * 16));
    }
    w.settle_space();
    assert_eq!(w.store.stats().units_free, free - 16);
    rot(&mut w, RID);
    w.reopen();
    w.ask(Op::DeleteReplica { rid: RID }).unwrap();
    w.settle_space();
    let s = w.store.stats();
    assert_eq!((s.units_free, s.units_unaccounted, s.bad_pages > 0), (free, 0, true), "{s:?}");
    w.reopen();
    assert_eq!(w.store.stats().units_free, free);
}

/// Leaked by an older release, or by a crash right after the loss: what the bitmap says and the
/// slots do not is found after opening.
#[test]
pub fn units_that_leaked_before_are_found_after_opening() {
    let mut w = World::new(2, 64 << 20);
    w.ask(Op::CreateReplica(other(7))).unwrap();
    w.settle_space();
    let free = w.store.stats().units_free;
    w.put(RID, Ver::new(1, 1), 0, &unit(1, 0));
    w.put(Rid(7), Ver::new(1, 1), 0, &unit(2, 0));
    w.settle_space();
    rot(&mut w, RID);
    w.reopen();
    w.submit(Op::DeleteReplica { rid: RID }, "delete");
    // The power goes with the first checkpoint after the deletion; nothing was looked through yet.
    let n = w.store.stats().checkpoints;
    while w.store.stats().checkpoints == n && w.complete(0) {}
    w.disk.crash_keeping(|_| false);
    w.reopen();
    w.input(Input::Housekeep);
    w.quiesce();
    w.settle_space();
    assert_eq!(w.store.stats().units_free, free - 1);
    assert_eq!(w.look_at(Rid(7), 3).1, tagged(2, 3));
}

/// A chunk whose page is lost is written again on a full disk: those writes were admitted, for the
/// chunk had its units.
#[test]
pub fn a_lost_page_on_a_full_disk_costs_no_acknowledged_write() {
    let c = Rid(7);
    let mut w = World::new(3, 64 << 20);
    w.ask(Op::CreateReplica(other(7))).unwrap();
    for u in 0..16 {
        w.put(RID, Ver::new(1, 1 + u), u * 16, &unit(1, u * 16));
    }
    w.quiesce();
    let written = (0..4000).position(|n| w.try_put(c, Ver::new(1, n + 1), n * 16, &unit(50 + n, n * 16)).is_err());
    let written = written.expect("the disk is never full") as u64;
    w.settle_space();
    assert_eq!(w.store.room().bytes, 0);
    rot(&mut w, RID);
    w.reopen();
    for u in 0..16 {
        w.try_put(RID, Ver::new(2, u + 1), u * 16, &[tagged(1000 + u, u * 16)]).unwrap();
    }
    w.settle_space();
    assert_eq!(w.failed, None);
    w.reopen();
    w.settle_space();
    assert_eq!(w.failed, None);
    for u in 0..16 {
        assert_eq!(w.look_at(RID, u * 16).1, tagged(1000 + u, u * 16));
        assert!(w.look_at(RID, u * 16 + 1).0.state.is_bad(), "what was lost stays lost");
    }
    for n in 0..written {
        assert_eq!(w.look_at(c, n * 16 + 7).1, tagged(50 + n, n * 16 + 7), "unit {n} of the other replica");
    }
    assert_eq!(w.store.stats().units_unaccounted, 0);
}

/// The same, and the power goes after the first checkpoint that makes room for the chunk whose page
/// is lost: what the checkpoint takes out of the journal must be in place.
#[test]
pub fn a_checkpoint_waits_for_a_chunk_whose_lost_page_was_given_up() {
    let c = Rid(7);
    let mut w = World::new(5, 64 << 20);
    w.ask(Op::CreateReplica(other(7))).unwrap();
    for u in 0..16 {
        w.put(RID, Ver::new(1, 1 + u), u * 16, &unit(1, u * 16));
    }
    w.quiesce();
    let full = |w: &mut World, n: u64| w.try_put(c, Ver::new(1, n + 1), n * 16, &unit(50 + n, n * 16)).is_err();
    assert!((0..4000).any(|n| full(&mut w, n)), "the disk is never full");
    w.settle_space();
    rot(&mut w, RID);
    w.reopen();
    for u in 0..16 {
        w.try_put(RID, Ver::new(2, u + 1), u * 16, &[tagged(1000 + u, u * 16)]).unwrap();
    }
    w.ask(Op::Checkpoint).unwrap();
    w.disk.crash_keeping(|_| false);
    w.reopen();
    for u in 0..16 {
        assert_eq!(w.look_at(RID, u * 16).1, tagged(1000 + u, u * 16), "unit {u}");
    }
}

/// A page that cannot be read for a while (a bus, a controller) is not lost: its units are nobody
/// else's, however many of another chunk are missed.
#[test]
pub fn a_page_that_is_readable_again_still_has_its_units() {
    let c = Rid(7);
    let mut w = World::new(4, 64 << 20);
    w.ask(Op::CreateReplica(other(7))).unwrap();
    w.settle_space();
    let free = w.store.stats().units_free;
    for u in 0..4 {
        w.put(RID, Ver::new(1, 1 + u), u * 16, &unit(1, u * 16));
        w.put(c, Ver::new(1, 1 + u), u * 16, &unit(2, u * 16));
    }
    w.settle_space();
    rot(&mut w, RID);
    let shy = pages(&w, c);
    w.disk.unreadable.extend(shy.iter().copied());
    w.reopen();
    w.ask(Op::DeleteReplica { rid: RID }).unwrap();
    w.settle_space();
    // The controller is itself again; the units that are missed are found after the next opening.
    shy.iter().for_each(|b| {
        w.disk.unreadable.remove(b);
    });
    w.reopen();
    w.ask(Op::CreateReplica(other(8))).unwrap();
    for n in 0..64 {
        w.try_put(Rid(8), Ver::new(1, n + 1), n * 16, &unit(9, n * 16)).unwrap();
    }
    w.settle_space();
    for b in 0..64 {
        assert_eq!(w.look_at(c, b).1, tagged(2, b));
    }
    for rid in [c, Rid(8)] {
        w.ask(Op::DeleteReplica { rid }).unwrap();
    }
    w.settle_space();
    assert_eq!((w.store.stats().units_free, w.failed.clone()), (free, None));
}

/// Pages are lost at random on a disk that is full most of the time, writes and deletions go on,
/// and the power goes: no acknowledged block is ever wrong (it may be reported as lost), the disk
/// never fails, and in the end every unit is free.
#[test]
pub fn lost_pages_on_a_full_disk_at_random() {
    for seed in 0..30 {
        at_random(seed);
    }
}

fn at_random(seed: u64) {
    let mut w = World::with_journal(seed, 24 << 20, 1 << 20);
    let mut rng = Rng::new(seed ^ 0x10_57);
    let total = w.store.stats().units_free;
    let mut held: std::collections::BTreeMap<(u64, u64), (Ver, u64)> = Default::default();
    let mut seqs: std::collections::BTreeMap<u64, u64> = Default::default();
    for step in 0..400u64 {
        let rid = 10 + rng.below(3);
        match rng.below(16) {
            0 if !seqs.contains_key(&rid) => {
                // (An id is never given twice.)
                w.ask(Op::CreateReplica(other(rid + step * 100))).unwrap();
                seqs.insert(rid, step * 100);
            }
            1 if rng.one_in(3) && seqs.contains_key(&rid) => {
                let generation = seqs.remove(&rid).unwrap();
                w.ask(Op::DeleteReplica { rid: Rid(rid + generation) }).unwrap();
                held.retain(|(r, _), _| *r != rid + generation);
            }
            2 => {
                w.ask(Op::Checkpoint).unwrap();
            }
            3 => {
                let all: Vec<u64> =
                    w.disk.written().into_iter().filter(|b| w.disk.block(*b)[..4] == *b"HFPG").collect();
                if let Some(b) = all.get(rng.below(all.len() as u64) as usize) {
                    w.disk.flip(*b, 100 + rng.below(30_000) as usize);
                }
            }
            4 if rng.one_in(2) => {
                let mut disk = w.disk.clone();
                disk.crash(&mut rng);
                w.disk = disk;
                w.reopen();
            }
            _ => {
                let Some(generation) = seqs.get(&rid).copied() else { continue };
                let at = rng.below(40) * 256 + rng.below(16) * 16;
                let (n, ver) = (1 + 15 * rng.below(2), Ver::new(1, step + 1));
                let blocks: Vec<Bytes> = (0..n).map(|b| tagged(step, at + b)).collect();
                match w.try_put(Rid(rid + generation), ver, at, &blocks) {
                    Ok(_) => held.extend((0..n).map(|b| ((rid + generation, at + b), (ver, step)))),
                    Err(e) => assert_eq!(e, StoreError::NoSpace, "seed {seed} step {step}"),
                }
            }
        }
        assert_eq!(w.failed, None, "seed {seed} step {step}");
    }
    for ((rid, at), (ver, tag)) in &held {
        let (info, data) = w.look_at(Rid(*rid), *at);
        let right = info.state == BlockState::Data && info.ver == *ver && data == tagged(*tag, *at);
        assert!(right || info.state.is_bad(), "seed {seed}: block {at} of {rid}: {info:?}, not {ver}");
    }
    for (rid, generation) in seqs {
        w.ask(Op::DeleteReplica { rid: Rid(rid + generation) }).unwrap();
    }
    w.settle_space();
    w.settle_space();
    assert_eq!((w.store.stats().units_free, w.failed.clone()), (total, None), "seed {seed}");
}

/// Looking through all pages takes long on a large disk: no write waits for what that may find, and
/// none behind it.
#[test]
fn nobody_waits_for_units_that_are_looked_for() {
    let c = Rid(7);
    let mut w = World::new(3, 1 << 30);
    w.ask(Op::CreateReplica(other(7))).unwrap();
    w.put(RID, Ver::new(1, 1), 0, &[tagged(1, 0)]);
    w.quiesce();
    let full = (0..20_000).find(|n| w.try_put(c, Ver::new(1, n + 1), n * 16, &[tagged(*n, n * 16)]).is_err());
    assert!(full.is_some());
    w.settle_space();
    rot(&mut w, RID);
    w.reopen();
    w.quiesce();
    w.submit(Op::DeleteReplica { rid: RID }, "delete");
    while w.store.stats().units_unaccounted == 0 && w.complete(0) {}
    let range = BlockRange::new(500_000, 1);
    let (ver, data) = (Ver::new(2, 1), tagged(2, 500_000));
    w.fly(range, Vec::new(), Op::Write { rid: c, ver, start: range.start, crcs: crc::payloads(&data), data });
    let over = w.put(c, Ver::new(2, 2), 0, &[tagged(3, 0)]);
    let reads = w.store.stats().disk_reads;
    while w.others.contains_key(&over) && w.complete(0) {}
    let s = w.store.stats();
    assert!(s.units_unaccounted > 0, "it waited for all pages: {} reads", s.disk_reads - reads);
    w.quiesce();
    w.settle_space();
    assert_eq!((w.refused, w.store.stats().units_unaccounted), (1, 0));
}

//! Disk faults: errors latch, corruption is seen in every structure, a full disk refuses alike and
//! recovers, foreign and future disks are refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::*;
use bytes::Bytes;
use hf_policy::*;
use hf_store::format::page::BlockState;
use hf_store::sim::Rng;
use hf_store::*;

fn filled(seed: u64, steps: usize) -> World {
    let mut w = World::new(seed, 24 << 20);
    for _ in 0..steps {
        w.random_step();
    }
    w.quiesce();
    w
}

#[test]
fn the_first_failed_write_stops_the_store_for_good() {
    let mut w = filled(1, 300);
    w.disk.fail_writes = true;
    w.write(BlockRange::new(0, 4));
    w.quiesce();
    assert!(w.failed.as_deref().is_some_and(|f| f.contains("EIO")));
    w.disk.fail_writes = false;
    let before = w.acked.clone();
    w.write(BlockRange::new(512, 1));
    w.quiesce();
    assert_eq!(w.acked, before, "a failed store acknowledged a write");
    assert!(w.store.failed().is_some());
}

/// Only the sync fails, once, and takes what it covered with it (as Linux does): nothing is written
/// or synced any more, nothing is acknowledged, everything is answered; and the next open finds
/// every acknowledged block, because the journal was not let go.
#[test]
fn a_failed_sync_stops_the_store_for_good() {
    for seed in 0..20 {
        let mut w = filled(2 + seed, 300);
        w.write(BlockRange::new(0, 4));
        w.quiesce();
        w.submit(Op::Checkpoint, "checkpoint");
        w.disk.fail_next_sync = true;
        w.quiesce();
        assert!(w.failed.as_deref().is_some_and(|f| f.contains("EIO of a sync")), "{:?}", w.failed);
        assert!(!w.disk.fail_next_sync);
        let (before, counted) = (w.acked.clone(), w.store.stats());
        w.write(BlockRange::new(512, 1));
        w.submit(Op::Checkpoint, "checkpoint");
        w.input(Input::Housekeep);
        assert_eq!(w.disk.pending(), 0, "a failed store goes on to use its disk");
        w.quiesce();
        assert!(w.flights.is_empty() && w.reads.is_empty() && w.others.is_empty(), "something is not answered");
        let s = w.store.stats();
        assert_eq!((s.disk_syncs, s.disk_writes), (counted.disk_syncs, counted.disk_writes), "it was tried again");
        assert_eq!(w.acked, before, "a failed store acknowledged a write");
        let mut rng = Rng::new(seed);
        w.disk.crash(&mut rng);
        let mut store = recovery::open(&mut w.disk, config()).unwrap();
        let all = read_all(&mut w.disk, &mut store, RID);
        for (b, (ver, content)) in &before {
            let (info, data) = &all[b];
            match content {
                Some(c) => assert!(info.ver == *ver && c == data, "block {b}"),
                // (Chunks that were never written need not take note of zeroes.)
                None => assert!(data.iter().all(|x| *x == 0), "block {b}"),
            }
        }
    }
}

/// Every block on the media, one at a time: a flipped bit is refused at open, or reported as bad,
/// or hits bytes that are not in use; wrong content is never returned.
#[test]
fn a_flipped_bit_anywhere_is_never_returned() {
    let (mut detected, mut refused, mut unused) = (0, 0, 0);
    for seed in 0..2 {
        let mut w = filled(20 + seed, 200);
        w.submit(Op::Checkpoint, "checkpoint");
        w.quiesce();
        for i in 0..8 {
            w.write(BlockRange::new(i * 256 + 3, 2));
        }
        w.quiesce();
        let mut rng = Rng::new(seed);
        for block in w.disk.written() {
            let mut disk = w.disk.clone();
            disk.flip(block, rng.below(4096 * 8) as usize);
            let mut store = match recovery::open(&mut disk, config()) {
                Ok(s) => s,
                Err(e) => {
                    assert!(matches!(e, OpenError::Damaged(_)), "{e}");
                    refused += 1;
                    continue;
                }
            };
            let mut any = false;
            let lost_tail = store.stats().replayed_groups < w.store.stats().groups && (16..16 + 1024).contains(&block);
            for (b, (info, data)) in read_all(&mut disk, &mut store, RID) {
                if info.state.is_bad() {
                    any = true;
                    continue;
                }
                let (_, want) = w.acked.get(&b).cloned().unwrap_or((Ver::ZERO, None));
                let right = want.map_or(data.iter().all(|x| *x == 0), |w| w == data);
                // The very last journal group has no successor that vouches for it: losing it looks
                // like a torn write.
                assert!(right || lost_tail, "media block {block}: block {b} came back wrong");
                any |= !right;
            }
            if any { detected += 1 } else { unused += 1 }
        }
    }
    println!("flipped bits: {detected} reported, {refused} refused at open, {unused} in bytes not in use");
    assert!(detected > 100 && refused > 10);
}

#[test]
fn a_lost_index_write_is_seen_when_the_disk_is_opened() {
    let (mut seen, mut caught) = (0, 0);
    for skip in 0..60 {
        let mut w = filled(77, 200);
        (w.disk.lose_next_write, w.disk.lose_after) = (true, skip);
        w.submit(Op::Checkpoint, "checkpoint");
        w.quiesce();
        // A chunk page that does not read back stops the checkpoint before the journal that could
        // repair it goes (C13).
        let unread = w.failed.as_ref().is_some_and(|why| why.contains("does not read back"));
        caught += u64::from(unread);
        let mut disk = w.disk.clone();
        disk.crash(&mut w.rng);
        match recovery::open(&mut disk, config()) {
            Err(OpenError::Damaged(why)) if unread => panic!("skip {skip}: nothing was lost yet: {why}"),
            Err(OpenError::Damaged(_)) => seen += 1,
            Err(e) => panic!("{e}"),
            Ok(mut s) => {
                for (b, (info, data)) in read_all(&mut disk, &mut s, RID) {
                    let (_, want) = w.acked.get(&b).cloned().unwrap_or((Ver::ZERO, None));
                    let right = want.map_or(data.iter().all(|x| *x == 0), |w| w == data);
                    assert!(right || info.state.is_bad(), "skip {skip}: block {b} came back wrong");
                    assert!(right || !unread, "skip {skip}: block {b} is lost although its page was missed in time");
                }
            }
        }
    }
    println!(
        "lost writes during a checkpoint: {caught} pages missed when they were read back, {seen} index pages at open"
    );
    assert!(seen > 0 && caught > 0);
}

#[test]
fn a_full_disk_refuses_new_space_takes_overwrites_and_recovers_by_trim() {
    let mut w = World::with_journal(3, 16 << 20, 11 << 20);
    let mut refused_at = None;
    for b in 0..BLOCKS / 16 {
        let before = w.refused;
        w.write(BlockRange::new(b * 16, 1));
        w.quiesce();
        if w.refused > before {
            refused_at = Some(b);
            break;
        }
    }
    let Some(full) = refused_at else { panic!("a 16 MiB disk held everything: {:?}", w.store.stats()) };
    assert!(full > 32, "{full}");
    for b in 0..full {
        let before = w.refused;
        w.write(BlockRange::new(b * 16, 1));
        w.quiesce();
        assert_eq!(w.refused, before, "an overwrite was refused on a full disk");
    }
    w.zero(BlockRange::new(0, 1024));
    w.quiesce();
    for _ in 0..3 {
        w.submit(Op::Checkpoint, "checkpoint");
        w.quiesce();
    }
    let before = w.refused;
    w.write(BlockRange::new(full * 16, 1));
    w.quiesce();
    assert_eq!(w.refused, before, "space given back by trim was not usable");
    for c in 0..8 {
        w.read(BlockRange::new(c * 256, 256));
    }
    w.quiesce();
}

#[test]
fn an_older_or_repeated_write_leaves_newer_blocks_alone() {
    let mut w = World::new(4, 24 << 20);
    for checkpoint in [false, true] {
        w.write(BlockRange::new(0, 8));
        w.quiesce();
        w.write(BlockRange::new(2, 2));
        w.quiesce();
        if checkpoint {
            w.submit(Op::Checkpoint, "checkpoint");
            w.quiesce();
        }
        // Repeat the first write, with its version: nothing may change.
        let old = Ver::new(w.term, w.seq - 1);
        let data = Bytes::from(vec![9u8; 8 * 4096]);
        let crcs = crc::payloads(&data);
        w.submit(Op::Write { rid: RID, ver: old, start: BlockIx(0), data, crcs }, "repeat");
        w.submit(Op::Zero { rid: RID, ver: old, range: BlockRange::new(0, 600), keep: false }, "repeated zero");
        w.quiesce();
        w.read(BlockRange::new(0, 8));
        w.quiesce();
    }
}

#[test]
fn a_deleted_replica_gives_all_its_space_back_even_over_a_crash() {
    for crash in [false, true] {
        let mut w = filled(6, 800);
        w.submit(Op::DeleteReplica { rid: RID }, "delete");
        if crash {
            while w.others.values().any(|o| *o == "delete") {
                w.complete_one();
            }
            w.disk.crash(&mut w.rng);
            w.others.clear();
            w.store = recovery::open(&mut w.disk, config()).unwrap();
            w.store.start(&mut w.out);
            w.input(Input::Housekeep);
        }
        w.quiesce();
        for _ in 0..4 {
            w.submit(Op::Checkpoint, "checkpoint");
            w.quiesce();
        }
        let s = w.store.stats();
        assert_eq!((s.units_free, w.store.replicas().count()), (s.units_total, 0), "{s:?}");
        assert!(w.store.replica(RID).is_none());
        w.submit(Op::CreateReplica(rec()), "create again");
        w.quiesce();
        w.acked.clear();
        w.read(BlockRange::new(0, 256));
        w.quiesce();
    }
}

#[test]
fn foreign_future_and_shrunk_disks_are_refused_with_words() {
    let mut w = filled(7, 10);
    let again = recovery::format(&mut w.disk, params());
    assert_eq!(again, Err(OpenError::InUse(ClusterId(1))));
    let mut empty = hf_store::sim::SimDisk::new(24 << 20);
    assert!(matches!(recovery::open(&mut empty, config()), Err(OpenError::NotOurs)));
    assert!(matches!(
        recovery::format(&mut hf_store::sim::SimDisk::new(1 << 20), params()),
        Err(OpenError::TooSmall(_))
    ));
    // A future version, properly sealed.
    for i in 0..4 {
        let mut b = w.disk.block(i).to_vec();
        if b.iter().all(|x| *x == 0) {
            continue;
        }
        b[8..12].copy_from_slice(&99u32.to_le_bytes());
        b[12..16].fill(0);
        let crc = crc32fast::hash(&b);
        b[12..16].copy_from_slice(&crc.to_le_bytes());
        w.disk.set_block(i, Bytes::from(b));
    }
    let e = recovery::open(&mut w.disk, config()).err().unwrap();
    assert!(matches!(e, OpenError::TooNew(99)) && e.to_string().contains("upgrade"), "{e}");
}

/// Large overwrites go to fresh units; while the old ones wait for a checkpoint, a disk that is
/// more than half full must make them wait, not refuse them.
#[test]
fn overwriting_most_of_a_disk_is_never_refused() {
    let mut w = World::with_journal(8, 16 << 20, 4 << 20);
    for round in 0..6u64 {
        for chunk in 0..7 {
            let r = BlockRange::new(chunk * 256, 256);
            w.write(r);
            if round % 2 == 1 {
                w.complete_one();
            } else {
                w.quiesce();
            }
        }
        w.quiesce();
    }
    assert_eq!((w.refused, w.failed.clone()), (0, None), "{:?}", w.store.stats());
    for chunk in 0..7 {
        w.read(BlockRange::new(chunk * 256, 256));
    }
    w.quiesce();
    assert_eq!(w.reads_checked, 7);
}

/// C3: a late write, parts of which are overtaken already, becomes several records; a crash keeps
/// all of them or none.
#[test]
fn a_late_write_in_several_runs_is_all_or_nothing_over_a_crash() {
    let (mut all, mut none) = (0, 0);
    for seed in 0..300 {
        let mut w = World::new(seed, 24 << 20);
        let late = w.next_ver();
        for at in [2, 40, 90, 130] {
            w.write(BlockRange::new(at, 2));
        }
        w.quiesce();
        let range = BlockRange::new(0, 200);
        let parts: Vec<Bytes> = range.iter().map(|b| tagged(999, b.0)).collect();
        let data = Bytes::from(parts.concat());
        let crcs = crc::payloads(&data);
        w.submit(Op::Write { rid: RID, ver: late, start: BlockIx(0), data, crcs }, "late");
        for _ in 0..seed % 5 {
            w.complete_one();
        }
        let mut disk = w.disk.clone();
        disk.crash(&mut w.rng);
        let mut s = recovery::open(&mut disk, config()).unwrap();
        let got = read_all(&mut disk, &mut s, RID);
        let fresh: Vec<bool> =
            range.iter().filter(|b| !w.acked.contains_key(&b.0)).map(|b| got[&b.0].0.ver == late).collect();
        assert!(fresh.iter().all(|f| *f) || !fresh.iter().any(|f| *f), "seed {seed}: half of it");
        if fresh[0] { all += 1 } else { none += 1 }
    }
    println!("all {all}, none {none}");
    assert!(all > 20 && none > 20, "all {all}, none {none}");
}

/// A sync takes a replica back to the survivors' history: data that only this replica had trimmed
/// comes back, block by block, also under a newer trim of the whole chunk; and what nobody has is
/// bad, not old.
#[test]
fn a_copy_can_put_back_what_a_lost_history_trimmed_and_mark_what_nobody_has() {
    use hf_store::Content as C;
    for (checkpoint, crash) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut w = World::new(8, 24 << 20);
        w.write(BlockRange::new(0, 30));
        w.quiesce();
        let old = Ver::new(w.term, w.seq);
        w.zero(BlockRange::new(0, 256));
        w.quiesce();
        let trim = Ver::new(w.term, w.seq);
        if checkpoint {
            w.submit(Op::Checkpoint, "checkpoint");
            w.quiesce();
        }
        w.term += 1;
        w.submit(Op::UpdateReplica(ReplicaRec { promised_term: Term(w.term), ..rec() }), "promise");
        let data = tagged(4711, 3);
        let item = |b: u64, content: C| CopyItem { block: BlockIx(b), seen: trim, src: old, content, repair: false };
        let items = vec![
            item(3, C::Data(crc::payload(&data), data.clone())),
            item(4, C::Bad),
            CopyItem { src: Ver::ZERO, ..item(5, C::Zero) },
        ];
        w.submit(Op::Copy { rid: RID, term: Term(w.term), items }, "copy");
        w.quiesce();
        if checkpoint {
            w.submit(Op::Checkpoint, "checkpoint");
            w.quiesce();
        }
        let mut disk = w.disk.clone();
        if crash {
            disk.crash(&mut w.rng);
        }
        let mut s = recovery::open(&mut disk, config()).unwrap();
        let all = read_all(&mut disk, &mut s, RID);
        assert_eq!((all[&3].0.ver, &all[&3].1), (old, &data), "checkpoint {checkpoint}, crash {crash}");
        assert_eq!((all[&4].0.ver, all[&4].0.state), (old, BlockState::Bad));
        assert_eq!((all[&5].0.ver, all[&5].0.state), (Ver::ZERO, BlockState::Zero));
        for b in [0, 2, 6, 255] {
            assert!(
                all[&b].0.ver == trim && matches!(all[&b].0.state, BlockState::Absent | BlockState::Zero),
                "block {b}: {:?}",
                all[&b].0
            );
        }
    }
}

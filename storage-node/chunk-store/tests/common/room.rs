//! Disks that are nearly full: what there is room for goes, and what only has to wait for space
//! waits.
#![allow(dead_code)]

use crate::common::{RID, World, config, rec, tagged};
use bytes::Bytes;
use hf_policy::*;
use hf_store::sim::Rng;
use hf_store::{Answer, Config, DiskOp, Input, Op, Output, ReplicaRec, StoreError};

/// A second replica, with room for more than any disk here holds.
const BIG: Rid = Rid(7);

fn world(size: u64) -> World {
    let mut w = World::with(1, size, 4 << 20, Config { overlay_bytes: 8 << 20, ..config() });
    let shard = ShardId { vol: VolumeId(7), index: 0 };
    w.ask(Op::CreateReplica(ReplicaRec { rid: BIG, store_uuid: StoreUuid(79), shard, blocks: 256 * 4096, ..rec() }))
        .unwrap();
    w
}

fn write(rid: Rid, seq: u64, range: BlockRange) -> Op {
    let data = Bytes::from(range.iter().map(|b| tagged(seq, b.0).to_vec()).collect::<Vec<_>>().concat());
    Op::Write { rid, ver: Ver::new(1, seq), start: range.start, crcs: crc::payloads(&data), data }
}

/// Writes a request's parts as a coordinator does.
fn request(w: &mut World, seq: u64, range: BlockRange) -> Result<(), StoreError> {
    for (i, (_, part)) in range.by_chunk().enumerate() {
        w.ask(write(BIG, seq + i as u64, part))?;
    }
    Ok(())
}

/// Fills units of the big replica, from a chunk on, until the disk refuses; how many.
fn fill(w: &mut World, from: u64) -> u64 {
    for n in 0.. {
        let range = BlockRange::new(from * 256 + n * 16, 1);
        match w.ask(write(BIG, 1 + n, range)) {
            Ok(_) => {}
            Err(StoreError::NoSpace) => return n,
            Err(e) => panic!("{e}"),
        }
    }
    0
}

/// What the big replica's request needs, summed as a coordinator sums it.
fn needs(w: &World, range: BlockRange) -> Space {
    let parts = range.by_chunk().map(|(_, part)| w.store.needs(BIG, part).unwrap());
    parts.fold(Space::NONE, |sum, n| sum.plus(Space::of_needs(n.to_needs())))
}

fn covered(w: &World, need: Space) -> bool {
    Space::of_credit(w.store.credit()).covers(need)
}

/// Requests of every size up to the largest that is advertised go onto an empty small disk; all of
/// its data space can be used.
pub fn an_empty_disk_takes_requests_of_every_size() {
    for mib in [1, 2, 4, 8, 16, 31, 32] {
        let mut w = world(100 << 20);
        let (mut seq, mut at, mut taken) = (1, 128, 0);
        loop {
            let range = BlockRange::new(at, mib * 256);
            if !covered(&w, needs(&w, range)) {
                break;
            }
            request(&mut w, seq, range)
                .unwrap_or_else(|e| panic!("{mib} MiB at block {at}, for which there is room: {e}"));
            (seq, at, taken) = (seq + 100, at + u64::from(range.len), taken + u64::from(mib));
        }
        let units = (w.store.stats().units_total * UNIT_BYTES) >> 20;
        assert!(
            taken + u64::from(mib) + 3 > units * 98 / 100,
            "requests of {mib} MiB: {taken} of {units} MiB were taken"
        );
    }
}

/// Where chunk entries run low before units do, a request goes if and only if there are as many as
/// it needs.
pub fn entries_that_run_low_are_counted_as_entries() {
    let mut w = world(100 << 20);
    let mut seq = 1;
    // An entry each, but no unit.
    let mut chunk = 1000;
    while w.store.room().chunks > 4 {
        let range = BlockRange::new(chunk * 256, 1);
        w.ask(Op::Zero { rid: BIG, ver: Ver::new(1, seq), range, keep: true }).unwrap();
        (seq, chunk) = (seq + 1, chunk + 1);
    }
    let five = BlockRange::new(0, 5 * 256);
    assert!(!covered(&w, needs(&w, five)), "an entry is lacking");
    let four = BlockRange::new(0, 4 * 256);
    assert!(covered(&w, needs(&w, four)), "{:?} for {:?}", w.store.room(), needs(&w, four));
    request(&mut w, seq, four).unwrap();
    // No entry is left, and 80 MiB are: chunks that have an entry take them.
    let old = BlockRange::new(1000 * 256, 32 * 256);
    assert!(covered(&w, needs(&w, old)), "{:?} for {:?}", w.store.room(), needs(&w, old));
    request(&mut w, seq + 100, old).unwrap();
    assert!(!covered(&w, needs(&w, BlockRange::new(4 * 256, 1))));
}

/// Space that was zeroed, or that counts twice until pages know of fresh units, is room: the write
/// waits for a checkpoint.
pub fn what_comes_back_is_room() {
    // Half the disk is overwritten by large writes, which take fresh units first.
    let mut w = world(40 << 20);
    let half = BlockRange::new(0, 14 * 256);
    request(&mut w, 1, half).unwrap();
    w.ask(Op::Checkpoint).unwrap();
    request(&mut w, 100, half).unwrap();
    let new = BlockRange::new(100 * 256, 8 * 256);
    assert!(covered(&w, needs(&w, new)), "overwritten: {:?} for {:?}", w.store.room(), needs(&w, new));
    request(&mut w, 200, new).unwrap();
    // All of it is zeroed.
    let mut w = world(40 << 20);
    let n = fill(&mut w, 0);
    w.ask(Op::Checkpoint).unwrap();
    w.ask(Op::Zero { rid: BIG, ver: Ver::new(2, 1), range: BlockRange::new(0, 256 * 4096), keep: false }).unwrap();
    let new = BlockRange::new(100 * 256, (n / 32 * 16) as u32 * 16);
    assert!(covered(&w, needs(&w, new)), "zeroed: {:?} for {:?}", w.store.room(), needs(&w, new));
    for (i, (_, part)) in new.by_chunk().enumerate() {
        let Op::Write { rid, start, data, crcs, .. } = write(BIG, 1, part) else { return };
        w.ask(Op::Write { rid, ver: Ver::new(2, 10 + i as u64), start, data, crcs }).unwrap();
    }
}

/// What must look at what is there waits for space that is on its way back, as other writes do.
pub fn slow_operations_wait_for_space() {
    let mut w = world(40 << 20);
    // A replica whose chunk has a newer block, so that later writes to it have to look.
    w.ask(write(RID, 50, BlockRange::new(0, 1))).unwrap();
    fill(&mut w, 0);
    w.ask(Op::Checkpoint).unwrap();
    assert_eq!(w.ask(write(RID, 40, BlockRange::new(32, 1))), Err(StoreError::NoSpace), "nothing is on its way back");
    w.ask(Op::Zero { rid: BIG, ver: Ver::new(2, 1), range: BlockRange::new(0, 256 * 8), keep: false }).unwrap();
    assert_eq!(w.ask(write(RID, 40, BlockRange::new(32, 1))), Ok(Answer::Done), "older than its chunk, on a full disk");
}

/// A write in flight relies on its page's unit; a destage that finds nothing in it must not give it
/// away.
pub fn a_unit_stays_while_a_write_to_it_is_in_flight() {
    let mut w = world(24 << 20);
    w.ask(write(RID, 1, BlockRange::new(0, 1))).unwrap();
    fill(&mut w, 0);
    w.ask(Op::Checkpoint).unwrap();
    w.ask(Op::Zero { rid: RID, ver: Ver::new(1, 2), range: BlockRange::new(0, 256), keep: false }).unwrap();
    // Its group stays on its way while a checkpoint destages the zero.
    w.store.step(Input::Op { id: 1 << 40, op: write(RID, 3, BlockRange::new(0, 1)) }, &mut w.out);
    w.store.check();
    let group = |o: &Output| matches!(o, Output::Disk { op: DiskOp::Write { durable: true, .. }, .. });
    let at = w.out.iter().position(group).expect("a journal group");
    let Output::Disk { tag, op: DiskOp::Write { off, bufs, .. } } = w.out.remove(at) else { return };
    w.ask(Op::Checkpoint).unwrap();
    // Whatever was freed is taken by others.
    let mut rng = Rng::new(1);
    for n in 0..4 {
        let range = BlockRange::new((2000 + n) * 256 + rng.below(16) * 16, 1);
        let _ = w.ask(write(BIG, 10_000 + n, range));
    }
    hf_store::RawDisk::write(&mut w.disk, off, &bufs.concat()).unwrap();
    w.store.step(Input::DiskDone { tag, result: Ok(Bytes::new()) }, &mut w.out);
    w.store.check();
    w.out.retain(|o| !matches!(o, Output::Done { id, .. } if *id == 1 << 40));
    w.ask(Op::Checkpoint).unwrap();
    assert_eq!(w.store.failed(), None, "an acknowledged write has no place to go");
}

/// What a zero has made free is room until something new is written there: such a write takes it,
/// applied or still in flight.
pub fn what_was_zeroed_is_room_once() {
    let (zeroed, other) = (BlockRange::new(0, 256), BlockRange::new(2000 * 256, 256));
    // (One block of each unit: these writes go in place.)
    let again = |seq: u64| (0..16).map(move |u| write(BIG, seq + u, BlockRange::new(u * 16, 1)));
    let full = || {
        let mut w = world(40 << 20);
        fill(&mut w, 0);
        w.ask(Op::Checkpoint).unwrap();
        w.ask(Op::Zero { rid: BIG, ver: Ver::new(1, 20_000), range: zeroed, keep: false }).unwrap();
        w
    };
    // One request for both.
    let w = full();
    assert!(covered(&w, needs(&w, zeroed)) && covered(&w, needs(&w, other)));
    assert!(!covered(&w, needs(&w, zeroed).plus(needs(&w, other))), "the same space twice");
    // One after the other, while the first is in flight.
    let mut w = full();
    for (i, op) in again(20_001).enumerate() {
        w.store.step(Input::Op { id: (1 << 40) + i as u64, op }, &mut w.out);
        w.store.check();
    }
    assert!(!covered(&w, needs(&w, other)), "what is in flight takes it: {:?}", w.store.room());
    assert_eq!(needs(&w, zeroed), Space::NONE, "it has it already");
}

/// A file system trims what it has freed in parts of chunks: a full disk has room for as much as
/// that, at once and only once.
pub fn parts_of_chunks_that_were_zeroed_are_room() {
    let mut w = world(40 << 20);
    let n = fill(&mut w, 0);
    w.ask(Op::Checkpoint).unwrap();
    let chunks = (n / 16).min(16);
    let before = w.store.room().bytes;
    let mut seq = 20_000;
    for chunk in 0..chunks {
        // Every second unit, in two pieces, the first of them twice; of the last unit all but the
        // block that has data.
        for unit in (0..16).step_by(2) {
            let at = chunk * 256 + unit * 16;
            let skip = u32::from(unit == 14);
            let first = BlockRange::new(at + u64::from(skip), 8 - skip);
            for range in [first, first, BlockRange::new(at + 8, 8)] {
                seq += 1;
                w.ask(Op::Zero { rid: BIG, ver: Ver::new(1, seq), range, keep: seq % 3 == 0 }).unwrap();
            }
        }
    }
    let units = chunks * 7;
    assert_eq!(w.store.room().bytes - before, units * (64 << 10), "as many units as are zero");
    // One of them is written again, another is being written: those are no room any longer.
    for unit in [0, 2] {
        w.ask(write(BIG, seq + 1 + unit, BlockRange::new(unit * 16, 1))).unwrap();
    }
    assert_eq!(w.store.room().bytes - before, (units - 2) * (64 << 10));
    // The rest takes new data, and no more.
    let mut taken = 0;
    while covered(&w, needs(&w, BlockRange::new(3000 * 256 + taken * 16, 1))) {
        w.ask(write(BIG, 30_000 + taken, BlockRange::new(3000 * 256 + taken * 16, 1))).unwrap();
        taken += 1;
    }
    assert_eq!(taken, units - 2 + before / (64 << 10));
    w.ask(Op::Checkpoint).unwrap();
    assert_eq!(w.store.failed(), None);
}

/// A repeated zero only waits for the journal: it must not leave a promise behind that nobody
/// keeps.
pub fn a_promise_ends_with_what_it_was_for() {
    let mut w = world(40 << 20);
    w.ask(Op::Checkpoint).unwrap();
    let free = w.store.stats().units_free;
    let zero = Op::Zero { rid: RID, ver: Ver::new(1, 2), range: BlockRange::new(0, 256), keep: false };
    w.ask(write(RID, 1, BlockRange::new(48, 1))).unwrap();
    w.ask(zero.clone()).unwrap();
    // Journal groups stay on their way while a checkpoint destages the zero.
    let mut held = Vec::new();
    for (i, op) in [write(RID, 3, BlockRange::new(512, 1)), zero].into_iter().enumerate() {
        w.store.step(Input::Op { id: (1 << 40) + i as u64, op }, &mut w.out);
        w.store.check();
        held.append(&mut w.out);
    }
    let group = |o: &Output| matches!(o, Output::Disk { op: DiskOp::Write { durable: true, .. }, .. });
    assert!(held.len() == 2 && held.iter().all(group), "{held:?}");
    w.ask(Op::Checkpoint).unwrap();
    for o in held {
        let Output::Disk { tag, op: DiskOp::Write { off, bufs, .. } } = o else { return };
        hf_store::RawDisk::write(&mut w.disk, off, &bufs.concat()).unwrap();
        w.store.step(Input::DiskDone { tag, result: Ok(Bytes::new()) }, &mut w.out);
        w.store.check();
        w.out.retain(|o| !matches!(o, Output::Done { .. }));
    }
    for _ in 0..3 {
        w.ask(Op::Checkpoint).unwrap();
    }
    assert_eq!(w.store.stats().units_free, free - 1);
    assert!(w.store.is_clean());
}

/// What waited behind a write for which there is no room in the end goes on by itself, also if it
/// has to look at what is there.
pub fn who_waited_behind_a_refused_write_is_answered() {
    let mut w = world(24 << 20);
    w.ask(write(RID, 1, BlockRange::new(3 * 256, 1))).unwrap();
    fill(&mut w, 0);
    w.ask(Op::Checkpoint).unwrap();
    // One unit is on its way back; the write needs two.
    w.ask(Op::Zero { rid: RID, ver: Ver::new(1, 2), range: BlockRange::new(3 * 256, 256), keep: false }).unwrap();
    let range = BlockRange::new(3000 * 256, 32);
    w.fly(range, Vec::new(), write(BIG, 30_000, range));
    w.submit(Op::Versions { rid: RID, chunk: ChunkIx(0) }, "versions");
    w.quiesce();
    assert_eq!(w.refused, 1);
}

/// What a replica takes is known of each, rises with what is written once that is in place, falls with what is
/// zeroed, and is the same after the disk was opened anew. Together they are what the disk has in use.
pub fn each_replica_is_counted_at_the_units_that_its_data_takes() {
    const UNIT: u64 = 64 << 10;
    let mut w = world(64 << 20);
    let in_use = |w: &World| (w.store.stats().units_total - w.store.stats().units_free) * UNIT;
    assert_eq!((w.store.bytes_of(RID), w.store.bytes_of(BIG), w.store.bytes_of(Rid(99))), (0, 0, 0));
    w.ask(write(BIG, 1, BlockRange::new(0, 1))).unwrap();
    w.ask(write(BIG, 2, BlockRange::new(256 * 9 + 15, 2))).unwrap();
    w.ask(write(RID, 3, BlockRange::new(0, 256))).unwrap();
    w.settle_space();
    assert_eq!((w.store.bytes_of(RID), w.store.bytes_of(BIG)), (16 * UNIT, 3 * UNIT));
    assert_eq!(w.store.bytes_of(RID) + w.store.bytes_of(BIG), in_use(&w));
    // What is there already takes nothing more.
    w.ask(write(BIG, 4, BlockRange::new(1, 14))).unwrap();
    w.ask(Op::Zero { rid: RID, ver: Ver::new(1, 5), range: BlockRange::new(32, 64), keep: false }).unwrap();
    w.settle_space();
    assert_eq!((w.store.bytes_of(RID), w.store.bytes_of(BIG)), (12 * UNIT, 3 * UNIT));
    w.reopen();
    assert_eq!((w.store.bytes_of(RID), w.store.bytes_of(BIG)), (12 * UNIT, 3 * UNIT));
    w.ask(Op::DeleteReplica { rid: BIG }).unwrap();
    w.settle_space();
    assert_eq!((w.store.bytes_of(BIG), in_use(&w)), (0, 12 * UNIT));
    w.store.check();
}

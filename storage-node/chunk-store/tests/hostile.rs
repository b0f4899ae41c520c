//! Payload that looks like the store's own structures. Clients write what they like: copies of a
//! disk, of another one or of this very one read raw, and things made up with the aim to harm.
//! Nothing of that is ever taken for structure, and all of it comes back as it was written, over
//! any crash.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common::*;
use bytes::Bytes;
use hf_policy::*;
use hf_store::format::group::{Body, Group, Record};
use hf_store::format::index;
use hf_store::format::page::{Page, PageId};
use hf_store::sim::{Rng, SimDisk};
use hf_store::*;
use std::collections::BTreeMap;

const JOURNAL: std::ops::Range<u64> = 16..16 + 1024;

/// A header that claims to be the newest, and that everything before it was durable.
fn newest_header(salt: Salt, seq: u64, records: Vec<Record>) -> Bytes {
    let g = Group {
        journal_gen: u64::MAX / 2,
        seq,
        prev_crc: 0,
        acked_through: seq - 1,
        checkpoint: u64::MAX / 2,
        payload_blocks: 0,
        masked: Default::default(),
        records,
    };
    g.encode_header(salt).0
}

/// Writes each of these blocks in turn, until the journal has gone round more than once; reads say
/// what they were given.
fn write_over_and_over(w: &mut World, blocks: &[Bytes], writes: u64) -> BTreeMap<u64, (Ver, Bytes)> {
    let mut held = BTreeMap::new();
    for i in 0..writes {
        let (at, bytes) = (i % 1024, blocks[i as usize % blocks.len()].clone());
        let ver = w.next_ver();
        w.put(RID, ver, at, std::slice::from_ref(&bytes));
        w.quiesce();
        held.insert(at, (ver, bytes));
    }
    held
}

/// The disk opens, and holds exactly this.
fn holds(disk: &mut SimDisk, held: &BTreeMap<u64, (Ver, Bytes)>, context: &str) {
    let mut store = recovery::open(disk, config()).unwrap_or_else(|e| panic!("{context}: {e}"));
    let all = read_all(disk, &mut store, RID);
    for (b, (ver, bytes)) in held {
        assert_eq!(all[b].0.ver, *ver, "{context}: block {b}");
        assert_eq!(all[b].1, bytes, "{context}: block {b}");
    }
}

/// Every kind of block that lies on a disk, and some that are made up.
fn lookalikes(disk: &SimDisk) -> Vec<Bytes> {
    let written = disk.written();
    let magic =
        |m: &[u8]| written.iter().map(|b| disk.block(*b)).filter(|b| b.starts_with(m)).take(40).collect::<Vec<_>>();
    let mut all: Vec<Bytes> =
        [&b"HFJ1"[..], b"HFJ2", b"HFIX", b"HFPG", b"HOLDFAST"].into_iter().flat_map(magic).collect();
    let dead = Record {
        replica: 0,
        rid: RID,
        range: BlockRange::default(),
        ver: Ver::ZERO,
        body: Body::Replica(Box::new(ReplicaRec { deleting: true, ..rec() })),
    };
    for seq in [3, 1000, u64::MAX / 2] {
        all.push(newest_header(Salt::NONE, seq, Vec::new()));
        all.push(newest_header(Salt(77), seq, Vec::new()));
        all.push(newest_header(Salt(77), seq, vec![dead.clone()]));
    }
    all.push(Bytes::from(Page::default().encode(PageId { shard: rec().shard, rid: RID, chunk: 0 }).0));
    all.push(Bytes::from(index::encode_page(DiskUuid(9), Salt(77), 0, u64::MAX, &[]).0));
    all
}

/// A guest writes blocks that look like a header with a number far ahead; the disk stops in order,
/// and opens again.
#[test]
pub fn made_up_headers_do_not_take_a_disk_down() {
    let mut w = World::new(1, 64 << 20);
    let evil = [newest_header(Salt::NONE, u64::MAX / 2, Vec::new()), newest_header(Salt(77), u64::MAX / 2, Vec::new())];
    let held = write_over_and_over(&mut w, &evil, 1600);
    w.ask(Op::Checkpoint).unwrap();
    w.quiesce();
    assert!(w.store.is_clean());
    holds(&mut w.disk, &held, "after a clean stop");
}

/// A volume holds the copy of a disk, and that copy is of another disk or of this one as it was a
/// moment ago.
#[test]
pub fn copies_of_disks_inside_a_volume_are_payload() {
    let mut other = World::formatted(2, 64 << 20, FormatParams { salt: Salt(4711), ..params() }, config());
    (0..300).for_each(|b| other.write(BlockRange::new(b, 1)));
    other.quiesce();
    other.ask(Op::Checkpoint).unwrap();
    let old = World::version_1(2, 64 << 20);
    let mut w = World::new(3, 64 << 20);
    (0..300).for_each(|b| w.write(BlockRange::new(b, 1)));
    w.quiesce();
    let mut copies = lookalikes(&other.disk);
    copies.extend(lookalikes(&old.disk));
    copies.extend(lookalikes(&w.disk));
    let mut rng = Rng::new(5);
    let mut held = BTreeMap::new();
    for round in 0..4 {
        held = write_over_and_over(&mut w, &copies, 1100);
        // (What was just written to the journal is read raw, and is written once more.)
        copies.extend(JOURNAL.map(|b| w.disk.block(b)).filter(|b| b.starts_with(b"HFJ")).take(40));
        holds(&mut w.disk.clone(), &held, &format!("round {round}, process killed"));
        let mut disk = w.disk.clone();
        disk.crash(&mut rng);
        holds(&mut disk, &held, &format!("round {round}, power lost"));
    }
    w.ask(Op::Checkpoint).unwrap();
    w.quiesce();
    holds(&mut w.disk, &held, "after a clean stop");
}

/// A disk is put back from an older copy (a snapshot of the machine), and its guests hold what its
/// journal wrote after that copy: true headers of this very disk, newer than all it knows.
#[test]
pub fn headers_from_a_disks_own_future_are_payload() {
    let mut w = World::new(6, 64 << 20);
    w.write(BlockRange::new(0, 1));
    w.quiesce();
    let copy = w.disk.clone();
    (0..5).for_each(|_| w.reopen());
    (0..900).for_each(|b| {
        w.write(BlockRange::new(b, 1));
        w.quiesce();
    });
    let future: Vec<Bytes> = JOURNAL.map(|b| w.disk.block(b)).filter(|b| b.starts_with(b"HFJ2")).collect();
    assert!(future.len() > 100, "{}", future.len());
    let newest = future[future.len() - 40..].to_vec();
    w.disk = copy;
    w.reopen();
    w.acked.clear();
    let held = write_over_and_over(&mut w, &newest, 700);
    holds(&mut w.disk.clone(), &held, "process killed");
    w.ask(Op::Checkpoint).unwrap();
    w.quiesce();
    holds(&mut w.disk, &held, "after a clean stop");
}

/// A disk of version 1 opens as before. From then on it has a salt: what guests write later harms
/// it no more, while groups of before are still in its journal and after they have left it.
#[test]
pub fn a_disk_of_version_1_gets_a_salt_when_it_is_opened() {
    let mut w = World::version_1(7, 64 << 20);
    // (Among them what will look like groups of version 2, of a journal far ahead.)
    let early = [newest_header(Salt(77), u64::MAX / 2, Vec::new()), tagged(2, 2)];
    let first = write_over_and_over(&mut w, &early, 1600);
    holds(&mut w.disk.clone(), &first, "version 1");
    w.store = recovery::open(&mut w.disk, config()).unwrap();
    assert!(w.store.superblock().salt.is_none());
    w.store.upgrade(Salt(99));
    w.store.upgrade(Salt(100));
    let mut out = Vec::new();
    w.store.start(&mut out);
    w.out = out;
    w.input(Input::Housekeep);
    w.quiesce();
    assert_eq!(w.store.superblock().salt, Salt(99), "a salt is given once");
    holds(&mut w.disk.clone(), &first, "just upgraded, the journal all of version 1");
    let versions: Vec<u8> = (0..4).map(|b| w.disk.block(b)[8]).collect();
    assert_eq!(versions, [2, 2, 2, 2], "no superblock is left that knows of no salt");
    let evil = [newest_header(Salt::NONE, u64::MAX / 2, Vec::new()), newest_header(Salt(77), 5000, Vec::new())];
    let mut held = first.clone();
    held.extend(write_over_and_over(&mut w, &evil, 200));
    holds(&mut w.disk.clone(), &held, "groups of both versions");
    held.extend(write_over_and_over(&mut w, &evil, 1500));
    w.ask(Op::Checkpoint).unwrap();
    w.quiesce();
    holds(&mut w.disk.clone(), &held, "only groups of version 2");
    w.reopen();
    w.ask(Op::Checkpoint).unwrap();
    holds(&mut w.disk.clone(), &held, "opened once more");
}

/// Groups of before the upgrade had all been replayed when the disk got its salt: one that cannot
/// be read later is damage.
#[test]
fn a_group_from_before_the_upgrade_that_is_gone_is_damage() {
    let mut w = World::version_1(8, 64 << 20);
    write_over_and_over(&mut w, &[tagged(1, 1)], 20);
    w.store = recovery::open(&mut w.disk, config()).unwrap();
    w.store.upgrade(Salt(99));
    let mut out = Vec::new();
    w.store.start(&mut out);
    w.out = out;
    w.input(Input::Housekeep);
    while w.complete(0) {}
    let headers: Vec<u64> = JOURNAL.filter(|b| w.disk.block(*b).starts_with(b"HFJ1")).collect();
    w.disk.flip(headers[headers.len() - 1], 300);
    match recovery::open(&mut w.disk, config()).map(|_| ()) {
        Err(OpenError::Damaged(why)) => assert!(why.contains("was durable and cannot be read"), "{why}"),
        other => panic!("{other:?}"),
    }
}

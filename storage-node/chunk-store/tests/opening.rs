//! Opening a disk: one test per row of the decision tables in docs/disk-format.md, and bytes that
//! pin format version 1.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::*;
use hf_policy::BlockRange;
use hf_store::format::group::Group;
use hf_store::format::index;
use hf_store::format::superblock::Superblock;
use hf_store::sim::SimDisk;
use hf_store::{Op, OpenError, RawDisk, Salt, recovery};

const JOURNAL_BLOCK: u64 = hf_store::geometry::JOURNAL_OFF / 4096;

/// Two checkpoints and some groups behind the last one.
fn used() -> World {
    used_on(World::new(3, 24 << 20))
}

fn used_on(mut w: World) -> World {
    for round in 0..3 {
        for i in 0..6 {
            w.write(BlockRange::new(round * 40 + i * 5, 4));
            w.quiesce();
        }
        if round < 2 {
            w.submit(Op::Checkpoint, "checkpoint");
            w.quiesce();
        }
    }
    w
}

fn refused(disk: &mut SimDisk, words: &str) {
    match recovery::open(disk, config()) {
        Err(OpenError::Damaged(why)) => assert!(why.contains(words), "{why}"),
        Err(e) => panic!("{e} instead of {words}"),
        Ok(_) => panic!("opened in spite of: {words}"),
    }
}

/// Opens, and every acknowledged block is there.
fn opens(w: &mut World) {
    let mut store = recovery::open(&mut w.disk, config()).unwrap();
    let all = read_all(&mut w.disk, &mut store, RID);
    for (b, (ver, bytes)) in &w.acked {
        assert_eq!(all[b].0.ver, *ver, "block {b}");
        assert_eq!(Some(&all[b].1), bytes.as_ref(), "block {b}");
    }
}

fn newest(disk: &SimDisk) -> Superblock {
    let copies = (0..4).filter_map(|i| Superblock::decode(&disk.block(i)).ok());
    copies.max_by_key(|s| s.generation).unwrap()
}

#[test]
fn any_one_superblock_copy_may_be_damaged() {
    for i in 0..4 {
        let mut w = used();
        w.disk.flip(i, 99);
        opens(&mut w);
    }
}

#[test]
fn no_superblock_copy_left_is_damage_not_an_empty_disk() {
    let mut w = used();
    (0..4).for_each(|i| w.disk.flip(i, 500));
    refused(&mut w.disk, "no superblock copy verifies");
}

#[test]
fn a_lost_newest_superblock_is_noticed_by_what_the_journal_names() {
    let mut w = used();
    let sb = newest(&w.disk);
    for i in 0..4 {
        if Superblock::decode(&w.disk.block(i)).is_ok_and(|s| s.generation == sb.generation) {
            w.disk.flip(i, 500);
        }
    }
    refused(&mut w.disk, "newest superblock is lost");
}

#[test]
fn a_disk_that_shrank_is_refused() {
    let w = used();
    let mut small = SimDisk::new(20 << 20);
    (0..4).for_each(|i| small.set_block(i, w.disk.block(i)));
    refused(&mut small, "has 20971520 now");
}

#[test]
fn an_index_page_that_does_not_verify_is_refused() {
    let mut w = used();
    let sb = newest(&w.disk);
    let page = sb.geometry.index_off(sb.half) / 4096;
    w.disk.flip(page, 77);
    refused(&mut w.disk, "does not verify");
    // In another place it is another page, however whole it is.
    let mut w = used();
    let other = w.disk.block(page + 1);
    w.disk.set_block(page, other);
    refused(&mut w.disk, "does not verify");
}

/// Rewrites the index with changed pages, properly sealed and named by the superblock.
fn forge(disk: &mut SimDisk, change: impl Fn(u32, &mut [u8])) {
    let sb = newest(disk);
    let mut crcs = Vec::new();
    for page in 0..sb.geometry.index_pages() {
        let at = sb.geometry.index_off(sb.half) + u64::from(page) * 4096;
        let block = disk.block(at / 4096);
        let mut payload = index::decode_page(sb.disk, Salt::NONE, page, &block).unwrap().0.to_vec();
        change(page, &mut payload);
        let (block, crc) = index::encode_page(sb.disk, Salt::NONE, page, 9, &payload);
        disk.write(at, &block).unwrap();
        crcs.push(crc);
    }
    let sb = Superblock { index_digest: index::digest(&crcs), ..sb };
    let block = sb.encode();
    disk.write(sb.offset(), &[block.clone(), block].concat()).unwrap();
}

#[test]
fn impossible_index_entries_are_refused() {
    let first_slot = |w: &World| newest(&w.disk).geometry.replica_pages();
    let mut w = used();
    forge(&mut w.disk, |_, _| {});
    opens(&mut w);
    let (mut w, slots) = (used(), first_slot(&used()));
    forge(&mut w.disk, |page, p| {
        if page < slots {
            p.fill(0);
        }
    });
    refused(&mut w.disk, "belongs to no replica");
    let mut w = used();
    forge(&mut w.disk, |page, p| {
        if page == slots {
            p.copy_within(0..index::SLOT_BYTES, index::SLOT_BYTES);
        }
    });
    refused(&mut w.disk, "repeats a chunk");
}

#[test]
fn an_older_index_page_under_a_newer_superblock_is_refused() {
    let mut w = used();
    let sb = newest(&w.disk);
    let at = sb.geometry.index_off(sb.half) / 4096;
    let mut older = w.disk.block(at).to_vec();
    let payload = index::decode_page(sb.disk, Salt::NONE, 0, &older).unwrap().0.to_vec();
    older = index::encode_page(sb.disk, Salt::NONE, 0, 1, &payload).0;
    w.disk.set_block(at, older.into());
    refused(&mut w.disk, "a write was lost");
}

/// Blocks of the journal where a group begins, in order.
fn groups(disk: &SimDisk) -> Vec<(u64, u64)> {
    let n = newest(disk).geometry.journal_bytes / 4096;
    let header =
        |b: u64| Group::decode_header(&disk.block(JOURNAL_BLOCK + b), SALT).map(|(g, _)| (g.seq, JOURNAL_BLOCK + b));
    let mut list: Vec<_> = (0..n).filter_map(header).collect();
    list.sort_unstable();
    list
}

#[test]
fn a_damaged_group_behind_which_others_were_acknowledged_is_refused() {
    let mut w = used();
    let list = groups(&w.disk);
    // The last six groups are not covered by a checkpoint. One in their middle, its header or its
    // payload:
    for bit_of in [0, 1] {
        let mut disk = w.disk.clone();
        disk.flip(list[list.len() - 4].1 + bit_of, 300);
        refused(&mut disk, "was durable and cannot be read");
    }
    // One that a checkpoint covers is not needed any more.
    w.disk.flip(list[2].1, 300);
    opens(&mut w);
}

#[test]
fn the_torn_last_group_is_the_end() {
    let mut w = used();
    let before = w.acked.clone();
    w.write(BlockRange::new(400, 4));
    w.quiesce();
    let (_, last) = *groups(&w.disk).last().unwrap();
    w.disk.flip(last + 2, 1);
    // Nothing behind it says that it was acknowledged: a crash in the middle of the write looks the
    // same.
    w.acked = before;
    opens(&mut w);
}

/// What a version looks like: everything a small, fixed history leaves on a disk, region by region.
fn regions(w: &World) -> [String; 7] {
    let sb = newest(&w.disk);
    let hex = |b: &[u8]| b.iter().map(|x| format!("{x:02x}")).collect::<String>();
    let sum = |from: u64, blocks: u64| {
        let mut h = crc32fast::Hasher::new();
        (from..from + blocks).for_each(|b| h.update(&w.disk.block(b)));
        format!("{:08x}", h.finalize())
    };
    let g = &sb.geometry;
    [
        hex(&w.disk.block(sb.offset() / 4096)[..64]),
        sum(0, 4),
        sum(JOURNAL_BLOCK, g.journal_bytes / 4096),
        sum(g.index_off(0) / 4096, u64::from(g.index_pages())),
        sum(g.index_off(1) / 4096, u64::from(g.index_pages())),
        sum(g.page_off(0, 0) / 4096, 2),
        sum(g.unit_off(0) / 4096, 16),
    ]
}

const CHANGED: &str = "the format changed: if that is meant, give it a new version and keep reading this one";

#[test]
fn golden_bytes_pin_format_version_1() {
    let got = regions(&used_on(World::version_1(3, 24 << 20)));
    let want: [&str; 7] = [
        "484f4c444641535401000000961f3237040000000000000001000000000000000000000000000000090000000000000000000000000000000000800100000000",
        "99534548",
        "5fee3ac6",
        "20b87a7c",
        "3a894ab5",
        "2da1086f",
        "150dce3b",
    ];
    assert_eq!(got, want, "{CHANGED}");
}

#[test]
fn golden_bytes_pin_format_version_2() {
    let got = regions(&used());
    let want: [&str; 7] = [
        "484f4c4446415354020000005dc2a192040000000000000001000000000000000000000000000000090000000000000000000000000000000000800100000000",
        "5ea61cde",
        "7e39afe5",
        "20b87a7c",
        "3a894ab5",
        "2da1086f",
        "150dce3b",
    ];
    assert_eq!(got, want, "{CHANGED}");
}

/// An upgrade writes the superblock twice before the store serves. A log's age that is noted before
/// the second write goes with it and is answered when it is durable.
#[test]
fn a_log_age_noted_during_an_upgrade_is_answered_when_the_store_serves() {
    let mut w = World::version_1(1, 24 << 20);
    w.quiesce();
    w.disk.abandon();
    w.store = recovery::open(&mut w.disk, config()).unwrap();
    w.store.upgrade(SALT);
    w.store.start(&mut w.out);
    w.note_age();
    w.quiesce();
    assert_eq!((w.aged, w.store.superblock().log_age.age), (1, 1));
}

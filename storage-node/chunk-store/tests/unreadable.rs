//! Sectors that the disk cannot read: each costs the blocks that lie there, no others, and no more
//! than until they are written again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::*;
use bytes::Bytes;
use hf_policy::*;
use hf_store::format::page::BlockState;
use hf_store::sim::SimDisk;
use hf_store::{Answer, DiskError, Input, Op, RawDisk, recovery};

/// One whole chunk, written in one piece and on its place.
fn chunk_on_disk(seed: u64) -> World {
    let mut w = World::new(seed, 24 << 20);
    w.write(BlockRange::new(0, 256));
    w.quiesce();
    w.submit(Op::Checkpoint, "checkpoint");
    w.quiesce();
    w
}

/// Where a block's data lies on the media.
fn place(w: &World, block: u64) -> u64 {
    let data = w.acked[&block].1.clone().unwrap();
    let journal = 24; // The first blocks on the media are not data; a copy of it may be in the journal.
    let all: Vec<u64> = w.disk.written().into_iter().filter(|at| *at > journal && w.disk.block(*at) == data).collect();
    *all.last().expect("the block is on the media")
}

/// Reads a chunk; which blocks are not whole. All others are as they were written.
fn bad(w: &mut World) -> Vec<(u64, BlockState)> {
    let range = BlockRange::new(0, 256);
    let (blocks, data) = match w.ask(Op::Read { rid: RID, range }).unwrap() {
        Answer::Read { blocks, data } => (blocks, data),
        other => panic!("{other:?}"),
    };
    let mut bad = Vec::new();
    for (i, info) in blocks.iter().enumerate() {
        let got = data.slice(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE);
        let (ver, want) = w.acked[&(i as u64)].clone();
        if info.state.is_bad() {
            assert!(got.iter().all(|b| *b == 0), "bytes of a bad block are handed out");
            bad.push((i as u64, info.state));
        } else {
            assert_eq!((info.ver, got), (ver, want.unwrap_or(Bytes::from_static(&[0; BLOCK_SIZE]))), "block {i}");
        }
    }
    bad
}

fn reopen(w: &mut World) {
    w.store = recovery::open(&mut w.disk, config()).unwrap();
    w.store.start(&mut w.out);
    w.input(Input::Housekeep);
    w.quiesce();
}

#[test]
fn an_unreadable_sector_costs_its_own_block_and_is_whole_again_once_written() {
    let mut w = chunk_on_disk(1);
    reopen(&mut w);
    assert_eq!(bad(&mut w), []);
    for lost in [vec![0], vec![255], vec![77], vec![3, 4, 200]] {
        w.disk.unreadable = lost.iter().map(|b| place(&w, *b)).collect();
        let want: Vec<_> = lost.iter().map(|b| (*b, BlockState::Bad)).collect();
        assert_eq!(bad(&mut w), want);
        let counted = w.store.stats().bad_blocks;
        assert_eq!(bad(&mut w), want);
        assert_eq!(w.store.stats().bad_blocks - counted, lost.len() as u64, "what counts for the disk's error budget");
        for b in &lost {
            w.write(BlockRange::new(*b, 1));
        }
        w.quiesce();
        assert_eq!(bad(&mut w), []);
        w.submit(Op::Checkpoint, "checkpoint");
        w.quiesce();
        assert!(w.disk.unreadable.is_empty(), "the disk has put other sectors in their place");
        reopen(&mut w);
        assert_eq!(bad(&mut w), []);
    }
}

/// A bus that was reset, a path that moved: asked again, the disk answers.
#[test]
fn a_page_that_could_not_be_read_once_is_not_lost() {
    let mut w = chunk_on_disk(2);
    reopen(&mut w);
    w.disk.fail_reads = 1;
    assert_eq!(bad(&mut w), []);
    assert_eq!((w.disk.fail_reads, w.store.stats().bad_pages), (0, 0));
    // Nor if it was wanted to be written upon.
    reopen(&mut w);
    w.disk.fail_reads = 1;
    w.write(BlockRange::new(9, 1));
    w.submit(Op::Checkpoint, "checkpoint");
    w.quiesce();
    reopen(&mut w);
    assert_eq!((bad(&mut w), w.disk.fail_reads), (vec![], 0));
}

/// What cannot be read at all takes the versions of its chunk with it, and is said to be lost; what
/// is written then is there.
#[test]
fn a_page_that_cannot_be_read_loses_its_chunk_and_nothing_that_is_written_later() {
    let mut w = chunk_on_disk(3);
    let pages: Vec<u64> = w.disk.written().into_iter().filter(|b| w.disk.block(*b)[..4] == *b"HFPG").collect();
    reopen(&mut w);
    w.disk.unreadable = pages.into_iter().collect();
    w.write(BlockRange::new(9, 1));
    w.quiesce();
    let all: Vec<_> = (0..256).filter(|b| *b != 9).map(|b| (b, BlockState::Lost)).collect();
    assert_eq!(bad(&mut w), all);
    w.submit(Op::Checkpoint, "checkpoint");
    w.quiesce();
    reopen(&mut w);
    assert_eq!(bad(&mut w), all);
}

/// An answer with parts from the journal's overlay, the disk, and a bad sector between them.
#[test]
fn what_is_in_memory_and_what_is_on_the_disk_go_together_around_it() {
    let mut w = chunk_on_disk(4);
    w.write(BlockRange::new(10, 3));
    w.quiesce();
    w.disk.unreadable = [9, 13].iter().map(|b| place(&w, *b)).collect();
    assert_eq!(bad(&mut w), [(9, BlockState::Bad), (13, BlockState::Bad)]);
    let info = match w.ask(Op::Read { rid: RID, range: BlockRange::new(9, 1) }).unwrap() {
        Answer::Read { blocks, .. } => blocks[0],
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (info.ver, info.state),
        (w.acked[&9].0, BlockState::Bad),
        "its version is known: another copy can mend it"
    );
}

/// Of all reads the `at`-th fails.
struct Once<'a> {
    disk: &'a mut SimDisk,
    at: u64,
    reads: u64,
}

impl RawDisk for Once<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn read(&mut self, off: u64, len: usize) -> Result<Bytes, DiskError> {
        self.reads += 1;
        if self.reads == self.at { Err(DiskError("once".into())) } else { self.disk.read(off, len) }
    }
    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), DiskError> {
        panic!("opening writes nothing")
    }
    fn sync(&mut self) -> Result<(), DiskError> {
        self.disk.sync()
    }
}

/// A disk with something in the journal, in the index and in its place.
fn in_use(seed: u64) -> World {
    let mut w = chunk_on_disk(seed);
    for i in 0..20 {
        w.write(BlockRange::new(i * 3, 2));
        w.quiesce();
    }
    w
}

#[test]
fn one_read_that_fails_while_it_is_opened_costs_no_disk() {
    let mut w = in_use(4);
    let mut at = 1;
    loop {
        let mut disk = Once { disk: &mut w.disk, at, reads: 0 };
        let store = recovery::open(&mut disk, config()).unwrap();
        assert_eq!(store.max_ver(RID), w.store.max_ver(RID), "read {at}");
        if disk.reads < at {
            break;
        }
        at += 1;
    }
    assert!(at > 30, "only {at} reads");
    println!("each of {at} reads failed once");
}

/// What a group in force holds is this replica's only copy of it: without it the disk is not what
/// it said it was. Everything else of the journal, and a copy of the superblock, costs nothing.
#[test]
fn an_unreadable_sector_of_the_journal_costs_the_disk_only_where_it_is_in_force() {
    let mut w = in_use(5);
    let mut in_force = std::collections::BTreeSet::new();
    let journal = 64 << 10;
    recovery::journal(&mut w.disk, |at, bytes, _| {
        in_force.extend((journal + at) / 4096..(journal + at + bytes) / 4096)
    })
    .unwrap();
    assert!(in_force.len() > 40, "{in_force:?}");
    let (newest, ring) = (w.store.max_ver(RID), w.store.superblock().geometry.journal_bytes);
    // (Where the next group would be nobody can say what was there.)
    in_force.extend(in_force.last().map(|b| b + 1));
    let mut opened = 0;
    for block in (0..4).chain(journal / 4096..(journal + ring) / 4096) {
        w.disk.unreadable = [block].into();
        match recovery::open(&mut w.disk, config()) {
            Ok(store) => {
                assert!(!in_force.contains(&block), "block {block}");
                assert_eq!(store.max_ver(RID), newest);
                opened += 1;
            }
            Err(e) => {
                assert!(in_force.contains(&block) && e.to_string().contains("cannot be read"), "block {block}: {e}");
            }
        }
    }
    // A few of them at once as well; where there are many the disk is not asked for each.
    let end = in_force.last().unwrap() + 100;
    for (n, opens) in [(16, true), (17, false)] {
        w.disk.unreadable = (0..n).map(|i| end + 3 * i).collect();
        assert_eq!(recovery::open(&mut w.disk, config()).is_ok(), opens, "{n} of them");
    }
    println!("{opened} places cost nothing, {} the disk", in_force.len());
}

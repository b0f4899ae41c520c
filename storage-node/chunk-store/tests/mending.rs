//! Conditional copies over what is lost: which of them mend it, and which would bring back what was
//! overwritten.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::*;
use hf_policy::*;
use hf_store::engine::CopyItem;
use hf_store::format::page::BlockState;
use hf_store::{Answer, Content, Input, Op, recovery};

/// Is the copy applied?
fn copy(w: &mut World, item: CopyItem) -> bool {
    match w.ask(Op::Copy { rid: RID, term: Term(w.term), items: vec![item] }) {
        Ok(Answer::Copied(applied)) => applied[0],
        other => panic!("{other:?}"),
    }
}

fn item(block: u64, seen: Ver, src: Ver, tag: Option<u64>, repair: bool) -> CopyItem {
    let data = |n| (crc::payload(&tagged(n, block)), tagged(n, block));
    let content = tag.map_or(Content::Bad, |n| Content::Data(data(n).0, data(n).1));
    CopyItem { block: BlockIx(block), seen, src, content, repair }
}

/// Seed 11891: what another member has may be older than what was lost here.
#[test]
fn only_the_version_that_was_lost_mends_a_block() {
    let mut w = World::new(5, 24 << 20);
    w.write(BlockRange::new(7, 1));
    w.quiesce();
    let old = w.acked[&7].0;
    let lost = w.next_ver();
    assert!(copy(&mut w, item(7, old, lost, None, false)));
    assert!(!copy(&mut w, item(7, lost, old, Some(1), true)), "an older version");
    let newer = w.next_ver();
    assert!(!copy(&mut w, item(7, lost, newer, Some(2), true)), "a newer one is a write, not a repair");
    assert!(!copy(&mut w, item(7, old, lost, Some(3), true)), "decided on something that is not there any more");
    assert!(copy(&mut w, item(7, lost, lost, Some(4), true)));
    w.acked.insert(7, (lost, Some(tagged(4, 7))));
    w.read(BlockRange::new(7, 1));
    w.quiesce();
    assert_eq!(w.reads_checked, 1);
}

/// A chunk's page rots: its blocks are lost together with their versions. Within the same term each
/// goes back to what it was, the state outlives restarts, and no copy of an unknown version gets in
/// without being meant as a repair.
#[test]
fn blocks_whose_page_rotted_are_mended_within_their_term() {
    let mut w = World::new(6, 24 << 20);
    for b in 0..20 {
        w.write(BlockRange::new(b, 1));
        w.quiesce();
    }
    w.submit(Op::Checkpoint, "checkpoint");
    w.quiesce();
    let newest = Ver::new(w.term, w.seq);
    let pages: Vec<u64> = w.disk.written().into_iter().filter(|b| w.disk.block(*b)[..4] == *b"HFPG").collect();
    assert!(!pages.is_empty());
    pages.iter().for_each(|b| w.disk.flip(*b, 20_000));
    w.store = recovery::open(&mut w.disk, config()).unwrap();
    w.store.start(&mut w.out);
    w.input(Input::Housekeep);
    w.quiesce();
    let held = w.acked.clone();
    let look = |w: &mut World| {
        let mut s = recovery::open(&mut w.disk.clone(), config()).unwrap();
        read_all(&mut w.disk.clone(), &mut s, RID)
    };
    assert!((0..20).all(|b| (look(&mut w)[&b].0.state, look(&mut w)[&b].0.ver) == (BlockState::Lost, newest)));
    for b in 0..19 {
        let ver = held[&b].0;
        assert!(ver < newest);
        assert!(!copy(&mut w, item(b, newest, ver, Some(b + 1), false)), "older, and not meant as a repair");
        let later = Ver::new(w.term, w.seq + 5);
        assert!(!copy(&mut w, item(b, newest, later, Some(9), true)), "newer than anything that was lost");
        assert!(copy(&mut w, item(b, newest, ver, Some(b + 1), true)));
        assert!(!copy(&mut w, item(b, newest, ver, Some(b + 1), true)), "it has its version again");
    }
    // Half of it mended, written out and opened again: the rest is still known to have lost its
    // versions.
    w.submit(Op::Checkpoint, "checkpoint");
    w.quiesce();
    let all = look(&mut w);
    for b in 0..19 {
        let (info, data) = &all[&b];
        assert_eq!((info.ver, info.state, data), (held[&b].0, BlockState::Data, &tagged(b + 1, b)), "block {b}");
    }
    for b in [19, 20, 255] {
        assert_eq!((all[&b].0.state, all[&b].0.ver), (BlockState::Lost, newest), "block {b}");
    }
}

/// What was decided on may have changed meanwhile: a newer version is right whatever is there, an
/// older one only where it was meant.
#[test]
fn a_newer_copy_replaces_what_came_late_and_an_older_one_only_what_was_seen() {
    let mut w = World::new(7, 24 << 20);
    for b in 0..3 {
        w.write(BlockRange::new(b, 1));
        w.quiesce();
    }
    let (held, other) = (w.acked[&1].0, w.acked[&0].0);
    let seen = w.acked[&2].0;
    assert!(!copy(&mut w, item(2, seen, held, Some(50), false)), "older, of this term: a live write has won");
    w.term += 2;
    assert!(!copy(&mut w, item(1, held, held, Some(51), false)), "what is there already");
    assert!(!copy(&mut w, item(1, Ver::ZERO, other, Some(52), false)), "older than something that nobody had seen");
    let newer = Ver::new(w.term, 1);
    assert!(copy(&mut w, item(1, Ver::ZERO, newer, Some(53), false)), "newer than something that nobody had seen");
    assert!(copy(&mut w, item(0, other, Ver::ZERO, Some(54), false)), "a write of an older term that nobody else has");
}

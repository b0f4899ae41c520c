//! A read whose disk operation is late: the place that it reads is rewritten before each of its
//! attempts.
#![allow(dead_code)]

use crate::common::{RID, World};
use bytes::Bytes;
use hf_policy::{BLOCK_SIZE, BlockRange};
use hf_store::engine::BlockInfo;
use hf_store::{Answer, DiskError, DiskOp, Input, Op, Output, RawDisk, Store, StoreError};

/// The read's id; others are far below.
const ID: u64 = 1 << 40;

/// What a late attempt of the read finds at its place.
pub enum Finds {
    /// A newer version: the block was rewritten and is in place.
    Rewritten,
    /// The same version; another block of the chunk was rewritten.
    NeighbourRewritten,
    /// An error of the disk, and a newer version afterwards.
    ErrorThenRewritten,
}

/// Takes the read's next disk operation out of the store's outputs, before the disk sees it.
fn take(out: &mut Vec<Output>) -> Option<(u64, DiskOp)> {
    let at = out.iter().position(|o| matches!(o, Output::Disk { op: DiskOp::Read { .. }, .. }))?;
    match out.remove(at) {
        Output::Disk { tag, op } => Some((tag, op)),
        _ => None,
    }
}

fn answered(out: &mut Vec<Output>) -> Option<Result<Answer, StoreError>> {
    let at = out.iter().position(|o| matches!(o, Output::Done { id: ID, .. }))?;
    match out.remove(at) {
        Output::Done { result, .. } => Some(result),
        _ => None,
    }
}

/// Reads block 0; each attempt finds what the next of `finds` says, and later ones find the truth.
/// The block and its bytes.
pub fn read_block(w: &mut World, finds: &[Finds]) -> (BlockInfo, Bytes) {
    w.store.step(Input::Op { id: ID, op: Op::Read { rid: RID, range: BlockRange::new(0, 1) } }, &mut w.out);
    w.store.check();
    let mut finds = finds.iter();
    loop {
        if let Some(answer) = answered(&mut w.out) {
            let Ok(Answer::Read { blocks, data }) = answer else { panic!("{answer:?}") };
            return (blocks[0], data);
        }
        let (tag, op) = take(&mut w.out).expect("a read that neither ends nor asks the disk");
        let DiskOp::Read { off, len } = op else { panic!("{op:?}") };
        let found = finds.next();
        match found {
            Some(Finds::Rewritten | Finds::ErrorThenRewritten) => rewrite(w, 0),
            Some(Finds::NeighbourRewritten) => rewrite(w, 1),
            None => {}
        }
        let result = match found {
            Some(Finds::ErrorThenRewritten) => Err(DiskError("injected EIO".into())),
            _ => RawDisk::read(&mut w.disk, off, len as usize),
        };
        w.store.step(Input::DiskDone { tag, result }, &mut w.out);
        w.store.check();
    }
}

/// A newer version of a block, acknowledged and in place.
fn rewrite(w: &mut World, block: u64) {
    w.write(BlockRange::new(block, 1));
    w.quiesce();
    w.ask(Op::Checkpoint).unwrap();
    w.quiesce();
}

/// Two blocks in place in the same unit.
pub fn two_blocks_in_place() -> World {
    let mut w = World::new(1, 24 << 20);
    w.write(BlockRange::new(0, 2));
    w.quiesce();
    w.ask(Op::Checkpoint).unwrap();
    w
}

/// However often the block is rewritten during the read, what is returned is its newest version.
pub fn a_read_that_meets_rewrites_is_no_bad_block() {
    for n in 1..6 {
        for error in [false, true] {
            let mut w = two_blocks_in_place();
            let find = |_| if error { Finds::ErrorThenRewritten } else { Finds::Rewritten };
            let finds: Vec<Finds> = (0..n).map(find).collect();
            let (info, data) = read_block(&mut w, &finds);
            let (ver, want) = w.acked[&0].clone();
            assert!(!info.state.is_bad(), "{n} rewrites: a healthy block is called {info:?}");
            assert_eq!((info.ver, data), (ver, want.unwrap()), "{n} rewrites");
            assert_eq!(bad_blocks(&w.store), 0, "{n} rewrites: counted as bad");
        }
    }
}

/// Blocks that were counted as bad.
pub fn bad_blocks(store: &Store) -> u64 {
    store.stats().bad_blocks
}

/// A rotten block stays bad, at its own version, though its neighbour is rewritten all the time.
pub fn a_rotten_block_is_bad_whatever_its_neighbours_do() {
    let mut w = two_blocks_in_place();
    let data = w.acked[&0].1.clone().unwrap();
    let places: Vec<u64> = w.disk.written().into_iter().filter(|at| w.disk.block(*at) == data).collect();
    places.into_iter().for_each(|at| w.disk.flip(at, 7));
    let finds: Vec<Finds> = (0..5).map(|_| Finds::NeighbourRewritten).collect();
    let (info, data) = read_block(&mut w, &finds);
    assert!(info.state.is_bad(), "{info:?}");
    assert_eq!((info.ver, data.len()), (w.acked[&0].0, BLOCK_SIZE));
    assert!(data.iter().all(|b| *b == 0), "bytes of a bad block are handed out");
    assert_eq!(bad_blocks(&w.store), 1);
}

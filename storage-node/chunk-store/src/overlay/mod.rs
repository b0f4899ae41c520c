//! The overlay: blocks that are durable in the journal and not in place yet.
//!
//! [`apply`] puts a durable record's blocks here, reads look here first, and [`destage`] moves
//! blocks in place; [`pace`] decides how many chunks are destaged at once. A chunk has an entry
//! here only while it has such blocks, or operations in flight or waiting.

pub(crate) mod apply;
pub(crate) mod destage;
pub(crate) mod pace;

use crate::engine::{Op, OpId};
use crate::format::page::Page;
use crate::mutant::{self, Mutant};
use crate::table::Key;
use crate::{CHUNK_UNITS, UNIT_BLOCKS};
use bytes::Bytes;
use hf_policy::crc::SeededCrc;
use hf_policy::{BLOCK_SIZE, Ver, invariant};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The chunks that have acknowledged blocks not in place, or operations under way.
#[derive(Default)]
pub(crate) struct Overlay {
    pub chunks: BTreeMap<Key, Chunk>,
    /// Bytes of all blocks held in memory.
    pub bytes: usize,
}

impl Overlay {
    /// Verifies each chunk's entry, and the count of bytes in memory.
    pub(crate) fn check(&self) {
        self.chunks.iter().for_each(|(key, c)| c.check(*key));
        let blocks = self.chunks.values().flat_map(|c| c.blocks.values());
        let bytes = blocks.filter(|b| matches!(b.place, Place::Mem(_))).count() * BLOCK_SIZE;
        invariant!(self.bytes == bytes, "{} bytes are in the overlay, not {bytes}", self.bytes);
    }
}

/// Where the content of an acknowledged block is until its chunk is destaged.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In memory, and in the journal.
    Mem(Bytes),
    /// On disk in this unit, which a direct write filled.
    Unit(u32),
    /// The block is zero.
    Zero,
    /// The block is known to be lost.
    Bad,
}

/// One block of the overlay.
#[derive(Clone, Debug)]
pub(crate) struct OverlayBlock {
    pub ver: Ver,
    pub crc: SeededCrc,
    pub place: Place,
    /// The journal group whose record wrote the block.
    pub group: u64,
}

/// A chunk's acknowledged blocks and the operations on it. The entry exists only while there are
/// any.
#[derive(Default)]
pub(crate) struct Chunk {
    /// Acknowledged blocks that are not destaged, by their place in the chunk.
    pub blocks: BTreeMap<u16, OverlayBlock>,
    /// A trim of the whole chunk that is not destaged: its version and its journal group.
    pub trim: Option<(Ver, u64)>,
    /// Number of operations not applied yet: in the journal, or writing their data to fresh units.
    pub inflight: u32,
    /// Mask of units that direct writes are writing. Those writes have no place in the journal's
    /// order yet.
    pub direct: u16,
    /// The highest version of any operation submitted so far.
    pub top: Ver,
    /// Mask of units promised to blocks in the overlay and to operations in flight.
    pub promise: u16,
    /// Mask of units that operations in flight rely on, because they were promised them or found
    /// them in the page: a destage must not free them.
    pub held: u16,
    /// Mask of units that have blocks in memory (`mem`), and of those with blocks in fresh units
    /// (`fresh`). Both may name units that have none any more.
    pub mem: u16,
    pub fresh: u16,
    /// Number of blocks of each unit that are zero in the overlay.
    pub zeros: [u8; CHUNK_UNITS],
    /// Mask of units that the next destage will free, as summed up in
    /// [`crate::space::Space::returning`].
    pub returning: u16,
    /// True if a slot is promised to the chunk, which has none yet.
    pub slot_promised: bool,
    /// Operations that need the chunk's page and no operation in flight, in order.
    pub slow: VecDeque<(OpId, Op)>,
    pub destage: Option<Destage>,
    /// True if the page was given up and the running checkpoint must write it anew, as lost.
    pub rewrite: bool,
}

/// A destage that is being written.
pub(crate) struct Destage {
    /// The page it started from. Until the destage ends, this is the chunk's page for everybody
    /// else.
    pub old: Arc<Page>,
    pub new: Arc<Page>,
    pub copy: u8,
    pub page_crc: u32,
    /// Blocks it moves in place: position, version and journal group of each.
    pub moved: Vec<(u16, Ver, u64)>,
    pub trim: Option<(Ver, u64)>,
    /// Writes not submitted yet; the page is the last.
    pub left: VecDeque<(u64, Vec<Bytes>)>,
    pub outstanding: u32,
}

impl Chunk {
    /// True if an operation of this version on these units may go to the journal without a look at
    /// the stored blocks. For that all other operations on the chunk must be older and precede it
    /// in the journal; a direct write enters the journal only when its data is written.
    pub(crate) fn in_order(&self, ver: Ver, units: u16) -> bool {
        let alone = self.direct & units == 0 || mutant::is(Mutant::DirectOvertaken);
        self.slow.is_empty() && ver > self.top && alone
    }
    /// True if nothing of the chunk is under way or waits, so that its entry can be dropped.
    pub(crate) fn is_idle(&self) -> bool {
        self.blocks.is_empty()
            && self.trim.is_none()
            && self.inflight == 0
            && self.slow.is_empty()
            && self.destage.is_none()
            && self.promise == 0
            && !self.rewrite
    }
    /// Mask of units of which all 16 blocks are zero in the overlay.
    pub(crate) fn zeroed(&self) -> u16 {
        let all = |u: &usize| usize::from(self.zeros[*u]) == UNIT_BLOCKS;
        (0..CHUNK_UNITS).filter(all).fold(0, |mask, u| mask | 1 << u)
    }
    /// The fresh units that blocks of the overlay are in; a unit appears once per block.
    pub(crate) fn units(&self) -> Vec<u32> {
        let unit = |ov: &OverlayBlock| if let Place::Unit(u) = ov.place { Some(u) } else { None };
        self.blocks.values().filter_map(unit).collect()
    }
    pub(crate) fn is_dirty(&self) -> bool {
        !self.blocks.is_empty() || self.trim.is_some() || self.rewrite
    }

    fn check(&self, key: Key) {
        let mut zeros = [0u8; CHUNK_UNITS];
        for (at, b) in &self.blocks {
            let u = *at as usize / UNIT_BLOCKS;
            invariant!(u < CHUNK_UNITS, "block {at} is beyond its chunk {key:?}");
            invariant!(b.ver <= self.top, "block {at} of {key:?} has version {:?}, beyond {:?}", b.ver, self.top);
            match &b.place {
                Place::Mem(data) => {
                    invariant!(data.len() == BLOCK_SIZE, "block {at} of {key:?} has {} bytes", data.len());
                    invariant!(self.mem >> u & 1 == 1, "unit {u} of {key:?} is not known to have data in memory");
                }
                Place::Zero => zeros[u.min(CHUNK_UNITS - 1)] += 1,
                Place::Unit(_) | Place::Bad => {}
            }
        }
        invariant!(zeros == self.zeros, "zero blocks of {key:?}: {zeros:?}, counted as {:?}", self.zeros);
        let held = self.held;
        invariant!(held == 0 || self.inflight > 0, "units {held:#x} of {key:?} are held for nothing in flight");
        invariant!(self.direct == 0 || self.inflight > 0, "units of {key:?} are being written by nothing in flight");
        invariant!(!self.slot_promised || self.inflight > 0, "a slot is promised to {key:?} for nothing in flight");
        if let Some(d) = &self.destage {
            invariant!(d.copy < 2, "the destage of {key:?} writes a third copy of its page");
            invariant!(d.outstanding > 0, "the destage of {key:?} writes nothing and has not ended");
            let last = d.left.back().is_none_or(|(_, bufs)| bufs.len() == 1);
            invariant!(last, "the destage of {key:?} does not end with its page");
        }
    }
}

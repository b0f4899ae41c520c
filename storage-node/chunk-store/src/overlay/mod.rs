//! The overlay: what the journal made durable and no chunk page knows yet.
//!
//! [`apply`] puts a durable record's blocks here, reads look here first, and [`destage`] moves them in place; [`pace`]
//! says how many chunks are destaged at once. A chunk has an entry only while something of it is in motion.

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

/// The chunks that something is in motion about.
#[derive(Default)]
pub(crate) struct Overlay {
    pub chunks: BTreeMap<Key, Chunk>,
    /// Bytes of the blocks that are in memory.
    pub bytes: usize,
}

impl Overlay {
    /// Verifies each chunk, and that the bytes in memory are counted.
    pub(crate) fn check(&self) {
        self.chunks.iter().for_each(|(key, c)| c.check(*key));
        let blocks = self.chunks.values().flat_map(|c| c.blocks.values());
        let bytes = blocks.filter(|b| matches!(b.place, Place::Mem(_))).count() * BLOCK_SIZE;
        invariant!(self.bytes == bytes, "{} bytes are in the overlay, not {bytes}", self.bytes);
    }
}

/// Where an acknowledged, not yet destaged block is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In memory (and in the journal).
    Mem(Bytes),
    /// In a fresh unit.
    Unit(u32),
    /// Zero.
    Zero,
    /// Known lost.
    Bad,
}

/// One block of the overlay.
#[derive(Clone, Debug)]
pub(crate) struct OverlayBlock {
    pub ver: Ver,
    pub crc: SeededCrc,
    pub place: Place,
    /// The journal group that holds it.
    pub group: u64,
}

/// What is in motion about a chunk. Exists only while something is.
#[derive(Default)]
pub(crate) struct Chunk {
    /// Acknowledged, not destaged.
    pub blocks: BTreeMap<u16, OverlayBlock>,
    /// A trim of the whole chunk, not destaged: version and group.
    pub trim: Option<(Ver, u64)>,
    /// Operations that are not applied yet: in the journal, or writing their data to fresh units.
    pub inflight: u32,
    /// Units of the chunk that direct writes are writing: these have no place in the journal's
    /// order yet.
    pub direct: u16,
    /// The highest version submitted.
    pub top: Ver,
    /// Units promised to the overlay and to records in flight.
    pub promise: u16,
    /// Units that operations in flight were promised or found here: a destage must not give these
    /// back under them.
    pub held: u16,
    /// Units that data in memory goes to, and those that fresh units replace (both may name more
    /// than there are now).
    pub mem: u16,
    pub fresh: u16,
    /// Blocks of each unit that are zero in the overlay.
    pub zeros: [u8; CHUNK_UNITS],
    /// Units that the next destage gives back, as counted in [`crate::space::Space::returning`].
    pub returning: u16,
    /// A slot is promised.
    pub slot_promised: bool,
    /// Operations that need the page and a quiet chunk, in order.
    pub slow: VecDeque<(OpId, Op)>,
    pub destage: Option<Destage>,
    /// Its page was given up and must be written as lost by the running checkpoint.
    pub rewrite: bool,
}

/// A destage in progress.
pub(crate) struct Destage {
    /// The page it started from; whoever needs the chunk's page meanwhile takes this one.
    pub old: Arc<Page>,
    pub new: Arc<Page>,
    pub copy: u8,
    pub page_crc: u32,
    /// Blocks it moves, with the group they came from.
    pub moved: Vec<(u16, Ver, u64)>,
    pub trim: Option<(Ver, u64)>,
    /// Writes that wait for those in flight.
    pub left: VecDeque<(u64, Vec<Bytes>)>,
    pub outstanding: u32,
}

impl Chunk {
    /// May an operation of this version on these units go to the journal without a look at what is
    /// there? Everything else of the chunk must be older and must have its place in the journal
    /// before it; a direct write gets one only when its data is written.
    pub(crate) fn in_order(&self, ver: Ver, units: u16) -> bool {
        let alone = self.direct & units == 0 || mutant::is(Mutant::DirectOvertaken);
        self.slow.is_empty() && ver > self.top && alone
    }
    pub(crate) fn is_idle(&self) -> bool {
        self.blocks.is_empty()
            && self.trim.is_none()
            && self.inflight == 0
            && self.slow.is_empty()
            && self.destage.is_none()
            && self.promise == 0
            && !self.rewrite
    }
    /// Units in which nothing but zeroes is left for the next destage.
    pub(crate) fn zeroed(&self) -> u16 {
        let all = |u: &usize| usize::from(self.zeros[*u]) == UNIT_BLOCKS;
        (0..CHUNK_UNITS).filter(all).fold(0, |mask, u| mask | 1 << u)
    }
    /// Units that the overlay refers to.
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

//! The index pages: which of them changed since each half was written, and how a checkpoint writes
//! them.

use super::{Checkpoint, PAGES_AT_ONCE, PARALLEL, Phase};
use crate::disk::DiskOp;
use crate::engine::{Output, Purpose, Store};
use crate::format::{Salt, index};
use bytes::Bytes;
use hf_policy::{BLOCK_SIZE, broken, invariant};
use std::collections::BTreeSet;

/// What the store knows of the two halves of the index.
pub(crate) struct Index {
    /// For each half, the pages that changed since it was written.
    pub dirty: [BTreeSet<u32>; 2],
    /// For each half, the checksums of its pages.
    pub crcs: [Vec<u32>; 2],
}

impl Index {
    /// `half` is the valid one, with these checksums. The contents of the other half are unknown:
    /// its next write covers every page.
    pub(crate) fn loaded(half: u8, pages: u32, crcs: Vec<u32>) -> Index {
        let mut dirty = [BTreeSet::new(), BTreeSet::new()];
        dirty[half as usize ^ 1] = (0..pages).collect();
        let mut both = [vec![0; pages as usize], vec![0; pages as usize]];
        both[half as usize] = crcs;
        Index { dirty, crcs: both }
    }

    /// Verifies that both halves have as many pages as the index.
    pub(crate) fn check(&self, pages: u32) {
        for (half, crcs) in self.crcs.iter().enumerate() {
            invariant!(crcs.len() == pages as usize, "half {half} has {} checksums for {pages} pages", crcs.len());
        }
        for (half, dirty) in self.dirty.iter().enumerate() {
            let last = dirty.last().copied();
            invariant!(last.is_none_or(|p| p < pages), "page {last:?} of half {half} changed, of {pages} pages");
        }
    }
}

impl Store {
    /// Chooses the index pages that changed since the other half was written. A page is encoded
    /// when it is written: nothing is destaged or deleted meanwhile, and changes by later groups
    /// are harmless, because a replay repeats those groups. A replica created meanwhile may have no
    /// entry in the index; slots without a page, as its chunks have, are left out.
    pub(crate) fn prepare_index(&mut self) {
        let busy = self.checkpoint.jobs + self.checkpoint.outstanding;
        invariant!(busy == 0, "the index is chosen while {busy} chunks are destaged or pages read back");
        let g = self.sb.geometry;
        let base = g.replica_pages() + g.slot_pages();
        for p in self.space.units.take_dirty() {
            self.mark_index(base + p);
        }
        let half = self.sb.half ^ 1;
        let dirty = std::mem::take(&mut self.index.dirty[half as usize]);
        let (replicas, others): (Vec<u32>, Vec<u32>) = dirty.into_iter().partition(|p| g.entries_of(*p).is_some());
        self.checkpoint.pages = others.into_iter().chain(replicas).collect();
        self.checkpoint.extensions = self.table.extensions.clone();
        self.checkpoint.tail = self.journal.tail_after(self.checkpoint.upto);
        self.checkpoint.last_read = self.disk.last;
    }

    pub(crate) fn drive_index(&mut self, out: &mut Vec<Output>) {
        let half = self.sb.half ^ 1;
        while self.checkpoint.outstanding < PARALLEL {
            let Some(first) = self.checkpoint.pages.pop_front() else { break };
            let place = |ck: &Checkpoint, page| self.sb.geometry.index_page_off(half, page, &ck.extensions);
            let Some(off) = place(&self.checkpoint, first) else {
                broken!("index page {first} has changed and lies nowhere");
                continue;
            };
            let mut last = first;
            while last - first + 1 < PAGES_AT_ONCE
                && self.checkpoint.pages.front() == Some(&(last + 1))
                && place(&self.checkpoint, last + 1) == Some(off + u64::from(last + 1 - first) * BLOCK_SIZE as u64)
            {
                self.checkpoint.pages.pop_front();
                last += 1;
            }
            let bufs = (first..=last).map(|page| self.index_page(half, page)).collect();
            self.checkpoint.outstanding += 1;
            self.disk_op(Purpose::Checkpoint, DiskOp::Write { off, bufs, durable: false }, out);
        }
        if self.checkpoint.outstanding == 0 {
            self.checkpoint.phase = Phase::SyncingIndex;
            self.disk_op(Purpose::Checkpoint, DiskOp::Sync, out);
        }
    }

    /// Encodes one index page as of now, for the half that the next superblock names.
    fn index_page(&mut self, half: u8, page: u32) -> Bytes {
        let salt = if page < self.sb.geometry.index_pages() { Salt::NONE } else { self.sb.salt };
        let (generation, payload) = (self.sb.index_gen + 1, self.index_payload(page));
        let (block, crc) = index::encode_page(self.sb.disk, salt, page, generation, &payload);
        invariant!(payload.len() <= index::PAYLOAD, "index page {page} holds {} bytes", payload.len());
        match self.index.crcs[half as usize].get_mut(page as usize) {
            Some(known) => *known = crc,
            None => broken!("index page {page} is written, beyond the index"),
        }
        Bytes::from(block)
    }

    pub(crate) fn mark_index(&mut self, page: u32) {
        let pages = self.index.crcs[0].len();
        invariant!((page as usize) < pages, "page {page} of an index of {pages} pages has changed");
        self.index.dirty[0].insert(page);
        self.index.dirty[1].insert(page);
    }

    pub(crate) fn mark_slot(&mut self, slot: u32) {
        invariant!(slot < self.sb.geometry.slots, "slot {slot} has changed, beyond the table");
        self.mark_index(self.sb.geometry.replica_pages() + slot / index::PAGE_SLOTS as u32);
    }

    /// The contents of an index page as of now.
    pub(crate) fn index_payload(&self, page: u32) -> Vec<u8> {
        let g = self.sb.geometry;
        let mut out = Vec::with_capacity(index::PAYLOAD);
        if let Some(entries) = g.entries_of(page) {
            for r in self.table.replicas.iter().skip(entries.start as usize).take(entries.len()) {
                match r {
                    Some(r) => out.extend_from_slice(&r.encode()),
                    None => out.resize(out.len() + crate::format::replica::REPLICA_BYTES, 0),
                }
            }
        } else if page < g.replica_pages() + g.slot_pages() {
            let first = (page - g.replica_pages()) as usize * index::PAGE_SLOTS;
            for s in self.table.slots.iter().skip(first).take(index::PAGE_SLOTS) {
                match s {
                    // A slot without a page is of groups that the journal keeps, and perhaps of a
                    // replica that came too late for this index: a replay restores it.
                    Some(s) if s.copy.is_some() => s.encode(&mut out),
                    _ => out.resize(out.len() + index::SLOT_BYTES, 0),
                }
            }
        } else {
            out = self.space.units.page_bytes(page - g.replica_pages() - g.slot_pages());
        }
        out
    }
}

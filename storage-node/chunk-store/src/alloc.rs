//! Which 64 KiB units are free. A freed unit is used again only after the checkpoint that no longer refers to it is
//! durable (C7) and every read that might still look at it has ended.

use std::collections::{BTreeSet, VecDeque};

/// A unit on its way to being free.
#[derive(Clone, Copy, Debug)]
struct Pending {
    unit: u32,
    /// Needs a checkpoint that covers the journal up to this group.
    after_group: u64,
    /// Set once that checkpoint is durable: reads up to this number must have ended.
    after_read: Option<u64>,
}

/// The units' state.
#[derive(Debug)]
pub struct Units {
    bits: Vec<u64>,
    total: u32,
    free: u32,
    cursor: u32,
    /// Allocated, but no chunk page refers to them yet: not written as allocated by a checkpoint, because a crash forgets
    /// them unless a journal record names them.
    volatile: BTreeSet<u32>,
    pending: VecDeque<Pending>,
    /// How many of `pending` wait only for reads.
    reapable: usize,
    dirty_pages: BTreeSet<u32>,
}

impl Units {
    /// All free.
    pub fn new(total: u32) -> Units {
        Units {
            bits: vec![0; (total as usize).div_ceil(64)],
            total,
            free: total,
            cursor: 0,
            volatile: BTreeSet::new(),
            pending: VecDeque::new(),
            reapable: 0,
            dirty_pages: BTreeSet::new(),
        }
    }

    /// From the checkpoint's bitmap bytes.
    pub fn load(total: u32, bytes: &[u8]) -> Option<Units> {
        let mut u = Units::new(total);
        for i in 0..total {
            if bytes.get(i as usize / 8)? >> (i % 8) & 1 == 1 {
                u.set(i, true);
            }
        }
        u.dirty_pages.clear();
        Some(u)
    }

    /// Units that can be allocated now.
    pub fn free(&self) -> u32 {
        self.free
    }
    /// Units that will be free after the next checkpoint.
    pub fn pending(&self) -> u32 {
        self.pending.len() as u32
    }
    /// All.
    pub fn total(&self) -> u32 {
        self.total
    }

    fn get(&self, i: u32) -> bool {
        self.bits[i as usize / 64] >> (i % 64) & 1 == 1
    }

    fn set(&mut self, i: u32, on: bool) {
        let (word, bit) = (i as usize / 64, 1u64 << (i % 64));
        if on {
            assert!(self.bits[word] & bit == 0, "unit {i} allocated twice");
            self.bits[word] |= bit;
            self.free -= 1;
        } else {
            assert!(self.bits[word] & bit != 0, "unit {i} freed twice");
            self.bits[word] &= !bit;
            self.free += 1;
        }
        self.dirty_pages.insert(i / crate::format::index::PAGE_UNITS as u32);
    }

    /// Takes a free unit, near the last one taken, so that chunks written together lie together.
    pub fn take(&mut self) -> Option<u32> {
        if self.free == 0 {
            return None;
        }
        let words = self.bits.len();
        let start = self.cursor as usize / 64;
        for step in 0..=words {
            let w = (start + step) % words;
            let mut candidates = !self.bits[w];
            if step == 0 {
                candidates &= u64::MAX << (self.cursor % 64);
            }
            if candidates != 0 {
                let i = (w * 64) as u32 + candidates.trailing_zeros();
                if i < self.total {
                    self.set(i, true);
                    self.volatile.insert(i);
                    self.cursor = (i + 1) % self.total;
                    return Some(i);
                }
            }
        }
        None
    }

    /// A journal record names this unit: it is in use, if it is not known to be already.
    pub fn claim(&mut self, unit: u32) {
        if unit < self.total && !self.get(unit) {
            self.set(unit, true);
            self.volatile.insert(unit);
        }
    }

    /// Will a checkpoint give units back, or let pages know of units that only the journal names?
    pub fn in_motion(&self) -> bool {
        !self.pending.is_empty() || !self.volatile.is_empty()
    }

    /// Allocated, and no chunk page refers to it yet?
    pub fn is_volatile(&self, unit: u32) -> bool {
        self.volatile.contains(&unit)
    }

    /// A chunk page refers to it now.
    pub fn settle(&mut self, unit: u32) {
        if self.volatile.remove(&unit) {
            self.dirty_pages.insert(unit / crate::format::index::PAGE_UNITS as u32);
        }
    }

    /// Nothing will refer to it after a checkpoint that covers journal group `group`.
    pub fn release(&mut self, unit: u32, group: u64) {
        self.volatile.remove(&unit);
        self.dirty_pages.insert(unit / crate::format::index::PAGE_UNITS as u32);
        self.pending.push_back(Pending { unit, after_group: group, after_read: None });
    }

    /// A checkpoint that covers the journal up to `group` is durable; reads up to `read` may still be looking.
    pub fn checkpointed(&mut self, group: u64, read: u64) {
        for p in self.pending.iter_mut().filter(|p| p.after_read.is_none() && p.after_group <= group) {
            p.after_read = Some(read);
            self.reapable += 1;
        }
    }

    /// Frees what no running read can see; `oldest_read` is the oldest that runs.
    pub fn reap(&mut self, oldest_read: u64) {
        // Called after every input: nothing to look at unless a checkpoint has freed something.
        if self.reapable == 0 {
            return;
        }
        let mut kept = VecDeque::new();
        while let Some(p) = self.pending.pop_front() {
            match p.after_read {
                Some(r) if r < oldest_read => {
                    self.reapable -= 1;
                    self.set(p.unit, false);
                }
                _ => kept.push_back(p),
            }
        }
        self.pending = kept;
    }

    /// Bitmap pages that changed.
    pub fn take_dirty(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.dirty_pages)
    }

    /// A bitmap page's bytes: what is allocated and referred to by a page.
    pub fn page_bytes(&self, page: u32) -> Vec<u8> {
        let per = crate::format::index::PAGE_UNITS as u32;
        let first = page * per;
        let mut out = vec![0u8; per as usize / 8];
        for i in first..(first + per).min(self.total) {
            if self.get(i) {
                out[(i - first) as usize / 8] |= 1 << (i % 8);
            }
        }
        let clear = |out: &mut Vec<u8>, i: u32| {
            if (first..first + per).contains(&i) {
                out[(i - first) as usize / 8] &= !(1 << (i % 8));
            }
        };
        self.volatile.range(first..first.saturating_add(per)).for_each(|i| clear(&mut out, *i));
        self.pending.iter().for_each(|p| clear(&mut out, p.unit));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_unit_waits_for_its_checkpoint_and_its_readers() {
        let mut u = Units::new(3);
        let a: Vec<_> = (0..3).map(|_| u.take().unwrap()).collect();
        assert_eq!(u.take(), None);
        u.release(a[1], 10);
        u.checkpointed(9, 5);
        u.reap(u64::MAX);
        assert_eq!(u.take(), None, "its checkpoint has not come");
        u.checkpointed(10, 5);
        u.reap(5);
        assert_eq!(u.take(), None, "read 5 may still look at it");
        u.reap(6);
        assert_eq!(u.take(), Some(a[1]));
    }

    #[test]
    fn volatile_units_are_not_in_the_checkpoint() {
        let mut u = Units::new(100);
        let (a, b) = (u.take().unwrap(), u.take().unwrap());
        u.settle(a);
        let back = Units::load(100, &u.page_bytes(0)).unwrap();
        assert!(back.get(a) && !back.get(b));
    }
}

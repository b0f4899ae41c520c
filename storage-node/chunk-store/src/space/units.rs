//! Which 64 KiB units are free. A unit that was freed is used again only after a checkpoint that no
//! longer refers to it is durable (C7), and after every read that might still look at it has ended.
//! The slots and table entries of deleted replicas wait likewise for a checkpoint, but for no reads
//! ([`super::Leaving`]).

use crate::format::index::PAGE_UNITS;
use hf_policy::{broken, invariant};
use std::collections::{BTreeSet, VecDeque};

/// A unit that is being freed.
#[derive(Clone, Copy, Debug)]
struct Leaver {
    unit: u32,
    /// It becomes free after a checkpoint that covers the journal up to this group.
    after_group: u64,
    /// Set when that checkpoint is durable: reads up to this number must have ended.
    after_read: Option<u64>,
}

/// The state of every unit.
#[derive(Debug)]
pub struct Units {
    bits: Vec<u64>,
    total: u32,
    free: u32,
    cursor: u32,
    /// Allocated, but no chunk page refers to them yet. A checkpoint does not write them as
    /// allocated, because a crash forgets them unless a journal record names them.
    volatile: BTreeSet<u32>,
    pending: VecDeque<Leaver>,
    /// The same units as in `pending`, for lookups.
    leaving: BTreeSet<u32>,
    /// During a reckoning: a bitmap of the units that some page is known to refer to.
    seen: Option<Vec<u64>>,
    /// How many of `pending` wait only for reads to end.
    reapable: usize,
    dirty_pages: BTreeSet<u32>,
}

impl Units {
    /// A disk of `total` units, all free.
    pub fn new(total: u32) -> Units {
        Units {
            bits: vec![0; (total as usize).div_ceil(64)],
            total,
            free: total,
            cursor: 0,
            volatile: BTreeSet::new(),
            pending: VecDeque::new(),
            leaving: BTreeSet::new(),
            seen: None,
            reapable: 0,
            dirty_pages: BTreeSet::new(),
        }
    }

    /// From the bytes of a checkpoint's bitmap; `None` if there are too few.
    pub fn load(total: u32, bytes: &[u8]) -> Option<Units> {
        let mut u = Units::new(total);
        let bytes = bytes.get(..(total as usize).div_ceil(8))?;
        for (word, eight) in u.bits.iter_mut().zip(bytes.chunks(8)) {
            let mut le = [0; 8];
            le[..eight.len()].copy_from_slice(eight);
            *word = u64::from_le_bytes(le);
        }
        if let Some(last) = u.bits.last_mut().filter(|_| !total.is_multiple_of(64)) {
            *last &= (1 << (total % 64)) - 1;
        }
        u.free = total - u.bits.iter().map(|w| w.count_ones()).sum::<u32>();
        Some(u)
    }

    /// Number of units that are free now.
    pub fn free(&self) -> u32 {
        self.free
    }
    /// Number of units that are being freed.
    pub fn pending(&self) -> u32 {
        self.pending.len() as u32
    }
    /// Number of units on the disk.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// True if the bitmap has the unit as allocated.
    pub fn is_allocated(&self, unit: u32) -> bool {
        unit < self.total && self.get(unit)
    }

    fn get(&self, i: u32) -> bool {
        self.bits[i as usize / 64] >> (i % 64) & 1 == 1
    }

    fn set(&mut self, i: u32, on: bool) {
        let (word, bit) = (i as usize / 64, 1u64 << (i % 64));
        if (self.bits[word] & bit != 0) == on {
            broken!("unit {i} is {} twice", if on { "allocated" } else { "freed" });
            return;
        }
        self.bits[word] ^= bit;
        if on {
            lower!(self.free, 1, "free units");
        } else {
            self.free += 1;
            invariant!(self.free <= self.total, "{} of {} units are free", self.free, self.total);
        }
        self.dirty_pages.insert(i / PAGE_UNITS as u32);
    }

    /// Allocates a free unit near the last one, so that chunks written together lie together.
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
                    invariant!(!self.leaving.contains(&i), "unit {i} is taken while it is on its way out");
                    let known = !self.volatile.insert(i);
                    invariant!(!known, "unit {i} is taken and waits for a page already");
                    self.cursor = (i + 1) % self.total;
                    return Some(i);
                }
            }
        }
        broken!("{} units are free and none is found", self.free);
        None
    }

    /// A journal record names this unit: allocates it unless it is allocated already.
    pub fn claim(&mut self, unit: u32) {
        if unit < self.total && !self.get(unit) {
            self.set(unit, true);
            self.volatile.insert(unit);
        }
    }

    /// True if a checkpoint will free units, or write pages that refer to units only the journal
    /// names.
    pub fn in_motion(&self) -> bool {
        !self.pending.is_empty() || !self.volatile.is_empty()
    }

    /// True if the unit is allocated and no chunk page refers to it yet.
    pub fn is_volatile(&self, unit: u32) -> bool {
        self.volatile.contains(&unit)
    }

    /// A chunk page, or the replica table, refers to this unit now.
    pub fn settle(&mut self, unit: u32) {
        self.saw(unit);
        invariant!(self.is_allocated(unit), "a page refers to unit {unit}, which is free");
        invariant!(!self.leaving.contains(&unit), "a page refers to unit {unit}, which is on its way out");
        if self.volatile.remove(&unit) {
            self.dirty_pages.insert(unit / PAGE_UNITS as u32);
        }
    }

    /// Frees a unit to which nothing will refer after a checkpoint that covers journal group
    /// `group`.
    pub fn release(&mut self, unit: u32, group: u64) {
        if !self.is_allocated(unit) || self.leaving.contains(&unit) {
            broken!("unit {unit} is given back, and is free or on its way to it");
            return;
        }
        self.volatile.remove(&unit);
        self.dirty_pages.insert(unit / PAGE_UNITS as u32);
        self.leaving.insert(unit);
        self.pending.push_back(Leaver { unit, after_group: group, after_read: None });
    }

    /// A checkpoint that covers the journal up to `group` is durable. Reads up to number `read` may
    /// still look at the units it freed.
    pub fn checkpointed(&mut self, group: u64, read: u64) {
        for p in self.pending.iter_mut().filter(|p| p.after_read.is_none() && p.after_group <= group) {
            p.after_read = Some(read);
            self.reapable += 1;
        }
    }

    /// Frees the units that no running read can see; `oldest_read` is the oldest that runs.
    pub fn reap(&mut self, oldest_read: u64) {
        // (Called after every input: there is nothing to do unless a checkpoint has freed
        // something.)
        if self.reapable == 0 {
            return;
        }
        let mut kept = VecDeque::new();
        while let Some(p) = self.pending.pop_front() {
            match p.after_read {
                Some(r) if r < oldest_read => {
                    lower!(self.reapable, 1, "units that wait for reads only");
                    let known = self.leaving.remove(&p.unit);
                    invariant!(known, "unit {} is freed and was not on its way out", p.unit);
                    self.set(p.unit, false);
                }
                _ => kept.push_back(p),
            }
        }
        self.pending = kept;
    }

    /// Takes the set of bitmap pages that changed.
    pub fn take_dirty(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.dirty_pages)
    }

    /// The bytes of a bitmap page: the units that are allocated and that a page or the table refers
    /// to.
    pub fn page_bytes(&self, page: u32) -> Vec<u8> {
        const WORDS: usize = PAGE_UNITS / 64;
        let at = page as usize * WORDS;
        let words = self.bits.iter().skip(at).take(WORDS);
        let mut out: Vec<u8> = words.flat_map(|w| w.to_le_bytes()).collect();
        out.resize(WORDS * 8, 0);
        let first = page.saturating_mul(PAGE_UNITS as u32);
        let all = first..first.saturating_add(PAGE_UNITS as u32);
        for i in self.volatile.range(all.clone()).chain(self.leaving.range(all)) {
            let i = i - first;
            out[i as usize / 8] &= !(1 << (i % 8));
        }
        out
    }

    /// Verifies the counters, and that no unit is in two states.
    pub fn check(&self) {
        let set: u32 = self.bits.iter().map(|w| w.count_ones()).sum();
        invariant!(self.free == self.total - set, "{} units are free, the bitmap says {}", self.free, self.total - set);
        invariant!(
            self.total.is_multiple_of(64) || self.bits.last().is_none_or(|w| w >> (self.total % 64) == 0),
            "the bitmap goes on beyond unit {}",
            self.total
        );
        invariant!(self.cursor < self.total || self.total == 0, "the search begins at unit {}", self.cursor);
        invariant!(self.pending.len() == self.leaving.len(), "a unit is on its way out twice");
        for p in &self.pending {
            invariant!(self.leaving.contains(&p.unit), "unit {} is on its way out and not known to be", p.unit);
            invariant!(self.is_allocated(p.unit), "unit {} is on its way out and free", p.unit);
        }
        for u in &self.volatile {
            invariant!(self.is_allocated(*u), "unit {u} is free and waits for a page to refer to it");
            invariant!(!self.leaving.contains(u), "unit {u} waits for a page to refer to it and is on its way out");
        }
        let reapable = self.pending.iter().filter(|p| p.after_read.is_some()).count();
        invariant!(self.reapable == reapable, "{} units wait for reads only, not {}", reapable, self.reapable);
        let pages = self.total.div_ceil(PAGE_UNITS as u32);
        invariant!(self.dirty_pages.last().is_none_or(|p| *p < pages), "a page beyond the bitmap changed");
        invariant!(
            self.seen.as_ref().is_none_or(|s| s.len() == self.bits.len()),
            "the reckoning has a bitmap of its own size"
        );
    }

    /// The units that are allocated and that no chunk page refers to yet.
    pub fn volatile(&self) -> &BTreeSet<u32> {
        &self.volatile
    }

    /// True if a page may refer to the unit: it is allocated, not being freed, and not waiting for
    /// its first page.
    pub fn is_settled(&self, unit: u32) -> bool {
        self.is_allocated(unit) && !self.volatile.contains(&unit) && !self.leaving.contains(&unit)
    }

    /// Begins a reckoning: all pages are looked through for the units they refer to.
    pub fn begin_reckoning(&mut self) {
        invariant!(self.seen.is_none(), "a reckoning begins while another one runs");
        self.seen = Some(vec![0; self.bits.len()]);
    }

    /// A page was found to refer to this unit.
    pub fn saw(&mut self, unit: u32) {
        if let Some(word) = self.seen.as_mut().and_then(|s| s.get_mut(unit as usize / 64)) {
            *word |= 1 << (unit % 64);
        }
    }

    /// Ends a reckoning: every page was looked at. Returns the units that are allocated although
    /// nothing refers to them or will.
    pub fn end_reckoning(&mut self) -> Vec<u32> {
        let Some(seen) = self.seen.take() else {
            broken!("a reckoning ends that was not begun");
            return Vec::new();
        };
        let mut found = Vec::new();
        for (w, (bits, seen)) in self.bits.iter().zip(seen).enumerate() {
            let mut left = bits & !seen;
            while left != 0 {
                found.push((w * 64) as u32 + left.trailing_zeros());
                left &= left - 1;
            }
        }
        found.retain(|u| !self.volatile.contains(u) && !self.leaving.contains(u));
        found
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
    fn numbers_of_units_go_up_to_256_tib() {
        let total = u32::MAX - 1;
        let mut u = Units::new(total);
        u.cursor = total - 2;
        let (a, b) = (u.take().unwrap(), u.take().unwrap());
        assert_eq!((a, b), (total - 2, total - 1));
        assert_eq!(u.take(), Some(0), "the search begins again at the first");
        u.settle(a);
        u.settle(b);
        let page = a / PAGE_UNITS as u32;
        let bytes = u.page_bytes(page);
        assert_eq!(bytes.len(), PAGE_UNITS / 8);
        assert_eq!(bytes.iter().map(|b| b.count_ones()).sum::<u32>(), 2);
        u.release(b, 1);
        assert_eq!(u.page_bytes(page).iter().map(|b| b.count_ones()).sum::<u32>(), 1);
    }

    #[test]
    fn what_nothing_refers_to_is_found() {
        let mut u = Units::new(200);
        let taken: Vec<u32> = (0..6).filter_map(|_| u.take()).collect();
        taken[..5].iter().for_each(|i| u.settle(*i));
        u.release(taken[4], 1);
        u.begin_reckoning();
        u.saw(taken[0]);
        let late = u.take().unwrap();
        u.settle(late);
        assert_eq!(
            u.end_reckoning(),
            taken[1..4],
            "nor one that is volatile, on its way out, or has got a page meanwhile"
        );
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

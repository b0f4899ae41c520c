//! Where the regions of a disk lie. Computed once, when the disk is formatted, then read from the
//! superblock.
//!
//! ```text
//! 0          superblocks: generation g in slot g % 2, each twice (4 blocks)
//! 64 KiB     journal ring
//!            index half 0, index half 1
//!            chunk pages: two copies per chunk slot
//!            data: units of 64 KiB
//! ```

use crate::UNIT_BYTES;
use crate::format::index::{PAGE_REPLICAS, PAGE_SLOTS, PAGE_UNITS};
use crate::format::page::NO_UNIT;
use hf_policy::BLOCK_BYTES;

/// Offset of the journal. Before it are the superblocks and room for more.
pub const JOURNAL_OFF: u64 = 64 << 10;
/// Size of the smallest disk that can be formatted, in bytes.
pub const MIN_DISK: u64 = 16 << 20;

/// Number of index pages of each half in one unit that extends the replica table.
pub const EXTENSION_PAGES: u32 = (UNIT_BYTES / BLOCK_BYTES / 2) as u32;
/// Number of entries that such a unit adds to the replica table.
pub const EXTENSION_ENTRIES: u32 = EXTENSION_PAGES * PAGE_REPLICAS as u32;

/// The sizes of a disk's regions, in bytes and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the disk in bytes.
    pub disk_bytes: u64,
    /// Length of the journal ring in bytes.
    pub journal_bytes: u64,
    /// Number of entries in the fixed part of the replica table.
    pub replicas: u32,
    /// Number of chunk slots.
    pub slots: u32,
    /// Number of data units.
    pub units: u32,
}

impl Geometry {
    /// Divides a disk; `None` if it is too small. `journal` overrides the default journal size: 5 %
    /// of the disk, at most 1 GiB. The journal has at least 4 MiB, so that two groups of the
    /// largest size and the padding before a wrap fit. Units have numbers of 32 bits: space behind
    /// the first 256 TiB of data is not used.
    pub fn divide(disk_bytes: u64, journal: Option<u64>) -> Option<Geometry> {
        if disk_bytes < MIN_DISK {
            return None;
        }
        let journal_bytes = journal.unwrap_or((disk_bytes / 20).min(1 << 30)).max(4 << 20) / BLOCK_BYTES * BLOCK_BYTES;
        let replicas = (disk_bytes >> 28).clamp(64, 16384) as u32;
        let mut g = Geometry { disk_bytes, journal_bytes, replicas, slots: 0, units: 0 };
        let mut units = (disk_bytes / UNIT_BYTES).min(u64::from(NO_UNIT));
        // Shrinks until everything fits. Metadata is about 1.3 % of a disk, so a few rounds
        // suffice.
        loop {
            g.units = u32::try_from(units).ok()?;
            // One and a half chunk slots per MiB of data: sparse volumes fill slots before units.
            g.slots = g.units / 16 * 3 / 2 + 64;
            let end = g.data_off().checked_add(units * UNIT_BYTES)?;
            if end <= disk_bytes {
                return (g.units >= 32).then_some(g);
            }
            units = units.checked_sub((end - disk_bytes).div_ceil(UNIT_BYTES))?;
        }
    }

    /// Number of pages of one index half: replicas, then slots, then the unit bitmap.
    pub fn index_pages(&self) -> u32 {
        self.replica_pages() + self.slot_pages() + self.bitmap_pages()
    }
    /// Number of pages in the fixed part of the replica table.
    pub fn replica_pages(&self) -> u32 {
        self.replicas.div_ceil(PAGE_REPLICAS as u32)
    }
    /// Number of pages of the slot table.
    pub fn slot_pages(&self) -> u32 {
        self.slots.div_ceil(PAGE_SLOTS as u32)
    }
    /// Number of pages of the unit bitmap.
    pub fn bitmap_pages(&self) -> u32 {
        self.units.div_ceil(PAGE_UNITS as u32)
    }
    /// Number of pages of one index half, including those in `extensions` units of the replica
    /// table, which come last.
    pub fn pages_with(&self, extensions: usize) -> u32 {
        self.index_pages() + extensions as u32 * EXTENSION_PAGES
    }
    /// The index page that holds a replica entry.
    pub fn replica_page(&self, entry: u32) -> u32 {
        match entry.checked_sub(self.replicas) {
            None => entry / PAGE_REPLICAS as u32,
            Some(beyond) => self.index_pages() + beyond / PAGE_REPLICAS as u32,
        }
    }
    /// The replica entries that an index page holds; `None` if it holds something else.
    pub fn entries_of(&self, page: u32) -> Option<std::ops::Range<u32>> {
        let (first, end) = match page.checked_sub(self.index_pages()) {
            Some(beyond) => (self.replicas + beyond * PAGE_REPLICAS as u32, u32::MAX),
            None if page < self.replica_pages() => (page * PAGE_REPLICAS as u32, self.replicas),
            None => return None,
        };
        Some(first..(first + PAGE_REPLICAS as u32).min(end))
    }
    /// Offset of an index page; `None` if it is beyond the index. `extensions` are the units that
    /// extend the replica table.
    pub fn index_page_off(&self, half: u8, page: u32, extensions: &[u32]) -> Option<u64> {
        let Some(beyond) = page.checked_sub(self.index_pages()) else {
            return Some(self.index_off(half) + u64::from(page) * BLOCK_BYTES);
        };
        let unit = *extensions.get((beyond / EXTENSION_PAGES) as usize)?;
        let at = u64::from(half & 1) * u64::from(EXTENSION_PAGES) + u64::from(beyond % EXTENSION_PAGES);
        Some(self.unit_off(unit) + at * BLOCK_BYTES)
    }
    /// Offset of an index half.
    pub fn index_off(&self, half: u8) -> u64 {
        JOURNAL_OFF + self.journal_bytes + u64::from(half & 1) * u64::from(self.index_pages()) * BLOCK_BYTES
    }
    /// Offset of one of the two page copies of a chunk slot.
    pub fn page_off(&self, slot: u32, copy: u8) -> u64 {
        self.index_off(0)
            + (u64::from(self.index_pages()) * 2 + u64::from(slot) * 2 + u64::from(copy & 1)) * BLOCK_BYTES
    }
    /// Offset of the first data unit.
    pub fn data_off(&self) -> u64 {
        self.page_off(self.slots, 0).next_multiple_of(UNIT_BYTES)
    }
    /// Offset of a data unit.
    pub fn unit_off(&self, unit: u32) -> u64 {
        self.data_off() + u64::from(unit) * UNIT_BYTES
    }
    /// Number of bytes in all data units.
    pub fn data_bytes(&self) -> u64 {
        u64::from(self.units) * UNIT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_do_not_overlap_and_fit() {
        for size in [MIN_DISK, 20 << 20, 100 << 20, 1 << 30, 1 << 40, 15 << 40, 256 << 40, 300 << 40] {
            let g = Geometry::divide(size, None).unwrap();
            assert!(g.index_off(1) >= g.index_off(0) + u64::from(g.index_pages()) * 4096);
            assert!(g.page_off(0, 0) >= g.index_off(1) + u64::from(g.index_pages()) * 4096);
            assert!(g.data_off() >= g.page_off(g.slots - 1, 1) + 4096);
            assert!(g.unit_off(g.units - 1) + UNIT_BYTES <= size);
            let share = g.data_bytes() as f64 / size as f64;
            assert!(size < (1 << 30) || share > if size > 256 << 40 { 0.85 } else { 0.92 }, "{size}: {share}");
        }
        assert_eq!(Geometry::divide(MIN_DISK - 1, None), None);
    }
}

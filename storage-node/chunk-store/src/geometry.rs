//! Where the regions of a disk lie. Computed once, when the disk is formatted, then read from the superblock.
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
use hf_policy::BLOCK_BYTES;

/// The journal begins here; before it stand the superblocks and room for more.
pub const JOURNAL_OFF: u64 = 64 << 10;
/// The smallest disk that can be formatted.
pub const MIN_DISK: u64 = 16 << 20;

/// The regions, in bytes and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Whole disk.
    pub disk_bytes: u64,
    /// Journal ring's length.
    pub journal_bytes: u64,
    /// Entries of the replica table.
    pub replicas: u32,
    /// Chunk slots.
    pub slots: u32,
    /// Data units.
    pub units: u32,
}

impl Geometry {
    /// Divides a disk. `journal` overrides the default of 5 % of the disk, at most 1 GiB. It is at least 4 MiB: two of the
    /// largest groups and the padding before a wrap must fit.
    pub fn divide(disk_bytes: u64, journal: Option<u64>) -> Option<Geometry> {
        if disk_bytes < MIN_DISK {
            return None;
        }
        let journal_bytes = journal.unwrap_or((disk_bytes / 20).min(1 << 30)).max(4 << 20) / BLOCK_BYTES * BLOCK_BYTES;
        let replicas = (disk_bytes >> 28).clamp(64, 16384) as u32;
        let mut g = Geometry { disk_bytes, journal_bytes, replicas, slots: 0, units: 0 };
        let mut units = disk_bytes / UNIT_BYTES;
        // Shrink until everything fits; metadata is about 1.3 %, so a few rounds do.
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

    /// Index pages of one half: replicas, then slots, then the unit bitmap.
    pub fn index_pages(&self) -> u32 {
        self.replica_pages() + self.slot_pages() + self.bitmap_pages()
    }
    /// Pages of the replica table.
    pub fn replica_pages(&self) -> u32 {
        self.replicas.div_ceil(PAGE_REPLICAS as u32)
    }
    /// Pages of the slot table.
    pub fn slot_pages(&self) -> u32 {
        self.slots.div_ceil(PAGE_SLOTS as u32)
    }
    /// Pages of the unit bitmap.
    pub fn bitmap_pages(&self) -> u32 {
        self.units.div_ceil(PAGE_UNITS as u32)
    }
    /// Where an index half begins.
    pub fn index_off(&self, half: u8) -> u64 {
        JOURNAL_OFF + self.journal_bytes + u64::from(half & 1) * u64::from(self.index_pages()) * BLOCK_BYTES
    }
    /// Where a chunk slot's page copy lies.
    pub fn page_off(&self, slot: u32, copy: u8) -> u64 {
        self.index_off(0)
            + (u64::from(self.index_pages()) * 2 + u64::from(slot) * 2 + u64::from(copy & 1)) * BLOCK_BYTES
    }
    /// Where the data units begin.
    pub fn data_off(&self) -> u64 {
        self.page_off(self.slots, 0).next_multiple_of(UNIT_BYTES)
    }
    /// Where a unit lies.
    pub fn unit_off(&self, unit: u32) -> u64 {
        self.data_off() + u64::from(unit) * UNIT_BYTES
    }
    /// Bytes for data.
    pub fn data_bytes(&self) -> u64 {
        u64::from(self.units) * UNIT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_do_not_overlap_and_fit() {
        for size in [MIN_DISK, 20 << 20, 100 << 20, 1 << 30, 1 << 40, 15 << 40] {
            let g = Geometry::divide(size, None).unwrap();
            assert!(g.index_off(1) >= g.index_off(0) + u64::from(g.index_pages()) * 4096);
            assert!(g.page_off(0, 0) >= g.index_off(1) + u64::from(g.index_pages()) * 4096);
            assert!(g.data_off() >= g.page_off(g.slots - 1, 1) + 4096);
            assert!(g.unit_off(g.units - 1) + UNIT_BYTES <= size);
            let share = g.data_bytes() as f64 / size as f64;
            assert!(size < (1 << 30) || share > 0.92, "{size}: {share}");
        }
        assert_eq!(Geometry::divide(MIN_DISK - 1, None), None);
    }
}

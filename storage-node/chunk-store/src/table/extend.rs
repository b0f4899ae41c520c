//! The size of the replica table: a fixed part, and extensions of one data unit (128 entries) each,
//! which it takes when it is full.
//!
//! A journal record gives the unit to the table before any record names an entry in it. The next
//! checkpoint writes the unit's pages of its index half, and the superblock that names the half
//! names the unit. A unit is never given back: a table that was large once may be so again.

use crate::engine::{Store, StoreError};
use crate::format::group::{Body, Record};
use crate::format::superblock::MAX_EXTENSIONS;
use crate::geometry::{EXTENSION_ENTRIES, EXTENSION_PAGES};
use crate::mutant::{self, Mutant};
use bytes::Bytes;
use hf_policy::{BlockRange, Rid, Ver, invariant};

impl Store {
    /// Number of units that extend the table, including those whose record is not applied yet.
    fn table_units(&self) -> usize {
        self.table.replicas.len().saturating_sub(self.sb.geometry.replicas as usize) / EXTENSION_ENTRIES as usize
    }

    /// Number of replicas that can still be created.
    pub(crate) fn entries_free(&self) -> u64 {
        let free = self.table.replicas.len().saturating_sub(self.table.by_rid.len()) as u64;
        let possible = free + u64::from(self.more_units()) * u64::from(EXTENSION_ENTRIES);
        possible.min(u64::from(self.cfg.replicas).saturating_sub(self.table.by_rid.len() as u64))
    }

    /// Number of units that the table may still take. Writes in place and promises come first.
    fn more_units(&self) -> u32 {
        if self.sb.salt.is_none() {
            return 0; // (A disk of version 1 gets its salt when it is opened to be written.)
        }
        let left = MAX_EXTENSIONS.saturating_sub(self.table_units()) as u32;
        left.min(self.space.units.free().saturating_sub(self.space.promised_units.saturating_add(self.reserve())))
    }

    /// A free entry of the replica table, which may grow for it. Fails if every entry is in use and
    /// the table cannot grow.
    pub(crate) fn free_entry(&mut self) -> Result<u32, StoreError> {
        let used = self.table.by_rid.len() as u32;
        let full = StoreError::NoEntry(used);
        if used >= self.cfg.replicas {
            return Err(full);
        }
        if let Some(index) = self.table.replicas.iter().position(Option::is_none) {
            return Ok(index as u32);
        }
        let unit = if self.more_units() > 0 { self.space.units.take() } else { None }.ok_or(full)?;
        let (first, fixed) = (self.table.replicas.len(), self.sb.geometry.replicas as usize);
        invariant!(first >= fixed, "the replica table has {first} entries, {fixed} of them in its fixed part");
        invariant!(
            (first - fixed).is_multiple_of(EXTENSION_ENTRIES as usize),
            "the replica table ends at entry {first}"
        );
        self.table.replicas.resize(first + EXTENSION_ENTRIES as usize, None);
        let body = Body::Extend { unit };
        let record = Record { replica: first as u32, rid: Rid(0), range: BlockRange::default(), ver: Ver::ZERO, body };
        // (Nobody waits for this record: the one that names an entry in the unit follows it.)
        self.journal.push(crate::journal::Queued {
            record,
            payload: Bytes::new(),
            chunks: crate::journal::Chunks::None,
            op: None,
            answer: crate::engine::Answer::Done,
        });
        Ok(first as u32)
    }

    /// Applies the record that gives `unit` to the table for the entries from `first` on: it is
    /// durable, or replayed.
    pub(crate) fn apply_extend(&mut self, first: u32, unit: u32) -> Result<(), String> {
        let named = self.table.extensions.iter().position(|u| *u == unit);
        let place = first.checked_sub(self.sb.geometry.replicas).filter(|n| n.is_multiple_of(EXTENSION_ENTRIES));
        let place = place.map(|n| (n / EXTENSION_ENTRIES) as usize);
        if named.is_some() && named == place {
            return Ok(()); // A checkpoint has it already.
        }
        if named.is_some() || place != Some(self.table.extensions.len()) || unit >= self.space.units.total() {
            return Err(format!("a journal record extends the replica table by unit {unit} at entry {first}"));
        }
        if self.space.units.is_allocated(unit) && !self.space.units.is_volatile(unit) {
            // A checkpoint knew that the unit was taken, and not yet for what.
            self.reckoning.adopted();
        }
        self.space.units.claim(unit);
        self.space.units.settle(unit);
        invariant!(self.space.units.is_settled(unit), "the replica table goes on in unit {unit}, which is in motion");
        self.table.extensions.push(unit);
        if mutant::is(Mutant::TableNamedEarly) {
            self.sb.extensions = self.table.extensions.clone();
        }
        let g = self.sb.geometry;
        let pages = g.pages_with(self.table.extensions.len());
        self.index.crcs.iter_mut().for_each(|c| c.resize(pages as usize, 0));
        (pages - EXTENSION_PAGES..pages).for_each(|p| self.mark_index(p));
        let entries = g.replicas as usize + self.table.extensions.len() * EXTENSION_ENTRIES as usize;
        if self.table.replicas.len() < entries {
            self.table.replicas.resize(entries, None);
        }
        Ok(())
    }
}

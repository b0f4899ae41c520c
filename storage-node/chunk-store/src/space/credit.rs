//! Promises of space: what admitted writes were promised, what can still be promised, and what is
//! being freed.
//!
//! A unit that a page has and nothing refers to any more is freed in two steps: the chunk's destage
//! takes it out of the page, and the checkpoint after that frees it (C7). Meanwhile it counts as
//! room, because a write that finds no free unit waits for that checkpoint.

use crate::engine::{Op, OpId, Output, Store, StoreError};
use crate::mutant::{self, Mutant};
use crate::overlay::{Chunk, Place};
use crate::requests::write::unit_mask;
use crate::table::Key;
use crate::{UNIT_BLOCKS, UNIT_BYTES};
use hf_policy::{BlockRange, Rid, Space, invariant};

impl Store {
    /// Mask of the units that the chunk's page has, or will have when its running destage ends.
    pub(crate) fn page_units(&self, key: Key) -> u16 {
        let slot = self.table.map.get(&key).copied();
        slot.and_then(|s| self.table.slots[s as usize].as_ref()).map_or(0, |s| s.units)
    }

    /// Promises a chunk the units in `units`, and a slot if it has none; fails if there is not
    /// enough space. `reserve` units stay free for repairs.
    pub(crate) fn promise(&mut self, key: Key, units: u16, reserve: u32) -> Result<(), StoreError> {
        let mask = self.page_units(key);
        let new_slot = !self.table.map.contains_key(&key);
        let c = self.chunk_mut(key);
        let new = units & !mask & !c.promise;
        let new_slot = new_slot && !c.slot_promised;
        let short_units = new != 0 && self.space.units.free() < self.space.promised_units + new.count_ones() + reserve;
        let short_slots = new_slot && self.space.free_slots.len() as u32 <= self.space.promised_slots;
        if short_units || short_slots {
            self.drop_if_idle(key);
            return Err(StoreError::NoSpace);
        }
        let c = self.chunk_mut(key);
        c.promise |= new;
        c.held |= units;
        c.slot_promised |= new_slot;
        self.space.promised_units += new.count_ones();
        self.space.promised_slots += u32::from(new_slot);
        // (Units that are held are not freed.)
        self.recount(key);
        Ok(())
    }

    /// True if checkpoints will free space, or let pages refer to units that count twice until
    /// then. Units that a reckoning looks for do not count: it may take as long as reading every
    /// page, and nothing else is admitted meanwhile.
    pub(crate) fn space_returns(&self) -> bool {
        let motion = self.space.units.in_motion() || self.space.returning > 0;
        motion || !self.table.deleting.is_empty() || !self.space.leaving_slots.is_empty()
    }

    /// A slow operation found no room. It stays the first of its chunk if space is being freed;
    /// otherwise it is refused.
    pub(crate) fn slow_without_room(&mut self, id: OpId, key: Key, op: Op, e: StoreError, out: &mut Vec<Output>) {
        let gone = self.table.replicas.get(key.0 as usize).and_then(|r| r.as_ref()).is_none_or(|r| r.deleting);
        let waits = e == StoreError::NoSpace && !gone && self.space_returns() && !mutant::is(Mutant::SlowNeverWaits);
        if !waits {
            return out.push(Output::Done { id, result: Err(e) });
        }
        self.chunk_mut(key).slow.push_front((id, op));
        let known = !self.requests.short.insert(key);
        invariant!(!known, "chunk {key:?} goes on while its first operation waits for space");
        self.checkpoint.await_space();
    }

    /// A checkpoint has freed space: looks again at operations that waited for it.
    pub(crate) fn retry_short(&mut self) {
        if !self.requests.short.is_empty() && !self.checkpoint.space_awaited() {
            let keys = std::mem::take(&mut self.requests.short);
            self.requests.slow_ready.extend(keys);
        }
    }

    /// Recounts the units that the chunk's next destage will free. To be called wherever something
    /// that decides it changes.
    pub(crate) fn recount(&mut self, key: Key) {
        let page = self.page_units(key);
        // A chunk that the overlay does not know frees nothing by a destage.
        let Some(c) = self.overlay.chunks.get_mut(&key) else { return };
        let now = returns(c, page);
        self.space.returning += now.count_ones();
        lower!(self.space.returning, c.returning.count_ones(), "units on their way back");
        c.returning = now;
    }

    /// The space that new data may still take. Units that the next checkpoint frees count, since a
    /// write waits for it.
    pub fn room(&self) -> Space {
        let coming = self.space.units.free() + self.space.units.pending() + self.space.returning;
        let units = coming.saturating_sub(self.space.promised_units + self.reserve());
        let slots = (self.space.free_slots.len() as u32).saturating_sub(self.space.promised_slots);
        if mutant::is(Mutant::SlotsAreUnits) {
            return Space { bytes: u64::from(units.min(slots)) * UNIT_BYTES, chunks: u64::MAX };
        }
        Space { bytes: u64::from(units) * UNIT_BYTES, chunks: u64::from(slots) }
    }

    /// [`Store::room`] as messages carry it.
    pub fn credit(&self) -> u64 {
        self.room().to_credit()
    }

    /// The space that data in these blocks of one chunk would take.
    pub fn needs(&self, rid: Rid, range: BlockRange) -> Result<Space, StoreError> {
        let key = (self.check_range(rid, range)?, range.start.chunk().0);
        let mask = self.page_units(key);
        let chunk = self.overlay.chunks.get(&key);
        let (promise, slot_promised) = chunk.map_or((0, false), |c| (c.promise, c.slot_promised));
        // (Units being freed count as room, so a write that keeps one of them takes that much.)
        let mask = mask & !chunk.map_or(0, |c| c.returning);
        // (Fresh units that only the journal names are the chunk's already.)
        let overlay = self.overlay.chunks.get(&key).into_iter().flat_map(|c| &c.blocks);
        let mapped = overlay.filter(|(_, o)| matches!(o.place, Place::Unit(_)));
        let mask = mapped.fold(mask, |m, (at, _)| m | 1 << (*at as usize / UNIT_BLOCKS));
        let new = unit_mask(range.start.in_chunk(), range.len as usize) & !mask & !promise;
        let chunks = u64::from(!self.table.map.contains_key(&key) && !slot_promised);
        Ok(Space { bytes: u64::from(new.count_ones()) * UNIT_BYTES, chunks })
    }

    /// Number of units kept free for reconcile, sync and repair.
    pub(crate) fn reserve(&self) -> u32 {
        self.space.units.total() / 128 + 2
    }
}

/// Mask of the units that a chunk's next destage will free, of those that its page has (`page`).
pub(crate) fn returns(c: &Chunk, page: u16) -> u16 {
    let destaged = c.destage.as_ref().is_some_and(|d| d.trim == c.trim);
    let trimmed = if c.trim.is_some() && !destaged { !c.mem } else { 0 };
    // (Blocks that a running destage moves stay in the overlay until it ends.)
    let parts = if c.destage.is_none() && !mutant::is(Mutant::PartsAreNoRoom) { c.zeroed() } else { 0 };
    page & (c.fresh | (trimmed | parts) & !c.held)
}

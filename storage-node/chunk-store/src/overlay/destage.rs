//! Destage: moves a chunk's overlay in place, and writes its page to the copy that the last
//! checkpoint does not rely on.
//!
//! Until the next checkpoint is durable nothing depends on these writes: the journal still holds
//! every block, and the old page copy is untouched. So the writes need no order among themselves.

use crate::disk::DiskOp;
use crate::engine::{Output, Purpose, Store};
use crate::format::page::{BlockMeta, BlockState, NO_UNIT, Page};
use crate::mutant::{self, Mutant};
use crate::overlay::{Destage, Place};
use crate::table::Key;
use crate::table::pages::Waiter;
use crate::{CHUNK_UNITS, UNIT_BLOCKS};
use bytes::Bytes;
use hf_policy::crc::SeededCrc;
use hf_policy::{BLOCK_BYTES, BLOCK_SIZE, broken, invariant};
use std::collections::VecDeque;
use std::sync::Arc;

/// Largest number of writes in flight for the destage of one chunk.
const WRITES_IN_FLIGHT: u32 = 16;

impl Store {
    /// Begins to destage a dirty chunk. Returns true if a job now runs for it.
    pub(crate) fn destage(&mut self, key: Key, out: &mut Vec<Output>) -> bool {
        // The checkpoint listed the chunk at its start; since then it may have been deleted.
        let Some(c) = self.overlay.chunks.get(&key) else { return false };
        if !c.is_dirty() || c.destage.is_some() {
            return false;
        }
        match self.page_of(key) {
            Ok(_) => self.destage_go(key, out),
            Err(slot) => self.load_page(slot, Waiter::Destage(key), out),
        }
        true
    }

    pub(crate) fn destage_go(&mut self, key: Key, out: &mut Vec<Output>) {
        let old = match self.page_of(key) {
            Ok(page) => page,
            // (The page was evicted, or given up, while the chunk waited for a unit.)
            Err(slot) => return self.load_page(slot, Waiter::Destage(key), out),
        };
        let (Some(&slot), Some(id)) = (self.table.map.get(&key), self.table.page_id(key)) else {
            return self.checkpoint.job_ended(); // The chunk was deleted while its page was read.
        };
        if !self.overlay.chunks.get(&key).is_some_and(|c| c.is_dirty() && c.destage.is_none()) {
            return self.checkpoint.job_ended();
        }
        if self.parks(key, &old) {
            return;
        }
        self.orphaned(slot, &old);
        let (new, writes, moved) = match self.merge(key, &old) {
            Ok(m) => m,
            Err(why) => return self.fail(why, out),
        };
        let trim = self.overlay.chunks.get(&key).and_then(|c| c.trim);
        invariant!(self.checkpoint.is_destaging(), "chunk {key:?} is destaged, and no checkpoint waits for it");
        let copy = if self.table.committed[slot as usize] == Some(0) { 1 } else { 0 };
        let (page, page_crc) = new.encode(id);
        if !self.table.set_units(slot, new.unit_mask()) {
            broken!("chunk {key:?} has slot {slot}, which is free");
        }
        let page_off = self.sb.geometry.page_off(slot, copy);
        let mut left = VecDeque::from(writes);
        left.push_back((page_off, vec![Bytes::from(page)]));
        let job = Destage { old, new: Arc::new(new), copy, page_crc, moved, trim, left, outstanding: 0 };
        if let Some(c) = self.overlay.chunks.get_mut(&key) {
            c.rewrite = false;
            c.destage = Some(job);
        }
        self.recount(key);
        self.destage_more(key, out);
    }

    /// Submits writes up to the bound in flight. One step may not queue all writes of sixteen
    /// chunks ahead of operations that clients wait for.
    fn destage_more(&mut self, key: Key, out: &mut Vec<Output>) {
        while let Some(d) = self.overlay.chunks.get_mut(&key).and_then(|c| c.destage.as_mut())
            && d.outstanding < WRITES_IN_FLIGHT
            && let Some((off, bufs)) = d.left.pop_front()
        {
            d.outstanding += 1;
            self.disk_op(Purpose::Destage(key), DiskOp::Write { off, bufs, durable: false }, out);
        }
    }

    /// Merges the overlay into the chunk's page: returns the new page, the data writes, and the
    /// blocks that it moves.
    #[allow(clippy::type_complexity)]
    fn merge(
        &mut self,
        key: Key,
        old: &Page,
    ) -> Result<(Page, Vec<(u64, Vec<Bytes>)>, Vec<(u16, hf_policy::Ver, u64)>), String> {
        let Some(c) = self.overlay.chunks.get(&key) else { return Err("a chunk vanished during destage".into()) };
        let mut page = old.clone();
        if let Some((ver, _)) = c.trim {
            page.trim_ver = page.trim_ver.max(ver);
            page.blocks.iter_mut().filter(|m| m.ver <= ver).for_each(|m| *m = BlockMeta::default());
        }
        // (A copy may have restored blocks that are older than the trim, which was part of a lost
        // history.)
        if c.blocks.values().any(|ov| ov.ver < page.trim_ver) {
            page.spell_out_trim();
        }
        let mut moved = Vec::with_capacity(c.blocks.len());
        let mut data: Vec<(u16, Bytes)> = Vec::new();
        let mut mapped = [NO_UNIT; CHUNK_UNITS];
        for (at, ov) in &c.blocks {
            moved.push((*at, ov.ver, ov.group));
            let state = match &ov.place {
                Place::Mem(b) => {
                    data.push((*at, b.clone()));
                    BlockState::Data
                }
                Place::Unit(u) => {
                    mapped[*at as usize / UNIT_BLOCKS] = *u;
                    BlockState::Data
                }
                Place::Zero => BlockState::Zero,
                Place::Bad => BlockState::Bad,
            };
            let crc = if state == BlockState::Data { ov.crc } else { SeededCrc(0) };
            page.blocks[*at as usize] = BlockMeta { ver: ov.ver, crc, state };
        }
        // Records that name a unit freed here are in groups up to `applied`. The page without the
        // unit is part of the very next checkpoint, because nothing is destaged while one commits.
        let applied = self.journal.applied;
        for (u, new_unit) in mapped.into_iter().enumerate().filter(|(_, m)| *m != NO_UNIT) {
            let before = std::mem::replace(&mut page.units[u], new_unit);
            self.space.units.settle(new_unit);
            if let Some(c) = self.overlay.chunks.get_mut(&key) {
                c.fresh &= !(1 << u);
            }
            let has_page = self.space.units.is_settled(new_unit);
            invariant!(has_page, "the page of chunk {key:?} gets unit {new_unit}, which is free or on its way to it");
            if before != NO_UNIT && before != new_unit {
                self.space.units.release(before, applied);
            }
        }
        self.place_data(key, &mut page, &data)?;
        // Operations in flight rely on units that the page has; they were promised none.
        let held = self.overlay.chunks.get(&key).map_or(0, |c| c.held);
        let held = if mutant::is(Mutant::FreesHeldUnits) { 0 } else { held };
        for u in (0..CHUNK_UNITS).filter(|u| held >> u & 1 == 0) {
            let blocks = &page.blocks[u * UNIT_BLOCKS..(u + 1) * UNIT_BLOCKS];
            if page.units[u] != NO_UNIT && blocks.iter().all(|m| m.state != BlockState::Data) {
                self.space.units.release(page.units[u], applied);
                page.units[u] = NO_UNIT;
            }
        }
        let writes = self.data_writes(&page, data);
        Ok((page, writes, moved))
    }

    /// Allocates a unit for all data that has none, and spends the promises for them.
    fn place_data(&mut self, key: Key, page: &mut Page, data: &[(u16, Bytes)]) -> Result<(), String> {
        for (at, _) in data {
            let u = *at as usize / UNIT_BLOCKS;
            if page.units[u] == NO_UNIT {
                let promised = self.overlay.chunks.get(&key).is_some_and(|c| c.promise >> u & 1 == 1);
                page.units[u] = self.unit_for(promised).ok_or("no unit is left for an acknowledged write")?;
            }
        }
        if let Some(c) = self.overlay.chunks.get_mut(&key) {
            let spent = c.promise & page.unit_mask();
            c.promise &= !spent;
            // (Promises for blocks that were zeroed meanwhile end too, once nothing is in flight.)
            let stale = if c.inflight == 0 { std::mem::take(&mut c.promise) } else { 0 };
            let spent = if mutant::is(Mutant::SpentPromiseCounts) { 0 } else { spent };
            lower!(self.space.promised_units, spent.count_ones() + stale.count_ones(), "units promised");
        }
        Ok(())
    }

    /// The data writes of a destage; adjacent blocks share a write.
    fn data_writes(&self, page: &Page, data: Vec<(u16, Bytes)>) -> Vec<(u64, Vec<Bytes>)> {
        let mut writes: Vec<(u64, Vec<Bytes>)> = Vec::new();
        for (at, bytes) in data {
            let unit = page.units[at as usize / UNIT_BLOCKS];
            let off = self.sb.geometry.unit_off(unit) + (at as usize % UNIT_BLOCKS) as u64 * BLOCK_BYTES;
            match writes.last_mut() {
                Some((start, bufs)) if *start + (bufs.len() * BLOCK_SIZE) as u64 == off => bufs.push(bytes),
                _ => writes.push((off, vec![bytes])),
            }
        }
        writes
    }

    pub(crate) fn destage_written(&mut self, key: Key, out: &mut Vec<Output>) {
        let Some(c) = self.overlay.chunks.get_mut(&key) else {
            broken!("a destage of chunk {key:?} wrote, and the chunk is not known");
            return;
        };
        let Some(d) = c.destage.as_mut() else {
            broken!("chunk {key:?} has written and is not destaged");
            return;
        };
        lower!(d.outstanding, 1, "writes of a destage");
        if !d.left.is_empty() || d.outstanding > 0 {
            return self.destage_more(key, out);
        }
        let Some(d) = c.destage.take() else { return }; // (It is there: see above.)
        if c.trim == d.trim {
            c.trim = None;
        }
        let mut gone = Vec::new();
        for (at, ver, group) in &d.moved {
            if c.blocks.get(at).is_some_and(|o| o.ver == *ver && o.group == *group) {
                gone.push((*at, c.blocks.remove(at)));
            }
        }
        if c.blocks.is_empty() {
            (c.mem, c.fresh) = (0, 0);
        }
        if c.blocks.is_empty() && c.inflight == 0 {
            let promise = std::mem::take(&mut c.promise).count_ones();
            lower!(self.space.promised_units, promise, "units promised");
        }
        for (at, ov) in gone {
            self.superseded(key, at, ov);
        }
        self.recount(key);
        match self.table.map.get(&key).copied() {
            Some(slot) => {
                let relied_on = self.table.committed[slot as usize] == Some(d.copy);
                invariant!(!relied_on, "slot {slot}: the page copy that the last checkpoint relies on is written over");
                if let Some(e) = self.table.slots[slot as usize].as_mut() {
                    e.copy = Some(d.copy);
                    e.page_crc = d.page_crc;
                }
                self.pages.cache.put(slot, d.new);
                self.mark_slot(slot);
                self.checkpoint.destaged(slot);
            }
            None => broken!("chunk {key:?} has lost its slot while it was destaged"),
        }
        self.stats.destaged += 1;
        self.pace.destaged();
        self.checkpoint.job_ended();
        if self.overlay.chunks.get(&key).is_some_and(|c| !c.slow.is_empty()) {
            self.requests.slow_ready.push_back(key);
        }
        self.drop_if_idle(key);
    }
}

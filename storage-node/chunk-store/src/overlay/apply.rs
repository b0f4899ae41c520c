//! Applies durable records to the overlay. Running and replay use the same code, so a crash changes
//! nothing (C6).

use crate::engine::Store;
use crate::format::group::{Body, Record};
use crate::format::index::SlotEntry;
use crate::overlay::{Chunk, OverlayBlock, Place};
use crate::table::Key;
use crate::{CHUNK_UNITS, UNIT_BLOCKS};
use bytes::Bytes;
use hf_policy::crc::SeededCrc;
use hf_policy::{BLOCK_SIZE, ChunkIx, Ver, broken, invariant};

impl Store {
    /// Applies one record of journal group `group`. An error means that the record contradicts the
    /// store's state.
    pub(crate) fn apply(&mut self, rec: &Record, payload: Bytes, group: u64) -> Result<(), String> {
        if let Body::Replica(r) = &rec.body {
            return self.apply_replica(rec.replica, r);
        }
        if let Body::Extend { unit } = rec.body {
            return self.apply_extend(rec.replica, unit);
        }
        if self.table.replicas.get(rec.replica as usize).and_then(|r| r.as_ref()).is_none_or(|r| r.rid != rec.rid) {
            return Ok(()); // The replica was deleted meanwhile.
        }
        match &rec.body {
            Body::Data { crcs } => {
                let bytes = crcs.len() * BLOCK_SIZE;
                invariant!(payload.len() == bytes, "a record of {bytes} bytes comes with {}", payload.len());
                let key = (rec.replica, rec.range.start.chunk().0);
                for (i, crc) in crcs.iter().enumerate() {
                    let at = (rec.range.start.in_chunk() + i) as u16;
                    let place = Place::Mem(payload.slice(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE));
                    self.overlay_put(key, at, OverlayBlock { ver: rec.ver, crc: *crc, place, group });
                }
                self.touched(key, rec.ver)
            }
            Body::Map { units, crcs } => self.apply_map(rec, units, crcs, group),
            Body::Zero => self.apply_zero(rec, group),
            // (Never by the chunk's trim version: a copy may also restore a zero that is older than
            // it.)
            Body::Bad | Body::ZeroKept => {
                let key = (rec.replica, rec.range.start.chunk().0);
                for b in rec.range.iter() {
                    let place = if rec.body == Body::Bad { Place::Bad } else { Place::Zero };
                    let ov = OverlayBlock { ver: rec.ver, crc: SeededCrc(0), place, group };
                    self.overlay_put(key, b.in_chunk() as u16, ov);
                }
                self.touched(key, rec.ver)
            }
            Body::Replica(_) | Body::Extend { .. } => Ok(()),
        }
    }

    fn apply_map(&mut self, rec: &Record, units: &[u32], crcs: &[SeededCrc], group: u64) -> Result<(), String> {
        let key = (rec.replica, rec.range.start.chunk().0);
        for (i, crc) in crcs.iter().enumerate() {
            let at = (rec.range.start.in_chunk() + i) as u16;
            let unit = units[i / UNIT_BLOCKS];
            self.overlay_put(key, at, OverlayBlock { ver: rec.ver, crc: *crc, place: Place::Unit(unit), group });
        }
        self.touched(key, rec.ver)
    }

    /// Applies a zero: whole chunks get a trim version, partly covered ones a zero per block. A
    /// chunk that was never written is zero already and gets no entry (docs/decisions/0004).
    fn apply_zero(&mut self, rec: &Record, group: u64) -> Result<(), String> {
        let (first, last) = (rec.range.start.chunk().0, rec.range.end().0.div_ceil(hf_policy::CHUNK_BLOCKS) as u32);
        let keys: Vec<Key> = self.table.map.range((rec.replica, first)..(rec.replica, last)).map(|(k, _)| *k).collect();
        for key in keys {
            let whole = ChunkIx(key.1).blocks();
            let part = rec.range.intersect(whole);
            if part == whole {
                self.overlay_clear(key, rec.ver, group);
            } else {
                for b in part.iter() {
                    let ov = OverlayBlock { ver: rec.ver, crc: SeededCrc(0), place: Place::Zero, group };
                    self.overlay_put(key, b.in_chunk() as u16, ov);
                }
            }
            self.touched(key, rec.ver)?;
        }
        Ok(())
    }

    /// Records that the chunk holds version `ver`. A chunk without a slot gets one here.
    fn touched(&mut self, key: Key, ver: Ver) -> Result<(), String> {
        let slot = match self.table.map.get(&key) {
            Some(s) => *s,
            None => {
                let s = self.space.free_slots.pop().ok_or("no chunk slot is left for an acknowledged write")?;
                let before = self.table.slots[s as usize];
                invariant!(before.is_none(), "slot {s} was free and has {before:?}");
                self.table.slots[s as usize] = Some(SlotEntry {
                    replica: key.0,
                    chunk: key.1,
                    max_ver: Ver::ZERO,
                    units: 0,
                    copy: None,
                    page_crc: 0,
                });
                self.table.map.insert(key, s);
                if let Some(c) = self.overlay.chunks.get_mut(&key).filter(|c| c.slot_promised) {
                    c.slot_promised = false;
                    lower!(self.space.promised_slots, 1, "slots promised");
                }
                s
            }
        };
        match self.table.slots[slot as usize].as_mut() {
            Some(e) => {
                invariant!((e.replica, e.chunk) == key, "slot {slot} of chunk {key:?} is that of {e:?}");
                e.max_ver = e.max_ver.max(ver);
            }
            None => broken!("chunk {key:?} has slot {slot}, which is free"),
        }
        self.mark_slot(slot);
        self.recount(key);
        Ok(())
    }

    pub(crate) fn chunk_mut(&mut self, key: Key) -> &mut Chunk {
        let top = self
            .table
            .map
            .get(&key)
            .and_then(|s| self.table.slots[*s as usize].as_ref())
            .map_or(Ver::ZERO, |s| s.max_ver);
        let c = self.overlay.chunks.entry(key).or_default();
        c.top = c.top.max(top);
        c
    }

    fn overlay_put(&mut self, key: Key, at: u16, ov: OverlayBlock) {
        if matches!(ov.place, Place::Mem(_)) {
            self.overlay.bytes += BLOCK_SIZE;
        }
        let ver = ov.ver;
        let unit = 1 << (at as usize / UNIT_BLOCKS);
        let (mem, fresh) = match ov.place {
            Place::Mem(_) => (unit, 0),
            Place::Unit(_) => (0, unit),
            Place::Zero | Place::Bad => (0, 0),
        };
        let zero = matches!(ov.place, Place::Zero);
        if let Place::Unit(u) = ov.place {
            invariant!(self.space.units.is_allocated(u), "block {at} of chunk {key:?} is in unit {u}, which is free");
        }
        let c = self.chunk_mut(key);
        c.top = c.top.max(ver);
        c.mem |= mem;
        c.fresh |= fresh;
        let old = c.blocks.insert(at, ov);
        self.superseded(key, at, old);
        if let Some(c) = self.overlay.chunks.get_mut(&key).filter(|_| zero) {
            let zeros = &mut c.zeros[at as usize / UNIT_BLOCKS];
            *zeros += 1;
            invariant!(usize::from(*zeros) <= UNIT_BLOCKS, "{zeros} blocks of a unit of chunk {key:?} are zero");
            if usize::from(*zeros) == UNIT_BLOCKS {
                c.mem &= !unit;
            }
        }
    }

    fn overlay_clear(&mut self, key: Key, ver: Ver, group: u64) {
        let c = self.chunk_mut(key);
        c.top = c.top.max(ver);
        c.trim = Some((ver, group));
        (c.mem, c.fresh) = (0, 0);
        let old = std::mem::take(&mut c.blocks);
        for (at, ov) in old {
            self.superseded(key, at, Some(ov));
        }
    }

    /// Accounts for an overlay block that was replaced or destaged. Its fresh unit is freed if no
    /// other block refers to it and no page owns it.
    pub(crate) fn superseded(&mut self, key: Key, at: u16, old: Option<OverlayBlock>) {
        let Some(old) = old else { return };
        match old.place {
            Place::Mem(_) => lower!(self.overlay.bytes, BLOCK_SIZE, "bytes in the overlay"),
            Place::Unit(unit) => {
                let first = at / UNIT_BLOCKS as u16 * UNIT_BLOCKS as u16;
                let still = self.overlay.chunks.get(&key).is_some_and(|c| {
                    let mut range = c.blocks.range(first..first + UNIT_BLOCKS as u16);
                    range.any(|(_, o)| matches!(o.place, Place::Unit(u) if u == unit))
                });
                if !still && self.space.units.is_volatile(unit) {
                    self.space.units.release(unit, self.journal.applied + 1);
                    self.no_longer_fresh(key, first);
                }
            }
            Place::Zero => match self.overlay.chunks.get_mut(&key) {
                Some(c) => lower!(c.zeros[at as usize / UNIT_BLOCKS], 1, "zero blocks of a unit"),
                None => broken!("a zero block of chunk {key:?} is replaced, and the chunk is not known"),
            },
            Place::Bad => {}
        }
    }

    /// No block refers to a fresh unit any more. Unless another fresh unit takes its place, the
    /// page keeps the unit it has.
    fn no_longer_fresh(&mut self, key: Key, first: u16) {
        let Some(c) = self.overlay.chunks.get_mut(&key) else {
            broken!("a fresh unit of chunk {key:?} is replaced, and the chunk is not known");
            return;
        };
        let mut range = c.blocks.range(first..first + UNIT_BLOCKS as u16);
        if !range.any(|(_, o)| matches!(o.place, Place::Unit(_))) {
            c.fresh &= !(1 << (first as usize / UNIT_BLOCKS));
            self.recount(key);
        }
    }

    /// Replay: marks the units that a record names as allocated. A unit that is allocated already
    /// belongs to a page that was written after the record and committed before the journal freed
    /// the record's group.
    pub(crate) fn claim_for_replay(&mut self, rec: &Record) -> Result<(), String> {
        let Body::Map { units, .. } = &rec.body else { return Ok(()) };
        if self.table.by_rid.get(&rec.rid) != Some(&rec.replica) {
            return Ok(());
        }
        for u in units {
            if *u >= self.space.units.total() {
                return Err(format!("a journal record names unit {u}, beyond the disk"));
            }
            self.space.units.claim(*u);
        }
        Ok(())
    }

    /// Promises, after a replay, the units that the overlay will need when it is destaged.
    pub(crate) fn promise_after_replay(&mut self) {
        let keys: Vec<Key> = self.overlay.chunks.keys().copied().collect();
        for key in keys {
            let mask =
                self.table.map.get(&key).and_then(|s| self.table.slots[*s as usize].as_ref()).map_or(0, |s| s.units);
            let Some(c) = self.overlay.chunks.get_mut(&key) else {
                broken!("chunk {key:?} has gone while units were promised");
                continue;
            };
            let mut need = 0u16;
            for (at, ov) in &c.blocks {
                if matches!(ov.place, Place::Mem(_)) {
                    need |= 1 << (*at as usize / UNIT_BLOCKS).min(CHUNK_UNITS - 1);
                }
            }
            let new = need & !mask & !c.promise;
            c.promise |= new;
            self.space.promised_units += new.count_ones();
        }
    }
}

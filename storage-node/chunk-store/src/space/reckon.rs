//! Finds units without an owner. Only a chunk's page says where its units are. When a page is lost
//! for good (its replica is deleted, or a destage writes it anew), its units stay allocated and
//! nothing refers to them: orphans. Their number follows from the index: the units allocated in the
//! bitmap, less those in the slots' masks. Which units they are is known only after every page has
//! been looked at.
//!
//! A page that cannot be read now may be readable later. While there is one, a unit that no other
//! page refers to may be its own, and no orphan is freed. Only when an acknowledged write has no
//! other place left ("pressed") is such a page given up: the checkpoint whose destages use its
//! units also writes it down as lost, so two pages never refer to one unit.

use crate::disk::{DiskError, DiskOp};
use crate::engine::{Output, Purpose, State, Store};
use crate::format::index::SlotEntry;
use crate::format::page::{NO_UNIT, Page};
use crate::format::superblock::Superblock;
use crate::mutant::{self, Mutant};
use crate::overlay::Place;
use crate::space::Units;
use crate::table::Key;
use crate::{CHUNK_UNITS, UNIT_BLOCKS};
use bytes::Bytes;
use hf_policy::{BLOCK_SIZE, broken, invariant};
use std::collections::{BTreeMap, BTreeSet};

/// A read of a slot's page copy, with the checksum it should have, to learn its units; `again`
/// marks the second try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    slot: u32,
    copy: u8,
    crc: u32,
    again: bool,
}

#[derive(Default)]
struct Run {
    /// Slots below this one were looked at, or are being read.
    next: u32,
    outstanding: usize,
    /// Slots that have units and whose page could not be read, with the copy and the checksum that
    /// were tried.
    unreadable: BTreeMap<u32, (u8, u32)>,
}

#[derive(Default)]
pub(crate) struct Reckoning {
    orphans: u64,
    /// True if a further look would find nothing until another page is lost for good.
    futile: bool,
    run: Option<Run>,
    /// Chunks whose destage waits for a unit.
    parked: Vec<Key>,
    /// How often the running checkpoint has looked for units.
    tries: u32,
    /// Units found in the running checkpoint, for chunks whose page is lost.
    adoptable: Vec<u32>,
    /// Slots whose page counts as lost even if it could be read again. Their units are among the
    /// orphans already.
    given_up: BTreeSet<u32>,
}

/// Pages read at once: in the background, and when acknowledged writes wait.
const DEPTH: usize = 1;
const PRESSED_DEPTH: usize = 64;
/// Largest number of looks per checkpoint: each may find that one more page is lost.
const MOST_TRIES: u32 = 8;
/// Largest number of slots looked at in one step in the background.
const SLOTS_A_STEP: u32 = 1 << 16;

impl Reckoning {
    /// The orphans of a disk that is opened. It is an error if the replica table goes on in units
    /// that are not allocated.
    pub(crate) fn owed(units: &Units, slots: &[Option<SlotEntry>], sb: &Superblock) -> Result<Reckoning, String> {
        let own = &sb.extensions;
        let distinct: BTreeSet<&u32> = own.iter().collect();
        if distinct.len() != own.len() || own.iter().any(|u| !units.is_allocated(*u)) {
            return Err("the replica table goes on in units that it does not have".into());
        }
        let masks: u64 = slots.iter().flatten().map(|s| u64::from(s.units.count_ones())).sum();
        let allocated = u64::from(units.total() - units.free());
        Ok(Reckoning { orphans: allocated.saturating_sub(masks + own.len() as u64), ..Reckoning::default() })
    }

    pub(crate) fn orphans(&self) -> u64 {
        self.orphans
    }

    /// True if a look is expected to find units.
    fn promises_units(&self) -> bool {
        self.orphans > 0 && !self.futile
    }

    pub(crate) fn gave_up(&self, slot: u32) -> bool {
        self.given_up.contains(&slot)
    }

    /// An orphan has an owner now.
    pub(crate) fn adopted(&mut self) {
        lower!(self.orphans, 1, "units that belong to nothing");
    }

    /// Number of pages being read for their units.
    pub(crate) fn reading(&self) -> usize {
        self.run.as_ref().map_or(0, |r| r.outstanding)
    }

    /// Chunks whose destage waits for a unit.
    pub(crate) fn parked(&self) -> &[Key] {
        &self.parked
    }

    /// Orphans that chunks of the running checkpoint may take.
    pub(crate) fn adoptable(&self) -> &[u32] {
        &self.adoptable
    }

    /// Verifies that the units set aside are among the orphans, and that every unreadable page was
    /// looked at.
    pub(crate) fn check(&self) {
        let (set_aside, orphans) = (self.adoptable.len() as u64, self.orphans);
        invariant!(set_aside <= orphans, "{set_aside} units are set aside of {orphans} that belong to nothing");
        invariant!(self.tries <= MOST_TRIES, "a checkpoint looked for units {} times", self.tries);
        if let Some(run) = &self.run {
            invariant!(run.outstanding <= PRESSED_DEPTH, "{} pages are read at once", run.outstanding);
            let last = run.unreadable.last_key_value().map(|(slot, _)| *slot);
            invariant!(last.is_none_or(|s| s < run.next), "slot {last:?} could not be read and was not looked at");
        }
    }

    /// A checkpoint is durable: the next one may look for units again.
    pub(crate) fn committed(&mut self) {
        self.tries = 0;
    }
}

impl Store {
    /// The old page of a slot is being replaced or dropped: units that the slot has and `page` does
    /// not name are orphans from now on.
    pub(crate) fn orphaned(&mut self, slot: u32, page: &Page) {
        let counted = self.reckoning.given_up.remove(&slot);
        let mask = self.table.slots[slot as usize].as_ref().map_or(0, |s| s.units);
        let lost = mask & !page.unit_mask();
        if lost != 0 && !mutant::is(Mutant::LostUnitsForgotten) {
            self.reckoning.orphans += if counted { 0 } else { u64::from(lost.count_ones()) };
            self.reckoning.futile = false;
        }
    }

    /// Parks the chunk if there is no unit for all data that its destage places, until the pages
    /// have been looked through. (For units of a page that is lost nothing was promised.) Returns
    /// true if it was parked.
    pub(crate) fn parks(&mut self, key: Key, old: &Page) -> bool {
        let Some(c) = self.overlay.chunks.get(&key) else {
            broken!("chunk {key:?} has gone while it is destaged");
            return false;
        };
        invariant!(!self.reckoning.parked.contains(&key), "chunk {key:?} waits for a unit and is destaged");
        let mut need = 0u16;
        for (at, ov) in &c.blocks {
            if matches!(ov.place, Place::Mem(_)) {
                need |= 1 << (*at as usize / UNIT_BLOCKS).min(CHUNK_UNITS - 1);
            }
        }
        let need = (need & !old.unit_mask() & !c.promise).count_ones();
        let spare =
            self.space.units.free().saturating_sub(self.space.promised_units) as usize + self.reckoning.adoptable.len();
        let waits = self.reckoning.tries < MOST_TRIES && !mutant::is(Mutant::LostUnitsForgotten);
        if spare >= need as usize || !waits {
            return false;
        }
        self.reckoning.parked.push(key);
        true
    }

    /// Allocates a unit for data. If nothing was promised for it, it may be one of those that lost
    /// pages had.
    pub(crate) fn unit_for(&mut self, promised: bool) -> Option<u32> {
        if !promised && let Some(unit) = self.reckoning.adoptable.pop() {
            self.reckoning.adopted();
            self.space.units.saw(unit);
            return Some(unit);
        }
        let unit = self.space.units.take()?;
        self.space.units.settle(unit);
        Some(unit)
    }

    /// Goes on looking at pages, as long as there is something to find.
    pub(crate) fn drive_reckoning(&mut self, out: &mut Vec<Output>) {
        let pressed = !self.reckoning.parked.is_empty();
        if self.reckoning.run.is_none() {
            let wanted = pressed || self.reckoning.promises_units() && self.reckoning.adoptable.is_empty();
            if !wanted || self.state != State::Serving {
                return;
            }
            self.space.units.begin_reckoning();
            self.table.extensions.iter().for_each(|u| self.space.units.saw(*u));
            self.reckoning.run = Some(Run::default());
        }
        let hurry = pressed || self.checkpoint.space_awaited();
        let mut steps = 0;
        while let Some(run) = self.reckoning.run.as_mut() {
            if run.outstanding >= if hurry { PRESSED_DEPTH } else { DEPTH } || (!hurry && steps == SLOTS_A_STEP) {
                return;
            }
            if run.next as usize == self.table.slots.len() {
                if run.outstanding > 0 || self.look_again(out) {
                    return;
                }
                return self.end_reckoning(out);
            }
            let slot = run.next;
            run.next += 1;
            steps += 1;
            self.look(slot, false, out);
        }
    }

    /// Looks once more at pages that could not be read and were written anew since. Returns true if
    /// reads are in flight.
    fn look_again(&mut self, out: &mut Vec<Output>) -> bool {
        let Some(run) = self.reckoning.run.as_mut() else {
            broken!("pages are looked at again, and nobody looks at any");
            return false;
        };
        let is_as_before = |slot: &u32, (copy, crc): &mut (u8, u32)| {
            self.table.slots[*slot as usize].is_some_and(|e| e.copy == Some(*copy) && e.page_crc == *crc)
        };
        let before: Vec<u32> = run.unreadable.keys().copied().collect();
        run.unreadable.retain(is_as_before);
        let changed: Vec<u32> = before.into_iter().filter(|s| !run.unreadable.contains_key(s)).collect();
        changed.into_iter().for_each(|slot| self.look(slot, false, out));
        self.reckoning.run.as_ref().is_some_and(|r| r.outstanding > 0)
    }

    fn look(&mut self, slot: u32, again: bool, out: &mut Vec<Output>) {
        if self.knows(slot) {
            return;
        }
        // A slot without a page names no units.
        let Some((copy, crc)) = self.table.slots[slot as usize].as_ref().and_then(|e| Some((e.copy?, e.page_crc)))
        else {
            return;
        };
        if let Some(run) = self.reckoning.run.as_mut() {
            run.outstanding += 1;
        }
        let op = DiskOp::Read { off: self.sb.geometry.page_off(slot, copy), len: BLOCK_SIZE as u32 };
        self.disk_op(Purpose::Reckon(Look { slot, copy, crc, again }), op, out);
    }

    /// Notes the units of a slot if they are known without a read; returns whether they are.
    fn knows(&mut self, slot: u32) -> bool {
        let Some(e) = self.table.slots[slot as usize] else { return true };
        if e.units == 0 {
            return true;
        }
        let key = (e.replica, e.chunk);
        // (A running destage has two pages in memory, and a crash may leave either.)
        if let Some((old, new)) =
            self.overlay.chunks.get(&key).and_then(|c| c.destage.as_ref()).map(|d| (d.old.clone(), d.new.clone()))
        {
            self.saw_units(&old);
            self.saw_units(&new);
            return true;
        }
        match self.page_of(key) {
            Ok(page) if e.units & !page.unit_mask() == 0 => {
                self.saw_units(&page);
                true
            }
            _ => false,
        }
    }

    fn saw_units(&mut self, page: &Page) {
        page.units.iter().filter(|u| **u != NO_UNIT).for_each(|u| self.space.units.saw(*u));
    }

    /// A page was read for its units: notes them, or tries again, or remembers that it could not be
    /// read.
    pub(crate) fn looked(&mut self, look: Look, result: Result<Bytes, DiskError>, out: &mut Vec<Output>) {
        let Some(run) = self.reckoning.run.as_mut() else {
            broken!("slot {} was looked at, and nobody looks at pages", look.slot);
            return;
        };
        lower!(run.outstanding, 1, "pages that are looked at");
        let slot = look.slot;
        if self.knows(slot) {
            return;
        }
        let Some(e) = self.table.slots[slot as usize] else {
            broken!("slot {slot} is free and its units are not known");
            return;
        };
        if e.copy != Some(look.copy) || e.page_crc != look.crc {
            return self.look(slot, false, out); // It was written anew meanwhile.
        }
        let page = match (result, self.table.page_id((e.replica, e.chunk))) {
            (Ok(block), Some(id)) => Page::decode(&block, id, e.page_crc),
            _ => None,
        };
        match page.filter(|_| !self.reckoning.gave_up(slot)) {
            Some(page) => self.saw_units(&page),
            None if !look.again => self.look(slot, true, out),
            None => {
                if let Some(run) = self.reckoning.run.as_mut() {
                    run.unreadable.insert(slot, (look.copy, look.crc));
                }
            }
        }
    }

    fn end_reckoning(&mut self, out: &mut Vec<Output>) {
        let Some(run) = self.reckoning.run.take() else {
            broken!("every page was looked at, and nobody looks at any");
            return;
        };
        invariant!(run.outstanding == 0, "{} pages are still being looked at", run.outstanding);
        // (A page that could not be read then may be known by now.)
        let unreadable: Vec<u32> = run.unreadable.into_keys().filter(|s| !self.knows(*s)).collect();
        for key in self.overlay_keys() {
            let units: Vec<u32> = self.overlay.chunks.get(&key).map(crate::overlay::Chunk::units).unwrap_or_default();
            units.into_iter().for_each(|u| self.space.units.saw(u));
        }
        let found = self.space.units.end_reckoning();
        let parked = std::mem::take(&mut self.reckoning.parked);
        if parked.is_empty() {
            if !unreadable.is_empty() && !mutant::is(Mutant::UnreadableUnitsGiven) {
                self.reckoning.futile = true;
                return;
            }
            let (found, counted) = (found, self.reckoning.orphans);
            invariant!(found.len() as u64 == counted, "{} units belong to nothing, counted as {counted}", found.len());
            self.reckoning.orphans = 0;
            let applied = self.journal.applied;
            found.into_iter().for_each(|u| self.space.units.release(u, applied));
            return;
        }
        self.reckoning.tries += 1;
        self.reckoning.adoptable = found;
        for slot in unreadable {
            self.give_up(slot, &parked);
        }
        for key in parked {
            self.destage_go(key, out);
        }
    }

    fn overlay_keys(&self) -> Vec<Key> {
        self.overlay.chunks.iter().filter(|(_, c)| c.is_dirty()).map(|(k, _)| *k).collect()
    }

    /// Gives a page up: it counts as lost from now on, whatever a later read may say, and the
    /// running checkpoint writes that down.
    fn give_up(&mut self, slot: u32, parked: &[Key]) {
        let Some(e) = self.table.slots[slot as usize] else {
            broken!("slot {slot} is free and its page is given up");
            return;
        };
        let key = (e.replica, e.chunk);
        if self.reckoning.given_up.insert(slot) {
            // (They are counted here and not when the chunk is destaged, because other chunks may
            // take them before that.)
            self.reckoning.orphans += u64::from(e.units.count_ones());
        }
        self.pages.cache.remove(slot);
        if !parked.contains(&key) {
            self.chunk_mut(key).rewrite = true;
            self.checkpoint.add_work(key);
        }
    }

    /// Every chunk of the checkpoint is destaged: frees what is left of the units found. They are
    /// free once the checkpoint is durable, and with it every record that may name them.
    pub(crate) fn give_adopted_back(&mut self) {
        let left = std::mem::take(&mut self.reckoning.adoptable);
        lower!(self.reckoning.orphans, left.len() as u64, "units that belong to nothing");
        let applied = self.journal.applied;
        left.into_iter().for_each(|u| self.space.units.release(u, applied));
    }
}

//! Verifies the whole store: each part by itself, then what the parts say of each other.
//!
//! Each part has a `check` of its own that reads only that part. The checks in this file need
//! several parts: sums kept beside what they count, references from one part into another, and disk
//! operations in flight, each of which something waits for. Their cost grows with the disk, so
//! tests and the simulator call [`Store::check`] after the inputs and the daemon never does.
//!
//! A store that has failed is not verified: it has dropped what was under way and answers nothing
//! any more.

use crate::engine::{Purpose, State, Store};
use crate::format::group::Body;
use crate::format::index::SlotEntry;
use crate::format::page::NO_UNIT;
use crate::overlay::Place;
use crate::requests::write::unit_mask;
use crate::space::credit::returns;
use crate::table::Key;
use crate::table::pages::Waiter;
use hf_policy::invariant;
use std::collections::{BTreeMap, BTreeSet};

impl Store {
    /// Verifies every part and what they say of each other, by [`hf_policy::invariant!`]. Its cost
    /// grows with the disk.
    pub fn check(&self) {
        if matches!(self.state, State::Failed(_)) {
            return;
        }
        self.table.check();
        self.space.check();
        self.reckoning.check();
        self.pages.check();
        self.journal.check();
        self.overlay.check();
        self.pace.check();
        self.requests.check();
        self.reads.check(|number| self.pages.waiting(|w| *w == Waiter::Read(number)) > 0);
        self.checkpoint.check(self.journal.applied);
        self.index.check(self.sb.geometry.pages_with(self.table.extensions.len()));
        self.check_superblock();
        self.check_promises();
        self.check_units();
        self.check_slots();
        self.check_pages();
        self.check_chunks();
        self.check_in_flight();
        self.check_operations();
        self.check_deletions();
    }

    fn check_superblock(&self) {
        let (sb, durable) = (&self.sb, self.durable_sb);
        invariant!(sb.generation >= durable, "superblock {durable} is durable, {} was made last", sb.generation);
        invariant!(sb.generation <= durable + 1 || self.upgrading, "two superblocks are on their way");
        let named = &sb.extensions[..];
        invariant!(self.table.extensions.starts_with(named), "the superblock names units that the table does not have");
        let starting = self.state == State::Starting;
        invariant!(self.checkpoint.notes_are_on_their_way(starting), "a log's age waits for no superblock");
    }

    /// The totals of promises are the sums over all chunks.
    fn check_promises(&self) {
        let chunks = || self.overlay.chunks.values();
        let units: u32 = chunks().map(|c| c.promise.count_ones()).sum();
        invariant!(self.space.promised_units == units, "{} units are promised, not {units}", self.space.promised_units);
        let slots = chunks().filter(|c| c.slot_promised).count();
        let counted = self.space.promised_slots as usize;
        invariant!(counted == slots, "{counted} slots are promised, to {slots} chunks");
        let returning: u32 = chunks().map(|c| c.returning.count_ones()).sum();
        let counted = self.space.returning;
        invariant!(counted == returning, "{counted} units are on their way back, of chunks that have {returning}");
        for (key, c) in &self.overlay.chunks {
            let now = returns(c, self.page_units(*key));
            invariant!(c.returning == now, "chunk {key:?} gives back {now:#x}, counted as {:#x}", c.returning);
            invariant!(
                !c.slot_promised || !self.table.map.contains_key(key),
                "chunk {key:?} has the slot it was promised"
            );
        }
    }

    /// Every allocated unit belongs to a page or the replica table, is waiting for its first page,
    /// is being freed, or is a known orphan.
    fn check_units(&self) {
        let units = &self.space.units;
        // (The units of a page that was given up count as orphans already.)
        let of_a_page = |(slot, _): &(usize, &Option<SlotEntry>)| !self.reckoning.gave_up(*slot as u32);
        let slots = self.table.slots.iter().enumerate().filter(of_a_page).filter_map(|(_, e)| e.as_ref());
        let pages: u64 = slots.map(|e| u64::from(e.units.count_ones())).sum();
        let moving = units.volatile().len() as u64 + u64::from(units.pending());
        let known = pages + moving + self.table.extensions.len() as u64 + self.reckoning.orphans();
        let allocated = u64::from(units.total() - units.free());
        invariant!(allocated == known, "{allocated} units are allocated, {known} are accounted for");
        for unit in &self.table.extensions {
            invariant!(units.is_settled(*unit), "the replica table goes on in unit {unit}, which is not its own");
        }
        for unit in self.reckoning.adoptable() {
            invariant!(units.is_settled(*unit), "unit {unit} is set aside, and is not allocated or in motion");
        }
        let mut named: BTreeSet<u32> = self.requests.directs.values().flat_map(|d| d.units().iter().copied()).collect();
        for q in self.journal.records() {
            match &q.record.body {
                Body::Map { units, .. } => named.extend(units),
                Body::Extend { unit } => drop(named.insert(*unit)),
                _ => {}
            }
        }
        let early = named.iter().find(|u| !units.is_volatile(**u));
        invariant!(early.is_none(), "unit {early:?} has a page before its record is applied");
        named.extend(self.overlay.chunks.values().flat_map(|c| c.units()));
        let lost = units.volatile().iter().find(|u| !named.contains(u));
        invariant!(lost.is_none(), "unit {lost:?} waits for a page, and nothing on its way names it");
    }

    /// Every slot belongs to a chunk, is free, or is being freed.
    fn check_slots(&self) {
        let (free, leaving) = (&self.space.free_slots, &self.space.leaving_slots);
        let slots = &self.table.slots;
        let taken = free.iter().copied().chain(leaving.iter()).find(|s| slots.get(*s as usize) != Some(&None));
        invariant!(taken.is_none(), "slot {taken:?} is free, or on its way to it, and a chunk has it");
        let known = free.len() + leaving.iter().len() + self.table.map.len();
        invariant!(known == slots.len(), "{known} of {} slots are accounted for", slots.len());
    }

    /// Pages in memory name units of their own, as their slots say.
    fn check_pages(&self) {
        let mut owners: BTreeMap<u32, u32> = BTreeMap::new();
        for (key, slot) in &self.table.map {
            let Some(e) = self.table.slots.get(*slot as usize).and_then(Option::as_ref) else { continue };
            let destage = self.overlay.chunks.get(key).and_then(|c| c.destage.as_ref());
            invariant!(e.copy.is_some() || e.units == 0 || destage.is_some(), "slot {slot} has units and no page");
            let Some(page) = destage.map(|d| d.new.as_ref()).or_else(|| self.pages.cache.peek(*slot)) else { continue };
            let mask = page.unit_mask();
            // (A page that was lost has fewer than its slot until it is written anew.)
            invariant!(mask & !e.units == 0, "the page of slot {slot} has units {mask:#x}, its slot {:#x}", e.units);
            for unit in page.units.iter().filter(|u| **u != NO_UNIT) {
                invariant!(self.space.units.is_settled(*unit), "slot {slot} has unit {unit}, which is not settled");
                let other = owners.insert(*unit, *slot);
                invariant!(other.is_none(), "unit {unit} belongs to slots {slot} and {other:?}");
            }
        }
        for slot in self.pages.loading.keys().chain(self.pages.cache.slots()) {
            let has_page = self.table.slots.get(*slot as usize).is_some_and(|e| e.is_some_and(|e| e.copy.is_some()));
            invariant!(has_page, "the page of slot {slot} is at hand or being read, and there is none");
        }
    }

    /// A chunk has an entry in the overlay only while it needs one, and something will come back to
    /// every operation that waits in it.
    fn check_chunks(&self) {
        let parked: BTreeSet<&Key> = self.reckoning.parked().iter().collect();
        for (key, c) in &self.overlay.chunks {
            let replica = self.table.replicas.get(key.0 as usize).and_then(Option::as_ref);
            // (The chunks of a deleted replica go together, when none of them is busy.)
            let deleted = replica.is_none_or(|r| r.deleting);
            invariant!(deleted || !c.is_idle(), "chunk {key:?} is idle and still known");
            let acked = !c.blocks.is_empty() || c.trim.is_some();
            let slot = self.table.map.get(key).and_then(|s| self.table.slots.get(*s as usize)).and_then(Option::as_ref);
            invariant!(!acked || slot.is_some(), "chunk {key:?} has acknowledged blocks and no slot");
            invariant!(
                slot.is_none_or(|e| e.max_ver <= c.top),
                "chunk {key:?} has a version newer than all it was sent"
            );
            let spends = c.inflight > 0 || c.is_dirty() || c.destage.is_some();
            invariant!(c.promise == 0 || spends || deleted, "chunk {key:?} was promised units that nothing will take");
            let comes_back = c.inflight > 0
                || self.requests.short.contains(key)
                || self.requests.slow_ready.contains(key)
                || self.pages.waiting(|w| *w == Waiter::Slow(*key)) > 0;
            invariant!(
                c.slow.is_empty() || comes_back,
                "operations of chunk {key:?} wait, and nothing comes back to them"
            );
            // An acknowledged block that is not in place is in the journal's live part: a crash
            // restores it.
            let trim = c.trim.map(|(_, group)| group);
            let oldest = c.blocks.values().map(|b| b.group).chain(trim).min();
            let tail = self.journal.tail().seq;
            invariant!(
                oldest.is_none_or(|g| g >= tail),
                "chunk {key:?} relies on group {oldest:?}, the journal begins at {tail}"
            );
            for (at, b) in &c.blocks {
                let Place::Unit(unit) = b.place else { continue };
                let fresh = c.fresh >> (at / crate::UNIT_BLOCKS as u16) & 1 == 1;
                invariant!(
                    fresh || !self.space.units.is_volatile(unit),
                    "chunk {key:?} does not know of fresh unit {unit}"
                );
            }
            if let (Some(d), Some(e)) = (&c.destage, slot) {
                invariant!(
                    e.units == d.new.unit_mask(),
                    "the slot of chunk {key:?} does not have its new page's units"
                );
            }
            invariant!(!parked.contains(key) || c.destage.is_none(), "chunk {key:?} waits for a unit and is destaged");
        }
        let destages = self.overlay.chunks.values().filter(|c| c.destage.is_some()).count();
        let loading = self.pages.waiting(|w| matches!(w, Waiter::Destage(_)));
        let jobs = destages + loading + self.reckoning.parked().len();
        let counted = self.checkpoint.destaging();
        invariant!(counted == jobs, "{counted} chunks count as being destaged, {jobs} are");
    }

    /// Each chunk counts its operations that are not applied yet.
    fn check_operations(&self) {
        let mut inflight: BTreeMap<Key, (u32, u16)> = BTreeMap::new();
        for key in self.journal.records().flat_map(|q| q.chunks.keys()) {
            inflight.entry(*key).or_default().0 += 1;
        }
        for d in self.requests.directs.values() {
            let (n, units) = inflight.entry(d.key).or_default();
            *n += 1;
            *units |= unit_mask(d.record.range.start.in_chunk(), d.record.range.len as usize);
        }
        for (key, c) in &self.overlay.chunks {
            let (n, units) = inflight.remove(key).unwrap_or_default();
            invariant!(c.inflight == n, "{n} operations of chunk {key:?} are in flight, counted as {}", c.inflight);
            invariant!(c.direct == units, "direct writes of chunk {key:?} write {units:#x}, not {:#x}", c.direct);
        }
        let unknown = inflight.keys().next();
        invariant!(unknown.is_none(), "an operation of chunk {unknown:?} is in flight, and the chunk is not known");
    }

    /// Each disk operation in flight has an owner that waits for it, and every owner that waits has
    /// one in flight.
    fn check_in_flight(&self) {
        let (mut reads, mut directs, mut destages) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (mut pages, mut groups) = (BTreeSet::new(), BTreeSet::new());
        let (mut supers, mut checkpoint, mut verify, mut looks) = (0, 0, 0, 0);
        for (tag, purpose) in &self.disk.purposes {
            invariant!(*tag <= self.disk.last, "tag {tag} is in flight and was not given");
            let fresh = match purpose {
                Purpose::Super => (supers += 1, supers == 1).1,
                Purpose::Group(seq) => groups.insert(*seq),
                Purpose::Direct(number) => (*directs.entry(*number).or_insert(0) += 1, true).1,
                Purpose::Page(slot, _) => pages.insert(*slot),
                Purpose::Data { read, .. } => (*reads.entry(*read).or_insert(0) += 1, true).1,
                Purpose::Destage(key) => (*destages.entry(*key).or_insert(0) += 1, true).1,
                Purpose::Checkpoint => (checkpoint += 1, true).1,
                Purpose::Verify(_) => (verify += 1, true).1,
                Purpose::Reckon(_) => (looks += 1, true).1,
            };
            invariant!(fresh, "operation {tag} is in flight twice");
        }
        let starting = self.state == State::Starting;
        invariant!(supers == 0 || starting, "a superblock of the start is on its way, and the store serves");
        invariant!(groups.into_iter().eq(self.journal.being_written()), "a group is not being written, or not known");
        invariant!(
            pages.iter().eq(self.pages.loading.keys()),
            "a page that is waited for is not being read, or is for nobody"
        );
        let (syncs_and_writes, read_back) = self.checkpoint.at_the_disk();
        invariant!(
            checkpoint == syncs_and_writes,
            "the checkpoint waits for {syncs_and_writes} operations of {checkpoint}"
        );
        invariant!(verify == read_back, "the checkpoint waits for {read_back} pages, {verify} are read back");
        let looking = self.reckoning.reading();
        invariant!(looks == looking, "{looks} pages are read for their units, counted as {looking}");
        for (number, d) in &self.requests.directs {
            let n = directs.remove(number).unwrap_or(0);
            invariant!(n == d.outstanding, "direct write {number} waits for {} writes of {n}", d.outstanding);
        }
        for (key, c) in &self.overlay.chunks {
            let n = destages.remove(key).unwrap_or(0);
            let waits = c.destage.as_ref().map_or(0, |d| d.outstanding);
            invariant!(n == waits, "the destage of {key:?} waits for {waits} writes of {n}");
        }
        for (number, n) in &reads {
            let waits = self.reads.outstanding(*number);
            invariant!(waits == Some(*n), "read {number} waits for {waits:?} reads of {n}");
        }
        invariant!(directs.is_empty() && destages.is_empty(), "a write is on its way for nobody");
    }

    /// The entry of a deleted replica will be freed.
    fn check_deletions(&self) {
        for (i, r) in self.table.replicas.iter().enumerate() {
            if !r.as_ref().is_some_and(|r| r.deleting) {
                continue;
            }
            let i = i as u32;
            let goes = self.table.deleting.contains(&i)
                || self.checkpoint.waits_to_be_free(i)
                || self.journal.changes_replica(i);
            invariant!(goes, "entry {i} is of a deleted replica, and nothing gives it back");
        }
        for r in &self.table.deleting {
            let gone = self.table.replicas.get(*r as usize).is_none_or(Option::is_none);
            invariant!(!gone, "entry {r} is free and being deleted");
        }
    }
}

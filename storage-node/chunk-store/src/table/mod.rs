//! Which replicas the disk has, which chunks each replica has, and in which slot each chunk's page
//! lies.
//!
//! The contents come from index pages and journal records. The store's other parts refer to a chunk
//! by its [`Key`] and to its page by its slot.

pub(crate) mod extend;
pub(crate) mod pages;
pub(crate) mod replicas;

use crate::format::index::SlotEntry;
use crate::format::page::PageId;
use crate::format::replica::ReplicaRec;
use hf_policy::{Rid, invariant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A chunk of a replica: (entry in the replica table, number of the chunk).
pub(crate) type Key = (u32, u32);

/// The replica table and the slot table.
pub(crate) struct Table {
    /// The replica table; `None` is a free entry.
    pub replicas: Vec<Option<ReplicaRec>>,
    /// Units that extend the replica table; those in the superblock are in a checkpoint already.
    pub extensions: Vec<u32>,
    /// The table entry of each replica.
    pub by_rid: BTreeMap<Rid, u32>,
    /// The slot table; `None` is a slot that is free or being freed.
    pub slots: Vec<Option<SlotEntry>>,
    /// The slot of each chunk.
    pub map: BTreeMap<Key, u32>,
    /// Units that the pages of each entry's chunks name, as their slots say; an entry without any is not there.
    pub units: BTreeMap<u32, u64>,
    /// Per slot: which page copy the last checkpoint relies on.
    pub committed: Vec<Option<u8>>,
    /// Entries of deleted replicas whose chunks are being freed, in order.
    pub deleting: VecDeque<u32>,
}

impl Table {
    /// The table of the last checkpoint. An error means that the index contradicts itself.
    pub(crate) fn loaded(
        replicas: Vec<Option<ReplicaRec>>,
        slots: Vec<Option<SlotEntry>>,
        extensions: Vec<u32>,
    ) -> Result<Table, String> {
        let (mut map, mut units) = (BTreeMap::new(), BTreeMap::new());
        for (i, s) in slots.iter().enumerate() {
            let Some(s) = s else { continue };
            if replicas.get(s.replica as usize).is_none_or(Option::is_none) {
                return Err(format!("chunk slot {i} belongs to no replica"));
            }
            if map.insert((s.replica, s.chunk), i as u32).is_some() {
                return Err(format!("chunk slot {i} repeats a chunk"));
            }
            if s.units != 0 {
                *units.entry(s.replica).or_default() += u64::from(s.units.count_ones());
            }
        }
        let entries = replicas.iter().enumerate().filter_map(|(i, r)| Some((i as u32, r.as_ref()?)));
        let by_rid = entries.clone().map(|(i, r)| (r.rid, i)).collect();
        let deleting = entries.filter(|(_, r)| r.deleting).map(|(i, _)| i).collect();
        let committed = slots.iter().map(|s| s.as_ref().and_then(|s| s.copy)).collect();
        Ok(Table { replicas, extensions, by_rid, slots, map, units, committed, deleting })
    }

    /// The identity of a chunk's page; `None` if its replica is gone.
    pub(crate) fn page_id(&self, key: Key) -> Option<PageId> {
        let r = self.replicas.get(key.0 as usize)?.as_ref()?;
        Some(PageId { shard: r.shard, rid: r.rid, chunk: key.1 })
    }

    /// Notes which units the page in a slot names. False: the slot is free.
    pub(crate) fn set_units(&mut self, slot: u32, mask: u16) -> bool {
        let Some(e) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return false };
        let (replica, before, now) = (e.replica, e.units.count_ones(), mask.count_ones());
        e.units = mask;
        if before != now {
            let mut count = self.units.remove(&replica).unwrap_or(0) + u64::from(now);
            lower!(count, u64::from(before), "a replica's units");
            if count > 0 {
                self.units.insert(replica, count);
            }
        }
        true
    }

    /// Makes a slot free, with what its page named.
    pub(crate) fn free_slot(&mut self, slot: u32) {
        self.set_units(slot, 0);
        self.slots[slot as usize] = None;
    }

    /// Verifies that the two tables agree with each other and with the maps into them.
    pub(crate) fn check(&self) {
        let used = self.replicas.iter().flatten().count();
        invariant!(self.by_rid.len() == used, "{} replicas are known, {used} entries are in use", self.by_rid.len());
        for (rid, i) in &self.by_rid {
            let entry = self.replicas.get(*i as usize).and_then(Option::as_ref);
            invariant!(entry.is_some_and(|r| r.rid == *rid), "entry {i} is not that of replica {rid}");
        }
        for (key, slot) in &self.map {
            let entry = self.slots.get(*slot as usize).and_then(Option::as_ref);
            let its = entry.is_some_and(|e| (e.replica, e.chunk) == *key);
            invariant!(its, "slot {slot} is not that of chunk {key:?}");
            invariant!(self.page_id(*key).is_some(), "slot {slot} belongs to no replica");
        }
        let mut units: BTreeMap<u32, u64> = BTreeMap::new();
        for e in self.slots.iter().flatten().filter(|e| e.units != 0) {
            *units.entry(e.replica).or_default() += u64::from(e.units.count_ones());
        }
        invariant!(self.units == units, "the units of entries are {units:?}, counted as {:?}", self.units);
        let taken = self.slots.iter().flatten().count();
        invariant!(self.map.len() == taken, "{taken} slots are taken, and {} chunks are known", self.map.len());
        invariant!(self.committed.len() == self.slots.len(), "a slot has no committed copy noted, or one too many has");
        invariant!(self.committed.iter().flatten().all(|c| *c < 2), "a page has two copies");
        let distinct: BTreeSet<&u32> = self.extensions.iter().collect();
        invariant!(distinct.len() == self.extensions.len(), "the replica table goes on in one unit twice");
        let beyond = self.deleting.iter().find(|r| **r as usize >= self.replicas.len());
        invariant!(beyond.is_none(), "entry {beyond:?} is being deleted, beyond the table");
    }
}

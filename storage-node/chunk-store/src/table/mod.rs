//! Which replicas this disk has, which chunks they have, and in which slot each chunk's page lies.
//!
//! Everything here is what index pages and journal records say; the store's other parts refer to a chunk by its [`Key`]
//! and to its page by its slot.

pub(crate) mod extend;
pub(crate) mod pages;
pub(crate) mod replicas;

use crate::format::index::SlotEntry;
use crate::format::page::PageId;
use crate::format::replica::ReplicaRec;
use hf_policy::{Rid, invariant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A chunk of a replica: (index in the replica table, chunk).
pub(crate) type Key = (u32, u32);

/// The replica table and the slot table.
pub(crate) struct Table {
    /// The replica table's entries; `None` is a free one.
    pub replicas: Vec<Option<ReplicaRec>>,
    /// Units in which the replica table goes on; those in the superblock are named by a checkpoint already.
    pub extensions: Vec<u32>,
    /// The entry of each replica.
    pub by_rid: BTreeMap<Rid, u32>,
    /// The slot table's entries; `None` is a free one, or one on its way to being free.
    pub slots: Vec<Option<SlotEntry>>,
    /// The slot of each chunk.
    pub map: BTreeMap<Key, u32>,
    /// Per slot: which page copy the last checkpoint relies on.
    pub committed: Vec<Option<u8>>,
    /// Replicas whose chunks are being given back.
    pub deleting: VecDeque<u32>,
}

impl Table {
    /// The table of the last checkpoint. An error means that the index contradicts itself.
    pub(crate) fn loaded(
        replicas: Vec<Option<ReplicaRec>>,
        slots: Vec<Option<SlotEntry>>,
        extensions: Vec<u32>,
    ) -> Result<Table, String> {
        let mut map = BTreeMap::new();
        for (i, s) in slots.iter().enumerate() {
            let Some(s) = s else { continue };
            if replicas.get(s.replica as usize).is_none_or(Option::is_none) {
                return Err(format!("chunk slot {i} belongs to no replica"));
            }
            if map.insert((s.replica, s.chunk), i as u32).is_some() {
                return Err(format!("chunk slot {i} repeats a chunk"));
            }
        }
        let entries = replicas.iter().enumerate().filter_map(|(i, r)| Some((i as u32, r.as_ref()?)));
        let by_rid = entries.clone().map(|(i, r)| (r.rid, i)).collect();
        let deleting = entries.filter(|(_, r)| r.deleting).map(|(i, _)| i).collect();
        let committed = slots.iter().map(|s| s.as_ref().and_then(|s| s.copy)).collect();
        Ok(Table { replicas, extensions, by_rid, slots, map, committed, deleting })
    }

    /// Whose page a chunk's page is; `None` if the replica is gone.
    pub(crate) fn page_id(&self, key: Key) -> Option<PageId> {
        let r = self.replicas.get(key.0 as usize)?.as_ref()?;
        Some(PageId { shard: r.shard, rid: r.rid, chunk: key.1 })
    }

    /// Verifies that the two tables and what is looked up in them agree.
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

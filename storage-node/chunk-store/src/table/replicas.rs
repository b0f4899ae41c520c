//! Replica entries: create, promise, delete. A change is a journal record, so a promise is as
//! durable as a write (C1) and comes after every write submitted before it.

use crate::engine::{Answer, Op, OpId, Output, Store, StoreError};
use crate::format::group::{Body, Record};
use crate::format::page::NO_UNIT;
use crate::format::replica::ReplicaRec;
use crate::mutant::{self, Mutant};
use crate::overlay::Place;
use crate::table::Key;
use crate::table::pages::Waiter;
use bytes::Bytes;
use hf_policy::{BLOCK_SIZE, BlockRange, Rid, Ver, broken, invariant};

impl Store {
    pub(crate) fn replica_op(&mut self, id: OpId, op: Op, out: &mut Vec<Output>) {
        if let Op::CreateReplica(rec) = &op {
            return self.create_replica(id, rec.clone(), out);
        }
        self.requests.after_directs.push_back((id, op));
        self.run_after_directs(out);
    }

    /// True if a write of this replica that was submitted before operation `id` is not in the
    /// journal's queue yet. (Ids rise.)
    fn has_earlier(&self, rid: Rid, id: OpId) -> bool {
        // An unknown replica has no writes; the change itself is refused.
        let Some(&r) = self.table.by_rid.get(&rid) else { return false };
        let of = |op: &Op| match op {
            Op::Write { rid: x, .. } | Op::Zero { rid: x, .. } | Op::Copy { rid: x, .. } => *x == rid,
            _ => false,
        };
        self.requests.directs.values().any(|d| d.key.0 == r && d.id < id)
            || self.requests.waiting.iter().any(|(i, op)| *i < id && of(op))
            || self
                .overlay
                .chunks
                .range((r, 0)..=(r, u32::MAX))
                .any(|(_, c)| c.slow.iter().any(|(i, op)| *i < id && of(op)))
    }

    /// Does the replica changes whose earlier writes are all in the journal's queue. Changes of one
    /// replica keep their order; those of others may pass.
    pub(crate) fn run_after_directs(&mut self, out: &mut Vec<Output>) {
        let mut held = std::collections::BTreeSet::new();
        for (id, op) in std::mem::take(&mut self.requests.after_directs) {
            let rid = match &op {
                Op::UpdateReplica(rec) => rec.rid,
                Op::DeleteReplica { rid } => *rid,
                _ => {
                    broken!("operation {id} waits as a change of a replica and is none");
                    continue;
                }
            };
            if held.contains(&rid) || self.has_earlier(rid, id) {
                held.insert(rid);
                self.requests.after_directs.push_back((id, op));
            } else {
                self.replica_change(id, op, out);
            }
        }
    }

    fn create_replica(&mut self, id: OpId, rec: ReplicaRec, out: &mut Vec<Output>) {
        if let Some(known) = self.replica(rec.rid) {
            let same = known.store_uuid == rec.store_uuid && !known.deleting;
            let result = if same { Ok(Answer::Done) } else { Err(StoreError::Exists(known.store_uuid)) };
            return out.push(Output::Done { id, result });
        }
        let index = match self.free_entry() {
            Ok(index) => index,
            Err(e) => return out.push(Output::Done { id, result: Err(e) }),
        };
        // The entry is taken at once, so that a second creation does not choose it; the replica is
        // announced when its record is durable.
        let before = self.table.replicas[index as usize].replace(rec.clone());
        invariant!(before.is_none(), "entry {index} was free and has {:?}", before.map(|r| r.rid));
        let before = self.table.by_rid.insert(rec.rid, index);
        invariant!(before.is_none(), "replica {} is made and has entry {before:?}", rec.rid);
        self.push_replica(id, index, rec);
    }

    fn replica_change(&mut self, id: OpId, op: Op, out: &mut Vec<Output>) {
        let (rid, new) = match op {
            Op::UpdateReplica(rec) => (rec.rid, Some(rec)),
            Op::DeleteReplica { rid } => (rid, None),
            _ => {
                broken!("operation {id} is done as a change of a replica and is none");
                return;
            }
        };
        let known =
            self.table.by_rid.get(&rid).copied().and_then(|r| Some((r, self.table.replicas[r as usize].clone()?)));
        let Some((index, old)) = known.filter(|(_, o)| !o.deleting || new.is_none()) else {
            return out.push(Output::Done { id, result: Err(StoreError::NoReplica(rid)) });
        };
        let rec = new.unwrap_or(ReplicaRec { deleting: true, ..old });
        self.push_replica(id, index, rec);
    }

    fn push_replica(&mut self, id: OpId, index: u32, rec: ReplicaRec) {
        let record = Record {
            replica: index,
            rid: rec.rid,
            range: BlockRange::default(),
            ver: Ver::ZERO,
            body: Body::Replica(Box::new(rec)),
        };
        let (chunks, answer) = (crate::journal::Chunks::None, Answer::Done);
        let q = crate::journal::Queued { record, payload: Bytes::new(), chunks, op: Some(id), answer };
        self.journal.push(q);
    }

    pub(crate) fn apply_replica(&mut self, index: u32, rec: &ReplicaRec) -> Result<(), String> {
        let Some(entry) = self.table.replicas.get_mut(index as usize) else {
            return Err(format!("a journal record names replica entry {index}, beyond the table"));
        };
        // A deletion is final: it also holds for a change that was submitted before it and applied
        // after it.
        let deleted = entry.as_ref().is_some_and(|b| b.rid == rec.rid && b.deleting);
        let rec = ReplicaRec { deleting: rec.deleting || deleted, ..rec.clone() };
        let before = entry.replace(rec.clone());
        if let Some(dead) = before.filter(|b| b.rid != rec.rid && !mutant::is(Mutant::EntryReusedEarly)) {
            self.forget_dead(index, dead.rid);
        }
        self.table.by_rid.insert(rec.rid, index);
        self.checkpoint.not_emptied(index);
        self.mark_index(self.sb.geometry.replica_page(index));
        if rec.deleting {
            let keys: Vec<Key> = self.overlay.chunks.range((index, 0)..=(index, u32::MAX)).map(|(k, _)| *k).collect();
            keys.into_iter().for_each(|key| self.drop_overlay(key));
            self.table.deleting.push_back(index);
        }
        Ok(())
    }

    /// Frees the chunks of deleted replicas, one page at a time.
    pub(crate) fn drive_delete(&mut self, out: &mut Vec<Output>) {
        while let Some(&r) = self.table.deleting.front() {
            if !self.table.replicas[r as usize].as_ref().is_some_and(|x| x.deleting) {
                self.table.deleting.pop_front();
                continue;
            }
            let busy = |c: &crate::overlay::Chunk| c.inflight > 0 || c.destage.is_some() || !c.slow.is_empty();
            if self.overlay.chunks.range((r, 0)..=(r, u32::MAX)).any(|(_, c)| busy(c)) {
                return;
            }
            let Some((&key, &slot)) = self.table.map.range((r, 0)..=(r, u32::MAX)).next() else {
                self.finish_delete(r);
                continue;
            };
            match self.page_of(key) {
                Ok(_) => self.delete_chunk(key, out),
                Err(_) if self.pages.loading.get(&slot).is_some_and(|w| w.contains(&Waiter::Delete(key))) => return,
                Err(slot) => return self.load_page(slot, Waiter::Delete(key), out),
            }
        }
    }

    /// All chunks of a deleted replica are gone. Its entry is free only after a checkpoint without
    /// the chunks is durable: until then a crash brings them back, and they must be known as
    /// deleted.
    fn finish_delete(&mut self, r: u32) {
        self.table.deleting.pop_front();
        let keys: Vec<Key> = self.overlay.chunks.range((r, 0)..=(r, u32::MAX)).map(|(k, _)| *k).collect();
        for k in keys {
            self.forget_chunk(k);
        }
        let left = self.table.map.range((r, 0)..=(r, u32::MAX)).next();
        invariant!(left.is_none(), "entry {r} has chunk {left:?} and counts as empty");
        let after = if mutant::is(Mutant::EntryReusedEarly) { 0 } else { self.journal.applied };
        self.checkpoint.emptied(r, after);
    }

    /// A journal of an older release may use an entry again while it still has records of the
    /// replica that had it before. All its chunks had been freed by then, so what a replay made of
    /// those records is dropped.
    fn forget_dead(&mut self, r: u32, rid: Rid) {
        self.table.by_rid.remove(&rid);
        self.table.deleting.retain(|d| *d != r);
        let keys: std::collections::BTreeSet<Key> = self.known_chunks(r, 0, u32::MAX).into_iter().collect();
        for key in keys {
            self.drop_overlay(key);
            self.forget_chunk(key);
            if let Some(slot) = self.table.map.remove(&key) {
                self.table.free_slot(slot);
                self.space.free_slots.push(slot);
                self.pages.cache.remove(slot);
                self.checkpoint.destaged(slot);
                self.mark_slot(slot);
            }
        }
    }

    /// Drops a chunk's overlay, its fresh units included.
    fn drop_overlay(&mut self, key: Key) {
        let old = self.overlay.chunks.get_mut(&key).map(|c| (c.trim = None, std::mem::take(&mut c.blocks)).1);
        for (at, ov) in old.unwrap_or_default() {
            self.superseded(key, at, Some(ov));
        }
        self.recount(key);
    }

    /// A checkpoint is durable that covers all records of these entries and has none of their
    /// chunks: the entries are free.
    pub(crate) fn free_replicas(&mut self, emptied: Vec<u32>) {
        for r in emptied {
            // A second deletion that is not applied yet would apply to the next owner of the entry.
            // Applying it frees the entry again.
            if self.journal.changes_replica(r) {
                continue;
            }
            let left = self.table.map.range((r, 0)..=(r, u32::MAX)).next();
            invariant!(
                left.is_none() || mutant::is(Mutant::EntryReusedEarly),
                "entry {r} has chunk {left:?} and is given back"
            );
            if let Some(rec) = self.table.replicas[r as usize].take() {
                invariant!(rec.deleting, "the entry of replica {} is given back, which is not deleted", rec.rid);
                self.table.by_rid.remove(&rec.rid);
            }
            self.mark_index(self.sb.geometry.replica_page(r));
        }
    }

    fn forget_chunk(&mut self, key: Key) {
        if let Some(c) = self.overlay.chunks.remove(&key) {
            invariant!(c.inflight == 0 && c.destage.is_none(), "chunk {key:?} is dropped while it is busy");
            invariant!(c.slow.is_empty(), "chunk {key:?} is dropped and {} operations wait in it", c.slow.len());
            lower!(self.space.promised_units, c.promise.count_ones(), "units promised");
            lower!(self.space.promised_slots, u32::from(c.slot_promised), "slots promised");
            lower!(self.space.returning, c.returning.count_ones(), "units on their way back");
            // Blocks written after the deletion was submitted and before it was applied.
            for ov in c.blocks.into_values() {
                match ov.place {
                    Place::Mem(_) => lower!(self.overlay.bytes, BLOCK_SIZE, "bytes in the overlay"),
                    Place::Unit(u) if self.space.units.is_volatile(u) => {
                        self.space.units.release(u, self.journal.applied)
                    }
                    Place::Unit(_) | Place::Zero | Place::Bad => {}
                }
            }
        }
    }

    pub(crate) fn delete_chunk(&mut self, key: Key, _out: &mut Vec<Output>) {
        let gone = self.table.replicas[key.0 as usize].as_ref().is_some_and(|x| x.deleting);
        let (Ok(page), Some(&slot)) = (self.page_of(key), self.table.map.get(&key)) else {
            broken!("chunk {key:?} is deleted, and its page is not at hand");
            return;
        };
        if !gone {
            broken!("chunk {key:?} is deleted, and its replica is not");
            return;
        }
        for unit in page.units.iter().filter(|u| **u != NO_UNIT && **u < self.sb.geometry.units) {
            self.space.units.release(*unit, self.journal.applied);
        }
        self.orphaned(slot, &page);
        self.forget_chunk(key);
        self.table.map.remove(&key);
        self.table.free_slot(slot);
        if mutant::is(Mutant::SlotReusedEarly) {
            self.space.free_slots.push(slot);
        } else {
            self.space.leaving_slots.push(slot, self.journal.applied);
        }
        self.pages.cache.remove(slot);
        self.checkpoint.destaged(slot);
        self.mark_slot(slot);
    }
}

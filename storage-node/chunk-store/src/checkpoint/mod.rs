//! Checkpoints: destage everything up to a journal group, make the index cover it, then free the
//! journal's groups.
//!
//! 1. destage every chunk that is dirty at the start
//! 2. sync
//! 3. read back every chunk page that was written (C13)
//! 4. write the changed index pages to the other half
//! 5. sync
//! 6. write the superblock, durably
//!
//! Only then are the journal's groups and the freed units used again (C7). Nothing is destaged
//! between 2 and 6, so that no page that the new index names is overwritten. No step needs journal
//! space.

pub(crate) mod index;

use crate::engine::{OpId, Output, Purpose, State, Store};
use crate::overlay::pace::Kind;
use crate::space::Leaving;
use crate::table::Key;

use crate::disk::{DiskError, DiskOp};
use crate::format::superblock::JournalTail;
use bytes::Bytes;
use hf_policy::{BLOCK_SIZE, LogAge, broken, invariant};
use std::collections::{BTreeSet, VecDeque};

#[derive(Clone, Debug, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Idle,
    Destaging,
    Syncing,
    Verifying,
    WritingIndex,
    SyncingIndex,
    WritingSuper,
    /// A superblock is written by itself: only the log's age changes.
    Noting,
}

#[derive(Default)]
pub(crate) struct Checkpoint {
    phase: Phase,
    upto: u64,
    work: VecDeque<Key>,
    jobs: usize,
    outstanding: usize,
    /// Slots whose page was written since the last commit.
    changed: BTreeSet<u32>,
    verify: VecDeque<u32>,
    /// Index pages to write, and the extensions of the replica table as of the same moment.
    pages: VecDeque<u32>,
    extensions: Vec<u32>,
    tail: JournalTail,
    last_read: u64,
    requested: bool,
    /// True if operations wait for space that the next checkpoint frees.
    space_awaited: bool,
    /// Entries of deleted replicas whose chunks are all gone.
    emptied: Leaving,
    /// Operations that note a log's age: answered by the next superblock (`notes`), or by the one
    /// being written (`noting`).
    notes: Vec<OpId>,
    noting: Vec<OpId>,
    /// Operations that ask for a checkpoint: answered by the running one (`now`), or by the next
    /// (`next`).
    now: Vec<OpId>,
    next: Vec<OpId>,
}

/// Largest number of pages read back, or of index writes, in flight.
const PARALLEL: usize = 16;
/// Largest number of index pages in one write.
const PAGES_AT_ONCE: u32 = 64;

impl Checkpoint {
    /// Verifies that the work under way belongs to the phase. `applied` is the last group that was
    /// applied.
    pub(crate) fn check(&self, applied: u64) {
        let phase = &self.phase;
        self.emptied.check();
        let destages = *phase == Phase::Destaging;
        invariant!(destages || self.jobs == 0, "{} chunks are destaged while {phase:?}", self.jobs);
        invariant!(destages || self.work.is_empty(), "chunks wait to be destaged while {phase:?}");
        invariant!(!destages || self.jobs > 0, "nothing is destaged and the checkpoint does not go on");
        let verifies = *phase == Phase::Verifying;
        invariant!(verifies || self.verify.is_empty(), "pages wait to be read back while {phase:?}");
        let writes = *phase == Phase::WritingIndex;
        invariant!(writes || self.pages.is_empty(), "index pages wait to be written while {phase:?}");
        let counts = verifies || writes;
        invariant!(
            counts == (self.outstanding > 0),
            "{} operations are on their way while {phase:?}",
            self.outstanding
        );
        invariant!(self.outstanding <= PARALLEL, "{} operations of a checkpoint at once", self.outstanding);
        let idle = matches!(phase, Phase::Idle | Phase::Noting);
        invariant!(!idle || self.now.is_empty(), "operations wait for a checkpoint that does not run");
        invariant!(self.upto <= applied, "a checkpoint covers group {}, {applied} was applied", self.upto);
        invariant!(!self.space_awaited || self.requested || !idle, "space is awaited and no checkpoint comes");
    }

    /// Number of disk operations that the phase has in flight: syncs and writes, and pages read
    /// back.
    pub(crate) fn at_the_disk(&self) -> (usize, usize) {
        match self.phase {
            Phase::Idle | Phase::Destaging => (0, 0),
            Phase::Verifying => (0, self.outstanding),
            Phase::WritingIndex => (self.outstanding, 0),
            Phase::Syncing | Phase::SyncingIndex | Phase::WritingSuper | Phase::Noting => (1, 0),
        }
    }

    /// True if a superblock being written answers every noted log age that it carries.
    pub(crate) fn notes_are_on_their_way(&self, starting: bool) -> bool {
        self.noting.is_empty() || starting || matches!(self.phase, Phase::Noting | Phase::WritingSuper)
    }

    /// True if this entry is of a deleted replica and waits for a checkpoint.
    pub(crate) fn waits_to_be_free(&self, replica: u32) -> bool {
        self.emptied.iter().any(|r| r == replica)
    }

    pub(crate) fn job_ended(&mut self) {
        lower!(self.jobs, 1, "chunks being destaged");
    }
    pub(crate) fn is_destaging(&self) -> bool {
        self.phase == Phase::Destaging
    }
    pub(crate) fn destaging(&self) -> usize {
        self.jobs
    }
    pub(crate) fn destaged(&mut self, slot: u32) {
        self.changed.insert(slot);
    }
    pub(crate) fn emptied(&mut self, replica: u32, after_group: u64) {
        self.emptied.push(replica, after_group);
        self.requested = true;
    }
    /// The journal names the replica again, or another one that has its entry: the entry is not
    /// free yet.
    pub(crate) fn not_emptied(&mut self, replica: u32) {
        self.emptied.forget(replica);
    }
    /// Adds a chunk that the running checkpoint must destage although nothing was written to it.
    pub(crate) fn add_work(&mut self, key: Key) {
        self.work.push_back(key);
    }
    pub(crate) fn await_space(&mut self) {
        self.space_awaited = true;
        self.requested = true;
    }
    pub(crate) fn space_awaited(&self) -> bool {
        self.space_awaited
    }
    pub(crate) fn take_ops(&mut self) -> Vec<OpId> {
        [&mut self.now, &mut self.next, &mut self.notes, &mut self.noting]
            .into_iter()
            .flat_map(std::mem::take)
            .collect()
    }
}

impl Store {
    pub(crate) fn request_checkpoint(&mut self, id: OpId) {
        invariant!(!self.checkpoint.next.contains(&id), "operation {id} asks for a checkpoint twice");
        self.checkpoint.next.push(id);
        self.checkpoint.requested = true;
    }

    /// Takes a log's age into the next superblock, which is written at once unless a checkpoint is
    /// under way and writes one anyway.
    pub(crate) fn note_log_age(&mut self, id: OpId, age: LogAge) {
        self.sb.note(age);
        self.checkpoint.notes.push(id);
    }

    /// Comes about once a second: a store that was quiet since the last time empties its overlay
    /// and journal.
    pub(crate) fn housekeep(&mut self, _out: &mut Vec<Output>) {
        let quiet = !std::mem::replace(&mut self.active_since_housekeep, false);
        let dirty =
            self.overlay.chunks.values().any(|c| c.is_dirty()) || self.journal.used() > 0 || self.space_is_leaving();
        if quiet && dirty {
            self.checkpoint.requested = true;
        }
    }

    /// True if a checkpoint will free units, slots or table entries.
    fn space_is_leaving(&self) -> bool {
        self.space.units.pending() > 0 || !self.space.leaving_slots.is_empty() || !self.checkpoint.emptied.is_empty()
    }

    /// Goes on as far as the phase allows.
    pub(crate) fn drive_checkpoint(&mut self, out: &mut Vec<Output>) {
        if self.state != State::Serving {
            return;
        }
        self.space.units.reap(self.oldest_read());
        if matches!(self.checkpoint.phase, Phase::Idle | Phase::Destaging) {
            self.drive_delete(out);
        }
        let full = self.journal.is_half_full() || self.overlay.bytes * 2 >= self.cfg.overlay_bytes;
        // Only a checkpoint frees the units that are being freed, and few are free.
        let starved =
            self.space.units.pending() > 0 && self.space.units.free() < self.space.promised_units + self.reserve() * 2;
        if self.checkpoint.phase == Phase::Idle && !self.checkpoint.notes.is_empty() {
            self.checkpoint.phase = Phase::Noting;
            self.write_superblock(Purpose::Checkpoint, out);
        }
        if self.checkpoint.phase == Phase::Idle && (self.checkpoint.requested || full || starved) {
            self.begin_checkpoint();
        }
        if self.checkpoint.phase == Phase::Destaging {
            self.drive_destage(out);
        }
    }

    fn begin_checkpoint(&mut self) {
        let work =
            self.overlay.chunks.iter().filter(|(_, c)| c.is_dirty() || c.destage.is_some()).map(|(k, _)| *k).collect();
        let ck = &mut self.checkpoint;
        invariant!(ck.phase == Phase::Idle, "a checkpoint begins while another one is {:?}", ck.phase);
        invariant!(ck.jobs == 0 && ck.outstanding == 0, "a checkpoint begins before the last one has ended");
        invariant!(ck.upto <= self.journal.applied, "a checkpoint covers less than the last one: {}", ck.upto);
        ck.phase = Phase::Destaging;
        ck.requested = false;
        ck.upto = self.journal.applied;
        ck.work = work;
        let next: Vec<OpId> = ck.next.drain(..).collect();
        ck.now.extend(next);
    }

    /// The duration of a foreground operation shows what destaging costs it.
    pub(crate) fn took(&mut self, tag: u64, us: u64) {
        let kind = match self.disk.purposes.get(&tag) {
            Some(Purpose::Group(_)) => Kind::Group,
            Some(Purpose::Data { .. }) => Kind::Read,
            _ => return, // Nobody in the foreground waits for other operations, or this one has ended.
        };
        // (The effect of syncs and index writes is no reason to destage fewer chunks.)
        match self.checkpoint.phase {
            Phase::Idle => self.pace.took(kind, us, false),
            Phase::Destaging => self.pace.took(kind, us, true),
            _ => {}
        }
    }

    /// How many chunks may be destaged at once now.
    fn destage_limit(&self) -> usize {
        let part = |used: u64, of: u64| used * 1000 / of.max(1);
        let journal = part(self.journal.used(), self.sb.geometry.journal_bytes);
        let overlay = part((self.overlay.bytes + self.journal.payload()) as u64, self.cfg.overlay_bytes as u64);
        let ck = &self.checkpoint;
        if ck.space_awaited || !ck.now.is_empty() || !ck.next.is_empty() {
            return self.cfg.destage_jobs;
        }
        self.pace.limit(journal.max(overlay), self.journal.in_flight() || !self.reads.jobs.is_empty())
    }

    fn drive_destage(&mut self, out: &mut Vec<Output>) {
        let limit = self.destage_limit();
        while self.checkpoint.jobs < limit {
            let Some(key) = self.checkpoint.work.pop_front() else { break };
            self.checkpoint.jobs += 1;
            if !self.destage(key, out) {
                self.checkpoint.job_ended();
            }
            if matches!(self.state, State::Failed(_)) {
                return;
            }
        }
        if self.checkpoint.jobs == 0 && self.checkpoint.work.is_empty() {
            self.give_adopted_back();
            self.checkpoint.phase = Phase::Syncing;
            self.disk_op(Purpose::Checkpoint, DiskOp::Sync, out);
        }
    }

    /// A sync, an index write or the superblock's write has completed.
    pub(crate) fn checkpoint_step_done(&mut self, out: &mut Vec<Output>) {
        match self.checkpoint.phase {
            Phase::Syncing => {
                self.checkpoint.phase = Phase::Verifying;
                self.checkpoint.verify = self.checkpoint.changed.iter().copied().collect();
                self.drive_verify(out);
            }
            Phase::WritingIndex => {
                lower!(self.checkpoint.outstanding, 1, "operations of a checkpoint");
                self.drive_index(out);
            }
            Phase::SyncingIndex => {
                let (tail, last) = (self.checkpoint.tail.seq, self.sb.tail.seq);
                invariant!(tail >= last, "a checkpoint takes the journal's tail back from {last} to {tail}");
                self.checkpoint.phase = Phase::WritingSuper;
                self.sb.half ^= 1;
                self.sb.index_gen += 1;
                self.sb.index_digest = {
                    let crcs = &self.index.crcs[self.sb.half as usize];
                    let pages = self.sb.geometry.pages_with(self.checkpoint.extensions.len());
                    crate::format::index::digest(&crcs[..(pages as usize).min(crcs.len())])
                };
                self.sb.extensions = std::mem::take(&mut self.checkpoint.extensions);
                self.sb.tail = self.checkpoint.tail;
                self.write_superblock(Purpose::Checkpoint, out);
            }
            Phase::WritingSuper => self.committed(out),
            Phase::Noting => {
                self.durable_sb = self.sb.generation;
                self.checkpoint.phase = Phase::Idle;
                self.noted(out);
            }
            Phase::Idle | Phase::Destaging | Phase::Verifying => {
                broken!("a sync or write of a checkpoint has ended while it is {:?}", self.checkpoint.phase);
            }
        }
    }

    fn drive_verify(&mut self, out: &mut Vec<Output>) {
        while self.checkpoint.outstanding < PARALLEL {
            let Some(slot) = self.checkpoint.verify.pop_front() else { break };
            // The slot's chunk was deleted since its page was written: nothing relies on the page.
            let Some(copy) = self.table.slots[slot as usize].as_ref().and_then(|s| s.copy) else { continue };
            self.checkpoint.outstanding += 1;
            let op = DiskOp::Read { off: self.sb.geometry.page_off(slot, copy), len: BLOCK_SIZE as u32 };
            self.disk_op(Purpose::Verify(slot), op, out);
        }
        if self.checkpoint.outstanding == 0 {
            self.prepare_index();
            self.checkpoint.phase = Phase::WritingIndex;
            self.drive_index(out);
        }
    }

    /// A page just written must read back as it was written: otherwise the checkpoint would free
    /// the journal records that can repair it (C13).
    pub(crate) fn page_verified(&mut self, slot: u32, result: Result<Bytes, DiskError>, out: &mut Vec<Output>) {
        invariant!(self.checkpoint.phase == Phase::Verifying, "slot {slot} is read back by no checkpoint");
        lower!(self.checkpoint.outstanding, 1, "operations of a checkpoint");
        if let Some(e) = self.table.slots[slot as usize] {
            let good = match (result, self.table.page_id((e.replica, e.chunk))) {
                (Ok(block), Some(id)) => crate::format::page::Page::decode(&block, id, e.page_crc).is_some(),
                (Err(_), _) => false,
                (_, None) => true,
            };
            if !good {
                return self.fail(format!("chunk page {slot} does not read back as it was written"), out);
            }
        }
        self.drive_verify(out);
    }

    fn committed(&mut self, out: &mut Vec<Output>) {
        self.durable_sb = self.sb.generation;
        invariant!(self.sb.tail == self.checkpoint.tail, "the superblock names another tail than its checkpoint");
        invariant!(
            self.checkpoint.outstanding == 0,
            "a checkpoint is durable and {} of its operations are not",
            self.checkpoint.outstanding
        );
        for slot in std::mem::take(&mut self.checkpoint.changed) {
            self.table.committed[slot as usize] = self.table.slots[slot as usize].as_ref().and_then(|s| s.copy);
        }
        self.journal.trim(self.checkpoint.tail);
        self.space.units.checkpointed(self.checkpoint.upto, self.checkpoint.last_read);
        self.space.units.reap(self.oldest_read());
        let upto = self.checkpoint.upto;
        let emptied = self.checkpoint.emptied.freed_by(upto);
        self.free_replicas(emptied);
        let slots = self.space.leaving_slots.freed_by(upto);
        self.space.free_slots.extend(slots);
        self.reckoning.committed();
        // Some entries need one more checkpoint.
        self.checkpoint.requested |= !self.checkpoint.emptied.is_empty();
        self.stats.checkpoints += 1;
        self.checkpoint.space_awaited = false;
        self.checkpoint.phase = Phase::Idle;
        for id in std::mem::take(&mut self.checkpoint.now) {
            out.push(Output::Done { id, result: Ok(crate::engine::Answer::Done) });
        }
        self.noted(out);
    }

    pub(crate) fn noted(&mut self, out: &mut Vec<Output>) {
        for id in std::mem::take(&mut self.checkpoint.noting) {
            out.push(Output::Done { id, result: Ok(crate::engine::Answer::Done) });
        }
    }

    /// Writes the next superblock generation durably: two copies in one write.
    pub(crate) fn write_superblock(&mut self, pending: Purpose, out: &mut Vec<Output>) {
        let (last, durable) = (self.sb.generation, self.durable_sb);
        invariant!(last == durable, "a superblock is written while {last} is on its way, after {durable}");
        self.sb.generation += 1;
        self.checkpoint.noting.append(&mut self.checkpoint.notes);
        let block = Bytes::from(self.sb.encode());
        let op = DiskOp::Write { off: self.sb.offset(), bufs: vec![block.clone(), block], durable: true };
        self.disk_op(pending, op, out);
    }
}

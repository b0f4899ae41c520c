//! The store's state machine: `step(input, &mut out)`.
//!
//! Life of a write: [`write`] admits it (space, order), [`journal`] makes it durable in a group, [`apply`] puts it into the
//! overlay, the answer goes out; later [`destage`] moves it in place and [`checkpoint`] lets the journal go.
//! Invariants: an answer follows durability (C1); groups are applied in order, so the durable part is a prefix; nothing is
//! written in place that the last checkpoint or the journal still needs; any failed write or sync latches
//! the store (C4).

mod apply;
mod checkpoint;
mod destage;
mod journal;
mod pace;
mod pages;
mod read;
mod reckon;
mod replicas;
mod slow;
mod space;
mod table;
mod types;
mod write;

pub use types::*;

use crate::alloc::{Leaving, Units};
use crate::disk::DiskError;
use crate::format::Salt;
use crate::format::index::SlotEntry;
use crate::format::page::PageId;
use crate::format::replica::ReplicaRec;
use crate::format::superblock::Superblock;
use bytes::Bytes;
use hf_policy::{ChunkIx, LogAge, Rid, Ver};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where the store stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The superblock of this open is on its way; nothing is journaled before it is durable.
    Starting,
    Serving,
    /// Latched for good (C4).
    Failed(String),
}

/// What a disk completion is for.
enum Pending {
    Super,
    Group(u64),
    Direct(u64),
    /// A slot's page, asked for once more?
    Page(u32, bool),
    Data {
        read: u64,
        run: usize,
    },
    Destage(Key),
    Checkpoint,
    Verify(u32),
    /// A slot's page, read to learn its units.
    Reckon(reckon::Look),
}

/// A chunk of a replica: (index in the replica table, chunk).
type Key = (u32, u32);

/// One disk's store.
pub struct Store {
    cfg: Config,
    state: State,
    /// The superblock is written twice at start: no slot keeps one of version 1, which would not know of groups with a salt.
    upgrading: bool,
    sb: Superblock,
    /// The newest superblock generation that is durable; `sb` may be on its way.
    durable_sb: u64,
    replicas: Vec<Option<ReplicaRec>>,
    /// Units in which the replica table goes on; those in `sb` are named by a checkpoint already.
    extensions: Vec<u32>,
    by_rid: BTreeMap<Rid, u32>,
    slots: Vec<Option<SlotEntry>>,
    free_slots: Vec<u32>,
    /// Slots of deleted replicas, free after their checkpoint.
    leaving_slots: Leaving,
    promised_slots: u32,
    promised_units: u32,
    /// Units that pages still have and the next destage gives back: of chunks that were zeroed, or
    /// have data in fresh units.
    returning: u32,
    /// Chunks whose first slow operation waits for space.
    short: BTreeSet<Key>,
    /// Which page copy the last checkpoint relies on.
    committed: Vec<Option<u8>>,
    map: BTreeMap<Key, u32>,
    chunks: BTreeMap<Key, Chunk>,
    units: Units,
    reckoning: reckon::Reckoning,
    cache: pages::Cache,
    loading: BTreeMap<u32, Vec<pages::Waiter>>,
    journal: journal::Journal,
    overlay_bytes: usize,
    waiting: VecDeque<(OpId, Op)>,
    slow_ready: VecDeque<Key>,
    directs: BTreeMap<u64, write::Direct>,
    /// Replica changes that must not overtake direct writes.
    after_directs: VecDeque<(OpId, Op)>,
    reads: BTreeMap<u64, read::Job>,
    next_number: u64,
    tags: BTreeMap<u64, Pending>,
    checkpoint: checkpoint::Checkpoint,
    pace: pace::Pace,
    dirty_index: [BTreeSet<u32>; 2],
    index_crcs: [Vec<u32>; 2],
    active_since_housekeep: bool,
    /// Replicas whose chunks are being given back.
    deleting: VecDeque<u32>,
    stats: Stats,
}

impl Store {
    /// A store with the last checkpoint's index; recovery replays the journal on top.
    pub(crate) fn loaded(
        cfg: Config,
        sb: Superblock,
        replicas: Vec<Option<ReplicaRec>>,
        slots: Vec<Option<SlotEntry>>,
        units: Units,
        crcs: Vec<u32>,
    ) -> Result<Store, String> {
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
        let by_rid: BTreeMap<Rid, u32> = entries.clone().map(|(i, r)| (r.rid, i)).collect();
        let deleting = entries.filter(|(_, r)| r.deleting).map(|(i, _)| i).collect();
        let pages = sb.geometry.pages_with(sb.extensions.len());
        let reckoning = reckon::Reckoning::owed(&units, &slots, &sb)?;
        let mut dirty_index = [BTreeSet::new(), BTreeSet::new()];
        // What the other half holds is unknown: its next write is a whole one.
        dirty_index[sb.half as usize ^ 1] = (0..pages).collect();
        let mut index_crcs = [vec![0; pages as usize], vec![0; pages as usize]];
        index_crcs[sb.half as usize] = crcs;
        Ok(Store {
            cfg,
            state: State::Starting,
            upgrading: false,
            journal: journal::Journal::new(sb.geometry.journal_bytes, sb.tail),
            by_rid,
            free_slots: (0..slots.len() as u32).rev().filter(|i| slots[*i as usize].is_none()).collect(),
            leaving_slots: Leaving::default(),
            extensions: sb.extensions.clone(),
            reckoning,
            promised_slots: 0,
            promised_units: 0,
            returning: 0,
            short: BTreeSet::new(),
            committed: slots.iter().map(|s| s.as_ref().and_then(|s| s.copy)).collect(),
            replicas,
            slots,
            map,
            chunks: BTreeMap::new(),
            units,
            cache: pages::Cache::new(cfg.cached_pages),
            loading: BTreeMap::new(),
            overlay_bytes: 0,
            waiting: VecDeque::new(),
            slow_ready: VecDeque::new(),
            directs: BTreeMap::new(),
            after_directs: VecDeque::new(),
            reads: BTreeMap::new(),
            next_number: 0,
            tags: BTreeMap::new(),
            checkpoint: checkpoint::Checkpoint::default(),
            pace: pace::Pace::new(cfg.destage_jobs),
            dirty_index,
            index_crcs,
            active_since_housekeep: true,
            deleting,
            stats: Stats::default(),
            durable_sb: sb.generation,
            sb,
        })
    }

    pub(crate) fn group_replayed(&mut self, seq: u64, off: u64, bytes: u64, crc: u32) {
        self.journal.replayed(seq, off, bytes, crc);
        self.stats.replayed_groups += 1;
    }

    /// Groups written from now on are told from those of every earlier open (C6).
    pub(crate) fn next_journal_gen(&mut self, seen: u64) {
        self.sb.journal_gen = self.sb.journal_gen.max(seen) + 1;
    }

    /// Before [`Store::start`]: the superblock of this open notes how old the node's metadata log is.
    pub fn begin_with(&mut self, age: LogAge) {
        self.sb.note(age);
    }

    /// Before [`Store::start`]: a disk of format version 1 becomes one of version 2, with this salt. (docs/decisions/0019)
    pub fn upgrade(&mut self, salt: Salt) {
        if self.sb.salt.is_none() {
            self.sb.salt = salt;
            self.sb.salted_from = self.journal.applied + 1;
            self.upgrading = true;
        }
    }

    /// The store's part of a fresh open: [`crate::recovery::open`] builds it. The first output is the superblock of
    /// this open; operations are accepted at once and wait for it.
    pub fn start(&mut self, out: &mut Vec<Output>) {
        self.write_superblock(Pending::Super, out);
    }

    /// Takes one input; everything that follows from it is in `out`.
    pub fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Op { id, op } => {
                self.active_since_housekeep = true;
                self.submit(id, op, out);
            }
            Input::DiskDone { tag, result } => self.disk_done(tag, result, out),
            Input::Took { tag, us } => return self.took(tag, us),
            Input::Housekeep => self.housekeep(out),
        }
        self.settle(out);
    }

    /// After every input: whatever became possible is begun. Each part only looks at its own queue.
    fn settle(&mut self, out: &mut Vec<Output>) {
        if matches!(self.state, State::Failed(_)) {
            return;
        }
        self.retry_short();
        self.run_slow(out);
        self.admit_waiting(out);
        // What was admitted just now may have to look at what is there, and no other input need come.
        self.run_slow(out);
        self.run_after_directs(out);
        self.start_groups(out);
        self.drive_reckoning(out);
        self.drive_checkpoint(out);
        self.start_groups(out);
    }

    fn submit(&mut self, id: OpId, op: Op, out: &mut Vec<Output>) {
        if let State::Failed(why) = &self.state {
            out.push(Output::Done { id, result: Err(StoreError::Failed(why.clone())) });
            return;
        }
        match op {
            Op::Read { .. } => self.read(id, op, out),
            Op::Checkpoint => self.request_checkpoint(id),
            Op::NoteLogAge(age) => self.note_log_age(id, age),
            Op::Write { .. } | Op::Zero { .. } | Op::Copy { .. } | Op::Versions { .. } => {
                if self.waiting.is_empty() && self.has_room() {
                    self.admit(id, op, out);
                } else {
                    self.stats.stalls += 1;
                    self.waiting.push_back((id, op));
                }
            }
            Op::CreateReplica(_) | Op::UpdateReplica(_) | Op::DeleteReplica { .. } => self.replica_op(id, op, out),
        }
    }

    fn has_room(&self) -> bool {
        self.overlay_bytes + self.journal.payload() < self.cfg.overlay_bytes && !self.checkpoint.space_awaited()
    }

    /// First in the queue again, until a checkpoint has given space back.
    fn wait_for_space(&mut self, id: OpId, op: Op) {
        self.waiting.push_front((id, op));
        self.checkpoint.await_space();
    }

    fn admit_waiting(&mut self, out: &mut Vec<Output>) {
        while self.has_room() {
            let Some((id, op)) = self.waiting.pop_front() else { break };
            self.admit(id, op, out);
        }
    }

    fn disk_done(&mut self, tag: u64, result: Result<Bytes, DiskError>, out: &mut Vec<Output>) {
        let Some(pending) = self.tags.remove(&tag) else { return };
        if matches!(self.state, State::Failed(_)) {
            return;
        }
        match (pending, result) {
            (Pending::Page(slot, again), result) => self.page_loaded(slot, again, result, out),
            (Pending::Data { read, run }, result) => self.data_read(read, run, result, out),
            (Pending::Verify(slot), result) => self.page_verified(slot, result, out),
            (Pending::Reckon(look), result) => self.looked(look, result, out),
            (_, Err(e)) => self.fail(e.0, out),
            (Pending::Super, Ok(_)) => {
                self.durable_sb = self.sb.generation;
                if std::mem::take(&mut self.upgrading) {
                    return self.write_superblock(Pending::Super, out);
                }
                self.state = State::Serving;
            }
            (Pending::Group(seq), Ok(_)) => self.group_durable(seq, out),
            (Pending::Direct(number), Ok(_)) => self.direct_written(number, out),
            (Pending::Destage(key), Ok(_)) => self.destage_written(key, out),
            (Pending::Checkpoint, Ok(_)) => self.checkpoint_step_done(out),
        }
    }

    /// The first failed write or sync is the last: nothing is acknowledged any more (C4).
    fn fail(&mut self, why: String, out: &mut Vec<Output>) {
        if matches!(self.state, State::Failed(_)) {
            return;
        }
        let error = StoreError::Failed(why.clone());
        let mut ids: Vec<OpId> = self.journal.take_ops();
        ids.extend(self.waiting.drain(..).map(|(id, _)| id));
        ids.extend(self.after_directs.drain(..).map(|(id, _)| id));
        ids.extend(std::mem::take(&mut self.directs).into_values().map(|d| d.id));
        ids.extend(std::mem::take(&mut self.reads).into_values().map(|r| r.id));
        ids.extend(self.chunks.values_mut().flat_map(|c| c.slow.drain(..).map(|(id, _)| id)));
        ids.extend(self.checkpoint.take_ops());
        out.extend(ids.into_iter().map(|id| Output::Done { id, result: Err(error.clone()) }));
        self.state = State::Failed(why.clone());
        self.tags.clear();
        out.push(Output::Failed(why));
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn disk_op(&mut self, pending: Pending, op: crate::DiskOp, out: &mut Vec<Output>) {
        let tag = self.number();
        match &op {
            crate::DiskOp::Write { bufs, .. } => {
                self.stats.disk_writes += 1;
                self.stats.disk_bytes_written += bufs.iter().map(|b| b.len() as u64).sum::<u64>();
            }
            crate::DiskOp::Sync => self.stats.disk_syncs += 1,
            crate::DiskOp::Read { .. } => self.stats.disk_reads += 1,
        }
        self.tags.insert(tag, pending);
        out.push(Output::Disk { tag, op });
    }

    fn page_id(&self, key: Key) -> Option<PageId> {
        let r = self.replicas.get(key.0 as usize)?.as_ref()?;
        Some(PageId { shard: r.shard, rid: r.rid, chunk: key.1 })
    }

    /// What the store counts. Sizes and queues are as of now.
    pub fn stats(&self) -> Stats {
        Stats {
            units_total: u64::from(self.units.total()),
            units_free: u64::from(self.units.free().saturating_sub(self.promised_units)),
            units_unaccounted: self.reckoning.orphans(),
            entries_used: self.by_rid.len() as u64,
            entries_free: self.entries_free(),
            slots_free: (self.free_slots.len() as u64).saturating_sub(u64::from(self.promised_slots)),
            journal_used: self.journal.used(),
            journal_bytes: self.sb.geometry.journal_bytes,
            overlay_bytes: self.overlay_bytes as u64,
            cached_pages: self.cache.len() as u64,
            destaging: self.checkpoint.destaging() as u64,
            destage_allowed: self.pace.allowed() as u64,
            waiting: self.waiting.len() as u64,
            ..self.stats
        }
    }

    /// Why the store has failed, if it has.
    pub fn failed(&self) -> Option<&str> {
        if let State::Failed(why) = &self.state { Some(why) } else { None }
    }

    /// The superblock last written or on its way.
    pub fn superblock(&self) -> &Superblock {
        &self.sb
    }

    /// Every replica that is not being deleted.
    pub fn replicas(&self) -> impl Iterator<Item = &ReplicaRec> {
        self.replicas.iter().flatten().filter(|r| !r.deleting)
    }

    /// One replica.
    pub fn replica(&self, rid: Rid) -> Option<&ReplicaRec> {
        self.replicas.get(*self.by_rid.get(&rid)? as usize)?.as_ref()
    }

    /// Chunks of a replica with a write newer than `since` (I10), at most `limit` beginning at `from`.
    pub fn chunks_since(&self, rid: Rid, since: Ver, from: ChunkIx, limit: usize) -> Vec<(ChunkIx, Ver)> {
        let Some(&r) = self.by_rid.get(&rid) else { return Vec::new() };
        self.map
            .range((r, from.0)..=(r, u32::MAX))
            .filter_map(|((_, chunk), slot)| {
                let s = self.slots[*slot as usize].as_ref()?;
                (s.max_ver > since).then_some((ChunkIx(*chunk), s.max_ver))
            })
            .take(limit)
            .collect()
    }

    /// The highest version the replica holds.
    pub fn max_ver(&self, rid: Rid) -> Ver {
        let Some(&r) = self.by_rid.get(&rid) else { return Ver::ZERO };
        let slots = self.map.range((r, 0)..=(r, u32::MAX));
        slots.filter_map(|(_, s)| self.slots[*s as usize].as_ref()).map(|s| s.max_ver).max().unwrap_or(Ver::ZERO)
    }

    /// How far the journal has got: every group up to this one is durable. It goes on from there over restarts, so that a lower
    /// number tells of a disk that was put back from an older copy.
    pub fn position(&self) -> u64 {
        self.journal.applied
    }

    /// Is anything waiting for a destage or checkpoint?
    pub fn is_clean(&self) -> bool {
        self.chunks.is_empty() && self.journal.used() == 0
    }
}

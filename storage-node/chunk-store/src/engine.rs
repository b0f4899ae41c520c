//! The store's state machine: `step(input, &mut out)`. It owns the parts and wires them; each part
//! is a struct with a file or directory and invariants of its own.
//!
//! Life of a write: `requests` admits it (space, order), `journal` makes it durable in a group,
//! `overlay` holds it from then on, and the answer goes out. Later a destage moves it in place, and
//! a checkpoint frees the journal's groups.
//!
//! Invariants: an answer follows durability (C1); groups are applied in order, so what is durable
//! is a prefix; nothing that the last checkpoint or the journal still needs is written over; a
//! failed write or sync latches the store (C4).

pub use crate::requests::*;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::index::Index;
use crate::disk::{DiskError, DiskOp};
use crate::format::Salt;
use crate::format::index::SlotEntry;
use crate::format::replica::ReplicaRec;
use crate::format::superblock::Superblock;
use crate::journal::Journal;
use crate::overlay::Overlay;
use crate::overlay::pace::Pace;
use crate::requests::read::Reads;
use crate::space::reckon::{Look, Reckoning};
use crate::space::{Space, Units};
use crate::table::pages::Pages;
use crate::table::{Key, Table};
use bytes::Bytes;
use hf_policy::{BLOCK_BYTES, ChunkIx, LogAge, Rid, Ver, broken, invariant};
use std::collections::BTreeMap;

/// Whether the store may write to its journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The superblock of this open is being written. Nothing is journaled before it is durable.
    Starting,
    Serving,
    /// A write or sync failed: latched for good (C4).
    Failed(String),
}

/// What a disk operation in flight is for.
pub(crate) enum Purpose {
    Super,
    Group(u64),
    Direct(u64),
    /// A read of this slot's chunk page; true for the second try.
    Page(u32, bool),
    Data {
        read: u64,
        run: usize,
    },
    Destage(Key),
    Checkpoint,
    Verify(u32),
    /// A read of a chunk page, to learn which units it names.
    Reckon(Look),
}

/// Disk operations in flight. Their tags rise, and reads and direct writes take their numbers from
/// the same counter.
#[derive(Default)]
pub(crate) struct InFlight {
    /// What each operation is for, by its tag.
    pub purposes: BTreeMap<u64, Purpose>,
    /// The last number given.
    pub last: u64,
}

/// One disk's store. Each field that is a struct has its own invariants; [`Store::check`] verifies
/// them all.
pub struct Store {
    pub(crate) cfg: Config,
    pub(crate) state: State,
    /// During an upgrade the superblock is written twice at start, so that no slot keeps one of
    /// version 1, which would not know of groups with a salt.
    pub(crate) upgrading: bool,
    pub(crate) sb: Superblock,
    /// The newest durable superblock generation; `sb` may be newer and still being written.
    pub(crate) durable_sb: u64,
    pub(crate) disk: InFlight,
    pub(crate) requests: Requests,
    pub(crate) reads: Reads,
    pub(crate) table: Table,
    pub(crate) pages: Pages,
    pub(crate) space: Space,
    pub(crate) reckoning: Reckoning,
    pub(crate) journal: Journal,
    pub(crate) overlay: Overlay,
    pub(crate) pace: Pace,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) index: Index,
    pub(crate) active_since_housekeep: bool,
    pub(crate) stats: Stats,
}

impl Store {
    /// A store as of the last checkpoint's index. Recovery replays the journal on top.
    pub(crate) fn loaded(
        cfg: Config,
        sb: Superblock,
        replicas: Vec<Option<ReplicaRec>>,
        slots: Vec<Option<SlotEntry>>,
        units: Units,
        crcs: Vec<u32>,
    ) -> Result<Store, String> {
        let table = Table::loaded(replicas, slots, sb.extensions.clone())?;
        Ok(Store {
            cfg,
            state: State::Starting,
            upgrading: false,
            disk: InFlight::default(),
            requests: Requests::default(),
            reads: Reads::default(),
            reckoning: Reckoning::owed(&units, &table.slots, &sb)?,
            space: Space::loaded(units, &table.slots),
            table,
            pages: Pages::new(cfg.cached_pages),
            journal: Journal::new(sb.geometry.journal_bytes, sb.tail),
            overlay: Overlay::default(),
            pace: Pace::new(cfg.destage_jobs),
            checkpoint: Checkpoint::default(),
            index: Index::loaded(sb.half, sb.geometry.pages_with(sb.extensions.len()), crcs),
            active_since_housekeep: true,
            stats: Stats::default(),
            durable_sb: sb.generation,
            sb,
        })
    }

    pub(crate) fn group_replayed(&mut self, seq: u64, off: u64, bytes: u64, crc: u32) {
        self.journal.replayed(seq, off, bytes, crc);
        self.stats.replayed_groups += 1;
    }

    /// Makes groups written from now on distinguishable from those of every earlier open (C6).
    pub(crate) fn next_journal_gen(&mut self, seen: u64) {
        self.sb.journal_gen = self.sb.journal_gen.max(seen) + 1;
    }

    /// Stores the age of the node's metadata log in the superblock of this open. To be called
    /// before [`Store::start`].
    pub fn begin_with(&mut self, age: LogAge) {
        self.sb.note(age);
    }

    /// Upgrades a disk of format version 1 to version 2 with this salt (docs/decisions/0019). To be
    /// called before [`Store::start`].
    pub fn upgrade(&mut self, salt: Salt) {
        invariant!(self.disk.last == 0, "a disk is upgraded after its store was started");
        if self.sb.salt.is_none() {
            self.sb.salt = salt;
            self.sb.salted_from = self.journal.applied + 1;
            self.upgrading = true;
        }
    }

    /// Starts a store that [`crate::recovery::open`] built. The first output is the write of this
    /// open's superblock; operations are accepted at once and wait for it.
    pub fn start(&mut self, out: &mut Vec<Output>) {
        self.write_superblock(Purpose::Super, out);
    }

    /// Takes one input; appends everything that follows from it to `out`.
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

    /// Begins whatever became possible by the last input. Each call looks only at its own queue.
    fn settle(&mut self, out: &mut Vec<Output>) {
        if matches!(self.state, State::Failed(_)) {
            return;
        }
        self.retry_short();
        self.run_slow(out);
        self.admit_waiting(out);
        // (An operation admitted just now may have to look at the stored blocks, and no other input
        // need follow.)
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
                if self.requests.waiting.is_empty() && self.has_room() {
                    self.admit(id, op, out);
                } else {
                    self.stats.stalls += 1;
                    self.requests.waiting.push_back((id, op));
                }
            }
            Op::CreateReplica(_) | Op::UpdateReplica(_) | Op::DeleteReplica { .. } => self.replica_op(id, op, out),
        }
    }

    fn has_room(&self) -> bool {
        self.overlay.bytes + self.journal.payload() < self.cfg.overlay_bytes && !self.checkpoint.space_awaited()
    }

    /// Puts an operation back to the head of the queue, until a checkpoint has freed space.
    pub(crate) fn wait_for_space(&mut self, id: OpId, op: Op) {
        self.requests.waiting.push_front((id, op));
        self.checkpoint.await_space();
    }

    fn admit_waiting(&mut self, out: &mut Vec<Output>) {
        while self.has_room() {
            let Some((id, op)) = self.requests.waiting.pop_front() else { break };
            self.admit(id, op, out);
        }
    }

    fn disk_done(&mut self, tag: u64, result: Result<Bytes, DiskError>, out: &mut Vec<Output>) {
        if matches!(self.state, State::Failed(_)) {
            return; // Completions of a failed store are ignored.
        }
        let Some(pending) = self.disk.purposes.remove(&tag) else {
            broken!("disk operation {tag} has ended and was not in flight");
            return;
        };
        match (pending, result) {
            (Purpose::Page(slot, again), result) => self.page_loaded(slot, again, result, out),
            (Purpose::Data { read, run }, result) => self.data_read(read, run, result, out),
            (Purpose::Verify(slot), result) => self.page_verified(slot, result, out),
            (Purpose::Reckon(look), result) => self.looked(look, result, out),
            (_, Err(e)) => self.fail(e.0, out),
            (Purpose::Super, Ok(_)) => {
                invariant!(
                    self.state == State::Starting,
                    "a store that serves has written the superblock of its start"
                );
                self.durable_sb = self.sb.generation;
                if std::mem::take(&mut self.upgrading) {
                    return self.write_superblock(Purpose::Super, out);
                }
                self.state = State::Serving;
                // (The second write of an upgrade may carry a log age that was noted meanwhile.)
                self.noted(out);
            }
            (Purpose::Group(seq), Ok(_)) => self.group_durable(seq, out),
            (Purpose::Direct(number), Ok(_)) => self.direct_written(number, out),
            (Purpose::Destage(key), Ok(_)) => self.destage_written(key, out),
            (Purpose::Checkpoint, Ok(_)) => self.checkpoint_step_done(out),
        }
    }

    /// Latches the store: after the first failed write or sync nothing is acknowledged any more
    /// (C4).
    pub(crate) fn fail(&mut self, why: String, out: &mut Vec<Output>) {
        if matches!(self.state, State::Failed(_)) {
            return;
        }
        let error = StoreError::Failed(why.clone());
        let mut ids: Vec<OpId> = self.journal.take_ops();
        ids.extend(self.requests.waiting.drain(..).map(|(id, _)| id));
        ids.extend(self.requests.after_directs.drain(..).map(|(id, _)| id));
        ids.extend(std::mem::take(&mut self.requests.directs).into_values().map(|d| d.id));
        ids.extend(std::mem::take(&mut self.reads.jobs).into_values().map(|r| r.id));
        ids.extend(self.overlay.chunks.values_mut().flat_map(|c| c.slow.drain(..).map(|(id, _)| id)));
        ids.extend(self.checkpoint.take_ops());
        out.extend(ids.into_iter().map(|id| Output::Done { id, result: Err(error.clone()) }));
        self.state = State::Failed(why.clone());
        self.disk.purposes.clear();
        out.push(Output::Failed(why));
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.disk.last += 1;
        self.disk.last
    }

    pub(crate) fn disk_op(&mut self, pending: Purpose, op: DiskOp, out: &mut Vec<Output>) {
        let tag = self.number();
        let end = self.sb.geometry.disk_bytes;
        match &op {
            DiskOp::Write { off, bufs, .. } => {
                let len = bufs.iter().map(|b| b.len() as u64).sum::<u64>();
                invariant!(len > 0 && off + len <= end, "a write of {len} bytes at {off}, on a disk of {end}");
                invariant!((off | len).is_multiple_of(BLOCK_BYTES), "a write of {len} bytes at {off} is not of blocks");
                self.stats.disk_writes += 1;
                self.stats.disk_bytes_written += len;
            }
            DiskOp::Sync => self.stats.disk_syncs += 1,
            DiskOp::Read { off, len } => {
                let len = u64::from(*len);
                invariant!(len > 0 && off + len <= end, "a read of {len} bytes at {off}, on a disk of {end}");
                self.stats.disk_reads += 1;
            }
        }
        let before = self.disk.purposes.insert(tag, pending);
        invariant!(before.is_none(), "tag {tag} was given twice");
        out.push(Output::Disk { tag, op });
    }

    /// Counters since the store was opened; sizes and queue lengths as of now.
    pub fn stats(&self) -> Stats {
        Stats {
            units_total: u64::from(self.space.units.total()),
            units_free: u64::from(self.space.units.free().saturating_sub(self.space.promised_units)),
            units_unaccounted: self.reckoning.orphans(),
            entries_used: self.table.by_rid.len() as u64,
            entries_free: self.entries_free(),
            slots_free: (self.space.free_slots.len() as u64).saturating_sub(u64::from(self.space.promised_slots)),
            journal_used: self.journal.used(),
            journal_bytes: self.sb.geometry.journal_bytes,
            overlay_bytes: self.overlay.bytes as u64,
            cached_pages: self.pages.cache.len() as u64,
            destaging: self.checkpoint.destaging() as u64,
            destage_allowed: self.pace.allowed() as u64,
            waiting: self.requests.waiting.len() as u64,
            ..self.stats
        }
    }

    /// Why the store has failed, if it has.
    pub fn failed(&self) -> Option<&str> {
        if let State::Failed(why) = &self.state { Some(why) } else { None }
    }

    /// The superblock last written, or being written.
    pub fn superblock(&self) -> &Superblock {
        &self.sb
    }

    /// All replicas that are not being deleted.
    pub fn replicas(&self) -> impl Iterator<Item = &ReplicaRec> {
        self.table.replicas.iter().flatten().filter(|r| !r.deleting)
    }

    /// The entry of a replica, also while it is being deleted.
    pub fn replica(&self, rid: Rid) -> Option<&ReplicaRec> {
        self.table.replicas.get(*self.table.by_rid.get(&rid)? as usize)?.as_ref()
    }

    /// Bytes of the units that a replica's chunks have, as their pages say; 0 if it is not known. What is not in place
    /// yet counts once it is.
    pub fn bytes_of(&self, rid: Rid) -> u64 {
        let units = self.table.by_rid.get(&rid).and_then(|r| self.table.units.get(r));
        units.copied().unwrap_or(0) * crate::UNIT_BYTES
    }

    /// Chunks of a replica that hold a version newer than `since` (I10), with their highest
    /// version: at most `limit` of them, beginning at chunk `from`.
    pub fn chunks_since(&self, rid: Rid, since: Ver, from: ChunkIx, limit: usize) -> Vec<(ChunkIx, Ver)> {
        let Some(&r) = self.table.by_rid.get(&rid) else { return Vec::new() };
        self.table
            .map
            .range((r, from.0)..=(r, u32::MAX))
            .filter_map(|((_, chunk), slot)| {
                let s = self.table.slots[*slot as usize].as_ref()?;
                (s.max_ver > since).then_some((ChunkIx(*chunk), s.max_ver))
            })
            .take(limit)
            .collect()
    }

    /// The highest version of any block of the replica; zero if it has none.
    pub fn max_ver(&self, rid: Rid) -> Ver {
        let Some(&r) = self.table.by_rid.get(&rid) else { return Ver::ZERO };
        let slots = self.table.map.range((r, 0)..=(r, u32::MAX));
        slots.filter_map(|(_, s)| self.table.slots[*s as usize].as_ref()).map(|s| s.max_ver).max().unwrap_or(Ver::ZERO)
    }

    /// The last journal group that is durable, as all before it are. Numbers go on over restarts,
    /// so a lower one than before tells that the disk was restored from an older copy.
    pub fn position(&self) -> u64 {
        self.journal.applied
    }

    /// True if nothing waits for a destage or a checkpoint.
    pub fn is_clean(&self) -> bool {
        self.overlay.chunks.is_empty() && self.journal.used() == 0
    }
}

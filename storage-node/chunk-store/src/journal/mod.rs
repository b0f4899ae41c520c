//! The journal: a ring of groups, several in flight, made durable in order.
//!
//! Group commit: whatever waits goes into the next group. The durable part is always a prefix: a group that completes
//! early waits for the ones before it (hazards: Vitastor c5195666). Groups never wrap; where one does not fit before
//! the ring's end it begins at 0. A full journal can always drain: checkpoints need no journal space.

use crate::disk::DiskOp;
use crate::engine::{OpId, Output, Purpose, State, Store};
use crate::format::group::{Body, Group, MAX_GROUP_BYTES, MAX_PAYLOAD_BLOCKS, MAX_RECORD_BYTES, Masked, Record};
use crate::format::superblock::JournalTail;
use crate::geometry::JOURNAL_OFF;
use crate::mutant::{self, Mutant};
use crate::table::Key;
use bytes::Bytes;
use std::collections::VecDeque;

/// The chunks that a record is in flight in.
pub(crate) enum Chunks {
    /// It belongs to none.
    None,
    /// The usual case: one.
    One(Key),
    /// A zero over several.
    Many(Vec<Key>),
}

impl Chunks {
    fn keys(&self) -> &[Key] {
        match self {
            Chunks::None => &[],
            Chunks::One(key) => std::slice::from_ref(key),
            Chunks::Many(keys) => keys,
        }
    }
}

/// A record on its way.
pub(crate) struct Queued {
    pub record: Record,
    pub payload: Bytes,
    /// The chunks whose in-flight count it holds.
    pub chunks: Chunks,
    /// Answered when durable, if it is the operation's last record.
    pub op: Option<OpId>,
    /// What to answer.
    pub answer: crate::engine::Answer,
}

struct Flying {
    seq: u64,
    records: Vec<Queued>,
    durable: bool,
}

/// A group that still occupies the ring.
#[derive(Clone, Copy, Debug)]
struct Live {
    seq: u64,
    /// Where the group after it may begin, and the chain's link to it.
    end: u64,
    crc: u32,
    /// Bytes it holds, padding before it included.
    bytes: u64,
}

pub(crate) struct Journal {
    capacity: u64,
    queue: VecDeque<Queued>,
    /// Payload bytes of records that are not applied yet.
    payload: usize,
    flying: VecDeque<Flying>,
    live: VecDeque<Live>,
    head: u64,
    used: u64,
    next_seq: u64,
    prev_crc: u32,
    tail: JournalTail,
    /// Every group up to this one is durable and applied.
    pub applied: u64,
}

impl Journal {
    /// A journal whose next group stands at `tail`.
    pub(crate) fn new(capacity: u64, tail: JournalTail) -> Journal {
        Journal {
            capacity,
            queue: VecDeque::new(),
            payload: 0,
            flying: VecDeque::new(),
            live: VecDeque::new(),
            head: tail.off,
            used: 0,
            next_seq: tail.seq,
            prev_crc: tail.prev_crc,
            tail,
            applied: tail.seq.saturating_sub(1),
        }
    }

    /// Recovery found this group at `off`.
    pub(crate) fn replayed(&mut self, seq: u64, off: u64, bytes: u64, crc: u32) {
        let pad = if off == self.head { 0 } else { self.capacity - self.head };
        self.live.push_back(Live { seq, end: off + bytes, crc, bytes: bytes + pad });
        self.used += bytes + pad;
        self.head = off + bytes;
        self.next_seq = seq + 1;
        self.prev_crc = crc;
        self.applied = seq;
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }
    /// Must a checkpoint give room back? Not while all that is there is still being written: it
    /// would give back nothing, and the next one would begin at once.
    pub(crate) fn is_half_full(&self) -> bool {
        let gives_back = self.live.front().is_some_and(|l| l.seq <= self.applied);
        gives_back && (self.used * 2 >= self.capacity || self.blocked())
    }
    pub(crate) fn in_flight(&self) -> bool {
        !self.flying.is_empty() || !self.queue.is_empty()
    }
    /// Records wait that may not fit.
    fn blocked(&self) -> bool {
        !self.queue.is_empty() && self.place(MAX_GROUP_BYTES.min(self.capacity / 2)).is_none()
    }

    pub(crate) fn payload(&self) -> usize {
        self.payload
    }

    pub(crate) fn push(&mut self, q: Queued) {
        self.payload += q.payload.len();
        self.queue.push_back(q);
    }

    /// Is a change of this entry of the replica table on its way?
    pub(crate) fn changes_replica(&self, index: u32) -> bool {
        let flying = self.flying.iter().flat_map(|f| &f.records);
        let is_it = |q: &Queued| q.record.replica == index && matches!(q.record.body, Body::Replica(_));
        flying.chain(&self.queue).any(is_it)
    }

    pub(crate) fn take_ops(&mut self) -> Vec<OpId> {
        let queued = self.queue.drain(..);
        queued.chain(self.flying.drain(..).flat_map(|f| f.records)).filter_map(|q| q.op).collect()
    }

    /// Where a group of `bytes` can stand, and how much padding that costs. One byte always stays free, so that a full ring
    /// and an empty one differ.
    fn place(&self, bytes: u64) -> Option<(u64, u64)> {
        let free = self.capacity - self.used;
        let to_end = self.capacity - self.head;
        if bytes <= to_end && bytes < free {
            return Some((self.head, 0));
        }
        (to_end + bytes < free && self.head + free > self.capacity).then_some((0, to_end))
    }

    /// The tail after a checkpoint that covers everything up to `seq`.
    pub(crate) fn tail_after(&self, seq: u64) -> JournalTail {
        match self.live.iter().rev().find(|l| l.seq <= seq) {
            Some(l) => JournalTail { off: l.end, seq: l.seq + 1, prev_crc: l.crc },
            None => self.tail,
        }
    }

    /// That checkpoint is durable: its groups' space may be used again.
    pub(crate) fn trim(&mut self, tail: JournalTail) {
        while self.live.front().is_some_and(|l| l.seq < tail.seq) {
            if let Some(l) = self.live.pop_front() {
                self.used -= l.bytes;
            }
        }
        self.tail = tail;
    }

    /// Takes as many queued operations as one group holds. An operation of several records is not divided: all of it becomes
    /// durable or nothing (C3).
    fn cut(&mut self) -> Vec<Queued> {
        let max_blocks = MAX_PAYLOAD_BLOCKS.min((self.capacity / 4 / 4096) as usize).max(256);
        let (mut bytes, mut blocks, mut taken) = (0, 0, 0);
        // How many records end with a whole operation (only its last record answers it).
        let mut whole = 0;
        for q in &self.queue {
            bytes += q.record.header_bytes();
            blocks += q.record.payload_blocks();
            if taken > 0 && (bytes > MAX_RECORD_BYTES || blocks > max_blocks) {
                break;
            }
            taken += 1;
            if q.op.is_some() {
                whole = taken;
            }
        }
        // A zero of many chunks may be longer than a group; it is repeated until it is answered.
        let n = if whole == 0 { taken } else { whole };
        self.queue.drain(..n).collect()
    }
}

impl Store {
    /// Begins groups while there are records, room in flight, and room in the ring.
    pub(crate) fn start_groups(&mut self, out: &mut Vec<Output>) {
        while self.state == State::Serving
            && !self.journal.queue.is_empty()
            && self.journal.flying.len() < self.cfg.groups_in_flight
        {
            let records = self.journal.cut();
            let salt = self.sb.salt_of(self.journal.next_seq);
            let mut payload: Vec<Bytes> =
                records.iter().filter(|q| !q.payload.is_empty()).map(|q| q.payload.clone()).collect();
            let masks = !salt.is_none() && !mutant::is(Mutant::PayloadUnmasked);
            let masked = if masks { Masked::mask(&mut payload) } else { Masked::default() };
            let group = Group {
                journal_gen: self.sb.journal_gen,
                seq: self.journal.next_seq,
                prev_crc: self.journal.prev_crc,
                acked_through: self.journal.applied,
                checkpoint: self.durable_sb,
                payload_blocks: records.iter().map(|q| q.record.payload_blocks() as u32).sum(),
                masked,
                records: records.iter().map(|q| q.record.clone()).collect(),
            };
            let (header, crc) = group.encode_header(salt);
            let bytes = header.len() as u64 + u64::from(group.payload_blocks) * 4096;
            let Some((off, pad)) = self.journal.place(bytes) else {
                for q in records.into_iter().rev() {
                    self.journal.queue.push_front(q);
                }
                return;
            };
            let j = &mut self.journal;
            j.live.push_back(Live { seq: group.seq, end: off + bytes, crc, bytes: bytes + pad });
            j.used += bytes + pad;
            j.head = off + bytes;
            j.next_seq += 1;
            j.prev_crc = crc;
            let mut bufs = vec![header];
            bufs.append(&mut payload);
            self.stats.groups += 1;
            self.stats.records += records.len() as u64;
            j.flying.push_back(Flying { seq: group.seq, records, durable: false });
            let op = DiskOp::Write { off: JOURNAL_OFF + off, bufs, durable: true };
            self.disk_op(Purpose::Group(group.seq), op, out);
        }
    }

    /// A group's write has completed; the durable prefix is applied and answered.
    pub(crate) fn group_durable(&mut self, seq: u64, out: &mut Vec<Output>) {
        if let Some(f) = self.journal.flying.iter_mut().find(|f| f.seq == seq) {
            f.durable = true;
        }
        while self.journal.flying.front().is_some_and(|f| f.durable) {
            let Some(f) = self.journal.flying.pop_front() else { break };
            for q in f.records {
                self.journal.payload -= q.payload.len();
                if let Err(why) = self.apply(&q.record, q.payload, f.seq) {
                    // Only memory and disk corruption can get here: what was made cannot be applied.
                    return self.fail(why, out);
                }
                q.chunks.keys().iter().for_each(|key| self.record_applied(*key));
                if let Some(id) = q.op {
                    out.push(Output::Done { id, result: Ok(q.answer) });
                }
            }
            self.journal.applied = f.seq;
        }
    }

    fn record_applied(&mut self, key: Key) {
        let Some(c) = self.overlay.chunks.get_mut(&key) else { return };
        c.inflight -= 1;
        if c.inflight == 0 {
            if !c.slow.is_empty() {
                self.requests.slow_ready.push_back(key);
            }
            if !c.is_dirty() && c.destage.is_none() {
                // No destage comes that would end them.
                self.space.promised_units -= std::mem::take(&mut c.promise).count_ones();
            }
            let held = std::mem::take(&mut c.held);
            if held != 0 && (c.trim.is_some() || c.zeroed() != 0) {
                self.recount(key);
            }
        }
        self.drop_if_idle(key);
    }

    pub(crate) fn drop_if_idle(&mut self, key: Key) {
        if self.overlay.chunks.get(&key).is_some_and(|c| c.is_idle()) {
            self.overlay.chunks.remove(&key).into_iter().for_each(|c| self.space.returning -= c.returning.count_ones());
        }
    }
}

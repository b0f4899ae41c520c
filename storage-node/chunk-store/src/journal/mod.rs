//! The journal: a ring of groups. Several may be in flight; they become durable in order.
//!
//! Group commit: all queued records go into the next group. The durable part is always a prefix: a
//! group that completes early waits for the ones before it (hazards: Vitastor c5195666). A group
//! never wraps: where it does not fit before the ring's end, it begins at offset 0. A full journal
//! can always drain, because a checkpoint needs no journal space.

use crate::disk::DiskOp;
use crate::engine::{OpId, Output, Purpose, State, Store};
use crate::format::group::{Body, Group, MAX_GROUP_BYTES, MAX_PAYLOAD_BLOCKS, MAX_RECORD_BYTES, Masked, Record};
use crate::format::superblock::JournalTail;
use crate::geometry::JOURNAL_OFF;
use crate::mutant::{self, Mutant};
use crate::table::Key;
use bytes::Bytes;
use hf_policy::{BLOCK_SIZE, broken, invariant};
use std::collections::VecDeque;

/// The chunks that count a record as in flight.
pub(crate) enum Chunks {
    /// The record is of no chunk.
    None,
    /// The record is of one chunk: the usual case.
    One(Key),
    /// The record zeroes a range over several chunks.
    Many(Vec<Key>),
}

impl Chunks {
    pub(crate) fn keys(&self) -> &[Key] {
        match self {
            Chunks::None => &[],
            Chunks::One(key) => std::slice::from_ref(key),
            Chunks::Many(keys) => keys,
        }
    }
}

/// A record that is not applied yet.
pub(crate) struct Queued {
    pub record: Record,
    pub payload: Bytes,
    /// The chunks whose count of operations in flight includes this record.
    pub chunks: Chunks,
    /// The operation to answer when the record is durable; set only on the operation's last record.
    pub op: Option<OpId>,
    /// The answer to that operation.
    pub answer: crate::engine::Answer,
}

struct Flying {
    seq: u64,
    records: Vec<Queued>,
    durable: bool,
}

/// A group whose space in the ring is in use.
#[derive(Clone, Copy, Debug)]
struct Live {
    seq: u64,
    /// Offset in the ring at which the next group may begin.
    end: u64,
    crc: u32,
    /// Bytes of the ring it takes, including the padding before it.
    bytes: u64,
}

pub(crate) struct Journal {
    capacity: u64,
    queue: VecDeque<Queued>,
    /// Payload bytes of all records that are not applied yet.
    payload: usize,
    flying: VecDeque<Flying>,
    live: VecDeque<Live>,
    head: u64,
    used: u64,
    next_seq: u64,
    prev_crc: u32,
    tail: JournalTail,
    /// The last group that is durable and applied, as all before it are.
    pub applied: u64,
}

impl Journal {
    /// An empty journal whose next group goes to `tail`.
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

    /// Recovery found group `seq` at offset `off`, `bytes` long, and has applied it.
    pub(crate) fn replayed(&mut self, seq: u64, off: u64, bytes: u64, crc: u32) {
        invariant!(seq == self.next_seq, "group {seq} is replayed where {} should be", self.next_seq);
        invariant!(
            off == self.head || off == 0,
            "group {seq} is replayed at {off}, the last one ends at {}",
            self.head
        );
        let pad = if off == self.head { 0 } else { self.capacity - self.head };
        self.live.push_back(Live { seq, end: off + bytes, crc, bytes: bytes + pad });
        self.used += bytes + pad;
        self.head = off + bytes;
        self.next_seq = seq + 1;
        self.prev_crc = crc;
        self.applied = seq;
    }

    /// Verifies the ring's accounts, the chain of group numbers, and the count of payload bytes.
    pub(crate) fn check(&self) {
        let used: u64 = self.live.iter().map(|l| l.bytes).sum();
        invariant!(self.used == used, "{} bytes of the journal are in use, its groups have {used}", self.used);
        invariant!(self.used < self.capacity, "{} bytes of a journal of {} are in use", self.used, self.capacity);
        let first = self.live.front().map_or(self.next_seq, |l| l.seq);
        invariant!(first == self.tail.seq, "the oldest group is {first}, the tail names {}", self.tail.seq);
        for (i, l) in self.live.iter().enumerate() {
            invariant!(l.seq == first + i as u64, "group {} stands where {} should", l.seq, first + i as u64);
            invariant!(l.end <= self.capacity && l.bytes > 0, "group {} ends at {}, beyond the ring", l.seq, l.end);
        }
        let (end, crc) = self.live.back().map_or((self.tail.off, self.tail.prev_crc), |l| (l.end, l.crc));
        invariant!((end, crc) == (self.head, self.prev_crc), "the next group does not follow the last one");
        invariant!(first + self.live.len() as u64 == self.next_seq, "group {} is the next one", self.next_seq);
        let flying = self.flying.front().map_or(self.next_seq, |f| f.seq);
        invariant!(self.applied + 1 == flying, "group {flying} is on its way, {} was applied", self.applied);
        for (i, f) in self.flying.iter().enumerate() {
            invariant!(f.seq == flying + i as u64, "group {} was begun out of turn", f.seq);
            invariant!(!f.records.is_empty(), "group {} holds nothing", f.seq);
        }
        invariant!(flying + self.flying.len() as u64 == self.next_seq, "a group is neither applied nor on its way");
        invariant!(self.flying.front().is_none_or(|f| !f.durable), "group {flying} is durable and was not applied");
        invariant!(self.tail.seq <= flying, "a checkpoint covers group {flying}, which was not applied");
        let payload: usize = self.records().map(|q| q.payload.len()).sum();
        invariant!(self.payload == payload, "{} payload bytes are on their way, not {payload}", self.payload);
        for q in self.records() {
            let blocks = q.record.payload_blocks();
            invariant!(
                q.payload.len() == blocks * BLOCK_SIZE,
                "a record of {blocks} blocks has {} bytes",
                q.payload.len()
            );
        }
    }

    /// Where the journal's live part begins, according to the last durable checkpoint.
    pub(crate) fn tail(&self) -> JournalTail {
        self.tail
    }

    /// Records that are not applied yet: those in groups in flight, then those in the queue.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Queued> {
        self.flying.iter().flat_map(|f| &f.records).chain(&self.queue)
    }

    /// Groups whose write has not completed.
    pub(crate) fn being_written(&self) -> impl Iterator<Item = u64> {
        self.flying.iter().filter(|f| !f.durable).map(|f| f.seq)
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }
    /// True if a checkpoint has to free room. False while every group there is still being written:
    /// a checkpoint would free nothing, and the next one would begin at once.
    pub(crate) fn is_half_full(&self) -> bool {
        let gives_back = self.live.front().is_some_and(|l| l.seq <= self.applied);
        gives_back && (self.used * 2 >= self.capacity || self.blocked())
    }
    pub(crate) fn in_flight(&self) -> bool {
        !self.flying.is_empty() || !self.queue.is_empty()
    }
    /// True if records wait and a group of the largest size would not fit.
    fn blocked(&self) -> bool {
        !self.queue.is_empty() && self.place(MAX_GROUP_BYTES.min(self.capacity / 2)).is_none()
    }

    pub(crate) fn payload(&self) -> usize {
        self.payload
    }

    pub(crate) fn push(&mut self, q: Queued) {
        let blocks = q.record.payload_blocks();
        invariant!(q.payload.len() == blocks * BLOCK_SIZE, "a record of {blocks} blocks has {} bytes", q.payload.len());
        invariant!(
            q.record.header_bytes() <= MAX_RECORD_BYTES,
            "a record does not fit into a group: {:?}",
            q.record.range
        );
        self.payload += q.payload.len();
        self.queue.push_back(q);
    }

    /// True if a record that changes this entry of the replica table is not applied yet.
    pub(crate) fn changes_replica(&self, index: u32) -> bool {
        let flying = self.flying.iter().flat_map(|f| &f.records);
        let is_it = |q: &Queued| q.record.replica == index && matches!(q.record.body, Body::Replica(_));
        flying.chain(&self.queue).any(is_it)
    }

    pub(crate) fn take_ops(&mut self) -> Vec<OpId> {
        let queued = self.queue.drain(..);
        self.payload = 0;
        queued.chain(self.flying.drain(..).flat_map(|f| f.records)).filter_map(|q| q.op).collect()
    }

    /// The offset at which a group of `bytes` fits, and the padding before it; `None` if it does
    /// not fit. One byte always stays free, so that a full ring differs from an empty one.
    fn place(&self, bytes: u64) -> Option<(u64, u64)> {
        let free = self.capacity - self.used;
        let to_end = self.capacity - self.head;
        if bytes <= to_end && bytes < free {
            return Some((self.head, 0));
        }
        (to_end + bytes < free && self.head + free > self.capacity).then_some((0, to_end))
    }

    /// The journal's tail once a checkpoint covers everything up to group `seq`.
    pub(crate) fn tail_after(&self, seq: u64) -> JournalTail {
        match self.live.iter().rev().find(|l| l.seq <= seq) {
            Some(l) => JournalTail { off: l.end, seq: l.seq + 1, prev_crc: l.crc },
            None => self.tail,
        }
    }

    /// That checkpoint is durable: frees the ring space of the groups it covers.
    pub(crate) fn trim(&mut self, tail: JournalTail) {
        invariant!(tail.seq >= self.tail.seq, "the journal's tail goes back from {} to {}", self.tail.seq, tail.seq);
        invariant!(tail.seq <= self.applied + 1, "the tail passes group {}, the last that was applied", self.applied);
        while self.live.front().is_some_and(|l| l.seq < tail.seq)
            && let Some(l) = self.live.pop_front()
        {
            lower!(self.used, l.bytes, "bytes of the journal in use");
        }
        invariant!(!self.live.is_empty() || self.used == 0, "a journal without groups has {} bytes in use", self.used);
        self.tail = tail;
    }

    /// Takes as many queued operations as fit into one group. The records of one operation stay
    /// together: all of them become durable or none (C3).
    fn cut(&mut self) -> Vec<Queued> {
        let max_blocks = MAX_PAYLOAD_BLOCKS.min((self.capacity / 4 / 4096) as usize).max(256);
        let (mut bytes, mut blocks, mut taken) = (0, 0, 0);
        // Number of leading records that make up whole operations. (Only an operation's last record
        // answers it.)
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
        // A zero of many chunks may be longer than a group. It is the exception: its sender repeats
        // it until it is answered.
        let n = if whole == 0 { taken } else { whole };
        invariant!(n > 0 && n <= self.queue.len(), "a group takes {n} of {} records", self.queue.len());
        self.queue.drain(..n).collect()
    }
}

impl Store {
    /// Writes groups while there are records, the number in flight is below its bound, and the ring
    /// has room.
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
            let in_payload: usize = payload.iter().map(Bytes::len).sum();
            let blocks = group.payload_blocks as usize;
            invariant!(
                in_payload == blocks * BLOCK_SIZE,
                "a group of {blocks} blocks has {in_payload} bytes of payload"
            );
            let j = &mut self.journal;
            invariant!(off + bytes <= j.capacity, "group {} of {bytes} bytes goes beyond the ring", group.seq);
            invariant!(j.used + bytes + pad < j.capacity, "group {} is written over live ones", group.seq);
            invariant!(group.acked_through < group.seq, "group {} says that it was durable", group.seq);
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

    /// A group's write has completed: applies and answers the groups that are now durable with all
    /// before them.
    pub(crate) fn group_durable(&mut self, seq: u64, out: &mut Vec<Output>) {
        let Some(f) = self.journal.flying.iter_mut().find(|f| f.seq == seq) else {
            broken!("group {seq} is durable and was not on its way");
            return;
        };
        invariant!(!f.durable, "group {seq} has become durable twice");
        f.durable = true;
        while self.journal.flying.front().is_some_and(|f| f.durable)
            && let Some(f) = self.journal.flying.pop_front()
        {
            invariant!(f.seq == self.journal.applied + 1, "group {} follows {}", f.seq, self.journal.applied);
            for q in f.records {
                lower!(self.journal.payload, q.payload.len(), "payload bytes on their way");
                if let Err(why) = self.apply(&q.record, q.payload, f.seq) {
                    // Only corrupted memory can lead here: the record was checked when it was made.
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
        let Some(c) = self.overlay.chunks.get_mut(&key) else {
            broken!("a record of chunk {key:?} is applied, and the chunk knows of none in flight");
            return;
        };
        lower!(c.inflight, 1, "operations of a chunk in flight");
        if c.inflight == 0 {
            if !c.slow.is_empty() {
                self.requests.slow_ready.push_back(key);
            }
            if !c.is_dirty() && c.destage.is_none() {
                // No destage will come to end these promises.
                let promise = std::mem::take(&mut c.promise).count_ones();
                lower!(self.space.promised_units, promise, "units promised");
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
            let returning = self.overlay.chunks.remove(&key).map_or(0, |c| c.returning.count_ones());
            lower!(self.space.returning, returning, "units on their way back");
        }
    }
}

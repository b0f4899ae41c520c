//! Client requests: a place in order on arrival, a range lock over whole blocks, parts per chunk,
//! partial blocks merged under the lock, one answer (the worst part's).
//!
//! | file | decides |
//! | --- | --- |
//! | `plan.rs` | the writes that a request becomes, the reply that its parts make |
//! | `space.rs` | whether there is room on every member, before a write gets its number |
//! | `writes.rs` | numbering, sending and completing writes; the watermark |
//! | `reads.rs` | which member reads, whether its answer is whole and current |

mod plan;
pub(super) mod reads;
mod space;
pub(super) mod writes;

use super::{ClientId, ClientOp, ClientReply, Coordinator, Cx, IoError, Output, Phase};
use crate::message::BlockInfo;
use crate::range_lock::RangeLock;
use bytes::Bytes;
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BLOCK_BYTES, BlockRange, CHUNK_BYTES, Rid, Space, Tick, broken, invariant};
use plan::{plan_writes, reply};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The most chunks that one status request looks at; its answer may cover less than was asked for.
const STATUS_CHUNKS: u64 = 32;

/// A request that holds or waits for its lock.
pub(super) struct Request {
    pub client: ClientId,
    op: ClientOp,
    /// When it came, or when the volume began to serve if it came before.
    began: Tick,
    /// The blocks that it covers, partly or wholly.
    pub range: BlockRange,
    /// The partial first and last block are being read before anything is written.
    merging: bool,
    /// What was read, by part: chunks of a read, edges of a write.
    parts: Vec<Option<(Vec<BlockInfo>, Bytes)>>,
    /// Reads or writes that have not ended.
    pub left: usize,
    /// The space that its writes were counted at when they were sent.
    owed: Space,
    /// It waits to hear whether there is room.
    pub probe: Option<space::Probe>,
    /// The worst outcome of a part so far.
    result: Result<(), IoError>,
}

impl Request {
    fn new(now: Tick, client: ClientId, op: ClientOp) -> Request {
        Request {
            client,
            op,
            began: now,
            range: BlockRange::default(),
            merging: false,
            parts: Vec::new(),
            left: 0,
            owed: Space::NONE,
            probe: None,
            result: Ok(()),
        }
    }

    /// It changes blocks, so its lock is exclusive.
    fn exclusive(&self) -> bool {
        matches!(self.op, ClientOp::Write { .. } | ClientOp::Zero { .. })
    }

    /// Offset and length in bytes.
    fn span(&self) -> (u64, u64) {
        match &self.op {
            ClientOp::Read { off, len } => (*off, u64::from(*len)),
            ClientOp::Write { off, data } => (*off, data.len() as u64),
            ClientOp::Zero { off, len } | ClientOp::Status { off, len } => (*off, *len),
            ClientOp::Flush => (0, 0),
        }
    }

    /// The blocks that are only partly covered: none, one or two.
    fn partial(&self) -> Vec<BlockRange> {
        let (off, len) = self.span();
        let mut edges = BTreeSet::new();
        if off % BLOCK_BYTES != 0 {
            edges.insert(off / BLOCK_BYTES);
        }
        if (off + len) % BLOCK_BYTES != 0 {
            edges.insert((off + len) / BLOCK_BYTES);
        }
        edges.into_iter().map(|b| BlockRange::new(b, 1)).collect()
    }
}

/// The clients' requests that are not answered.
#[derive(Default)]
pub(super) struct Requests {
    /// Requests that wait for the volume to serve, in the order of arrival.
    pub queued: VecDeque<(ClientId, ClientOp)>,
    by_id: BTreeMap<u64, Request>,
    /// Locks of requests, and of the chunk that the scrub looks at.
    pub locks: RangeLock,
    /// The most that writes in flight may allocate.
    pub owed: Space,
    /// Requests that wait for room which writes in flight are counted at.
    blocked: Vec<u64>,
}

impl Requests {
    pub fn get(&self, id: u64) -> Option<&Request> {
        self.by_id.get(&id)
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut Request> {
        self.by_id.get_mut(&id)
    }

    /// Requests that are not answered.
    pub fn unanswered(&self) -> usize {
        self.by_id.len() + self.queued.len()
    }

    /// The ids of requests that hold or wait for their lock.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.by_id.keys().copied()
    }

    /// The attachment is over: nothing is held any more. Returns whose requests are to be answered.
    pub fn end(&mut self) -> Vec<ClientId> {
        let all = std::mem::take(self);
        let queued = all.queued.into_iter().map(|(client, _)| client);
        queued.chain(all.by_id.into_values().map(|r| r.client)).collect()
    }

    /// The request has ended.
    fn remove(&mut self, id: u64) -> Option<Request> {
        let r = self.by_id.remove(&id)?;
        self.owed = self.owed.minus(r.owed);
        invariant!(
            !self.by_id.is_empty() || self.owed == Space::NONE,
            "no request is left, and {:?} is still counted",
            self.owed
        );
        Some(r)
    }

    /// Requests that wait to hear whether there is room.
    fn probing(&self) -> Vec<u64> {
        self.by_id.iter().filter(|(_, r)| r.probe.is_some()).map(|(id, _)| *id).collect()
    }

    /// Does a request wait for this member to leave because it has no room?
    fn is_short(&self, rid: Rid) -> bool {
        self.by_id.values().any(|r| r.probe.as_ref().is_some_and(|p| p.short.contains(&rid)))
    }

    /// What must hold of it between steps. `going` says how many reads and writes of a request have
    /// not ended.
    pub fn check(&self, blocks: u64, going: &BTreeMap<u64, usize>) -> Result<(), String> {
        self.locks.check()?;
        let counted = self.by_id.values().fold(Space::NONE, |sum, r| sum.plus(r.owed));
        if !counted.covers(self.owed) {
            return Err(format!("{:?} is counted for requests that owe {counted:?}", self.owed));
        }
        for (id, r) in &self.by_id {
            let going = going.get(id).copied().unwrap_or(0);
            if r.range.is_empty() || r.range.end().0 > blocks {
                return Err(format!("request {id} is about {:?} of {blocks} blocks", r.range));
            }
            let idle = r.probe.is_some() || self.locks.is_waiting(*id);
            if idle && going > 0 {
                return Err(format!("request {id} waits, and {going} of its parts are going on"));
            }
            if !idle && (going != r.left || going == 0) {
                return Err(format!("request {id} has {} parts left, and {going} are going on", r.left));
            }
            if r.owed != Space::NONE && !r.exclusive() {
                return Err(format!("request {id} writes nothing, and is counted at {:?}", r.owed));
            }
        }
        Ok(())
    }
}

impl Coordinator {
    /// A client's request has come.
    pub(super) fn client(&mut self, id: ClientId, op: ClientOp, cx: &mut Cx) {
        match self.phase {
            Phase::Fenced => cx.out.push(Output::Reply { id, result: Err(IoError::Fenced) }),
            Phase::Serving if self.open() => self.begin_client(id, op, cx),
            Phase::Sealing | Phase::Reconciling | Phase::Serving => self.requests.queued.push_back((id, op)),
        }
    }

    /// Clients' requests begin when the record says that this term is served, not before. Otherwise
    /// the record could not tell, of a replica that is the last one left, whether its storage was
    /// put back from before this term (docs/decisions/0014).
    fn open(&self) -> bool {
        self.record.served || mutant::is(Mutant::ServesUnrecorded)
    }

    /// Begins the requests that waited for the volume to serve, if it does now.
    pub(super) fn begin_queued(&mut self, cx: &mut Cx) {
        if self.phase != Phase::Serving || !self.open() {
            return;
        }
        for (id, op) in std::mem::take(&mut self.requests.queued) {
            self.begin_client(id, op, cx);
        }
    }

    fn begin_client(&mut self, client: ClientId, op: ClientOp, cx: &mut Cx) {
        invariant!(self.phase == Phase::Serving, "a request begins in {:?}", self.phase);
        if let ClientOp::Flush = op {
            return self.flush(client, cx);
        }
        let mut r = Request::new(cx.now, client, op);
        let (off, len) = r.span();
        let range = BlockRange::covering(off, len).filter(|x| x.end().0 <= self.cfg.blocks);
        let Some(range) = range else {
            self.stats.errors += 1;
            return cx.out.push(Output::Reply { id: client, result: Err(IoError::Invalid) });
        };
        if range.is_empty() {
            return cx.out.push(Output::Reply { id: client, result: Ok(ClientReply::Done) });
        }
        r.range = range;
        if let ClientOp::Status { len, off } = &mut r.op {
            let most = STATUS_CHUNKS * CHUNK_BYTES - *off % CHUNK_BYTES;
            *len = (*len).min(most);
            r.range = BlockRange::covering(*off, *len).unwrap_or(range);
        }
        let (id, range, exclusive) = (self.id(), r.range, r.exclusive());
        invariant!(!range.is_empty() && range.end().0 <= self.cfg.blocks, "a request is about {range:?}");
        let before = self.requests.by_id.insert(id, r);
        invariant!(before.is_none(), "two requests have the id {id}");
        let unlocked = mutant::is(if exclusive { Mutant::WriteWithoutLock } else { Mutant::ReadWithoutLock });
        if unlocked || self.requests.locks.acquire(id, range, exclusive) {
            self.locked(id, cx);
        }
    }

    /// A flush covers the writes that were answered before it was asked for, and an answered write
    /// is durable on every in-sync replica: there is nothing to wait for. (NBD, SCSI and virtio ask
    /// for no more than that.)
    fn flush(&mut self, client: ClientId, cx: &mut Cx) {
        if mutant::is(Mutant::FlushWaits) && !self.requests.by_id.is_empty() {
            return self.requests.queued.push_back((client, ClientOp::Flush));
        }
        cx.out.push(Output::Reply { id: client, result: Ok(ClientReply::Done) });
    }

    /// Nobody waits for the answer any more: a read, or a question what blocks hold, ends here, and
    /// what members were asked for it is forgotten. Anything else is carried out.
    pub(super) fn give_up(&mut self, client: ClientId, cx: &mut Cx) {
        let reads = |op: &ClientOp| matches!(op, ClientOp::Read { .. } | ClientOp::Status { .. });
        let before = self.requests.queued.len();
        self.requests.queued.retain(|(id, op)| *id != client || !reads(op));
        let of_client = |(_, r): &(&u64, &Request)| r.client == client && reads(&r.op);
        let id = self.requests.by_id.iter().find(of_client).map(|(id, _)| *id);
        if id.is_some() || self.requests.queued.len() < before {
            cx.out.push(Output::Reply { id: client, result: Err(IoError::Io) });
        }
        // (It was answered before, waited in the queue, or is a write.)
        let Some(id) = id else { return };
        self.requests.remove(id);
        let parts = self.reads.forget_of(id);
        self.forget_reads(&parts, cx);
        self.unlock(id, cx);
    }

    /// The lock is held: the request, or the scrub, goes on.
    fn locked(&mut self, id: u64, cx: &mut Cx) {
        if self.scrub_locked(id, cx) {
            return;
        }
        let Some(r) = self.requests.get_mut(id) else {
            return broken!("a lock is granted to {id}, which is neither a request nor the scrub");
        };
        invariant!(r.left == 0 && r.parts.is_empty(), "request {id} is granted its lock twice");
        let merges = r.exclusive() && !mutant::is(Mutant::EdgesForgotten);
        let edges = if merges { r.partial() } else { Vec::new() };
        let ranges: Vec<BlockRange> = if !edges.is_empty() {
            r.merging = true;
            edges
        } else if r.exclusive() {
            return self.issue_write(id, cx);
        } else {
            r.range.by_chunk().map(|(_, part)| part).collect()
        };
        invariant!(!ranges.is_empty(), "request {id} reads nothing");
        r.left = ranges.len();
        r.parts = vec![None; ranges.len()];
        let status = matches!(r.op, ClientOp::Status { .. });
        for (part, range) in ranges.into_iter().enumerate() {
            if status { self.start_status(id, part, range, cx) } else { self.start_read(id, part, range, cx) }
        }
    }

    /// All bytes are known: the writes are numbered and sent if there is room, else members are
    /// asked for it.
    fn issue_write(&mut self, id: u64, cx: &mut Cx) {
        let Some(r) = self.requests.get(id) else {
            return broken!("request {id} is to write and has ended");
        };
        invariant!(r.left == 0 && r.probe.is_none(), "request {id} writes twice");
        // The edges of a zero overwrite blocks that are there, or that read as zero anyway.
        let need = if matches!(r.op, ClientOp::Write { .. }) { Space::at_most(r.range) } else { Space::NONE };
        if self.has_room(need) { self.send_writes(id, need, cx) } else { self.probe(id, cx) }
    }

    /// Numbers and sends a request's writes, counted at `need`.
    fn send_writes(&mut self, id: u64, need: Space, cx: &mut Cx) {
        let Some(r) = self.requests.by_id.get_mut(&id) else {
            return broken!("request {id} is to write and has ended");
        };
        invariant!(r.exclusive() && r.left == 0, "request {id} writes, and has {} parts left", r.left);
        invariant!(r.owed == Space::NONE, "request {id} is counted twice");
        r.probe = None;
        r.owed = need;
        self.requests.owed = self.requests.owed.plus(need);
        let writes = plan_writes(r);
        invariant!(!writes.is_empty() || mutant::is(Mutant::EdgesForgotten), "request {id} writes nothing");
        r.left = writes.len();
        r.merging = false;
        for (range, kind) in writes {
            self.start_write(id, range, kind, cx);
        }
    }

    /// A read has brought its blocks, for a client's request or for the scrub.
    fn read_done(&mut self, id: u64, part: usize, infos: Vec<BlockInfo>, data: Bytes, cx: &mut Cx) {
        // (The scrub needs no bytes: to have read them is to have them mended.)
        if let Some(r) = self.requests.get_mut(id) {
            match r.parts.get_mut(part) {
                Some(p) => {
                    invariant!(p.is_none(), "part {part} of request {id} is read twice");
                    *p = Some((infos, data));
                }
                None => broken!("request {id} has no part {part}"),
            }
        }
        self.read_over(id, part, Ok(()), cx);
    }

    /// A read has come to its end, for a client's request or for the scrub.
    fn read_over(&mut self, id: u64, part: usize, result: Result<(), IoError>, cx: &mut Cx) {
        if !self.scrub_part_done(id, part, result.is_ok(), cx) {
            self.part_done(id, result, cx);
        }
    }

    /// A read or a write of a client's request has ended. The last one ends the request.
    fn part_done(&mut self, id: u64, result: Result<(), IoError>, cx: &mut Cx) {
        let Some(r) = self.requests.get_mut(id) else {
            return broken!("a part of request {id} ends, which has ended");
        };
        invariant!(r.left > 0, "more parts of request {id} end than it has");
        // A request ends with its worst part's outcome (hazards: DRBD 497149ded).
        r.result = r.result.and(result);
        r.left = r.left.saturating_sub(1);
        if r.left > 0 {
            return;
        }
        if r.merging && r.result.is_ok() {
            return self.issue_write(id, cx);
        }
        let Some(r) = self.requests.remove(id) else { return broken!("request {id} has ended twice") };
        self.probe_blocked(cx);
        self.pace.observe(cx.now, r.began);
        self.count(&r);
        cx.out.push(Output::Reply { id: r.client, result: r.result.map(|()| reply(&r)) });
        self.unlock(id, cx);
    }

    /// Counts a request that has ended.
    fn count(&mut self, r: &Request) {
        let (_, len) = r.span();
        match (&r.result, r.exclusive()) {
            (Err(_), _) => self.stats.errors += 1,
            (Ok(()), true) => {
                self.stats.writes += 1;
                self.stats.write_bytes += len;
            }
            // A block status delivers no bytes: it is no read.
            (Ok(()), false) if matches!(r.op, ClientOp::Status { .. }) => {}
            (Ok(()), false) => {
                self.stats.reads += 1;
                self.stats.read_bytes += len;
            }
        }
    }

    /// Lets a lock go; requests that waited for it go on.
    pub(super) fn unlock(&mut self, id: u64, cx: &mut Cx) {
        for next in self.requests.locks.release(id) {
            invariant!(next != id, "the lock of {id} is granted to itself");
            self.locked(next, cx);
        }
    }
}

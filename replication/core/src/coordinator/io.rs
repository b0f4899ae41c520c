//! Client requests: a place in order on arrival, a range lock over whole blocks, parts per chunk, partial blocks merged
//! under the lock, one answer (the worst part's).

use super::{ClientId, ClientOp, ClientReply, Coordinator, Cx, IoError, Output, Phase};
use crate::message::{BlockInfo, WriteKind};
use bytes::{Bytes, BytesMut};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BLOCK_BYTES, BLOCK_SIZE, BlockRange, CHUNK_BYTES, Space, Tick, crc};
use std::collections::BTreeSet;

/// Chunks looked at by one status request; the answer may cover less than was asked for.
const STATUS_CHUNKS: u64 = 32;

/// A request that holds or waits for its lock.
pub(super) struct Request {
    pub client: ClientId,
    op: ClientOp,
    /// When it came.
    began: Tick,
    pub range: BlockRange,
    /// Reading the partial first and last block before writing.
    merging: bool,
    parts: Vec<Option<(Vec<BlockInfo>, Bytes)>>,
    pub left: usize,
    /// What it was counted at when its writes were sent.
    owed: Space,
    /// It waits to hear whether there is room.
    pub probe: Option<super::space::Probe>,
    result: Result<(), IoError>,
}

impl Request {
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

impl Coordinator {
    pub(super) fn client(&mut self, id: ClientId, op: ClientOp, cx: &mut Cx) {
        match self.phase {
            Phase::Fenced => cx.out.push(Output::Reply { id, result: Err(IoError::Fenced) }),
            Phase::Serving if self.open() => self.begin_client(id, op, cx),
            Phase::Sealing | Phase::Reconciling | Phase::Serving => self.queued.push_back((id, op)),
        }
    }

    /// Clients' requests begin when the record says that this term is served, not before. Otherwise the record could not tell, of
    /// a replica that is the last one left, storage that was put back from before this term (docs/decisions/0014).
    fn open(&self) -> bool {
        self.record.served || mutant::is(Mutant::ServesUnrecorded)
    }

    pub(super) fn begin_queued(&mut self, cx: &mut Cx) {
        if self.phase != Phase::Serving || !self.open() {
            return;
        }
        for (id, op) in std::mem::take(&mut self.queued) {
            self.begin_client(id, op, cx);
        }
    }

    fn begin_client(&mut self, client: ClientId, op: ClientOp, cx: &mut Cx) {
        if let ClientOp::Flush = op {
            return self.flush(client, cx);
        }
        let mut r = Request {
            client,
            op,
            began: cx.now,
            range: BlockRange::default(),
            merging: false,
            parts: Vec::new(),
            left: 0,
            owed: Space::NONE,
            probe: None,
            result: Ok(()),
        };
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
        self.requests.insert(id, r);
        let unlocked = mutant::is(if exclusive { Mutant::WriteWithoutLock } else { Mutant::ReadWithoutLock });
        if unlocked || self.locks.acquire(id, range, exclusive) {
            self.locked(id, cx);
        }
    }

    /// A flush covers the writes that were answered before it was asked for, and an answered write is durable on every
    /// in-sync replica: there is nothing to wait for. (NBD, SCSI and virtio ask for no more than that.)
    fn flush(&mut self, client: ClientId, cx: &mut Cx) {
        if mutant::is(Mutant::FlushWaits) && !self.requests.is_empty() {
            return self.queued.push_back((client, ClientOp::Flush));
        }
        cx.out.push(Output::Reply { id: client, result: Ok(ClientReply::Done) });
    }

    /// Nobody waits for the answer any more: a read, or a question what blocks hold, ends here, and what members were asked for it is
    /// forgotten. Anything else is carried out.
    pub(super) fn give_up(&mut self, client: ClientId, cx: &mut Cx) {
        let reads = |op: &ClientOp| matches!(op, ClientOp::Read { .. } | ClientOp::Status { .. });
        let before = self.queued.len();
        self.queued.retain(|(id, op)| *id != client || !reads(op));
        let of_client = |(_, r): &(&u64, &Request)| r.client == client && reads(&r.op);
        let id = self.requests.iter().find(of_client).map(|(id, _)| *id);
        if id.is_some() || self.queued.len() < before {
            cx.out.push(Output::Reply { id: client, result: Err(IoError::Io) });
        }
        let Some(id) = id else { return };
        self.requests.remove(&id);
        let parts: BTreeSet<u64> = self.reads.iter().filter(|(_, r)| r.request == id).map(|(id, _)| *id).collect();
        self.reads.retain(|read, _| !parts.contains(read));
        self.forget_reads(&parts, cx);
        self.unlock(id, cx);
    }

    /// The lock is held: begin.
    fn locked(&mut self, id: u64, cx: &mut Cx) {
        if self.scrub_locked(id, cx) {
            return;
        }
        let Some(r) = self.requests.get_mut(&id) else { return };
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
        r.left = ranges.len();
        r.parts = vec![None; ranges.len()];
        let status = matches!(r.op, ClientOp::Status { .. });
        for (part, range) in ranges.into_iter().enumerate() {
            if status { self.start_status(id, part, range, cx) } else { self.start_read(id, part, range, cx) }
        }
    }

    /// All bytes are known: number and send, if there is room.
    fn issue_write(&mut self, id: u64, cx: &mut Cx) {
        let Some(r) = self.requests.get(&id) else { return };
        // The edges of a zero overwrite blocks that are there, or that read as zero anyway.
        let need = if matches!(r.op, ClientOp::Write { .. }) { Space::at_most(r.range) } else { Space::NONE };
        if self.has_room(need) { self.send_writes(id, need, cx) } else { self.probe(id, cx) }
    }

    /// Numbers and sends a request's writes, counted at `need`.
    pub(super) fn send_writes(&mut self, id: u64, need: Space, cx: &mut Cx) {
        let Some(r) = self.requests.get_mut(&id) else { return };
        r.probe = None;
        r.owed = need;
        self.owed = self.owed.plus(need);
        let writes = plan_writes(r);
        r.left = writes.len();
        r.merging = false;
        for (range, kind) in writes {
            self.start_write(id, range, kind, cx);
        }
    }

    pub(super) fn read_done(&mut self, id: u64, part: usize, infos: Vec<BlockInfo>, data: Bytes, cx: &mut Cx) {
        if let Some(p) = self.requests.get_mut(&id).and_then(|r| r.parts.get_mut(part)) {
            *p = Some((infos, data));
        }
        self.read_over(id, part, Ok(()), cx);
    }

    /// A read has come to its end, for a client's request or for the scrub.
    pub(super) fn read_over(&mut self, id: u64, part: usize, result: Result<(), IoError>, cx: &mut Cx) {
        if !self.scrub_part_done(id, part, result.is_ok(), cx) {
            self.part_done(id, result, cx);
        }
    }

    pub(super) fn part_done(&mut self, id: u64, result: Result<(), IoError>, cx: &mut Cx) {
        let Some(r) = self.requests.get_mut(&id) else { return };
        // A request ends with its worst part's outcome (hazards: DRBD 497149ded).
        r.result = r.result.and(result);
        r.left = r.left.saturating_sub(1);
        if r.left > 0 {
            return;
        }
        if r.merging && r.result.is_ok() {
            return self.issue_write(id, cx);
        }
        let Some(r) = self.requests.remove(&id) else { return };
        self.owed = self.owed.minus(r.owed);
        self.probe_blocked(cx);
        self.pace.observe(cx.now, r.began);
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
        cx.out.push(Output::Reply { id: r.client, result: r.result.map(|()| reply(&r)) });
        self.unlock(id, cx);
    }

    /// Lets a lock go; who waited for it goes on.
    pub(super) fn unlock(&mut self, id: u64, cx: &mut Cx) {
        for next in self.locks.release(id) {
            self.locked(next, cx);
        }
    }
}

/// The numbered writes a request becomes.
fn plan_writes(r: &Request) -> Vec<(BlockRange, WriteKind)> {
    let (off, len) = r.span();
    let base = r.range.offset();
    let data_parts = |range: BlockRange, all: Bytes| -> Vec<(BlockRange, WriteKind)> {
        let cut = |(_, part): (_, BlockRange)| {
            let at = (part.offset() - range.offset()) as usize;
            let data = all.slice(at..at + part.bytes() as usize);
            (part, WriteKind::Data { crcs: crc::payloads(&data), data })
        };
        range.by_chunk().map(cut).collect()
    };
    match &r.op {
        ClientOp::Write { data, .. } if !r.merging && !mutant::is(Mutant::EdgesForgotten) => {
            data_parts(r.range, data.clone())
        }
        ClientOp::Write { data, .. } => {
            let mut all = BytesMut::zeroed(r.range.bytes() as usize);
            lay_edges(r, &mut all);
            let at = (off - base) as usize;
            all[at..at + data.len()].copy_from_slice(data);
            data_parts(r.range, all.freeze())
        }
        ClientOp::Zero { .. } => {
            let mut writes = Vec::new();
            let first = off.div_ceil(BLOCK_BYTES);
            let end = (off + len) / BLOCK_BYTES;
            if end > first {
                writes.push((BlockRange::new(first, (end - first) as u32), WriteKind::Zero { keep: false }));
            }
            for (edge, part) in r.partial().into_iter().zip(&r.parts) {
                let Some((_, old)) = part else { continue };
                let mut block = BytesMut::from(&old[..]);
                let from = off.max(edge.offset()) - edge.offset();
                let to = (off + len).min(edge.offset() + BLOCK_BYTES) - edge.offset();
                block[from as usize..to as usize].fill(0);
                writes.extend(data_parts(edge, block.freeze()));
            }
            writes
        }
        _ => Vec::new(),
    }
}

/// The old bytes of partly covered blocks.
fn lay_edges(r: &Request, all: &mut BytesMut) {
    for (edge, part) in r.partial().into_iter().zip(&r.parts) {
        if let Some((_, old)) = part {
            let at = (edge.offset() - r.range.offset()) as usize;
            all[at..at + BLOCK_SIZE].copy_from_slice(&old[..BLOCK_SIZE]);
        }
    }
}

fn reply(r: &Request) -> ClientReply {
    let (off, len) = r.span();
    match r.op {
        ClientOp::Read { .. } => {
            let mut skip = (off - r.range.offset()) as usize;
            let mut left = len as usize;
            let mut data = Vec::with_capacity(r.parts.len());
            for (_, bytes) in r.parts.iter().flatten() {
                let take = left.min(bytes.len() - skip);
                data.push(bytes.slice(skip..skip + take));
                left -= take;
                skip = 0;
            }
            ClientReply::Data(data)
        }
        ClientOp::Status { .. } => {
            let mut extents: Vec<(u64, bool)> = Vec::new();
            let mut at = r.range.offset();
            for i in r.parts.iter().flatten().flat_map(|(infos, _)| infos) {
                let end = at + BLOCK_BYTES;
                let bytes = end.min(off + len).saturating_sub(at.max(off));
                match extents.last_mut() {
                    Some((n, hole)) if *hole == i.state.is_zero() => *n += bytes,
                    _ => extents.push((bytes, i.state.is_zero())),
                }
                at = end;
            }
            extents.retain(|(n, _)| *n > 0);
            ClientReply::Extents(extents)
        }
        _ => ClientReply::Done,
    }
}

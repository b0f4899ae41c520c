//! Writes and zeroes: checks, promises of space, and the choice between the journal and fresh
//! units.

use crate::disk::DiskOp;
use crate::engine::{Answer, Op, OpId, Output, Purpose, Store, StoreError};
use crate::format::group::{Body, Record};
use crate::journal::{Chunks, Queued};
use crate::mutant::{self, Mutant};
use crate::overlay::Chunk;
use crate::table::Key;
use crate::{CHUNK_UNITS, UNIT_BLOCKS};
use bytes::Bytes;
use hf_policy::crc::{Identity, PayloadCrc, SeededCrc};
use hf_policy::{BLOCK_SIZE, BlockIx, BlockRange, ChunkIx, Rid, Seq, Ver, broken, invariant};

/// A large write: its data goes to fresh units first, then its mapping to the journal.
pub(crate) struct Direct {
    pub id: OpId,
    pub key: Key,
    pub record: Record,
    pub outstanding: u32,
}

impl Direct {
    /// The fresh units that the data goes to.
    pub(crate) fn units(&self) -> &[u32] {
        if let Body::Map { units, .. } = &self.record.body { units } else { &[] }
    }
}

/// Writes of at least so many blocks, in whole units, skip the double write by way of the journal.
const DIRECT_BLOCKS: usize = UNIT_BLOCKS;

impl Store {
    /// Begins an operation on chunks, for which the overlay has room.
    pub(crate) fn admit(&mut self, id: OpId, op: Op, out: &mut Vec<Output>) {
        let begun = match &op {
            Op::Write { rid, ver, start, data, crcs } => self.check_write(*rid, *ver, *start, data, crcs.len()),
            Op::Zero { rid, ver, range, .. } => self.check_range(*rid, *range).and_then(|r| {
                (ver.seq <= Seq::MAX).then_some(r).ok_or_else(|| StoreError::Invalid("sequence number".into()))
            }),
            Op::Copy { rid, items, .. } => self.check_copy(*rid, items),
            Op::Versions { rid, chunk } => self.check_range(*rid, BlockRange { start: chunk.first_block(), len: 1 }),
            _ => Err(StoreError::Invalid("not a chunk operation".into())),
        };
        let r = match begun {
            Ok(r) => r,
            Err(e) => return out.push(Output::Done { id, result: Err(e) }),
        };
        match op {
            Op::Write { ver, start, ref crcs, .. } => {
                let key = (r, start.chunk().0);
                let units = unit_mask(start.in_chunk(), crcs.len());
                if self.chunk_mut(key).in_order(ver, units) {
                    self.fast_write(id, key, op, out)
                } else {
                    self.go_slow(id, key, op, out)
                }
            }
            Op::Zero { range, keep: true, .. } => self.go_slow(id, (r, range.start.chunk().0), op, out),
            Op::Zero { rid, ver, range, .. } => self.zero(id, r, rid, ver, range, out),
            Op::Copy { ref items, .. } => {
                let chunk = items.first().map_or(0, |i| i.block.chunk().0);
                self.go_slow(id, (r, chunk), op, out);
            }
            Op::Versions { chunk, .. } => self.go_slow(id, (r, chunk.0), op, out),
            _ => broken!("operation {id} is admitted and is not of a chunk"),
        }
    }

    pub(crate) fn check_range(&self, rid: Rid, range: BlockRange) -> Result<u32, StoreError> {
        let r = *self.table.by_rid.get(&rid).ok_or(StoreError::NoReplica(rid))?;
        let rec = self.table.replicas[r as usize].as_ref().filter(|x| !x.deleting).ok_or(StoreError::NoReplica(rid))?;
        if range.is_empty() || range.end().0 > rec.blocks {
            return Err(StoreError::Invalid(format!("blocks {range:?} of a replica of {} blocks", rec.blocks)));
        }
        Ok(r)
    }

    fn check_write(&self, rid: Rid, ver: Ver, start: BlockIx, data: &Bytes, crcs: usize) -> Result<u32, StoreError> {
        let blocks = data.len() / BLOCK_SIZE;
        let range = BlockRange { start, len: blocks as u32 };
        let one_chunk = blocks > 0 && start.chunk() == BlockIx(range.end().0 - 1).chunk();
        if !data.len().is_multiple_of(BLOCK_SIZE) || crcs != blocks || !one_chunk || ver.seq > Seq::MAX {
            return Err(StoreError::Invalid(format!(
                "a write of {} bytes with {crcs} checksums at {range:?}",
                data.len()
            )));
        }
        self.check_range(rid, range)
    }

    fn check_copy(&self, rid: Rid, items: &[crate::engine::CopyItem]) -> Result<u32, StoreError> {
        let chunk = items.first().map(|i| i.block.chunk());
        let fits = |i: &crate::engine::CopyItem| {
            Some(i.block.chunk()) == chunk
                && i.src.seq <= Seq::MAX
                && !matches!(&i.content, crate::engine::Content::Data(_, d) if d.len() != BLOCK_SIZE)
        };
        if items.is_empty() || items.len() > 256 || !items.iter().all(fits) {
            return Err(StoreError::Invalid("a copy is of 1 to 256 whole blocks of one chunk".into()));
        }
        let last = items.iter().map(|i| i.block).max().unwrap_or_default();
        self.check_range(rid, BlockRange { start: last, len: 1 })
    }

    pub(crate) fn seeds(&self, key: Key, ver: Ver, start: BlockIx, crcs: &[PayloadCrc]) -> Vec<SeededCrc> {
        let Some(p) = self.table.page_id(key) else {
            broken!("blocks of chunk {key:?} get checksums, and its replica is gone");
            return Vec::new();
        };
        let at = |i: usize| Identity { shard: p.shard, rid: p.rid, block: BlockIx(start.0 + i as u64), ver };
        crcs.iter().enumerate().map(|(i, c)| at(i).seed(*c)).collect()
    }

    /// Writes what is newer than everything in its chunk: the stored blocks need not be looked at.
    pub(crate) fn fast_write(&mut self, id: OpId, key: Key, op: Op, out: &mut Vec<Output>) {
        let Op::Write { rid, ver, start, data, crcs } = op else {
            broken!("operation {id} is written and is no write");
            return;
        };
        let blocks = crcs.len();
        let direct = self.goes_direct(start, blocks);
        let wanted = unit_mask(start.in_chunk(), blocks);
        if let Err(e) = self.promise(key, if direct { 0 } else { wanted }, self.reserve()) {
            if e == StoreError::NoSpace && self.space_returns() {
                return self.wait_for_space(id, Op::Write { rid, ver, start, data, crcs });
            }
            return out.push(Output::Done { id, result: Err(e) });
        }
        let seeded = self.seeds(key, ver, start, &crcs);
        let c = self.chunk_mut(key);
        invariant!(ver > c.top, "a write of {ver:?} goes past {:?} of chunk {key:?}", c.top);
        invariant!(
            c.direct & wanted == 0 || mutant::is(Mutant::DirectOvertaken),
            "a write overtakes a direct one in chunk {key:?}"
        );
        c.top = ver;
        c.inflight += 1;
        let range = BlockRange { start, len: blocks as u32 };
        if direct {
            c.direct |= wanted;
            return self.direct(id, key, rid, ver, range, data, seeded, out);
        }
        let record = Record { replica: key.0, rid, range, ver, body: Body::Data { crcs: seeded } };
        self.enqueue(id, Chunks::One(key), record, data);
    }

    /// True if a write goes to fresh units instead of the journal: only whole units do, while
    /// enough are free.
    fn goes_direct(&self, start: BlockIx, blocks: usize) -> bool {
        let whole = start.in_chunk().is_multiple_of(UNIT_BLOCKS) && blocks.is_multiple_of(UNIT_BLOCKS);
        whole
            && blocks >= DIRECT_BLOCKS
            && self.space.units.free() >= (blocks / UNIT_BLOCKS) as u32 + self.space.promised_units + self.reserve()
    }

    fn enqueue(&mut self, id: OpId, chunks: Chunks, record: Record, payload: Bytes) {
        self.journal.push(Queued { record, payload, chunks, op: Some(id), answer: Answer::Done });
    }

    /// Writes the data of whole units to fresh units, durably; then the mapping goes to the
    /// journal.
    #[allow(clippy::too_many_arguments)]
    fn direct(
        &mut self,
        id: OpId,
        key: Key,
        rid: Rid,
        ver: Ver,
        range: BlockRange,
        data: Bytes,
        crcs: Vec<SeededCrc>,
        out: &mut Vec<Output>,
    ) {
        let n = range.len as usize / UNIT_BLOCKS;
        let units: Vec<u32> = (0..n).filter_map(|_| self.space.units.take()).collect();
        if units.len() < n {
            broken!("admission counted {n} free units, there were {}", units.len());
            return self.fail("the count of free units is wrong".into(), out);
        }
        let distinct = units.iter().all(|u| self.space.units.is_volatile(*u));
        invariant!(distinct, "a direct write goes to a unit that a page has");
        let unit_bytes = UNIT_BLOCKS * BLOCK_SIZE;
        let number = self.number();
        let mut runs = Vec::new();
        let mut i = 0;
        while i < n {
            let mut j = i + 1;
            while j < n && units[j] == units[j - 1] + 1 {
                j += 1;
            }
            runs.push((units[i], data.slice(i * unit_bytes..j * unit_bytes)));
            i = j;
        }
        let record = Record { replica: key.0, rid, range, ver, body: Body::Map { units, crcs } };
        self.requests.directs.insert(number, Direct { id, key, record, outstanding: runs.len() as u32 });
        for (unit, bytes) in runs {
            let op = DiskOp::Write { off: self.sb.geometry.unit_off(unit), bufs: vec![bytes], durable: true };
            self.disk_op(Purpose::Direct(number), op, out);
        }
    }

    pub(crate) fn direct_written(&mut self, number: u64, _out: &mut Vec<Output>) {
        let Some(d) = self.requests.directs.get_mut(&number) else {
            broken!("direct write {number} has written and is not known");
            return;
        };
        lower!(d.outstanding, 1, "writes of a direct write");
        if d.outstanding == 0
            && let Some(d) = self.requests.directs.remove(&number)
        {
            let units = unit_mask(d.record.range.start.in_chunk(), d.record.range.len as usize);
            let c = self.chunk_mut(d.key);
            invariant!(c.direct & units == units, "chunk {:?} does not know of direct write {number}", d.key);
            c.direct &= !units;
            self.enqueue(d.id, Chunks::One(d.key), d.record, Bytes::new());
        }
    }

    /// Chunks `first..=last` of a replica that hold something or have operations under way.
    pub(crate) fn known_chunks(&self, r: u32, first: u32, last: u32) -> Vec<Key> {
        let in_map = self.table.map.range((r, first)..=(r, last)).map(|(k, _)| *k);
        let moving = self.overlay.chunks.range((r, first)..=(r, last)).map(|(k, _)| *k);
        let keys: std::collections::BTreeSet<Key> = in_map.chain(moving).collect();
        keys.into_iter().collect()
    }

    /// Zeroes a range: by one record if the zero is newer than everything it meets, otherwise chunk
    /// by chunk.
    pub(crate) fn zero(&mut self, id: OpId, r: u32, rid: Rid, ver: Ver, range: BlockRange, out: &mut Vec<Output>) {
        let first = range.start.chunk().0;
        let last = BlockIx(range.end().0 - 1).chunk().0;
        let keys = self.known_chunks(r, first, last);
        if keys.is_empty() {
            // Nothing was ever written in the range: it is zero at any version.
            return out.push(Output::Done { id, result: Ok(Answer::Done) });
        }
        let fast = keys.iter().all(|k| {
            let part = range.intersect(ChunkIx(k.1).blocks());
            self.chunk_mut(*k).in_order(ver, unit_mask(part.start.in_chunk(), part.len as usize))
        });
        if !fast {
            // A repeated zero: each chunk decides by its stored versions what is left to do.
            keys.iter().skip(1).for_each(|k| self.drop_if_idle(*k));
            return self.go_slow(id, keys[0], Op::Zero { rid, ver, range, keep: false }, out);
        }
        // Until the record is applied every chunk counts it as in flight: operations that are
        // older, or look at stored blocks, wait for it.
        let known = if mutant::is(Mutant::ZeroOfFirstChunk) { 1 } else { keys.len() };
        for k in &keys[..known] {
            let c: &mut Chunk = self.chunk_mut(*k);
            invariant!(ver > c.top, "a zero of {ver:?} goes past {:?} of chunk {k:?}", c.top);
            c.top = ver;
            c.inflight += 1;
        }
        keys[known..].iter().for_each(|k| self.drop_if_idle(*k));
        let chunks = if known == 1 { Chunks::One(keys[0]) } else { Chunks::Many(keys) };
        let record = Record { replica: r, rid, range, ver, body: Body::Zero };
        self.enqueue(id, chunks, record, Bytes::new());
    }
}

/// Mask of the units that `blocks` blocks from block `at` of a chunk on touch.
pub(crate) fn unit_mask(at: usize, blocks: usize) -> u16 {
    (at / UNIT_BLOCKS..=(at + blocks - 1) / UNIT_BLOCKS).fold(0, |m, u| m | 1 << u.min(CHUNK_UNITS - 1))
}

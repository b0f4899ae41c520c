//! Operations that must look at the stored blocks first: repeated writes, conditional copies, lists
//! of versions. They wait in order until nothing of their chunk is in flight and its page is in
//! memory; later operations on the chunk wait behind them.

use crate::UNIT_BLOCKS;
use crate::engine::{Answer, Op, OpId, Output, Store};
use crate::engine::{Content, CopyItem};
use crate::format::group::{Body, Record};
use crate::format::page::{BlockMeta, BlockState, Page};
use crate::table::Key;
use crate::table::pages::Waiter;
use bytes::{Bytes, BytesMut};
use hf_policy::crc::PayloadCrc;
use hf_policy::{BlockIx, BlockRange, CHUNK_BLOCKS, ChunkIx, Rid, Term, Ver, broken, invariant};
use std::collections::VecDeque;

impl Store {
    pub(crate) fn go_slow(&mut self, id: OpId, key: Key, op: Op, _out: &mut [Output]) {
        self.chunk_mut(key).slow.push_back((id, op));
        self.requests.slow_ready.push_back(key);
    }

    pub(crate) fn run_slow(&mut self, out: &mut Vec<Output>) {
        while let Some(key) = self.requests.slow_ready.pop_front() {
            self.run_slow_chunk(key, out);
        }
    }

    fn run_slow_chunk(&mut self, key: Key, out: &mut Vec<Output>) {
        loop {
            // The chunk was dropped since it was queued here: its operations have ended, or its
            // replica was deleted.
            let Some(c) = self.overlay.chunks.get(&key) else { return };
            if c.slow.is_empty() {
                return self.drop_if_idle(key);
            }
            if c.inflight > 0 || self.requests.short.contains(&key) {
                return; // record_applied or retry_short come back here
            }
            let page = match self.page_of(key) {
                Ok(p) => p,
                Err(slot) => {
                    let waiting = self.pages.loading.get(&slot).is_some_and(|w| w.contains(&Waiter::Slow(key)));
                    if !waiting {
                        self.load_page(slot, Waiter::Slow(key), out);
                    }
                    return;
                }
            };
            let Some((id, op)) = self.overlay.chunks.get_mut(&key).and_then(|c| c.slow.pop_front()) else {
                broken!("the operations of chunk {key:?} have gone while its page was looked up");
                return;
            };
            match op {
                Op::Write { .. } => self.slow_write(id, key, op, &page, out),
                Op::Zero { keep: true, .. } => self.slow_zero_kept(id, key, op, &page, out),
                Op::Zero { rid, ver, range, .. } => self.slow_zero(id, key, rid, ver, range, &page, out),
                Op::Copy { rid, term, items } => self.slow_copy(id, key, rid, term, items, &page, out),
                Op::Versions { .. } => {
                    let list = (0..CHUNK_BLOCKS as u16)
                        .map(|at| self.info(key, at, self.effective(key, at, &page).0))
                        .collect();
                    out.push(Output::Done { id, result: Ok(Answer::Versions(list)) });
                }
                _ => broken!("operation {id} waits in chunk {key:?} and is not of a chunk"),
            }
        }
    }

    fn current(&self, key: Key, at: usize, page: &Page) -> BlockMeta {
        self.effective(key, at as u16, page).0
    }

    /// A write that is not newer than everything in its chunk: only the blocks it is newer than are
    /// written (C3).
    fn slow_write(&mut self, id: OpId, key: Key, op: Op, page: &Page, out: &mut Vec<Output>) {
        let Op::Write { rid, ver, start, ref data, ref crcs } = op else {
            broken!("operation {id} is written and is no write");
            return;
        };
        let first = start.in_chunk();
        let newer: Vec<bool> = (0..crcs.len()).map(|i| self.current(key, first + i, page).ver < ver).collect();
        let top = self.chunk_mut(key).top;
        if newer.iter().all(|n| *n) && ver > top {
            return self.fast_write(id, key, op, out);
        }
        let runs = runs_of(&newer);
        if runs.is_empty() {
            return out.push(Output::Done { id, result: Ok(Answer::Done) });
        }
        let units = runs.iter().fold(0, |m, (i, n)| m | crate::requests::write::unit_mask(first + i, *n));
        if let Err(e) = self.promise(key, units, self.reserve()) {
            return self.slow_without_room(id, key, op, e, out);
        }
        let last = runs.len() - 1;
        for (k, (i, n)) in runs.into_iter().enumerate() {
            let at = BlockIx(start.0 + i as u64);
            let seeded = self.seeds(key, ver, at, &crcs[i..i + n]);
            let payload = data.slice(i * hf_policy::BLOCK_SIZE..(i + n) * hf_policy::BLOCK_SIZE);
            let range = BlockRange { start: at, len: n as u32 };
            let body = Body::Data { crcs: seeded };
            let record = Record { replica: key.0, rid, range, ver, body };
            self.push_part(key, record, payload, (k == last).then_some(id), Answer::Done);
        }
    }

    fn push_part(&mut self, key: Key, record: Record, payload: Bytes, op: Option<OpId>, answer: Answer) {
        let (range, ver) = (record.range, record.ver);
        invariant!(
            range.is_empty() || ChunkIx(key.1).blocks().intersect(range) == range,
            "{range:?} is not of chunk {key:?}"
        );
        let c = self.chunk_mut(key);
        invariant!(c.direct == 0 || ver <= c.top, "a record of {ver:?} overtakes a direct write of chunk {key:?}");
        c.inflight += 1;
        c.top = c.top.max(ver);
        let chunks = crate::journal::Chunks::One(key);
        self.journal.push(crate::journal::Queued { record, payload, chunks, op, answer });
    }

    #[allow(clippy::too_many_arguments)]
    fn slow_zero(
        &mut self,
        id: OpId,
        key: Key,
        rid: Rid,
        ver: Ver,
        range: BlockRange,
        page: &Page,
        out: &mut Vec<Output>,
    ) {
        let whole = ChunkIx(key.1).blocks();
        let part = range.intersect(whole);
        let first = part.start.in_chunk();
        let newer: Vec<bool> = (0..part.len as usize).map(|i| self.current(key, first + i, page).ver < ver).collect();
        let rest_start = whole.end().max(range.start);
        let rest = BlockRange { start: rest_start, len: range.end().0.saturating_sub(rest_start.0) as u32 };
        let more = !rest.is_empty()
            && !self.known_chunks(key.0, rest.start.chunk().0, BlockIx(rest.end().0 - 1).chunk().0).is_empty();
        let runs = runs_of(&newer);
        let count = runs.len();
        for (k, (i, n)) in runs.into_iter().enumerate() {
            let range = BlockRange::new(part.start.0 + i as u64, n as u32);
            let op = (k + 1 == count && !more).then_some(id);
            let record = Record { replica: key.0, rid, range, ver, body: Body::Zero };
            self.push_part(key, record, Bytes::new(), op, Answer::Done);
        }
        if more {
            self.zero(id, key.0, rid, ver, rest, out);
        } else if count == 0 {
            self.answer_after_journal(id, key, rid, ver, out);
        }
    }

    /// A zero that every chunk records, also those never written; one chunk after another.
    fn slow_zero_kept(&mut self, id: OpId, key: Key, op: Op, page: &Page, out: &mut Vec<Output>) {
        let Op::Zero { rid, ver, range, .. } = op else {
            broken!("operation {id} is zeroed and is no zero");
            return;
        };
        invariant!(range.start.chunk().0 == key.1, "a zero of {range:?} is begun in chunk {key:?}");
        let whole = ChunkIx(key.1).blocks();
        let part = range.intersect(whole);
        let first = part.start.in_chunk();
        let newer: Vec<bool> = (0..part.len as usize).map(|i| self.current(key, first + i, page).ver < ver).collect();
        let rest_start = whole.end().max(range.start);
        let rest = BlockRange { start: rest_start, len: range.end().0.saturating_sub(rest_start.0) as u32 };
        let runs = runs_of(&newer);
        if !runs.is_empty()
            && let Err(e) = self.promise(key, 0, 0)
        {
            return self.slow_without_room(id, key, op, e, out);
        }
        let count = runs.len();
        for (k, (i, n)) in runs.into_iter().enumerate() {
            let range = BlockRange::new(part.start.0 + i as u64, n as u32);
            let last = (k + 1 == count && rest.is_empty()).then_some(id);
            let record = Record { replica: key.0, rid, range, ver, body: Body::ZeroKept };
            self.push_part(key, record, Bytes::new(), last, Answer::Done);
        }
        if !rest.is_empty() {
            let op = Op::Zero { rid, ver, range: rest, keep: true };
            self.go_slow(id, (key.0, rest.start.chunk().0), op, out);
        } else if count == 0 {
            self.answer_after_journal(id, key, rid, ver, out);
        }
    }

    /// Nothing is left to do, but records of earlier chunks may be in flight: the answer follows
    /// them.
    fn answer_after_journal(&mut self, id: OpId, key: Key, rid: Rid, ver: Ver, out: &mut Vec<Output>) {
        if self.journal.in_flight() {
            let record = Record { replica: key.0, rid, range: BlockRange::default(), ver, body: Body::Zero };
            self.push_part(key, record, Bytes::new(), Some(id), Answer::Done);
        } else {
            out.push(Output::Done { id, result: Ok(Answer::Done) });
        }
    }

    /// Conditional writes. An item newer than the stored block is applied. An older one is applied
    /// only if the block still has the version `seen` and that version is of an older term
    /// (protocol §7 step 4): a late write of an earlier coordinator may have come in between (seed
    /// 108 over the real store).
    #[allow(clippy::too_many_arguments)]
    fn slow_copy(
        &mut self,
        id: OpId,
        key: Key,
        rid: Rid,
        term: Term,
        items: Vec<CopyItem>,
        page: &Page,
        out: &mut Vec<Output>,
    ) {
        let applies = |i: &CopyItem| {
            let has = self.current(key, i.block.in_chunk(), page);
            let now = has.ver;
            let seen = now == i.seen;
            let (newer, undone) = (i.src > now, seen && now.term < term && i.src != now);
            if i.repair { seen && self.may_repair(key, i, has) } else { newer || undone }
        };
        let applied: Vec<bool> = items.iter().map(applies).collect();
        let chosen: Vec<&CopyItem> = items.iter().zip(&applied).filter(|(_, a)| **a).map(|(i, _)| i).collect();
        if chosen.is_empty() {
            return out.push(Output::Done { id, result: Ok(Answer::Copied(applied)) });
        }
        let has_data = |i: &&&CopyItem| matches!(i.content, Content::Data(..));
        let units = chosen.iter().filter(has_data).fold(0u16, |m, i| m | 1 << (i.block.in_chunk() / UNIT_BLOCKS));
        if let Err(e) = self.promise(key, units, 0) {
            return self.slow_without_room(id, key, Op::Copy { rid, term, items }, e, out);
        }
        let mut left = alike(&chosen);
        while let Some(run) = left.pop_front() {
            let (record, payload) = self.copy_record(key, rid, run);
            let op = left.is_empty().then_some(id);
            self.push_part(key, record, payload, op, Answer::Copied(applied.clone()));
        }
    }

    /// True if a repair of the stored version may be written (seed 11891). It replaces a block
    /// known to be lost, or writes again exactly the stored content, which may have rotted on disk
    /// without the page showing it. Where the version is lost too, a version that is not newer than
    /// the recorded bound is accepted: nothing newer is in flight.
    fn may_repair(&self, key: Key, i: &CopyItem, has: BlockMeta) -> bool {
        let same = |crc: PayloadCrc| self.seeds(key, has.ver, i.block, &[crc]).first() == Some(&has.crc);
        let meant = matches!(i.content, Content::Data(crc, _) if same(crc));
        match has.state {
            BlockState::Lost => i.src <= has.ver,
            BlockState::Bad => i.src == has.ver,
            BlockState::Data => i.src == has.ver && meant,
            BlockState::Absent | BlockState::Zero => false,
        }
    }

    /// One record for adjacent items of one version and kind.
    fn copy_record(&self, key: Key, rid: Rid, run: &[&CopyItem]) -> (Record, Bytes) {
        let (start, ver) = (run[0].block, run[0].src);
        let mut crcs = Vec::new();
        let mut payload = BytesMut::new();
        for item in run {
            if let Content::Data(crc, data) = &item.content {
                crcs.push(*crc);
                payload.extend_from_slice(data);
            }
        }
        let body = match run[0].content {
            Content::Zero => Body::ZeroKept,
            Content::Bad => Body::Bad,
            Content::Data(..) => Body::Data { crcs: self.seeds(key, ver, start, &crcs) },
        };
        let range = BlockRange { start, len: run.len() as u32 };
        (Record { replica: key.0, rid, range, ver, body }, payload.freeze())
    }
}

/// Runs of adjacent blocks with one version and one kind of content.
fn alike<'a>(items: &'a [&'a CopyItem]) -> VecDeque<&'a [&'a CopyItem]> {
    let kind = |c: &Content| std::mem::discriminant(c);
    let joined = |a: &&CopyItem, b: &&CopyItem| {
        a.block.0 + 1 == b.block.0 && a.src == b.src && kind(&a.content) == kind(&b.content)
    };
    items.chunk_by(|a, b| joined(a, b)).collect()
}

/// Runs of `true`: the first position and the length of each.
fn runs_of(flags: &[bool]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (i, f) in flags.iter().enumerate() {
        match runs.last_mut() {
            Some((at, n)) if *f && *at + *n == i => *n += 1,
            _ if *f => runs.push((i, 1)),
            _ => {}
        }
    }
    runs
}

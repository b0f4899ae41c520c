//! What differs, chunk by chunk: versions of both, a read of what the target lacks, conditional copies of it.
//!
//! Long runs are cut into small pieces, so that no client waits behind a large one; single blocks of several chunks go in one
//! message, so that headers cost next to nothing. How much is on its way at once depends on the pace
//! and on how soon it is answered.

use super::super::link::{For, Pending};
use super::super::{Coordinator, Cx};
use crate::message::{BlockInfo, BlockState, Content, CopyItem, Msg};
use bytes::Bytes;
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BLOCK_BYTES, BLOCK_SIZE, BlockIx, BlockRange, ChunkIx, Rid, Term, Tick, Ver};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Chunks compared and copied at once.
const PARALLEL: usize = 16;
/// What comparing a chunk's versions counts for: pages are read for the lists of both.
const COMPARE_BYTES: u64 = 16 << 10;

type Listed = BTreeMap<u8, BlockInfo>;

/// One chunk on its way.
#[derive(Default)]
struct Job {
    /// What of the chunk is newer than the base or bad, by place.
    target: Option<Listed>,
    source: Option<Listed>,
    from: Rid,
    /// Pieces to be read.
    runs: VecDeque<BlockRange>,
    /// Pieces being read: start to (length, members that do not have it).
    reading: BTreeMap<BlockIx, (u32, BTreeSet<Rid>)>,
}

impl Job {
    fn compared(&self) -> bool {
        self.target.is_some() && self.source.is_some()
    }
}

/// What is on its way to the target.
#[derive(Default)]
pub(super) struct Copying {
    active: BTreeMap<ChunkIx, Job>,
    /// What was read and waits for company.
    outbox: Vec<CopyItem>,
    /// Messages that the target has not answered: bytes, and the chunks they are about.
    sent: BTreeMap<u64, (u64, BTreeSet<ChunkIx>)>,
    last: u64,
}

impl Copying {
    /// Nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.sent.is_empty()
    }

    /// Something will still come into the outbox without anything new being begun.
    fn expects(&self) -> bool {
        self.active.values().any(|j| !j.compared() || !j.reading.is_empty())
    }

    /// Bytes on their way, compared ones as what they count for.
    fn busy(&self) -> u64 {
        let of = |j: &Job| {
            let read: u64 = j.reading.values().map(|(n, _)| u64::from(*n) * BLOCK_BYTES).sum();
            if j.compared() { read } else { COMPARE_BYTES }
        };
        let sent: u64 = self.sent.values().map(|(bytes, _)| *bytes).sum();
        self.active.values().map(of).sum::<u64>() + self.outbox.len() as u64 * BLOCK_BYTES + sent
    }

    /// The next piece to read, of at most so many blocks, and whom it is asked of.
    fn next_piece(&mut self, most: u32) -> Option<(ChunkIx, BlockRange, Rid)> {
        let (chunk, job) = self.active.iter_mut().find(|(_, j)| !j.runs.is_empty())?;
        let run = job.runs.pop_front()?;
        let range = BlockRange { start: run.start, len: run.len.min(most) };
        if range.len < run.len {
            job.runs.push_front(BlockRange { start: range.end(), len: run.len - range.len });
        }
        job.reading.insert(range.start, (range.len, BTreeSet::new()));
        Some((*chunk, range, job.from))
    }

    /// The chunk has nothing left to do.
    fn is_over(&self, chunk: ChunkIx) -> bool {
        let read = self.active.get(&chunk).is_some_and(|j| j.compared() && j.runs.is_empty() && j.reading.is_empty());
        read && !self.outbox.iter().any(|i| i.block.chunk() == chunk)
            && !self.sent.values().any(|(_, c)| c.contains(&chunk))
    }

    /// It begins again some time. Messages about no other chunk are not waited for.
    fn forget(&mut self, chunk: ChunkIx) {
        self.active.remove(&chunk);
        self.outbox.retain(|i| i.block.chunk() != chunk);
        self.sent.retain(|_, (_, about)| !about.remove(&chunk) || !about.is_empty());
    }
}

impl Coordinator {
    pub(super) fn drive_copying(&mut self, cx: &mut Cx) {
        while self.sync.as_ref().is_some_and(|s| s.may_begin())
            && self.pace.ready(cx.now)
            && self.sync.as_ref().is_some_and(|s| s.copying.busy() < self.pace.at_once().min(self.width.bytes()))
        {
            if !self.begin_piece(cx) && !self.begin_chunk(cx) {
                break;
            }
        }
        let piece = self.piece_blocks() as usize;
        let full = |c: &Copying| c.outbox.len() >= piece || !c.expects();
        while self.sync.as_ref().is_some_and(|s| !s.copying.outbox.is_empty() && full(&s.copying)) {
            self.send_copies(cx);
        }
        if self.sync.as_ref().is_some_and(|s| s.todo.is_empty() && s.copying.is_empty()) {
            self.begin_joining(cx);
        }
    }

    fn piece_blocks(&self) -> u32 {
        self.pace.piece_blocks().min((self.width.bytes() / BLOCK_BYTES) as u32)
    }

    /// How long it took tells how much may be on its way.
    pub(in crate::coordinator) fn copying_answered(&mut self, now: Tick, p: &Pending) {
        let bytes = match (p.what, &p.msg) {
            // (A read that was quick, from this node's own disk perhaps, says nothing about the way to the target.)
            (For::SyncRead(..), _) => 0,
            (For::SyncCopy(_), Msg::Copy { items }) => items.len() as u64 * BLOCK_BYTES,
            (For::SyncVersions(_), _) if self.sync.as_ref().is_some_and(|s| s.rid == p.rid) => COMPARE_BYTES,
            _ => return,
        };
        let of = self.sync.as_ref().map_or(0, |s| s.copying.busy());
        self.width.answered(now, p.began, bytes, of, self.cfg.replica_timeout);
    }

    fn begin_piece(&mut self, cx: &mut Cx) -> bool {
        let most = self.piece_blocks();
        let piece = self.sync.as_mut().and_then(|s| s.copying.next_piece(most));
        let Some((chunk, range, from)) = piece else { return false };
        self.pace.spend(range.bytes());
        self.request(from, For::SyncRead(chunk, range.start), Msg::Read { range }, cx);
        true
    }

    fn begin_chunk(&mut self, cx: &mut Cx) -> bool {
        let Some(source) = self.choose(&BTreeSet::new()) else { return false };
        let Some(s) = self.sync.as_mut().filter(|s| s.copying.active.len() < PARALLEL) else { return false };
        let Some(chunk) = s.todo.pop_first() else { return false };
        self.pace.spend(COMPARE_BYTES);
        let (rid, since) = (s.rid, s.since);
        let asked = s.theirs.contains(&chunk);
        let target = (!asked).then(Listed::new);
        s.copying.active.insert(chunk, Job { from: source, target, ..Job::default() });
        for r in asked.then_some(rid).into_iter().chain([source]) {
            self.request(r, For::SyncVersions(chunk), Msg::ChunkVersions { chunk, since }, cx);
        }
        true
    }

    pub(in crate::coordinator) fn sync_versions(
        &mut self,
        rid: Rid,
        chunk: ChunkIx,
        infos: Vec<(u8, BlockInfo)>,
        cx: &mut Cx,
    ) {
        let term = self.record.term;
        let Some(s) = self.sync.as_mut() else { return };
        let (target, since) = (s.rid, s.since);
        let Some(job) = s.copying.active.get_mut(&chunk) else { return };
        let list = Some(infos.into_iter().collect());
        if rid == target {
            job.target = list
        } else {
            job.source = list
        }
        let (Some(z), Some(x)) = (&job.target, &job.source) else { return };
        let first = chunk.first_block().0;
        let places: BTreeSet<u8> = z.keys().chain(x.keys()).copied().collect();
        let wanted: Vec<u64> = places
            .into_iter()
            .filter(|at| differs(z.get(at), x.get(at), since, term))
            .map(|at| first + u64::from(at))
            .collect();
        job.runs = runs(&wanted).into();
        self.chunk_goes_on(chunk, cx);
    }

    /// A piece arrived from a member. The blocks that it does not have whole another one is asked for; what nobody has is marked lost
    /// on the target too, or it would serve an old version there.
    #[allow(clippy::too_many_arguments)]
    pub(in crate::coordinator) fn sync_read(
        &mut self,
        rid: Rid,
        chunk: ChunkIx,
        start: BlockIx,
        infos: Vec<BlockInfo>,
        data: Bytes,
        cx: &mut Cx,
    ) {
        let job = |s: &mut super::Sync| s.copying.active.get_mut(&chunk)?.reading.remove(&start);
        let Some((len, mut tried)) = self.sync.as_mut().and_then(job) else { return };
        tried.insert(rid);
        let next = self.choose(&tried);
        let Some(s) = self.sync.as_mut() else { return };
        let since = s.since;
        let Some(job) = s.copying.active.get_mut(&chunk) else { return };
        let lacking = crate::coordinator::read::lacks(len as usize, &infos, &data);
        let formed = infos.len() == len as usize && data.len() == infos.len() * BLOCK_SIZE;
        if !formed && next.is_none() {
            return self.fail_sync("the source's answer is malformed");
        }
        // (Each run of what this one lacks is a piece of its own from now on.)
        let elsewhere: Vec<BlockRange> = match next {
            Some(_) => runs(&lacking.iter().map(|i| start.0 + *i as u64).collect::<Vec<_>>()),
            None => Vec::new(),
        };
        job.reading.extend(elsewhere.iter().map(|r| (r.start, (r.len, tried.clone()))));
        for (i, info) in infos.iter().enumerate().filter(|_| formed) {
            let whole = lacking.binary_search(&i).is_err();
            if !whole && next.is_some() {
                continue;
            }
            let block = BlockIx(start.0 + i as u64);
            let has = job.target.as_ref().and_then(|z| z.get(&(block.in_chunk() as u8)));
            // Bad on the target too, at that version: nothing to tell.
            if !whole && has.is_some_and(|h| h.state.is_bad() && h.ver == info.ver) {
                continue;
            }
            let content = match info.state {
                _ if !whole => Content::Bad,
                BlockState::Data => Content::Data(info.crc, data.slice(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE)),
                _ => Content::Zero,
            };
            let repair = has.is_some_and(|h| h.state.is_bad() && info.ver == h.ver);
            let seen = has.map_or(since, |h| h.ver);
            s.copying.outbox.push(CopyItem { block, seen, src: info.ver, content, repair });
        }
        for (range, next) in elsewhere.into_iter().filter_map(|r| Some((r, next?))) {
            self.request(next, For::SyncRead(chunk, range.start), Msg::Read { range }, cx);
        }
        self.chunk_goes_on(chunk, cx);
    }

    fn send_copies(&mut self, cx: &mut Cx) {
        let most = self.piece_blocks() as usize;
        let Some(s) = self.sync.as_mut() else { return };
        let rid = s.rid;
        let full = s.copying.outbox.len().min(most);
        let mut items: Vec<CopyItem> = s.copying.outbox.drain(..full).collect();
        items.sort_by_key(|i| i.block);
        s.copying.last += 1;
        let number = s.copying.last;
        let chunks = items.iter().map(|i| i.block.chunk()).collect();
        s.copying.sent.insert(number, (items.len() as u64 * BLOCK_BYTES, chunks));
        self.request(rid, For::SyncCopy(number), Msg::Copy { items }, cx);
    }

    /// The target has a message of copies, or live writes have overtaken what was in it.
    pub(in crate::coordinator) fn sync_copied(&mut self, number: u64, cx: &mut Cx) {
        let Some(s) = self.sync.as_mut() else { return };
        let Some((bytes, chunks)) = s.copying.sent.remove(&number) else { return };
        s.copied += bytes / BLOCK_BYTES;
        for chunk in chunks {
            self.chunk_goes_on(chunk, cx);
        }
    }

    fn chunk_goes_on(&mut self, chunk: ChunkIx, cx: &mut Cx) {
        if let Some(s) = self.sync.as_mut()
            && s.copying.is_over(chunk)
        {
            s.copying.active.remove(&chunk);
            s.done += 1;
        }
        self.drive_copying(cx);
    }

    /// A member left the set: chunks it was the source of begin again with another one.
    pub(in crate::coordinator) fn sync_without(&mut self, gone: &BTreeSet<Rid>) {
        let Some(s) = self.sync.as_mut() else { return };
        let lost = |j: &Job| gone.contains(&j.from) || j.reading.values().any(|(_, tried)| !tried.is_disjoint(gone));
        let asked = self.pending.values().filter(|p| gone.contains(&p.rid)).filter_map(|p| match p.what {
            For::SyncVersions(c) | For::SyncRead(c, _) => Some(c),
            _ => None,
        });
        let of_gone = s.copying.active.iter().filter(|(_, j)| lost(j)).map(|(c, _)| *c);
        let again: BTreeSet<ChunkIx> = of_gone.chain(asked).collect();
        for c in &again {
            s.copying.forget(*c);
            s.todo.insert(*c);
        }
        let sent = &s.copying.sent;
        self.pending.retain(|_, p| match p.what {
            For::SyncVersions(c) | For::SyncRead(c, _) => !again.contains(&c),
            For::SyncCopy(number) => sent.contains_key(&number),
            _ => true,
        });
        if s.source_listing.is_some_and(|x| gone.contains(&x)) {
            s.source_listing = None;
        }
    }
}

impl super::Sync {
    /// There is something to begin.
    fn may_begin(&self) -> bool {
        let c = &self.copying;
        self.failed.is_none()
            && (c.active.values().any(|j| !j.runs.is_empty()) || (c.active.len() < PARALLEL && !self.todo.is_empty()))
    }
}

/// Blocks that follow each other, as ranges.
fn runs(blocks: &[u64]) -> Vec<BlockRange> {
    let of = |run: &[u64]| BlockRange { start: BlockIx(run[0]), len: run.len() as u32 };
    blocks.chunk_by(|a, b| a + 1 == *b).map(of).collect()
}

/// Must the target's block be replaced? A live write that has won stays; what is bad on the
/// target is fetched if the source has anything. What is not listed is whole, and not newer than `since`, up to which both are alike.
fn differs(z: Option<&BlockInfo>, x: Option<&BlockInfo>, since: Ver, term: Term) -> bool {
    let alike = |other: Option<&BlockInfo>| BlockInfo {
        ver: other.map_or(since, |o| o.ver.min(since)),
        state: BlockState::Data,
        ..BlockInfo::default()
    };
    let (z, x) = (z.copied().unwrap_or_else(|| alike(x)), x.copied().unwrap_or_else(|| alike(z)));
    if z.state.is_bad() {
        // A live write that has won and then rotted stays as it is: the source, which may lag, must not undo it (seed 11891). What is
        // bad there as well another source may have.
        let live = z.ver.term == term && z.ver > x.ver;
        return !live;
    }
    if mutant::is(Mutant::SyncCopiesNothing) || (mutant::is(Mutant::ForgetZeroes) && x.state.is_zero()) {
        return false;
    }
    // A newer zero is copied over an older one too: that it was zeroed must be known to whoever is synced from the target
    // later (seed 1757). An older one need not be.
    let same = z.ver == x.ver || (z.state.is_zero() && x.state.is_zero() && x.ver < z.ver);
    let won = z.ver.term == term && z.ver >= x.ver;
    !same && !won
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_block_is_fetched_unless_a_live_write_has_won_there() {
        let b = |term, seq, state| BlockInfo { ver: Ver::new(term, seq), state, ..BlockInfo::default() };
        let differs = |z: &BlockInfo, x: &BlockInfo, now| differs(Some(z), Some(x), Ver::new(3, 1), now);
        let now = Term(5);
        // Rotted: the very version, or an older term's write that only the target had.
        assert!(differs(&b(5, 3, BlockState::Bad), &b(5, 3, BlockState::Data), now));
        assert!(differs(&b(4, 9, BlockState::Bad), &b(4, 7, BlockState::Data), now));
        // A live write of this term won on the target, then rotted; the source, which lags, must not undo it (seed 11891).
        assert!(!differs(&b(5, 9, BlockState::Bad), &b(5, 3, BlockState::Data), now));
        // Bad at the first source too; another one is asked.
        assert!(differs(&b(5, 3, BlockState::Bad), &b(5, 3, BlockState::Bad), now));
    }

    #[test]
    fn what_is_not_listed_is_alike_up_to_the_base() {
        let b = |term, seq, state| BlockInfo { ver: Ver::new(term, seq), state, ..BlockInfo::default() };
        let (since, now) = (Ver::new(4, 7), Term(5));
        let differs = |z: Option<BlockInfo>, x: Option<BlockInfo>| super::differs(z.as_ref(), x.as_ref(), since, now);
        let data = |term, seq| Some(b(term, seq, BlockState::Data));
        let bad = |term, seq| Some(b(term, seq, BlockState::Bad));
        // Written while the target was away; its own that nobody else has; a live write that won already.
        assert!(differs(None, data(4, 8)));
        assert!(differs(data(4, 8), None));
        assert!(!differs(data(5, 1), None));
        // What rotted below the base is fetched by the target, and not handed to it.
        assert!(differs(bad(4, 2), None));
        assert!(!differs(None, bad(4, 2)));
        assert!(differs(None, bad(4, 8)), "lost at the source: the target's is older");
    }
}

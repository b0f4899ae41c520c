//! What differs, chunk by chunk: versions of both, a read of what the target lacks, conditional
//! copies of it.
//!
//! Long runs are cut into small pieces, so that no client waits behind a large one; single blocks
//! of several chunks go in one message, so that headers cost next to nothing. How much is in flight
//! at once depends on the pace and on how soon it is answered.

use super::{Attempt, Coordinator, Cx, Source};
use crate::coordinator::pending::{Asked, For};
use crate::coordinator::requests::reads::lacks;
use crate::message::{BlockInfo, BlockState, Content, CopyItem, Msg};
use bytes::Bytes;
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BLOCK_BYTES, BLOCK_SIZE, BlockIx, BlockRange, ChunkIx, Rid, Term, Tick, Ver, broken, invariant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Chunks compared and copied at once.
const PARALLEL: usize = 16;
/// Bytes that comparing a chunk's versions counts for: pages are read for the lists of both.
const COMPARE_BYTES: u64 = 16 << 10;

/// What a replica has told of a chunk, by place.
type Listed = BTreeMap<u8, BlockInfo>;

/// A chunk that is being compared and copied.
#[derive(Default)]
struct Job {
    /// What of the chunk is newer than the base or bad on the target, once it has told.
    target: Option<Listed>,
    /// The same of the source.
    source: Option<Listed>,
    /// The member that it is compared with and copied from.
    from: Rid,
    /// Pieces to be read.
    runs: VecDeque<BlockRange>,
    /// Pieces being read: start to (length in blocks, members that do not have it).
    reading: BTreeMap<BlockIx, (u32, BTreeSet<Rid>)>,
}

impl Job {
    fn compared(&self) -> bool {
        self.target.is_some() && self.source.is_some()
    }
}

/// What is in flight to the target.
#[derive(Default)]
pub(super) struct Copying {
    active: BTreeMap<ChunkIx, Job>,
    /// What was read and waits for more to go with it in one message.
    outbox: Vec<CopyItem>,
    /// Messages that the target has not answered: bytes, and the chunks they are about.
    sent: BTreeMap<u64, (u64, BTreeSet<ChunkIx>)>,
    /// The number of the last message.
    last: u64,
}

impl Copying {
    /// What must hold of it between steps; `todo` are the chunks that are not begun.
    pub fn check(&self, todo: &BTreeSet<ChunkIx>) -> Result<(), String> {
        if self.active.len() > PARALLEL || self.active.keys().any(|c| todo.contains(c)) {
            return Err(format!("{} chunks are copied, some of them begun twice", self.active.len()));
        }
        let of_active = |c: &ChunkIx| self.active.contains_key(c);
        if !self.outbox.iter().all(|i| of_active(&i.block.chunk())) {
            return Err("a block waits to be sent whose chunk is not being copied".into());
        }
        if self.sent.values().any(|(_, about)| about.is_empty() || !about.iter().all(of_active)) {
            return Err("a message is in flight that is about no chunk".into());
        }
        let early = |j: &Job| !(j.compared() || j.runs.is_empty() && j.reading.is_empty());
        if self.active.values().any(early) {
            return Err("a chunk is read before it was compared".into());
        }
        Ok(())
    }

    /// Messages that are not answered, by number, and the pieces that are being read.
    pub fn outstanding(&self) -> (BTreeSet<u64>, BTreeSet<(ChunkIx, BlockIx)>) {
        let pieces = self.active.iter().flat_map(|(c, j)| j.reading.keys().map(|start| (*c, *start)));
        (self.sent.keys().copied().collect(), pieces.collect())
    }

    /// Nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.sent.is_empty()
    }

    /// Something will still come into the outbox without anything new being begun.
    fn expects(&self) -> bool {
        self.active.values().any(|j| !j.compared() || !j.reading.is_empty())
    }

    /// Bytes in flight; a chunk that is being compared counts for [`COMPARE_BYTES`].
    fn busy(&self) -> u64 {
        let of = |j: &Job| {
            let read: u64 = j.reading.values().map(|(n, _)| u64::from(*n) * BLOCK_BYTES).sum();
            if j.compared() { read } else { COMPARE_BYTES }
        };
        let sent: u64 = self.sent.values().map(|(bytes, _)| *bytes).sum();
        self.active.values().map(of).sum::<u64>() + self.outbox.len() as u64 * BLOCK_BYTES + sent
    }

    /// The next piece to read, of at most `most` blocks, and the member that it is asked of.
    fn next_piece(&mut self, most: u32) -> Option<(ChunkIx, BlockRange, Rid)> {
        let (chunk, job) = self.active.iter_mut().find(|(_, j)| !j.runs.is_empty())?;
        let run = job.runs.pop_front()?;
        let range = BlockRange { start: run.start, len: run.len.min(most) };
        invariant!(!range.is_empty(), "a piece of no blocks is read");
        if range.len < run.len {
            job.runs.push_front(BlockRange { start: range.end(), len: run.len - range.len });
        }
        let before = job.reading.insert(range.start, (range.len, BTreeSet::new()));
        invariant!(before.is_none(), "the piece at block {} is read twice", range.start.0);
        Some((*chunk, range, job.from))
    }

    /// The chunk has nothing left to do.
    fn is_over(&self, chunk: ChunkIx) -> bool {
        let read = self.active.get(&chunk).is_some_and(|j| j.compared() && j.runs.is_empty() && j.reading.is_empty());
        read && !self.outbox.iter().any(|i| i.block.chunk() == chunk)
            && !self.sent.values().any(|(_, c)| c.contains(&chunk))
    }

    /// The chunk will begin anew. Messages about no other chunk are not waited for.
    fn forget(&mut self, chunk: ChunkIx) {
        self.active.remove(&chunk);
        self.outbox.retain(|i| i.block.chunk() != chunk);
        self.sent.retain(|_, (_, about)| !about.remove(&chunk) || !about.is_empty());
    }
}

impl Coordinator {
    /// Begins as much as may be in flight, sends what was read, and goes on to the join when
    /// nothing is left.
    pub(super) fn drive_copying(&mut self, cx: &mut Cx) {
        while self.sync.attempt.as_ref().is_some_and(|s| s.may_begin())
            && self.pace.ready(cx.now)
            && self
                .sync
                .attempt
                .as_ref()
                .is_some_and(|s| s.copying.busy() < self.pace.at_once().min(self.sync.width.bytes()))
        {
            if !self.begin_piece(cx) && !self.begin_chunk(cx) {
                break;
            }
        }
        let piece = self.piece_blocks() as usize;
        let full = |c: &Copying| c.outbox.len() >= piece || !c.expects();
        while self.sync.attempt.as_ref().is_some_and(|s| !s.copying.outbox.is_empty() && full(&s.copying)) {
            self.send_copies(cx);
        }
        if self.sync.attempt.as_ref().is_some_and(|s| s.todo.is_empty() && s.copying.is_empty()) {
            self.begin_joining(cx);
        }
    }

    /// Blocks of one piece at most.
    fn piece_blocks(&self) -> u32 {
        self.pace.piece_blocks().min((self.sync.width.bytes() / BLOCK_BYTES) as u32)
    }

    /// The time that an answer took tells how much copying may be in flight.
    pub(in crate::coordinator) fn sync_answered(&mut self, now: Tick, p: &Asked) {
        let bytes = match (p.what, &p.msg) {
            // (A read that was quick, from this node's own disk perhaps, says nothing about the way
            // to the target.)
            (For::SyncRead(..), _) => 0,
            (For::SyncCopy(_), Msg::Copy { items }) => items.len() as u64 * BLOCK_BYTES,
            (For::SyncVersions(_), _) if self.sync.target() == Some(p.rid) => COMPARE_BYTES,
            _ => return, // It says nothing of copying.
        };
        let of = self.sync.attempt.as_ref().map_or(0, |s| s.copying.busy());
        self.sync.width.answered(now, p.began, bytes, of, self.cfg.replica_timeout);
    }

    /// Begins to read one piece; false if there is none.
    fn begin_piece(&mut self, cx: &mut Cx) -> bool {
        let most = self.piece_blocks();
        let piece = self.sync.attempt.as_mut().and_then(|s| s.copying.next_piece(most));
        let Some((chunk, range, from)) = piece else { return false };
        self.pace.spend(range.bytes());
        self.request(from, For::SyncRead(chunk, range.start), Msg::Read { range }, cx);
        true
    }

    /// Begins to compare one chunk; false if there is none, if enough are begun, or if no member
    /// can be asked.
    fn begin_chunk(&mut self, cx: &mut Cx) -> bool {
        let Some(source) = self.choose(&BTreeSet::new()) else { return false };
        let Some(s) = self.sync.attempt.as_mut().filter(|s| s.copying.active.len() < PARALLEL) else { return false };
        let Some(chunk) = s.todo.pop_first() else { return false };
        self.pace.spend(COMPARE_BYTES);
        let (rid, since) = (s.rid, s.since);
        let asked = s.theirs.contains(&chunk);
        let target = (!asked).then(Listed::new);
        invariant!(source != rid, "replica {rid} is copied from itself");
        let before = s.copying.active.insert(chunk, Job { from: source, target, ..Job::default() });
        invariant!(before.is_none(), "chunk {} is copied twice at once", chunk.0);
        for r in asked.then_some(rid).into_iter().chain([source]) {
            self.request(r, For::SyncVersions(chunk), Msg::ChunkVersions { chunk, since }, cx);
        }
        true
    }

    /// The target or the source has told what it holds of a chunk. When both have, what differs is read.
    pub(in crate::coordinator) fn sync_versions(
        &mut self,
        rid: Rid,
        chunk: ChunkIx,
        infos: Vec<(u8, BlockInfo)>,
        cx: &mut Cx,
    ) {
        let term = self.record.term;
        let Some(s) = self.sync.attempt.as_mut() else {
            return broken!("chunk {} is compared for a sync that has ended", chunk.0);
        };
        let (target, since) = (s.rid, s.since);
        let Some(job) = s.copying.active.get_mut(&chunk) else {
            return broken!("chunk {} is compared and not being copied", chunk.0);
        };
        let list = Some(infos.into_iter().collect());
        let before = if rid == target {
            std::mem::replace(&mut job.target, list)
        } else {
            invariant!(rid == job.from, "replica {rid} tells of chunk {}, and is not its source", chunk.0);
            std::mem::replace(&mut job.source, list)
        };
        invariant!(before.is_none(), "replica {rid} tells of chunk {} twice", chunk.0);
        // (The other one has not told yet.)
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

    /// A piece has arrived from a member. Blocks that it does not have whole are asked of another
    /// one; blocks that no member has are marked lost on the target too, or it would serve an old
    /// version there.
    pub(in crate::coordinator) fn sync_read(
        &mut self,
        rid: Rid,
        (chunk, start): (ChunkIx, BlockIx),
        infos: Vec<BlockInfo>,
        data: Bytes,
        cx: &mut Cx,
    ) {
        let job = |s: &mut Attempt| s.copying.active.get_mut(&chunk)?.reading.remove(&start);
        let Some((len, mut tried)) = self.sync.attempt.as_mut().and_then(job) else {
            return broken!("a piece at block {} arrives, and is not being read", start.0);
        };
        invariant!(!tried.contains(&rid), "replica {rid} supplies a piece that it does not have");
        tried.insert(rid);
        let next = self.choose(&tried);
        let Some(s) = self.sync.attempt.as_mut() else {
            return broken!("a piece arrives for a sync that has ended");
        };
        let since = s.since;
        let Some(job) = s.copying.active.get_mut(&chunk) else {
            return broken!("chunk {} is read and not being copied", chunk.0);
        };
        let lacking = lacks(len as usize, &infos, &data);
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

    /// Sends one message of what was read.
    fn send_copies(&mut self, cx: &mut Cx) {
        let most = self.piece_blocks() as usize;
        let Some(s) = self.sync.attempt.as_mut() else {
            return broken!("copies are sent for a sync that has ended");
        };
        let rid = s.rid;
        let full = s.copying.outbox.len().min(most);
        let mut items: Vec<CopyItem> = s.copying.outbox.drain(..full).collect();
        items.sort_by_key(|i| i.block);
        s.copying.last += 1;
        let number = s.copying.last;
        invariant!(!items.is_empty(), "a message of no copies is sent");
        invariant!(items.is_sorted_by(|a, b| a.block < b.block), "a block is copied twice in one message");
        let chunks = items.iter().map(|i| i.block.chunk()).collect();
        s.copying.sent.insert(number, (items.len() as u64 * BLOCK_BYTES, chunks));
        self.request(rid, For::SyncCopy(number), Msg::Copy { items }, cx);
    }

    /// The target has applied a message of copies, except where live writes have overtaken them.
    pub(in crate::coordinator) fn sync_copied(&mut self, number: u64, cx: &mut Cx) {
        let Some(s) = self.sync.attempt.as_mut() else {
            return broken!("copies are answered for a sync that has ended");
        };
        let Some((bytes, chunks)) = s.copying.sent.remove(&number) else {
            return broken!("message {number} of copies is answered twice");
        };
        invariant!(!chunks.is_empty(), "message {number} of copies was about no chunk");
        s.copied += bytes / BLOCK_BYTES;
        for chunk in chunks {
            self.chunk_goes_on(chunk, cx);
        }
    }

    /// Something of a chunk has ended: is all of it done?
    fn chunk_goes_on(&mut self, chunk: ChunkIx, cx: &mut Cx) {
        if let Some(s) = self.sync.attempt.as_mut()
            && s.copying.is_over(chunk)
        {
            s.copying.active.remove(&chunk);
            s.done += 1;
            invariant!(s.done <= s.total, "{} of {} chunks are done", s.done, s.total);
        }
        self.drive_copying(cx);
    }

    /// Members left the set: chunks of which they were the source begin anew with another one.
    pub(in crate::coordinator) fn sync_without(&mut self, gone: &BTreeSet<Rid>) {
        // (Nothing is brought in.)
        let Some(s) = self.sync.attempt.as_mut() else { return };
        invariant!(!gone.contains(&s.rid), "replica {} left the set, and was brought in", s.rid);
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
        self.pending.retain(|p| match p.what {
            For::SyncVersions(c) | For::SyncRead(c, _) => !again.contains(&c),
            For::SyncCopy(number) => sent.contains_key(&number),
            _ => true,
        });
        if matches!(s.source_listed, Source::Asked(x) if gone.contains(&x)) {
            s.source_listed = Source::NotAsked;
        }
    }
}

impl Attempt {
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

/// Must the target's block be replaced? `z` is what it holds, `x` what the source holds. A live
/// write that has won stays; what is bad on the target is fetched if the source has anything. What
/// is not listed is whole, and not newer than `since`, up to which both are alike.
fn differs(z: Option<&BlockInfo>, x: Option<&BlockInfo>, since: Ver, term: Term) -> bool {
    let alike = |other: Option<&BlockInfo>| BlockInfo {
        ver: other.map_or(since, |o| o.ver.min(since)),
        state: BlockState::Data,
        ..BlockInfo::default()
    };
    let (z, x) = (z.copied().unwrap_or_else(|| alike(x)), x.copied().unwrap_or_else(|| alike(z)));
    if z.state.is_bad() {
        // A live write that has won and then rotted stays as it is: the source, which may lag, must
        // not undo it (seed 11891). What is bad there as well another source may have.
        let live = z.ver.term == term && z.ver > x.ver;
        return !live;
    }
    if mutant::is(Mutant::SyncCopiesNothing) || (mutant::is(Mutant::ForgetZeroes) && x.state.is_zero()) {
        return false;
    }
    // A newer zero is copied over an older one too: a replica that is synced from the target later
    // must learn that it was zeroed (seed 1757). An older zero need not be copied.
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
        // A live write of this term won on the target, then rotted; the source, which lags, must
        // not undo it (seed 11891).
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

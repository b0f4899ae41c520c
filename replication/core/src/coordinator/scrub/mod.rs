//! Scrub: every chunk that any in-sync replica has is read and verified on all of them, and what
//! they hold is compared (protocol §7). Rot is found before the last good copy rots too.
//!
//! A chunk is looked at without a lock first. Only if something is amiss it is looked at again
//! under a shared lock, when no write to it is in flight: what differs then, differs. Bad blocks,
//! and blocks that are behind (a disk lost a write), are replaced from another replica; the same
//! version with different bytes is reported and left alone, for nobody can say which is right. The
//! walk begins anew with a new coordinator; its result is proposed to the record, and counts when
//! it stands there. `judge.rs` decides what is wrong.

mod judge;

use super::pending::{Asked, For};
use super::requests::reads::{Read, Wrong};
use super::{Change, Coordinator, Cx, Phase, Record};
use crate::message::{BlockInfo, BlockState, Content, CopyItem, Msg};
use hf_meta_core::record::ScrubReport;
use hf_policy::{BlockIx, BlockRange, CHUNK_BLOCKS, CHUNK_BYTES, ChunkIx, Rid, Ver, broken, invariant};
use judge::{Finding, judge};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The chunk that is being looked at.
#[derive(Default)]
struct Look {
    chunk: ChunkIx,
    /// Members that have not answered.
    open: BTreeSet<Rid>,
    /// What the others hold, 256 entries each.
    answers: BTreeMap<Rid, Vec<BlockInfo>>,
    /// Some member did not answer.
    partial: bool,
    /// The id of the chunk's lock, once it was asked for.
    lock: Option<u64>,
    /// The lock is held.
    held: bool,
    /// Blocks that are being read elsewhere in order to replace them, by place.
    fixing: BTreeSet<usize>,
    /// What was wrong is being replaced; the copies in flight are pending requests.
    mending: bool,
}

/// A page of members' lists of chunks.
struct Listing {
    /// Members whose list has not come.
    open: BTreeSet<Rid>,
    /// The lists that have come, and whether there are more chunks behind each.
    pages: Vec<(Vec<ChunkIx>, bool)>,
}

/// The walk over all chunks.
pub(super) struct Walk {
    /// The scrub's number in the record.
    id: u64,
    /// Where the next page of chunks begins.
    from: ChunkIx,
    listing: Option<Listing>,
    /// The last page has come.
    listed_all: bool,
    /// Chunks of this page that are left.
    todo: VecDeque<ChunkIx>,
    look: Option<Look>,
    report: ScrubReport,
}

impl Walk {
    fn new(id: u64) -> Walk {
        Walk {
            id,
            from: ChunkIx(0),
            listing: None,
            listed_all: false,
            todo: VecDeque::new(),
            look: None,
            report: ScrubReport::default(),
        }
    }

    fn over(&self) -> bool {
        self.listed_all && self.todo.is_empty() && self.look.is_none() && self.listing.is_none()
    }
}

/// Scrubbing: at most one walk at a time.
#[derive(Default)]
pub(super) struct Scrub {
    pub walk: Option<Walk>,
}

impl Scrub {
    fn look(&self) -> Option<&Look> {
        self.walk.as_ref().and_then(|s| s.look.as_ref())
    }

    fn look_mut(&mut self) -> Option<&mut Look> {
        self.walk.as_mut().and_then(|s| s.look.as_mut())
    }

    /// A walk goes on that has not looked at everything yet.
    pub fn is_walking(&self) -> bool {
        self.walk.as_ref().is_some_and(|s| !s.over())
    }

    /// The lock that the walk holds, or waits for.
    pub fn lock(&self) -> Option<u64> {
        self.look().and_then(|l| l.lock)
    }

    /// What must hold of it between steps.
    pub fn check(&self, record: &Record) -> Result<(), String> {
        let Some(s) = &self.walk else { return Ok(()) };
        let in_sync = |r: &Rid| record.in_sync.contains_key(r);
        if s.listing.as_ref().is_some_and(|l| l.open.is_empty() || !s.todo.is_empty() || !l.open.iter().all(in_sync)) {
            return Err("the scrub lists chunks that it has, or asks members that are out".into());
        }
        let Some(l) = &s.look else { return Ok(()) };
        if !l.open.iter().chain(l.answers.keys()).all(in_sync) {
            return Err("the scrub compares what a replica holds that is out".into());
        }
        if l.answers.keys().any(|r| l.open.contains(r)) {
            return Err("a replica has answered the scrub and is waited for".into());
        }
        if (l.held && l.lock.is_none()) || (l.mending && !l.held) || (!l.fixing.is_empty() && !l.mending) {
            return Err(format!("the scrub mends chunk {} without its lock", l.chunk.0));
        }
        let waits = !l.open.is_empty() || (l.lock.is_some() && !l.held) || l.mending;
        if waits { Ok(()) } else { Err(format!("the scrub looks at chunk {} and waits for nothing", l.chunk.0)) }
    }
}

/// The progress of a scrub, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Chunks that are known to be left.
    pub left: u64,
    /// What it has met so far.
    pub report: ScrubReport,
}

impl Coordinator {
    pub(super) fn scrub_status(&self) -> Option<ScrubStatus> {
        let s = self.scrub.walk.as_ref()?;
        Some(ScrubStatus { left: s.todo.len() as u64 + u64::from(s.look.is_some()), report: s.report })
    }

    /// After every input: begins the scrub that is asked for, goes on with it, or reports it.
    pub(super) fn drive_scrub(&mut self, cx: &mut Cx) {
        let wanted = self.record.scrub.filter(|_| self.phase == Phase::Serving && !self.stopping());
        if self.scrub.walk.as_ref().map(|s| s.id) != wanted {
            self.end_scrub(cx);
            self.scrub.walk = wanted.map(Walk::new);
        }
        // (No scrub is wanted.)
        let Some(s) = self.scrub.walk.as_mut() else { return };
        if self.record.scrub_paused && s.look.is_none() {
            return;
        }
        if s.over() {
            let change = Change::Scrubbed { id: s.id, report: s.report };
            return self.propose(change, cx);
        }
        // (While no member can be asked, nothing would ever be answered, or everything be skipped.)
        if s.look.is_some() || !self.record.in_sync.keys().any(|r| self.members.is_present(r)) {
            return;
        }
        if let Some(chunk) = s.todo.front().copied() {
            if self.pace.ready(cx.now) {
                s.todo.pop_front();
                s.look = Some(Look { chunk, ..Look::default() });
                self.look(cx);
            }
        } else if s.listing.is_none() {
            let from = s.from;
            let members = self.present();
            if let Some(s) = self.scrub.walk.as_mut() {
                s.listing = Some(Listing { open: members.clone(), pages: Vec::new() });
            }
            for rid in members {
                self.request(rid, For::ScrubList, Msg::ChunkList { since: Ver::ZERO, from }, cx);
            }
        }
    }

    /// In-sync members that can be asked.
    fn present(&self) -> BTreeSet<Rid> {
        self.record.in_sync.keys().copied().filter(|r| self.members.is_present(r)).collect()
    }

    /// A member has told a page of its chunks.
    pub(super) fn scrub_listed(&mut self, rid: Rid, chunks: Vec<(ChunkIx, Ver)>, more: bool) {
        let Some(l) = self.scrub.walk.as_mut().and_then(|s| s.listing.as_mut()) else {
            return broken!("replica {rid} lists its chunks for a scrub that does not ask");
        };
        let awaited = l.open.remove(&rid);
        invariant!(awaited, "replica {rid} lists its chunks for the scrub twice");
        if awaited {
            l.pages.push((chunks.into_iter().map(|(c, _)| c).collect(), more));
        }
        self.scrub_listing_done();
    }

    /// When all lists are there, what all of them cover is walked.
    fn scrub_listing_done(&mut self) {
        let blocks = self.cfg.blocks;
        let Some(s) = self.scrub.walk.as_mut() else { return };
        // (Nothing is listed, or some list has not come.)
        let Some(Listing { pages, .. }) = s.listing.take_if(|l| l.open.is_empty()) else { return };
        invariant!(s.todo.is_empty(), "the scrub lists chunks and has some left");
        let end = pages.iter().filter(|(_, more)| *more).filter_map(|(c, _)| c.last()).min().copied();
        let inside = |c: &ChunkIx| end.is_none_or(|e| *c <= e) && c.first_block().0 < blocks;
        let all: BTreeSet<ChunkIx> = pages.iter().flat_map(|(c, _)| c).copied().filter(inside).collect();
        s.todo = all.into_iter().collect();
        match end {
            Some(e) => s.from = ChunkIx(e.0.saturating_add(1)),
            None => s.listed_all = true,
        }
    }

    /// Asks every present member to read and verify the chunk.
    fn look(&mut self, cx: &mut Cx) {
        let members = self.present();
        let whole = members.len() == self.record.in_sync.len();
        let Some(look) = self.scrub.look_mut() else {
            return broken!("the scrub looks at no chunk");
        };
        invariant!(look.open.is_empty() && !look.mending, "chunk {} is looked at twice at once", look.chunk.0);
        look.open = members.clone();
        look.answers.clear();
        look.partial = !whole;
        let chunk = look.chunk;
        for rid in members {
            self.pace.spend(CHUNK_BYTES);
            self.request(rid, For::ScrubVerify(chunk), Msg::Verify { chunk }, cx);
        }
        self.looked(cx);
    }

    /// A member has read and verified a chunk.
    pub(super) fn scrub_verified(&mut self, rid: Rid, chunk: ChunkIx, infos: Vec<BlockInfo>, cx: &mut Cx) {
        // (Its answer may come after the walk has gone on: of a look before the lock was held, or
        // another chunk.)
        let Some(look) = self.scrub.look_mut() else { return };
        if look.chunk != chunk || !look.open.remove(&rid) {
            return;
        }
        invariant!(infos.len() == CHUNK_BLOCKS as usize, "a chunk of {} blocks is compared", infos.len());
        let before = look.answers.insert(rid, infos);
        invariant!(before.is_none(), "replica {rid} tells of chunk {} twice", chunk.0);
        self.looked(cx);
    }

    /// A member did not answer in time, or cannot: the walk goes on without it.
    pub(super) fn scrub_unanswered(&mut self, rid: Rid, cx: &mut Cx) {
        // (No scrub is going on.)
        let Some(s) = self.scrub.walk.as_mut() else { return };
        if let Some(l) = s.listing.as_mut()
            && l.open.remove(&rid)
        {
            s.report.skipped += 1;
        }
        self.scrub_listing_done();
        // (It looks at no chunk.)
        let Some(look) = self.scrub.look_mut() else { return };
        if look.open.remove(&rid) {
            look.partial = true;
            self.looked(cx);
        }
    }

    /// Members left the set: what they hold does not count, and nobody waits for them.
    pub(super) fn scrub_without(&mut self, gone: &BTreeSet<Rid>, cx: &mut Cx) {
        if let Some(look) = self.scrub.look_mut() {
            look.answers.retain(|r, _| !gone.contains(r));
        }
        gone.iter().for_each(|rid| self.scrub_unanswered(*rid, cx));
        self.scrub_chunk_over(cx);
    }

    /// When every member has answered: is all well?
    fn looked(&mut self, cx: &mut Cx) {
        let blocks = self.cfg.blocks;
        let Some(look) = self.scrub.look_mut() else {
            return broken!("the scrub has looked at no chunk");
        };
        // (Some have not answered, or what was found is being mended already.)
        if !look.open.is_empty() || look.mending {
            return;
        }
        let first = look.chunk.first_block();
        let count = (blocks.saturating_sub(first.0)).min(CHUNK_BLOCKS) as usize;
        let found = judge(&look.answers, count);
        if found.is_empty() {
            return self.chunk_scrubbed(cx);
        }
        if look.held {
            return self.fix(first, found, cx);
        }
        // Writes in flight look like this too: once more, when there are none.
        invariant!(look.lock.is_none(), "chunk {} is locked twice", look.chunk.0);
        let id = self.id();
        let range = BlockRange { start: first, len: count as u32 };
        if let Some(look) = self.scrub.look_mut() {
            look.lock = Some(id);
        }
        if self.requests.locks.acquire(id, range, false) {
            self.scrub_locked(id, cx);
        }
    }

    /// A lock is granted. True if it is the scrub's, which then looks at its chunk once more.
    pub(super) fn scrub_locked(&mut self, id: u64, cx: &mut Cx) -> bool {
        // (It is a client request's.)
        let Some(look) = self.scrub.look_mut().filter(|l| l.lock == Some(id)) else { return false };
        invariant!(!look.held, "chunk {} is locked twice", look.chunk.0);
        look.held = true;
        self.look(cx);
        true
    }

    /// Replaces what is wrong, or reports what cannot be replaced.
    fn fix(&mut self, first: BlockIx, found: Vec<Finding>, cx: &mut Cx) {
        let mut reads = Vec::new();
        let mut told: BTreeMap<Rid, Vec<CopyItem>> = BTreeMap::new();
        let Some(s) = self.scrub.walk.as_mut() else {
            return broken!("something is to be mended, and no scrub is going on");
        };
        let Some(look) = s.look.as_mut() else {
            return broken!("something is to be mended in no chunk");
        };
        let Some(lock) = look.lock else {
            return broken!("chunk {} is to be mended, and is not locked", look.chunk.0);
        };
        invariant!(look.held && look.fixing.is_empty(), "chunk {} is mended twice at once", look.chunk.0);
        for f in found {
            s.report.bad += f.bad.len() as u64;
            s.report.behind += f.behind.len() as u64;
            s.report.diverged += u64::from(f.diverged);
            self.stats.bad_blocks += f.bad.len() as u64;
            let block = BlockIx(first.0 + f.block as u64);
            // (Unless a member that did not answer has it.)
            if let Some(src) = f.lost.filter(|_| !look.partial) {
                s.report.lost += 1;
                for (rid, seen) in f.behind {
                    let item = CopyItem { block, seen, src, content: Content::Bad, repair: false };
                    told.entry(rid).or_default().push(item);
                }
                continue;
            }
            let one = |(rid, ver): &(Rid, Ver), state| Wrong { rid: *rid, block, ver: *ver, state };
            let bad = f.bad.iter().map(|(rid, i)| one(&(*rid, i.ver), i.state));
            let wrong: Vec<Wrong> = bad.chain(f.behind.iter().map(|x| one(x, BlockState::Data))).collect();
            if !wrong.is_empty() {
                look.fixing.insert(f.block);
                reads.push(Read::to_repair(lock, f.block, BlockRange { start: block, len: 1 }, wrong));
            }
        }
        if reads.is_empty() && told.is_empty() {
            return self.chunk_scrubbed(cx);
        }
        look.mending = true;
        for (rid, items) in told {
            self.request(rid, For::Repair(lock), Msg::Copy { items }, cx);
        }
        reads.into_iter().for_each(|r| self.begin_read(r, cx));
    }

    /// A block was replaced where it was wrong, or nobody has it. True if the read was the scrub's.
    pub(super) fn scrub_part_done(&mut self, id: u64, part: usize, ok: bool, cx: &mut Cx) -> bool {
        // (The read was a client request's.)
        let Some(s) = self.scrub.walk.as_mut() else { return false };
        let Some(look) = s.look.as_mut().filter(|l| l.lock == Some(id)) else { return false };
        let fixed = look.fixing.remove(&part);
        invariant!(fixed, "block {part} of chunk {} is mended twice", look.chunk.0);
        s.report.lost += u64::from(fixed && !ok);
        self.scrub_chunk_over(cx);
        true
    }

    /// Are these copies the scrub's?
    pub(super) fn scrub_mends(&self, id: u64) -> bool {
        self.scrub.look().is_some_and(|l| l.mending && l.lock == Some(id))
    }

    /// A member has taken copies that mend `blocks` blocks, or will not take them.
    pub(super) fn scrub_mended(&mut self, id: u64, blocks: u64, cx: &mut Cx) {
        if self.scrub_mends(id) {
            if let Some(s) = self.scrub.walk.as_mut() {
                s.report.repaired += blocks;
            }
            self.scrub_chunk_over(cx);
        }
    }

    /// Goes on with the next chunk when everything that was wrong in this one is mended, durably,
    /// or known to be lost.
    fn scrub_chunk_over(&mut self, cx: &mut Cx) {
        // (Nothing is being mended.)
        let Some(look) = self.scrub.look().filter(|l| l.mending) else { return };
        let copies = |p: &Asked| matches!(p.what, For::Repair(id) if look.lock == Some(id));
        if look.fixing.is_empty() && !self.pending.values().any(copies) {
            self.chunk_scrubbed(cx);
        }
    }

    /// The chunk is done: counts it, and lets its lock go.
    fn chunk_scrubbed(&mut self, cx: &mut Cx) {
        let Some((s, look)) = self.scrub.walk.as_mut().and_then(|s| s.look.take().map(|look| (s, look))) else {
            return broken!("a chunk is done that is not looked at");
        };
        invariant!(look.open.is_empty() && look.fixing.is_empty(), "chunk {} is done too early", look.chunk.0);
        if look.partial {
            s.report.skipped += 1
        } else {
            s.report.chunks += 1
        }
        self.stats.scrubbed_chunks += 1;
        if let Some(id) = look.lock {
            self.unlock(id, cx);
        }
    }

    /// The walk is given up, or reported: what it holds is let go.
    fn end_scrub(&mut self, cx: &mut Cx) {
        // (None is going on.)
        let Some(s) = self.scrub.walk.take() else { return };
        self.pending.retain(|p| !p.what.is_scrub());
        if let Some(id) = s.look.and_then(|l| l.lock) {
            self.reads.forget_of(id);
            self.unlock(id, cx);
        }
    }
}

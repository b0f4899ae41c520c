//! Scrub: every chunk that any in-sync replica has is read and verified on all of them, and what they hold is compared
//! (protocol §7). Rot is found before the last good copy rots too.
//!
//! A chunk is looked at without a lock first. Only if something is amiss it is looked at again under a shared lock, when nothing is
//! on its way: what differs then, differs. Bad blocks, and blocks that are behind (a disk lost a write), are replaced from another
//! replica; the same version with different bytes is reported and left alone, for nobody can say which is right.
//! The walk begins anew with a new coordinator; its result is proposed to the record, and counts when it stands there.

use super::link::For;
use super::read::{Read, Wrong};
use super::{Change, Coordinator, Cx, Phase};
use crate::message::{BlockInfo, BlockState, Content, CopyItem, Msg};
use hf_meta_core::record::ScrubReport;
use hf_policy::{BlockIx, BlockRange, CHUNK_BLOCKS, CHUNK_BYTES, ChunkIx, Rid, Ver};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The chunk that is being looked at.
#[derive(Default)]
struct Look {
    chunk: ChunkIx,
    /// Who has not answered yet.
    open: BTreeSet<Rid>,
    answers: BTreeMap<Rid, Vec<BlockInfo>>,
    /// Not everybody answered.
    partial: bool,
    /// The lock, once it was asked for; and whether it is held.
    lock: Option<u64>,
    held: bool,
    /// Blocks being read elsewhere in order to replace them: the reads' parts.
    fixing: BTreeSet<usize>,
    /// What was wrong is being replaced; the copies on their way are pending requests.
    mending: bool,
}

/// Replicas whose list of chunks has not come yet, and the pages that came; true: there are more.
type Listing = (BTreeSet<Rid>, Vec<(Vec<ChunkIx>, bool)>);

/// The walk.
pub(super) struct Scrub {
    id: u64,
    from: ChunkIx,
    listing: Option<Listing>,
    listed_all: bool,
    todo: VecDeque<ChunkIx>,
    look: Option<Look>,
    report: ScrubReport,
}

impl Scrub {
    fn over(&self) -> bool {
        self.listed_all && self.todo.is_empty() && self.look.is_none() && self.listing.is_none()
    }
}

/// Where a scrub stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Chunks known to be left.
    pub left: u64,
    /// What it met so far.
    pub report: ScrubReport,
}

impl Coordinator {
    pub(super) fn scrub_status(&self) -> Option<ScrubStatus> {
        let s = self.scrub.as_ref()?;
        Some(ScrubStatus { left: s.todo.len() as u64 + u64::from(s.look.is_some()), report: s.report })
    }

    pub(super) fn scrubbing(&self) -> bool {
        self.scrub.as_ref().is_some_and(|s| !s.over())
    }

    pub(super) fn drive_scrub(&mut self, cx: &mut Cx) {
        let wanted = self.record.scrub.filter(|_| self.phase == Phase::Serving && !self.stopping());
        if self.scrub.as_ref().map(|s| s.id) != wanted {
            self.end_scrub(cx);
            self.scrub = wanted.map(|id| Scrub {
                id,
                from: ChunkIx(0),
                listing: None,
                listed_all: false,
                todo: VecDeque::new(),
                look: None,
                report: ScrubReport::default(),
            });
        }
        let Some(s) = self.scrub.as_mut() else { return };
        if self.record.scrub_paused && s.look.is_none() {
            return;
        }
        if s.over() {
            let change = Change::Scrubbed { id: s.id, report: s.report };
            return self.propose(change, cx);
        }
        // (While nobody can be asked, nothing would ever be answered, or everything be skipped.)
        if s.look.is_some() || !self.record.in_sync.keys().any(|r| self.is_present(*r)) {
            return;
        }
        let Some(s) = self.scrub.as_mut() else { return };
        if let Some(chunk) = s.todo.front().copied() {
            if self.pace.ready(cx.now) {
                if let Some(s) = self.scrub.as_mut() {
                    s.todo.pop_front();
                    s.look = Some(Look { chunk, ..Look::default() });
                }
                self.look(cx);
            }
        } else if s.listing.is_none() {
            let from = s.from;
            let members = self.present();
            if let Some(s) = self.scrub.as_mut() {
                s.listing = Some((members.clone(), Vec::new()));
            }
            for rid in members {
                self.request(rid, For::ScrubList, Msg::ChunkList { since: Ver::ZERO, from }, cx);
            }
        }
    }

    /// In-sync members that can be asked.
    fn present(&self) -> BTreeSet<Rid> {
        self.record.in_sync.keys().copied().filter(|r| self.is_present(*r)).collect()
    }

    fn is_present(&self, rid: Rid) -> bool {
        self.members.get(&rid).is_some_and(|m| m.up && !m.unproven) && !self.suspects.contains(&rid)
    }

    pub(super) fn scrub_listed(&mut self, rid: Rid, chunks: Vec<(ChunkIx, Ver)>, more: bool) {
        let Some(s) = self.scrub.as_mut() else { return };
        let Some((open, pages)) = s.listing.as_mut() else { return };
        if open.remove(&rid) {
            pages.push((chunks.into_iter().map(|(c, _)| c).collect(), more));
        }
        self.scrub_listing_done();
    }

    /// All pages are there: walk what all of them cover.
    fn scrub_listing_done(&mut self) {
        let blocks = self.cfg.blocks;
        let Some(s) = self.scrub.as_mut() else { return };
        let Some((_, pages)) = s.listing.take_if(|(open, _)| open.is_empty()) else { return };
        let end = pages.iter().filter(|(_, more)| *more).filter_map(|(c, _)| c.last()).min().copied();
        let inside = |c: &ChunkIx| end.is_none_or(|e| *c <= e) && c.first_block().0 < blocks;
        let all: BTreeSet<ChunkIx> = pages.iter().flat_map(|(c, _)| c).copied().filter(inside).collect();
        s.todo = all.into_iter().collect();
        match end {
            Some(e) => s.from = ChunkIx(e.0 + 1),
            None => s.listed_all = true,
        }
    }

    /// Asks everybody to read and verify the chunk.
    fn look(&mut self, cx: &mut Cx) {
        let members = self.present();
        let whole = members.len() == self.record.in_sync.len();
        let Some(look) = self.scrub.as_mut().and_then(|s| s.look.as_mut()) else { return };
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

    pub(super) fn scrub_verified(&mut self, rid: Rid, chunk: ChunkIx, infos: Vec<BlockInfo>, cx: &mut Cx) {
        let Some(look) = self.scrub.as_mut().and_then(|s| s.look.as_mut()) else { return };
        if look.chunk != chunk || !look.open.remove(&rid) {
            return;
        }
        look.answers.insert(rid, infos);
        self.looked(cx);
    }

    /// A member did not answer in time, or cannot: the walk goes on without it.
    pub(super) fn scrub_unanswered(&mut self, rid: Rid, cx: &mut Cx) {
        let Some(s) = self.scrub.as_mut() else { return };
        if let Some((open, _)) = s.listing.as_mut()
            && open.remove(&rid)
        {
            s.report.skipped += 1;
        }
        self.scrub_listing_done();
        let Some(look) = self.scrub.as_mut().and_then(|s| s.look.as_mut()) else { return };
        if look.open.remove(&rid) {
            look.partial = true;
            self.looked(cx);
        }
    }

    /// Members left the set.
    pub(super) fn scrub_without(&mut self, gone: &BTreeSet<Rid>, cx: &mut Cx) {
        if let Some(look) = self.scrub.as_mut().and_then(|s| s.look.as_mut()) {
            look.answers.retain(|r, _| !gone.contains(r));
        }
        gone.iter().for_each(|rid| self.scrub_unanswered(*rid, cx));
        self.scrub_chunk_over(cx);
    }

    /// Everybody has answered: is all well?
    fn looked(&mut self, cx: &mut Cx) {
        let blocks = self.cfg.blocks;
        let Some(look) = self.scrub.as_mut().and_then(|s| s.look.as_mut()) else { return };
        if !look.open.is_empty() || look.mending {
            return;
        }
        let first = look.chunk.first_block();
        let count = (blocks.saturating_sub(first.0)).min(CHUNK_BLOCKS) as usize;
        let found = judge(&look.answers, count);
        if found.is_empty() {
            return self.chunk_scrubbed(cx);
        }
        if !look.held {
            // Writes on their way look like this too: again, when there are none.
            let id = self.id();
            let range = BlockRange { start: first, len: count as u32 };
            if let Some(look) = self.scrub.as_mut().and_then(|s| s.look.as_mut()) {
                look.lock = Some(id);
            }
            if self.locks.acquire(id, range, false) {
                self.scrub_locked(id, cx);
            }
            return;
        }
        self.fix(first, found, cx);
    }

    /// The lock is held. True if it was the scrub's.
    pub(super) fn scrub_locked(&mut self, id: u64, cx: &mut Cx) -> bool {
        let Some(look) = self.scrub.as_mut().and_then(|s| s.look.as_mut()).filter(|l| l.lock == Some(id)) else {
            return false;
        };
        look.held = true;
        self.look(cx);
        true
    }

    fn fix(&mut self, first: BlockIx, found: Vec<Finding>, cx: &mut Cx) {
        let mut reads = Vec::new();
        let mut told: BTreeMap<Rid, Vec<CopyItem>> = BTreeMap::new();
        let Some(s) = self.scrub.as_mut() else { return };
        let Some(look) = s.look.as_mut() else { return };
        let Some(lock) = look.lock else { return };
        for f in found {
            s.report.bad += f.bad.len() as u64;
            s.report.behind += f.behind.len() as u64;
            s.report.diverged += u64::from(f.diverged);
            self.stats.bad_blocks += f.bad.len() as u64;
            let block = BlockIx(first.0 + f.block as u64);
            // (Unless somebody who did not answer has it.)
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
        let Some(s) = self.scrub.as_mut() else { return false };
        let Some(look) = s.look.as_mut().filter(|l| l.lock == Some(id)) else { return false };
        s.report.lost += u64::from(look.fixing.remove(&part) && !ok);
        self.scrub_chunk_over(cx);
        true
    }

    /// Does the scrub hold, or wait for, a chunk's lock?
    pub(super) fn scrub_locks(&self) -> bool {
        self.scrub.as_ref().and_then(|s| s.look.as_ref()).is_some_and(|l| l.lock.is_some())
    }

    /// Are these reads the scrub's?
    pub(super) fn scrub_reads(&self, id: u64) -> bool {
        self.scrub.as_ref().and_then(|s| s.look.as_ref()).is_some_and(|l| l.lock == Some(id))
    }

    /// Are these copies the scrub's?
    pub(super) fn scrub_mends(&self, id: u64) -> bool {
        self.scrub.as_ref().and_then(|s| s.look.as_ref()).is_some_and(|l| l.mending && l.lock == Some(id))
    }

    /// A member has taken copies, or will not.
    pub(super) fn scrub_mended(&mut self, id: u64, blocks: u64, cx: &mut Cx) {
        if self.scrub_mends(id) {
            if let Some(s) = self.scrub.as_mut() {
                s.report.repaired += blocks;
            }
            self.scrub_chunk_over(cx);
        }
    }

    /// Goes on with the next chunk when everything that was wrong in this one is mended, durably, or known to be lost.
    fn scrub_chunk_over(&mut self, cx: &mut Cx) {
        let Some(look) = self.scrub.as_ref().and_then(|s| s.look.as_ref()).filter(|l| l.mending) else { return };
        let copies = |p: &super::link::Pending| matches!(p.what, For::Repair(id) if look.lock == Some(id));
        if look.fixing.is_empty() && !self.pending.values().any(copies) {
            self.chunk_scrubbed(cx);
        }
    }

    fn chunk_scrubbed(&mut self, cx: &mut Cx) {
        let Some(s) = self.scrub.as_mut() else { return };
        let Some(look) = s.look.take() else { return };
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

    /// Given up, or reported: what it holds is let go.
    fn end_scrub(&mut self, cx: &mut Cx) {
        let Some(s) = self.scrub.take() else { return };
        self.pending.retain(|_, p| !p.what.is_scrub());
        if let Some(id) = s.look.and_then(|l| l.lock) {
            self.reads.retain(|_, r| r.request != id);
            self.unlock(id, cx);
        }
    }
}

/// What is wrong with one block.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    block: usize,
    /// Unreadable or rotten, with what is known of it.
    bad: Vec<(Rid, BlockInfo)>,
    /// Older than what others have.
    behind: Vec<(Rid, Ver)>,
    /// The same version, other bytes.
    diverged: bool,
    /// This version of it is bad on those who know of it, and others have older ones only: nobody has the block, and who would serve an
    /// older one is told so (as in a take-over).
    lost: Option<Ver>,
}

/// Compares what replicas hold when nothing is on its way. All zeroes are alike: one that was never written need not know of a trim.
fn judge(answers: &BTreeMap<Rid, Vec<BlockInfo>>, count: usize) -> Vec<Finding> {
    let mut found = Vec::new();
    for block in 0..count {
        let at = || answers.iter().filter_map(|(r, infos)| infos.get(block).map(|i| (*r, i)));
        let bad: Vec<(Rid, BlockInfo)> = at().filter(|(_, i)| i.state.is_bad()).map(|(r, i)| (r, *i)).collect();
        let held = |i: &BlockInfo| (!i.state.is_zero()).then_some((i.ver, i.crc));
        let good = || at().filter(|(_, i)| !i.state.is_bad());
        let newest = good().map(|(_, i)| i).max_by_key(|i| i.ver);
        let other: Vec<(Rid, Ver)> = match newest {
            Some(n) => good().filter(|(_, i)| held(i) != held(n)).map(|(r, i)| (r, i.ver)).collect(),
            None => Vec::new(),
        };
        let (mut behind, same): (Vec<_>, Vec<_>) =
            other.into_iter().partition(|(_, ver)| newest.is_some_and(|n| *ver < n.ver));
        let known = bad.iter().filter(|(_, i)| i.state == BlockState::Bad).map(|(_, i)| i.ver).max();
        let lost = known.filter(|ver| newest.is_none_or(|n| n.ver < *ver));
        if lost.is_some() {
            behind = good().map(|(r, i)| (r, i.ver)).collect();
        }
        if !bad.is_empty() || !behind.is_empty() || !same.is_empty() {
            found.push(Finding { block, bad, behind, diverged: !same.is_empty(), lost });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use hf_policy::crc::PayloadCrc;
    use hf_policy::{Seq, Term};

    fn i(seq: u64, crc: u32, state: BlockState) -> BlockInfo {
        BlockInfo { ver: Ver { term: Term(1), seq: Seq(seq) }, crc: PayloadCrc(crc), state }
    }

    fn of(three: [BlockInfo; 3]) -> Vec<Finding> {
        judge(&three.into_iter().enumerate().map(|(n, i)| (Rid(n as u64 + 1), vec![i])).collect(), 1)
    }

    #[test]
    fn what_differs_is_named_and_what_reads_alike_is_not() {
        use BlockState::*;
        let ver = |n| Ver { term: Term(1), seq: Seq(n) };
        let absent = BlockInfo::default();
        assert_eq!(of([i(5, 1, Data), i(5, 1, Data), i(5, 1, Data)]), []);
        assert_eq!(of([i(5, 0, Zero), absent, i(3, 0, Zero)]), []);
        let found = |bad, behind, diverged| vec![Finding { block: 0, bad, behind, diverged, lost: None }];
        assert_eq!(
            of([i(5, 1, Data), i(5, 0, Bad), i(5, 1, Data)]),
            found(vec![(Rid(2), i(5, 0, Bad))], vec![], false)
        );
        assert_eq!(of([i(5, 1, Data), i(4, 2, Data), i(5, 1, Data)]), found(vec![], vec![(Rid(2), ver(4))], false));
        assert_eq!(of([i(5, 1, Data), absent, i(5, 1, Data)]), found(vec![], vec![(Rid(2), Ver::ZERO)], false));
        assert_eq!(of([i(6, 0, Zero), i(5, 1, Data), i(6, 0, Zero)]), found(vec![], vec![(Rid(2), ver(5))], false));
        assert_eq!(of([i(5, 1, Data), i(5, 2, Data), i(5, 1, Data)]), found(vec![], vec![], true));
        let lost = |bad, behind| vec![Finding { block: 0, bad, behind, diverged: false, lost: Some(ver(5)) }];
        let all = (1..=3).map(|r| (Rid(r), i(5, 0, Bad))).collect();
        assert_eq!(of([i(5, 0, Bad), i(5, 0, Bad), i(5, 0, Bad)]), lost(all, vec![]));
        // The others lost a write each, and one of them all of them.
        let one = || vec![(Rid(1), i(5, 0, Bad))];
        assert_eq!(of([i(5, 0, Bad), i(4, 2, Data), absent]), lost(one(), vec![(Rid(2), ver(4)), (Rid(3), Ver::ZERO)]));
        // Where the version is lost too, what the others have is what there was.
        assert_eq!(
            of([i(9, 0, Lost), i(4, 2, Data), i(4, 2, Data)]),
            found(vec![(Rid(1), i(9, 0, Lost))], vec![], false)
        );
    }
}

//! Attach and take-over (protocol §5): seal the whole in-sync set, drop who does not answer, make the sealed members
//! equal, then serve.
//!
//! Un-acknowledged writes roll forward if any sealed member has them; blocks are old or new, never mixed.

use super::link::For;
use super::{Coordinator, Cx, Output, Phase};
use crate::message::{BlockInfo, BlockState, Content, CopyItem, Msg};
use crate::timing::{SEAL, SEAL_EVERY};
use bytes::Bytes;
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BlockIx, BlockRange, ChunkIx, Rid, Seq, Tick, Ver};
use std::collections::{BTreeMap, BTreeSet};

/// Chunks reconciled at once.
const PARALLEL: usize = 8;

/// A chunk being compared and made equal.
#[derive(Default)]
struct Recon {
    versions: BTreeMap<Rid, Vec<BlockInfo>>,
    /// Blocks still to be fetched from their source.
    sources: BTreeSet<BlockIx>,
    /// Per member: what it lacks.
    items: BTreeMap<Rid, Vec<CopyItem>>,
    copying: usize,
}

/// The take-over's progress.
pub(super) struct Takeover {
    sealed: BTreeMap<Rid, (Ver, Ver)>,
    /// When some member first answered, if only with "wait".
    first_heard: Option<Tick>,
    /// Members that said "wait" or could not be sealed, and when to ask again.
    again: BTreeMap<Rid, Tick>,
    refused: BTreeSet<Rid>,
    /// Everything up to here is equal by I2.
    pub s_star: Ver,
    /// Chunks with anything newer are compared.
    since: Ver,
    /// Some member may have been put back.
    doubtful: bool,
    listing: BTreeSet<Rid>,
    todo: BTreeSet<ChunkIx>,
    active: BTreeMap<ChunkIx, Recon>,
    /// Once all are equal: who has not yet noted that durably.
    unmarked: Option<BTreeSet<Rid>>,
    pub copied: u64,
}

impl Takeover {
    /// Bad blocks up to this version may have been acknowledged. With a member that may have been put back, which holds less than what
    /// was acknowledged, that is any.
    fn relied(&self) -> Ver {
        let any = Ver { term: hf_policy::Term(u32::MAX), seq: Seq(u64::MAX) };
        if self.doubtful { any } else { self.s_star }
    }

    pub(super) fn new(_now: Tick) -> Takeover {
        Takeover {
            sealed: BTreeMap::new(),
            first_heard: None,
            again: BTreeMap::new(),
            refused: BTreeSet::new(),
            s_star: Ver::ZERO,
            since: Ver::ZERO,
            doubtful: false,
            listing: BTreeSet::new(),
            todo: BTreeSet::new(),
            active: BTreeMap::new(),
            unmarked: None,
            copied: 0,
        }
    }
}

impl Coordinator {
    pub(super) fn drive_takeover(&mut self, cx: &mut Cx) {
        match self.phase {
            Phase::Sealing => self.drive_seal(cx),
            Phase::Reconciling => self.drive_reconcile(cx),
            Phase::Serving | Phase::Fenced => {}
        }
    }

    /// Seals whoever is not sealed, again and again; goes on when all are, drops the missing when time is up.
    pub(super) fn drive_seal(&mut self, cx: &mut Cx) {
        let unsealed: Vec<Rid> =
            self.record.in_sync.keys().filter(|r| !self.takeover.sealed.contains_key(r)).copied().collect();
        let enough = mutant::is(Mutant::SealOne) && !self.takeover.sealed.is_empty();
        if unsealed.is_empty() || enough {
            return self.begin_reconcile(cx);
        }
        for rid in &unsealed {
            if self.takeover.again.get(rid).is_some_and(|t| cx.now < *t) {
                continue;
            }
            self.takeover.again.insert(*rid, cx.now.plus(SEAL_EVERY));
            let held = Ver { term: self.record.activated, seq: Seq(0) };
            let msg = Msg::Seal { epoch: self.record.epoch, held, position: 0, stable: Ver::ZERO };
            self.ask_again(*rid, For::Seal, msg, cx);
        }
        // The others' time begins with the first answer of any kind: while one waits for a lease to run out, they may come.
        let late =
            self.takeover.first_heard.is_some_and(|t| cx.now.since(t) >= SEAL) && !self.takeover.sealed.is_empty();
        // Who answers "wait" is alive and will be sealed; who is silent or refuses is missing.
        let missing = |r: &&Rid| {
            let heard = self.members.get(r).is_some_and(|m| m.up && cx.now.since(m.heard) < SEAL);
            !heard || self.takeover.refused.contains(r)
        };
        let missing: Vec<Rid> = unsealed.iter().filter(missing).copied().collect();
        if late && !missing.is_empty() {
            let base = self.served(self.sealed_stable());
            self.propose(self.drop_of(missing, base), cx);
        }
    }

    /// What the record may hold against a member that is dropped now. The beginning of a term that
    /// the record does not know as served is what some members noted in a take-over that was cut
    /// short; others were as equal, and did not come to note it. Clients were told nothing in that
    /// term: everything that was acknowledged is of the newest served term or before, and the
    /// member had noted the beginning of that one. (A watermark within a term is told only when all
    /// have noted its beginning: a shard that a resize made has one in a term that the record does
    /// not count for it.)
    pub(super) fn served(&self, stable: Ver) -> Ver {
        let of_served = stable.seq.0 > 0 || stable.term <= self.record.activated;
        let counts = of_served || mutant::is(Mutant::UnservedTermsCount);
        if counts { stable } else { Ver { term: self.record.activated, seq: Seq(0) } }
    }

    fn sealed_stable(&self) -> Ver {
        let max = mutant::is(Mutant::StableIsMax);
        let of = |(stable, max_ver): &(Ver, Ver)| if max { *max_ver } else { *stable };
        self.takeover.sealed.values().map(of).max().unwrap_or(Ver::ZERO)
    }

    pub(super) fn seal_wait(&mut self, now: Tick, rid: Rid, us: u64) {
        self.takeover.first_heard.get_or_insert(now);
        self.takeover.again.insert(rid, now.plus(us.clamp(1_000, SEAL_EVERY)));
    }

    pub(super) fn seal_refused(&mut self, now: Tick, rid: Rid) {
        self.takeover.refused.insert(rid);
        self.takeover.again.insert(rid, now.plus(SEAL_EVERY));
    }

    pub(super) fn sealed(&mut self, rid: Rid, stable: Ver, max_ver: Ver, cx: &mut Cx) {
        self.takeover.refused.remove(&rid);
        self.takeover.sealed.insert(rid, (stable, max_ver));
        self.takeover.first_heard.get_or_insert(cx.now);
        match self.phase {
            Phase::Sealing => self.drive_seal(cx),
            Phase::Serving => self.proven(rid, cx),
            Phase::Reconciling | Phase::Fenced => {}
        }
    }

    /// The set changed while taking over: start again with who is left (everything done so far was idempotent).
    pub(super) fn membership_changed(&mut self, cx: &mut Cx) {
        let t = &mut self.takeover;
        t.sealed.retain(|r, _| self.record.in_sync.contains_key(r));
        t.refused.retain(|r| self.record.in_sync.contains_key(r));
        match self.phase {
            Phase::Sealing => self.drive_seal(cx),
            Phase::Reconciling => {
                self.pending.clear();
                self.begin_reconcile(cx);
            }
            Phase::Serving | Phase::Fenced => {}
        }
    }

    fn begin_reconcile(&mut self, cx: &mut Cx) {
        self.phase = Phase::Reconciling;
        let s_star = self.sealed_stable();
        let members = self.required();
        let t = &mut self.takeover;
        t.s_star = s_star;
        // Everybody must hold what is below s*. But one may be storage that was put back, also if it shows nothing of that any more, because
        // another take-over has made it equal in part: only what each knows itself to hold is not compared (seeds 3811, 3021 over real members).
        let least = t.sealed.values().map(|(stable, _)| *stable).min().unwrap_or(Ver::ZERO);
        let believed = mutant::is(Mutant::OneNotesForAll) || mutant::is(Mutant::StableIsMax);
        t.since = if believed { s_star } else { least };
        // It certainly may be if it has not noted that it holds what came before that term, or holds nothing that new while others hold more.
        // Then everything is compared. (Zeroes of what was never written leave no version.)
        let highest: BTreeSet<Ver> = t.sealed.values().map(|(_, max)| *max).collect();
        let lacks = highest.len() > 1 && highest.first().is_some_and(|lowest| *lowest < s_star);
        t.doubtful = lacks || t.since.term < s_star.term;
        if lacks {
            t.since = Ver::ZERO;
        }
        t.todo.clear();
        t.active.clear();
        t.unmarked = None;
        // One member alone is equal to itself; members without anything newer than s* are equal by I2.
        let newer = t.sealed.values().any(|(_, max)| *max > t.since);
        t.listing = if members.len() > 1 && newer && !mutant::is(Mutant::SkipReconcile) {
            members.clone()
        } else {
            BTreeSet::new()
        };
        for rid in self.takeover.listing.clone() {
            let msg = Msg::ChunkList { since: self.takeover.since, from: ChunkIx(0) };
            self.request(rid, For::List, msg, cx);
        }
        self.drive_reconcile(cx);
    }

    pub(super) fn listed(&mut self, rid: Rid, chunks: Vec<(ChunkIx, Ver)>, more: bool, cx: &mut Cx) {
        let last = chunks.last().map(|(c, _)| *c);
        self.takeover.todo.extend(chunks.into_iter().map(|(c, _)| c));
        match (more, last) {
            (true, Some(c)) => {
                let msg = Msg::ChunkList { since: self.takeover.since, from: ChunkIx(c.0 + 1) };
                self.request(rid, For::List, msg, cx);
            }
            _ => {
                self.takeover.listing.remove(&rid);
                self.drive_reconcile(cx);
            }
        }
    }

    fn drive_reconcile(&mut self, cx: &mut Cx) {
        if !self.takeover.listing.is_empty() {
            return;
        }
        while self.takeover.active.len() < PARALLEL {
            let Some(chunk) = self.takeover.todo.pop_first() else { break };
            self.takeover.active.insert(chunk, Recon::default());
            for rid in self.required() {
                self.request(rid, For::Versions(chunk), Msg::ChunkVersions { chunk, since: Ver::ZERO }, cx);
            }
        }
        if self.takeover.active.is_empty() && self.takeover.todo.is_empty() {
            self.mark(cx);
        }
    }

    /// Equal everywhere. Each notes durably that it holds what came before this term, and is served from when all have: a copy of its disk
    /// from before that moment is known by it (seed 1282).
    fn mark(&mut self, cx: &mut Cx) {
        match &self.takeover.unmarked {
            None => {
                let members = self.required();
                self.takeover.unmarked = Some(members.clone());
                let held = Ver { term: self.record.activated, seq: Seq(0) };
                let stable = self.term_begins();
                for rid in members {
                    let msg = Msg::Seal { epoch: self.record.epoch, held, position: 0, stable };
                    self.request(rid, For::Mark, msg, cx);
                }
            }
            Some(left) if left.is_empty() => self.serve(cx),
            Some(_) => {}
        }
    }

    pub(super) fn marked(&mut self, rid: Rid, cx: &mut Cx) {
        if let Some(left) = self.takeover.unmarked.as_mut().filter(|_| self.phase == Phase::Reconciling) {
            left.remove(&rid);
            self.drive_reconcile(cx);
        }
    }

    /// Everything before this term.
    pub(super) fn term_begins(&self) -> Ver {
        Ver { term: self.record.term, seq: Seq(0) }
    }

    /// Equal everywhere, and known to be: serve, as soon as the record says so.
    fn serve(&mut self, cx: &mut Cx) {
        self.phase = Phase::Serving;
        self.stable = self.term_begins();
        self.suspects.clear();
        self.last_read = cx.now;
        self.next_lease = cx.now;
        cx.out.push(Output::Ready);
        self.drive_leases(cx);
        self.begin_queued(cx);
    }

    pub(super) fn versions(&mut self, rid: Rid, chunk: ChunkIx, infos: Vec<BlockInfo>, cx: &mut Cx) {
        let all = self.record.in_sync.len();
        let relied = self.takeover.relied();
        let Some(a) = self.takeover.active.get_mut(&chunk) else { return };
        a.versions.insert(rid, infos);
        if a.versions.len() < all {
            return;
        }
        let mut fetch = Vec::new();
        for i in 0..hf_policy::CHUNK_BLOCKS {
            let block = BlockIx(chunk.first_block().0 + i);
            if let Some(src) = compare(&mut a.items, &a.versions, relied, block, i as usize) {
                a.sources.insert(block);
                fetch.push((src, block));
            }
        }
        for (src, block) in fetch {
            let range = BlockRange { start: block, len: 1 };
            self.request(src, For::Source(chunk, block), Msg::Read { range }, cx);
        }
        self.copy_if_fetched(chunk, cx);
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn source(
        &mut self,
        rid: Rid,
        chunk: ChunkIx,
        block: BlockIx,
        infos: Vec<BlockInfo>,
        data: Bytes,
        cx: &mut Cx,
    ) {
        let relied = self.takeover.relied();
        let Some(a) = self.takeover.active.get_mut(&chunk) else { return };
        let good = super::read::lacks(1, &infos, &data).is_empty();
        if good {
            a.sources.remove(&block);
            for item in a.items.values_mut().flatten().filter(|i| i.block == block) {
                item.content = Content::Data(infos[0].crc, data.clone());
            }
        } else if let Some(i) = a.versions.get_mut(&rid).and_then(|v| v.get_mut(block.in_chunk())) {
            // This member's copy is bad after all: decide again without it.
            i.state = BlockState::Bad;
            a.items.values_mut().for_each(|l| l.retain(|i| i.block != block));
            a.sources.remove(&block);
            if let Some(src) = compare(&mut a.items, &a.versions, relied, block, block.in_chunk()) {
                a.sources.insert(block);
                let range = BlockRange { start: block, len: 1 };
                return self.request(src, For::Source(chunk, block), Msg::Read { range }, cx);
            }
        }
        self.copy_if_fetched(chunk, cx);
    }

    fn copy_if_fetched(&mut self, chunk: ChunkIx, cx: &mut Cx) {
        let Some(a) = self.takeover.active.get_mut(&chunk).filter(|a| a.sources.is_empty() && a.copying == 0) else {
            return;
        };
        let items = std::mem::take(&mut a.items);
        a.copying = items.values().filter(|l| !l.is_empty()).count();
        let early = mutant::is(Mutant::ServeBeforeCopied);
        if a.copying == 0 {
            self.takeover.active.remove(&chunk);
            return self.drive_reconcile(cx);
        }
        if early {
            self.takeover.active.remove(&chunk);
        }
        for (rid, items) in items.into_iter().filter(|(_, l)| !l.is_empty()) {
            self.takeover.copied += items.len() as u64;
            self.request(rid, For::Copy(chunk), Msg::Copy { items }, cx);
        }
        if early {
            self.drive_reconcile(cx);
        }
    }

    pub(super) fn copied(&mut self, _rid: Rid, chunk: ChunkIx, cx: &mut Cx) {
        let Some(a) = self.takeover.active.get_mut(&chunk) else { return };
        a.copying -= 1;
        if a.copying == 0 {
            self.takeover.active.remove(&chunk);
            self.drive_reconcile(cx);
        }
    }
}

/// The block's winner is the highest version that is not bad. Notes what each other member lacks; returns the member to
/// fetch the bytes from, if bytes are needed. Zero is equal to zero at any version (a never-written chunk keeps none).
fn compare(
    items: &mut BTreeMap<Rid, Vec<CopyItem>>,
    versions: &BTreeMap<Rid, Vec<BlockInfo>>,
    relied: Ver,
    block: BlockIx,
    at: usize,
) -> Option<Rid> {
    let good = versions.iter().filter(|(_, v)| !v[at].state.is_bad());
    let good = good.map(|(r, v)| (*r, v[at]));
    let (src, best) = if mutant::is(Mutant::ReconcileOldest) {
        good.min_by_key(|(r, i)| (i.ver, *r))?
    } else {
        good.max_by_key(|(r, i)| (i.ver, std::cmp::Reverse(*r)))?
    };
    // What is not newer than this was acknowledged, or may have been. If its only copy is bad, whoever holds something older was put
    // back from a copy: the block is lost, and must not come back as what it was before (seeds 8476, 12707). Of one that lost the version
    // too nothing is known: what the others have is what there was.
    let bad = versions.values().map(|v| v[at]).filter(|i| i.state == BlockState::Bad && i.ver <= relied);
    if let Some(lost) = bad.map(|i| i.ver).max().filter(|ver| *ver > best.ver) {
        for (rid, has) in versions.iter().map(|(r, v)| (*r, v[at])).filter(|(_, i)| i.ver < lost) {
            let item = CopyItem { block, seen: has.ver, src: lost, content: Content::Bad, repair: false };
            items.entry(rid).or_default().push(item);
        }
        return None;
    }
    let mut needed = false;
    for (rid, v) in versions {
        let has = v[at];
        let bad = has.state.is_bad();
        let equal = has.ver == best.ver || (has.state.is_zero() && best.state.is_zero());
        let forget = mutant::is(Mutant::ForgetZeroes) && best.state.is_zero();
        if (equal && !bad) || forget {
            continue;
        }
        // A bad block goes back to the winner even from a higher version: that was never acknowledged, or the winner would have it.
        // Left alone, whoever was synced later and still had that write would serve it while others do not (seed 1812).
        let repair = bad && has.ver == best.ver;
        let item = CopyItem { block, seen: has.ver, src: best.ver, content: Content::Zero, repair };
        items.entry(*rid).or_default().push(item);
        needed |= !best.state.is_zero();
    }
    needed.then_some(src)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(ver: (u32, u64), state: BlockState) -> Vec<BlockInfo> {
        vec![BlockInfo { ver: Ver::new(ver.0, ver.1), state, ..BlockInfo::default() }]
    }

    /// What each member gets, as (member, version, content), and whom the bytes come from.
    fn decide(members: &[((u32, u64), BlockState)], relied: Ver) -> (Vec<(u64, Ver, Content)>, Option<u64>) {
        let versions = (1..).map(Rid).zip(members.iter().map(|(v, s)| block(*v, *s))).collect();
        let mut items = BTreeMap::new();
        let from = compare(&mut items, &versions, relied, BlockIx(0), 0);
        let list = items.into_iter().flat_map(|(r, l)| l.into_iter().map(move |i| (r.0, i.src, i.content)));
        (list.collect(), from.map(|r| r.0))
    }

    /// Seed 1812: left alone, whoever was synced later and still had that write would serve it while others do not.
    #[test]
    fn a_bad_block_that_was_never_acknowledged_goes_back_to_what_the_others_have() {
        let members = [((1, 3), BlockState::Bad), ((0, 0), BlockState::Absent)];
        assert_eq!(decide(&members, Ver::new(1, 2)), (vec![(1, Ver::ZERO, Content::Zero)], None));
        let members = [((1, 3), BlockState::Bad), ((1, 1), BlockState::Data)];
        assert_eq!(decide(&members, Ver::new(1, 2)).1, Some(2), "its bytes are fetched");
    }

    /// A page that rots takes the versions of 256 blocks with it: the highest of them says nothing about the others.
    #[test]
    fn a_block_that_lost_its_version_goes_back_to_what_the_others_have() {
        let members = [((1, 20), BlockState::Lost), ((1, 3), BlockState::Data)];
        let (items, from) = decide(&members, Ver::new(1, 20));
        assert_eq!((items[0].0, items[0].1, from), (1, Ver::new(1, 3), Some(2)));
        let members = [((1, 20), BlockState::Lost), ((1, 20), BlockState::Data)];
        assert_eq!(decide(&members, Ver::new(1, 20)).1, Some(2));
    }

    /// Seeds 8476 and 12707: the older copy is of a disk that was put back.
    #[test]
    fn a_bad_block_that_may_have_been_acknowledged_is_lost_and_does_not_come_back_as_an_older_one() {
        let members = [((1, 3), BlockState::Bad), ((1, 1), BlockState::Data)];
        assert_eq!(decide(&members, Ver::new(1, 3)), (vec![(2, Ver::new(1, 3), Content::Bad)], None));
        assert_eq!(
            decide(&[members[0], ((1, 3), BlockState::Data)], Ver::new(1, 3)).1,
            Some(2),
            "a whole copy mends it"
        );
    }
}

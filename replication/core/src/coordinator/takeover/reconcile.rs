//! Reconciling: the sealed members are made equal, chunk by chunk, and note it durably; then the
//! volume serves.

use super::compare::compare;
use super::{PARALLEL, Recon};
use crate::coordinator::pending::For;
use crate::coordinator::requests::reads::lacks;
use crate::coordinator::{Coordinator, Cx, Output, Phase};
use crate::message::{BlockInfo, BlockState, Content, Msg};
use bytes::Bytes;
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BlockIx, BlockRange, CHUNK_BLOCKS, ChunkIx, Rid, Seq, Ver, broken, invariant};
use std::collections::BTreeSet;

impl Coordinator {
    /// All members are sealed: decides from what they told how much has to be compared, and begins.
    pub(super) fn begin_reconcile(&mut self, cx: &mut Cx) {
        invariant!(
            matches!(self.phase, Phase::Sealing | Phase::Reconciling),
            "members are made equal in {:?}",
            self.phase
        );
        self.phase = Phase::Reconciling;
        let s_star = self.sealed_stable();
        let members = self.required();
        let t = &mut self.takeover;
        invariant!(
            t.sealed.len() == members.len() || mutant::is(Mutant::SealOne),
            "{} of {} members are sealed",
            t.sealed.len(),
            members.len()
        );
        t.s_star = s_star;
        // Every member must hold what is below s*. But a member's storage may have been put back,
        // even if it shows nothing of that any more because another take-over has made it equal in
        // part: only what each knows itself to hold is not compared (seeds 3811, 3021 over real
        // members).
        let least = t.sealed.values().map(|(stable, _)| *stable).min().unwrap_or(Ver::ZERO);
        let believed = mutant::is(Mutant::OneNotesForAll) || mutant::is(Mutant::StableIsMax);
        t.since = if believed { s_star } else { least };
        // It may certainly have been put back if it has not noted that it holds what came before
        // that term, or holds nothing that new while others hold more. Then everything is compared.
        // (Zeroes of what was never written leave no version.)
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

    /// A member has told a page of the chunks that may differ.
    pub(in crate::coordinator) fn listed(&mut self, rid: Rid, chunks: Vec<(ChunkIx, Ver)>, more: bool, cx: &mut Cx) {
        invariant!(self.phase == Phase::Reconciling, "chunks are listed in {:?}", self.phase);
        invariant!(self.takeover.listing.contains(&rid), "replica {rid} lists its chunks twice");
        let last = chunks.last().map(|(c, _)| *c);
        self.takeover.todo.extend(chunks.into_iter().map(|(c, _)| c));
        match (more, last) {
            (true, Some(c)) => {
                let msg = Msg::ChunkList { since: self.takeover.since, from: ChunkIx(c.0.saturating_add(1)) };
                self.request(rid, For::List, msg, cx);
            }
            _ => {
                self.takeover.listing.remove(&rid);
                self.drive_reconcile(cx);
            }
        }
    }

    /// Begins as many chunks as may be compared at once; when none is left, members are to note
    /// that they are equal.
    pub(super) fn drive_reconcile(&mut self, cx: &mut Cx) {
        invariant!(self.phase == Phase::Reconciling, "chunks are made equal in {:?}", self.phase);
        if !self.takeover.listing.is_empty() {
            return;
        }
        while self.takeover.active.len() < PARALLEL {
            let Some(chunk) = self.takeover.todo.pop_first() else { break };
            let before = self.takeover.active.insert(chunk, Recon::default());
            invariant!(before.is_none(), "chunk {} is reconciled twice at once", chunk.0);
            for rid in self.required() {
                self.request(rid, For::Versions(chunk), Msg::ChunkVersions { chunk, since: Ver::ZERO }, cx);
            }
        }
        if self.takeover.active.is_empty() && self.takeover.todo.is_empty() {
            self.mark(cx);
        }
    }

    /// All are equal. Each member notes durably that it holds what came before this term, and the
    /// volume is served when all have: from then on a copy of a member's disk from before that
    /// moment is recognised by it (seed 1282).
    fn mark(&mut self, cx: &mut Cx) {
        match &self.takeover.unmarked {
            None => {
                let members = self.required();
                invariant!(!members.is_empty(), "a volume without members is to be served");
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

    /// A member has noted that it holds everything before this term.
    pub(in crate::coordinator) fn marked(&mut self, rid: Rid, cx: &mut Cx) {
        invariant!(self.phase == Phase::Reconciling, "replica {rid} notes that it is equal in {:?}", self.phase);
        let Some(left) = self.takeover.unmarked.as_mut() else {
            return broken!("replica {rid} notes that it is equal, and was not asked to");
        };
        let awaited = left.remove(&rid);
        invariant!(awaited, "replica {rid} notes that it is equal twice");
        self.drive_reconcile(cx);
    }

    /// The version that every write of this term is newer than, and everything before it is not.
    pub(in crate::coordinator) fn term_begins(&self) -> Ver {
        Ver { term: self.record.term, seq: Seq(0) }
    }

    /// All members are equal and have noted it: the volume serves as soon as the record says so.
    fn serve(&mut self, cx: &mut Cx) {
        invariant!(self.phase == Phase::Reconciling, "the volume is served in {:?}", self.phase);
        invariant!(self.sync.attempt.is_none() && self.scrub.walk.is_none(), "copying began before the volume serves");
        self.phase = Phase::Serving;
        self.writes.begin(self.term_begins());
        self.members.suspects.clear();
        self.reads.last_read = cx.now;
        self.leases.next = cx.now;
        cx.out.push(Output::Ready);
        self.drive_leases(cx);
        self.begin_queued(cx);
    }

    /// A member has told what it holds of a chunk. When all have, what differs is fetched and copied.
    pub(in crate::coordinator) fn versions(&mut self, rid: Rid, chunk: ChunkIx, infos: Vec<BlockInfo>, cx: &mut Cx) {
        let all = self.record.in_sync.len();
        let relied = self.takeover.relied();
        let Some(a) = self.takeover.active.get_mut(&chunk) else {
            return broken!("chunk {} is compared, and not being reconciled", chunk.0);
        };
        invariant!(infos.len() == CHUNK_BLOCKS as usize, "a chunk of {} blocks is compared", infos.len());
        let before = a.versions.insert(rid, infos);
        invariant!(before.is_none(), "replica {rid} tells of chunk {} twice", chunk.0);
        if a.versions.len() < all {
            return;
        }
        let mut fetch = Vec::new();
        for i in 0..CHUNK_BLOCKS {
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

    /// A member has supplied a block that others lack.
    pub(in crate::coordinator) fn source(
        &mut self,
        rid: Rid,
        (chunk, block): (ChunkIx, BlockIx),
        infos: Vec<BlockInfo>,
        data: Bytes,
        cx: &mut Cx,
    ) {
        let relied = self.takeover.relied();
        let Some(a) = self.takeover.active.get_mut(&chunk) else {
            return broken!("a block of chunk {} is fetched, and the chunk is not being reconciled", chunk.0);
        };
        let awaited = a.sources.remove(&block);
        invariant!(awaited, "block {} is fetched twice", block.0);
        let good = lacks(1, &infos, &data).is_empty();
        if good {
            for item in a.items.values_mut().flatten().filter(|i| i.block == block) {
                item.content = Content::Data(infos[0].crc, data.clone());
            }
        } else if let Some(i) = a.versions.get_mut(&rid).and_then(|v| v.get_mut(block.in_chunk())) {
            // This member's copy is bad after all: decide again without it.
            i.state = BlockState::Bad;
            a.items.values_mut().for_each(|l| l.retain(|i| i.block != block));
            if let Some(src) = compare(&mut a.items, &a.versions, relied, block, block.in_chunk()) {
                a.sources.insert(block);
                let range = BlockRange { start: block, len: 1 };
                return self.request(src, For::Source(chunk, block), Msg::Read { range }, cx);
            }
        } else {
            broken!("replica {rid} supplies block {}, and has told nothing of it", block.0);
        }
        self.copy_if_fetched(chunk, cx);
    }

    /// Sends the chunk's copies when all of their bytes are there.
    fn copy_if_fetched(&mut self, chunk: ChunkIx, cx: &mut Cx) {
        let Some(a) = self.takeover.active.get_mut(&chunk) else {
            return broken!("chunk {} is to be copied, and not being reconciled", chunk.0);
        };
        if !a.sources.is_empty() {
            return;
        }
        invariant!(a.copying == 0, "chunk {} is copied twice", chunk.0);
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

    /// A member has taken its copies of a chunk.
    pub(in crate::coordinator) fn copied(&mut self, chunk: ChunkIx, cx: &mut Cx) {
        let Some(a) = self.takeover.active.get_mut(&chunk) else {
            return invariant!(mutant::is(Mutant::ServeBeforeCopied), "chunk {} was copied before", chunk.0);
        };
        invariant!(a.copying > 0, "more copies of chunk {} are answered than were sent", chunk.0);
        a.copying = a.copying.saturating_sub(1);
        if a.copying == 0 {
            self.takeover.active.remove(&chunk);
            self.drive_reconcile(cx);
        }
    }
}

//! Bringing a member that is out back in, under live writes (protocol §7). Incremental and full are one path: full is base 0.
//!
//! 1. SyncStart in the record; the target promises this term (Seal).
//! 2. From then on every new write goes to it too. M is the last number before that.
//! 3. Its chunks above its base (its own divergent writes), and, once everything up to M is on the whole set, a source's.
//! 4. Chunk by chunk (`copy.rs`): what is newer than the base on both, what differs is read from a source and copied by
//!    compare-and-set. The target is asked only about chunks that it listed: in others it has nothing above its base but live
//!    writes, and those win.
//! 5. It counts for every acknowledgement; when all that clients were told of is on it too, and it has noted that, Add is proposed.
//!
//! Any failure before 5 ends the attempt and changes nothing: the base stays, the next attempt compares versions again. In 5
//! the target is given up only by a committed Drop.

mod copy;
mod end;
mod turn;

pub(super) use turn::{Permit, PutOff};

use super::link::For;
use super::{Coordinator, Cx, Output, Phase, SyncStatus};
use crate::message::{Msg, WriteKind};
use crate::timing::{DEAD, SEAL_EVERY};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BLOCK_SIZE, BlockRange, CHUNK_BLOCKS, ChunkIx, Rid, StoreUuid, Tick, Ver};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of client writes that the target may be behind; beyond that clients wait for it too.
const MIRROR_BYTES: usize = 32 << 20;
/// The longest zero that a target notes chunk by chunk.
const KEPT_CHUNKS: u64 = 1024;

/// Where the attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncStage {
    /// SyncStart is proposed.
    Proposed,
    /// The target is asked to promise.
    Sealing,
    /// Finding out what differs.
    Listing,
    /// Copying.
    Copying,
    /// Counted for every acknowledgement; Add is next.
    Joining,
}

/// The attempt.
pub(super) struct Sync {
    pub rid: Rid,
    pub sync_id: u64,
    pub stage: SyncStage,
    store: StoreUuid,
    base: Ver,
    /// What is newer is compared, see [`since`].
    since: Ver,
    ask_again: Tick,
    /// Since when it is asked to promise.
    sealing: Option<Tick>,
    /// M: the last write that was not mirrored.
    mirror_from: u64,
    /// Mirrored writes that the target has not acknowledged, with their bytes.
    mirrored: BTreeMap<u64, usize>,
    behind: usize,
    /// Those of them that no member has applied yet, and what is sent to the target once one has.
    deferred: BTreeMap<u64, Msg>,
    target_listed: bool,
    source_listing: Option<Rid>,
    todo: BTreeSet<ChunkIx>,
    /// Those in which the target has something above its base: only of them it is asked what.
    theirs: BTreeSet<ChunkIx>,
    copying: copy::Copying,
    total: u64,
    done: u64,
    copied: u64,
    /// It has noted, durably, that it holds what came before this term.
    marked: bool,
    pub failed: Option<&'static str>,
}

impl Sync {
    fn mirrors(&self) -> bool {
        matches!(self.stage, SyncStage::Listing | SyncStage::Copying)
    }
}

/// When the next attempt may begin, per member, and how long it will be waited after that.
pub(super) type Retry = BTreeMap<Rid, (Tick, u64)>;

impl Coordinator {
    /// The target of a join: it counts like a member from before its Add is proposed (I2).
    pub(super) fn joining(&self) -> Option<Rid> {
        self.sync.as_ref().filter(|s| s.stage == SyncStage::Joining).map(|s| s.rid)
    }

    pub(super) fn drive_sync(&mut self, cx: &mut Cx) {
        let idle = self.sync.is_none() && self.record.out.is_empty() && self.permit == Permit::None;
        if self.phase != Phase::Serving || idle {
            return;
        }
        if !self.may_sync() {
            return self.sync_unwanted(cx);
        }
        let over = |s: &Sync| s.failed.is_some() || !self.is_wanted(s.rid);
        if self.better_candidate(cx.now) {
            self.give_way(cx);
        } else if self.sync.as_ref().is_some_and(|s| over(s) && s.stage != SyncStage::Joining) {
            self.end_sync(cx);
        }
        match self.sync.as_ref().map(|s| s.stage) {
            None => self.begin_sync(cx),
            Some(SyncStage::Proposed) => self.drive_proposed(cx),
            Some(SyncStage::Sealing) => self.drive_target_seal(cx),
            Some(SyncStage::Listing) => self.drive_listing(cx),
            Some(SyncStage::Copying) => self.drive_copying(cx),
            Some(SyncStage::Joining) => self.drive_joining(cx),
        }
    }

    fn begin_sync(&mut self, cx: &mut Cx) {
        let Some(rid) = self.sync_candidate(cx.now) else { return self.give_place_back(cx) };
        if !self.permitted(cx) {
            return;
        }
        let Some(o) = self.record.out.get(&rid) else { return };
        self.sync_count += 1;
        self.sync = Some(Sync {
            rid,
            sync_id: u64::from(self.record.term.0) << 32 | self.sync_count,
            stage: SyncStage::Proposed,
            store: o.store_uuid.unwrap_or_default(),
            base: o.base,
            since: Ver::ZERO,
            ask_again: cx.now,
            sealing: None,
            mirror_from: 0,
            mirrored: BTreeMap::new(),
            behind: 0,
            deferred: BTreeMap::new(),
            target_listed: false,
            source_listing: None,
            todo: BTreeSet::new(),
            theirs: BTreeSet::new(),
            copying: copy::Copying::default(),
            total: 0,
            done: 0,
            copied: 0,
            marked: false,
            failed: None,
        });
        self.drive_proposed(cx);
    }

    fn drive_proposed(&mut self, cx: &mut Cx) {
        let Some((rid, sync_id)) = self.sync.as_ref().map(|s| (s.rid, s.sync_id)) else { return };
        if let Some(o) = self.record.out.get(&rid).filter(|o| o.sync_id == Some(sync_id)).copied() {
            if let Some(s) = self.sync.as_mut() {
                // What the record says now: its storage may have been made anew since the attempt was decided on (seed 3357).
                s.store = o.store_uuid.unwrap_or_default();
                s.base = o.base;
                s.stage = SyncStage::Sealing;
            }
            return self.drive_target_seal(cx);
        }
        self.propose(super::Change::SyncStart { rid, sync_id }, cx);
    }

    fn drive_target_seal(&mut self, cx: &mut Cx) {
        let heard = self.sync.as_ref().and_then(|s| self.members.get(&s.rid)).map_or(cx.now, |m| m.heard);
        let Some(s) = self.sync.as_mut().filter(|s| cx.now >= s.ask_again) else { return };
        let since = *s.sealing.get_or_insert(cx.now);
        if cx.now.since(since.max(heard)) >= DEAD {
            // It would hold its place for as long as it likes.
            return self.fail_sync("the target does not answer");
        }
        s.ask_again = cx.now.plus(SEAL_EVERY);
        let (rid, held) = (s.rid, s.base);
        let position = self.dropped_at(rid);
        let msg = Msg::Seal { epoch: self.record.epoch, held, position, stable: Ver::ZERO };
        self.ask_again(rid, For::SyncSeal, msg, cx);
    }

    pub(super) fn target_wait(&mut self, now: Tick, us: u64) {
        if let Some(s) = self.sync.as_mut() {
            s.ask_again = now.plus(us.clamp(1_000, SEAL_EVERY));
        }
    }

    /// The target is fenced for everybody else and its pipeline is empty: mirror from the next write on.
    pub(super) fn target_sealed(&mut self, watermark: Ver, cx: &mut Cx) {
        let (seq, target) = (self.seq, self.sync.as_ref().map(|s| s.rid));
        let known = target.is_some_and(|rid| self.dropped_at(rid) > 0);
        let trusted = known || mutant::is(Mutant::SyncTrustsBase);
        let Some(s) = self.sync.as_mut().filter(|s| s.stage == SyncStage::Sealing) else { return };
        s.stage = SyncStage::Listing;
        s.mirror_from = seq;
        s.since = if trusted { s.base } else { since(s.base, watermark) };
        let (rid, since) = (s.rid, s.since);
        let msg = Msg::ChunkList { since, from: ChunkIx(0) };
        self.request(rid, For::SyncList, msg, cx);
        self.drive_listing(cx);
    }

    /// A new write on its way: does it go to the target too, and must the client wait for that?
    pub(super) fn mirror(&mut self, seq: u64, range: BlockRange, kind: &WriteKind, cx: &mut Cx) -> Option<Rid> {
        let s = self.sync.as_mut().filter(|s| s.mirrors() && s.failed.is_none())?;
        let zero = matches!(kind, WriteKind::Zero { .. });
        let trim = zero && mutant::is(Mutant::SyncForgetsTrims);
        if trim || mutant::is(Mutant::SyncWithoutMirror) {
            return None;
        }
        let bytes = if zero { BLOCK_SIZE } else { range.bytes() as usize };
        s.mirrored.insert(seq, bytes);
        s.behind += bytes;
        let (rid, slow) = (s.rid, s.behind > MIRROR_BYTES);
        let kind = self.kind_for(rid, range, kind);
        let msg = Msg::Write { seq, range, stable: Ver::ZERO, kind };
        // If all members refuse it for lack of space it was never there, and must not be on the target either (I15).
        match self.sync.as_mut().filter(|_| !zero && !slow) {
            Some(s) => drop(s.deferred.insert(seq, msg)),
            None => self.request(rid, For::Mirror(seq), msg, cx),
        }
        slow.then_some(rid)
    }

    /// A member has applied it, so it will be on all of them: the target gets it too.
    pub(super) fn mirror_now(&mut self, seq: u64, cx: &mut Cx) {
        let late = self.sync.as_mut().and_then(|s| Some((s.rid, s.deferred.remove(&seq)?)));
        if let Some((rid, msg)) = late {
            self.request(rid, For::Mirror(seq), msg, cx);
        }
    }

    /// It was refused everywhere.
    pub(super) fn mirror_never(&mut self, seq: u64) {
        if let Some(s) = self.sync.as_mut()
            && s.deferred.remove(&seq).is_some()
        {
            s.behind -= s.mirrored.remove(&seq).unwrap_or(0);
        }
    }

    /// A zero is kept in mind by a member that is being brought in, unless that would make entries for very much of the volume:
    /// then the attempt ends, and the next one finds by comparison what is zero.
    pub(super) fn kind_for(&mut self, rid: Rid, range: BlockRange, kind: &WriteKind) -> WriteKind {
        let target = self.sync.as_ref().is_some_and(|s| s.rid == rid);
        match kind {
            WriteKind::Zero { .. } if target => {
                if u64::from(range.len) > KEPT_CHUNKS * CHUNK_BLOCKS {
                    self.suspect(rid);
                }
                WriteKind::Zero { keep: !mutant::is(Mutant::SyncForgetsZeroesOfNothing) }
            }
            kind => kind.clone(),
        }
    }

    pub(super) fn mirror_acked(&mut self, seq: u64, rid: Rid, cx: &mut Cx) {
        if let Some(s) = self.sync.as_mut().filter(|s| s.rid == rid)
            && let Some(bytes) = s.mirrored.remove(&seq)
        {
            s.behind -= bytes;
        }
        if self.writes.get(&seq).is_some_and(|w| w.waiting.contains(&rid)) {
            self.write_acked(seq, rid, cx);
        }
    }

    /// Once everything up to M is on the whole set, any member's list is complete.
    fn drive_listing(&mut self, cx: &mut Cx) {
        // (A write that is held back because too few members are in sync is on all of those that are.)
        let can_send = |r: &Rid| self.members.get(r).is_some_and(|m| m.up && !m.unproven);
        if !self.record.in_sync.keys().any(can_send) {
            // It would hold its place until somebody is back.
            return self.fail_sync("no source answers");
        }
        let before = self.sync.as_ref().map_or(0, |s| s.mirror_from);
        let early = mutant::is(Mutant::SyncListsEarly);
        if !early && self.writes.range(..=before).any(|(_, w)| !w.waiting.is_empty()) {
            return;
        }
        let source = self.choose(&BTreeSet::new());
        let Some(s) = self.sync.as_mut() else { return };
        if let (None, Some(x)) = (s.source_listing, source) {
            s.source_listing = Some(x);
            let msg = Msg::ChunkList { since: s.since, from: ChunkIx(0) };
            self.request(x, For::SyncList, msg, cx);
        }
    }

    pub(super) fn sync_listed(&mut self, rid: Rid, chunks: Vec<(ChunkIx, Ver)>, more: bool, cx: &mut Cx) {
        let Some(s) = self.sync.as_mut().filter(|s| s.stage == SyncStage::Listing) else { return };
        let last = chunks.last().map(|(c, _)| *c);
        let chunks = chunks.into_iter().map(|(c, _)| c);
        if rid != s.rid {
            s.todo.extend(chunks);
        } else if !mutant::is(Mutant::SyncForgetsTarget) {
            s.theirs.extend(chunks.clone());
            s.todo.extend(chunks);
        }
        if let (true, Some(c)) = (more, last) {
            let msg = Msg::ChunkList { since: s.since, from: ChunkIx(c.0 + 1) };
            return self.request(rid, For::SyncList, msg, cx);
        }
        if rid == s.rid {
            s.target_listed = true;
        } else if s.source_listing == Some(rid) {
            // Marks the source's list as complete.
            s.source_listing = Some(Rid(0));
        }
        if s.target_listed && s.source_listing == Some(Rid(0)) {
            s.stage = SyncStage::Copying;
            s.total = s.todo.len() as u64;
            if self.put_off_lacks_less() {
                return self.fail_sync("the one that was being filled before needs less copying");
            }
            self.drive_copying(cx);
        }
    }

    /// From here on the target counts. Writes that are on their way wait for it too.
    fn begin_joining(&mut self, cx: &mut Cx) {
        let Some(s) = self.sync.as_mut().filter(|s| s.failed.is_none()) else { return };
        s.stage = SyncStage::Joining;
        let (rid, deferred) = (s.rid, std::mem::take(&mut s.deferred));
        for (seq, w) in &mut self.writes {
            if s.mirrored.contains_key(seq) {
                w.waiting.insert(rid);
                w.held = false;
            }
        }
        for (seq, msg) in deferred {
            self.request(rid, For::Mirror(seq), msg, cx);
        }
        self.next_lease = cx.now;
        self.drive_joining(cx);
    }

    /// What clients were told of before must be on it before Add is proposed.
    pub(super) fn drive_joining(&mut self, cx: &mut Cx) {
        let Some(s) = self.sync.as_ref() else { return };
        if s.failed.is_some() || self.suspects.contains(&s.rid) {
            return; // given up by a Drop, see membership
        }
        let lacks = s.mirrored.keys().any(|seq| !self.writes.contains_key(seq));
        if lacks && !mutant::is(Mutant::JoinEarly) {
            return;
        }
        let (rid, store_uuid) = (s.rid, s.store);
        if !s.marked {
            let asked = self.pending.values().any(|p| p.what == For::SyncMark);
            let (held, stable) = (s.base, self.term_begins());
            let msg = Msg::Seal { epoch: self.record.epoch, held, position: 0, stable };
            if !asked {
                self.request(rid, For::SyncMark, msg, cx);
            }
            return;
        }
        self.propose(super::Change::Add { rid, store_uuid }, cx);
    }

    pub(super) fn target_marked(&mut self, cx: &mut Cx) {
        if let Some(s) = self.sync.as_mut() {
            s.marked = true;
            self.drive_joining(cx);
        }
    }

    /// What is told to a member as its watermark: nothing that it has not been made equal to.
    pub(super) fn stable_for(&self, rid: Rid) -> Ver {
        if self.record.in_sync.contains_key(&rid) { self.stable } else { Ver::ZERO }
    }

    pub(super) fn sync_status(&self) -> Option<SyncStatus> {
        let s = self.sync.as_ref()?;
        Some(SyncStatus {
            rid: s.rid,
            stage: s.stage,
            chunks: s.total,
            chunks_done: s.done,
            copied_blocks: s.copied,
            behind_bytes: s.behind as u64,
        })
    }
}

/// Above which version a target is compared that has not shown that its journal is as far as when
/// it was dropped: the base or the target's own watermark, whichever is lower, for it may be a copy
/// from before, with newer writes than the ones it lacks (seed 906). A base that is a term's
/// beginning says nothing of that term's writes (a take-over after it was cut short); then the
/// target's own watermark says it, which is of that term or a newer one, and so of the same
/// history.
fn since(base: Ver, watermark: Ver) -> Ver {
    let begins = base > Ver::ZERO && base.seq.0 == 0 && watermark.term >= base.term;
    if begins { watermark } else { base.min(watermark) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_compared_above_what_it_surely_holds() {
        let v = Ver::new;
        assert_eq!(since(v(3, 9), v(3, 7)), v(3, 7));
        assert_eq!(since(v(3, 7), v(3, 9)), v(3, 7));
        // All of term 3 was there when it was dropped, or as much as the target knows of it; it may
        // have noted a newer term.
        assert_eq!(since(v(3, 0), v(3, 9)), v(3, 9));
        assert_eq!(since(v(3, 0), v(4, 0)), v(4, 0));
        // Another history, or new storage.
        assert_eq!(since(Ver::ZERO, v(3, 9)), Ver::ZERO);
        assert_eq!(since(v(4, 0), v(3, 9)), v(3, 9));
    }
}

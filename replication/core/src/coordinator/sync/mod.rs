//! Bringing a replica that is out back in, under live writes (protocol §7). Incremental and full
//! are one path: full is base 0.
//!
//! 1. SyncStart in the record; the target promises this term (Seal).
//! 2. From then on every new write goes to it too (`mirror.rs`). M is the last number before that.
//! 3. Its chunks above its base (its own divergent writes), and, once everything up to M is on the
//!    whole set, a source's.
//! 4. Chunk by chunk (`copy.rs`): what is newer than the base on both, what differs is read from a
//!    source and copied by compare-and-set. The target is asked only about chunks that it listed:
//!    in others it has nothing above its base but live writes, and those win.
//! 5. It counts for every acknowledgement; when all that clients were told of is on it too, and it
//!    has noted that, Add is proposed.
//!
//! Any failure before 5 ends the attempt and changes nothing: the base stays, the next attempt
//! compares versions again. In 5 the target is given up only by a committed Drop. Whose turn it is
//! stands in `turn.rs`, how an attempt ends in `end.rs`, how much may be in flight in `width.rs`.

mod copy;
mod end;
mod mirror;
mod turn;
mod width;

pub(super) use turn::{Permit, PutOff};

use super::pending::For;
use super::{Coordinator, Cx, Output, Phase, Record, SyncStatus};
use crate::message::Msg;
use crate::timing::{DEAD, SEAL_EVERY};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{ChunkIx, Rid, StoreUuid, Tick, Ver, broken, invariant};
use std::collections::{BTreeMap, BTreeSet};
use width::Width;

/// The stage of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncStage {
    /// SyncStart is proposed.
    Proposed,
    /// The target is asked to promise this term.
    Sealing,
    /// The target and a source list the chunks that may differ.
    Listing,
    /// Chunks are compared and copied.
    Copying,
    /// The target counts for every acknowledgement; Add is next.
    Joining,
}

/// Whether a source has told its chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    NotAsked,
    Asked(Rid),
    Complete,
}

/// An attempt to bring one replica in.
pub(super) struct Attempt {
    pub rid: Rid,
    /// The number of the attempt in the record: the term, and a count within it.
    sync_id: u64,
    pub stage: SyncStage,
    /// The target's storage, as the record says.
    store: StoreUuid,
    /// The target holds every acknowledged write up to here, as the record says.
    base: Ver,
    /// What is newer than this is compared, see [`since`].
    since: Ver,
    /// When the target is asked to promise again.
    ask_again: Tick,
    /// Since when it is asked to promise.
    sealing: Option<Tick>,
    /// M: the last write that was not mirrored.
    mirror_from: u64,
    /// Mirrored writes that the target has not acknowledged, with their bytes.
    mirrored: BTreeMap<u64, usize>,
    /// The sum of these bytes.
    behind: usize,
    /// Mirrored writes that no member has applied yet, and what is sent to the target once one has.
    deferred: BTreeMap<u64, Msg>,
    target_listed: bool,
    source_listed: Source,
    /// Chunks that are not begun.
    todo: BTreeSet<ChunkIx>,
    /// Chunks in which the target has something above its base: only of them it is asked what.
    theirs: BTreeSet<ChunkIx>,
    copying: copy::Copying,
    /// Chunks to compare, those that are done, and blocks that were copied.
    total: u64,
    done: u64,
    copied: u64,
    /// The target has noted, durably, that it holds what came before this term.
    marked: bool,
    /// Why the attempt cannot go on, if it cannot.
    pub failed: Option<&'static str>,
}

impl Attempt {
    fn new(now: Tick, rid: Rid, sync_id: u64, store: StoreUuid, base: Ver) -> Attempt {
        Attempt {
            rid,
            sync_id,
            stage: SyncStage::Proposed,
            store,
            base,
            since: Ver::ZERO,
            ask_again: now,
            sealing: None,
            mirror_from: 0,
            mirrored: BTreeMap::new(),
            behind: 0,
            deferred: BTreeMap::new(),
            target_listed: false,
            source_listed: Source::NotAsked,
            todo: BTreeSet::new(),
            theirs: BTreeSet::new(),
            copying: copy::Copying::default(),
            total: 0,
            done: 0,
            copied: 0,
            marked: false,
            failed: None,
        }
    }

    fn mirrors(&self) -> bool {
        matches!(self.stage, SyncStage::Listing | SyncStage::Copying)
    }

    fn check(&self) -> Result<(), String> {
        let behind: usize = self.mirrored.values().sum();
        if self.behind != behind {
            return Err(format!("the target is {behind} bytes behind, and {} are counted", self.behind));
        }
        if !self.deferred.keys().all(|seq| self.mirrored.contains_key(seq)) {
            return Err("a write is deferred that is not mirrored".into());
        }
        if self.mirrored.keys().next().is_some_and(|seq| *seq <= self.mirror_from) {
            return Err(format!("a write up to {} is mirrored", self.mirror_from));
        }
        match self.stage {
            SyncStage::Proposed | SyncStage::Sealing if !self.mirrored.is_empty() => {
                Err(format!("writes are mirrored in {:?}", self.stage))
            }
            SyncStage::Joining if !self.deferred.is_empty() || !self.todo.is_empty() || !self.copying.is_empty() => {
                Err("the target joins before everything was sent to it".into())
            }
            SyncStage::Copying | SyncStage::Joining if self.done > self.total => {
                Err(format!("{} of {} chunks are done", self.done, self.total))
            }
            _ => self.copying.check(&self.todo),
        }
    }
}

/// When the next attempt may begin, per replica, and how long it will be waited after that, in
/// microseconds.
pub(super) type Retry = BTreeMap<Rid, (Tick, u64)>;

/// Bringing replicas in: at most one attempt at a time, and what is remembered between attempts.
#[derive(Default)]
pub(super) struct Sync {
    pub attempt: Option<Attempt>,
    /// Replicas whose last attempt failed.
    pub retry: Retry,
    /// A fill that was put off for a replica that came back.
    pub put_off: Option<PutOff>,
    /// Attempts of this attachment, so far.
    count: u64,
    pub permit: Permit,
    pub width: Width,
}

impl Sync {
    /// The replica that is being brought in.
    pub fn target(&self) -> Option<Rid> {
        self.attempt.as_ref().map(|s| s.rid)
    }

    /// When a replica may be tried again.
    pub fn next_retry(&self) -> Option<Tick> {
        self.retry.values().map(|(at, _)| *at).min()
    }

    /// Mirrored writes that the target has not acknowledged, and those of them that were not sent
    /// to it yet.
    pub fn mirrored(&self) -> impl Iterator<Item = (u64, bool)> {
        let of = |s: &Attempt| -> Vec<(u64, bool)> {
            s.mirrored.keys().map(|seq| (*seq, s.deferred.contains_key(seq))).collect()
        };
        self.attempt.iter().flat_map(of)
    }

    /// Messages of copies that the target has not answered, by number, and the pieces that are being read.
    pub fn copies(&self) -> (BTreeSet<u64>, BTreeSet<(ChunkIx, hf_policy::BlockIx)>) {
        self.attempt.as_ref().map(|s| s.copying.outstanding()).unwrap_or_default()
    }

    /// What must hold of it between steps.
    pub fn check(&self, record: &Record) -> Result<(), String> {
        self.width.check()?;
        let Some(s) = &self.attempt else { return Ok(()) };
        if !record.out.contains_key(&s.rid) {
            return Err(format!("replica {} is brought in, and is not out", s.rid));
        }
        if self.permit != Permit::Granted {
            return Err(format!("replica {} is brought in without a place", s.rid));
        }
        s.check()
    }
}

impl Coordinator {
    /// The target of a join: it counts like a member from before its Add is proposed (I2).
    pub(super) fn joining(&self) -> Option<Rid> {
        self.sync.attempt.as_ref().filter(|s| s.stage == SyncStage::Joining).map(|s| s.rid)
    }

    /// After every input: begins, goes on with, or ends an attempt.
    pub(super) fn drive_sync(&mut self, cx: &mut Cx) {
        let idle = self.sync.attempt.is_none() && self.record.out.is_empty() && self.sync.permit == Permit::None;
        if self.phase != Phase::Serving || idle {
            return;
        }
        if !self.may_sync() {
            return self.sync_unwanted(cx);
        }
        let over = |s: &Attempt| s.failed.is_some() || !self.is_wanted(s.rid);
        if self.better_candidate(cx.now) {
            self.give_way(cx);
        } else if self.sync.attempt.as_ref().is_some_and(|s| over(s) && s.stage != SyncStage::Joining) {
            self.end_sync(cx);
        }
        match self.sync.attempt.as_ref().map(|s| s.stage) {
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
        let Some(o) = self.record.out.get(&rid) else {
            return broken!("replica {rid} is to be brought in, and is not out");
        };
        self.sync.count += 1;
        invariant!(self.sync.count < 1 << 32, "the count of attempts runs into the term");
        let sync_id = u64::from(self.record.term.0) << 32 | self.sync.count;
        let (store, base) = (o.store_uuid.unwrap_or_default(), o.base);
        self.sync.attempt = Some(Attempt::new(cx.now, rid, sync_id, store, base));
        self.drive_proposed(cx);
    }

    fn drive_proposed(&mut self, cx: &mut Cx) {
        let Some(s) = self.sync.attempt.as_mut() else {
            return broken!("a sync goes on that has ended");
        };
        invariant!(s.stage == SyncStage::Proposed, "SyncStart is proposed in {:?}", s.stage);
        let (rid, sync_id) = (s.rid, s.sync_id);
        if let Some(o) = self.record.out.get(&rid).filter(|o| o.sync_id == Some(sync_id)) {
            // What the record says now: its storage may have been made anew since the attempt was
            // decided on (seed 3357).
            s.store = o.store_uuid.unwrap_or_default();
            s.base = o.base;
            s.stage = SyncStage::Sealing;
            return self.drive_target_seal(cx);
        }
        self.propose(super::Change::SyncStart { rid, sync_id }, cx);
    }

    fn drive_target_seal(&mut self, cx: &mut Cx) {
        let heard = self.sync.target().and_then(|r| self.members.get(&r)).map_or(cx.now, |m| m.heard);
        let Some(s) = self.sync.attempt.as_mut() else {
            return broken!("a target is sealed, and there is none");
        };
        invariant!(s.stage == SyncStage::Sealing, "the target is sealed in {:?}", s.stage);
        if cx.now < s.ask_again {
            return;
        }
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

    /// The target waits for a lease to run out, and is to be asked again in `us` microseconds.
    pub(super) fn target_wait(&mut self, now: Tick, us: u64) {
        match self.sync.attempt.as_mut() {
            Some(s) => s.ask_again = now.plus(us.clamp(1_000, SEAL_EVERY)),
            None => broken!("a target answers, and there is none"),
        }
    }

    /// The target is fenced for everybody else and its pipeline is empty: every write from the next
    /// one on is mirrored.
    pub(super) fn target_sealed(&mut self, watermark: Ver, cx: &mut Cx) {
        let (seq, target) = (self.writes.seq, self.sync.target());
        let known = target.is_some_and(|rid| self.dropped_at(rid) > 0);
        let trusted = known || mutant::is(Mutant::SyncTrustsBase);
        let Some(s) = self.sync.attempt.as_mut() else {
            return broken!("a target is sealed, and there is none");
        };
        invariant!(s.stage == SyncStage::Sealing, "the target is sealed in {:?}", s.stage);
        invariant!(s.mirrored.is_empty() && s.todo.is_empty(), "the target was sent writes before it was sealed");
        s.stage = SyncStage::Listing;
        s.mirror_from = seq;
        s.since = if trusted { s.base } else { since(s.base, watermark) };
        let (rid, since) = (s.rid, s.since);
        let msg = Msg::ChunkList { since, from: ChunkIx(0) };
        self.request(rid, For::SyncList, msg, cx);
        self.drive_listing(cx);
    }

    /// Once everything up to M is on the whole set, any member's list is complete.
    fn drive_listing(&mut self, cx: &mut Cx) {
        if !self.record.in_sync.keys().any(|r| self.members.can_be_asked(r)) {
            // It would hold its place until some member is back.
            return self.fail_sync("no source answers");
        }
        // (A write that is held back because too few members are in sync is on all of those that are.)
        let before = self.sync.attempt.as_ref().map_or(0, |s| s.mirror_from);
        if !mutant::is(Mutant::SyncListsEarly) && self.writes.is_waiting_up_to(before) {
            return;
        }
        let source = self.choose(&BTreeSet::new());
        let Some(s) = self.sync.attempt.as_mut() else {
            return broken!("chunks are listed for a sync that has ended");
        };
        invariant!(s.stage == SyncStage::Listing, "chunks are listed in {:?}", s.stage);
        if let (Source::NotAsked, Some(x)) = (s.source_listed, source) {
            invariant!(x != s.rid, "replica {x} is brought in from itself");
            s.source_listed = Source::Asked(x);
            let msg = Msg::ChunkList { since: s.since, from: ChunkIx(0) };
            self.request(x, For::SyncList, msg, cx);
        }
    }

    /// The target or the source has told a page of its chunks.
    pub(super) fn sync_listed(&mut self, rid: Rid, chunks: Vec<(ChunkIx, Ver)>, more: bool, cx: &mut Cx) {
        let Some(s) = self.sync.attempt.as_mut() else {
            return broken!("chunks are listed for a sync that has ended");
        };
        invariant!(s.stage == SyncStage::Listing, "chunks are listed in {:?}", s.stage);
        let last = chunks.last().map(|(c, _)| *c);
        let chunks = chunks.into_iter().map(|(c, _)| c);
        if rid != s.rid {
            invariant!(s.source_listed == Source::Asked(rid), "replica {rid} lists its chunks, and is not the source");
            s.todo.extend(chunks);
        } else if !mutant::is(Mutant::SyncForgetsTarget) {
            invariant!(!s.target_listed, "the target lists its chunks twice");
            s.theirs.extend(chunks.clone());
            s.todo.extend(chunks);
        }
        if let (true, Some(c)) = (more, last) {
            let msg = Msg::ChunkList { since: s.since, from: ChunkIx(c.0.saturating_add(1)) };
            return self.request(rid, For::SyncList, msg, cx);
        }
        if rid == s.rid {
            s.target_listed = true;
        } else {
            s.source_listed = Source::Complete;
        }
        if s.target_listed && s.source_listed == Source::Complete {
            s.stage = SyncStage::Copying;
            s.total = s.todo.len() as u64;
            if self.put_off_lacks_less() {
                return self.fail_sync("the one that was being filled before needs less copying");
            }
            self.drive_copying(cx);
        }
    }

    /// Nothing is left to copy: from here on the target counts, and writes in flight wait for it too.
    fn begin_joining(&mut self, cx: &mut Cx) {
        let Some(s) = self.sync.attempt.as_mut() else {
            return broken!("a target joins, and there is none");
        };
        if s.failed.is_some() {
            return; // `drive_sync` ends it.
        }
        invariant!(s.stage == SyncStage::Copying, "the target joins in {:?}", s.stage);
        invariant!(s.done == s.total, "the target joins with {} of {} chunks", s.done, s.total);
        invariant!(!self.record.in_sync.contains_key(&s.rid), "replica {} joins, and is in sync", s.rid);
        s.stage = SyncStage::Joining;
        let (rid, deferred) = (s.rid, std::mem::take(&mut s.deferred));
        for (seq, w) in self.writes.iter_mut() {
            if s.mirrored.contains_key(seq) {
                w.waiting.insert(rid);
                w.held = false;
            }
        }
        for (seq, msg) in deferred {
            self.request(rid, For::Mirror(seq), msg, cx);
        }
        self.leases.next = cx.now;
        self.drive_joining(cx);
    }

    /// What clients were told of before must be on the target before Add is proposed.
    pub(super) fn drive_joining(&mut self, cx: &mut Cx) {
        let Some(s) = self.sync.attempt.as_ref() else {
            return broken!("a target joins, and there is none");
        };
        invariant!(s.stage == SyncStage::Joining, "the target joins in {:?}", s.stage);
        if s.failed.is_some() || self.members.suspects.contains_key(&s.rid) {
            return; // It is given up by a Drop, see `membership.rs`.
        }
        let lacks = s.mirrored.keys().any(|seq| self.writes.get(*seq).is_none());
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

    /// The target has noted, durably, that it holds everything before this term.
    pub(super) fn target_marked(&mut self, cx: &mut Cx) {
        let Some(s) = self.sync.attempt.as_mut() else {
            return broken!("a target notes that it is equal, and there is none");
        };
        invariant!(!s.marked, "the target notes that it is equal twice");
        s.marked = true;
        self.drive_joining(cx);
    }

    pub(super) fn sync_status(&self) -> Option<SyncStatus> {
        let s = self.sync.attempt.as_ref()?;
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
/// it was dropped: the base or the target's own watermark, whichever is lower, for its storage may
/// be a copy from before, with newer writes than the ones it lacks (seed 906).
///
/// A base that is a term's beginning says nothing of that term's writes (a take-over after it was
/// cut short); then the target's own watermark says it, which is of that term or a newer one, and
/// so of the same history.
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

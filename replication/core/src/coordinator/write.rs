//! Rule W: one number, the same bytes to every required member, answered when all have acknowledged.

use super::link::For;
use super::{Coordinator, Cx, IoError};
use crate::message::{Msg, WriteKind};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BlockRange, Rid, Seq, Tick, Ver};
use std::collections::BTreeSet;

/// When, for which request, and what is to be written again.
pub(super) type Again = (Tick, u64, BlockRange, WriteKind);

/// How long after a refusal.
const AGAIN: u64 = 200 * hf_policy::MS;

/// A numbered write.
pub(super) struct Write {
    /// The client request it is part of.
    pub request: u64,
    pub waiting: BTreeSet<Rid>,
    /// Members that have no space for it.
    pub refused: BTreeSet<Rid>,
    /// Some member has applied it.
    pub applied: bool,
    /// A member went out of the set before it had answered: it may have applied it.
    pub uncertain: bool,
    /// What was refused, to be sent again.
    pub what: Option<(BlockRange, WriteKind)>,
    /// Complete, but fewer members are in sync than the policy asks for: answered when they are back.
    pub held: bool,
}

impl Coordinator {
    pub(super) fn start_write(&mut self, request: u64, range: BlockRange, kind: WriteKind, cx: &mut Cx) {
        let again = mutant::is(Mutant::ReuseSeq) && self.seq % 7 == 3 && !self.writes.contains_key(&self.seq);
        self.seq += u64::from(!again);
        let seq = self.seq;
        let mut waiting = self.required();
        let members = waiting.clone();
        if mutant::is(Mutant::DropCountsAtOnce) && waiting.len() > self.suspects.len() {
            waiting.retain(|r| !self.suspects.contains(r));
        }
        if mutant::is(Mutant::JoinCountsLate) && waiting.len() > 1 {
            waiting.retain(|r| self.record.in_sync.contains_key(r));
        }
        waiting.extend(self.mirror(seq, range, &kind, cx));
        let w = Write {
            request,
            waiting,
            refused: BTreeSet::new(),
            applied: false,
            uncertain: false,
            what: None,
            held: false,
        };
        self.writes.insert(seq, w);
        for rid in members {
            let kind = self.kind_for(rid, range, &kind);
            let msg = Msg::Write { seq, range, stable: self.stable_for(rid), kind };
            self.request(rid, For::Write(seq), msg, cx);
        }
    }

    pub(super) fn write_acked(&mut self, seq: u64, rid: Rid, cx: &mut Cx) {
        if let Some(w) = self.writes.get_mut(&seq) {
            w.waiting.remove(&rid);
            if mutant::is(Mutant::AckByOne) {
                w.waiting.clear();
            }
            w.applied = true;
            self.mirror_now(seq, cx);
            self.write_settle(seq, cx);
        }
    }

    /// A member has no space. If all say so, nothing was applied anywhere and the client is told; if some applied it, the
    /// others have fallen behind and are dropped: the outcome is uniform (I15).
    pub(super) fn write_refused(&mut self, seq: u64, rid: Rid, msg: Msg, cx: &mut Cx) {
        let Some(w) = self.writes.get_mut(&seq) else { return };
        w.refused.insert(rid);
        if let Msg::Write { range, kind, .. } = msg {
            w.what = Some((range, kind));
        }
        self.write_settle(seq, cx);
    }

    /// Answers a write that waits for nobody any more.
    fn write_settle(&mut self, seq: u64, cx: &mut Cx) {
        let enough = self.record.in_sync.len() >= self.cfg.min_replicas as usize;
        let enough = enough || mutant::is(Mutant::AckBelowMinReplicas);
        let Some(w) = self.writes.get_mut(&seq) else { return };
        if !w.waiting.is_empty() && !w.applied && w.waiting == w.refused {
            let (request, uncertain, what) = (w.request, w.uncertain, w.what.take());
            self.writes.remove(&seq);
            self.mirror_never(seq);
            self.advance_stable();
            // Who went out may have it, and would keep it as a write of this term when it is back: the client cannot be told that nothing
            // was applied. Its write waits for space, under a newer number each time, which overwrites whatever that member has.
            return match what.filter(|_| uncertain) {
                Some((range, kind)) => self.again.push((cx.now.plus(AGAIN), request, range, kind)),
                None => self.part_done(request, Err(IoError::NoSpace), cx),
            };
        }
        if !w.waiting.is_empty() {
            // Once it is clear that somebody applied it, who has no space has fallen behind.
            let behind: Vec<Rid> = if w.applied { w.refused.iter().copied().collect() } else { Vec::new() };
            return behind.into_iter().for_each(|r| self.suspect(r));
        }
        w.held = !enough;
        if enough {
            let request = w.request;
            self.writes.remove(&seq);
            self.advance_stable();
            self.part_done(request, Ok(()), cx);
        }
    }

    /// The in-sync set has shrunk (its commit was seen): who is out no longer counts.
    pub(super) fn recheck_writes(&mut self, cx: &mut Cx) {
        let seqs: Vec<u64> = self.writes.keys().copied().collect();
        for seq in seqs {
            if let Some(w) = self.writes.get_mut(&seq) {
                let counts =
                    |r: &Rid| self.record.in_sync.contains_key(r) || self.sync.as_ref().is_some_and(|s| s.rid == *r);
                w.uncertain |= w.waiting.iter().any(|r| !counts(r) && !w.refused.contains(r));
                w.waiting.retain(counts);
                w.refused.retain(counts);
            }
            self.write_settle(seq, cx);
        }
    }

    /// Writes that were refused, of which some member out of the set may have had a part, are tried again.
    pub(super) fn drive_again(&mut self, cx: &mut Cx) {
        let (due, later) = std::mem::take(&mut self.again).into_iter().partition(|(at, ..)| *at <= cx.now);
        self.again = later;
        let due: Vec<Again> = due;
        for (_, request, range, kind) in due {
            self.start_write(request, range, kind, cx);
            // Still: until some number of it was applied everywhere.
            if let Some(w) = self.writes.get_mut(&self.seq) {
                w.uncertain = true;
            }
        }
    }

    /// Everything up to the oldest outstanding write is on all in-sync members.
    fn advance_stable(&mut self) {
        let oldest = self.writes.keys().next().filter(|_| !mutant::is(Mutant::StableLeads));
        let seq = oldest.map_or(self.seq, |oldest| oldest - 1);
        self.stable = self.stable.max(Ver { term: self.record.term, seq: Seq(seq) });
    }
}

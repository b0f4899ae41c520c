//! Who is in the set: drops are proposed, records are followed, a newer term ends the attachment.
//! At most one proposal is open. The record precedes reliance (I3): a member counts until the
//! commit that drops it is seen here.

use super::members::{Member, Proposal};
use super::pending::For;
use super::{Change, Coordinator, Cx, IoError, Output, Phase, Proposed, Record};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{Rid, Tick, Ver, invariant};
use std::collections::BTreeSet;

/// After this long without an answer a proposal is repeated (it is compare-and-set, so that is harmless).
const PROPOSAL: u64 = 3_000 * hf_policy::MS;
/// A refused proposal is repeated after this long, or as soon as a new record arrives.
const AGAIN: u64 = 50 * hf_policy::MS;

impl Coordinator {
    /// Every write needs this replica's acknowledgement: it is in sync, or joins (I2).
    pub(super) fn counts(&self, rid: &Rid) -> bool {
        self.record.in_sync.contains_key(rid) || self.joining() == Some(*rid)
    }

    /// Proposes the drop of suspects, of members that are to leave, and of a target whose join has failed.
    pub(super) fn drive_membership(&mut self, cx: &mut Cx) {
        let leaving = self.phase == Phase::Serving && !self.record.leaving.is_empty();
        let given_up = self.sync_given_up();
        if (self.members.suspects.is_empty() && !leaving && given_up.is_none()) || self.phase == Phase::Fenced {
            return;
        }
        if self.is_proposing(cx.now) {
            return;
        }
        invariant!(self.members.suspects.keys().all(|r| self.counts(r)), "a suspect does not count");
        let in_sync = &self.record.in_sync;
        let mut rids: Vec<Rid> = self.members.suspects.keys().copied().filter(|r| in_sync.contains_key(r)).collect();
        // The last replica standing is never dropped: I/O waits for exactly that replica. It is one
        // that is not known to be broken, since to drop a healthy member for a broken one would
        // strand the data; of several, the one that answered last.
        if !rids.is_empty() && rids.len() == in_sync.len() {
            rids.sort_by_key(|r| self.members.get(r).map(|m| (!m.broken, m.up, m.heard)));
            rids.pop();
        }
        // Members that are to leave go when enough others are there.
        if leaving {
            let goes = |r: &&Rid| in_sync.contains_key(r) && !rids.contains(r);
            let room = in_sync.len().saturating_sub(rids.len() + (self.cfg.min_replicas as usize).max(1));
            let going: Vec<Rid> = self.record.leaving.iter().filter(goes).copied().take(room).collect();
            rids.extend(going);
        }
        // Drop nobody unless a survivor is known to be alive: the survivors might be the ones that
        // lost data.
        let alive = |m: &Member| m.can_be_asked() && !m.broken && cx.now.since(m.heard) < crate::timing::DEAD;
        let kept = in_sync.keys().filter(|r| !rids.contains(r)).filter_map(|r| self.members.get(r));
        if !kept.into_iter().any(alive) {
            rids.clear();
        }
        invariant!(rids.is_empty() || rids.len() < in_sync.len(), "the drop of every member is about to be proposed");
        // A join is given up only by a commit: until then it may have happened.
        rids.extend(given_up);
        if rids.is_empty() {
            return;
        }
        // (Members that are dropped while serving have noted this term, also if that is not recorded yet.)
        let base = if self.phase == Phase::Serving { self.writes.stable } else { self.served(self.takeover.s_star) };
        self.propose(self.drop_of(rids, base), cx);
    }

    /// The drop of these members, with the reasons, and with the journal positions that they have
    /// told. (No position during a take-over: a member that was sealed has told its own, but may
    /// have been put back before, and is not equal to the others yet.)
    pub(super) fn drop_of(&self, rids: Vec<Rid>, base: Ver) -> Change {
        invariant!(!rids.is_empty(), "the drop of nobody is about to be proposed");
        let proven = self.phase == Phase::Serving;
        let position = |r: &Rid| self.members.get(r).filter(|_| proven).map(|m| (*r, m.position));
        let told = rids.iter().filter_map(position).filter(|(_, p)| *p > 0).collect();
        let reasons = rids.iter().filter(|r| self.record.in_sync.contains_key(r)).map(|r| (*r, self.why(r))).collect();
        Change::Drop { rids, base, told, reasons }
    }

    /// A proposal was made so recently that its outcome is waited for.
    fn is_proposing(&self, now: Tick) -> bool {
        self.members.proposal.as_ref().is_some_and(|p| now < p.until)
    }

    /// Proposes a change of the record, unless one is open.
    pub(super) fn propose(&mut self, change: Change, cx: &mut Cx) {
        if self.is_proposing(cx.now) {
            return;
        }
        invariant!(self.phase != Phase::Fenced, "{change:?} is proposed after the end of the attachment");
        let (epoch, term) = (self.record.epoch, self.record.term);
        self.members.proposal = Some(Proposal { epoch, until: cx.now.plus(PROPOSAL) });
        cx.out.push(Output::Propose { epoch, term, change });
    }

    /// The driver tells how a proposal ended. The record is what counts: this only says when to
    /// propose again.
    pub(super) fn on_proposed(&mut self, outcome: Proposed, cx: &mut Cx) {
        // (A newer record may have settled it before.)
        let Some(p) = self.members.proposal.as_mut() else { return };
        match outcome {
            // If the record does not come, the proposal is repeated.
            Proposed::Done | Proposed::Unknown => p.until = p.until.min(cx.now.plus(PROPOSAL)),
            Proposed::Retry | Proposed::Stale => p.until = cx.now.plus(AGAIN),
            // The place is free for a change that is needed more.
            Proposed::Busy => {
                self.members.proposal = None;
                self.sync_refused(cx);
            }
        }
        self.timers.next_round = self.timers.next_round.min(cx.now.plus(AGAIN));
    }

    /// Raft's record has changed: nothing else changes the set.
    pub(super) fn on_record(&mut self, record: Record, cx: &mut Cx) {
        // (Records are shown to an attachment that is over as well.)
        if self.phase == Phase::Fenced {
            return;
        }
        if record.epoch <= self.record.epoch {
            // An older one, or one that only says that the term is served: that is recorded without
            // a new epoch.
            if record.served && record.term == self.record.term && !self.record.served {
                self.record.served = true;
                self.begin_queued(cx);
            }
            return;
        }
        if mutant::is(Mutant::IgnoreNewTerm) && record.term != self.record.term {
            return;
        }
        if record.term != self.record.term || record.session != Some(self.cfg.session) {
            return self.fence(cx);
        }
        let gone: BTreeSet<Rid> =
            self.record.in_sync.keys().copied().filter(|r| !record.in_sync.contains_key(r)).collect();
        invariant!(
            self.members.proposal.as_ref().is_none_or(|p| p.epoch < record.epoch),
            "a proposal builds on an epoch that is not there yet"
        );
        self.members.proposal = None;
        self.record = record;
        self.members.follow(&self.record);
        self.sync.retry.retain(|r, _| self.record.out.contains_key(r));
        self.sync_record(cx);
        self.begin_queued(cx);
        if gone.is_empty() {
            // The policy may ask for fewer members now: held writes are looked at again.
            self.recheck_probes(cx);
            return self.recheck_writes(cx);
        }
        self.without(&gone, cx);
    }

    /// The commit that drops these members is seen: nobody waits for them any more.
    fn without(&mut self, gone: &BTreeSet<Rid>, cx: &mut Cx) {
        self.stats.drops += gone.len() as u64;
        for (_, m) in self.members.iter_mut().filter(|(r, _)| gone.contains(r)) {
            m.lease_until = Tick(0);
            m.unproven = false;
            m.position = 0;
        }
        self.sync_without(gone);
        self.members.suspects.retain(|r, _| !gone.contains(r));
        for what in self.pending.take_of(gone) {
            if let For::Read(id) = what {
                self.read_elsewhere(id, Rid(0), cx);
            }
        }
        self.scrub_without(gone, cx);
        self.recheck_probes(cx);
        self.recheck_writes(cx);
        self.recheck_reads(gone, cx);
        self.membership_changed(cx);
    }

    /// Ends this attachment at once because the process has seen an invariant of its own code
    /// broken ([`hf_policy::broken::take`]): what it holds in memory is not relied upon any more.
    /// Every outstanding request is answered with [`IoError::Fenced`], whatever had become of it,
    /// and nothing is sent, proposed or served again. Members keep what they have; the next
    /// attachment seals and reconciles them. The driver calls it in place of another step; outputs
    /// are those of a fence.
    pub fn abandon(&mut self, now: Tick, out: &mut Vec<Output>) {
        self.fence(&mut Cx { now, out });
        self.arm();
    }

    /// A newer term exists. Whatever is outstanding has an unknown outcome and is failed; this
    /// attachment never serves again, even if the node attaches anew (I19).
    pub(super) fn fence(&mut self, cx: &mut Cx) {
        if self.phase == Phase::Fenced || mutant::is(Mutant::IgnoreFence) {
            return;
        }
        self.phase = Phase::Fenced;
        let ids = self.requests.end();
        self.stats.errors += ids.len() as u64;
        cx.out.extend(ids.into_iter().map(|id| Output::Reply { id, result: Err(IoError::Fenced) }));
        self.writes.end();
        self.reads.end();
        self.pending.clear();
        self.members.end();
        self.scrub.walk = None;
        self.sync.attempt = None;
        self.give_place_back(cx);
        cx.out.push(Output::Fenced);
        self.say_drained(cx);
    }
}

//! Suspects, drops, records, fencing. At most one proposal is open. The record precedes reliance (I3): a member counts
//! until the commit that drops it is seen here.

use super::{Change, Coordinator, Cx, IoError, Member, Output, Phase, Proposed, Record};
use crate::range_lock::RangeLock;
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{Epoch, Rid, Tick};
use std::collections::BTreeSet;

/// The open proposal.
pub(super) struct Proposal {
    epoch: Epoch,
    /// Proposed again if nothing was heard of it by then.
    until: Tick,
}

/// After this long without an answer a proposal is repeated (it is compare-and-set, so that is harmless).
const PROPOSAL: u64 = 3_000 * hf_policy::MS;
/// A refused proposal is repeated after this long, or as soon as a new record arrives.
const AGAIN: u64 = 50 * hf_policy::MS;

impl Coordinator {
    /// This member holds things up; unless it is the last one it will be dropped.
    pub(super) fn suspect(&mut self, rid: Rid) {
        if self.record.in_sync.contains_key(&rid) || self.joining() == Some(rid) {
            self.suspects.insert(rid);
        } else if self.sync.as_ref().is_some_and(|s| s.rid == rid) {
            self.fail_sync("the member does not answer well");
        }
    }

    /// It answered well and owes nothing: no longer a suspect.
    pub(super) fn unsuspect(&mut self, now: Tick, rid: Rid) {
        let timeout = self.cfg.replica_timeout;
        let owes = |p: &super::link::Pending| p.rid == rid && now.since(p.first) >= timeout;
        if self.suspects.contains(&rid)
            && !self.pending.values().any(owes)
            && !self.writes.values().any(|w| w.refused.contains(&rid))
            && !self.is_short(rid)
        {
            self.suspects.remove(&rid);
        }
    }

    /// This process was paused (stopped, suspended, starved): what was silent meanwhile was itself, not the members.
    pub(super) fn restart_clocks(&mut self, now: Tick) {
        for m in self.members.values_mut() {
            m.heard = now;
            m.asked_since = now;
            m.down_since = m.down_since.max(now);
        }
        self.pending.values_mut().for_each(|p| p.first = now);
    }

    pub(super) fn drive_membership(&mut self, cx: &mut Cx) {
        let leaving = self.phase == Phase::Serving && !self.record.leaving.is_empty();
        let given_up = self.sync_given_up();
        if (self.suspects.is_empty() && !leaving && given_up.is_none()) || self.phase == Phase::Fenced {
            return;
        }
        if self.proposal.as_ref().is_some_and(|p| cx.now < p.until) {
            return;
        }
        let required = self.required();
        self.suspects.retain(|r| required.contains(r));
        let in_sync = &self.record.in_sync;
        // The last replica standing is never dropped: I/O waits for exactly that replica. Who answered last stays.
        let mut rids: Vec<Rid> = self.suspects.iter().copied().filter(|r| in_sync.contains_key(r)).collect();
        if !rids.is_empty() && rids.len() == in_sync.len() {
            // Kept is whoever is not known to be broken; dropping a healthy member for a broken one would strand the data.
            rids.sort_by_key(|r| self.members.get(r).map(|m| (!m.broken, m.up, m.heard)));
            rids.pop();
        }
        // Who is not wanted any more goes when enough others are there.
        if leaving {
            let goes = |r: &&Rid| in_sync.contains_key(r) && !rids.contains(r);
            let room = in_sync.len().saturating_sub(rids.len() + (self.cfg.min_replicas as usize).max(1));
            let going: Vec<Rid> = self.record.leaving.iter().filter(goes).copied().take(room).collect();
            rids.extend(going);
        }
        // Nobody is dropped in favour of members of which none is known to be there: they may be what was lost.
        let alive = |m: &Member| m.up && !m.broken && !m.unproven && cx.now.since(m.heard) < crate::timing::DEAD;
        let kept = in_sync.keys().filter(|r| !rids.contains(r)).filter_map(|r| self.members.get(r));
        if !kept.into_iter().any(alive) {
            rids.clear();
        }
        // A join is given up only by a commit: until then it may have happened.
        rids.extend(given_up);
        if rids.is_empty() {
            return;
        }
        // (Who is dropped while serving has noted this term, also if that is not recorded yet.)
        let base = if self.phase == Phase::Serving { self.stable } else { self.served(self.takeover.s_star) };
        self.propose(self.drop_of(rids, base), cx);
    }

    /// The drop of these, with what they have told of their journals. (Not during a take-over: a member that was sealed has told how far its
    /// journal is, but may have been put back before, and is not equal to the others yet.)
    pub(super) fn drop_of(&self, rids: Vec<Rid>, base: hf_policy::Ver) -> Change {
        let proven = self.phase == Phase::Serving;
        let position = |r: &Rid| self.members.get(r).filter(|_| proven).map(|m| (*r, m.position));
        let told = rids.iter().filter_map(position).filter(|(_, p)| *p > 0).collect();
        Change::Drop { rids, base, told }
    }

    pub(super) fn propose(&mut self, change: Change, cx: &mut Cx) {
        if self.proposal.as_ref().is_some_and(|p| cx.now < p.until) {
            return;
        }
        let (epoch, term) = (self.record.epoch, self.record.term);
        self.proposal = Some(Proposal { epoch, until: cx.now.plus(PROPOSAL) });
        cx.out.push(Output::Propose { epoch, term, change });
    }

    pub(super) fn on_proposed(&mut self, outcome: Proposed, cx: &mut Cx) {
        let Some(p) = self.proposal.as_mut() else { return };
        match outcome {
            // The record itself is what counts; if it does not come, the proposal is repeated.
            Proposed::Done | Proposed::Unknown => p.until = p.until.min(cx.now.plus(PROPOSAL)),
            Proposed::Retry | Proposed::Stale => p.until = cx.now.plus(AGAIN),
            // The place is free for a change that is needed more.
            Proposed::Busy => {
                self.proposal = None;
                self.sync_refused(cx);
            }
        }
        self.next_tick = self.next_tick.min(cx.now.plus(AGAIN));
    }

    /// Raft's record has changed: the only thing that changes the set.
    pub(super) fn on_record(&mut self, record: Record, cx: &mut Cx) {
        if self.phase == Phase::Fenced {
            return;
        }
        if record.epoch <= self.record.epoch {
            // Only that is recorded without a new epoch.
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
        if self.proposal.as_ref().is_some_and(|p| p.epoch < record.epoch) {
            self.proposal = None;
        }
        self.record = record;
        // A member's storage may have been recorded only now; replicas come and go.
        for (rid, info) in self.record.everybody() {
            let m = self.members.entry(rid).or_insert_with(|| Member::new(info));
            if m.info.store_uuid != info.store_uuid {
                // Another journal, perhaps.
                m.position = 0;
            }
            m.info = info;
        }
        let (in_sync, others) = (&self.record.in_sync, &self.record.out);
        self.members.retain(|r, _| in_sync.contains_key(r) || others.contains_key(r));
        self.sync_retry.retain(|r, _| others.contains_key(r));
        self.sync_record(cx);
        self.begin_queued(cx);
        if gone.is_empty() {
            // The policy may ask for fewer members now: held writes are looked at again.
            self.recheck_probes(cx);
            return self.recheck_writes(cx);
        }
        self.stats.drops += gone.len() as u64;
        for (_, m) in self.members.iter_mut().filter(|(r, _)| gone.contains(r)) {
            m.lease_until = Tick(0);
            m.unproven = false;
            m.position = 0;
        }
        self.sync_without(&gone);
        self.suspects.retain(|r| !gone.contains(r));
        let lost: Vec<(u64, super::link::For)> =
            self.pending.iter().filter(|(_, p)| gone.contains(&p.rid)).map(|(r, p)| (*r, p.what)).collect();
        for (req, what) in lost {
            self.pending.remove(&req);
            if let super::link::For::Read(id) = what {
                self.read_elsewhere(id, Rid(0), cx);
            }
        }
        self.scrub_without(&gone, cx);
        self.recheck_probes(cx);
        self.recheck_writes(cx);
        self.recheck_reads(&gone, cx);
        self.membership_changed(cx);
    }

    /// A newer term exists. Whatever is outstanding has an unknown outcome and is failed; this attachment never serves
    /// again, even if the node attaches anew (I19).
    pub(super) fn fence(&mut self, cx: &mut Cx) {
        if self.phase == Phase::Fenced || mutant::is(Mutant::IgnoreFence) {
            return;
        }
        self.phase = Phase::Fenced;
        let mut ids: Vec<_> = self.queued.drain(..).map(|(id, _)| id).collect();
        ids.extend(std::mem::take(&mut self.requests).into_values().map(|r| r.client));
        self.stats.errors += ids.len() as u64;
        cx.out.extend(ids.into_iter().map(|id| Output::Reply { id, result: Err(IoError::Fenced) }));
        self.writes.clear();
        self.again.clear();
        self.owed = hf_policy::Space::NONE;
        self.blocked.clear();
        self.reads.clear();
        self.pending.clear();
        self.scrub = None;
        self.locks = RangeLock::default();
        self.sync = None;
        self.give_place_back(cx);
        cx.out.push(Output::Fenced);
        self.say_drained(cx);
    }
}

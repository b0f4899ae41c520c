//! Suspects, drops, records, fencing. At most one proposal is open. The record precedes reliance (I3): a member counts
//! until the commit that drops it is seen here.

use super::{Coordinator, IoError, Output, Phase, Proposed, Record};
use hf_policy::{Epoch, Rid, Tick, Ver};
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
        if self.record.in_sync.contains_key(&rid) {
            self.suspects.insert(rid);
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

    pub(super) fn drive_membership(&mut self, now: Tick, out: &mut Vec<Output>) {
        if self.suspects.is_empty() || self.phase == Phase::Fenced {
            return;
        }
        if self.proposal.as_ref().is_some_and(|p| now < p.until) {
            return;
        }
        let in_sync = self.required();
        self.suspects.retain(|r| in_sync.contains(r));
        // The last replica standing is never dropped: I/O waits for exactly that replica. Who answered last stays.
        let mut rids: Vec<Rid> = self.suspects.iter().copied().collect();
        if rids.len() == in_sync.len() {
            // Kept is whoever is not known to be broken; dropping a healthy member for a broken one would strand the data.
            rids.sort_by_key(|r| self.members.get(r).map(|m| (!m.broken, m.up, m.heard)));
            rids.pop();
            // All are suspect: nobody is known to hold what the others may miss, so nobody is dropped unless one is up.
            if !self.members.values().any(|m| m.up && now.since(m.heard) < self.cfg.replica_timeout * 2) {
                return;
            }
        }
        if rids.is_empty() {
            return;
        }
        let base = if self.phase == Phase::Serving { self.stable } else { self.takeover.s_star };
        self.propose(now, rids, base, out);
    }

    pub(super) fn propose(&mut self, now: Tick, rids: Vec<Rid>, base: Ver, out: &mut Vec<Output>) {
        if self.proposal.as_ref().is_some_and(|p| now < p.until) {
            return;
        }
        let (epoch, term) = (self.record.epoch, self.record.term);
        self.proposal = Some(Proposal { epoch, until: now.plus(PROPOSAL) });
        out.push(Output::ProposeDrop { epoch, term, rids, base });
    }

    pub(super) fn on_proposed(&mut self, now: Tick, outcome: Proposed) {
        let Some(p) = self.proposal.as_mut() else { return };
        match outcome {
            // The record itself is what counts; if it does not come, the proposal is repeated.
            Proposed::Done | Proposed::Unknown => p.until = p.until.min(now.plus(PROPOSAL)),
            Proposed::Retry | Proposed::Stale => p.until = now.plus(AGAIN),
        }
        self.next_tick = self.next_tick.min(now.plus(AGAIN));
    }

    /// Raft's record has changed: the only thing that changes the set.
    pub(super) fn on_record(&mut self, now: Tick, record: Record, out: &mut Vec<Output>) {
        if self.phase == Phase::Fenced || record.epoch <= self.record.epoch {
            return;
        }
        if record.term != self.record.term || record.session != Some(self.cfg.session) {
            return self.fence(out);
        }
        let gone: BTreeSet<Rid> = self.required().into_iter().filter(|r| !record.in_sync.contains_key(r)).collect();
        if self.proposal.as_ref().is_some_and(|p| p.epoch < record.epoch) {
            self.proposal = None;
        }
        self.record = record;
        // A member's storage may have been recorded only now (a grown volume's new shard).
        for (rid, info) in &self.record.in_sync {
            if let Some(m) = self.members.get_mut(rid) {
                m.info = *info;
            }
        }
        if gone.is_empty() {
            // The policy may ask for fewer members now: held writes are looked at again.
            self.recheck_probes(now, out);
            return self.recheck_writes(now, out);
        }
        self.stats.drops += gone.len() as u64;
        self.members.retain(|r, _| !gone.contains(r));
        self.suspects.retain(|r| !gone.contains(r));
        let lost: Vec<(u64, super::link::For)> =
            self.pending.iter().filter(|(_, p)| gone.contains(&p.rid)).map(|(r, p)| (*r, p.what)).collect();
        for (req, what) in lost {
            self.pending.remove(&req);
            if let super::link::For::Read(id) = what {
                self.read_elsewhere(now, id, Rid(0), out);
            }
        }
        self.recheck_probes(now, out);
        self.recheck_writes(now, out);
        self.recheck_reads(now, &gone, out);
        self.membership_changed(now, out);
    }

    /// A newer term exists. Whatever is outstanding has an unknown outcome and is failed; this attachment never serves
    /// again, even if the node attaches anew (I19).
    pub(super) fn fence(&mut self, out: &mut Vec<Output>) {
        if self.phase == Phase::Fenced {
            return;
        }
        self.phase = Phase::Fenced;
        let mut ids: Vec<_> = self.queued.drain(..).map(|(id, _)| id).collect();
        ids.extend(std::mem::take(&mut self.requests).into_values().map(|r| r.client));
        ids.extend(self.flushes.drain(..).map(|(id, _)| id));
        self.stats.errors += ids.len() as u64;
        out.extend(ids.into_iter().map(|id| Output::Reply { id, result: Err(IoError::Fenced) }));
        self.writes.clear();
        self.owed = 0;
        self.reads.clear();
        self.pending.clear();
        out.push(Output::Fenced);
        if std::mem::take(&mut self.stopping) {
            out.push(Output::Drained);
        }
    }
}

//! Leases: while every other member has promised to let no newer session in, what one member answers is current (I6). With strict
//! reads they are signs of life only: then what one member answered is current if every other one says afterwards that it has let no
//! newer session in. Questions have numbers that rise, so that an answer tells what it came after, whatever clocks do.

use super::read::Arrived;
use super::{Coordinator, Cx, Output, Phase};
use crate::message::Msg;
use crate::timing::{DEAD, IDLE_EVERY, LEASE, LEASE_EVERY, RECONNECT};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{Rid, Tick};
use std::collections::BTreeSet;

impl Coordinator {
    /// Asks for leases when they are due: often while there are reads, now and then as a sign of life.
    pub(super) fn drive_leases(&mut self, cx: &mut Cx) {
        if self.phase != Phase::Serving || cx.now < self.next_lease {
            return;
        }
        let active = cx.now.since(self.last_read) < 2 * LEASE || !self.reads.is_empty();
        self.next_lease = cx.now.plus(if active { LEASE_EVERY } else { IDLE_EVERY });
        // Silence counts from a question that was left unanswered or from the end of the connection, never from having had
        // nothing to ask.
        let silent = |m: &super::Member| m.silent_since().is_some_and(|t| cx.now.since(t) >= DEAD);
        let silent: Vec<Rid> = self.members.iter().filter(|(_, m)| silent(m)).map(|(r, _)| *r).collect();
        silent.into_iter().for_each(|r| self.suspect(r));
        self.ask_leases(cx);
    }

    /// Asks everybody who is required.
    pub(super) fn ask_leases(&mut self, cx: &mut Cx) {
        let all = self.required();
        self.ask(all, cx);
    }

    /// With strict reads: asks whoever has not yet answered a question that was asked after something arrived. Nobody else: a member on
    /// this node answers at once, and would be asked for ever while the others' answers are on their way.
    pub(super) fn ask_to_confirm(&mut self, cx: &mut Cx) {
        let owes = |rid: &Rid, m: &super::Member| {
            let arrived = self.reads.values().filter_map(|r| r.arrived.as_ref());
            arrived.filter(|a| a.from != *rid).any(|a| m.confirmed <= a.after)
        };
        let some = self.required().into_iter().filter(|r| self.members.get(r).is_some_and(|m| owes(r, m))).collect();
        self.ask(some, cx);
    }

    fn ask(&mut self, rids: BTreeSet<Rid>, cx: &mut Cx) {
        for rid in rids {
            let stable = self.stable_for(rid);
            let Some(m) = self.members.get_mut(&rid) else { continue };
            if !m.up || m.unproven {
                continue;
            }
            if !m.lease_asked {
                m.asked_since = cx.now;
            }
            if m.lease_asked && cx.now.since(m.lease_sent) < LEASE_EVERY / 2 {
                continue;
            }
            m.lease_asked = true;
            m.lease_sent = cx.now;
            // (Several questions of one microsecond are told apart; a lease that is counted from one later than it was is so by that much.)
            let sent_at = if self.cfg.strict_reads { cx.now.0.max(self.asked + 1) } else { cx.now.0 };
            self.asked = self.asked.max(sent_at);
            let msg = Msg::Lease { sent_at, stable };
            cx.out.push(Output::Send { rid, env: self.envelope(rid, 0), msg });
        }
    }

    /// Reads that have arrived wait for leases: for a member's no longer than a write would wait for it.
    pub(super) fn suspect_silent(&mut self, now: Tick) {
        if !self.reads.values().any(|r| r.arrived.is_some()) {
            return;
        }
        let timeout = self.cfg.replica_timeout;
        let late = |m: &super::Member| {
            m.silent_since().is_some_and(|t| now.since(t) >= if m.up { timeout } else { RECONNECT })
        };
        let late: Vec<Rid> = self.required().into_iter().filter(|r| self.members.get(r).is_some_and(late)).collect();
        late.into_iter().for_each(|r| self.suspect(r));
    }

    /// Counted from when the request was sent: the replica counts from when it received it, which is later.
    pub(super) fn lease_granted(&mut self, rid: Rid, sent_at: u64, cx: &mut Cx) {
        if let Some(m) = self.members.get_mut(&rid) {
            m.lease_asked = false;
            m.lease_until = m.lease_until.max(Tick(sent_at).plus(LEASE));
            m.confirmed = m.confirmed.max(sent_at);
        }
        self.deliver_reads(cx);
        // What arrived while that question was on its way needs another one: one for all of it.
        if self.cfg.strict_reads {
            self.ask_to_confirm(cx);
        }
    }

    /// May what arrived be delivered now? Valid leases from every required member but the one that read, which proved the term by
    /// answering; with strict reads, answers to questions that were asked after it arrived.
    pub(super) fn is_current(&self, now: Tick, a: &Arrived) -> bool {
        let strict = self.cfg.strict_reads && !mutant::is(Mutant::StrictBelievesLeases);
        let current = |m: &super::Member| if strict { m.confirmed > a.after } else { now < m.lease_until };
        mutant::is(Mutant::ReadWithoutLease)
            || self.required().iter().all(|r| *r == a.from || self.members.get(r).is_some_and(current))
    }
}

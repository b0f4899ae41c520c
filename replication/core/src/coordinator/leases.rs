//! Leases: while every other member has promised to let no newer session in, what one member
//! answered is current (I6).
//!
//! With strict reads they are signs of life only: then what one member answered is current if every
//! other one says afterwards that it has let no newer session in. Questions have numbers that rise,
//! so that an answer tells what it came after, whatever clocks do.

use super::members::Member;
use super::requests::reads::Arrived;
use super::{Coordinator, Cx, Output, Phase};
use crate::message::Msg;
use crate::timing::{DEAD, IDLE_EVERY, LEASE, LEASE_EVERY, RECONNECT};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{Rid, Tick, broken, invariant};
use std::collections::BTreeSet;

/// When leases are asked for.
pub(super) struct Leases {
    /// When all members are asked next.
    pub next: Tick,
    /// The number of the newest question ([`Msg::Lease`]'s `sent_at`); 0 before the first.
    pub asked: u64,
}

impl Leases {
    /// Members are asked from `now` on.
    pub fn new(now: Tick) -> Leases {
        Leases { next: now, asked: 0 }
    }

    /// The number of a question that is asked now: the moment itself, so that the lease counts from
    /// it. With strict reads it rises strictly, so that several questions of one microsecond are
    /// told apart; a lease may last longer by that increment.
    fn question(&mut self, now: Tick, strict: bool) -> u64 {
        let number = if strict { now.0.max(self.asked + 1) } else { now.0 };
        invariant!(!strict || number > self.asked, "question {number} comes after question {}", self.asked);
        self.asked = self.asked.max(number);
        number
    }
}

impl Coordinator {
    /// Asks for leases when they are due: often while there are reads, now and then as a sign of life.
    pub(super) fn drive_leases(&mut self, cx: &mut Cx) {
        if self.phase != Phase::Serving || cx.now < self.leases.next {
            return;
        }
        let active = cx.now.since(self.reads.last_read) < 2 * LEASE || !self.reads.is_empty();
        self.leases.next = cx.now.plus(if active { LEASE_EVERY } else { IDLE_EVERY });
        // Silence counts from a question that was left unanswered or from the end of the
        // connection, never from having had nothing to ask.
        let silent = |m: &Member| m.silent_since().is_some_and(|t| cx.now.since(t) >= DEAD);
        let silent: Vec<Rid> = self.members.iter().filter(|(_, m)| silent(m)).map(|(r, _)| *r).collect();
        silent.into_iter().for_each(|r| self.suspect(r, self.silence(&r)));
        self.ask_leases(cx);
    }

    /// Asks every member whose acknowledgement is required.
    pub(super) fn ask_leases(&mut self, cx: &mut Cx) {
        let all = self.required();
        self.ask(all, cx);
    }

    /// With strict reads: asks every member that has not yet answered a question that was asked
    /// after something had arrived. Nobody else: a member on this node answers at once, and would
    /// be asked for ever while the others' answers are on their way.
    pub(super) fn ask_to_confirm(&mut self, cx: &mut Cx) {
        let owes = |rid: &Rid, m: &Member| {
            let arrived = self.reads.values().filter_map(|r| r.arrived.as_ref());
            arrived.filter(|a| a.from != *rid).any(|a| m.confirmed <= a.after)
        };
        let some = self.required().into_iter().filter(|r| self.members.get(r).is_some_and(|m| owes(r, m))).collect();
        self.ask(some, cx);
    }

    fn ask(&mut self, rids: BTreeSet<Rid>, cx: &mut Cx) {
        invariant!(self.phase == Phase::Serving, "leases are asked for in {:?}", self.phase);
        for rid in rids {
            let stable = self.stable_for(rid);
            let Some(m) = self.members.get_mut(&rid) else {
                broken!("replica {rid} counts and is not known");
                continue;
            };
            // A member that cannot be asked is asked when it is there again; one that was asked
            // just now is not.
            if !m.can_be_asked() || (m.lease_asked && cx.now.since(m.lease_sent) < LEASE_EVERY / 2) {
                continue;
            }
            if !m.lease_asked {
                m.asked_since = cx.now;
            }
            m.lease_asked = true;
            m.lease_sent = cx.now;
            let sent_at = self.leases.question(cx.now, self.cfg.strict_reads);
            let msg = Msg::Lease { sent_at, stable };
            cx.out.push(Output::Send { rid, env: self.envelope(rid, 0), msg });
        }
    }

    /// Reads that have arrived wait for leases: for a member's lease no longer than a write would
    /// wait for the member.
    pub(super) fn suspect_silent(&mut self, now: Tick) {
        if !self.reads.values().any(|r| r.arrived.is_some()) {
            return;
        }
        let timeout = self.cfg.replica_timeout;
        let late =
            |m: &Member| m.silent_since().is_some_and(|t| now.since(t) >= if m.up { timeout } else { RECONNECT });
        let late: Vec<Rid> = self.required().into_iter().filter(|r| self.members.get(r).is_some_and(late)).collect();
        late.into_iter().for_each(|r| self.suspect(r, self.silence(&r)));
    }

    /// A member has granted a lease. It counts from when it was asked for; the member counts from
    /// when it received the question, which is later.
    pub(super) fn lease_granted(&mut self, rid: Rid, sent_at: u64, cx: &mut Cx) {
        let Some(m) = self.members.get_mut(&rid) else {
            return broken!("replica {rid} grants a lease and is not known");
        };
        invariant!(!m.unproven, "replica {rid} grants a lease before it has proved itself");
        m.lease_asked = false;
        m.lease_until = m.lease_until.max(Tick(sent_at).plus(LEASE));
        m.confirmed = m.confirmed.max(sent_at);
        self.deliver_reads(cx);
        // What arrived while that question was on its way needs another one: one for all of it.
        if self.cfg.strict_reads && self.phase == Phase::Serving {
            self.ask_to_confirm(cx);
        }
    }

    /// May what arrived be delivered now? It may with valid leases from every required member but
    /// the one that read, which proved the term by answering; with strict reads, with answers to
    /// questions that were asked after it arrived.
    pub(super) fn is_current(&self, now: Tick, a: &Arrived) -> bool {
        invariant!(a.after <= self.leases.asked, "an answer came after a question that was not asked yet");
        let strict = self.cfg.strict_reads && !mutant::is(Mutant::StrictBelievesLeases);
        let current = |m: &Member| if strict { m.confirmed > a.after } else { now < m.lease_until };
        mutant::is(Mutant::ReadWithoutLease)
            || self.required_ids().all(|r| r == a.from || self.members.get(&r).is_some_and(current))
    }
}

//! Leases: while every other member has promised to let no newer session in, what one member answers is current (I6).

use super::{Coordinator, Output, Phase};
use crate::message::Msg;
use crate::timing::{DEAD, IDLE_EVERY, LEASE, LEASE_EVERY, RECONNECT};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{Rid, Tick};

impl Coordinator {
    /// Asks for leases when they are due: often while there are reads, now and then as a sign of life.
    pub(super) fn drive_leases(&mut self, now: Tick, out: &mut Vec<Output>) {
        if self.phase != Phase::Serving || now < self.next_lease {
            return;
        }
        let active = now.since(self.last_read) < 2 * LEASE || !self.reads.is_empty();
        self.next_lease = now.plus(if active { LEASE_EVERY } else { IDLE_EVERY });
        // Silence counts from a question that was left unanswered or from the end of the connection, never from having had
        // nothing to ask.
        let silent = |m: &super::Member| m.silent_since().is_some_and(|t| now.since(t) >= DEAD);
        let silent: Vec<Rid> = self.members.iter().filter(|(_, m)| silent(m)).map(|(r, _)| *r).collect();
        silent.into_iter().for_each(|r| self.suspect(r));
        self.ask_leases(now, out);
    }

    pub(super) fn ask_leases(&mut self, now: Tick, out: &mut Vec<Output>) {
        for rid in self.required() {
            let Some(m) = self.members.get_mut(&rid) else { continue };
            if !m.up || m.unproven {
                continue;
            }
            if !m.lease_asked {
                m.asked_since = now;
            }
            if m.lease_asked && now.since(m.lease_sent) < LEASE_EVERY / 2 {
                continue;
            }
            m.lease_asked = true;
            m.lease_sent = now;
            let msg = Msg::Lease { sent_at: now.0, stable: self.stable };
            out.push(Output::Send { rid, env: self.envelope(rid, 0), msg });
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
    pub(super) fn lease_granted(&mut self, now: Tick, rid: Rid, sent_at: u64, out: &mut Vec<Output>) {
        if let Some(m) = self.members.get_mut(&rid) {
            m.lease_asked = false;
            m.lease_until = m.lease_until.max(Tick(sent_at).plus(LEASE));
        }
        self.deliver_reads(now, out);
    }

    /// May what member `from` answered be delivered now? Valid leases from every required member but `from` itself, which
    /// proved the term by answering.
    pub(super) fn leases_valid(&self, now: Tick, from: Rid) -> bool {
        mutant::is(Mutant::ReadWithoutLease)
            || self.required().iter().all(|r| *r == from || self.members.get(r).is_some_and(|m| now < m.lease_until))
    }
}

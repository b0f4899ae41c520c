//! Leases: while every other member has promised to let no newer session in, what one member answers is current (I6).

use super::{Coordinator, Output, Phase};
use crate::message::Msg;
use crate::timing::{DEAD, IDLE_EVERY, LEASE, LEASE_EVERY};
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
        // Silence counts from a question that was left unanswered, never from having had nothing to ask.
        let silent = |m: &super::Member| (m.lease_asked || !m.up) && now.since(m.asked_since.max(m.heard)) >= DEAD;
        let silent: Vec<Rid> = self.members.iter().filter(|(_, m)| silent(m)).map(|(r, _)| *r).collect();
        silent.into_iter().for_each(|r| self.suspect(r));
        self.ask_leases(now, out);
    }

    pub(super) fn ask_leases(&mut self, now: Tick, out: &mut Vec<Output>) {
        for rid in self.required() {
            let Some(m) = self.members.get_mut(&rid) else { continue };
            if !m.lease_asked {
                m.asked_since = now;
            }
            if !m.up || m.unproven {
                continue;
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

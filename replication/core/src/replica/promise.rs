//! What a replica promises and notes: terms, and how much it holds. Rules: docs/protocol.md §2
//! "Seal", §3 "Storage that was put back".

use super::{Link, Output, Replica, StoreOp, Waiting};
use crate::message::{Envelope, Msg, Nack};
use crate::timing::STABLE_EVERY;
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{Epoch, Tick, Ver, invariant};

impl Replica {
    /// A seal has come from a session that the guard lets in.
    pub(super) fn seal(
        &mut self,
        now: Tick,
        (link, env): (Link, Envelope),
        epoch: Epoch,
        (held, position): (Ver, u64),
        stable: Ver,
        out: &mut Vec<Output>,
    ) {
        // A replica that was ever relied upon in a term had noted first, durably, that it held
        // everything before it; and a journal does not go back.
        let noted = self.d.stable.term.min(self.d.promised_term);
        let older = held.term > noted || position > self.position;
        if older && !mutant::is(Mutant::TrustsOldStorage) {
            return self.is_put_back(link, env, out);
        }
        if env.term == self.d.promised_term {
            // The guard let in only the session that holds this term: a repeated seal.
            self.seals.push((link, env, held));
            let notes = stable > self.d.stable;
            self.d.stable = self.d.stable.max(stable);
            if self.promise_durable || notes {
                // The store is asked again, so that the answer carries its present numbers, and
                // comes when what is noted is durable.
                self.promise(out);
            }
            return;
        }
        let leased = now < self.leased_until && !mutant::is(Mutant::SealIgnoresLease);
        if leased && env.session != self.d.promised_session {
            self.knocking = self.knocking.max(env.term);
            let us = self.leased_until.since(now);
            return self.reply(link, env, Msg::SealWait { us }, out);
        }
        invariant!(env.term > self.d.promised_term || mutant::is(Mutant::ServeStaleTerm), "a promise goes back");
        self.d.promised_term = env.term;
        self.d.promised_session = env.session;
        self.epoch = epoch;
        self.promise_durable = false;
        self.seals = vec![(link, env, held)];
        self.promise(out);
    }

    /// The storage was put back from an older copy: nothing of it is served, and it is to be renewed.
    pub(super) fn is_put_back(&mut self, link: Link, env: Envelope, out: &mut Vec<Output>) {
        if !std::mem::replace(&mut self.put_back, true) {
            out.push(Output::Renew);
        }
        self.reply(link, env, Msg::Nack(Nack::WrongStore), out);
    }

    /// Makes the promise and the watermark durable, as they are now.
    pub(super) fn promise(&mut self, out: &mut Vec<Output>) {
        self.stable_persisted = self.d.stable;
        let op = self.promise_op();
        self.store(Waiting::Promise, op, out);
    }

    fn promise_op(&self) -> StoreOp {
        StoreOp::Promise {
            term: self.d.promised_term,
            session: self.d.promised_session,
            stable: self.d.stable,
            epoch: self.epoch,
        }
    }

    /// A coordinator has told its watermark. It counts only within the term that this replica has
    /// noted the beginning of: a watermark of a newer term says nothing about what is here (seed
    /// 3811).
    pub(super) fn learn_stable(&mut self, stable: Ver) {
        if stable.term == self.d.stable.term {
            self.d.stable = self.d.stable.max(stable);
        }
    }

    /// Makes the watermark durable now and then, so that less is compared after a restart.
    pub(super) fn persist_stable(&mut self, now: Tick, out: &mut Vec<Output>) {
        if self.d.stable > self.stable_persisted && now.since(self.stable_at) >= STABLE_EVERY && self.promise_durable {
            self.stable_persisted = self.d.stable;
            self.stable_at = now;
            let op = self.promise_op();
            self.store(Waiting::Stable, op, out);
        }
    }
}

//! The check that every message passes first (protocol §4): identity, then term.

use super::Replica;
use crate::message::{Envelope, Msg, Nack};
use hf_meta_core::mutant::{self, Mutant};

impl Replica {
    /// May this message be handled?
    ///
    /// # Errors
    /// The refusal that the sender gets.
    pub(super) fn guard(&self, env: &Envelope, msg: &Msg) -> Result<(), Nack> {
        let d = &self.d;
        // It is for another cluster, shard or replica: the link leads to the wrong place.
        if env.cluster != d.cluster || env.shard != d.shard || env.rid != d.rid {
            return Err(Nack::NoReplica);
        }
        // Unknown history is base 0, never in-sync (I12).
        if self.put_back || env.store_uuid != d.store_uuid && !mutant::is(Mutant::IgnoreStoreUuid) {
            return Err(Nack::WrongStore);
        }
        if env.lineage != d.lineage {
            return Err(Nack::WrongLineage);
        }
        if self.failed {
            return Err(Nack::Failed);
        }
        if env.term < d.promised_term && !mutant::is(Mutant::ServeStaleTerm) {
            return Err(Nack::StaleTerm { promised: d.promised_term });
        }
        // One session per term (I1): the same term under another session is a coordinator that was
        // never given it.
        if env.term == d.promised_term && env.session != d.promised_session {
            return Err(Nack::StaleTerm { promised: d.promised_term });
        }
        if matches!(msg, Msg::Seal { .. }) {
            return Ok(());
        }
        // Before the promise is durable nothing of the new term is served either.
        if env.term > d.promised_term || !self.promise_durable {
            return Err(Nack::FutureTerm);
        }
        Ok(())
    }
}

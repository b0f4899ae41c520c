//! Why a member is dropped, as the record is to say it.
//!
//! Nothing is decided by it. Of several reasons the first one counts, but a member that has said what is wrong with it
//! tells more than its silence before.

use super::Coordinator;
use super::members::Members;
use crate::message::Nack;
use hf_meta_core::record::DropReason;
use hf_policy::Rid;

/// What a refusal says of the member that sent it.
pub(super) fn reason_of(nack: &Nack) -> DropReason {
    match nack {
        Nack::WrongStore | Nack::WrongLineage | Nack::NoReplica => DropReason::Storage,
        Nack::NoSpace => DropReason::NoSpace,
        Nack::BadCrc => DropReason::BadCrc,
        Nack::Failed => DropReason::Disk,
        Nack::StaleTerm { .. } | Nack::FutureTerm | Nack::Invalid => DropReason::Nack,
    }
}

fn is_silence(why: DropReason) -> bool {
    matches!(why, DropReason::Timeout | DropReason::Link)
}

impl Members {
    /// Suspects a member for this reason, beside what it is suspected of already.
    pub(super) fn accuse(&mut self, rid: Rid, why: DropReason) {
        let known = self.suspects.entry(rid).or_insert(why);
        if is_silence(*known) {
            *known = if is_silence(why) { *known } else { why };
        }
    }
}

impl Coordinator {
    /// Why a member does not answer, as far as that can be seen from here.
    pub(super) fn silence(&self, rid: &Rid) -> DropReason {
        match self.members.get(rid) {
            Some(m) if m.up && m.damaged => DropReason::BadCrc,
            Some(m) if m.up => DropReason::Timeout,
            _ => DropReason::Link,
        }
    }

    /// Why this member is dropped: what it is suspected of, or that it was asked to leave; during a take-over that it
    /// does not promise.
    pub(super) fn why(&self, rid: &Rid) -> DropReason {
        match self.members.suspects.get(rid) {
            Some(why) => *why,
            None if self.record.leaving.contains(rid) => DropReason::Left,
            None if self.takeover.has_refused(rid) => DropReason::Nack,
            None => self.silence(rid),
        }
    }
}

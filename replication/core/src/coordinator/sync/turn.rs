//! Whose turn it is to be brought in: one replica at a time, the one that lacks least first, and
//! only when this node has a place for it.

use super::{Coordinator, Cx, Output, Rid, SyncStage, Tick, Ver};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::invariant;

/// A fill that was put off for a replica that came back.
pub(in crate::coordinator) struct PutOff {
    pub(super) rid: Rid,
    /// Chunks that it still lacked.
    left: u64,
    /// The one that came back lacks more: the fill goes first after all.
    first: bool,
}

/// The place of a sync: how many go on at once is decided for all coordinators of a reactor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::coordinator) enum Permit {
    #[default]
    None,
    /// A place was asked for; `urgent`: clients' writes wait for it.
    Asked {
        urgent: bool,
    },
    Granted,
}

impl Coordinator {
    /// The replica that is to be brought in next, if any can be.
    pub(super) fn sync_candidate(&self, now: Tick) -> Option<Rid> {
        let ready = |r: &Rid| {
            self.members.get(r).is_some_and(|m| m.up) && self.sync.retry.get(r).is_none_or(|(at, _)| now >= *at)
        };
        let made = self.record.out.iter().filter(|(_, o)| o.store_uuid.is_some()).map(|(r, _)| *r);
        // The one that needs least copying comes first, as far as that is known: a replica that
        // returned makes a new one that was to replace it unneeded.
        let first = |r: &Rid| self.sync.put_off.as_ref().is_some_and(|p| p.first && p.rid == *r);
        made.filter(|r| self.is_wanted(*r))
            .filter(ready)
            .max_by_key(|r| (first(r), self.record.out.get(r).map(|o| o.base), std::cmp::Reverse(*r)))
    }

    /// A replica that is to leave would be taken out again at once, and so for ever; one that an
    /// operator holds waits.
    pub(super) fn is_wanted(&self, rid: Rid) -> bool {
        let leaves = self.record.leaving.contains(&rid) && !mutant::is(Mutant::SyncsWhoLeaves);
        !leaves && !self.record.paused.contains(&rid)
    }

    /// A new replica is being filled, and one that only was away has come back: that one goes
    /// first, since it may be enough. (Once: if it fails it waits for its turn, so that the fill
    /// makes progress.)
    pub(super) fn better_candidate(&self, now: Tick) -> bool {
        let base = |r: &Rid| self.record.out.get(r).map_or(Ver::ZERO, |o| o.base);
        let filling = self.sync.attempt.as_ref().filter(|s| s.base == Ver::ZERO && s.stage != SyncStage::Joining);
        filling.is_some_and(|_| {
            self.sync_candidate(now).is_some_and(|r| base(&r) > Ver::ZERO && !self.sync.retry.contains_key(&r))
        })
    }

    /// The fill that is going on waits for a replica that came back.
    pub(super) fn give_way(&mut self, cx: &mut Cx) {
        let at = self.sync.attempt.as_ref().filter(|s| s.stage == SyncStage::Copying);
        invariant!(at.is_none_or(|s| s.done <= s.total), "more chunks are done than there are");
        let put_off = at.map(|s| PutOff { rid: s.rid, left: s.total - s.done, first: false });
        self.end_sync(cx);
        self.sync.put_off = self.sync.put_off.take().or(put_off);
    }

    /// Now that it is known what the one that came back lacks: does the one that was put off for it
    /// lack less? Then it is that one's turn.
    pub(super) fn put_off_lacks_less(&mut self) -> bool {
        // (None was put off, or it is the one that is being filled.)
        let Some(p) = self.sync.put_off.as_ref().filter(|p| !p.first) else { return false };
        let there = self.is_wanted(p.rid) && self.members.get(&p.rid).is_some_and(|m| m.up);
        let (rid, left) = (p.rid, p.left);
        let first = there && self.sync.attempt.as_ref().is_some_and(|s| s.rid != rid && s.total > left);
        if first {
            self.sync.retry.remove(&rid);
        }
        self.sync.put_off = first.then_some(PutOff { rid, left, first });
        first
    }

    /// May a sync begin? If not, its place is asked for; once more if clients' writes have come to
    /// wait for it.
    pub(super) fn permitted(&mut self, cx: &mut Cx) -> bool {
        invariant!(self.sync.attempt.is_none(), "a place is asked for while a sync goes on");
        let urgent = self.is_short_of_members();
        match self.sync.permit {
            Permit::Granted => true,
            Permit::Asked { urgent: asked } if asked || !urgent => false,
            Permit::None | Permit::Asked { .. } => {
                self.sync.permit = Permit::Asked { urgent };
                cx.out.push(Output::WantSync { urgent });
                false
            }
        }
    }
}

//! Whose turn it is to be brought in: one member at a time, the one that lacks least first, and only when there is room for it.

use super::{Coordinator, Cx, Output, Rid, SyncStage, Tick, Ver};
use hf_meta_core::mutant::{self, Mutant};

/// A fill that was put off for one that came back.
pub(in crate::coordinator) struct PutOff {
    pub(super) rid: Rid,
    /// Chunks that it still lacked.
    left: u64,
    /// The one that came back lacks more: it goes first after all.
    first: bool,
}

/// Leave to sync: how many go on at once is decided for all coordinators of a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::coordinator) enum Permit {
    None,
    Asked { urgent: bool },
    Granted,
}

impl Coordinator {
    pub(super) fn sync_candidate(&self, now: Tick) -> Option<Rid> {
        let ready = |r: &Rid| {
            self.members.get(r).is_some_and(|m| m.up) && self.sync_retry.get(r).is_none_or(|(at, _)| now >= *at)
        };
        let made = self.record.out.iter().filter(|(_, o)| o.store_uuid.is_some()).map(|(r, _)| *r);
        // Who needs least copying first, as far as that is known: one that returned makes a new one that was to replace it unneeded.
        let first = |r: &Rid| self.put_off.as_ref().is_some_and(|p| p.first && p.rid == *r);
        made.filter(|r| self.is_wanted(*r))
            .filter(ready)
            .max_by_key(|r| (first(r), self.record.out.get(r).map(|o| o.base), std::cmp::Reverse(*r)))
    }

    /// Who is not wanted any more would be taken out again at once, and so for ever; who is held waits.
    pub(super) fn is_wanted(&self, rid: Rid) -> bool {
        let leaves = self.record.leaving.contains(&rid) && !mutant::is(Mutant::SyncsWhoLeaves);
        !leaves && !self.record.paused.contains(&rid)
    }

    /// A new replica is being filled, and one that only was away has come back: that one goes first, since it may be enough. (Once: if it
    /// fails it waits for its turn, so that what is filled gets on.)
    pub(super) fn better_candidate(&self, now: Tick) -> bool {
        let base = |r: &Rid| self.record.out.get(r).map_or(Ver::ZERO, |o| o.base);
        let filling = self.sync.as_ref().filter(|s| s.base == Ver::ZERO && s.stage != SyncStage::Joining);
        filling.is_some_and(|_| {
            self.sync_candidate(now).is_some_and(|r| base(&r) > Ver::ZERO && !self.sync_retry.contains_key(&r))
        })
    }

    /// What is being filled waits for one that came back.
    pub(super) fn give_way(&mut self, cx: &mut Cx) {
        let at = self.sync.as_ref().filter(|s| s.stage == SyncStage::Copying);
        let put_off = at.map(|s| PutOff { rid: s.rid, left: s.total - s.done, first: false });
        self.end_sync(cx);
        self.put_off = self.put_off.take().or(put_off);
    }

    /// Now that it is known what the one that came back lacks: does the one that was put off for it lack less? Then it is its turn.
    pub(super) fn put_off_lacks_less(&mut self) -> bool {
        let Some(p) = self.put_off.as_ref().filter(|p| !p.first) else { return false };
        let there = self.is_wanted(p.rid) && self.members.get(&p.rid).is_some_and(|m| m.up);
        let (rid, left) = (p.rid, p.left);
        let first = there && self.sync.as_ref().is_some_and(|s| s.rid != rid && s.total > left);
        if first {
            self.sync_retry.remove(&rid);
        }
        self.put_off = first.then_some(PutOff { rid, left, first });
        first
    }

    /// May it begin? If not, that is asked for; again if clients' writes have come to wait for it.
    pub(super) fn permitted(&mut self, cx: &mut Cx) -> bool {
        let urgent = self.is_short_of_members();
        match self.permit {
            Permit::Granted => true,
            Permit::Asked { urgent: asked } if asked || !urgent => false,
            Permit::None | Permit::Asked { .. } => {
                self.permit = Permit::Asked { urgent };
                cx.out.push(Output::WantSync { urgent });
                false
            }
        }
    }
}

//! How an attempt to bring a replica in ends: it joins, it fails, it is refused, or the record has moved.

use super::{Coordinator, Cx, Output, Permit, SyncStage};
use crate::timing::{SYNC_RETRY, SYNC_RETRY_MAX};
use hf_meta_core::mutant::{self, Mutant};
use hf_meta_core::record::DropReason;
use hf_policy::{Rid, broken, invariant};

impl Coordinator {
    /// The target's process has begun anew: what was copied or mirrored to it may be gone with the
    /// process, or with the storage. The attempt ends, or, if the target counts already, the record
    /// decides; answering well from now on mends nothing.
    pub(in crate::coordinator) fn target_reborn(&mut self, rid: Rid) {
        if self.sync.target() == Some(rid) {
            self.suspect(rid, DropReason::Link);
            self.fail_sync("the target's process began anew");
        }
    }

    /// The target of a join that is not to succeed any more: only a commit can say so.
    pub(in crate::coordinator) fn sync_given_up(&self) -> Option<Rid> {
        let failed = self.sync.attempt.as_ref().is_some_and(|s| s.failed.is_some());
        self.joining().filter(|r| failed || self.members.suspects.contains_key(r))
    }

    /// Notes why the attempt cannot go on. It ends with the next step, or by the record if the
    /// target counts already.
    pub(in crate::coordinator) fn fail_sync(&mut self, why: &'static str) {
        match self.sync.attempt.as_mut() {
            Some(s) => drop(s.failed.get_or_insert(why)),
            None => broken!("a sync fails that has ended: {why}"),
        }
    }

    /// The record has moved: the target has joined, was given up, or is gone.
    pub(in crate::coordinator) fn sync_record(&mut self, cx: &mut Cx) {
        // (Nothing is brought in.)
        let Some(s) = self.sync.attempt.as_ref() else { return };
        let (rid, id) = (s.rid, s.sync_id);
        if self.record.in_sync.contains_key(&rid) {
            invariant!(s.stage == SyncStage::Joining, "replica {rid} was added in {:?}", s.stage);
            let reborn = s.failed.is_some();
            self.stats.syncs += 1;
            self.stats.synced_blocks += s.copied;
            self.sync.retry.remove(&rid);
            self.sync.put_off = None;
            self.sync.attempt = None;
            self.pending.mirrored_are_writes(rid);
            self.leave_place(cx);
            // Its process began anew while its join was on its way: it is a member, and has to show
            // that it still holds everything.
            if reborn && !mutant::is(Mutant::RebornIsBelieved) {
                self.members.suspects.remove(&rid);
                self.ask_for_proof(rid, cx);
            }
            return;
        }
        let target = self.record.out.get(&rid);
        let ours = target.is_some_and(|o| o.sync_id == Some(id));
        // (Of one that was removed no SyncStart would ever succeed, and while it is proposed
        // nothing else can be: seed 3228.)
        if !ours && (s.stage != SyncStage::Proposed || target.is_none()) {
            self.end_sync(cx);
        }
    }

    /// Others go first: this node's turn goes to another shard of it, and this one asks again soon.
    pub(in crate::coordinator) fn sync_refused(&mut self, cx: &mut Cx) {
        // (It was another change that was refused, or the attempt has ended.)
        let Some(s) = self.sync.attempt.take_if(|s| s.stage == SyncStage::Proposed) else { return };
        invariant!(s.mirrored.is_empty() && s.copied == 0, "a sync was refused after it had begun");
        // More and more rarely, but often enough to take its turn.
        let wait = self.sync.retry.get(&s.rid).map_or(SYNC_RETRY, |(_, w)| (w * 2).clamp(SYNC_RETRY, 8 * SYNC_RETRY));
        self.sync.retry.insert(s.rid, (cx.now.plus(wait), wait));
        self.leave_place(cx);
    }

    /// Ends the attempt without a join; everything it did is harmless.
    pub(in crate::coordinator) fn end_sync(&mut self, cx: &mut Cx) {
        let Some(s) = self.sync.attempt.take() else {
            return broken!("a sync ends that has ended");
        };
        let rid = s.rid;
        invariant!(
            !self.record.in_sync.contains_key(&rid),
            "replica {rid} is in sync, and its sync ends without a join"
        );
        self.sync.put_off.take_if(|p| p.rid == rid);
        self.stats.syncs_failed += 1;
        self.stats.synced_blocks += s.copied;
        let wait = self.sync.retry.get(&rid).map_or(SYNC_RETRY, |(_, w)| (w * 2).min(SYNC_RETRY_MAX));
        // One that makes progress is not waited for longer and longer.
        let wait = if s.copied > 0 { SYNC_RETRY } else { wait };
        self.sync.retry.insert(rid, (cx.now.plus(wait), wait));
        self.members.suspects.remove(&rid);
        self.pending.retain(|p| p.rid != rid && !p.what.is_sync());
        self.writes.forget_target(rid);
        self.leave_place(cx);
        self.recheck_probes(cx);
        self.recheck_writes(cx);
    }

    /// The attempt is over, and with it the use of its place.
    fn leave_place(&mut self, cx: &mut Cx) {
        invariant!(self.sync.attempt.is_none(), "the place of a sync is left that goes on");
        invariant!(self.sync.permit == Permit::Granted, "a sync had no place: {:?}", self.sync.permit);
        self.sync.permit = Permit::None;
        cx.out.push(Output::SyncOver);
    }
}

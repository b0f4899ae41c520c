//! How an attempt to bring a member in ends: it joins, it fails, it is refused, or the record has
//! moved.

use super::{Coordinator, Cx, Output, Permit, SyncStage};
use crate::timing::{SYNC_RETRY, SYNC_RETRY_MAX};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::Rid;

impl Coordinator {
    /// The target's process has begun anew: what was copied or mirrored to it may be gone with the
    /// process, or with the storage. The attempt ends, or, if the target counts already, the record
    /// decides; answering well from now on mends nothing.
    pub(in crate::coordinator) fn target_reborn(&mut self, rid: Rid) {
        if self.sync.as_ref().is_some_and(|s| s.rid == rid) {
            self.suspect(rid);
            self.fail_sync("the target's process began anew");
        }
    }

    /// The target of a join that is not to succeed any more: only a commit can say so.
    pub(in crate::coordinator) fn sync_given_up(&self) -> Option<Rid> {
        let failed = self.sync.as_ref().is_some_and(|s| s.failed.is_some());
        self.joining().filter(|r| failed || self.suspects.contains(r))
    }

    /// Notes why the attempt cannot go on.
    pub(in crate::coordinator) fn fail_sync(&mut self, why: &'static str) {
        if let Some(s) = self.sync.as_mut() {
            s.failed.get_or_insert(why);
        }
    }

    /// The record has moved: joined, given up, or the target is gone.
    pub(in crate::coordinator) fn sync_record(&mut self, cx: &mut Cx) {
        let Some(s) = self.sync.as_ref() else { return };
        let (rid, id) = (s.rid, s.sync_id);
        if self.record.in_sync.contains_key(&rid) {
            let reborn = s.failed.is_some();
            self.stats.syncs += 1;
            self.stats.synced_blocks += s.copied;
            self.sync_retry.remove(&rid);
            self.put_off = None;
            self.sync = None;
            self.mirrored_are_writes(rid);
            self.permit = Permit::None;
            cx.out.push(Output::SyncOver);
            // Its process began anew while its join was on its way: it is a member, and has to show
            // that it still holds everything.
            if reborn && !mutant::is(Mutant::RebornIsBelieved) {
                self.suspects.remove(&rid);
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
        let Some(s) = self.sync.take_if(|s| s.stage == SyncStage::Proposed) else { return };
        // More and more rarely, but often enough to take its turn.
        let wait = self.sync_retry.get(&s.rid).map_or(SYNC_RETRY, |(_, w)| (w * 2).clamp(SYNC_RETRY, 8 * SYNC_RETRY));
        self.sync_retry.insert(s.rid, (cx.now.plus(wait), wait));
        self.permit = Permit::None;
        cx.out.push(Output::SyncOver);
    }

    /// Ends the attempt without a join; everything it did is harmless.
    pub(in crate::coordinator) fn end_sync(&mut self, cx: &mut Cx) {
        let Some(s) = self.sync.take() else { return };
        let rid = s.rid;
        self.put_off.take_if(|p| p.rid == rid);
        self.stats.syncs_failed += 1;
        self.stats.synced_blocks += s.copied;
        let wait = self.sync_retry.get(&rid).map_or(SYNC_RETRY, |(_, w)| (w * 2).min(SYNC_RETRY_MAX));
        // One that gets on is not waited for longer and longer.
        let wait = if s.copied > 0 { SYNC_RETRY } else { wait };
        self.sync_retry.insert(rid, (cx.now.plus(wait), wait));
        self.suspects.remove(&rid);
        self.pending.retain(|_, p| p.rid != rid && !p.what.is_sync());
        self.writes.values_mut().for_each(|w| {
            w.waiting.remove(&rid);
            w.refused.remove(&rid);
        });
        self.permit = Permit::None;
        cx.out.push(Output::SyncOver);
        self.recheck_probes(cx);
        self.recheck_writes(cx);
    }
}

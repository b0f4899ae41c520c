//! Live writes while a replica is brought in: from its seal on, every new write goes to the target
//! too, so that copying has only to find what is older.

use super::{Coordinator, Cx, SyncStage};
use crate::coordinator::pending::For;
use crate::message::{Msg, WriteKind};
use hf_meta_core::mutant::{self, Mutant};
use hf_meta_core::record::DropReason;
use hf_policy::{BLOCK_SIZE, BlockRange, CHUNK_BLOCKS, Rid, Ver, broken, invariant};

/// Bytes of client writes that the target may be behind; beyond that clients wait for it too.
const MIRROR_BYTES: usize = 32 << 20;
/// The longest zero that a target notes chunk by chunk, in chunks.
const KEPT_CHUNKS: u64 = 1024;

impl Coordinator {
    /// A new write is being sent to members: it goes to the target too. Returns the target if the
    /// client has to wait for it because it is far behind.
    pub(in crate::coordinator) fn mirror(
        &mut self,
        seq: u64,
        range: BlockRange,
        kind: &WriteKind,
        cx: &mut Cx,
    ) -> Option<Rid> {
        let s = self.sync.attempt.as_mut().filter(|s| s.mirrors() && s.failed.is_none())?;
        let zero = matches!(kind, WriteKind::Zero { .. });
        let trim = zero && mutant::is(Mutant::SyncForgetsTrims);
        if trim || mutant::is(Mutant::SyncWithoutMirror) {
            return None;
        }
        invariant!(seq > s.mirror_from || mutant::is(Mutant::ReuseSeq), "write {seq} is mirrored, and is older");
        let bytes = if zero { BLOCK_SIZE } else { range.bytes() as usize };
        let before = s.mirrored.insert(seq, bytes);
        invariant!(before.is_none() || mutant::is(Mutant::ReuseSeq), "write {seq} is mirrored twice");
        s.behind += bytes;
        let (rid, slow) = (s.rid, s.behind > MIRROR_BYTES);
        let kind = self.kind_for(rid, range, kind);
        let msg = Msg::Write { seq, range, stable: Ver::ZERO, kind };
        // If all members refuse it for lack of space it was never there, and must not be on the
        // target either (I15).
        match self.sync.attempt.as_mut().filter(|_| !zero && !slow) {
            Some(s) => drop(s.deferred.insert(seq, msg)),
            None => self.request(rid, For::Mirror(seq), msg, cx),
        }
        slow.then_some(rid)
    }

    /// A member has applied a write, so it will be on all of them: the target gets it too.
    pub(in crate::coordinator) fn mirror_now(&mut self, seq: u64, cx: &mut Cx) {
        let late = self.sync.attempt.as_mut().and_then(|s| Some((s.rid, s.deferred.remove(&seq)?)));
        if let Some((rid, msg)) = late {
            self.request(rid, For::Mirror(seq), msg, cx);
        }
    }

    /// A write was refused by every member: the target must not have it.
    pub(in crate::coordinator) fn mirror_never(&mut self, seq: u64) {
        if let Some(s) = self.sync.attempt.as_mut()
            && s.deferred.remove(&seq).is_some()
        {
            match s.mirrored.remove(&seq) {
                Some(bytes) => s.behind = s.behind.saturating_sub(bytes),
                None => broken!("write {seq} is deferred and is not mirrored"),
            }
        }
    }

    /// The write as this replica gets it. A target notes zeroes also where it holds nothing, unless
    /// that would make entries for very much of the volume: then the attempt ends, and the next one
    /// finds by comparison what is zero.
    pub(in crate::coordinator) fn kind_for(&mut self, rid: Rid, range: BlockRange, kind: &WriteKind) -> WriteKind {
        let target = self.sync.target() == Some(rid);
        match kind {
            WriteKind::Zero { .. } if target => {
                if u64::from(range.len) > KEPT_CHUNKS * CHUNK_BLOCKS {
                    self.suspect(rid, DropReason::Resync);
                }
                WriteKind::Zero { keep: !mutant::is(Mutant::SyncForgetsZeroesOfNothing) }
            }
            kind => kind.clone(),
        }
    }

    /// The target has a mirrored write, durably.
    pub(in crate::coordinator) fn mirror_acked(&mut self, seq: u64, rid: Rid, cx: &mut Cx) {
        let Some(s) = self.sync.attempt.as_mut().filter(|s| s.rid == rid) else {
            return broken!("replica {rid} acknowledges mirrored write {seq}, and is not brought in");
        };
        invariant!(s.mirrors() || s.stage == SyncStage::Joining, "a mirrored write is acknowledged in {:?}", s.stage);
        match s.mirrored.remove(&seq) {
            Some(_) if mutant::is(Mutant::BehindNeverFalls) => {}
            Some(bytes) => {
                invariant!(s.behind >= bytes, "the target is {} bytes behind, and catches up by {bytes}", s.behind);
                s.behind = s.behind.saturating_sub(bytes);
            }
            None => invariant!(mutant::is(Mutant::ReuseSeq), "write {seq} is acknowledged and was not mirrored"),
        }
        invariant!(
            !s.mirrored.is_empty() || s.behind == 0 || mutant::is(Mutant::ReuseSeq),
            "the target has every write, and is {} bytes behind",
            s.behind
        );
        if self.writes.get(seq).is_some_and(|w| w.waiting.contains(&rid)) {
            self.write_acked(seq, rid, cx);
        }
    }

    /// The watermark as this replica is told it: nothing that it has not been made equal to.
    pub(in crate::coordinator) fn stable_for(&self, rid: Rid) -> Ver {
        if self.record.in_sync.contains_key(&rid) { self.writes.stable } else { Ver::ZERO }
    }
}

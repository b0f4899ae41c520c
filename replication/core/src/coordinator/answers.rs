//! What a member's reply means: is it believed, what does it say of the member, and whom is it for.
//!
//! A reply can be anything, at any time, any number of times: nothing in it is taken for granted.
//! One that answers no pending request is looked at only for what it says of the member itself.

use super::pending::{Asked, For};
use super::why::reason_of;
use super::{Coordinator, Cx};
use crate::message::{Content, CopyItem, Envelope, Msg, Nack, unlisted};
use hf_policy::{BootId, Fate, HasFate, Rid, broken, invariant};

impl Coordinator {
    /// A reply has come from this replica's disk.
    pub(super) fn message(&mut self, rid: Rid, env: Envelope, msg: Msg, cx: &mut Cx) {
        // (A replica that has left the record may still answer.)
        let Some(m) = self.members.get(&rid) else { return };
        // A reply to another session or from another process answers nothing that is asked here
        // (hazards: Crucible cc8c5a09).
        if env.session != self.cfg.session || env.rid != rid || (m.boot != BootId::NONE && env.boot != m.boot) {
            return;
        }
        // Until it has shown that it is what it was, nothing else it says counts; it will be asked
        // again (seed 359).
        if m.unproven && !matches!(msg, Msg::SealAck { .. } | Msg::SealWait { .. } | Msg::Nack(_)) {
            return;
        }
        self.note_health(rid, &msg, cx);
        match msg {
            Msg::LeaseAck { sent_at, .. } => return self.lease_granted(rid, sent_at, cx),
            Msg::Nack(Nack::StaleTerm { .. }) => return self.fence(cx),
            _ => {}
        }
        // (It was answered before, forgotten with what it was for, or never asked.)
        let Some(what) = self.pending.get(env.req).filter(|p| p.rid == rid).map(|p| p.what) else { return };
        match msg {
            Msg::Nack(nack) => self.refused(rid, env.req, what, nack, cx),
            Msg::SealWait { us } if what == For::SyncSeal => self.target_wait(cx.now, us),
            Msg::SealWait { us } => self.seal_wait(cx.now, rid, us),
            msg => {
                let Some(asked) = self.pending.remove(env.req) else {
                    return broken!("request {} is pending and is not", env.req);
                };
                self.sync_answered(cx.now, &asked);
                self.answered(env.req, asked, msg, cx);
            }
        }
    }

    /// What a reply says of the member itself, whatever it answers.
    fn note_health(&mut self, rid: Rid, msg: &Msg, cx: &mut Cx) {
        let Some(m) = self.members.get_mut(&rid) else {
            return broken!("replica {rid} answers and is not known");
        };
        // (What was copied to a target is behind the position with which it notes that it holds
        // everything: seed 1407 over real members.)
        if let Msg::WriteAck { position, .. } | Msg::SealAck { position, .. } = msg {
            m.position = m.position.max(*position);
        }
        if let Msg::WriteAck { credit, .. }
        | Msg::SealAck { credit, .. }
        | Msg::ReserveAck { credit, .. }
        | Msg::LeaseAck { credit, .. } = msg
        {
            m.credit = *credit;
        }
        match msg {
            // A broken member answers fast, which is no sign of health; and a refused lease is
            // pending nowhere.
            Msg::Nack(n) if n.fate() == Fate::DropMember => {
                m.broken = true;
                self.suspect(rid, reason_of(n));
            }
            Msg::Nack(n) => {
                m.heard = cx.now;
                m.damaged |= *n == Nack::BadCrc;
            }
            _ => {
                m.heard = cx.now;
                (m.broken, m.damaged) = (false, false);
                self.unsuspect(cx.now, rid);
            }
        }
    }

    /// Hands the answer to a request to whom it is for.
    fn answered(&mut self, req: u64, asked: Asked, msg: Msg, cx: &mut Cx) {
        let (rid, what) = (asked.rid, asked.what);
        invariant!(asked.began <= cx.now, "request {req} is answered before it was asked");
        match (what, msg) {
            (For::Seal, Msg::SealAck { stable, max_ver, .. }) => self.sealed(rid, stable, max_ver, cx),
            (For::Write(seq), Msg::WriteAck { .. }) => self.write_acked(seq, rid, cx),
            (For::Read(id), Msg::ReadAck { infos, data }) => self.read_arrived(id, rid, infos, data, cx),
            (For::Read(id), Msg::ChunkVersionsAck { infos }) => {
                self.read_arrived(id, rid, unlisted(&infos), bytes::Bytes::new(), cx);
            }
            (For::Reserve(id), Msg::ReserveAck { needs, .. }) => self.reserve_answered(id, rid, needs, cx),
            (For::List, Msg::ChunkListAck { chunks, more }) => self.listed(rid, chunks, more, cx),
            (For::Versions(c), Msg::ChunkVersionsAck { infos }) => self.versions(rid, c, unlisted(&infos), cx),
            (For::Source(c, b), Msg::ReadAck { infos, data }) => self.source(rid, (c, b), infos, data, cx),
            (For::Copy(c), Msg::CopyAck { .. }) => self.copied(c, cx),
            (For::Repair(id), Msg::CopyAck { applied }) => {
                let Msg::Copy { items } = &asked.msg else {
                    return broken!("a repair was not asked for by copies");
                };
                // (To be told that a block is lost is no repair.)
                let mended = |(i, yes): &(&CopyItem, &bool)| **yes && i.content != Content::Bad;
                let blocks = items.iter().zip(&applied).filter(mended).count() as u64;
                self.stats.repaired_blocks += blocks;
                self.scrub_mended(id, blocks, cx);
            }
            (For::ScrubList, Msg::ChunkListAck { chunks, more }) => self.scrub_listed(rid, chunks, more),
            (For::ScrubVerify(c), Msg::ChunkVersionsAck { infos }) => self.scrub_verified(rid, c, unlisted(&infos), cx),
            (For::Mark, Msg::SealAck { .. }) => self.marked(rid, cx),
            (For::SyncSeal, Msg::SealAck { stable, .. }) => self.target_sealed(stable, cx),
            (For::SyncMark, Msg::SealAck { .. }) => self.target_marked(cx),
            (For::SyncList, Msg::ChunkListAck { chunks, more }) => self.sync_listed(rid, chunks, more, cx),
            (For::SyncVersions(c), Msg::ChunkVersionsAck { infos }) => self.sync_versions(rid, c, infos, cx),
            (For::SyncRead(c, b), Msg::ReadAck { infos, data }) => self.sync_read(rid, (c, b), infos, data, cx),
            (For::SyncCopy(c), Msg::CopyAck { .. }) => self.sync_copied(c, cx),
            (For::Mirror(seq), Msg::WriteAck { .. }) => self.mirror_acked(seq, rid, cx),
            // An answer of the wrong kind: the request stays open, and time decides.
            (_, _) => self.pending.reopen(req, asked),
        }
    }

    /// The member says no to a request.
    fn refused(&mut self, rid: Rid, req: u64, what: For, nack: Nack, cx: &mut Cx) {
        match (nack.fate(), what) {
            (Fate::Refuse, For::Write(seq)) => {
                if let Some(p) = self.pending.remove(req) {
                    self.write_refused(seq, rid, p.msg, cx);
                }
            }
            // It will be repeated when half the timeout is over.
            (Fate::Retry, _) => {}
            (_, For::Read(id)) => {
                self.pending.remove(req);
                self.read_refused(id, rid, cx);
            }
            (_, For::Seal) => self.seal_refused(cx.now, rid),
            (_, For::Repair(id)) => {
                self.pending.remove(req);
                self.scrub_mended(id, 0, cx);
            }
            (_, For::ScrubList | For::ScrubVerify(_)) => {
                self.pending.remove(req);
                self.scrub_unanswered(rid, cx);
            }
            _ => self.suspect(rid, reason_of(&nack)),
        }
    }
}

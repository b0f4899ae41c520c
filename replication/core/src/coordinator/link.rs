//! Requests to members. Each stays pending until it is answered, the member is dropped, or the attachment ends; it is repeated
//! after a reconnect and after half the timeout (replicas make repeats harmless by versions).

use super::{Coordinator, Cx, Output, Phase};
use crate::message::{Content, CopyItem, Envelope, Msg, Nack, unlisted};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BootId, Fate, HasFate, Rid, Seq, Tick, Ver};

/// What an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    Seal,
    Write(u64),
    Read(u64),
    /// Asked for a request's room.
    Reserve(u64),
    List,
    Versions(hf_policy::ChunkIx),
    Source(hf_policy::ChunkIx, hf_policy::BlockIx),
    Copy(hf_policy::ChunkIx),
    /// Blocks that this request met as bad are replaced.
    Repair(u64),
    /// Asked to note, durably, that it holds everything before this term.
    Mark,
    SyncSeal,
    SyncMark,
    SyncList,
    SyncVersions(hf_policy::ChunkIx),
    SyncRead(hf_policy::ChunkIx, hf_policy::BlockIx),
    /// A message of copies, by its number.
    SyncCopy(u64),
    /// Which chunks there are, for the scrub.
    ScrubList,
    /// A chunk, read and verified.
    ScrubVerify(hf_policy::ChunkIx),
    /// A numbered write, to a member that is being brought in.
    Mirror(u64),
}

impl For {
    pub fn is_scrub(self) -> bool {
        matches!(self, For::ScrubList | For::ScrubVerify(_))
    }
    pub fn is_sync(self) -> bool {
        matches!(
            self,
            For::SyncSeal
                | For::SyncMark
                | For::SyncList
                | For::SyncVersions(_)
                | For::SyncRead(..)
                | For::SyncCopy(_)
                | For::Mirror(_)
        )
    }
}

/// A request that is not answered yet.
pub(super) struct Pending {
    pub rid: Rid,
    pub what: For,
    pub msg: Msg,
    /// When it was asked for the first time.
    pub began: Tick,
    /// Since when its member owes the answer: later than `began` where it had to wait its turn.
    pub first: Tick,
    /// When it was last sent, or last waited its turn.
    pub sent: Tick,
}

impl Coordinator {
    pub(super) fn request(&mut self, rid: Rid, what: For, msg: Msg, cx: &mut Cx) {
        let req = self.id();
        if self.members.get(&rid).is_some_and(|m| m.up && (!m.unproven || what == For::Seal)) {
            cx.out.push(Output::Send { rid, env: self.envelope(rid, req), msg: msg.clone() });
        }
        self.pending.insert(req, Pending { rid, what, msg, began: cx.now, first: cx.now, sent: cx.now });
    }

    /// Asks, or asks once more under the same number: an answer to either is an answer, however long it takes. (Under a new number
    /// each time, a member that answers more slowly than it is asked would never be heard.)
    pub(super) fn ask_again(&mut self, rid: Rid, what: For, msg: Msg, cx: &mut Cx) {
        match self.pending.iter_mut().find(|(_, p)| p.rid == rid && p.what == what) {
            Some((req, p)) => {
                p.msg = msg;
                let req = *req;
                self.resend(req, cx);
            }
            None => self.request(rid, what, msg, cx),
        }
    }

    pub(super) fn peer_up(&mut self, rid: Rid, boot: BootId, cx: &mut Cx) {
        let Some(m) = self.members.get_mut(&rid) else { return };
        m.up = true;
        let mut reborn = m.unproven;
        if m.boot != boot {
            // Another process: what the earlier one granted is not relied upon, and whether its storage is still what it was must be
            // seen: it may have been put back from a copy meanwhile.
            m.lease_until = Tick(0);
            let before = m.boot != BootId::NONE && self.phase == Phase::Serving;
            reborn |= before && self.record.in_sync.contains_key(&rid);
            if before {
                self.target_reborn(rid);
            }
        }
        let Some(m) = self.members.get_mut(&rid) else { return };
        m.boot = boot;
        m.lease_asked = false;
        if reborn && !mutant::is(Mutant::RebornIsBelieved) {
            return self.ask_for_proof(rid, cx);
        }
        self.catch_up(rid, cx);
    }

    /// Nothing that this member says counts until it has shown that it holds what its predecessor
    /// had said.
    pub(super) fn ask_for_proof(&mut self, rid: Rid, cx: &mut Cx) {
        let Some(m) = self.members.get_mut(&rid) else { return };
        m.unproven = true;
        m.lease_until = Tick(0);
        self.pending.retain(|_, p| !(p.rid == rid && p.what == For::Seal));
        let (position, held) = (m.position, Ver { term: self.record.term, seq: Seq(0) });
        let msg = Msg::Seal { epoch: self.record.epoch, held, position, stable: Ver::ZERO };
        self.request(rid, For::Seal, msg, cx);
    }

    /// A member that began anew holds what it had acknowledged: it is relied upon again.
    pub(super) fn proven(&mut self, rid: Rid, cx: &mut Cx) {
        if let Some(m) = self.members.get_mut(&rid).filter(|m| m.unproven) {
            m.unproven = false;
            self.catch_up(rid, cx);
        }
    }

    /// A member is there again: whatever it was asked is asked once more.
    fn catch_up(&mut self, rid: Rid, cx: &mut Cx) {
        let again: Vec<u64> = self.pending.iter().filter(|(_, p)| p.rid == rid).map(|(r, _)| *r).collect();
        for req in again {
            self.resend(req, cx);
        }
        self.drive_leases(cx);
    }

    pub(super) fn peer_down(&mut self, now: Tick, rid: Rid) {
        if let Some(m) = self.members.get_mut(&rid).filter(|m| m.up) {
            m.up = false;
            m.down_since = now;
            // Whatever it granted before it went away is not relied upon any more (it may have restarted).
            m.lease_until = Tick(0);
            self.next_tick = now;
        }
    }

    fn resend(&mut self, req: u64, cx: &mut Cx) {
        let Some(p) = self.pending.get_mut(&req) else { return };
        p.sent = cx.now;
        let (rid, what, msg) = (p.rid, p.what, p.msg.clone());
        if self.members.get(&rid).is_some_and(|m| m.up && (!m.unproven || what == For::Seal)) {
            self.stats.resends += 1;
            cx.out.push(Output::Send { rid, env: self.envelope(rid, req), msg });
        }
    }

    /// Requests that the next step, if it is at `now`, repeats or holds against their member: (member, request). Those that wait their turn
    /// on a link that moves are to be told by [`super::Input::Waits`] at that very moment (protocol.md, "Links").
    pub fn overdue(&self, now: Tick) -> Vec<(Rid, u64)> {
        if now < self.next_tick {
            return Vec::new();
        }
        let half = self.cfg.replica_timeout / 2;
        let due = |p: &Pending| now.since(p.sent) >= half && self.members.get(&p.rid).is_some_and(|m| m.up);
        self.pending.iter().filter(|(_, p)| due(p)).map(|(req, p)| (p.rid, *req)).collect()
    }

    /// Is the answer to this request still wanted?
    pub fn wants(&self, req: u64) -> bool {
        self.pending.contains_key(&req)
    }

    /// These wait their turn: their time counts from now.
    pub(super) fn waits(&mut self, now: Tick, reqs: &[(Rid, u64)]) {
        if mutant::is(Mutant::QueueIsSilence) {
            return;
        }
        for (rid, req) in reqs {
            if let Some(p) = self.pending.get_mut(req).filter(|p| p.rid == *rid) {
                (p.first, p.sent) = (now, now);
            }
        }
    }

    /// What members were asked for these reads is wanted by nobody.
    pub(super) fn forget_reads(&mut self, reads: &std::collections::BTreeSet<u64>, cx: &mut Cx) {
        let asked = |p: &Pending| matches!(p.what, For::Read(id) if reads.contains(&id));
        let forgotten: Vec<(u64, Rid)> =
            self.pending.iter().filter(|(_, p)| asked(p)).map(|(req, p)| (*req, p.rid)).collect();
        for (req, rid) in forgotten {
            self.pending.remove(&req);
            cx.out.push(Output::Forget { rid, req });
        }
    }

    /// Repeats what is unanswered for half the timeout; suspects who left something unanswered for all of it.
    pub(super) fn expire(&mut self, cx: &mut Cx) {
        let timeout = self.cfg.replica_timeout;
        let mut again = Vec::new();
        let mut late = Vec::new();
        for (req, p) in &self.pending {
            // Seals have a rhythm of their own, but for those of members that began anew.
            if p.what == For::SyncSeal || (p.what == For::Seal && self.phase != Phase::Serving) {
                continue;
            }
            let m = self.members.get(&p.rid);
            let lost = m.is_some_and(|m| !m.up && cx.now.since(m.down_since) >= crate::timing::RECONNECT);
            if cx.now.since(p.first) >= timeout || lost {
                late.push((p.rid, *req));
            } else if cx.now.since(p.sent) >= timeout / 2 {
                again.push(*req);
            }
        }
        for req in again {
            self.resend(req, cx);
        }
        for (rid, req) in late {
            let what = self.pending.get(&req).map(|p| p.what);
            // Background work is no reason to drop a member that serves.
            let copying = what.is_some_and(|w| w.is_sync() && !matches!(w, For::Mirror(_)));
            if let Some(p) = self.pending.get(&req).filter(|p| copying && cx.now.since(p.first) >= timeout) {
                self.width.failed(cx.now, p.began);
            }
            if copying && self.record.in_sync.contains_key(&rid) {
                self.fail_sync("the source is slow");
            } else if let Some(For::Repair(id)) = what {
                // A scrub says what it has mended: it waits for a while. Nobody waits for the
                // others. (A copy that comes later does no harm: it is compare-and-set; but
                // clients' writes wait for the chunk's lock.)
                let first = self.pending.get(&req).map_or(cx.now, |p| p.first);
                if self.scrub_mends(id) && cx.now.since(first) < crate::timing::DEAD {
                    self.resend(req, cx);
                } else {
                    self.pending.remove(&req);
                    self.scrub_mended(id, 0, cx);
                }
            } else if what.is_some_and(For::is_scrub) {
                self.pending.remove(&req);
                self.scrub_unanswered(rid, cx);
            } else {
                self.suspect(rid);
                self.resend_late(req, cx);
            }
        }
    }

    /// How far the journal of one that is out had got when it was dropped. 0: nobody knows.
    pub(super) fn dropped_at(&self, rid: Rid) -> u64 {
        self.record.out.get(&rid).filter(|o| o.base > Ver::ZERO).map_or(0, |o| o.position)
    }

    /// The target of a sync has joined: what it was sent meanwhile are a member's writes now. (The end of another one's sync forgot them,
    /// and their clients waited for ever: seed 12469.)
    pub(super) fn mirrored_are_writes(&mut self, rid: Rid) {
        for p in self.pending.values_mut().filter(|p| p.rid == rid) {
            if let For::Mirror(seq) = p.what {
                p.what = For::Write(seq);
            }
        }
    }

    /// A late request goes on being repeated, and a read is moved to another member.
    fn resend_late(&mut self, req: u64, cx: &mut Cx) {
        let Some(p) = self.pending.get(&req) else { return };
        if let For::Read(id) = p.what
            && self.record.in_sync.len() > 1
        {
            let rid = p.rid;
            self.pending.remove(&req);
            return self.read_elsewhere(id, rid, cx);
        }
        if cx.now.since(p.sent) >= self.cfg.replica_timeout {
            self.resend(req, cx);
        }
    }

    pub(super) fn message(&mut self, rid: Rid, env: Envelope, msg: Msg, cx: &mut Cx) {
        let Some(m) = self.members.get_mut(&rid) else { return };
        // A reply to another session or from another process is a reply to nothing we know (hazards: Crucible cc8c5a09).
        if env.session != self.cfg.session || env.rid != rid || (m.boot != BootId::NONE && env.boot != m.boot) {
            return;
        }
        // Until it has shown that it is what it was, nothing else it says counts; it will be asked again (seed 359).
        if m.unproven && !matches!(msg, Msg::SealAck { .. } | Msg::SealWait { .. } | Msg::Nack(_)) {
            return;
        }
        match &msg {
            // A broken member answers fast, which is no sign of health; and a refused lease is pending nowhere.
            Msg::Nack(n) if n.fate() == Fate::DropMember => {
                m.broken = true;
                self.suspect(rid);
            }
            Msg::Nack(_) => m.heard = cx.now,
            _ => {
                m.heard = cx.now;
                m.broken = false;
                self.unsuspect(cx.now, rid);
            }
        }
        let Some(m) = self.members.get_mut(&rid) else { return };
        // (What was copied to a target is behind the position with which it notes that it holds everything: seed 1407 over real members.)
        if let Msg::WriteAck { position, .. } | Msg::SealAck { position, .. } = &msg {
            m.position = m.position.max(*position);
        }
        match &msg {
            Msg::WriteAck { credit, .. } | Msg::SealAck { credit, .. } | Msg::ReserveAck { credit, .. } => {
                m.credit = *credit
            }
            Msg::LeaseAck { sent_at, credit } => {
                m.credit = *credit;
                return self.lease_granted(rid, *sent_at, cx);
            }
            Msg::Nack(Nack::StaleTerm { .. }) => return self.fence(cx),
            _ => {}
        }
        let Some(what) = self.pending.get(&env.req).filter(|p| p.rid == rid).map(|p| p.what) else { return };
        if let Msg::Nack(nack) = msg {
            return self.nack(rid, env.req, what, nack, cx);
        }
        if let Msg::SealWait { us } = msg {
            return if what == For::SyncSeal { self.target_wait(cx.now, us) } else { self.seal_wait(cx.now, rid, us) };
        }
        let Some(p) = self.pending.remove(&env.req) else { return };
        self.copying_answered(cx.now, &p);
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
            (For::Source(c, b), Msg::ReadAck { infos, data }) => self.source(rid, c, b, infos, data, cx),
            (For::Copy(c), Msg::CopyAck { .. }) => self.copied(rid, c, cx),
            (For::Repair(id), Msg::CopyAck { applied }) => {
                let Msg::Copy { items } = &p.msg else { return };
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
            (For::SyncRead(c, b), Msg::ReadAck { infos, data }) => self.sync_read(rid, c, b, infos, data, cx),
            (For::SyncCopy(c), Msg::CopyAck { .. }) => self.sync_copied(c, cx),
            (For::Mirror(seq), Msg::WriteAck { .. }) => self.mirror_acked(seq, rid, cx),
            // An answer of the wrong kind: the request stays open, and time decides.
            (_, _) => drop(self.pending.insert(env.req, p)),
        }
    }

    fn nack(&mut self, rid: Rid, req: u64, what: For, nack: Nack, cx: &mut Cx) {
        match (nack.fate(), what) {
            (Fate::Refuse, For::Write(seq)) => {
                if let Some(p) = self.pending.remove(&req) {
                    self.write_refused(seq, rid, p.msg, cx);
                }
            }
            (Fate::Retry, _) => {} // repeated by `expire`
            (_, For::Read(id)) => {
                self.pending.remove(&req);
                self.read_refused(id, rid, cx);
            }
            (_, For::Seal) => self.seal_refused(cx.now, rid),
            (_, For::Repair(id)) => {
                self.pending.remove(&req);
                self.scrub_mended(id, 0, cx);
            }
            (_, For::ScrubList | For::ScrubVerify(_)) => {
                self.pending.remove(&req);
                self.scrub_unanswered(rid, cx);
            }
            _ => self.suspect(rid),
        }
    }
}

//! Requests to members that are not answered. Each stays pending until it is answered, its member
//! is dropped, or the attachment ends; it is repeated after a reconnect and after half the timeout
//! (versions make repeats harmless).
//!
//! A request that waits its turn on a link that moves is not late: the driver says so
//! ([`super::Input::Waits`]), and its time counts anew. What an answer means stands in
//! `answers.rs`.

use super::{Coordinator, Cx, Output, Phase};
use crate::message::Msg;
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BlockIx, ChunkIx, Rid, Tick, Ver, broken, invariant};
use std::collections::{BTreeMap, BTreeSet};

/// What the answer to a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// A take-over seals its members; while serving, a member that began anew shows what it holds.
    Seal,
    /// A numbered write, by its number.
    Write(u64),
    /// A read, by its id.
    Read(u64),
    /// Whether there is room for a client's request, by that one's id.
    Reserve(u64),
    /// A take-over lists the chunks to reconcile.
    List,
    /// A take-over compares a chunk.
    Versions(ChunkIx),
    /// A take-over fetches a block that others lack.
    Source(ChunkIx, BlockIx),
    /// A take-over copies what a member lacks of a chunk.
    Copy(ChunkIx),
    /// Blocks that a client's request, or the scrub under this lock, found bad are replaced.
    Repair(u64),
    /// The member notes, durably, that it holds everything before this term.
    Mark,
    /// The target of a sync promises this term.
    SyncSeal,
    /// The target of a sync notes that it holds everything before this term.
    SyncMark,
    /// The target or the source of a sync lists its chunks.
    SyncList,
    /// A sync compares a chunk.
    SyncVersions(ChunkIx),
    /// A sync reads a piece of a chunk that begins at this block.
    SyncRead(ChunkIx, BlockIx),
    /// A message of copies to the target of a sync, by its number.
    SyncCopy(u64),
    /// The scrub lists the chunks that a member has.
    ScrubList,
    /// The scrub has a chunk read and verified.
    ScrubVerify(ChunkIx),
    /// A numbered write, by its number, to the target of a sync.
    Mirror(u64),
}

impl For {
    /// The request belongs to the scrub's walk.
    pub fn is_scrub(self) -> bool {
        matches!(self, For::ScrubList | For::ScrubVerify(_))
    }

    /// The request belongs to the attempt to bring a replica in.
    pub fn is_sync(self) -> bool {
        self.is_copying() || matches!(self, For::Mirror(_))
    }

    /// The request belongs to such an attempt, and no client's write waits for it.
    fn is_copying(self) -> bool {
        use For::*;
        matches!(self, SyncSeal | SyncMark | SyncList | SyncVersions(_) | SyncRead(..) | SyncCopy(_))
    }
}

/// A request that is not answered.
pub(super) struct Asked {
    pub rid: Rid,
    pub what: For,
    pub msg: Msg,
    /// When it was asked for the first time.
    pub began: Tick,
    /// Since when its member owes the answer: later than `began` if it had to wait its turn.
    pub first: Tick,
    /// When it was last sent, or last waited its turn.
    pub sent: Tick,
}

/// The requests that are not answered, by their ids.
#[derive(Default)]
pub(super) struct Pending {
    by_req: BTreeMap<u64, Asked>,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.by_req.is_empty()
    }

    pub fn get(&self, req: u64) -> Option<&Asked> {
        self.by_req.get(&req)
    }

    pub fn values(&self) -> impl Iterator<Item = &Asked> {
        self.by_req.values()
    }

    fn insert(&mut self, req: u64, asked: Asked) {
        let newest = self.by_req.last_key_value().is_none_or(|(last, _)| *last < req);
        invariant!(newest, "request {req} has the id of an earlier one");
        self.by_req.insert(req, asked);
    }

    /// An answer of the wrong kind has come: the request stays open, and time decides.
    pub fn reopen(&mut self, req: u64, asked: Asked) {
        let before = self.by_req.insert(req, asked);
        invariant!(before.is_none(), "request {req} was asked anew while its answer was looked at");
    }

    /// The request is answered, or its answer is wanted by nobody.
    pub fn remove(&mut self, req: u64) -> Option<Asked> {
        self.by_req.remove(&req)
    }

    /// Forgets the requests for which `keep` says no.
    pub fn retain(&mut self, keep: impl Fn(&Asked) -> bool) {
        self.by_req.retain(|_, p| keep(p));
    }

    pub fn clear(&mut self) {
        self.by_req.clear();
    }

    /// The ids of what this member was asked, in the order of asking.
    pub fn of(&self, rid: Rid) -> Vec<u64> {
        self.by_req.iter().filter(|(_, p)| p.rid == rid).map(|(req, _)| *req).collect()
    }

    /// Takes out whatever these were asked: they have left the set.
    pub fn take_of(&mut self, gone: &BTreeSet<Rid>) -> Vec<For> {
        let lost = self.by_req.values().filter(|p| gone.contains(&p.rid)).map(|p| p.what).collect();
        self.by_req.retain(|_, p| !gone.contains(&p.rid));
        lost
    }

    /// Takes out what members were asked for these reads, as (member, request).
    fn take_reads(&mut self, reads: &BTreeSet<u64>) -> Vec<(Rid, u64)> {
        let asked = |p: &Asked| matches!(p.what, For::Read(id) if reads.contains(&id));
        let forgotten = self.by_req.iter().filter(|(_, p)| asked(p)).map(|(req, p)| (p.rid, *req)).collect();
        self.by_req.retain(|_, p| !asked(p));
        forgotten
    }

    /// This process was paused: members owe their answers since now.
    pub fn owe_since(&mut self, now: Tick) {
        self.by_req.values_mut().for_each(|p| p.first = now);
    }

    /// The target of a sync has joined: what it was sent meanwhile are a member's writes now. (The
    /// end of another one's sync forgot them, and their clients waited for ever: seed 12469.)
    pub fn mirrored_are_writes(&mut self, rid: Rid) {
        for p in self.by_req.values_mut().filter(|p| p.rid == rid) {
            if let For::Mirror(seq) = p.what {
                p.what = For::Write(seq);
            }
        }
    }

    /// What must hold of it between steps.
    pub fn check(&self, last_id: u64) -> Result<(), String> {
        if self.by_req.last_key_value().is_some_and(|(req, _)| *req > last_id) {
            return Err("a request has an id that was not given".into());
        }
        for (req, p) in &self.by_req {
            if p.first < p.began || p.sent < p.began {
                return Err(format!("request {req} is owed, or was sent, before it began"));
            }
        }
        Ok(())
    }
}

impl Coordinator {
    /// Asks a member, now or as soon as its link is up.
    pub(super) fn request(&mut self, rid: Rid, what: For, msg: Msg, cx: &mut Cx) {
        invariant!(self.phase != Phase::Fenced, "replica {rid} is asked for {what:?} after the end of the attachment");
        let req = self.id();
        if self.may_be_sent(&rid, what) {
            cx.out.push(Output::Send { rid, env: self.envelope(rid, req), msg: msg.clone() });
        }
        self.pending.insert(req, Asked { rid, what, msg, began: cx.now, first: cx.now, sent: cx.now });
    }

    /// Asks, or asks once more under the same id: an answer to either is an answer, however long it
    /// takes. (Under a new id each time, a member that answers more slowly than it is asked would
    /// never be heard.)
    pub(super) fn ask_again(&mut self, rid: Rid, what: For, msg: Msg, cx: &mut Cx) {
        match self.pending.by_req.iter_mut().find(|(_, p)| p.rid == rid && p.what == what) {
            Some((req, p)) => {
                p.msg = msg;
                let req = *req;
                self.resend(req, cx);
            }
            None => self.request(rid, what, msg, cx),
        }
    }

    /// Sends a request again.
    pub(super) fn resend(&mut self, req: u64, cx: &mut Cx) {
        let Some(p) = self.pending.by_req.get_mut(&req) else {
            return broken!("request {req} is to be sent again and is not pending");
        };
        p.sent = cx.now;
        let (rid, what, msg) = (p.rid, p.what, p.msg.clone());
        if self.may_be_sent(&rid, what) {
            self.stats.resends += 1;
            cx.out.push(Output::Send { rid, env: self.envelope(rid, req), msg });
        }
    }

    /// A member that has to prove itself is sent nothing but the seal by which it does.
    fn may_be_sent(&self, rid: &Rid, what: For) -> bool {
        self.members.get(rid).is_some_and(|m| m.up && (!m.unproven || what == For::Seal))
    }

    /// Requests that the next step, if it is at `now`, repeats or holds against their member, as
    /// (member, request). Those that wait their turn on a link that moves are to be told by
    /// [`super::Input::Waits`] at that very moment (protocol.md, "Links").
    pub fn overdue(&self, now: Tick) -> Vec<(Rid, u64)> {
        if now < self.timers.next_round {
            return Vec::new();
        }
        let half = self.cfg.replica_timeout / 2;
        let due = |p: &Asked| now.since(p.sent) >= half && self.members.get(&p.rid).is_some_and(|m| m.up);
        self.pending.by_req.iter().filter(|(_, p)| due(p)).map(|(req, p)| (p.rid, *req)).collect()
    }

    /// Is the answer to this request still wanted?
    pub fn wants(&self, req: u64) -> bool {
        self.pending.by_req.contains_key(&req)
    }

    /// These requests wait their turn on links that move: their members owe the answers since now.
    pub(super) fn waits(&mut self, now: Tick, reqs: &[(Rid, u64)]) {
        if mutant::is(Mutant::QueueIsSilence) {
            return;
        }
        for (rid, req) in reqs {
            // (It may have been answered since the driver asked what is overdue.)
            if let Some(p) = self.pending.by_req.get_mut(req).filter(|p| p.rid == *rid) {
                (p.first, p.sent) = (now, now);
            }
        }
    }

    /// What members were asked for these reads is wanted by nobody.
    pub(super) fn forget_reads(&mut self, reads: &BTreeSet<u64>, cx: &mut Cx) {
        for (rid, req) in self.pending.take_reads(reads) {
            cx.out.push(Output::Forget { rid, req });
        }
    }

    /// Repeats what has been unanswered for half the timeout; what has been unanswered for all of
    /// it is held against its member.
    pub(super) fn expire(&mut self, cx: &mut Cx) {
        let timeout = self.cfg.replica_timeout;
        let (mut again, mut late) = (Vec::new(), Vec::new());
        for (req, p) in &self.pending.by_req {
            // Seals have a rhythm of their own, except those of members that began anew.
            if p.what == For::SyncSeal || (p.what == For::Seal && self.phase != Phase::Serving) {
                continue;
            }
            let m = self.members.get(&p.rid);
            let lost = m.is_some_and(|m| !m.up && cx.now.since(m.down_since) >= crate::timing::RECONNECT);
            if cx.now.since(p.first) >= timeout || lost {
                late.push(*req);
            } else if cx.now.since(p.sent) >= timeout / 2 {
                again.push(*req);
            }
        }
        again.into_iter().for_each(|req| self.resend(req, cx));
        late.into_iter().for_each(|req| self.is_late(req, cx));
    }

    /// A request was not answered in time, or its member's link has been down for too long.
    fn is_late(&mut self, req: u64, cx: &mut Cx) {
        let Some(p) = self.pending.get(req) else {
            return broken!("request {req} is late and is not pending");
        };
        let (rid, what, began, first) = (p.rid, p.what, p.began, p.first);
        if what.is_copying() && cx.now.since(first) >= self.cfg.replica_timeout {
            self.sync.width.failed(cx.now, began);
        }
        match what {
            // Background work is no reason to drop a member that serves.
            _ if what.is_copying() && self.record.in_sync.contains_key(&rid) => self.fail_sync("the source is slow"),
            // A scrub says what it has mended, so it waits for a while. Nobody waits for other
            // repairs. (A copy that comes later does no harm, for it is compare-and-set; but
            // clients' writes wait for the chunk's lock.)
            For::Repair(id) if self.scrub_mends(id) && cx.now.since(first) < crate::timing::DEAD => {
                self.resend(req, cx)
            }
            For::Repair(id) => {
                self.pending.remove(req);
                self.scrub_mended(id, 0, cx);
            }
            For::ScrubList | For::ScrubVerify(_) => {
                self.pending.remove(req);
                self.scrub_unanswered(rid, cx);
            }
            // The member holds things up. A read is moved to another one, anything else goes on
            // being repeated.
            _ => {
                self.suspect(rid, self.silence(&rid));
                self.resend_late(req, cx);
            }
        }
    }

    fn resend_late(&mut self, req: u64, cx: &mut Cx) {
        let Some(p) = self.pending.get(req) else {
            return broken!("request {req} is late and is not pending");
        };
        if let For::Read(id) = p.what
            && self.record.in_sync.len() > 1
        {
            let rid = p.rid;
            self.pending.remove(req);
            return self.read_elsewhere(id, rid, cx);
        }
        if cx.now.since(p.sent) >= self.cfg.replica_timeout {
            self.resend(req, cx);
        }
    }

    /// The position of a replica's journal when it was dropped; 0 = unknown.
    pub(super) fn dropped_at(&self, rid: Rid) -> u64 {
        self.record.out.get(&rid).filter(|o| o.base > Ver::ZERO).map_or(0, |o| o.position)
    }
}

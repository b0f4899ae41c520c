//! Space: a write that may need new space is numbered only when every member has room for it, so
//! that "no space" is certain and uniform (I15; protocol §7, disk full).
//!
//! Members tell how much they can still allocate (`credit`) with every acknowledgement. While that
//! is plentiful a write is counted at its worst case and goes out at once. When it is not, each
//! member is asked what the write would really take: an overwrite takes nothing and always goes.
//! Nothing is promised by the answer; two volumes that race for the last units of a disk are told
//! apart by the disk itself (`write_refused`).

use crate::coordinator::pending::For;
use crate::coordinator::{Coordinator, Cx, IoError};
use crate::message::Msg;
use hf_meta_core::record::DropReason;
use hf_policy::{CHUNK_BYTES, Rid, Space, UNIT_BYTES, broken, invariant};
use std::collections::{BTreeMap, BTreeSet};

/// Below this much room members are asked first. It covers what other volumes may have in flight to
/// the same disk.
const SLACK: Space = Space { bytes: 16 << 20, chunks: 64 };

/// The question to every member what a write would take.
#[derive(Default)]
pub(in crate::coordinator) struct Probe {
    /// Answers outstanding, per member; never 0.
    waiting: BTreeMap<Rid, usize>,
    /// What the write would take, per member that has answered.
    needs: BTreeMap<Rid, Space>,
    /// Members without room, to be dropped.
    pub short: BTreeSet<Rid>,
}

impl Coordinator {
    /// Is there surely room for `need` more, on every member?
    pub(super) fn has_room(&self, need: Space) -> bool {
        let with = self.requests.owed.plus(need).plus(SLACK);
        let room = |r| self.members.get(&r).is_none_or(|m| Space::of_credit(m.credit).covers(with));
        need == Space::NONE || self.required_ids().all(room)
    }

    /// Asks every member what the request's data would take.
    pub(super) fn probe(&mut self, id: u64, cx: &mut Cx) {
        let Some(range) = self.requests.get(id).map(|r| r.range) else {
            return broken!("request {id} asks for room and has ended");
        };
        let mut probe = Probe::default();
        for rid in self.required() {
            for (_, part) in range.by_chunk() {
                *probe.waiting.entry(rid).or_default() += 1;
                self.request(rid, For::Reserve(id), Msg::Reserve { range: part }, cx);
            }
        }
        invariant!(!probe.waiting.is_empty(), "request {id} asks nobody for room");
        if let Some(r) = self.requests.get_mut(id) {
            invariant!(r.exclusive() && r.left == 0, "request {id} asks for room and has {} parts left", r.left);
            invariant!(r.owed == Space::NONE, "request {id} asks for room that it is counted at");
            r.probe = Some(probe);
        }
    }

    /// A member has told what a part of the request's data would take.
    pub(in crate::coordinator) fn reserve_answered(&mut self, id: u64, rid: Rid, needs: u64, cx: &mut Cx) {
        // (It was decided without this member, which did not count any more.)
        let Some(p) = self.requests.get_mut(id).and_then(|r| r.probe.as_mut()) else { return };
        if let Some(left) = p.waiting.get_mut(&rid) {
            invariant!(*left > 0, "replica {rid} owes no answer about room and is waited for");
            *left -= 1;
            if *left == 0 {
                p.waiting.remove(&rid);
            }
        }
        let sum = p.needs.entry(rid).or_default();
        *sum = sum.plus(Space::of_needs(needs));
        self.decide_probe(id, cx);
    }

    /// When every required member has answered: the write goes, those without room are dropped, or
    /// it is refused.
    fn decide_probe(&mut self, id: u64, cx: &mut Cx) {
        let required = self.required();
        let owed = self.requests.owed;
        let Some(p) = self.requests.by_id.get_mut(&id).and_then(|r| r.probe.as_mut()) else {
            return broken!("request {id} asks nobody for room, and that is to be decided");
        };
        if required.iter().any(|r| p.waiting.contains_key(r)) {
            return;
        }
        let needs = |r: &Rid| p.needs.get(r).copied().unwrap_or_default();
        let credit = |r: &Rid| self.members.get(r).map_or(Space::NONE, |m| Space::of_credit(m.credit));
        let lacks = |r: &Rid, owed: Space| needs(r) != Space::NONE && !credit(r).minus(owed).covers(needs(r));
        let short: BTreeSet<Rid> = required.iter().copied().filter(|r| lacks(r, Space::NONE)).collect();
        let most = required.iter().map(needs).fold(Space::NONE, Space::max);
        let blocked = required.iter().any(|r| lacks(r, owed));
        let left = required.len() - short.len();
        p.short = short.clone();
        // What is in flight is counted at its worst case, overwrites too: nobody is refused or
        // dropped for that. All are asked again when some of it has ended.
        if short.is_empty() && blocked {
            if !self.requests.blocked.contains(&id) {
                self.requests.blocked.push(id);
            }
            return;
        }
        if short.is_empty() {
            return self.send_writes(id, most, cx);
        }
        if left >= (self.cfg.min_replicas as usize).max(1) {
            // The others go on without them; the request waits for the record to say so.
            return short.into_iter().for_each(|r| self.suspect(r, DropReason::NoSpace));
        }
        if let Some(r) = self.requests.get_mut(id) {
            r.probe = None;
            r.left = 1;
        }
        self.part_done(id, Err(IoError::NoSpace), cx);
    }

    /// A write in flight has ended: requests that wait for the room that it was counted at ask again.
    pub(super) fn probe_blocked(&mut self, cx: &mut Cx) {
        for id in std::mem::take(&mut self.requests.blocked) {
            // (It may have gone, or been refused, since the set changed.)
            if self.requests.get(id).is_some_and(|r| r.probe.is_some()) {
                self.probe(id, cx);
            }
        }
    }

    /// The set has changed: who is out is not asked for room.
    pub(in crate::coordinator) fn recheck_probes(&mut self, cx: &mut Cx) {
        for id in self.requests.probing() {
            // (To decide about one may have ended another one, whose lock it waited for.)
            if self.requests.get(id).is_some_and(|r| r.probe.is_some()) {
                self.decide_probe(id, cx);
            }
        }
    }

    /// Does a request wait for this member to leave because it has no room?
    pub(in crate::coordinator) fn is_short(&self, rid: Rid) -> bool {
        self.requests.is_short(rid)
    }
}

const _: () = assert!(CHUNK_BYTES.is_multiple_of(UNIT_BYTES));

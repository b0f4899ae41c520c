//! Space: a write that may need new space is numbered only when every member has room for it, so that "no space" is certain
//! and uniform (I15; protocol §7, disk full).
//!
//! Members tell how much they can still allocate (`credit`) with every acknowledgement. While that is plentiful a write is
//! counted at its worst case and goes out at once. When it is not, each member is asked what the write would really take: an
//! overwrite takes nothing and always goes. Nothing is promised by the answer; two volumes that race for the last units of a
//! disk are told apart by the disk itself (`write_refused`).

use super::link::For;
use super::{Coordinator, Cx, IoError};
use crate::message::Msg;
use hf_policy::{CHUNK_BYTES, Rid, Space, UNIT_BYTES};
use std::collections::{BTreeMap, BTreeSet};

/// Below this much room members are asked first. It covers what other volumes may have in flight to the same disk.
const SLACK: Space = Space { bytes: 16 << 20, chunks: 64 };

/// A write that waits to hear whether there is room.
#[derive(Default)]
pub(super) struct Probe {
    /// Answers outstanding, per member.
    waiting: BTreeMap<Rid, usize>,
    /// What it would take, per member that has answered.
    needs: BTreeMap<Rid, Space>,
    /// Members without room, to be dropped.
    pub short: BTreeSet<Rid>,
}

impl Coordinator {
    /// Is there surely room for so much more, on every member?
    pub(super) fn has_room(&self, need: Space) -> bool {
        need == Space::NONE
            || self
                .required()
                .iter()
                .filter_map(|r| self.members.get(r))
                .all(|m| Space::of_credit(m.credit).covers(self.owed.plus(need).plus(SLACK)))
    }

    /// Asks every member what the request's data would take.
    pub(super) fn probe(&mut self, id: u64, cx: &mut Cx) {
        let Some(range) = self.requests.get(&id).map(|r| r.range) else { return };
        let mut probe = Probe::default();
        for rid in self.required() {
            let parts = range.by_chunk();
            for (_, part) in parts {
                *probe.waiting.entry(rid).or_default() += 1;
                self.request(rid, For::Reserve(id), Msg::Reserve { range: part }, cx);
            }
        }
        if let Some(r) = self.requests.get_mut(&id) {
            r.probe = Some(probe);
        }
    }

    pub(super) fn reserve_answered(&mut self, id: u64, rid: Rid, needs: u64, cx: &mut Cx) {
        let Some(p) = self.requests.get_mut(&id).and_then(|r| r.probe.as_mut()) else { return };
        if let Some(left) = p.waiting.get_mut(&rid) {
            *left -= 1;
            if *left == 0 {
                p.waiting.remove(&rid);
            }
        }
        let sum = p.needs.entry(rid).or_default();
        *sum = sum.plus(Space::of_needs(needs));
        self.decide_probe(id, cx);
    }

    /// Everybody required has answered: go, drop who has no room, or refuse.
    fn decide_probe(&mut self, id: u64, cx: &mut Cx) {
        let required = self.required();
        let Some(p) = self.requests.get_mut(&id).and_then(|r| r.probe.as_mut()) else { return };
        if required.iter().any(|r| p.waiting.contains_key(r)) {
            return;
        }
        let needs = |r: &Rid| p.needs.get(r).copied().unwrap_or_default();
        let credit = |r: &Rid| self.members.get(r).map_or(Space::NONE, |m| Space::of_credit(m.credit));
        let lacks = |r: &Rid, owed: Space| needs(r) != Space::NONE && !credit(r).minus(owed).covers(needs(r));
        let short: BTreeSet<Rid> = required.iter().copied().filter(|r| lacks(r, Space::NONE)).collect();
        let most = required.iter().map(needs).fold(Space::NONE, Space::max);
        let left = required.len() - short.len();
        p.short = short.clone();
        // What is in flight is counted at its worst case, overwrites too: nobody is refused or
        // dropped for that. All are asked again when some of it has ended.
        if short.is_empty() && required.iter().any(|r| lacks(r, self.owed)) {
            if !self.blocked.contains(&id) {
                self.blocked.push(id);
            }
            return;
        }
        if short.is_empty() {
            return self.send_writes(id, most, cx);
        }
        if left >= (self.cfg.min_replicas as usize).max(1) {
            // The others go on without them; the request waits for the record to say so.
            return short.into_iter().for_each(|r| self.suspect(r));
        }
        if let Some(r) = self.requests.get_mut(&id) {
            r.probe = None;
            r.left = 1;
        }
        self.part_done(id, Err(IoError::NoSpace), cx);
    }

    /// A write in flight has ended: what waits for room that it was counted at asks again.
    pub(super) fn probe_blocked(&mut self, cx: &mut Cx) {
        for id in std::mem::take(&mut self.blocked) {
            if self.requests.get(&id).is_some_and(|r| r.probe.is_some()) {
                self.probe(id, cx);
            }
        }
    }

    /// The set has changed: who is out is not asked for room.
    pub(super) fn recheck_probes(&mut self, cx: &mut Cx) {
        let ids: Vec<u64> = self.requests.iter().filter(|(_, r)| r.probe.is_some()).map(|(id, _)| *id).collect();
        for id in ids {
            self.decide_probe(id, cx);
        }
    }

    /// Does a request wait for this member to leave because it has no room?
    pub(super) fn is_short(&self, rid: Rid) -> bool {
        self.requests.values().any(|r| r.probe.as_ref().is_some_and(|p| p.short.contains(&rid)))
    }
}

const _: () = assert!(CHUNK_BYTES.is_multiple_of(UNIT_BYTES));

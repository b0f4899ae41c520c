//! Rule W: one number, the same bytes to every required member, answered when all have acknowledged.

use crate::coordinator::pending::For;
use crate::coordinator::{Coordinator, Cx, IoError};
use crate::message::{Msg, WriteKind};
use hf_meta_core::mutant::{self, Mutant};
use hf_meta_core::record::DropReason;
use hf_policy::{BlockRange, Rid, Seq, Term, Tick, Ver, broken, invariant};
use std::collections::{BTreeMap, BTreeSet};

/// After this long a refused write that nobody may be told of is tried again, in microseconds.
const AGAIN: u64 = 200 * hf_policy::MS;

/// A refused write that waits to be tried again.
pub(in crate::coordinator) struct Again {
    at: Tick,
    /// The client request it is part of.
    pub request: u64,
    range: BlockRange,
    kind: WriteKind,
}

/// A numbered write.
pub(in crate::coordinator) struct Write {
    /// The client request it is part of.
    pub request: u64,
    /// Members whose acknowledgement it needs and has not got.
    pub waiting: BTreeSet<Rid>,
    /// Those of them that have no space for it.
    pub refused: BTreeSet<Rid>,
    /// Some member has applied it.
    pub applied: bool,
    /// A member went out of the set before it had answered: it may have applied it.
    uncertain: bool,
    /// What was refused, to be sent again.
    what: Option<(BlockRange, WriteKind)>,
    /// Complete, but fewer members are in sync than the policy asks for: answered when they are back.
    pub held: bool,
}

/// The numbered writes of this term that are not answered, and the watermark.
pub(in crate::coordinator) struct Writes {
    /// The last number that was given.
    pub seq: u64,
    /// Everything up to here is on all in-sync members. Within the term it never goes back.
    pub stable: Ver,
    by_seq: BTreeMap<u64, Write>,
    /// Refused writes that wait to be tried again.
    pub again: Vec<Again>,
}

impl Default for Writes {
    fn default() -> Self {
        Writes { seq: 0, stable: Ver::ZERO, by_seq: BTreeMap::new(), again: Vec::new() }
    }
}

/// A rule about who counts, or about numbers, is broken on purpose: what follows from it does not
/// hold either.
fn miscounts() -> bool {
    use Mutant::{AckByOne, DropCountsAtOnce, JoinCountsLate, ReuseSeq};
    [AckByOne, DropCountsAtOnce, JoinCountsLate, ReuseSeq].into_iter().any(mutant::is)
}

impl Writes {
    pub fn is_empty(&self) -> bool {
        self.by_seq.is_empty()
    }

    pub fn get(&self, seq: u64) -> Option<&Write> {
        self.by_seq.get(&seq)
    }

    pub fn values(&self) -> impl Iterator<Item = &Write> {
        self.by_seq.values()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&u64, &Write)> {
        self.by_seq.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&u64, &mut Write)> {
        self.by_seq.iter_mut()
    }

    /// Some member has not acknowledged a write up to this number.
    pub fn is_waiting_up_to(&self, seq: u64) -> bool {
        self.by_seq.range(..=seq).any(|(_, w)| !w.waiting.is_empty())
    }

    /// This member has refused a write that is not answered.
    pub fn is_refused_by(&self, rid: Rid) -> bool {
        self.by_seq.values().any(|w| w.refused.contains(&rid))
    }

    /// The target of a sync that has ended: nobody waits for it any more.
    pub fn forget_target(&mut self, rid: Rid) {
        for w in self.by_seq.values_mut() {
            w.waiting.remove(&rid);
            w.refused.remove(&rid);
        }
    }

    /// The attachment is over: no write is waited for any more.
    pub fn end(&mut self) {
        self.by_seq.clear();
        self.again.clear();
    }

    /// Clients' requests may begin: everything before this term is on every member.
    pub fn begin(&mut self, before: Ver) {
        invariant!(self.by_seq.is_empty() && self.seq == 0, "writes were numbered before the volume served");
        self.stable = before;
    }

    /// The next write's number.
    fn number(&mut self) -> u64 {
        let again = mutant::is(Mutant::ReuseSeq) && self.seq % 7 == 3 && !self.by_seq.contains_key(&self.seq);
        self.seq += u64::from(!again);
        self.seq
    }

    fn remove(&mut self, seq: u64, term: Term) {
        let w = self.by_seq.remove(&seq);
        invariant!(w.is_some(), "write {seq} ends twice");
        self.advance_stable(term);
    }

    /// Everything up to the oldest outstanding write is on all in-sync members.
    fn advance_stable(&mut self, term: Term) {
        let oldest = self.by_seq.keys().next().filter(|_| !mutant::is(Mutant::StableLeads));
        let seq = oldest.map_or(self.seq, |oldest| oldest - 1);
        self.stable = self.stable.max(Ver { term, seq: Seq(seq) });
        invariant!(self.stable.term == term, "the watermark {:?} is of another term than {term:?}", self.stable);
        invariant!(self.stable.seq.0 <= self.seq, "the watermark {:?} leads number {}", self.stable, self.seq);
    }

    /// What must hold of it between steps.
    pub fn check(&self, term: Term) -> Result<(), String> {
        if self.stable.term == term && self.stable.seq.0 > self.seq {
            return Err("the watermark leads".into());
        }
        for (seq, w) in &self.by_seq {
            if *seq > self.seq || w.waiting.is_empty() != w.held {
                return Err(format!("write {seq} of {} waits for {:?}, held: {}", self.seq, w.waiting, w.held));
            }
            if !w.refused.is_subset(&w.waiting) {
                return Err(format!("write {seq} is refused by a member that it does not wait for"));
            }
            if !w.held && !w.applied && w.waiting == w.refused {
                return Err(format!("write {seq} is refused by all members, and is not answered"));
            }
            let passed = self.stable.term == term && self.stable.seq.0 >= *seq;
            if passed && !miscounts() && !mutant::is(Mutant::StableLeads) {
                return Err(format!("the watermark has passed write {seq}, which waits for {:?}", w.waiting));
            }
        }
        Ok(())
    }
}

impl Coordinator {
    /// Numbers a write and sends it to every required member, and to the target of a sync.
    pub(super) fn start_write(&mut self, request: u64, range: BlockRange, kind: WriteKind, cx: &mut Cx) {
        invariant!(self.requests.get(request).is_some(), "a write of request {request} begins, which has ended");
        invariant!(!range.is_empty(), "a write of no blocks begins");
        let seq = self.writes.number();
        let mut waiting = self.required();
        invariant!(!waiting.is_empty(), "write {seq} has no members to go to");
        let members = waiting.clone();
        if mutant::is(Mutant::DropCountsAtOnce) && waiting.len() > self.members.suspects.len() {
            waiting.retain(|r| !self.members.suspects.contains_key(r));
        }
        if mutant::is(Mutant::JoinCountsLate) && waiting.len() > 1 {
            waiting.retain(|r| self.record.in_sync.contains_key(r));
        }
        waiting.extend(self.mirror(seq, range, &kind, cx));
        let w = Write {
            request,
            waiting,
            refused: BTreeSet::new(),
            applied: false,
            uncertain: false,
            what: None,
            held: false,
        };
        let before = self.writes.by_seq.insert(seq, w);
        invariant!(before.is_none(), "two writes have the number {seq}");
        for rid in members {
            let kind = self.kind_for(rid, range, &kind);
            let msg = Msg::Write { seq, range, stable: self.stable_for(rid), kind };
            self.request(rid, For::Write(seq), msg, cx);
        }
    }

    /// A member has the write, durably.
    pub(in crate::coordinator) fn write_acked(&mut self, seq: u64, rid: Rid, cx: &mut Cx) {
        let Some(w) = self.writes.by_seq.get_mut(&seq) else {
            return invariant!(miscounts(), "replica {rid} acknowledges write {seq}, which has ended");
        };
        let awaited = w.waiting.remove(&rid);
        invariant!(awaited || miscounts(), "replica {rid} acknowledges write {seq}, which does not wait for it");
        invariant!(!w.refused.contains(&rid), "replica {rid} acknowledges write {seq}, which it has refused");
        if mutant::is(Mutant::AckByOne) {
            w.waiting.clear();
            w.refused.clear();
        }
        w.applied = true;
        self.mirror_now(seq, cx);
        self.write_settle(seq, cx);
    }

    /// A member has no space. If all say so, nothing was applied anywhere and the client is told;
    /// if some applied it, the others have fallen behind and are dropped: the outcome is uniform
    /// (I15).
    pub(in crate::coordinator) fn write_refused(&mut self, seq: u64, rid: Rid, msg: Msg, cx: &mut Cx) {
        let Some(w) = self.writes.by_seq.get_mut(&seq) else {
            return invariant!(miscounts(), "replica {rid} refuses write {seq}, which has ended");
        };
        invariant!(w.waiting.contains(&rid) || miscounts(), "write {seq} does not wait for replica {rid}");
        let first = w.refused.insert(rid);
        invariant!(first, "replica {rid} refuses write {seq} twice");
        match msg {
            Msg::Write { range, kind, .. } => w.what = Some((range, kind)),
            other => broken!("write {seq} was sent as {other:?}"),
        }
        self.write_settle(seq, cx);
    }

    /// Ends a write that waits for nobody any more, or that every member has refused.
    fn write_settle(&mut self, seq: u64, cx: &mut Cx) {
        let term = self.record.term;
        let enough = self.record.in_sync.len() >= self.cfg.min_replicas as usize;
        let enough = enough || mutant::is(Mutant::AckBelowMinReplicas);
        let Some(w) = self.writes.by_seq.get_mut(&seq) else {
            return broken!("write {seq} is to be settled and has ended");
        };
        if !w.waiting.is_empty() && !w.applied && w.waiting == w.refused {
            let (request, uncertain, what) = (w.request, w.uncertain, w.what.take());
            invariant!(what.is_some(), "write {seq} is refused, and what it was is not known");
            self.mirror_never(seq);
            self.writes.remove(seq, term);
            // A dropped member may have applied it, so ENOSPC would be a lie, and it would keep it
            // as a write of this term when it is back. The write is tried again under a new number,
            // which overwrites whatever it has.
            return match what.filter(|_| uncertain) {
                Some((range, kind)) => {
                    self.writes.again.push(Again { at: cx.now.plus(AGAIN), request, range, kind });
                }
                None => self.part_done(request, Err(IoError::NoSpace), cx),
            };
        }
        if !w.waiting.is_empty() {
            // Once it is clear that some member applied it, those without space have fallen behind.
            let behind: Vec<Rid> = if w.applied { w.refused.iter().copied().collect() } else { Vec::new() };
            return behind.into_iter().for_each(|r| self.suspect(r, DropReason::NoSpace));
        }
        invariant!(w.refused.is_empty(), "write {seq} is complete, and refused by {:?}", w.refused);
        w.held = !enough;
        if enough {
            let request = w.request;
            self.writes.remove(seq, term);
            self.part_done(request, Ok(()), cx);
        }
    }

    /// The in-sync set has shrunk (its commit was seen), or a sync has ended: who is out no longer counts.
    pub(in crate::coordinator) fn recheck_writes(&mut self, cx: &mut Cx) {
        let target = self.sync.target();
        let seqs: Vec<u64> = self.writes.by_seq.keys().copied().collect();
        for seq in seqs {
            let counts = |r: &Rid| self.record.in_sync.contains_key(r) || target == Some(*r);
            if let Some(w) = self.writes.by_seq.get_mut(&seq) {
                w.uncertain |= w.waiting.iter().any(|r| !counts(r) && !w.refused.contains(r));
                w.waiting.retain(counts);
                w.refused.retain(counts);
            }
            self.write_settle(seq, cx);
        }
    }

    /// Writes that were refused, of which some member out of the set may have had a part, are tried again.
    pub(in crate::coordinator) fn drive_again(&mut self, cx: &mut Cx) {
        let (due, later) = std::mem::take(&mut self.writes.again).into_iter().partition(|a| a.at <= cx.now);
        self.writes.again = later;
        let due: Vec<Again> = due;
        for Again { request, range, kind, .. } in due {
            self.start_write(request, range, kind, cx);
            let seq = self.writes.seq;
            // Its outcome stays uncertain until some number of it was applied everywhere.
            match self.writes.by_seq.get_mut(&seq) {
                Some(w) => w.uncertain = true,
                None => broken!("write {seq} ended while it was sent"),
            }
        }
    }
}

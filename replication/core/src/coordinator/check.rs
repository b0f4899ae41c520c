//! What must hold between steps: each part's own invariants, and what the parts say of each other.
//!
//! It looks at everything, so it is for the simulator and for tests, which call it after every
//! step. What costs nothing to look at is asserted where it happens.

use super::pending::For;
use super::{Coordinator, Phase};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::Rid;
use std::collections::{BTreeMap, BTreeSet};

/// Requests to members that are not answered, sorted by what they are for.
#[derive(Default)]
struct Outstanding {
    writes: BTreeSet<(u64, Rid)>,
    mirrors: BTreeSet<u64>,
    reads: BTreeSet<u64>,
    copies: BTreeSet<u64>,
    pieces: BTreeSet<(hf_policy::ChunkIx, hf_policy::BlockIx)>,
}

impl Coordinator {
    /// Checks what must hold between steps; for the simulator and for tests.
    ///
    /// # Errors
    /// Says which invariant does not hold. That is always a fault of this code, whatever its inputs were.
    pub fn check(&self) -> Result<(), String> {
        let outstanding = self.outstanding()?;
        self.members.check(&self.record, self.joining())?;
        self.pending.check(self.last_id)?;
        self.writes.check(self.record.term)?;
        self.requests.check(self.cfg.blocks, &self.going())?;
        self.reads.check(&outstanding.reads, self.leases.asked)?;
        self.takeover.check(self.phase, &self.record)?;
        self.sync.check(&self.record)?;
        self.scrub.check(&self.record)?;
        self.pace.check()?;
        self.check_writes(&outstanding)?;
        self.check_copies(&outstanding)?;
        self.check_locks()?;
        self.check_phase()
    }

    /// How many reads and writes of each request, or of the scrub, have not ended.
    fn going(&self) -> BTreeMap<u64, usize> {
        let mut going: BTreeMap<u64, usize> = BTreeMap::new();
        let writes = self.writes.values().map(|w| w.request);
        let again = self.writes.again.iter().map(|a| a.request);
        for request in writes.chain(again).chain(self.reads.values().map(|r| r.request)) {
            *going.entry(request).or_default() += 1;
        }
        going
    }

    /// Sorts the pending requests. Each must be to a known replica and belong to something that goes on.
    fn outstanding(&self) -> Result<Outstanding, String> {
        let mut o = Outstanding::default();
        for p in self.pending.values() {
            if self.members.get(&p.rid).is_none() {
                return Err(format!("replica {} is asked for {:?} and is not known", p.rid, p.what));
            }
            if p.what.is_sync() && self.sync.attempt.is_none() {
                return Err(format!("{:?} is asked for a sync that has ended", p.what));
            }
            if p.what.is_scrub() && self.scrub.walk.is_none() {
                return Err(format!("{:?} is asked for a scrub that has ended", p.what));
            }
            let once = match p.what {
                For::Write(seq) => o.writes.insert((seq, p.rid)),
                For::Mirror(seq) => o.mirrors.insert(seq),
                For::Read(id) => o.reads.insert(id),
                For::SyncCopy(number) => o.copies.insert(number),
                For::SyncRead(chunk, start) => o.pieces.insert((chunk, start)),
                For::Seal => self.phase == Phase::Sealing || self.members.get(&p.rid).is_some_and(|m| m.unproven),
                _ => true,
            };
            let excused = [Mutant::ReuseSeq, Mutant::SealOne, Mutant::RebornIsBelieved].into_iter().any(mutant::is);
            if !once && !excused {
                return Err(format!("replica {} is asked for {:?} twice, or for nothing", p.rid, p.what));
            }
        }
        Ok(o)
    }

    /// Every acknowledgement that a write waits for has been asked for, and none else.
    fn check_writes(&self, o: &Outstanding) -> Result<(), String> {
        let target = self.sync.target();
        let deferred: BTreeMap<u64, bool> = self.sync.mirrored().collect();
        for (seq, w) in self.writes.iter() {
            if let Some(rid) = w.waiting.iter().find(|r| !self.counts(r) && target != Some(**r)) {
                return Err(format!("write {seq} waits for replica {rid}, which is out"));
            }
            let asked = |r: &Rid| {
                let as_target = target == Some(*r) && deferred.contains_key(seq);
                w.refused.contains(r) || o.writes.contains(&(*seq, *r)) || as_target
            };
            if let Some(rid) = w.waiting.iter().find(|r| !asked(r)) {
                return Err(format!("write {seq} waits for replica {rid}, which was not asked"));
            }
            if self.requests.get(w.request).is_none() {
                return Err(format!("write {seq} is of request {}, which has ended", w.request));
            }
        }
        let excused = [Mutant::AckByOne, Mutant::DropCountsAtOnce, Mutant::JoinCountsLate, Mutant::ReuseSeq];
        let awaited = |(seq, rid): &(u64, Rid)| self.writes.get(*seq).is_some_and(|w| w.waiting.contains(rid));
        match o.writes.iter().find(|w| !awaited(w)) {
            Some((seq, rid)) if !excused.into_iter().any(mutant::is) => {
                Err(format!("replica {rid} is asked for write {seq}, which does not wait for it"))
            }
            _ => Ok(()),
        }
    }

    /// Every mirrored write, copy and piece that a sync waits for has been asked for, and none else.
    fn check_copies(&self, o: &Outstanding) -> Result<(), String> {
        let mirrored: BTreeSet<u64> = self.sync.mirrored().filter(|(_, deferred)| !deferred).map(|(s, _)| s).collect();
        let (copies, pieces) = self.sync.copies();
        match () {
            () if mirrored != o.mirrors && !mutant::is(Mutant::ReuseSeq) => {
                Err(format!("writes {mirrored:?} are mirrored, and {:?} are asked for", o.mirrors))
            }
            () if copies != o.copies => {
                Err(format!("copies {copies:?} are in flight, and {:?} are asked for", o.copies))
            }
            () if pieces != o.pieces => Err(format!("pieces {pieces:?} are read, and {:?} are asked for", o.pieces)),
            () => Ok(()),
        }
    }

    /// Every lock is a request's or the scrub's, and every request has one.
    fn check_locks(&self) -> Result<(), String> {
        if [Mutant::WriteWithoutLock, Mutant::ReadWithoutLock].into_iter().any(mutant::is) {
            return Ok(());
        }
        let locks: BTreeSet<u64> = self.requests.locks.ids().collect();
        let owners: BTreeSet<u64> = self.requests.ids().chain(self.scrub.lock()).collect();
        if locks == owners { Ok(()) } else { Err(format!("{locks:?} are locked, by {owners:?}")) }
    }

    /// What may be there in which phase.
    fn check_phase(&self) -> Result<(), String> {
        let begun = self.requests.unanswered() > self.requests.queued.len() || !self.writes.is_empty();
        let copying = self.sync.attempt.is_some() || self.scrub.walk.is_some();
        match self.phase {
            Phase::Sealing | Phase::Reconciling if begun || copying || !self.reads.is_empty() => {
                Err(format!("requests, syncs or scrubs go on in {:?}", self.phase))
            }
            Phase::Fenced if begun || copying || !self.requests.queued.is_empty() || !self.pending.is_empty() => {
                Err("something is outstanding after the end of the attachment".into())
            }
            Phase::Fenced if self.timers.next().is_some() => Err("an attachment that is over has a deadline".into()),
            phase if phase != Phase::Fenced && self.timers.next().is_none() => Err("no deadline".into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::coordinator::*;
    use crate::message::Msg;
    use hf_policy::attributes::ReadFrom;
    use hf_policy::{
        BlockRange, BootId, ClusterId, Epoch, Lineage, NodeId, SessionId, ShardId, Term, Ver, VolumeId, broken,
    };

    const NOW: Tick = Tick(1_000_000);
    const RID: Rid = Rid(1);

    /// A coordinator of one member, which serves.
    fn serving() -> Coordinator {
        let cfg = Config {
            cluster: ClusterId(1),
            shard: ShardId { vol: VolumeId(1), index: 0 },
            session: SessionId(5),
            node: NodeId(1),
            blocks: 64,
            min_replicas: 1,
            replica_timeout: 1_000_000,
            read_from: ReadFrom::Local,
            strict_reads: false,
            rebuild_impact: 20,
            nearest: Vec::new(),
        };
        let member = MemberInfo { node: NodeId(1), store_uuid: Default::default() };
        let record = Record {
            term: Term(1),
            epoch: Epoch(1),
            session: Some(SessionId(5)),
            lineage: Lineage(1),
            activated: Term(0),
            served: true,
            in_sync: [(RID, member)].into(),
            out: Default::default(),
            leaving: Default::default(),
            paused: Default::default(),
            scrub: None,
            scrub_paused: false,
        };
        let mut c = Coordinator::new(NOW, cfg, record, &mut Vec::new());
        let mut out = Vec::new();
        c.step(NOW, Input::PeerUp { rid: RID, boot: BootId(9) }, &mut out);
        for _ in 0..3 {
            let sealed = Msg::SealAck { stable: Ver::ZERO, max_ver: Ver::ZERO, credit: u64::MAX, position: 0 };
            answer(&mut c, &mut out, sealed);
        }
        assert_eq!((c.phase, c.check()), (Phase::Serving, Ok(())));
        c
    }

    /// The member answers the newest request.
    fn answer(c: &mut Coordinator, out: &mut Vec<Output>, msg: Msg) {
        let asked = |o: &Output| if let Output::Send { env, .. } = o { Some(*env) } else { None };
        if let Some(env) = out.iter().rev().filter_map(asked).find(|env| env.req > 0) {
            out.clear();
            c.step(NOW, Input::Message { rid: RID, env: Envelope { boot: BootId(9), ..env }, msg }, out);
        }
    }

    fn write(c: &mut Coordinator, id: u64) -> Vec<Output> {
        let mut out = Vec::new();
        let op = ClientOp::Write { off: id * 8192, data: vec![7; 4096].into() };
        c.step(NOW, Input::Client { id, op }, &mut out);
        out
    }

    #[test]
    fn an_attachment_that_breaks_an_invariant_is_reported_and_can_be_abandoned() {
        let mut c = serving();
        let mut out = write(&mut c, 1);
        let second = write(&mut c, 2);
        assert!(!second.iter().any(|o| matches!(o, Output::Reply { .. })), "it waits for the member");
        // A lock that nobody asked for: it is granted when the first write ends.
        assert!(!c.requests.locks.acquire(999, BlockRange::new(2, 1), true));
        assert!(c.check().is_err());
        broken::kept(|| answer(&mut c, &mut out, Msg::WriteAck { position: 0, credit: u64::MAX }));
        let report = broken::take().unwrap_or_default();
        assert!(report.contains("a lock is granted to 999"), "{report}");
        out.clear();
        c.abandon(NOW, &mut out);
        let fenced = |id| Output::Reply { id, result: Err(IoError::Fenced) };
        assert_eq!(out, [fenced(2), Output::Fenced]);
        assert_eq!((c.next_deadline(), c.check(), c.check_released()), (None, Ok(()), Ok(())));
        // From now on it answers, and does nothing else.
        assert_eq!(write(&mut c, 3), [fenced(3)]);
        assert_eq!(broken::take(), None);
    }
}

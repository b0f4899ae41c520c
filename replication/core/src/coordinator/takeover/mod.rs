//! Attach and take-over (protocol §5): seal the whole in-sync set, drop the members that do not
//! answer, make the sealed ones equal, then serve.
//!
//! Un-acknowledged writes roll forward if any sealed member has them; blocks are old or new, never
//! mixed. This file seals; `reconcile.rs` makes equal; `compare.rs` decides block by block.

mod compare;
mod reconcile;

use super::pending::For;
use super::{Coordinator, Cx, Phase, Record};
use crate::message::{BlockInfo, CopyItem, Msg};
use crate::timing::{SEAL, SEAL_EVERY};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BlockIx, CHUNK_BLOCKS, ChunkIx, Rid, Seq, Term, Tick, Ver, invariant};
use std::collections::{BTreeMap, BTreeSet};

/// Chunks that are reconciled at once.
const PARALLEL: usize = 8;

/// A chunk that is being compared and made equal.
#[derive(Default)]
struct Recon {
    /// What each member has told of the chunk so far: 256 entries each.
    versions: BTreeMap<Rid, Vec<BlockInfo>>,
    /// Blocks still to be fetched from their source.
    sources: BTreeSet<BlockIx>,
    /// Per member: what it lacks.
    items: BTreeMap<Rid, Vec<CopyItem>>,
    /// Copies that members have not answered.
    copying: usize,
}

/// The take-over's progress.
#[derive(Default)]
pub(super) struct Takeover {
    /// Members that have promised this term: their watermark and their highest version.
    sealed: BTreeMap<Rid, (Ver, Ver)>,
    /// When some member first answered, if only with "wait".
    first_heard: Option<Tick>,
    /// When members that are not sealed are asked again.
    again: BTreeMap<Rid, Tick>,
    /// Members that have refused to promise.
    refused: BTreeSet<Rid>,
    /// Every member holds everything up to here, by I2.
    pub s_star: Ver,
    /// Chunks with anything newer are compared.
    since: Ver,
    /// The storage of some member may have been put back from a copy.
    doubtful: bool,
    /// Members whose list of chunks is not complete.
    listing: BTreeSet<Rid>,
    todo: BTreeSet<ChunkIx>,
    active: BTreeMap<ChunkIx, Recon>,
    /// Once all are equal: the members that have not yet noted that durably.
    unmarked: Option<BTreeSet<Rid>>,
    /// Blocks that were copied, so far.
    pub copied: u64,
}

impl Takeover {
    /// Bad blocks up to this version may have been acknowledged: any version, if some member may
    /// hold less than was acknowledged because its storage was put back.
    fn relied(&self) -> Ver {
        let any = Ver { term: Term(u32::MAX), seq: Seq(u64::MAX) };
        if self.doubtful { any } else { self.s_star }
    }

    /// Has this member refused to promise?
    pub fn has_refused(&self, rid: &Rid) -> bool {
        self.refused.contains(rid)
    }

    /// What must hold of it between steps.
    pub fn check(&self, phase: Phase, record: &Record) -> Result<(), String> {
        let in_sync = |r: &Rid| record.in_sync.contains_key(r);
        if !self.sealed.keys().chain(&self.refused).all(in_sync) {
            return Err("a member is sealed, or refuses, that is not in sync".into());
        }
        if let Some(r) = self.refused.iter().find(|r| self.sealed.contains_key(r)) {
            return Err(format!("replica {r} is sealed and refuses"));
        }
        if phase != Phase::Reconciling {
            return Ok(());
        }
        if !self.listing.iter().chain(self.unmarked.iter().flatten()).all(in_sync) {
            return Err("a member is waited for that is not in sync".into());
        }
        if self.active.len() > PARALLEL || (!self.listing.is_empty() && !self.active.is_empty()) {
            return Err(format!(
                "{} chunks are reconciled, {} members list theirs",
                self.active.len(),
                self.listing.len()
            ));
        }
        if self.unmarked.is_some() && !(self.todo.is_empty() && self.active.is_empty() && self.listing.is_empty()) {
            return Err("members note that they are equal while chunks are left".into());
        }
        for (chunk, a) in &self.active {
            if !a.versions.keys().all(in_sync) || a.versions.values().any(|v| v.len() != CHUNK_BLOCKS as usize) {
                return Err(format!("chunk {} is compared by what does not count", chunk.0));
            }
            if a.copying > 0 && !a.sources.is_empty() {
                return Err(format!("chunk {} is copied before its sources are there", chunk.0));
            }
        }
        Ok(())
    }
}

impl Coordinator {
    /// A member that the take-over waits for to promise this term.
    pub(super) fn unsealed(&self) -> Option<Rid> {
        let mut members = self.record.in_sync.keys().filter(|_| self.phase == Phase::Sealing);
        members.find(|r| !self.takeover.sealed.contains_key(r)).copied()
    }

    /// A round of the take-over: what has not been answered is asked again, what is ready goes on.
    pub(super) fn drive_takeover(&mut self, cx: &mut Cx) {
        match self.phase {
            Phase::Sealing => self.drive_seal(cx),
            Phase::Reconciling => self.drive_reconcile(cx),
            Phase::Serving | Phase::Fenced => {}
        }
    }

    /// Seals every member that is not sealed, again and again; goes on when all are, drops the
    /// missing when time is up.
    pub(super) fn drive_seal(&mut self, cx: &mut Cx) {
        invariant!(self.phase == Phase::Sealing, "members are sealed in {:?}", self.phase);
        let unsealed: Vec<Rid> =
            self.record.in_sync.keys().filter(|r| !self.takeover.sealed.contains_key(r)).copied().collect();
        let enough = mutant::is(Mutant::SealOne) && !self.takeover.sealed.is_empty();
        if unsealed.is_empty() || enough {
            return self.begin_reconcile(cx);
        }
        for rid in &unsealed {
            if self.takeover.again.get(rid).is_some_and(|t| cx.now < *t) {
                continue;
            }
            self.takeover.again.insert(*rid, cx.now.plus(SEAL_EVERY));
            let held = Ver { term: self.record.activated, seq: Seq(0) };
            let msg = Msg::Seal { epoch: self.record.epoch, held, position: 0, stable: Ver::ZERO };
            self.ask_again(*rid, For::Seal, msg, cx);
        }
        // The others' time begins with the first answer of any kind: they may come while one waits
        // for a lease to run out.
        let late =
            self.takeover.first_heard.is_some_and(|t| cx.now.since(t) >= SEAL) && !self.takeover.sealed.is_empty();
        // A member that answers "wait" is alive and will be sealed; one that is silent or refuses
        // is missing.
        let missing = |r: &&Rid| {
            let heard = self.members.get(r).is_some_and(|m| m.up && cx.now.since(m.heard) < SEAL);
            !heard || self.takeover.refused.contains(r)
        };
        let missing: Vec<Rid> = unsealed.iter().filter(missing).copied().collect();
        if late && !missing.is_empty() {
            invariant!(missing.len() < self.record.in_sync.len(), "every member is missing, and one is sealed");
            let base = self.served(self.sealed_stable());
            self.propose(self.drop_of(missing, base), cx);
        }
    }

    /// The base that the record may hold against a member that is dropped now.
    ///
    /// A watermark at the beginning of a term that the record does not know as served is one that
    /// some members noted in a take-over which was cut short; others were as equal, and did not
    /// come to note it. Clients were told nothing in that term: everything that was acknowledged is
    /// of the newest served term or before, and the member had noted the beginning of that one. (A
    /// watermark within a term is told only when all have noted its beginning: a shard that a
    /// resize made has one in a term that the record does not count for it.)
    pub(super) fn served(&self, stable: Ver) -> Ver {
        let of_served = stable.seq.0 > 0 || stable.term <= self.record.activated;
        let counts = of_served || mutant::is(Mutant::UnservedTermsCount);
        if counts { stable } else { Ver { term: self.record.activated, seq: Seq(0) } }
    }

    /// The highest watermark that a sealed member has told: everything up to it is on every member.
    fn sealed_stable(&self) -> Ver {
        let max = mutant::is(Mutant::StableIsMax);
        let of = |(stable, max_ver): &(Ver, Ver)| if max { *max_ver } else { *stable };
        self.takeover.sealed.values().map(of).max().unwrap_or(Ver::ZERO)
    }

    /// A member waits for a lease to run out, and is to be asked again in `us` microseconds.
    pub(super) fn seal_wait(&mut self, now: Tick, rid: Rid, us: u64) {
        self.takeover.first_heard.get_or_insert(now);
        self.takeover.again.insert(rid, now.plus(us.clamp(1_000, SEAL_EVERY)));
    }

    /// A member does not promise. It is asked again, and dropped if it is not sealed when time is up.
    pub(super) fn seal_refused(&mut self, now: Tick, rid: Rid) {
        // (One that is to prove itself was sealed before: `message` suspects it if it cannot be
        // relied upon.)
        if self.record.in_sync.contains_key(&rid) && !self.takeover.sealed.contains_key(&rid) {
            self.takeover.refused.insert(rid);
        }
        self.takeover.again.insert(rid, now.plus(SEAL_EVERY));
    }

    /// A member has promised this term, or has shown what it holds.
    pub(super) fn sealed(&mut self, rid: Rid, stable: Ver, max_ver: Ver, cx: &mut Cx) {
        invariant!(self.record.in_sync.contains_key(&rid), "replica {rid} is sealed and is not in sync");
        self.takeover.refused.remove(&rid);
        self.takeover.sealed.insert(rid, (stable, max_ver));
        self.takeover.first_heard.get_or_insert(cx.now);
        match self.phase {
            Phase::Sealing => self.drive_seal(cx),
            Phase::Serving => self.proven(rid, cx),
            Phase::Reconciling | Phase::Fenced => {}
        }
    }

    /// The set changed while taking over: reconciling begins anew with the members that are left
    /// (what was done so far was idempotent).
    pub(super) fn membership_changed(&mut self, cx: &mut Cx) {
        let t = &mut self.takeover;
        t.sealed.retain(|r, _| self.record.in_sync.contains_key(r));
        t.refused.retain(|r| self.record.in_sync.contains_key(r));
        match self.phase {
            Phase::Sealing => self.drive_seal(cx),
            Phase::Reconciling => {
                self.pending.clear();
                self.begin_reconcile(cx);
            }
            Phase::Serving | Phase::Fenced => {}
        }
    }
}

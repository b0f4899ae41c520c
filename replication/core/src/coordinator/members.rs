//! The replicas of the shard as its coordinator sees them: their links and processes, what they
//! last said, which of them are suspected, and the one open proposal.
//!
//! A suspect counts like any other member until the commit that drops it is seen (`membership.rs`).
//! A member whose process began anew while it was relied upon is *unproven*: it counts, but nothing
//! that it says is believed until a seal has shown that its storage still holds what its
//! predecessor had acknowledged.

use super::pending::{Asked, For};
use super::{Coordinator, Cx, MemberInfo, Phase, Record};
use crate::message::Msg;
use hf_meta_core::mutant::{self, Mutant};
use hf_meta_core::record::DropReason;
use hf_policy::{BootId, Epoch, Rid, Seq, Tick, Ver, broken, invariant};
use std::collections::BTreeMap;

/// A replica, in the set or out of it, as the coordinator sees it.
pub(super) struct Member {
    /// Its node and storage, as the record says.
    pub info: MemberInfo,
    /// The link to its disk is up.
    pub up: bool,
    /// The process that its link leads to; none before the first link.
    pub boot: BootId,
    /// When its link last went down.
    pub down_since: Tick,
    /// Its lease is valid before this moment, by the coordinator's clock; 0 if it has granted none.
    pub lease_until: Tick,
    /// When it was last asked for a lease.
    pub lease_sent: Tick,
    /// A question about its lease is unanswered.
    pub lease_asked: bool,
    /// The newest question about leases that it has answered ([`Msg::Lease`]'s `sent_at`).
    pub confirmed: u64,
    /// Since when a question about its lease is unanswered.
    pub asked_since: Tick,
    /// What it was sent last did not match its checksum there.
    pub damaged: bool,
    /// It said that it cannot be relied upon: its disk has failed, or its storage is not the recorded one.
    pub broken: bool,
    /// Its process began anew while it was relied upon, and has not shown yet that it holds what it
    /// had acknowledged.
    pub unproven: bool,
    /// The position of its disk's journal when it last acknowledged a write or a seal; 0 = unknown.
    pub position: u64,
    /// When it last answered anything.
    pub heard: Tick,
    /// The room on its disk as it last told it, encoded as [`hf_policy::Space`] does; `u64::MAX`
    /// before it has told.
    pub credit: u64,
}

impl Member {
    fn new(info: MemberInfo) -> Member {
        Member {
            info,
            up: false,
            boot: BootId::NONE,
            down_since: Tick(0),
            lease_until: Tick(0),
            lease_sent: Tick(0),
            lease_asked: false,
            confirmed: 0,
            asked_since: Tick(0),
            damaged: false,
            broken: false,
            unproven: false,
            position: 0,
            heard: Tick(0),
            credit: u64::MAX,
        }
    }

    /// Since when it owes a sign of life; `None` if it owes none.
    pub fn silent_since(&self) -> Option<Tick> {
        match (self.up, self.lease_asked) {
            (false, _) => Some(self.down_since.max(self.heard)),
            (true, true) => Some(self.asked_since.max(self.heard)),
            (true, false) => None,
        }
    }

    /// Its link is up, and what it says is believed.
    pub fn can_be_asked(&self) -> bool {
        self.up && !self.unproven
    }
}

/// The open proposal: a change of the record that was handed to the driver.
pub(super) struct Proposal {
    /// The record's epoch on which the change builds. Any newer record settles it.
    pub epoch: Epoch,
    /// If nothing was heard of it by then, another proposal may be made.
    pub until: Tick,
}

/// The replicas of the shard.
#[derive(Default)]
pub(super) struct Members {
    by_rid: BTreeMap<Rid, Member>,
    /// Members that hold things up, each with the reason. They are dropped as soon as that can be
    /// proposed, unless they answer before.
    pub suspects: BTreeMap<Rid, DropReason>,
    /// At most one proposal is open at a time.
    pub proposal: Option<Proposal>,
}

impl Members {
    /// The replicas of a record, none of them linked.
    pub fn new(record: &Record) -> Members {
        let by_rid: BTreeMap<Rid, Member> = record.everybody().map(|(rid, m)| (rid, Member::new(m))).collect();
        invariant!(by_rid.len() == record.in_sync.len() + record.out.len(), "a replica is both in sync and out");
        Members { by_rid, ..Members::default() }
    }

    /// A newer record: replicas come and go, and a replica's storage may have been made anew.
    pub fn follow(&mut self, record: &Record) {
        for (rid, info) in record.everybody() {
            let m = self.by_rid.entry(rid).or_insert_with(|| Member::new(info));
            if m.info.store_uuid != info.store_uuid {
                // Other storage, and perhaps on another disk: what was told of the journal is not
                // about this one.
                m.position = 0;
            }
            m.info = info;
        }
        self.by_rid.retain(|r, _| record.in_sync.contains_key(r) || record.out.contains_key(r));
        invariant!(
            self.by_rid.len() == record.in_sync.len() + record.out.len(),
            "{} replicas are known, the record has {} in sync and {} out",
            self.by_rid.len(),
            record.in_sync.len(),
            record.out.len()
        );
    }

    /// The attachment is over: nobody has to prove anything to it, and nothing is proposed.
    pub fn end(&mut self) {
        self.by_rid.values_mut().for_each(|m| m.unproven = false);
        self.suspects.clear();
        self.proposal = None;
    }

    pub fn get(&self, rid: &Rid) -> Option<&Member> {
        self.by_rid.get(rid)
    }

    pub fn get_mut(&mut self, rid: &Rid) -> Option<&mut Member> {
        self.by_rid.get_mut(rid)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Rid, &Member)> {
        self.by_rid.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Rid, &mut Member)> {
        self.by_rid.iter_mut()
    }

    /// Its link is up, and what it says is believed.
    pub fn can_be_asked(&self, rid: &Rid) -> bool {
        self.by_rid.get(rid).is_some_and(Member::can_be_asked)
    }

    /// It can be asked, and is not suspected.
    pub fn is_present(&self, rid: &Rid) -> bool {
        self.can_be_asked(rid) && !self.suspects.contains_key(rid)
    }

    /// What must hold of it between steps, given the record and the target of a join.
    pub fn check(&self, record: &Record, joining: Option<Rid>) -> Result<(), String> {
        let counts = |r: &Rid| record.in_sync.contains_key(r) || joining == Some(*r);
        if self.by_rid.len() != record.in_sync.len() + record.out.len() {
            return Err(format!("{} replicas are known, which are not those of the record", self.by_rid.len()));
        }
        if let Some(r) = self.suspects.keys().find(|r| !counts(r)) {
            return Err(format!("replica {r} is suspected, and does not count"));
        }
        if self.proposal.as_ref().is_some_and(|p| p.epoch != record.epoch) {
            return Err("a proposal is open that the record has settled".into());
        }
        for (rid, m) in &self.by_rid {
            if !record.in_sync.contains_key(rid) && !record.out.contains_key(rid) {
                return Err(format!("replica {rid} is known, and not recorded"));
            }
            if m.unproven && !record.in_sync.contains_key(rid) {
                return Err(format!("replica {rid} has to prove itself, and is not in sync"));
            }
            if m.up && m.boot == BootId::NONE {
                return Err(format!("replica {rid} is linked to no process"));
            }
        }
        Ok(())
    }
}

impl Coordinator {
    /// The link to a replica's disk is up, and leads to this process.
    pub(super) fn peer_up(&mut self, rid: Rid, boot: BootId, cx: &mut Cx) {
        // (The driver may know of a replica before the record names it here, or after it has gone.)
        let Some(m) = self.members.get_mut(&rid) else { return };
        m.up = true;
        let mut reborn = m.unproven;
        let another = m.boot != boot;
        let before = another && m.boot != BootId::NONE && self.phase == Phase::Serving;
        if another {
            // Another process: the leases of the earlier one are not relied upon, and its storage
            // may have been put back from a copy meanwhile. Whether it still is what it was must be
            // seen.
            m.lease_until = Tick(0);
            reborn |= before && self.record.in_sync.contains_key(&rid);
        }
        m.boot = boot;
        m.lease_asked = false;
        if before {
            self.target_reborn(rid);
        }
        if reborn && !mutant::is(Mutant::RebornIsBelieved) {
            return self.ask_for_proof(rid, cx);
        }
        self.catch_up(rid, cx);
    }

    /// Nothing that this member says counts until it has shown that it holds what its predecessor
    /// had acknowledged.
    pub(super) fn ask_for_proof(&mut self, rid: Rid, cx: &mut Cx) {
        invariant!(self.record.in_sync.contains_key(&rid), "replica {rid} is not in sync and is to prove itself");
        let Some(m) = self.members.get_mut(&rid) else {
            return broken!("replica {rid} is to prove itself and is not known");
        };
        m.unproven = true;
        m.lease_until = Tick(0);
        self.pending.retain(|p| !(p.rid == rid && p.what == For::Seal));
        let (position, held) = (m.position, Ver { term: self.record.term, seq: Seq(0) });
        let msg = Msg::Seal { epoch: self.record.epoch, held, position, stable: Ver::ZERO };
        self.request(rid, For::Seal, msg, cx);
    }

    /// A seal was answered while serving: the member holds what it had acknowledged, and is relied
    /// upon again.
    pub(super) fn proven(&mut self, rid: Rid, cx: &mut Cx) {
        // (A member that is proven already was asked twice.)
        if let Some(m) = self.members.get_mut(&rid).filter(|m| m.unproven) {
            m.unproven = false;
            invariant!(m.lease_until == Tick(0), "a lease of replica {rid} was believed before its storage was");
            self.catch_up(rid, cx);
        }
    }

    /// A member is there again: whatever it was asked is asked once more.
    fn catch_up(&mut self, rid: Rid, cx: &mut Cx) {
        for req in self.pending.of(rid) {
            self.resend(req, cx);
        }
        self.drive_leases(cx);
    }

    /// The link to a replica's disk is down.
    pub(super) fn peer_down(&mut self, now: Tick, rid: Rid) {
        // (It is down already, or the replica is not in the record.)
        let Some(m) = self.members.get_mut(&rid).filter(|m| m.up) else { return };
        invariant!(m.boot != BootId::NONE, "replica {rid} was linked to no process");
        m.up = false;
        m.down_since = now;
        // Its leases are not relied upon any more: it may have begun anew.
        m.lease_until = Tick(0);
        self.timers.next_round = now;
    }

    /// This member holds things up for this reason: it will be dropped, unless it is the last one.
    /// The target of a sync is not a member: then the sync ends.
    pub(super) fn suspect(&mut self, rid: Rid, why: DropReason) {
        if self.counts(&rid) {
            self.members.accuse(rid, why);
        } else if self.sync.target() == Some(rid) {
            self.fail_sync("the member does not answer well");
        }
    }

    /// A member has answered well: if it owes nothing it is no longer a suspect.
    pub(super) fn unsuspect(&mut self, now: Tick, rid: Rid) {
        let timeout = self.cfg.replica_timeout;
        let owes = |p: &Asked| p.rid == rid && now.since(p.first) >= timeout;
        if self.members.suspects.contains_key(&rid)
            && !self.pending.values().any(owes)
            && !self.writes.is_refused_by(rid)
            && !self.is_short(rid)
        {
            self.members.suspects.remove(&rid);
        }
    }

    /// This process was paused (stopped, suspended, starved): it was silent itself, not the members.
    pub(super) fn restart_clocks(&mut self, now: Tick) {
        for (_, m) in self.members.iter_mut() {
            m.heard = now;
            m.asked_since = now;
            m.down_since = m.down_since.max(now);
        }
        self.pending.owe_since(now);
    }
}

//! The orderly end of an attachment: it waits for what its clients were promised, goes on with what
//! lets that end, gives back what it holds, and says what it waits for.
//!
//! A held write (fewer members in sync than `min_replicas`) ends when a sync ends, so that sync
//! goes on; every other sync, and every scrub, ends at once. Nothing is begun anew after the stop
//! unless a client's write waits for it. An attachment that has ended gives back the place of a
//! sync also when the place is granted later.

use super::sync::Permit;
use super::{Coordinator, Cx, Output, Phase};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::invariant;
use std::fmt;

/// What a stop waits for, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// The members are not equal yet, or the record does not say that the term is served: clients'
    /// requests have not begun.
    TakeOver,
    /// Writes are on every member in sync, which are fewer than `min_replicas`.
    Replicas {
        /// Members in sync.
        in_sync: u32,
        /// Members that writes need (`min_replicas`).
        needed: u32,
    },
    /// Writes that a full disk refused wait for space: a member that has left the set may have
    /// applied them.
    Space,
    /// Requests wait for members to answer.
    Answers,
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitsFor::TakeOver => f.write_str("requests wait until the volume serves"),
            WaitsFor::Replicas { in_sync, needed } => {
                write!(f, "writes wait for replicas: {in_sync} in sync, {needed} needed")
            }
            WaitsFor::Space => f.write_str("writes wait for space on the replicas' disks"),
            WaitsFor::Answers => f.write_str("requests wait for replicas' answers"),
        }
    }
}

/// An attachment that was asked to end, and has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draining {
    /// Client requests that are not answered.
    pub requests: u32,
    /// The reason that is named first if there are several: that the volume does not serve,
    /// replicas, space, answers.
    pub waits_for: WaitsFor,
}

/// Whether the attachment was asked to end, and has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It was not asked to end.
    No,
    /// It was asked to end, and requests are outstanding.
    Draining,
    /// It has said that nothing is outstanding. The record follows.
    Drained,
}

impl Coordinator {
    /// Lets everything end that nobody waits for, then says [`Output::Drained`]; once more if it is
    /// asked once more.
    pub(super) fn stop(&mut self, cx: &mut Cx) {
        self.stop = Stop::Draining;
        if self.phase == Phase::Fenced {
            self.say_drained(cx);
        }
    }

    /// Says that nothing is outstanding, if the attachment was asked to end.
    pub(super) fn say_drained(&mut self, cx: &mut Cx) {
        if self.stop == Stop::Draining {
            let left = self.requests.unanswered();
            invariant!(left == 0, "the attachment has ended, and {left} requests are not answered");
            self.stop = Stop::Drained;
            cx.out.push(Output::Drained);
        }
    }

    /// After every input: is anything outstanding?
    pub(super) fn drive_stop(&mut self, cx: &mut Cx) {
        if self.requests.unanswered() == 0 {
            self.say_drained(cx);
        }
    }

    /// The attachment was asked to end, whether or not it has.
    pub(super) fn stopping(&self) -> bool {
        self.stop != Stop::No
    }

    /// Fewer members are in sync than writes need.
    pub(super) fn is_short_of_members(&self) -> bool {
        self.record.in_sync.len() < self.cfg.min_replicas as usize
    }

    /// May a sync begin or go on? After a stop only if a client's write can end in no other way.
    pub(super) fn may_sync(&self) -> bool {
        let awaited = self.is_short_of_members() && !self.writes.is_empty() && !mutant::is(Mutant::StopEndsSyncs);
        !self.stopping() || awaited
    }

    /// The sync is not wanted any more: it ends, unless the record may name its target a member
    /// already; the place goes back.
    pub(super) fn sync_unwanted(&mut self, cx: &mut Cx) {
        if self.joining().is_some() {
            self.drive_joining(cx);
        } else if self.sync.attempt.is_some() {
            self.end_sync(cx);
        } else if !mutant::is(Mutant::StopKeepsItsPlace) {
            self.give_place_back(cx);
        }
    }

    /// The place of a sync that was asked for or granted, and is not used.
    pub(super) fn give_place_back(&mut self, cx: &mut Cx) {
        if std::mem::replace(&mut self.sync.permit, Permit::None) != Permit::None {
            cx.out.push(Output::SyncOver);
        }
    }

    /// The place of a sync is granted. If it is not wanted any more it goes back.
    pub(super) fn place_granted(&mut self, cx: &mut Cx) {
        match self.sync.permit {
            Permit::None => cx.out.push(Output::SyncOver),
            Permit::Asked { .. } | Permit::Granted => self.sync.permit = Permit::Granted,
        }
    }

    /// What the end of the attachment waits for; `None` if it has ended, or was not asked for.
    pub(super) fn draining(&self) -> Option<Draining> {
        let held = self.writes.values().any(|w| w.held);
        let waits_for = match self.phase {
            _ if self.stop != Stop::Draining => return None,
            Phase::Sealing | Phase::Reconciling => WaitsFor::TakeOver,
            _ if !self.requests.queued.is_empty() => WaitsFor::TakeOver,
            _ if held => {
                WaitsFor::Replicas { in_sync: self.record.in_sync.len() as u32, needed: self.cfg.min_replicas }
            }
            _ if !self.writes.again.is_empty() => WaitsFor::Space,
            _ => WaitsFor::Answers,
        };
        Some(Draining { requests: self.requests.unanswered() as u32, waits_for })
    }

    /// For tests and the simulator: with no client's request left nothing is held for one. A volume
    /// that has stopped, or is over, has no sync's place and no scrub's lock either.
    ///
    /// # Errors
    /// Names everything that is still held.
    pub fn check_released(&self) -> Result<(), String> {
        let over = self.phase == Phase::Fenced || self.stop == Stop::Drained;
        let scrub = self.scrub.lock();
        let held = [
            (self.requests.unanswered() > 0, "client requests"),
            (self.requests.locks.len() > usize::from(scrub.is_some()), "range locks"),
            (self.requests.owed != hf_policy::Space::NONE, "space that writes were counted at"),
            (!self.writes.is_empty(), "numbered writes"),
            (!self.writes.again.is_empty(), "refused writes"),
            (self.reads.values().any(|r| scrub != Some(r.request)), "reads"),
            (over && self.scrub.walk.is_some(), "a scrub"),
            (over && self.sync.permit != Permit::None && self.joining().is_none(), "the place of a sync"),
            (over && self.sync.attempt.is_some() && self.joining().is_none(), "a sync"),
        ];
        let held: Vec<&str> = held.iter().filter(|(yes, _)| *yes).map(|(_, what)| *what).collect();
        if held.is_empty() { Ok(()) } else { Err(format!("still held: {}", held.join(", "))) }
    }
}

//! Which codes are raised: runs the checks, as few as possible, and gives each code its dwell.
//!
//! A volume is checked when the hub says that it may look different, when a wait of one of its codes is over,
//! and once a minute in any case. Nodes, disks and the cluster are checked once a second. A tick does a bounded
//! amount of work; what is left is done in the next one.

use super::checks::{self, Findings, Seen};
use super::entries::{Alert, Entries};
use super::mutes::Mutes;
use super::progress::Progress;
use super::table::HealthCode;
use crate::model::{Counts, VolumeState};
use crate::watch::{Change, Key};
use hf_meta_core::ClusterState;
use hf_meta_core::record::Mute;
use hf_meta_core::soft::Soft;
use hf_policy::{NodeId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// Codes that are kept at most, those included that wait to be raised or cleared.
pub const MOST_ALERTS: usize = 100_000;
/// Of these, so many are left to nodes, disks and the cluster, whatever happens to volumes.
const NOT_FOR_VOLUMES: usize = 10_000;
/// Volumes that one tick checks at most.
const MOST_CHECKS: usize = 5_000;
/// Every volume is checked at least once in so many milliseconds.
const SWEEP_MS: u64 = 60_000;
/// Nodes, disks and the cluster are checked so often, in milliseconds.
const EVERY_MS: u64 = 1_000;

/// What a tick looks at.
#[derive(Clone, Copy)]
pub struct Now<'a> {
    /// The cluster's record.
    pub state: &'a ClusterState,
    /// What the leader hears; none if no leader answers this node.
    pub soft: Option<&'a Soft>,
    /// The node that checks.
    pub here: NodeId,
    /// Wall clock, Unix milliseconds.
    pub wall_ms: u64,
    /// Milliseconds of a monotonic clock.
    pub now_ms: u64,
    /// The cluster is reached over a network without encryption.
    pub insecure: bool,
}

/// What a tick changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flips {
    /// Codes that were raised or cleared, or say something else than before.
    pub codes: Vec<(HealthCode, Key)>,
    /// Other mutes hold than before.
    pub mutes: bool,
    /// Volumes that were in doubt and are not any more, because time went by: no change told of that.
    pub settled: Vec<Key>,
}

impl Flips {
    /// The resources that show any of it, for [`crate::watch::Hub::note`].
    pub fn keys(&self) -> BTreeSet<Key> {
        let health = (self.mutes || !self.codes.is_empty()).then_some(Key::Health);
        self.codes.iter().map(|(_, key)| *key).chain(self.settled.iter().copied()).chain(health).collect()
    }
}

/// Which codes are raised.
#[derive(Default)]
pub struct Tracker {
    pub(super) entries: Entries,
    pub(super) mutes: Mutes,
    progress: Progress,
    /// Volumes to be checked.
    dirty: BTreeSet<VolumeId>,
    /// Volumes of which the last check was not sure: they are checked again each second.
    doubtful: BTreeSet<VolumeId>,
    begun: bool,
    /// Every volume was checked since the tracker began.
    all_checked: bool,
    /// Some node was not heard, or no leader answers: nothing may be called well.
    unsure: bool,
    swept_ms: u64,
    /// What is left of the sweep's time, in milliseconds times volumes.
    sweep_left: u64,
    /// The name of the volume that the sweep checked last.
    swept: String,
    checked_ms: Option<u64>,
    states: BTreeMap<VolumeId, VolumeState>,
    counts: Counts,
    pub(super) wall_ms: u64,
}

impl Tracker {
    /// A tracker that has checked nothing yet.
    pub fn new() -> Tracker {
        Tracker { unsure: true, ..Tracker::default() }
    }

    /// Checks what may have changed. `changed`: what the hub noticed since the last tick.
    pub fn tick(&mut self, now: Now, changed: &[Change]) -> Flips {
        let mut flips = Flips::default();
        self.wall_ms = now.wall_ms;
        let touched = self.begin(now, changed, &mut flips);
        let often = touched || self.checked_ms.is_none_or(|t| now.now_ms.saturating_sub(t) >= EVERY_MS);
        if let Some(soft) = now.soft.filter(|_| often) {
            self.dirty.extend(self.progress.look(now.state, soft, now.now_ms));
        }
        let stuck = self.progress.stuck().clone();
        let seen = Seen {
            state: now.state,
            soft: now.soft,
            here: now.here,
            wall_ms: now.wall_ms,
            insecure: now.insecure,
            stuck: &stuck,
            pool: Default::default(),
        };
        if now.soft.is_some() {
            if often {
                self.doubts(&seen, now, &mut flips);
            }
            self.volumes(&seen, now, &mut flips);
        }
        if often {
            self.checked_ms = Some(now.now_ms);
            self.others(&seen, now, &mut flips);
        }
        let entries = &self.entries;
        flips.mutes = self.mutes.look(now.state, now.wall_ms, |code| entries.count(code));
        flips.codes.sort_unstable();
        flips.codes.dedup();
        flips
    }

    /// Notes which volumes are to be checked. Returns whether a node or disk changed.
    fn begin(&mut self, now: Now, changed: &[Change], flips: &mut Flips) -> bool {
        if !self.begun {
            (self.begun, self.swept_ms) = (true, now.now_ms);
            self.dirty.extend(now.state.volumes.keys().copied());
        }
        let mut touched = false;
        for c in changed {
            match c.key {
                Key::Volume(id) if now.state.volumes.contains_key(&id) => drop(self.dirty.insert(id)),
                Key::Volume(id) => self.forget(id, flips),
                Key::Node(_) | Key::Disk(_) => touched = true,
                Key::Job(_) | Key::Event(_) | Key::Health | Key::Cluster => {}
            }
        }
        self.sweep(now);
        touched
    }

    fn forget(&mut self, id: VolumeId, flips: &mut Flips) {
        self.dirty.remove(&id);
        self.doubtful.remove(&id);
        self.entries.gone(Key::Volume(id), &mut flips.codes);
        self.counted(id, None);
    }

    /// The slow round over all volumes: what only time changes, and what no change told of.
    fn sweep(&mut self, now: Now) {
        let all = now.state.volumes.len() as u64;
        let passed = now.now_ms.saturating_sub(self.swept_ms);
        self.swept_ms = now.now_ms;
        let work = self.sweep_left.saturating_add(all.saturating_mul(passed)).min(all.saturating_mul(SWEEP_MS));
        self.sweep_left = work % SWEEP_MS;
        let take = (work / SWEEP_MS) as usize;
        let next: Vec<_> = now.state.volumes_after(&self.swept).take(take).collect();
        self.dirty.extend(next.iter().map(|v| v.id));
        match next.last() {
            Some(last) if next.len() == take => self.swept.clone_from(&last.name),
            _ if take > 0 => self.swept.clear(),
            _ => {}
        }
    }

    /// Checks what was in doubt: after some time without evidence a check may be sure all the same.
    fn doubts(&mut self, seen: &Seen, now: Now, flips: &mut Flips) {
        let some: Vec<VolumeId> = self.doubtful.iter().take(MOST_CHECKS).copied().collect();
        for id in some {
            let before = self.states.get(&id).copied();
            self.volume(seen, id, now, flips);
            let after = self.states.get(&id).copied();
            if before != after && after.is_some() {
                flips.settled.push(Key::Volume(id));
            }
        }
    }

    fn volumes(&mut self, seen: &Seen, now: Now, flips: &mut Flips) {
        let due = self.entries.due(now.now_ms);
        let due: Vec<VolumeId> =
            due.into_iter().filter_map(|k| if let Key::Volume(id) = k { Some(id) } else { None }).collect();
        for id in due.into_iter().take(MOST_CHECKS) {
            self.dirty.remove(&id);
            self.volume(seen, id, now, flips);
        }
        for _ in 0..MOST_CHECKS {
            let Some(id) = self.dirty.pop_first() else {
                self.all_checked = true;
                return;
            };
            self.volume(seen, id, now, flips);
        }
    }

    fn volume(&mut self, seen: &Seen, id: VolumeId, now: Now, flips: &mut Flips) {
        let Some(v) = now.state.volumes.get(&id) else { return self.forget(id, flips) };
        let (state, found) = checks::volume(seen, v);
        self.counted(id, Some(state));
        match found.sure {
            true => drop(self.doubtful.remove(&id)),
            false => drop(self.doubtful.insert(id)),
        }
        let text = format!("volume/{}", v.name);
        self.take(Key::Volume(id), &text, found, now, flips);
    }

    /// Takes what a check found, and ends the waits that are over.
    fn take(&mut self, key: Key, text: &str, found: Findings, now: Now, flips: &mut Flips) {
        let sure = found.sure;
        let most = MOST_ALERTS - if matches!(key, Key::Volume(_)) { NOT_FOR_VOLUMES } else { 0 };
        self.entries.found(key, text, found, (now.now_ms, now.wall_ms), most, &mut flips.codes);
        self.entries.end_waits(key, sure, now.now_ms, &mut flips.codes);
    }

    fn others(&mut self, seen: &Seen, now: Now, flips: &mut Flips) {
        let s = now.state;
        if now.soft.is_some() {
            for n in s.nodes.values() {
                self.take(Key::Node(n.id), &format!("node/{}", n.name), checks::node(seen, n), now, flips);
            }
            for d in s.disks.values() {
                self.take(Key::Disk(d.id), &format!("disk/{}", d.id), checks::disk(seen, d), now, flips);
            }
        }
        let found = checks::cluster(seen);
        self.unsure = !found.sure;
        self.take(Key::Cluster, "cluster", found, now, flips);
        let gone = |key: &Key| match key {
            Key::Node(id) => !s.nodes.contains_key(id),
            Key::Disk(id) => !s.disks.contains_key(id),
            _ => false,
        };
        let gone: Vec<Key> = self.entries.subjects().filter(gone).collect();
        gone.into_iter().for_each(|key| self.entries.gone(key, &mut flips.codes));
    }

    fn counted(&mut self, id: VolumeId, state: Option<VolumeState>) {
        let old = match state {
            Some(state) => self.states.insert(id, state),
            None => self.states.remove(&id),
        };
        if old == state {
            return;
        }
        if let Some(old) = old
            && let Some(n) = self.counts.get_mut(old.word())
        {
            *n = n.saturating_sub(1);
            if *n == 0 {
                self.counts.remove(old.word());
            }
        }
        if let Some(state) = state {
            *self.counts.entry(state.word().into()).or_default() += 1;
        }
    }

    /// Volumes by state, as last checked; none while some were never checked.
    pub fn states(&self) -> Option<&Counts> {
        self.all_checked.then_some(&self.counts)
    }

    /// Is there too little evidence to call the cluster well?
    pub(super) fn is_unsure(&self) -> bool {
        self.unsure || !self.all_checked
    }

    /// How many resources a code is raised about: a mute keeps that number.
    pub fn subjects(&self, code: HealthCode) -> u64 {
        self.entries.count(code)
    }

    /// Everything that is raised, the gravest code first.
    pub fn all(&self) -> impl Iterator<Item = Alert<'_>> {
        let each = self.entries.raised().iter().flat_map(|(code, keys)| keys.iter().map(move |key| (*code, *key)));
        each.filter_map(|(code, key)| self.alert(code, key))
    }

    /// What is raised about a resource, such as `volume/web`, the gravest code first.
    pub fn raised(&self, subject: &str) -> Vec<Alert<'_>> {
        let Some(key) = self.entries.key(subject) else { return Vec::new() };
        self.entries.about(key).filter_map(|(code, _)| self.alert(code, key)).collect()
    }

    fn alert(&self, code: HealthCode, key: Key) -> Option<Alert<'_>> {
        let e = self.entries.get(key, code)?;
        let subject = self.entries.text(key);
        let muted = self.mutes.covers(code, subject);
        Some(Alert { code, key, subject, message: &e.message, since_ms: e.since_ms, muted })
    }

    /// The mutes that hold.
    pub fn mutes(&self) -> impl Iterator<Item = &Mute> {
        self.mutes.all()
    }

    /// Mutes that have ended by themselves before their time: the leader takes them off the record.
    pub fn ended_mutes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.mutes.ended()
    }

    /// Number of codes that are kept, those included that wait to be raised or cleared.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is nothing kept?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

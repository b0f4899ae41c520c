//! The stream of changes, and its last part, kept for clients that come back.

use super::dirty::Dirty;
use super::heard::Heard;
use super::key::{Change, JobKey, Key};
use super::position::{Position, Reset};
use super::{jobs, record};
use hf_meta_core::ClusterState;
use hf_meta_core::soft::Soft;
use std::collections::VecDeque;
use std::sync::Arc;

/// Changes that a hub keeps for clients that come back.
pub const CHANGES_KEPT: usize = 8192;
/// The cluster as a whole is told of at most once in so many milliseconds: nearly every change touches it.
const CLUSTER_EVERY_MS: u64 = 1_000;

/// The stream of changes of one node.
pub struct Hub {
    boot: u64,
    /// The record at the last tick; it shares all that has not changed since.
    last: Option<Arc<ClusterState>>,
    heard: Heard,
    kept: VecDeque<Change>,
    /// The place of the newest change.
    at: u64,
    /// Changes at revisions below this one may be missing among those that are kept.
    reaches_back_to: u64,
    cluster_due: bool,
    cluster_told_ms: Option<u64>,
}

impl Hub {
    /// A hub that has noticed nothing yet. `boot` is a random number: positions of other hubs mean nothing to this one.
    pub fn new(boot: u64) -> Hub {
        Hub {
            boot,
            last: None,
            heard: Heard::default(),
            kept: VecDeque::new(),
            at: 0,
            reaches_back_to: u64::MAX,
            cluster_due: false,
            cluster_told_ms: None,
        }
    }

    /// Notices what may look different since the last tick. The first tick notices nothing. `now_ms` is monotonic.
    ///
    /// What it returns is in the order of positions, names that are gone before everything else. Only the last
    /// [`CHANGES_KEPT`] of it are kept.
    pub fn tick(&mut self, state: &Arc<ClusterState>, soft: Option<&Soft>, now_ms: u64) -> Vec<Change> {
        let mut dirty = Dirty::default();
        match self.last.replace(state.clone()) {
            None => {
                self.heard.begin(state, soft);
                self.reaches_back_to = state.revision;
                return Vec::new();
            }
            Some(old) if old.revision > state.revision || old.cluster != state.cluster => {
                self.heard.compare(state, soft, &mut dirty);
                self.began_anew(&old, state, &mut dirty);
            }
            Some(old) => {
                self.heard.compare(state, soft, &mut dirty);
                let gone = match Arc::ptr_eq(&old, state) {
                    true => Vec::new(),
                    false => record::compare(&old, state, &mut dirty),
                };
                jobs::touched(&old, state, &gone, &mut dirty);
            }
        }
        self.cluster_due |= dirty.touches_cluster();
        let told_lately = self.cluster_told_ms.is_some_and(|t| now_ms.saturating_sub(t) < CLUSTER_EVERY_MS);
        dirty.cluster = self.cluster_due && !told_lately;
        if dirty.cluster {
            (self.cluster_due, self.cluster_told_ms) = (false, Some(now_ms));
        }
        self.publish(state, dirty)
    }

    /// Notices changes of which only the caller knows, such as health codes that were raised or cleared about these.
    pub fn note(&mut self, keys: impl IntoIterator<Item = Key>) -> Vec<Change> {
        let rev = self.last.as_ref().map_or(0, |s| s.revision);
        keys.into_iter().map(|key| self.push(key, None, rev)).collect()
    }

    /// The record is not a later one of the same cluster: nobody can go on from what he knows, everything is new.
    fn began_anew(&mut self, old: &ClusterState, state: &ClusterState, dirty: &mut Dirty) {
        self.kept.clear();
        self.at += 1;
        self.reaches_back_to = state.revision;
        let names = |s: &ClusterState| -> Vec<(Key, String)> {
            let volumes = s.volumes.values().map(|v| (Key::Volume(v.id), v.name.clone()));
            let nodes = s.nodes.values().map(|n| (Key::Node(n.id), n.name.clone()));
            volumes.chain(nodes).chain(s.disks.keys().map(|d| (Key::Disk(*d), d.to_string()))).collect()
        };
        let now: std::collections::BTreeSet<_> = names(state).into_iter().collect();
        dirty.gone.extend(names(old).into_iter().filter(|n| !now.contains(n)));
        dirty.volumes.extend(state.volumes.keys().copied());
        dirty.nodes.extend(state.nodes.keys().copied());
        dirty.disks.extend(state.disks.keys().copied());
        (dirty.health, dirty.cluster) = (true, true);
    }

    /// Gives everything noted its place in the stream.
    fn publish(&mut self, state: &ClusterState, mut dirty: Dirty) -> Vec<Change> {
        let rev = state.revision;
        let mut out = Vec::new();
        // First the names that are gone: another resource may have taken one of them.
        for (key, name) in std::mem::take(&mut dirty.gone) {
            out.push(self.push(key, Some(name), rev));
        }
        let volumes: Vec<Key> = dirty.sorted().iter().map(|v| Key::Volume(*v)).collect();
        let there = |key: &Key| match key {
            Key::Volume(id) => state.volumes.contains_key(id),
            Key::Node(id) => state.nodes.contains_key(id),
            Key::Disk(id) => state.disks.contains_key(id),
            Key::Job(_) | Key::Event(_) | Key::Health | Key::Cluster => true,
        };
        let nodes = dirty.nodes.iter().map(|n| Key::Node(*n));
        let disks = dirty.disks.iter().map(|d| Key::Disk(*d));
        let jobs = dirty.jobs.iter().map(|j: &JobKey| Key::Job(*j));
        let some = volumes.into_iter().chain(nodes).chain(disks).filter(there).chain(jobs);
        let events = dirty.events.iter().map(|rev| Key::Event(*rev));
        let health = dirty.health.then_some(Key::Health);
        let cluster = dirty.cluster.then_some(Key::Cluster);
        for key in some.chain(events).chain(health).chain(cluster) {
            out.push(self.push(key, None, rev));
        }
        out
    }

    fn push(&mut self, key: Key, gone: Option<String>, rev: u64) -> Change {
        self.at += 1;
        let change = Change { key, gone, at: self.at, rev };
        if self.kept.len() == CHANGES_KEPT
            && let Some(lost) = self.kept.pop_front()
        {
            self.reaches_back_to = self.reaches_back_to.max(lost.rev + 1);
        }
        self.kept.push_back(change.clone());
        change
    }

    /// The place behind the newest change.
    pub fn position(&self) -> Position {
        self.at(self.at)
    }

    /// The position of a change of this hub.
    pub fn at(&self, at: u64) -> Position {
        Position { boot: self.boot, at }
    }

    /// The record at the last tick; none before the first one. What is sent to clients is made from this one: of a
    /// newer one a client could learn a name whose end no tick notices.
    pub fn state(&self) -> Option<&Arc<ClusterState>> {
        self.last.as_ref()
    }

    /// The changes behind a position, in their order.
    pub fn since(&self, position: Position) -> Result<Vec<Change>, Reset> {
        if position.boot != self.boot {
            return Err(Reset::OtherLeader);
        }
        if position.at > self.at {
            return Err(Reset::NotYet);
        }
        // The place before the first change that is kept.
        let floor = self.kept.front().map_or(self.at, |c| c.at - 1);
        if position.at < floor {
            return Err(Reset::TooOld);
        }
        Ok(self.kept.iter().skip((position.at - floor) as usize).cloned().collect())
    }

    /// The changes that whoever has read a list of this revision may lack. Some of them it may know already.
    pub fn after_revision(&self, rev: u64) -> Result<Vec<Change>, Reset> {
        if rev < self.reaches_back_to {
            return Err(Reset::TooOld);
        }
        let first = self.kept.partition_point(|c| c.rev < rev);
        // Other resources may look different at the same revision; its events are in the list.
        let known = |c: &&Change| matches!(c.key, Key::Event(of) if of <= rev);
        Ok(self.kept.iter().skip(first).filter(|c| !known(c)).cloned().collect())
    }
}

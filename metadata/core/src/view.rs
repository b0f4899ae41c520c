//! Watch deltas: what changed between two revisions. A follower may miss any number of messages: it asks
//! again from its own revision.

use crate::cow::CowQueue;
use crate::record::records::shared;
use crate::record::state::{first_version, known_version};
use crate::record::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Everything that changed in `(from, to]`, or the whole state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Delta {
    /// Apply on top of revision `from`.
    Changes {
        /// The follower's revision.
        from: u64,
        /// Its revision afterwards.
        to: u64,
        /// Nodes that are new or have changed.
        #[serde(with = "shared")]
        nodes: Vec<Arc<NodeRecord>>,
        /// Disks that are new or have changed.
        #[serde(with = "shared")]
        disks: Vec<Arc<DiskRecord>>,
        /// Volumes that are new or have changed.
        #[serde(with = "shared")]
        volumes: Vec<Arc<VolumeRecord>>,
        /// Tombstones that are new.
        #[serde(with = "shared")]
        tombstones: Vec<Arc<Tombstone>>,
        /// What was removed.
        removed: Vec<Removed>,
        /// Events that are new.
        events: Vec<Event>,
        /// Settings as they are now; absent in deltas of older leaders.
        #[serde(default)]
        settings: Option<Settings>,
        /// If the mutes have changed: the revision that did it, and all of them as they are now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mutes: Option<(u64, CowQueue<Mute>)>,
    },
    /// Replace everything: the follower was too far behind.
    Whole(Box<ClusterState>),
}

/// Settings of the whole cluster. They are so few that every delta carries all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How many nodes should vote on metadata.
    pub voters: usize,
    /// Replicas are neither made nor moved now.
    pub rebuild_paused: bool,
    /// A rebalancing is under way.
    pub rebalancing: bool,
    /// The rebalancing is held by an operator.
    pub rebalance_paused: bool,
    /// The version by which commands are encoded and applied; absent in deltas of older leaders.
    #[serde(default = "first_version", deserialize_with = "known_version")]
    pub version: u32,
}

/// A delta does not build on the follower's revision; the follower asks again from its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a change from revision {delta} does not follow revision {here}")]
pub struct Gap {
    /// The follower's revision.
    pub here: u64,
    /// The revision on which the delta builds.
    pub delta: u64,
}

impl ClusterState {
    /// What a follower at revision `from` is missing; `None` if nothing.
    pub fn delta_since(&self, from: u64) -> Option<Delta> {
        if from == self.revision {
            return None; // Lawful: it has everything.
        }
        let oldest_event = self.events.front().map_or(0, |e| e.rev);
        let events_lost = self.events.len() >= EVENTS_KEPT && from + 1 < oldest_event;
        if from == 0 || from > self.revision || from < self.removals_floor || events_lost {
            return Some(Delta::Whole(Box::new(self.followers_view())));
        }
        // Both queues are in the order of revisions: what is newer stands together at the end.
        let removed = self.removals.iter().rev().take_while(|(rev, _)| *rev > from).map(|(_, r)| *r);
        let events = self.events.iter().rev().take_while(|e| e.rev > from).cloned();
        let (mut removed, mut events): (Vec<Removed>, Vec<Event>) = (removed.collect(), events.collect());
        removed.reverse();
        events.reverse();
        Some(Delta::Changes {
            from,
            to: self.revision,
            nodes: self.nodes.changed_since(from),
            disks: self.disks.changed_since(from),
            volumes: self.volumes.changed_since(from),
            tombstones: self.tombstones.changed_since(from),
            removed,
            events,
            settings: Some(Settings {
                voters: self.voters,
                rebuild_paused: self.rebuild_paused,
                rebalancing: self.rebalancing,
                rebalance_paused: self.rebalance_paused,
                version: self.version,
            }),
            mutes: (self.mutes_rev > from).then(|| (self.mutes_rev, self.mutes.clone())),
        })
    }

    /// The state without stored outcomes, which only voters need.
    fn followers_view(&self) -> ClusterState {
        let mut s = self.clone();
        s.requests.clear();
        s.request_order.clear();
        s
    }

    /// Applies a delta to a follower's state.
    pub fn follow(&mut self, delta: Delta) -> Result<(), Gap> {
        match delta {
            Delta::Whole(state) => *self = *state,
            Delta::Changes { from, to, nodes, disks, volumes, tombstones, removed, events, settings, mutes } => {
                if from != self.revision {
                    return Err(Gap { here: self.revision, delta: from });
                }
                self.revision = to;
                nodes.into_iter().for_each(|r| drop(self.nodes.insert(r)));
                disks.into_iter().for_each(|r| drop(self.disks.insert(r)));
                volumes.into_iter().for_each(|r| drop(self.volumes.insert(r)));
                tombstones.into_iter().for_each(|r| drop(self.tombstones.insert(r)));
                for r in removed {
                    // Nodes that follow this follower are told of it too.
                    self.removed(r);
                    match r {
                        Removed::Volume(v) => drop(self.volumes.remove(&v)),
                        Removed::Tombstone(rid) => drop(self.tombstones.remove(&rid)),
                        Removed::Node(n) => drop(self.nodes.remove(&n)),
                        Removed::Disk(d) => drop(self.disks.remove(&d)),
                    }
                }
                if let Some(s) = settings {
                    (self.voters, self.rebuild_paused) = (s.voters, s.rebuild_paused);
                    (self.rebalancing, self.rebalance_paused) = (s.rebalancing, s.rebalance_paused);
                    self.version = s.version;
                }
                if let Some((rev, mutes)) = mutes {
                    (self.mutes_rev, self.mutes) = (rev, mutes);
                }
                self.events.extend(events);
                while self.events.len() > EVENTS_KEPT {
                    self.events.pop_front();
                }
            }
        }
        Ok(())
    }
}

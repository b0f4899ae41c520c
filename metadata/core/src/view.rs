//! Watch deltas: what changed between two revisions, so that a node that follows can miss any number of messages.

use crate::record::records::shared;
use crate::record::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Everything that changed in `(from, to]`, or the whole state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delta {
    /// Apply on top of revision `from`.
    Changes {
        /// The follower's revision.
        from: u64,
        /// Its revision afterwards.
        to: u64,
        /// Changed or new.
        #[serde(with = "shared")]
        nodes: Vec<Arc<NodeRecord>>,
        /// Changed or new.
        #[serde(with = "shared")]
        disks: Vec<Arc<DiskRecord>>,
        /// Changed or new.
        #[serde(with = "shared")]
        volumes: Vec<Arc<VolumeRecord>>,
        /// New.
        #[serde(with = "shared")]
        tombstones: Vec<Arc<Tombstone>>,
        /// Gone.
        removed: Vec<Removed>,
        /// New.
        events: Vec<Event>,
        /// As they are now; absent from leaders of before it was told.
        #[serde(default)]
        settings: Option<Settings>,
    },
    /// Replace everything: the follower was too far behind.
    Whole(Box<ClusterState>),
}

/// What holds for the whole cluster and changes: so few that all of it is told with every delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Nodes that should vote.
    pub voters: usize,
    /// Replicas are neither made nor moved.
    pub rebuild_paused: bool,
    /// Disks are being evened out.
    pub rebalancing: bool,
    /// That is held.
    pub rebalance_paused: bool,
}

/// A delta that does not fit the follower's revision; it asks again from its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a change from revision {delta} does not follow revision {here}")]
pub struct Gap {
    /// The follower's.
    pub here: u64,
    /// The delta's.
    pub delta: u64,
}

impl ClusterState {
    /// What a follower at revision `from` is missing; `None` if nothing.
    pub fn delta_since(&self, from: u64) -> Option<Delta> {
        if from == self.revision {
            return None;
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
            }),
        })
    }

    /// The state without what only voters need.
    fn followers_view(&self) -> ClusterState {
        let mut s = self.clone();
        s.requests.clear();
        s.request_order.clear();
        s
    }

    /// A follower takes a delta.
    pub fn follow(&mut self, delta: Delta) -> Result<(), Gap> {
        match delta {
            Delta::Whole(state) => *self = *state,
            Delta::Changes { from, to, nodes, disks, volumes, tombstones, removed, events, settings } => {
                if from != self.revision {
                    return Err(Gap { here: self.revision, delta: from });
                }
                self.revision = to;
                nodes.into_iter().for_each(|r| drop(self.nodes.insert(r)));
                disks.into_iter().for_each(|r| drop(self.disks.insert(r)));
                volumes.into_iter().for_each(|r| drop(self.volumes.insert(r)));
                tombstones.into_iter().for_each(|r| drop(self.tombstones.insert(r)));
                for r in removed {
                    // (Whoever follows this follower is told of it too.)
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

//! What must hold of the cluster's state after every command; tests, the simulator, rescue and inspection ask for it.
//!
//! It never panics: the state may come from a damaged file. What a command does to a state beside the one
//! before is stated where it happens (`put_volume`, `remember`).

use crate::command::COMMAND_VERSION;
use crate::record::*;
use hf_policy::{SHARD_BYTES, Term};

impl ClusterState {
    /// Walks the whole state. The error says in words the first thing that does not hold.
    pub fn check(&self) -> Result<(), String> {
        self.check_indices()?;
        self.check_order()?;
        self.volumes.values().try_for_each(|v| self.check_volume(v))?;
        for d in self.disks.values() {
            if self.version < 3 && (d.fault.is_some() || d.since_ms > 0) {
                return Err(format!("disk {}: it has what came with version 3", d.id));
            }
            if d.rev > self.revision || d.id.0 >= self.next.disk {
                return Err(format!("disk {}: its number or revision is of a later state", d.id));
            }
        }
        for n in self.nodes.values() {
            if n.rev > self.revision || n.id.0 >= self.next.node {
                return Err(format!("node {}: its number or revision is of a later state", n.id));
            }
            if self.removed_members.contains_key(&n.id) {
                return Err(format!("node {} is there and removed", n.id));
            }
        }
        for t in self.tombstones.values() {
            if t.rev > self.revision || t.rid.0 >= self.next.rid {
                return Err(format!("tombstone {}: its number or revision is of a later state", t.rid));
            }
            if self.volume_of_replica(t.rid).is_some() {
                return Err(format!("replica {} is there and removed", t.rid));
            }
        }
        Ok(())
    }

    /// Each index finds what a walk over the records finds.
    fn check_indices(&self) -> Result<(), String> {
        self.nodes.check()?;
        self.removed_members.check()?;
        self.disks.check()?;
        self.volumes.check()?;
        self.tombstones.check()
    }

    /// Queues are bounded and in order; every outcome that is kept has its turn to go.
    fn check_order(&self) -> Result<(), String> {
        if !(1..=COMMAND_VERSION).contains(&self.version) {
            return Err(format!("version {} is not known", self.version));
        }
        if self.requests.len() != self.request_order.len() {
            let (outcomes, order) = (self.requests.len(), self.request_order.len());
            return Err(format!("{outcomes} outcomes of {order} requests are kept"));
        }
        let kept = [
            (self.requests.len(), REQUESTS_KEPT),
            (self.events.len(), EVENTS_KEPT),
            (self.removals.len(), REMOVALS_KEPT),
            (self.mutes.len(), MUTES_KEPT),
        ];
        if kept.iter().any(|(len, most)| len > most) {
            return Err("a queue is longer than it may be".into());
        }
        self.mutes.iter().try_for_each(|m| m.check().map_err(|why| format!("the mute of {}: {why}", m.code)))?;
        if self.mutes_rev > self.revision || self.mutes_rev == 0 && !self.mutes.is_empty() {
            return Err("the mutes have a revision of a later state, or none".into());
        }
        let events =
            self.events.iter().map(|e| e.rev).is_sorted() && self.events.back().is_none_or(|e| e.rev <= self.revision);
        let floor = self.removals.front().is_none_or(|(rev, _)| *rev >= self.removals_floor);
        let removals = self.removals.iter().map(|(rev, _)| *rev).is_sorted() && floor;
        if !events || !removals {
            return Err("events or removals are not in the order of their revisions".into());
        }
        Ok(())
    }

    fn check_volume(&self, v: &VolumeRecord) -> Result<(), String> {
        let wrong = |what: String| Err(format!("volume {}: {what}", v.name));
        if v.rev > self.revision || v.id.0 >= self.next.volume {
            return wrong("its number or revision is of a later state".into());
        }
        if v.shards.len() as u64 != v.size.div_ceil(SHARD_BYTES) {
            return wrong(format!("{} shards for {} bytes", v.shards.len(), v.size));
        }
        if v.policy().is_ok_and(|p| p.size != v.size) {
            return wrong(format!("{} bytes, and its policy says otherwise", v.size));
        }
        if v.activated > v.term || v.coordinator.is_some() && v.term == Term(0) {
            return wrong(format!("it is attached or served in a term after its own, {}", v.term.0));
        }
        if v.coordinator.as_ref().is_some_and(|a| a.home.is_some() && !a.maintenance) {
            return wrong("an attachment of its own is given back to somebody".into());
        }
        if v.scrub.as_ref().is_some_and(|s| s.done.keys().any(|i| *i as usize >= v.shards.len())) {
            return wrong("a shard that is not there was scrubbed".into());
        }
        if v.snaps.iter().any(|s| s.cuts.len() > v.shards.len()) || !v.snaps.is_sorted_by(|a, b| a.id < b.id) {
            return wrong("its snapshots are out of order, or cut more shards than there are".into());
        }
        for (i, s) in v.shards.iter().enumerate() {
            if s.in_sync().is_empty() {
                return wrong(format!("shard {i}: the in-sync set is empty"));
            }
            if s.since > v.term {
                return wrong(format!("shard {i} became part of it in a term to come"));
            }
            s.replicas.iter().try_for_each(|(rid, r)| match () {
                () if r.rid != *rid => wrong(format!("shard {i}: replica {} stands under {rid}", r.rid)),
                () if r.rid.0 >= self.next.rid => {
                    wrong(format!("shard {i}: replica {rid} has a number of a later state"))
                }
                () if r.in_sync() && r.dropped.is_some() => {
                    wrong(format!("shard {i}: replica {rid} is in sync and dropped"))
                }
                () if r.dropped.is_some() && self.version < 3 => {
                    wrong(format!("shard {i}: replica {rid} has what came with version 3"))
                }
                () if r.out_since > v.epoch => wrong(format!("shard {i}: replica {rid} left in an epoch to come")),
                () => match self.disks.get(&r.disk) {
                    Some(d) if d.node == r.node => Ok(()),
                    _ => wrong(format!("shard {i}: replica {rid} is on no disk of its node")),
                },
            })?;
        }
        Ok(())
    }
}

//! The last resort, and what may be read after it.
//!
//! `volume force-insync` makes what one replica holds the truth, on an operator's word that all
//! others in sync are lost. It is not known which of the values that were ever written it holds, so
//! a new lineage begins as if all of them had been written before its first request, in any order;
//! from then on it is a history like any other. The old lineage may go on for a while on a side
//! that is cut off; its users' history has to be right as well, for itself.

use super::world::{SHARD, Sim, VOL};
use crate::check::register::{History, Value};
use hf_meta_core::Command;
use hf_policy::*;
use hf_repl_core::Replica;
use std::collections::BTreeSet;

/// The histories of each lineage's users, oldest first.
#[derive(Default)]
pub(super) struct Histories(Vec<(Lineage, History)>);

impl Histories {
    /// The volume was attached under this lineage.
    pub(super) fn begin(&mut self, lineage: Lineage, now: u64) {
        if self.0.iter().any(|(l, _)| *l == lineage) {
            return;
        }
        let before: BTreeSet<(u64, Value)> = self.0.iter().flat_map(|(_, h)| h.written()).collect();
        let mut new = History::default();
        before.into_iter().for_each(|(block, value)| new.was_written(block, value, now - 1));
        self.0.push((lineage, new));
    }

    /// The history of a lineage that has begun.
    pub(super) fn of(&mut self, lineage: Lineage) -> &mut History {
        let at = self.0.iter().position(|(l, _)| *l == lineage).expect("a lineage that somebody had attached");
        &mut self.0[at].1
    }

    /// A write under one lineage may still arrive where a later one begins: there it is one that
    /// was never answered.
    pub(super) fn write_began(&mut self, lineage: Lineage, id: u64, now: u64, values: &[(u64, Value)]) {
        let known = self.0.iter_mut().skip_while(|(l, _)| *l != lineage);
        known.for_each(|(_, h)| h.write_began(id, now, values.iter().copied()));
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.0.iter().try_for_each(|(l, h)| h.check().map_err(|e| format!("lineage {}: {e}", l.0)))
    }

    pub(super) fn reads(&self) -> u64 {
        self.0.iter().map(|(_, h)| h.reads).sum()
    }
}

impl Sim {
    /// All replicas in sync beside one die, or are cut off; that one, which may have been out for a
    /// while, is declared the truth. Users go on with it; the others may come back at any time.
    pub(super) fn last_resort(&mut self) -> Result<(), String> {
        let there = |s: &Sim, n: u64, rid: Rid| {
            let h = &s.hosts[&n];
            h.rid == rid && !h.put_back && !h.store.has_failed()
        };
        let all: Vec<(Rid, u64)> = self.state.volumes[&VOL].shards[0]
            .replicas
            .values()
            .filter(|r| r.store_uuid == Some(self.hosts[&r.node.0].uuid) && there(self, r.node.0, r.rid))
            .map(|r| (r.rid, r.node.0))
            .collect();
        if !self.dramas || all.len() < 2 {
            return Ok(());
        }
        self.outcome.dramas += 1;
        let (rid, node) = all[self.swarm.rng.below(all.len() as u64) as usize];
        if self.swarm.rng.one_in(2) {
            self.leave_out(rid, node)?;
        }
        let others: Vec<u64> =
            self.record().in_sync.iter().filter(|(r, _)| **r != rid).map(|(_, m)| m.node.0).collect();
        for other in others {
            match self.swarm.rng.below(3) {
                0 => self.crash_one(other)?,
                1 => {
                    self.cut.extend((0..=self.nodes()).filter(|n| *n != other).flat_map(|n| [(other, n), (n, other)]));
                    self.all_links()?;
                }
                // It is only out of the leader's sight, and goes on with the nodes that it reaches.
                _ => drop(self.cut.insert((other, 0))),
            }
        }
        self.cut.remove(&(node, 0));
        self.restart_one(node)?;
        if !self.force(rid, node) {
            return Ok(());
        }
        self.announce();
        let at = if self.swarm.rng.one_in(2) { node } else { self.a_node() };
        self.attach(Some(at))?;
        for _ in 0..60 {
            self.report_storage();
            self.go_on(25, &[at])?;
            self.tick(90_000)?;
        }
        if self.swarm.rng.one_in(2) {
            self.cut.clear();
            (1..=self.nodes()).try_for_each(|n| self.restart_one(n))?;
            self.announce();
            self.all_links()?;
        }
        self.go_on(150, &[at])
    }

    /// A replica is away for a while, and misses what is written meanwhile.
    fn leave_out(&mut self, rid: Rid, node: u64) -> Result<(), String> {
        let session = self.record().session;
        let serves = |n: &u64| self.hosts[n].coordinator.as_ref().is_some_and(|a| Some(a.session) == session);
        let Some(user) = (1..=self.nodes()).find(|n| *n != node && serves(n)) else { return Ok(()) };
        for other in 1..=self.nodes() {
            self.cut.extend([(node, other), (other, node)]);
        }
        self.all_links()?;
        for _ in 0..40 {
            self.go_on(25, &[user])?;
            self.tick(90_000)?;
            if !self.record().in_sync.contains_key(&rid) {
                break;
            }
        }
        self.go_on(100, &[user])?;
        self.cut.retain(|(a, b)| *a != node && *b != node);
        self.all_links()
    }

    /// The command, under the conditions that the daemon has for it. True if it was taken.
    fn force(&mut self, rid: Rid, node: u64) -> bool {
        let record = self.record();
        let up = |n: u64| self.hosts[&n].up && !self.cut.contains(&(n, 0));
        let answers = record.in_sync.iter().any(|(r, m)| *r != rid && up(m.node.0));
        let alone = record.in_sync.len() == 1 && record.in_sync.contains_key(&rid);
        if answers || alone || !up(node) {
            return false;
        }
        let lineage = Lineage(u128::from(self.id()));
        let (operator, reason) = ("somebody".to_string(), "all others are lost".to_string());
        let cmd =
            Command::ForceInsync { vol: VOL, shard: SHARD.index, epoch: record.epoch, rid, lineage, operator, reason };
        self.apply(cmd).is_ok()
    }

    /// The agent of a node that knows of another lineage than its replica has.
    pub(super) fn adopt(&mut self, node: u64) {
        let Some((lineage, epoch)) = self.state_at(node).map(|s| (s.volumes[&VOL].lineage, s.volumes[&VOL].epoch.0))
        else {
            return;
        };
        let (now, h) = (self.clock(node), &self.hosts[&node]);
        let (up, rid, uuid) = (h.up && !self.cut.contains(&(node, 0)), h.rid, h.uuid);
        if !up || rid.0 == 0 || h.store.durable(rid, uuid).lineage == lineage {
            return;
        }
        let h = self.hosts.get_mut(&node).unwrap();
        if h.store.adopt(lineage, epoch) {
            h.replica = Some(Replica::new(now, h.boot, h.store.durable(rid, uuid)));
            self.trace(|| format!("{rid} on {node} TAKES LINEAGE {}", lineage.0));
        }
    }
}

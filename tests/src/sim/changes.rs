//! Changes of the replica set: what operators and the leader want, and the agents that make and
//! delete replicas on their nodes.
//!
//! Operators want anything at any time. The leader's repair (`hf_meta_core::plan::repair`) is the
//! real one. Both decide from the record and commit later, when it may have changed. A replica's
//! data goes only because a tombstone says so (I20).

use super::net::Net;
use super::run::Outcome;
use super::world::{SHARD, Sim, VOL};
use hf_meta_core::Command;
use hf_meta_core::command::Job;
use hf_meta_core::plan::Liveness;
use hf_meta_core::plan::{Step, repair};
use hf_meta_core::record::{DiskState, NodeMode, ReplicaRecord, VolumeRecord};
use hf_policy::policy::parse_pairs;
use hf_policy::*;
use hf_repl_core::Replica;

impl Sim {
    fn volume(&self) -> &VolumeRecord {
        &self.state.volumes[&VOL]
    }

    /// A command is decided now and committed later, unless the record has changed by then.
    fn decide(&mut self, cmd: Command) {
        let delay = if self.healing { 1_000 } else { 100 + self.swarm.rng.below(200_000) };
        let at = self.now.plus(delay);
        self.net.push((at, Net::Decided(cmd)));
    }

    /// So many replicas at most, anything else as well.
    pub(super) fn set_policy(&mut self, replicas: u64) {
        let n = if self.swarm.spares > 0 { 1 + self.swarm.rng.below(replicas) } else { replicas };
        let mut pairs = vec![format!("replicas={n}")];
        pairs.extend(self.swarm.io_attributes(n));
        let change = parse_pairs(pairs.iter().map(String::as_str)).unwrap();
        let epoch = self.volume().epoch;
        self.decide(Command::SetPolicy { vol: VOL, epoch, change, new_shards: Vec::new() });
    }

    /// A replica of the volume, any of them.
    fn a_replica(&mut self) -> ReplicaRecord {
        let all: Vec<ReplicaRecord> = self.volume().shards[0].replicas.values().cloned().collect();
        all[self.swarm.rng.below(all.len() as u64) as usize].clone()
    }

    /// An operator wants a change.
    pub(super) fn wish(&mut self) {
        let (vol, shard, epoch) = (VOL, SHARD.index, self.volume().epoch);
        let at = 1 + self.swarm.rng.below(self.nodes());
        let (node, disk) = (NodeId(at), DiskId(at));
        let r = self.a_replica();
        let yes = self.swarm.rng.one_in(2);
        let cmd = match self.swarm.rng.below(12) {
            0..=2 => return self.set_policy(3),
            3 => Command::SetNodeMode { node, mode: NodeMode::Draining },
            4 => Command::SetNodeMode { node, mode: NodeMode::Maintenance },
            5 => {
                let away = self.state.nodes.values().find(|n| n.mode != NodeMode::Active);
                Command::SetNodeMode { node: away.map_or(node, |n| n.id), mode: NodeMode::Active }
            }
            6 => Command::SetDiskDraining { disk, draining: yes },
            7 if yes => Command::SetDiskState { disk, state: DiskState::Failing("bad blocks".into()), fault: None },
            7 => Command::SetDiskState { disk, state: DiskState::Ok, fault: None },
            8 => Command::Move { vol, shard, epoch, rid: r.rid, moving: !r.moving },
            9 => Command::Leave { vol, shard, epoch, rid: r.rid },
            10 => Command::AddReplica { vol, shard, epoch, disk },
            11 if yes => Command::PauseRebuild { paused: !self.state.rebuild_paused },
            _ => Command::RemoveReplica { vol, shard, epoch, rid: r.rid },
        };
        self.decide(cmd);
    }

    /// An operator holds a job, or lets it go on.
    pub(super) fn hold(&mut self) {
        let at = 1 + self.swarm.rng.below(self.nodes());
        let rid = self.a_replica().rid;
        let of = match self.swarm.rng.below(5) {
            0 => Job::Node(NodeId(at)),
            1 => Job::Disk(DiskId(at)),
            2 => Job::Scrub(VOL),
            _ => Job::Replica(rid),
        };
        let paused = self.swarm.rng.below(3) > 0;
        self.decide(Command::PauseJob { of, paused });
    }

    /// Every job that an operator holds.
    fn held(&self) -> Vec<Job> {
        let nodes = self.state.nodes.values().filter(|n| n.drain_paused).map(|n| Job::Node(n.id));
        let disks = self.state.disks.values().filter(|d| d.drain_paused).map(|d| Job::Disk(d.id));
        let v = self.volume();
        let scrub = v.scrub.as_ref().filter(|s| s.paused).map(|_| Job::Scrub(VOL));
        let replicas = v.replicas().filter(|(_, r)| r.paused && !r.leaving).map(|(_, r)| Job::Replica(r.rid));
        nodes.chain(disks).chain(scrub).chain(replicas).collect()
    }

    /// The nodes, as the leader sees them.
    fn liveness(&mut self) -> Liveness {
        let answers = |n: &u64| self.hosts[n].up && !self.cut.contains(&(*n, 0));
        let (up, gone): (Vec<u64>, Vec<u64>) = (1..=self.nodes()).partition(answers);
        self.swarm.away.retain(|n, _| gone.contains(n));
        for n in gone {
            self.swarm.away.entry(n).or_insert(self.now);
        }
        let away = self.swarm.away.iter().map(|(n, since)| (NodeId(*n), self.now.since(*since) / 1000)).collect();
        Liveness { up: up.into_iter().map(NodeId).collect(), away, wall_ms: self.wall_ms(), ..Liveness::default() }
    }

    /// The leader looks at the record and proposes what should be done.
    pub(super) fn lead(&mut self) {
        let live = self.liveness();
        // (Nothing needs this number any more. It is drawn so that the seeds that tests name stay what they are.)
        let _ = self.swarm.rng.next_u64();
        for step in repair::steps(&self.state, &live) {
            match step {
                Step::Do(cmd) => self.decide(cmd),
                // The volume is attached from the first request on, and never detached.
                Step::Maintain { .. } | Step::Release { .. } => {}
            }
        }
    }

    /// The agent of a node makes what the record wants there, and deletes what a tombstone tells it to.
    pub(super) fn agent(&mut self, node: u64) -> Result<(), String> {
        let h = &self.hosts[&node];
        let Some(known) = self.state_at(node).filter(|_| h.up && !self.cut.contains(&(node, 0))) else {
            return Ok(());
        };
        let rid = h.rid;
        let buried: Vec<Rid> = known.tombstones.values().filter(|t| t.node.0 == node).map(|t| t.rid).collect();
        let wanted = |r: &&ReplicaRecord| r.node.0 == node && !r.leaving;
        let wanted = known.volumes[&VOL].shards[0].replicas.values().find(wanted).map(|r| r.rid);
        // (What the node knows may be from before a deletion: it looks into the leader's record
        // before it makes anything.)
        let wanted = wanted.filter(|r| self.volume().shards[0].replicas.get(r).is_some_and(|r| !r.leaving));
        if buried.contains(&rid) {
            if self.delete(node)? {
                self.outcome.deletions += 1;
            }
        } else {
            // A tombstone is given back once the data is gone.
            for rid in buried {
                let told = self.apply(Command::ReplicaGone { rid });
                if self.group.is_none() {
                    told.map_err(|e| e.to_string())?;
                }
            }
            if let Some(wanted) = wanted.filter(|_| rid.0 == 0) {
                self.make(node, wanted)?;
            }
        }
        Ok(())
    }

    fn delete(&mut self, node: u64) -> Result<bool, String> {
        let rid = self.hosts[&node].rid;
        if self.volume().shards[0].replicas.contains_key(&rid) {
            return Err(format!("node {node} deletes a replica that the record wants: {rid}"));
        }
        let h = self.hosts.get_mut(&node).unwrap();
        if !h.store.delete(rid) {
            return Ok(false); // The disk has failed; later.
        }
        (h.rid, h.uuid, h.replica, h.image, h.put_back) = (Rid(0), StoreUuid(0), None, None, false);
        self.trace(|| format!("DELETED {rid} on {node}"));
        Ok(true)
    }

    fn make(&mut self, node: u64, rid: Rid) -> Result<(), String> {
        let uuid = StoreUuid(u128::from(self.id()) << 32);
        let now = self.clock(node);
        let lineage = self.state_at(node).map_or(Lineage(1), |s| s.volumes[&VOL].lineage);
        let h = self.hosts.get_mut(&node).unwrap();
        if !h.store.make(rid, uuid, lineage) {
            return Ok(());
        }
        (h.rid, h.uuid) = (rid, uuid);
        h.replica = Some(Replica::new(now, h.boot, h.store.durable(rid, uuid)));
        self.trace(|| format!("MADE {rid} on {node}"));
        // Sometimes the node dies before the record hears of it: the next report tells.
        if !self.swarm.rng.one_in(4) {
            self.report_storage();
        }
        Ok(())
    }

    /// Is every replica where the policy wants it, in sync, and nothing else left?
    pub(super) fn settled(&mut self) -> bool {
        let want = self.policy().replicas as usize;
        let v = self.volume();
        let all = &v.shards[0].replicas;
        let placed = all.len() == want && all.values().all(|r| r.in_sync() && !r.leaving);
        let homes: Vec<u64> = all.values().map(|r| r.node.0).collect();
        let held = self.hosts.iter().filter(|(_, h)| h.rid.0 > 0).all(|(n, _)| homes.contains(n));
        let live = self.liveness();
        placed && held && self.state.tombstones.is_empty() && repair::steps(&self.state, &live).is_empty()
    }

    /// Counts a command that is about to be applied.
    pub(super) fn tally(&self, cmd: &Command) -> Outcome {
        let mut o = Outcome::default();
        let of = |rid: &Rid| self.state.volumes.get(&VOL).and_then(|v| v.shards[0].replicas.get(rid));
        match cmd {
            Command::Drop { rids, .. } => {
                o.drops = 1;
                o.leaves = rids.iter().filter_map(of).filter(|r| r.in_sync() && r.leaving).count() as u64;
            }
            Command::Add { rid, .. } => {
                o.joins = 1;
                let base = of(rid).map(|r| r.state.clone());
                let new = matches!(base, Some(hf_meta_core::record::ReplicaState::Syncing { base: Ver::ZERO, .. }));
                o.newcomers = u64::from(rid.0 > 3 && new);
            }
            Command::Scrubbed { report, .. } => (o.scrubs, o.healed) = (1, report.repaired),
            Command::AddReplica { .. } => o.adds = 1,
            Command::RemoveReplica { rid, .. } => {
                let Some(r) = of(rid) else { return o };
                let node = self.state.nodes.get(&r.node);
                o.removes = 1;
                o.moves = u64::from(r.moving);
                o.drains = u64::from(node.is_some_and(|n| n.mode == NodeMode::Draining));
            }
            Command::SetPolicy { .. } => o.policies = 1,
            Command::ForceInsync { .. } => o.forced = 1,
            Command::Detach { .. } => o.detaches = 1,
            _ => {}
        }
        o
    }

    /// What was wanted of nodes and disks for a while is over, but for draining as long as enough
    /// others are left.
    pub(super) fn calm(&mut self) {
        self.net.retain(|(_, n)| !matches!(n, Net::Decided(_)));
        // (A stand-in does all of it at once; real members may lose any of it, so what is still
        // needed is asked for again.)
        let group = self.group.is_some();
        let mut end: Vec<Command> = self.held().into_iter().map(|of| Command::PauseJob { of, paused: false }).collect();
        end.extend((!group || self.state.rebuild_paused).then_some(Command::PauseRebuild { paused: false }));
        for (id, d) in &self.state.disks {
            let good = group && d.state == DiskState::Ok;
            end.extend((!good).then_some(Command::SetDiskState { disk: *id, state: DiskState::Ok, fault: None }));
            end.extend(d.draining.then_some(Command::SetDiskDraining { disk: *id, draining: false }));
        }
        // (That a replica leaves cannot be taken back: it may stay for want of a place for its successor.)
        let leaves = self.volume().replicas().any(|(_, r)| r.leaving);
        let mut room = if leaves { 0 } else { self.swarm.spares };
        for n in self.state.nodes.values().filter(|n| n.mode != NodeMode::Active) {
            if n.mode == NodeMode::Draining && room > 0 {
                room -= 1;
            } else {
                end.push(Command::SetNodeMode { node: n.id, mode: NodeMode::Active });
            }
        }
        self.finally(end);
        // A move for which there is no place would never end.
        let all: Vec<(Rid, bool)> = self.volume().replicas().map(|(_, r)| (r.rid, r.moving && !r.leaving)).collect();
        for rid in all.into_iter().filter(|(_, moves)| *moves).map(|(rid, _)| rid) {
            let (vol, shard, epoch) = (VOL, SHARD.index, self.volume().epoch);
            self.finally(vec![Command::Move { vol, shard, epoch, rid, moving: false }]);
        }
    }

    /// Nothing of this may be refused; what real members make of it shows later.
    fn finally(&mut self, all: Vec<Command>) {
        for cmd in all {
            let told = self.apply(cmd);
            assert!(self.group.is_some() || told.is_ok(), "{told:?}");
        }
    }
}

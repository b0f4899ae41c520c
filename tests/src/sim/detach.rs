//! Detaches: somebody asks the coordinator to end its attachment, wherever it stands. Its users go,
//! what they were promised is waited for, and nothing of it may be left when it says that it has
//! drained; then the record is told. The place of a sync comes late in such seeds.
//!
//! What is drawn for this comes from a generator of its own, so that seeds without it are the runs
//! that they were.

use super::group::Asker;
use super::net::Net;
use super::world::{Attached, Sim, VOL};
use hf_meta_core::Command;
use hf_repl_core::coordinator::{self as co, Phase, WaitsFor};
use hf_store::sim::Rng;

/// How often somebody detaches the volume.
pub(super) struct Detach {
    rng: Rng,
    /// Steps from one to the next, on average.
    every: u64,
}

impl Detach {
    /// Half of the seeds have detaches.
    pub(super) fn new(seed: u64) -> Option<Detach> {
        let mut rng = Rng::new(seed ^ 0x2545_f491_4f6c_dd1d);
        let every = [600, 2_000, 6_000][rng.below(3) as usize];
        rng.one_in(2).then_some(Detach { rng, every })
    }
}

impl Sim {
    /// An operator detaches the volume, sometimes; that it has drained is told to the record.
    pub(super) fn sometimes_detach(&mut self) -> Result<(), String> {
        let Some(d) = self.swarm.detach.as_mut() else { return Ok(()) };
        let now = d.rng.below(d.every) == 0;
        let tell = d.rng.one_in(40);
        if now && let Some(node) = self.holder() {
            self.detach(node)?;
        }
        if tell { self.tell_drained() } else { Ok(()) }
    }

    /// Where the volume is attached, if that node has not been told yet that it is over.
    fn holder(&self) -> Option<u64> {
        let session = self.record().session;
        let holds = |a: &Attached| Some(a.session) == session && a.c.status().phase != Phase::Fenced;
        self.hosts.iter().find(|(_, h)| h.up && h.coordinator.as_ref().is_some_and(holds)).map(|(n, _)| *n)
    }

    /// Is the attachment about to end?
    pub(super) fn is_ending(&self) -> bool {
        self.hosts
            .values()
            .filter_map(|h| h.coordinator.as_ref())
            .any(|a| a.ending && a.c.status().phase != Phase::Fenced)
    }

    fn detach(&mut self, node: u64) -> Result<(), String> {
        let Some(a) = self.hosts.get_mut(&node).and_then(|h| h.coordinator.as_mut()) else { return Ok(()) };
        a.ending = true;
        self.trace(|| format!("DETACH {node}"));
        self.outcome.stops += 1;
        self.coordinator_step(node, co::Input::Stop)?;
        let waits = self.hosts[&node].coordinator.as_ref().and_then(|a| a.c.status().draining);
        let held = waits.is_some_and(|d| matches!(d.waits_for, WaitsFor::Replicas { .. }));
        self.outcome.held_stops += u64::from(held);
        Ok(())
    }

    /// Its users have all been answered, and nothing is held for them or for the attachment.
    pub(super) fn drained(&mut self, node: u64) -> Result<(), String> {
        let a = self.hosts.get_mut(&node).and_then(|h| h.coordinator.as_mut());
        let Some(a) = a else { return Ok(()) };
        a.drained = true;
        if let Some(id) = a.ops.keys().next() {
            return Err(format!("node {node} says that it has drained, and request {id} is not answered"));
        }
        let joins = a.c.status().sync.is_some();
        if a.place && !joins {
            return Err(format!("node {node} has drained, and keeps the place of a sync"));
        }
        a.c.check_released().map_err(|e| format!("node {node} has drained: {e}"))
    }

    /// The agent tells the record again and again, until that names the session no more.
    fn tell_drained(&mut self) -> Result<(), String> {
        let session = self.record().session;
        let done = |a: &Attached| a.drained && Some(a.session) == session;
        let found = self.hosts.iter().find(|(_, h)| h.up && h.coordinator.as_ref().is_some_and(done));
        let Some((node, session)) = found.and_then(|(n, _)| Some((*n, session?))) else { return Ok(()) };
        if self.cut.contains(&(node, 0)) {
            return Ok(());
        }
        let cmd = Command::Detach { vol: VOL, session };
        if self.group.is_some() {
            return self.raft_propose(node, Asker::Nobody, cmd);
        }
        self.send(Net::Decided(cmd));
        Ok(())
    }

    /// A coordinator has asked for the place of a sync.
    pub(super) fn wants_sync(&mut self, node: u64) -> Result<(), String> {
        let late = self.swarm.detach.as_mut().map(|d| if d.rng.one_in(2) { d.rng.below(1_500_000) } else { 0 });
        let Some(a) = self.hosts.get_mut(&node).and_then(|h| h.coordinator.as_mut()) else { return Ok(()) };
        a.place = true;
        match late {
            None | Some(0) => self.coordinator_step(node, co::Input::SyncGo),
            Some(us) => {
                let (session, at) = (a.session, self.now.plus(us));
                self.net.push((at, Net::Place { to: node, session }));
                Ok(())
            }
        }
    }

    /// After the faults: a detach comes to its end too.
    pub(super) fn detach_ends(&mut self, wishes: bool) -> Result<(), String> {
        let Some(node) = self.holder() else { return Ok(()) };
        let Some(d) = self.swarm.detach.as_mut() else { return Ok(()) };
        let ending = self.hosts[&node].coordinator.as_ref().is_some_and(|a| a.ending);
        // (What no disk has room for is waited for as long as it takes.)
        if self.small_disks || !(ending || d.rng.one_in(2)) {
            return Ok(());
        }
        if !ending {
            self.detach(node)?;
        }
        let (session, until) = (self.record().session, self.now.plus(120_000_000));
        for round in 1.. {
            if self.record().session != session {
                return Ok(());
            }
            if self.now >= until {
                break;
            }
            self.heal_round(round, wishes)?;
            self.tell_drained()?;
        }
        let s = self.hosts[&node].coordinator.as_ref().map(|a| a.c.status());
        Err(format!("a detach does not end: {s:?}, {:?}", self.state.volumes[&VOL].shards[0].replicas))
    }
}

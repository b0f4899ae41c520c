//! The end of a run: faults stop, I/O must resume, every replica must be where the policy wants it,
//! and all must hold the same.

use super::clients::What;
use super::run::Stores;
use super::world::{Host, Sim, VOL};
use hf_repl_core::coordinator::Phase;

impl Sim {
    /// Faults end: a new attachment must reach service and read every block, within simulated minutes.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.healing = true;
        self.cut.clear();
        if self.stores == Stores::Real {
            // Failed disks serve again when their node begins anew.
            (1..=self.nodes()).try_for_each(|n| self.crash_one(n))?;
        }
        for _ in 0..60 {
            self.restart()?;
        }
        self.all_links()?;
        if self.swarm.spares > 0 {
            (1..=self.nodes()).try_for_each(|n| self.restart_one(n))?;
        }
        let wishes = self.swarm.spares > 0 || self.swarm.holds;
        if wishes {
            self.calm();
        }
        self.detach_ends(wishes)?;
        let node = self.somebody_has_it()?;
        // New features ask for more than a read.
        if self.swarm.policy || self.swarm.spares > 0 {
            self.ask(node, What::Write(self.registers(232..236)))?;
        }
        self.ask(node, What::Read(self.registers(240..280)))?;
        let until = self.now.plus(120_000_000);
        let mut rounds = 0u32;
        while self.now < until {
            rounds += 1;
            self.heal_round(rounds, wishes)?;
            if self.healed(node) {
                return self.converged();
            }
        }
        let s = self.hosts[&node].coordinator.as_ref().unwrap().c.status();
        Err(format!("not alive after healing: {s:?}, {:?}", self.state.volumes[&VOL].shards[0].replicas))
    }

    /// The world goes on for a moment, without faults.
    pub(super) fn heal_round(&mut self, round: u32, wishes: bool) -> Result<(), String> {
        self.tick(20_000)?;
        if self.group.is_some() && wishes && round.is_multiple_of(25) {
            self.calm();
        }
        self.report_storage();
        self.announce();
        if self.swarm.spares > 0 {
            self.lead();
            (1..=self.nodes()).try_for_each(|n| self.agent(n))?;
        }
        for _ in 0..24 {
            self.deliver()?;
            self.store_step()?;
        }
        Ok(())
    }

    /// Attaches the volume anew, on any node.
    fn somebody_has_it(&mut self) -> Result<u64, String> {
        for _ in 0..400 {
            // Real members have to elect a leader first, which has to hear of it.
            for _ in 0..if self.group.is_some() { 60 } else { 0 } {
                self.tick(20_000)?;
            }
            let before = self.outcome.attaches;
            self.attach(None)?;
            for _ in 0..if self.group.is_some() { 60 } else { 0 } {
                self.tick(2_000)?;
            }
            let session = self.record().session;
            let ours = |h: &Host| h.coordinator.as_ref().is_some_and(|a| Some(a.session) == session);
            let found = self.hosts.iter().find(|(_, h)| ours(h)).map(|(n, _)| *n);
            if let Some(n) = found.filter(|_| self.outcome.attaches > before) {
                return Ok(n);
            }
        }
        Err("nobody could attach the volume after healing".into())
    }

    /// Everything is answered, and every replica is where it should be and in sync, if there is
    /// room for it.
    fn healed(&mut self, node: u64) -> bool {
        let a = self.hosts[&node].coordinator.as_ref().unwrap();
        let suspended = self.small_disks && a.c.status().in_sync < a.min_replicas;
        let answered = a.ops.values().all(|o| suspended && matches!(o.what, What::Write(_)));
        if !answered || a.c.status().phase != Phase::Serving {
            return false;
        }
        self.small_disks || self.record().out.is_empty() && (self.swarm.spares == 0 || self.settled())
    }

    /// Every in-sync replica holds the same (I8).
    pub(super) fn converged(&mut self) -> Result<(), String> {
        let set: Vec<u64> = self.record().in_sync.values().map(|m| m.node.0).collect();
        for _ in 0..2000 {
            self.store_step()?;
        }
        for b in 240..280 {
            let held: Vec<_> = set.iter().map(|n| self.hosts.get_mut(n).unwrap().store.look(b)).collect();
            let all: Vec<_> = held.into_iter().filter(|(i, _)| !i.state.is_bad()).collect();
            if all.iter().any(|x| x.1 != all[0].1) {
                let held: Vec<String> =
                    all.iter().map(|(i, d)| format!("{} {:?} {:x?}", i.ver, i.state, &d[..2])).collect();
                return Err(format!("block {b} differs between in-sync replicas {set:?}: {held:?}"));
            }
        }
        Ok(())
    }
}

//! What goes wrong, and the end of a run.

use super::machines::durable;
use super::*;

impl World {
    pub(super) fn crash(&mut self) -> Result<(), String> {
        let node = 1 + self.rng.below(NODES);
        let survive = self.rng.below(4) as usize;
        let now = self.now.0;
        let h = self.hosts.get_mut(&node).unwrap();
        if !h.up {
            return Ok(());
        }
        (h.up, h.down_since, h.attached) = (false, now, None);
        h.held.values_mut().for_each(|x| x.store.crash(survive));
        self.out.crashes += 1;
        let cut: Vec<u64> = self.ops.iter().filter(|(_, o)| o.0 == node).map(|(id, _)| *id).collect();
        for id in cut {
            let (_, key, _) = self.ops.remove(&id).unwrap();
            self.registers.entry(key).or_default().busy = false;
        }
        self.links(node)
    }

    pub(super) fn restart(&mut self) -> Result<(), String> {
        let node = 1 + self.rng.below(NODES);
        self.restart_one(node)
    }

    pub(super) fn restart_one(&mut self, node: u64) -> Result<(), String> {
        let (boot, now) = (BootId(u128::from(self.id())), self.now);
        let h = self.hosts.get_mut(&node).unwrap();
        if h.up {
            return Ok(());
        }
        (h.up, h.boot) = (true, boot);
        for (rid, x) in &mut h.held {
            x.replica = Replica::new(now, boot, durable(x.shard, *rid, x.uuid, &x.store));
        }
        self.links(node)
    }

    /// A disk is lost for good, once, if every shard that is part of the volume has another member
    /// that is up.
    pub(super) fn lose_disk(&mut self) {
        let node = 1 + self.rng.below(NODES);
        let v = self.volume();
        let other =
            |s: &ShardRecord| s.replicas.values().any(|r| r.in_sync() && r.node.0 != node && self.hosts[&r.node.0].up);
        let safe = v.shards.iter().take(v.begun() as usize).all(other);
        if self.out.lost_disks > 0 || self.hosts[&node].up || !safe || !self.wishes.is_empty() {
            return;
        }
        self.out.lost_disks += 1;
        let h = self.hosts.get_mut(&node).unwrap();
        (h.lost, h.held) = (true, BTreeMap::new());
        let _ = self.apply(Command::SetDiskState {
            disk: DiskId(node),
            state: DiskState::Failed("gone".into()),
            fault: None,
        });
    }

    /// The world goes on without new faults until a condition holds.
    pub(super) fn until(&mut self, what: &str, mut good: impl FnMut(&World) -> bool) -> Result<(), String> {
        let end = self.now.plus(240_000_000);
        while self.now < end {
            for _ in 0..60 {
                self.step()?;
            }
            (1..=NODES).try_for_each(|n| self.restart_one(n))?;
            self.tick(20_000)?;
            if good(self) {
                return Ok(());
            }
        }
        let v = self.volume();
        Err(format!("after healing, {what}: begun {} of {} shards: {:?}", v.begun(), v.shards.len(), v.shards))
    }

    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.faults = false;
        (1..=NODES).try_for_each(|n| self.restart_one(n))?;
        // No disk takes a further replica. Every shard that was ever part of the volume is served
        // all the same.
        self.hosts.values_mut().for_each(|h| h.full = true);
        self.somebody_serves("nobody serves what there is")?;
        self.hosts.values_mut().for_each(|h| h.full = false);
        self.until("the volume is not what was asked for", |w| {
            let v = w.volume();
            let whole = |s: &ShardRecord| s.in_sync().len() == 3 && s.replicas.len() == 3;
            v.begun() as usize == v.shards.len()
                && v.shards.iter().all(whole)
                && w.state.tombstones.values().all(|t| w.hosts[&t.node.0].lost)
        })?;
        self.somebody_serves("nobody serves all of it")
    }

    /// A new attachment serves, and every register can be read.
    pub(super) fn somebody_serves(&mut self, what: &str) -> Result<(), String> {
        if !self.attach()? {
            return Err(format!("{what}: an attach was refused: {:?}", self.volume().shards));
        }
        let session = self.volume().coordinator.as_ref().map(|a| a.session);
        let node =
            self.hosts.iter().find(|(_, h)| h.attached.as_ref().map(|a| a.session) == session && session.is_some());
        let node = node.map(|(n, _)| *n).ok_or("the attached node is gone")?;
        self.until(what, |w| {
            let Some(a) = w.hosts[&node].attached.as_ref() else { return false };
            let serving = a.shards.iter().all(|c| c.status().phase == Phase::Serving);
            serving && w.volume().activated == w.volume().term && !a.shards.is_empty()
        })?;
        let shards = self.hosts[&node].attached.as_ref().map_or(0, |a| a.shards.len() as u32);
        for key in (0..shards).flat_map(|s| (0..REGISTERS).map(move |r| (s, r))) {
            self.until("a register is busy", |w| w.registers.get(&key).is_none_or(|r| !r.busy))?;
            let before = self.out.reads;
            self.ask(node, key, false)?;
            self.until("a read is not answered", |w| w.out.reads > before)?;
        }
        Ok(())
    }
}

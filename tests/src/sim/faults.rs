//! What goes wrong in a simulated world, and the end of it: crashes, restarts, wipes, cuts; the heal phase.

use super::run::Stores;
use super::store::SimStore;
use super::world::{NODES, Sim, VOL};
use hf_meta_core::Command;
use hf_policy::*;
use hf_repl_core::Replica;
use hf_repl_core::coordinator::{self as co, ClientOp, Phase, SyncStage};
use hf_repl_core::message::BlockState;

impl Sim {
    pub(super) fn crash(&mut self) -> Result<(), String> {
        let node = 1 + self.rng.below(NODES);
        if self.stores == Stores::Real && self.hosts[&node].up && self.rng.one_in(4) {
            self.outcome.failed_disks += 1;
            self.trace(|| format!("DISK FAILS {node}"));
            self.hosts.get_mut(&node).unwrap().store.fail();
            return Ok(());
        }
        self.crash_one(node)?;
        if self.rng.below(24) < self.weights[5] {
            self.wipe_one(node);
        }
        if self.rng.below(12) < self.weights[9] {
            self.put_back_one(node);
        }
        Ok(())
    }

    /// A node went or came: whoever is connected to it notices. Who is cut off from it does not.
    fn noticed(&mut self, node: u64) -> Result<(), String> {
        for other in 1..=NODES {
            if other != node && self.linked(node, other) && self.linked(other, node) {
                self.links(other)?;
            }
        }
        self.links(node)
    }

    fn crash_one(&mut self, node: u64) -> Result<(), String> {
        let survive = self.rng.below(4) as usize;
        let h = self.hosts.get_mut(&node).unwrap();
        if !h.up {
            return Ok(());
        }
        self.outcome.crashes += 1;
        h.up = false;
        h.coordinator = None;
        h.store.crash(survive)?;
        self.trace(|| format!("CRASH {node}"));
        self.noticed(node)
    }

    pub(super) fn restart(&mut self) -> Result<(), String> {
        let node = 1 + self.rng.below(NODES);
        self.restart_one(node)
    }

    fn restart_one(&mut self, node: u64) -> Result<(), String> {
        let boot = BootId(u128::from(self.id()));
        let now = self.now;
        let h = self.hosts.get_mut(&node).unwrap();
        if h.up {
            return Ok(());
        }
        h.up = true;
        h.boot = boot;
        h.replica = Replica::new(now, boot, h.store.durable(node, h.uuid));
        self.noticed(node)
    }

    /// A crashed node's disk is wiped, if another in-sync replica that was not still has everything.
    pub(super) fn wipe_one(&mut self, node: u64) {
        let uuid = StoreUuid(u128::from(self.id()) << 32);
        let (record, hosts) = (self.record(), &mut self.hosts);
        let good = |h: &super::world::Host, known| h.uuid == known && !h.put_back;
        let whole = record.in_sync.iter().any(|(r, m)| r.0 != node && good(&hosts[&r.0], m.store_uuid));
        let Some(h) = hosts.get_mut(&node).filter(|h| !h.up && whole) else { return };
        let seed = h.store.is_real().then_some(uuid.0 as u64);
        h.store = SimStore::new(seed, node, uuid, h.units);
        h.uuid = uuid;
        h.put_back = false;
        self.outcome.wipes += 1;
    }

    /// Somebody copies a disk.
    pub(super) fn take_image(&mut self) -> Result<(), String> {
        let node = 1 + self.rng.below(NODES);
        let h = self.hosts.get_mut(&node).unwrap();
        if !h.put_back {
            h.image = Some((h.store.image()?, h.uuid));
        }
        Ok(())
    }

    /// A crashed node's disk is put back as it was when somebody copied it, if another in-sync replica still has everything.
    fn put_back_one(&mut self, node: u64) {
        let (record, hosts) = (self.record(), &mut self.hosts);
        let good = |h: &super::world::Host, known| h.uuid == known && !h.put_back;
        let whole = record.in_sync.iter().any(|(r, m)| r.0 != node && good(&hosts[&r.0], m.store_uuid));
        let Some(h) = hosts.get_mut(&node).filter(|h| !h.up && whole) else { return };
        let Some((store, uuid)) = h.image.take() else { return };
        h.store = store;
        h.uuid = uuid;
        h.put_back = true;
        self.outcome.restores += 1;
        self.trace(|| format!("PUT BACK {node}"));
    }

    /// The agents: storage that is not the recorded one is reported, which is refused while it counts as in-sync.
    pub(super) fn report_storage(&mut self) {
        let mut changed = false;
        for node in 1..=NODES {
            let (up, uuid) = (self.hosts[&node].up, self.hosts[&node].uuid);
            if up && self.state.volumes[&VOL].shards[0].replicas[&Rid(node)].store_uuid != Some(uuid) {
                changed |= self.apply(Command::ReplicaMade { vol: VOL, rid: Rid(node), store_uuid: uuid }).is_ok();
            }
        }
        if changed {
            self.announce();
        }
    }

    pub(super) fn order_scrub(&mut self) {
        let epoch = self.state.volumes[&VOL].epoch;
        let on = self.state.volumes[&VOL].scrub.is_none();
        if self.apply(Command::Scrub { vol: VOL, epoch, on }).is_ok() {
            self.announce();
        }
    }

    /// A block goes bad on a disk that is up, if another in-sync replica that is up has it whole.
    pub(super) fn rot(&mut self) {
        let node = 1 + self.rng.below(NODES);
        let block = 256 - self.span / 2 + self.rng.below(self.span);
        let whole = |h: &super::world::Host| h.up && !h.store.may_be_bad(block);
        let others = self.record().in_sync.keys().any(|r| r.0 != node && whole(&self.hosts[&r.0]));
        if others && self.hosts[&node].up && self.hosts.get_mut(&node).is_some_and(|h| h.store.rot(block)) {
            self.outcome.rots += 1;
            self.trace(|| format!("ROT {node} block {block}"));
        }
    }

    pub(super) fn someone_joins(&self) -> bool {
        let joins = |h: &super::world::Host| {
            let sync = h.coordinator.as_ref().and_then(|a| a.c.status().sync);
            sync.is_some_and(|s| matches!(s.stage, SyncStage::Copying | SyncStage::Joining))
        };
        self.hosts.values().any(joins)
    }

    /// Some steps of the world without new faults.
    fn go_on(&mut self, steps: u64, clients: &[u64]) -> Result<(), String> {
        for _ in 0..steps {
            match self.rng.below(10) {
                0..=4 => self.deliver()?,
                5..=6 => self.store_step()?,
                7 if !clients.is_empty() => {
                    let at = clients[self.rng.below(clients.len() as u64) as usize];
                    self.client_op(Some(at))?;
                }
                8 => self.tick(20_000)?,
                _ => self.tick(2_000)?,
            }
        }
        Ok(())
    }

    fn isolate(&mut self, node: u64, of_three: u64) {
        for other in (1..=NODES).filter(|o| *o != node) {
            for pair in [(node, other), (other, node)] {
                if self.rng.below(3) < of_three {
                    self.cut.insert(pair);
                }
            }
        }
    }

    /// The scene that random walks seldom find: writes are stranded on one side, another node takes over, both have users, then
    /// the sides meet again.
    pub(super) fn drama(&mut self) -> Result<(), String> {
        self.outcome.dramas += 1;
        let session = self.record().session;
        let serving =
            |h: &super::world::Host| h.up && h.coordinator.as_ref().is_some_and(|a| Some(a.session) == session);
        let Some(a) = self.hosts.iter().find(|(_, h)| serving(h)).map(|(n, _)| *n) else { return Ok(()) };
        let b = 1 + (a + self.rng.below(NODES - 1)) % NODES;
        // Users are busy; then the old side is cut off, wholly or in part, noticed or not.
        self.go_on(30, &[a])?;
        // Sometimes what they wrote is all answered first, and from then on they only read: nothing of theirs blocks.
        if self.rng.one_in(2) {
            self.only_read.insert(a);
            self.go_on(150, &[])?;
        }
        let late = self.rng.one_in(3);
        if !late {
            self.cut.insert((a, 0));
        }
        let how_much = 1 + self.rng.below(3);
        self.isolate(a, how_much);
        if self.rng.one_in(2) {
            self.all_links()?;
        }
        let n = [20, 120, 500][self.rng.below(3) as usize];
        self.go_on(n, &[a])?;
        self.cut.insert((a, 0));
        if self.rng.one_in(3) {
            // Members that granted a lease forget it, or lose everything.
            for node in (1..=NODES).filter(|n| *n != a) {
                if node == b || self.rng.one_in(2) {
                    self.crash_one(node)?;
                    if self.rng.one_in(4) {
                        self.wipe_one(node);
                    }
                    self.restart_one(node)?;
                }
            }
        }
        if self.rng.one_in(3) {
            self.isolate(b, 2);
        }
        self.attach(Some(b))?;
        // Wait for the new side to serve, with requests waiting there, then let both sides be used.
        for _ in 0..60 {
            self.go_on(25, &[a, b])?;
            self.tick(90_000)?;
            if self.hosts[&b].coordinator.as_ref().is_some_and(|x| x.c.status().phase == Phase::Serving) {
                break;
            }
        }
        self.go_on(200, &[a, b, b])?;
        self.only_read.clear();
        match self.rng.below(4) {
            0 => self.crash_one(a)?,
            1 => self.cut.clear(),
            2 => {
                self.cut.retain(|(x, y)| *x != a && *y != a);
                self.announce();
            }
            _ => {}
        }
        self.all_links()?;
        self.go_on(150, &[b])
    }

    /// A member's disk is put back from a copy within one term, while nobody writes: nothing but its own word tells that it lacks
    /// what it had acknowledged.
    pub(super) fn quiet_swap(&mut self) -> Result<(), String> {
        let record = self.record();
        let serving = |h: &super::world::Host| {
            h.coordinator
                .as_ref()
                .is_some_and(|a| a.c.status().phase == Phase::Serving && Some(a.session) == record.session)
        };
        let Some(a) = self.hosts.iter().find(|(_, h)| h.up && serving(h)).map(|(n, _)| *n) else { return Ok(()) };
        let b = 1 + (a + self.rng.below(NODES - 1)) % NODES;
        if !self.hosts[&b].up || self.hosts[&b].put_back || !record.in_sync.contains_key(&Rid(b)) {
            return Ok(());
        }
        let image = (self.hosts[&b].store.image()?, self.hosts[&b].uuid);
        self.hosts.get_mut(&b).unwrap().image = Some(image);
        self.go_on(120, &[a])?;
        self.only_read.insert(a);
        for _ in 0..60 {
            let quiet = self.hosts[&a].coordinator.as_ref().is_none_or(|x| x.ops.is_empty());
            if quiet {
                break;
            }
            self.go_on(10, &[])?;
        }
        self.crash_one(b)?;
        self.put_back_one(b);
        self.restart_one(b)?;
        self.go_on(150, &[a])?;
        self.only_read.remove(&a);
        Ok(())
    }

    /// Cuts one direction between two nodes, or a node from Raft.
    pub(super) fn partition(&mut self) -> Result<(), String> {
        let a = 1 + self.rng.below(NODES);
        let b = self.rng.below(NODES + 1);
        if a != b {
            self.cut.insert((a, b));
            if b != 0 && self.rng.one_in(2) {
                self.cut.insert((b, a));
            }
        }
        // A one-way cut is not always noticed as a lost link.
        if self.rng.one_in(2) { self.all_links() } else { Ok(()) }
    }

    pub(super) fn reconnect(&mut self) -> Result<(), String> {
        if let Some(c) = self.cut.iter().nth(self.rng.below(self.cut.len() as u64) as usize).copied() {
            self.cut.remove(&c);
        }
        self.announce();
        self.all_links()
    }

    /// Faults end: a new attachment must reach service and read every block, within simulated minutes.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.healing = true;
        self.cut.clear();
        if self.stores == Stores::Real {
            // Failed disks serve again when their node begins anew.
            (1..=NODES).try_for_each(|n| self.crash_one(n))?;
        }
        for _ in 0..60 {
            self.restart()?;
        }
        self.all_links()?;
        loop {
            self.attach(None)?;
            let node = self
                .hosts
                .iter()
                .find(|(_, h)| h.coordinator.as_ref().is_some_and(|a| Some(a.session) == self.record().session))
                .map(|(n, _)| *n);
            let Some(node) = node else { continue };
            let (id, now) = (self.id(), self.now.0);
            let blocks: Vec<u64> = (240..280).collect();
            let a = self.hosts.get_mut(&node).unwrap().coordinator.as_mut().unwrap();
            a.ops.insert(id, (now, blocks, None));
            self.coordinator_step(
                node,
                co::Input::Client { id, op: ClientOp::Read { off: 240 * BLOCK_BYTES, len: 40 * BLOCK_SIZE as u32 } },
            )?;
            let until = self.now.plus(120_000_000);
            while self.now < until {
                self.tick(20_000)?;
                self.report_storage();
                self.announce();
                for _ in 0..24 {
                    self.deliver()?;
                    self.store_step()?;
                }
                let a = self.hosts[&node].coordinator.as_ref().unwrap();
                let complete = self.small_disks || self.record().out.is_empty();
                if !a.ops.contains_key(&id) && a.c.status().phase == Phase::Serving && complete {
                    return self.converged();
                }
            }
            let s = self.hosts[&node].coordinator.as_ref().unwrap().c.status();
            return Err(format!("not alive after healing: {s:?}"));
        }
    }

    /// Every in-sync replica holds the same (I8).
    pub(super) fn converged(&mut self) -> Result<(), String> {
        let set: Vec<u64> = self.record().in_sync.keys().map(|r| r.0).collect();
        for _ in 0..2000 {
            self.store_step()?;
        }
        for b in 240..280 {
            let held: Vec<_> = set.iter().map(|n| self.hosts.get_mut(n).unwrap().store.look(b)).collect();
            let all: Vec<_> = held.into_iter().filter(|(i, _)| i.state != BlockState::Bad).collect();
            if all.iter().any(|x| x.1 != all[0].1) {
                let held: Vec<String> =
                    all.iter().map(|(i, d)| format!("{} {:?} {:x?}", i.ver, i.state, &d[..2])).collect();
                return Err(format!("block {b} differs between in-sync replicas {set:?}: {held:?}"));
            }
        }
        Ok(())
    }
}

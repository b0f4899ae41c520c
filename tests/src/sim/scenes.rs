//! Scenes that random walks seldom find: which node is cut off when, which one takes over, and
//! which ones meet again.

use super::clients::What;
use super::world::{Host, Sim};
use hf_repl_core::coordinator::{Phase, SyncStage};

impl Sim {
    pub(super) fn someone_joins(&self) -> bool {
        let joins = |h: &Host| {
            let sync = h.coordinator.as_ref().and_then(|a| a.c.status().sync);
            sync.is_some_and(|s| matches!(s.stage, SyncStage::Copying | SyncStage::Joining))
        };
        self.hosts.values().any(joins)
    }

    /// Some steps of the world without new faults.
    pub(super) fn go_on(&mut self, steps: u64, clients: &[u64]) -> Result<(), String> {
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
        for other in (1..=self.nodes()).filter(|o| *o != node) {
            for pair in [(node, other), (other, node)] {
                if self.rng.below(3) < of_three {
                    self.cut.insert(pair);
                }
            }
        }
    }

    /// The scene that random walks seldom find: writes are stranded on one side, another node takes
    /// over, both have users, then the sides meet again.
    pub(super) fn drama(&mut self) -> Result<(), String> {
        if !self.dramas {
            return Ok(());
        }
        self.outcome.dramas += 1;
        let session = self.record().session;
        let serving = |h: &Host| h.up && h.coordinator.as_ref().is_some_and(|a| Some(a.session) == session);
        let Some(a) = self.hosts.iter().find(|(_, h)| serving(h)).map(|(n, _)| *n) else { return Ok(()) };
        let b = 1 + (a + self.rng.below(self.nodes() - 1)) % self.nodes();
        // Users are busy; then the old side is cut off, wholly or in part, noticed or not.
        self.go_on(30, &[a])?;
        // Sometimes everything that they wrote is answered first, and from then on they only read:
        // no write of theirs blocks.
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
            for node in (1..=self.nodes()).filter(|n| *n != a) {
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
        let mut copied = None;
        for _ in 0..60 {
            copied = self.copy_amid_takeover(b)?.or(copied);
            self.go_on(25, &[a, b])?;
            self.tick(90_000)?;
            if self.hosts[&b].coordinator.as_ref().is_some_and(|x| x.c.status().phase == Phase::Serving) {
                break;
            }
        }
        self.go_on(200, &[a, b, b])?;
        self.only_read.clear();
        if let Some(node) = copied {
            // The only node that could remember how far that disk had got is gone too.
            for n in [node, b] {
                self.crash_one(n)?;
            }
            self.put_back_one(node);
            for n in [node, b] {
                self.restart_one(n)?;
            }
        }
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

    /// An operator copies the disk of a member that has promised the new term, but has not been
    /// made equal to the others yet.
    fn copy_amid_takeover(&mut self, b: u64) -> Result<Option<u64>, String> {
        let status = self.hosts[&b].coordinator.as_ref().map(|a| a.c.status());
        if !self.swarm.copies || status.is_none_or(|s| s.phase != Phase::Reconciling) {
            return Ok(None);
        }
        let record = self.record();
        let node = 1 + self.swarm.rng.below(self.nodes());
        let h = &self.hosts[&node];
        if node == b || !h.up || h.put_back || !record.in_sync.contains_key(&h.rid) {
            return Ok(None);
        }
        let image = (h.store.image()?, h.uuid);
        self.hosts.get_mut(&node).unwrap().image = Some(image);
        Ok(Some(node))
    }

    /// A coordinator loses Raft as soon as its take-over has begun, so that it cannot record that
    /// its term is served. A member's disk is put back from a copy of the middle of that take-over,
    /// and is the only one that answers the next coordinator: it must have everything that clients
    /// were told of (docs/decisions/0014).
    pub(super) fn unrecorded(&mut self) -> Result<(), String> {
        let (record, cut) = (self.record(), &self.cut);
        let members: Vec<u64> = record.in_sync.values().map(|m| m.node.0).collect();
        let apart = |a: &u64, b: &u64| cut.contains(&(*a, *b)) || cut.contains(&(*b, *a));
        let able = |n: &u64| {
            let h = &self.hosts[n];
            h.up && !h.put_back && !cut.contains(&(*n, 0)) && !members.iter().any(|o| apart(n, o))
        };
        if !self.dramas || members.len() < 2 || !members.iter().all(able) {
            return Ok(());
        }
        let at = self.swarm.rng.below(members.len() as u64) as usize;
        let (b, m) = (members[at], members[(at + 1) % members.len()]);
        self.outcome.dramas += 1;
        self.attach(Some(b))?;
        self.cut.insert((b, 0));
        let phase = |s: &Sim, n| s.hosts[&n].coordinator.as_ref().map(|x| x.c.status().phase);
        for _ in 0..600 {
            match phase(self, b) {
                Some(Phase::Sealing) => self.tick(30_000)?,
                Some(Phase::Reconciling) if self.hosts[&m].up => {
                    let h = self.hosts.get_mut(&m).unwrap();
                    h.image = Some((h.store.image()?, h.uuid));
                }
                _ => break,
            }
            self.go_on(4, &[])?;
        }
        self.go_on(250, &[b])?;
        for n in &members {
            self.crash_one(*n)?;
        }
        self.put_back_one(m);
        self.restart_one(m)?;
        self.attach(Some(m))?;
        for _ in 0..80 {
            self.tick(90_000)?;
            self.go_on(25, &[m])?;
        }
        self.cut.remove(&(b, 0));
        self.announce();
        self.all_links()
    }

    /// From now on its users only read; what they were writing comes to its end, if it can.
    fn only_reads(&mut self, a: u64) -> Result<(), String> {
        self.only_read.insert(a);
        for _ in 0..60 {
            if self.hosts[&a].coordinator.as_ref().is_none_or(|x| x.ops.is_empty()) {
                break;
            }
            self.go_on(10, &[])?;
        }
        Ok(())
    }

    /// A member's disk is put back from a copy within one term, while there are no writes: nothing
    /// but its own word tells that it lacks what it had acknowledged.
    pub(super) fn quiet_swap(&mut self) -> Result<(), String> {
        let record = self.record();
        let serving = |h: &Host| {
            h.coordinator
                .as_ref()
                .is_some_and(|a| a.c.status().phase == Phase::Serving && Some(a.session) == record.session)
        };
        let Some(a) = self.hosts.iter().find(|(_, h)| h.up && serving(h)).map(|(n, _)| *n) else { return Ok(()) };
        let b = 1 + (a + self.rng.below(self.nodes() - 1)) % self.nodes();
        let member = record.in_sync.contains_key(&self.hosts[&b].rid);
        if !self.hosts[&b].up || self.hosts[&b].put_back || !member {
            return Ok(());
        }
        let image = (self.hosts[&b].store.image()?, self.hosts[&b].uuid);
        self.hosts.get_mut(&b).unwrap().image = Some(image);
        self.go_on(120, &[a])?;
        self.only_reads(a)?;
        self.crash_one(b)?;
        self.put_back_one(b);
        self.restart_one(b)?;
        self.go_on(150, &[a])?;
        self.only_read.remove(&a);
        Ok(())
    }

    /// A coordinator reads on from its own replica while all other nodes believe it to be cut off,
    /// up to the last moment of its leases and beyond; its successor has users from its first
    /// moment on.
    pub(super) fn last_moment(&mut self) -> Result<(), String> {
        let record = self.record();
        let serving = |h: &Host| {
            let s = h.coordinator.as_ref().filter(|a| Some(a.session) == record.session).map(|a| a.c.status());
            h.up && record.in_sync.contains_key(&h.rid) && s.is_some_and(|s| s.phase == Phase::Serving && s.in_sync > 1)
        };
        let Some(a) = self.hosts.iter().find(|(_, h)| serving(h)).map(|(n, _)| *n) else { return Ok(()) };
        let able = |n: &u64| *n != a && self.hosts[n].up && !self.cut.contains(&(*n, 0));
        let others: Vec<u64> = (1..=self.nodes()).filter(able).collect();
        if !self.dramas || others.is_empty() {
            return Ok(());
        }
        self.outcome.dramas += 1;
        let b = others[self.swarm.rng.below(others.len() as u64) as usize];
        self.prompt = true;
        self.only_reads(a)?;
        self.ask_all(a)?;
        self.go_on(40, &[])?;
        for other in (0..=self.nodes()).filter(|o| *o != a) {
            self.cut.extend([(a, other), (other, a)]);
        }
        let end = self.now.plus(2_300_000);
        self.attach(Some(b))?;
        self.go_on(40, &[b])?;
        let sealing = |s: &Sim| s.hosts[&b].coordinator.as_ref().is_some_and(|x| x.c.status().phase == Phase::Sealing);
        while self.now < end && sealing(self) {
            self.go_on(10, &[])?;
            if self.now.plus(800_000) < end {
                self.tick(30_000)?;
            }
        }
        self.side_by_side(a, b)?;
        self.prompt = false;
        self.only_read.remove(&a);
        self.cut.retain(|(x, y)| *x != a && *y != a);
        self.announce();
        self.all_links()
    }

    /// A tenth of a second in small steps: one reads, and another one's first requests end.
    fn side_by_side(&mut self, a: u64, b: u64) -> Result<(), String> {
        let end = self.now.plus(100_000);
        while self.now < end {
            for _ in 0..4 {
                self.deliver_due()?;
                self.store_step()?;
            }
            if self.swarm.rng.one_in(3) {
                self.ask_all(a)?;
            }
            if self.swarm.rng.one_in(6) {
                self.client_op(Some(b))?;
            }
            self.tick(1_000)?;
        }
        Ok(())
    }

    /// Reads all hot blocks at once.
    fn ask_all(&mut self, node: u64) -> Result<(), String> {
        let free = |h: &Host| h.up && h.coordinator.as_ref().is_some_and(|a| a.ops.len() < 12);
        if !free(&self.hosts[&node]) {
            return Ok(());
        }
        let first = 256 - self.span / 2;
        self.ask(node, What::Read(self.registers(first..first + self.span)))
    }
}

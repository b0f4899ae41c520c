//! What goes wrong in a simulated world: crashes, restarts, wipes, cuts.

use super::net::Net;
use super::run::Stores;
use super::store::SimStore;
use super::world::{Sim, VOL};
use hf_meta_core::Command;
use hf_policy::*;
use hf_repl_core::Replica;
use hf_repl_core::coordinator::MemberInfo;
use hf_repl_core::message::{Content, Msg};
use std::collections::BTreeSet;

impl Sim {
    pub(super) fn crash(&mut self) -> Result<(), String> {
        let node = self.a_node();
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

    /// A node went or came: the nodes that are connected to it notice, those that are cut off from
    /// it do not.
    pub(super) fn noticed(&mut self, node: u64) -> Result<(), String> {
        for other in 1..=self.nodes() {
            if other != node && self.linked(node, other) && self.linked(other, node) {
                self.links(other)?;
            }
        }
        self.links(node)
    }

    pub(super) fn crash_one(&mut self, node: u64) -> Result<(), String> {
        let survive = self.rng.below(4) as usize;
        let h = self.hosts.get_mut(&node).unwrap();
        if !h.up {
            return Ok(());
        }
        self.outcome.crashes += 1;
        h.up = false;
        h.coordinator = None;
        h.store.crash(survive)?;
        self.raft_stop(node);
        self.trace(|| format!("CRASH {node}"));
        self.noticed(node)
    }

    pub(super) fn restart(&mut self) -> Result<(), String> {
        let node = self.a_node();
        self.restart_one(node)
    }

    pub(super) fn restart_one(&mut self, node: u64) -> Result<(), String> {
        let boot = BootId(u128::from(self.id()));
        let now = self.clock(node);
        let h = self.hosts.get_mut(&node).unwrap();
        if h.up {
            return Ok(());
        }
        h.up = true;
        h.boot = boot;
        h.replica = (h.rid.0 > 0).then(|| Replica::new(now, boot, h.store.durable(h.rid, h.uuid)));
        self.raft_start(node);
        self.noticed(node)
    }

    /// Another in-sync replica still has everything, and is not about to be dropped (seed 1556 over
    /// real raft members: the drop was in a log, and committed later). A cluster that loses all its
    /// disks loses its data.
    fn whole_elsewhere(&self, node: u64) -> bool {
        let dropping = |n: &Net| matches!(n, Net::Proposal { cmd: Command::Drop { .. }, .. });
        let good = |h: &super::world::Host, known| h.uuid == known && !h.put_back;
        let whole = |m: &MemberInfo| m.node.0 != node && good(&self.hosts[&m.node.0], m.store_uuid);
        self.raft_is_quiet() && !self.net.iter().any(|(_, n)| dropping(n)) && self.record().in_sync.values().any(whole)
    }

    /// A crashed node's disk is wiped, if another in-sync replica that was not wiped still has everything.
    pub(super) fn wipe_one(&mut self, node: u64) {
        let uuid = StoreUuid(u128::from(self.id()) << 32);
        let (whole, lineage) = (self.whole_elsewhere(node), self.record().lineage);
        let Some(h) = self.hosts.get_mut(&node).filter(|h| !h.up && h.rid.0 > 0 && whole) else { return };
        let seed = h.store.is_real().then_some(uuid.0 as u64);
        h.store = SimStore::new(seed, h.rid, uuid, h.units, lineage);
        h.uuid = uuid;
        h.put_back = false;
        self.outcome.wipes += 1;
    }

    /// An operator copies a disk.
    pub(super) fn take_image(&mut self) -> Result<(), String> {
        let node = self.a_node();
        let h = self.hosts.get_mut(&node).unwrap();
        if !h.put_back && h.rid.0 > 0 {
            h.image = Some((h.store.image()?, h.uuid));
        }
        Ok(())
    }

    /// A crashed node's disk is put back as it was when it was copied, if another in-sync replica
    /// still has everything.
    pub(super) fn put_back_one(&mut self, node: u64) {
        let whole = self.whole_elsewhere(node);
        let Some(h) = self.hosts.get_mut(&node).filter(|h| !h.up && h.rid.0 > 0 && whole) else { return };
        let Some((store, uuid)) = h.image.take() else { return };
        h.store = store;
        h.uuid = uuid;
        h.put_back = true;
        self.outcome.restores += 1;
        self.trace(|| format!("PUT BACK {node}"));
    }

    /// The agents: storage that is not the recorded one is reported, which is refused while it
    /// counts as in-sync.
    pub(super) fn report_storage(&mut self) {
        let mut changed = false;
        for node in 1..=self.nodes() {
            self.adopt(node);
            let (up, rid, store_uuid) = (self.hosts[&node].up, self.hosts[&node].rid, self.hosts[&node].uuid);
            let known = self.state.volumes[&VOL].shards[0].replicas.get(&rid);
            if up && known.is_some_and(|r| r.store_uuid != Some(store_uuid)) {
                changed |= self.apply(Command::ReplicaMade { vol: VOL, rid, store_uuid }).is_ok();
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
        let node = self.a_node();
        let block = 256 - self.span / 2 + self.rng.below(self.span);
        if self.swarm.pages && block.is_multiple_of(4) {
            return self.rot_page(node, block);
        }
        // (One that was put back from within the term may be what it was before: docs/protocol.md,
        // "What cannot be seen"; seed 15962.)
        let whole = |h: &super::world::Host| h.up && !h.put_back && !h.store.may_be_bad(block);
        let others = self.record().in_sync.values().any(|m| m.node.0 != node && whole(&self.hosts[&m.node.0]));
        if others && self.hosts[&node].up && self.hosts.get_mut(&node).is_some_and(|h| h.store.rot(block)) {
            self.outcome.rots += 1;
            self.ever_bad.insert((node, block));
            self.trace(|| format!("ROT {node} block {block}"));
        }
    }

    /// A chunk's page goes bad on a disk that is up, if another in-sync replica that is up has the
    /// whole chunk.
    fn rot_page(&mut self, node: u64, block: u64) {
        let chunk = BlockIx(block).chunk();
        let bad = |h: &super::world::Host| chunk.blocks().iter().any(|b| h.store.may_be_bad(b.0));
        let whole = |h: &super::world::Host| h.up && !h.put_back && !bad(h);
        let others = self.record().in_sync.values().any(|m| m.node.0 != node && whole(&self.hosts[&m.node.0]));
        if others && self.hosts[&node].up && self.hosts.get_mut(&node).is_some_and(|h| h.store.rot_page(chunk)) {
            self.outcome.lost_pages += 1;
            self.ever_bad.extend(chunk.blocks().iter().map(|b| (node, b.0)));
            self.trace(|| format!("ROT {node} page of chunk {}", chunk.0));
        }
    }

    /// A member that the coordinator of `at` can ask, and could ask `then`, has the block, and
    /// never lost it. (Members may answer nothing any more of a lineage that was given up.)
    pub(super) fn whole_somewhere(&self, at: u64, then: Option<&BTreeSet<Rid>>, block: u64) -> bool {
        let lineage = self.record().lineage;
        let known = self.hosts[&at].coordinator.as_ref().filter(|a| a.lineage == lineage).map(|a| &a.in_sync);
        self.record().in_sync.iter().any(|(rid, m)| {
            let (n, h) = (m.node.0, &self.hosts[&m.node.0]);
            let reached = h.up
                && self.linked(at, n)
                && self.linked(n, at)
                && known.is_some_and(|k| k.contains(rid))
                && then.is_none_or(|t| t.contains(rid));
            let good = h.rid == *rid && h.uuid == m.store_uuid && !h.put_back && !h.store.has_failed();
            reached && good && !self.ever_bad.contains(&(n, block))
        })
    }

    /// A replica that is filled may be told that a block is lost only if no member has it. (In a
    /// take-over it is told to members that have something older.)
    pub(super) fn tells_lost(&mut self, at: u64, to: u64, msg: &Msg) -> Result<(), String> {
        let Msg::Copy { items } = msg else { return Ok(()) };
        let filled = self.record().out.contains_key(&self.hosts[&to].rid);
        for i in items.iter().filter(|i| matches!(i.content, Content::Bad)) {
            if filled && self.whole_somewhere(at, None, i.block.0) {
                return Err(format!("node {to} is told that block {} is lost, which a member has", i.block.0));
            }
            self.ever_bad.insert((to, i.block.0));
        }
        Ok(())
    }

    /// Cuts one direction between two nodes, or a node from Raft.
    pub(super) fn partition(&mut self) -> Result<(), String> {
        let a = self.a_node();
        let b = self.rng.below(self.nodes() + 1);
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
}

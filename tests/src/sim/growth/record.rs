//! What goes into the record: coordinators' changes, the leader's steps, what nodes make, growth,
//! attach and detach.

use super::machines::durable;
use super::*;

impl World {
    /// Every shard is ready to serve, which is recorded sooner or later.
    pub(super) fn serves(&mut self, n: u64) {
        let Some(a) = self.hosts[&n].attached.as_ref() else { return };
        let ours = self.volume().coordinator.as_ref().is_some_and(|c| c.session == a.session);
        let term = self.volume().term;
        if ours && a.ready.len() == a.shards.len() && self.volume().activated < term && self.rng.one_in(3) {
            let _ = self.apply(Command::Activated { vol: VOL, term });
        }
    }

    /// The changes that agents gathered go into the log: those that were decided on the newest
    /// record together, the rest is refused.
    pub(super) fn commit(&mut self) {
        let Some(newest) = self.wishes.iter().map(|w| (w.term, w.epoch)).max() else { return };
        let mut batch: BTreeMap<u32, Wish> = BTreeMap::new();
        for w in std::mem::take(&mut self.wishes) {
            let alone = matches!(w.change, co::Change::SyncStart { .. });
            if (w.term, w.epoch) == newest && (!alone || batch.is_empty()) {
                let last = alone;
                batch.insert(w.shard, w);
                if last {
                    break;
                }
            } else {
                let Wish { from: to, session, shard, .. } = w;
                self.send(Net::Answer { to, session, shard, outcome: co::Proposed::Retry });
            }
        }
        let (vol, (term, epoch)) = (VOL, newest);
        let cmd = match batch.values().collect::<Vec<_>>().as_slice() {
            [w] => single(w),
            all => {
                self.out.together += 1;
                let changes =
                    all.iter().filter_map(|w| Some(ShardChange { shard: w.shard, what: step_of(&w.change)? }));
                Command::Together { vol, epoch, term, changes: changes.collect() }
            }
        };
        let outcome = match self.apply(cmd) {
            Ok(_) => co::Proposed::Done,
            Err(e) => crate::sim::group::refused(&e),
        };
        for Wish { from: to, session, shard, .. } in batch.into_values() {
            self.send(Net::Answer { to, session, shard, outcome });
        }
    }

    pub(super) fn lead(&mut self) {
        let live = self.liveness();
        // (Nothing needs this number any more. It is drawn so that the seeds that tests name stay what they are.)
        let _ = self.rng.next_u64();
        for step in repair::steps(&self.state, &live) {
            if let Step::Do(cmd) = step {
                self.out.replaced += u64::from(matches!(cmd, Command::ReplaceUnmade { .. }));
                let _ = self.apply(cmd);
            }
        }
    }

    /// A node makes the replicas that are wanted there and deletes those that have a tombstone.
    pub(super) fn agent(&mut self, node: u64) {
        let (id, h) = (NodeId(node), &self.hosts[&node]);
        if !h.up || h.lost {
            return;
        }
        let buried: Vec<Rid> = self.state.tombstones.values().filter(|t| t.node == id).map(|t| t.rid).collect();
        for rid in buried {
            self.hosts.get_mut(&node).unwrap().held.remove(&rid);
            let _ = self.apply(Command::ReplicaGone { rid });
        }
        let wanted = |r: &&(ShardId, ReplicaRecord)| r.1.node == id && !r.1.leaving && r.1.store_uuid.is_none();
        let all: Vec<(ShardId, ReplicaRecord)> = self.volume().replicas().map(|(s, r)| (s, r.clone())).collect();
        for (shard, r) in all.iter().filter(wanted) {
            let rid = r.rid;
            if !self.hosts[&node].held.contains_key(&rid) {
                if self.hosts[&node].full {
                    continue;
                }
                let uuid = StoreUuid(u128::from(self.id()));
                let (now, boot) = (self.now, self.hosts[&node].boot);
                let store = ModelStore::with_room(0, Lineage(1));
                let replica = Replica::new(now, boot, durable(*shard, rid, uuid, &store));
                let held = Held { shard: *shard, uuid, store, replica };
                self.hosts.get_mut(&node).unwrap().held.insert(rid, held);
            }
            // Sometimes the record hears of it only the next time.
            if !self.faults || !self.rng.one_in(4) {
                let store_uuid = self.hosts[&node].held[&rid].uuid;
                let _ = self.apply(Command::ReplicaMade { vol: VOL, rid, store_uuid });
            }
        }
    }

    pub(super) fn grow(&mut self) {
        let v = self.volume().clone();
        if v.shards.len() as u64 >= SHARDS {
            return;
        }
        let more = 1 + self.rng.below(2);
        let size = (v.shards.len() as u64 + more).min(SHARDS) * 64;
        let change = parse_pairs([format!("size={size}GiB").as_str()]).unwrap();
        let (live, salt) = (self.liveness(), self.rng.next_u64());
        let Ok(new_shards) = plan::set_policy(&self.state, &live, &v, &change, salt) else { return };
        self.out.growths +=
            u64::from(self.apply(Command::SetPolicy { vol: VOL, epoch: v.epoch, change, new_shards }).is_ok());
    }

    pub(super) fn attach(&mut self) -> Result<bool, String> {
        let up: Vec<u64> = self.hosts.iter().filter(|(_, h)| h.up).map(|(n, _)| *n).collect();
        if up.is_empty() {
            return Ok(false);
        }
        let node = up[self.rng.below(up.len() as u64) as usize];
        let (epoch, session) = (self.volume().epoch, SessionId(u128::from(self.id())));
        let cmd = Command::Attach { vol: VOL, epoch, node: NodeId(node), session, steal: true, maintenance: false };
        if self.apply(cmd).is_err() {
            return Ok(false);
        }
        self.out.attaches += 1;
        self.let_go(node);
        let (shards, ready, drained) = Default::default();
        let a = Attached { session, shards, ready, drained, stopping: false };
        self.hosts.get_mut(&node).unwrap().attached = Some(a);
        self.learn(node)?;
        Ok(true)
    }

    /// An earlier attachment of this node ends here; its open writes have unknown outcomes.
    pub(super) fn let_go(&mut self, node: u64) {
        let open: Vec<u64> = self.ops.iter().filter(|(_, o)| o.0 == node).map(|(id, _)| *id).collect();
        for id in open {
            let (_, key, _) = self.ops.remove(&id).unwrap();
            self.registers.entry(key).or_default().busy = false;
        }
    }

    pub(super) fn detach(&mut self) -> Result<(), String> {
        for n in 1..=NODES {
            let Some(a) = self.hosts.get_mut(&n).unwrap().attached.as_mut().filter(|a| !a.stopping) else { continue };
            a.stopping = true;
            let shards = a.shards.len() as u32;
            (0..shards).try_for_each(|i| self.coordinator(n, i, co::Input::Stop))?;
        }
        Ok(())
    }
}

fn single(w: &Wish) -> Command {
    let (vol, shard, epoch, term) = (VOL, w.shard, w.epoch, w.term);
    match w.change.clone() {
        co::Change::Drop { rids, base, told, reasons } => {
            Command::Drop { vol, shard, epoch, term, rids, base, told, reasons }
        }
        co::Change::SyncStart { rid, sync_id } => Command::SyncStart { vol, shard, epoch, term, rid, sync_id },
        co::Change::Add { rid, store_uuid } => Command::Add { vol, shard, epoch, term, rid, store_uuid },
        co::Change::Scrubbed { id, report } => Command::Scrubbed { vol, shard, epoch, term, id, report },
    }
}

fn step_of(change: &co::Change) -> Option<ShardStep> {
    match change.clone() {
        co::Change::Drop { rids, base, told, reasons } => Some(ShardStep::Drop { rids, base, told, reasons }),
        co::Change::Add { rid, store_uuid } => Some(ShardStep::Add { rid, store_uuid }),
        co::Change::Scrubbed { id, report } => Some(ShardStep::Scrubbed { id, report }),
        co::Change::SyncStart { .. } => None,
    }
}

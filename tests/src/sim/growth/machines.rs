//! Steps of coordinators and replicas, the network between them, and the clients.

use super::*;
use crate::sim::world::shard_record;

impl World {
    pub(super) fn coordinator(&mut self, n: u64, shard: u32, input: co::Input) -> Result<(), String> {
        let now = self.now;
        let Some(a) = self.hosts.get_mut(&n).unwrap().attached.as_mut() else { return Ok(()) };
        let Some(c) = a.shards.get_mut(shard as usize) else { return Ok(()) };
        let mut out = Vec::new();
        c.step(now, input, &mut out);
        c.check()?;
        self.outputs(n, shard, out)
    }

    pub(super) fn outputs(&mut self, n: u64, shard: u32, out: Vec<co::Output>) -> Result<(), String> {
        for o in out {
            let Some(a) = self.hosts.get_mut(&n).unwrap().attached.as_mut() else { return Ok(()) };
            let session = a.session;
            match o {
                co::Output::Send { rid, env, msg } => {
                    let home = self.state.volumes[&VOL].replicas().find(|(_, r)| r.rid == rid).map(|(_, r)| r.node.0);
                    let Some(to) = home else { continue };
                    self.send(Net::ToReplica { from: n, to, env, msg });
                }
                co::Output::Propose { epoch, term, change } => {
                    self.wishes.push(Wish { from: n, session, shard, epoch, term, change });
                }
                co::Output::Reply { id, result } => self.answered(id, result)?,
                co::Output::WantSync { .. } => self.coordinator(n, shard, co::Input::SyncGo)?,
                co::Output::Ready => drop(a.ready.insert(shard)),
                co::Output::Drained => {
                    a.drained.insert(shard);
                    if a.stopping && a.drained.len() == a.shards.len() {
                        self.out.detaches += u64::from(self.apply(Command::Detach { vol: VOL, session }).is_ok());
                    }
                }
                co::Output::Fenced | co::Output::SyncOver | co::Output::Forget { .. } => {}
            }
        }
        Ok(())
    }

    pub(super) fn answered(&mut self, id: u64, result: Result<ClientReply, IoError>) -> Result<(), String> {
        let Some((_, key, tag)) = self.ops.remove(&id) else { return Err(format!("request {id} answered twice")) };
        let r = self.registers.entry(key).or_default();
        r.busy = false;
        match (result, tag) {
            (Ok(ClientReply::Done), Some(tag)) => {
                (r.acked, self.out.acked) = (tag, self.out.acked + 1);
                r.maybe.clear();
            }
            (Ok(ClientReply::Data(parts)), None) => {
                let bytes = parts.concat();
                let got = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                if got != r.acked && !r.maybe.contains(&got) {
                    return Err(format!(
                        "register {key:?} read {got}, {} was acknowledged, {:?} may be",
                        r.acked, r.maybe
                    ));
                }
                r.acked = got;
                r.maybe.clear();
                self.out.reads += 1;
            }
            (Err(IoError::Fenced), _) => {}
            (other, _) => return Err(format!("a request of register {key:?} was answered by {other:?}")),
        }
        Ok(())
    }

    pub(super) fn client(&mut self) -> Result<(), String> {
        let serving: Vec<u64> = self.hosts.iter().filter(|(_, h)| h.attached.is_some()).map(|(n, _)| *n).collect();
        let Some(n) = (!serving.is_empty()).then(|| serving[self.rng.below(serving.len() as u64) as usize]) else {
            return if self.faults && self.rng.one_in(20) { self.attach().map(drop) } else { Ok(()) };
        };
        let shards = self.hosts[&n].attached.as_ref().map_or(0, |a| a.shards.len() as u64);
        if shards == 0 {
            return Ok(());
        }
        let key = (self.rng.below(shards) as u32, self.rng.below(REGISTERS));
        let write = self.rng.one_in(2);
        self.ask(n, key, write)
    }

    pub(super) fn ask(&mut self, n: u64, key: (u32, u64), write: bool) -> Result<(), String> {
        let Some(a) = self.hosts[&n].attached.as_ref() else { return Ok(()) };
        let gone = a.shards.get(key.0 as usize).is_none_or(|c| c.status().phase == Phase::Fenced);
        if gone || a.stopping || self.registers.entry(key).or_default().busy {
            return Ok(());
        }
        let (id, off) = (self.id(), key.1 * 97 * BLOCK_BYTES);
        let op = match write {
            true => {
                let mut data = vec![0u8; BLOCK_SIZE];
                data[..8].copy_from_slice(&id.to_le_bytes());
                ClientOp::Write { off, data: Bytes::from(data) }
            }
            false => ClientOp::Read { off, len: BLOCK_SIZE as u32 },
        };
        let r = self.registers.entry(key).or_default();
        r.busy = true;
        if write {
            r.maybe.insert(id);
        }
        self.ops.insert(id, (n, key, write.then_some(id)));
        self.coordinator(n, key.0, co::Input::Client { id, op })
    }

    pub(super) fn deliver(&mut self) -> Result<(), String> {
        let due: Vec<usize> = (0..self.net.len()).filter(|i| self.net[*i].0 <= self.now).collect();
        if due.is_empty() {
            return self.tick(500);
        }
        let at = due[self.rng.below(due.len() as u64) as usize];
        match self.net.swap_remove(at).1 {
            Net::ToReplica { from, to, env, msg } => self.reach_replica(from, to, env, msg),
            Net::ToCoordinator { to, env, msg } => {
                let input = co::Input::Message { rid: env.rid, env, msg };
                self.coordinator(to, env.shard.index, input)?;
            }
            Net::Answer { to, session, shard, outcome } => {
                if self.hosts[&to].attached.as_ref().is_some_and(|a| a.session == session) {
                    self.coordinator(to, shard, co::Input::Proposed(outcome))?;
                }
            }
            Net::Record { to, session } => {
                if self.hosts[&to].attached.as_ref().is_some_and(|a| a.session == session) {
                    self.learn(to)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn reach_replica(&mut self, from: u64, to: u64, env: Envelope, msg: Msg) {
        let h = &self.hosts[&to];
        if !h.up || h.lost {
            return;
        }
        if h.held.contains_key(&env.rid) {
            return self.replica(to, env.rid, re::Input::Message { link: from, env, msg });
        }
        let env = Envelope { boot: h.boot, ..env };
        self.send(Net::ToCoordinator { to: from, env, msg: Msg::Nack(Nack::NoReplica) });
    }

    pub(super) fn replica(&mut self, node: u64, rid: Rid, input: re::Input) {
        let now = self.now;
        let Some(held) = self.hosts.get_mut(&node).unwrap().held.get_mut(&rid) else { return };
        let mut out = Vec::new();
        held.replica.set_credit(held.store.credit());
        held.replica.step(now, input, &mut out);
        held.replica.check().unwrap();
        let mut sends = Vec::new();
        for o in out {
            match o {
                re::Output::Store { tag, op } => held.store.submit(tag, op),
                re::Output::Send { link, env, msg } => sends.push(Net::ToCoordinator { to: link, env, msg }),
                // No disk is ever put back from a copy here.
                re::Output::Renew => panic!("replica {rid} takes itself for put back"),
            }
        }
        sends.into_iter().for_each(|s| self.send(s));
    }

    pub(super) fn store_step(&mut self) -> Result<(), String> {
        let node = 1 + self.rng.below(NODES);
        let h = self.hosts.get_mut(&node).unwrap();
        if !h.up || h.lost || h.held.is_empty() {
            return Ok(());
        }
        let at = self.rng.below(h.held.len() as u64) as usize;
        let Some((rid, held)) = h.held.iter_mut().nth(at) else { return Ok(()) };
        let rid = *rid;
        if let Some((tag, answer)) = held.store.complete() {
            let (max_ver, credit, position) = (held.store.max_ver(), held.store.credit(), held.store.position);
            self.replica(node, rid, re::Input::Store { tag, answer, credit, max_ver, position });
        }
        Ok(())
    }

    /// Tells every coordinator which replicas' nodes are up.
    pub(super) fn links(&mut self, of: u64) -> Result<(), String> {
        let all: Vec<(u32, Rid)> =
            self.volume().replicas().filter(|(_, r)| r.node.0 == of).map(|(s, r)| (s.index, r.rid)).collect();
        for n in 1..=NODES {
            for (shard, rid) in &all {
                self.link(n, *shard, *rid)?;
            }
        }
        Ok(())
    }

    pub(super) fn link(&mut self, n: u64, shard: u32, rid: Rid) -> Result<(), String> {
        let home = self.volume().replicas().find(|(_, r)| r.rid == rid).map(|(_, r)| r.node.0);
        let Some(h) = home.map(|n| &self.hosts[&n]) else { return Ok(()) };
        let (up, boot) = (h.up && !h.lost, h.boot);
        let input = if up { co::Input::PeerUp { rid, boot } } else { co::Input::PeerDown { rid } };
        self.coordinator(n, shard, input)
    }

    /// A node sees the newest record: shards that have become part of the volume get coordinators,
    /// and all of them are told.
    pub(super) fn learn(&mut self, n: u64) -> Result<(), String> {
        let v = self.volume().clone();
        let now = self.now;
        let Some(a) = self.hosts.get_mut(&n).unwrap().attached.as_mut() else { return Ok(()) };
        let session = a.session;
        let first = a.shards.len() as u32;
        for index in 0..first {
            self.coordinator(n, index, co::Input::Record(shard_record(&self.state, index)))?;
            let rids: Vec<Rid> = v.shards[index as usize].replicas.keys().copied().collect();
            rids.into_iter().try_for_each(|rid| self.link(n, index, rid))?;
        }
        let Some(a) = self.hosts.get_mut(&n).unwrap().attached.as_mut() else { return Ok(()) };
        if a.stopping || v.coordinator.as_ref().is_none_or(|c| c.session != session) {
            return Ok(());
        }
        for index in first..v.begun() {
            let cfg = co::Config {
                cluster: ClusterId(1),
                shard: ShardId { vol: VOL, index },
                session,
                node: NodeId(n),
                blocks: BLOCKS,
                min_replicas: 1,
                replica_timeout: 1_000_000,
                read_from: hf_policy::attributes::ReadFrom::Local,
                strict_reads: false,
                rebuild_impact: 20,
                nearest: v.shards[index as usize].replicas.keys().copied().collect(),
            };
            let mut out = Vec::new();
            let c = Coordinator::new(now, cfg, shard_record(&self.state, index), &mut out);
            let Some(a) = self.hosts.get_mut(&n).unwrap().attached.as_mut() else { return Ok(()) };
            a.shards.push(c);
            self.outputs(n, index, out)?;
            let rids: Vec<Rid> = v.shards[index as usize].replicas.keys().copied().collect();
            rids.into_iter().try_for_each(|rid| self.link(n, index, rid))?;
        }
        Ok(())
    }
}

pub(super) fn durable(shard: ShardId, rid: Rid, store_uuid: StoreUuid, s: &ModelStore) -> Durable {
    Durable {
        cluster: ClusterId(1),
        shard,
        rid,
        store_uuid,
        lineage: s.lineage.0,
        promised_term: s.promised.0,
        promised_session: s.promised.1,
        stable: s.stable,
        position: s.position,
    }
}

//! Steps of the machines of a simulated node, and what becomes of their outputs.

use super::group::Asker;
use super::net::Net;
use super::world::{SHARD, Sim, VOL};
use hf_meta_core::Command;
use hf_policy::*;
use hf_repl_core::Replica;
use hf_repl_core::coordinator as co;
use hf_repl_core::replica as re;

impl Sim {
    pub(super) fn replica_step(&mut self, node: u64, input: re::Input) -> Result<(), String> {
        let now = self.clock(node);
        let asked = matches!(input, re::Input::Message { .. });
        let h = self.hosts.get_mut(&node).unwrap();
        let mut out = Vec::new();
        let Some(replica) = h.replica.as_mut() else { return Ok(()) };
        replica.set_credit(h.store.credit());
        replica.step(now, input, &mut out);
        replica.check()?;
        let mut sends = Vec::new();
        let renew = out.contains(&re::Output::Renew);
        for o in out {
            match o {
                re::Output::Renew => {}
                re::Output::Store { tag, op } => h.store.submit(tag, op),
                re::Output::Send { link, env, msg } => {
                    sends.push(Net::ToCoordinator { from: node, to: link, env, msg })
                }
            }
        }
        sends.into_iter().for_each(|s| self.send(s));
        // (One whose highest version is below its base may have been told of zeroes only, which
        // leave none: then it is asked its store first.)
        if renew && asked && !self.hosts[&node].put_back {
            return Err(format!("node {node} takes its storage for one that was put back, which it was not"));
        }
        if renew {
            self.renew(node);
        }
        Ok(())
    }

    /// The storage that was put back becomes another one; its replica begins anew.
    fn renew(&mut self, node: u64) {
        let uuid = StoreUuid(u128::from(self.id()) << 32);
        self.trace(|| format!("RENEWED {node}"));
        let (now, h) = (self.clock(node), self.hosts.get_mut(&node).unwrap());
        if h.store.renew(uuid).is_err() {
            return; // The disk has failed; it will be noticed again.
        }
        h.uuid = uuid;
        h.put_back = false;
        h.replica = Some(Replica::new(now, h.boot, h.store.durable(h.rid, uuid)));
        self.outcome.renewals += 1;
    }

    pub(super) fn store_step(&mut self) -> Result<(), String> {
        let node = self.a_node();
        let h = self.hosts.get_mut(&node).unwrap();
        if h.up
            && let Some((tag, answer)) = h.store.complete()
        {
            let (max_ver, credit, position) = (h.store.max_ver(), h.store.credit(), h.store.position());
            return self.replica_step(node, re::Input::Store { tag, answer, credit, max_ver, position });
        }
        Ok(())
    }

    pub(super) fn coordinator_step(&mut self, node: u64, input: co::Input) -> Result<(), String> {
        let now = self.clock(node);
        let Some(a) = self.hosts.get_mut(&node).unwrap().coordinator.as_mut() else { return Ok(()) };
        let mut out = std::mem::take(&mut a.out);
        a.c.step(now, input, &mut out);
        a.c.check()?;
        self.outputs(node, out)
    }

    pub(super) fn outputs(&mut self, node: u64, out: Vec<co::Output>) -> Result<(), String> {
        for o in out {
            match o {
                co::Output::Send { rid, env, msg } => {
                    let to = self.homes[&rid];
                    self.tells_lost(node, to, &msg)?;
                    self.send(Net::ToReplica { from: node, to, env, msg });
                }
                co::Output::Propose { epoch, term, change } => {
                    let session = self.hosts[&node].coordinator.as_ref().unwrap().session;
                    self.not_in_vain(epoch, &change)?;
                    let cmd = command(epoch, term, change)?;
                    if !self.cut.contains(&(node, 0)) {
                        self.send(Net::Proposal { from: node, session, cmd });
                    }
                }
                co::Output::Reply { id, result } => self.answered(node, id, result)?,
                co::Output::Fenced => {
                    let a = self.hosts.get_mut(&node).unwrap().coordinator.as_ref();
                    let s = a.map(|a| a.c.status());
                    self.outcome.reconciled += s.map_or(0, |s| s.reconciled_blocks);
                    self.outcome.synced += s.map_or(0, |s| s.stats.synced_blocks);
                }
                co::Output::WantSync { .. } => self.wants_sync(node)?,
                co::Output::Ready => {
                    self.hosts.get_mut(&node).unwrap().coordinator.as_mut().unwrap().ready = true;
                    if self.rng.one_in(2) {
                        self.record_served(node)?;
                    }
                }
                co::Output::Drained => self.drained(node)?,
                co::Output::SyncOver => {
                    if let Some(a) = self.hosts.get_mut(&node).and_then(|h| h.coordinator.as_mut()) {
                        a.place = false;
                    }
                }
                co::Output::Forget { .. } => {}
            }
        }
        Ok(())
    }
}

impl Sim {
    /// The agent: asks again and again, until the record says that this attachment's term is served.
    pub(super) fn record_served(&mut self, node: u64) -> Result<(), String> {
        let Some(a) = self.hosts[&node].coordinator.as_ref().filter(|a| a.ready) else { return Ok(()) };
        let term = a.c.status().term;
        let known = self.state_at(node).map(|s| &s.volumes[&VOL]);
        // Its own record will tell the coordinator; or that it is over.
        if self.cut.contains(&(node, 0)) || !known.is_some_and(|v| v.term == term && v.activated < term) {
            return Ok(());
        }
        let cmd = Command::Activated { vol: VOL, term };
        if self.group.is_some() {
            return self.raft_propose(node, Asker::Nobody, cmd);
        }
        self.send(Net::Decided(cmd));
        Ok(())
    }

    /// Who is not wanted any more would be taken out again at once, and so for ever: nobody who
    /// knows that syncs it.
    fn not_in_vain(&self, epoch: Epoch, change: &co::Change) -> Result<(), String> {
        let v = &self.state.volumes[&VOL];
        match change {
            co::Change::SyncStart { rid, .. } if epoch == v.epoch => match v.shards[0].replicas.get(rid) {
                Some(r) if r.leaving => Err(format!("replica {rid} leaves, and is synced")),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

fn command(epoch: Epoch, term: Term, change: co::Change) -> Result<Command, String> {
    let (vol, shard) = (VOL, SHARD.index);
    Ok(match change {
        co::Change::Drop { rids, base, told, reasons } => {
            Command::Drop { vol, shard, epoch, term, rids, base, told, reasons }
        }
        co::Change::SyncStart { rid, sync_id } => Command::SyncStart { vol, shard, epoch, term, rid, sync_id },
        co::Change::Add { rid, store_uuid } => Command::Add { vol, shard, epoch, term, rid, store_uuid },
        // In-sync replicas differ in nothing but rot, whatever happened before.
        co::Change::Scrubbed { report, .. } if report.behind + report.diverged > 0 => {
            return Err(format!("a scrub found what must not be: {report:?}"));
        }
        co::Change::Scrubbed { id, report } => Command::Scrubbed { vol, shard, epoch, term, id, report },
    })
}

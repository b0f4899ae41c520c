//! The simulated network: between nodes, and between nodes and Raft. It loses, duplicates, delays
//! and reorders.

use super::group::{Asker, refused};
use super::world::{Sim, policy_of, record_of};
use hf_meta_core::{Command, Refusal};
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, Phase};
use hf_repl_core::message::{Envelope, Msg, Nack};
use hf_repl_core::replica as re;
use std::collections::BTreeSet;

#[derive(Debug)]
pub(super) enum Net {
    /// `to` is the node on which the replica of `env.rid` lives.
    ToReplica {
        from: u64,
        to: u64,
        env: Envelope,
        msg: Msg,
    },
    ToCoordinator {
        from: u64,
        to: u64,
        env: Envelope,
        msg: Msg,
    },
    /// A command that the leader or an operator has decided, on its way into the log.
    Decided(Command),
    Proposal {
        from: u64,
        session: SessionId,
        cmd: Command,
    },
    Answer {
        to: u64,
        session: SessionId,
        outcome: co::Proposed,
    },
    Record {
        to: u64,
        session: SessionId,
    },
    /// There is a place for a sync on the node.
    Place {
        to: u64,
        session: SessionId,
    },
}

impl Sim {
    pub(super) fn linked(&self, a: u64, b: u64) -> bool {
        a == b || !self.cut.contains(&(a, b))
    }

    pub(super) fn send(&mut self, net: Net) {
        let faulty = !self.healing && !self.prompt;
        let fate = self.rng.below(100);
        let lost = faulty && fate < 2 * self.weights[0] && !matches!(net, Net::Record { .. });
        if lost {
            return;
        }
        let delay = if faulty && self.rng.one_in(10) { self.rng.below(self.slow) } else { self.rng.below(2_000) };
        let at = self.now.plus(50 + delay);
        if faulty
            && fate >= 100 - self.weights[1]
            && let Some(copy) = net.copy()
        {
            let later = self.now.plus(50 + self.rng.below(900_000));
            self.net.push((later, copy));
        }
        self.net.push((at, net));
    }

    /// The same, if one is due.
    pub(super) fn deliver_due(&mut self) -> Result<(), String> {
        if self.net.iter().any(|(at, _)| *at <= self.now) { self.deliver() } else { Ok(()) }
    }

    /// Delivers one message that is due; reordering comes from their times and this choice.
    pub(super) fn deliver(&mut self) -> Result<(), String> {
        let due: Vec<usize> =
            self.net.iter().enumerate().filter(|(_, (at, _))| *at <= self.now).map(|(i, _)| i).collect();
        if due.is_empty() {
            return self.tick(500);
        }
        let i = due[self.rng.below(due.len() as u64) as usize];
        let (_, net) = self.net.swap_remove(i);
        self.trace(|| match &net {
            Net::ToReplica { from, to, env, msg } => {
                format!("{from}>r{}@{to} term {} req {} {msg:?}", env.rid.0, env.term.0, env.req)
            }
            Net::ToCoordinator { from, to, env, msg } => format!("r{}@{from}>{to} req {} {msg:?}", env.rid.0, env.req),
            other => format!("{other:?}"),
        });
        match net {
            Net::ToReplica { from, to, env, msg } => {
                if self.linked(from, to) && self.hosts[&to].up {
                    self.reach_replica(from, to, env, msg)?;
                }
            }
            Net::ToCoordinator { from, to, env, msg } => {
                if self.linked(from, to) {
                    self.reach_coordinator(from, to, env, msg)?;
                }
            }
            Net::Decided(cmd) => {
                if self.apply(cmd).is_ok() {
                    self.announce();
                }
            }
            Net::Proposal { from, session, cmd } => {
                let over = self.record().session != Some(session);
                let busy = self.swarm.busy
                    && matches!(cmd, Command::SyncStart { .. })
                    && (self.now.0 / 1_000_000).is_multiple_of(5);
                if self.group.is_some() && !busy {
                    return self.raft_propose(from, Asker::Coordinator { node: from, session }, cmd);
                }
                let outcome = match if busy { Err(Refusal::Busy(String::new())) } else { self.apply(cmd) } {
                    Ok(_) if over => return Err("a change was taken from an attachment that is over".into()),
                    Ok(_) => co::Proposed::Done,
                    Err(refusal) => refused(&refusal),
                };
                self.send(Net::Answer { to: from, session, outcome });
                self.announce();
            }
            Net::Answer { to, session, outcome } => {
                if self.is_session(to, session) {
                    self.coordinator_step(to, co::Input::Proposed(outcome))?;
                }
            }
            Net::Place { to, session } => {
                if self.is_session(to, session) {
                    self.coordinator_step(to, co::Input::SyncGo)?;
                }
            }
            Net::Record { to, session } => {
                if self.is_session(to, session) {
                    self.learn_record(to, session)?;
                }
            }
        }
        Ok(())
    }

    fn reach_replica(&mut self, from: u64, to: u64, env: Envelope, msg: Msg) -> Result<(), String> {
        let h = &self.hosts[&to];
        if h.rid == env.rid {
            return self.replica_step(to, re::Input::Message { link: from, env, msg });
        }
        // The replica has not been made yet, or was deleted.
        let env = Envelope { boot: h.boot, ..env };
        self.send(Net::ToCoordinator { from: to, to: from, env, msg: Msg::Nack(Nack::NoReplica) });
        Ok(())
    }

    fn reach_coordinator(&mut self, from: u64, to: u64, env: Envelope, msg: Msg) -> Result<(), String> {
        let fenced = matches!(msg, Msg::Nack(Nack::StaleTerm { .. })) && env.boot == self.hosts[&from].boot;
        // A replica that is no member any more is not listened to.
        let known = self.hosts[&to].coordinator.as_ref().is_some_and(|a| a.knows.contains(&env.rid));
        let theirs = known && self.is_session(to, env.session);
        self.coordinator_step(to, co::Input::Message { rid: env.rid, env, msg })?;
        let phase = self.hosts[&to].coordinator.as_ref().map(|a| a.c.status());
        if fenced && theirs && phase.is_some_and(|s| s.phase != Phase::Fenced) {
            return Err(format!("node {to} was told that its term is over and goes on"));
        }
        Ok(())
    }

    /// A coordinator sees the newest record there is on its node.
    fn learn_record(&mut self, to: u64, session: SessionId) -> Result<(), String> {
        let Some((record, policy)) = self.state_at(to).map(|s| (record_of(s), policy_of(s))) else { return Ok(()) };
        let over = record.session != Some(session);
        let rids: BTreeSet<Rid> = record.in_sync.keys().chain(record.out.keys()).copied().collect();
        let policy = self.swarm.policy.then_some(policy);
        let Some(a) = self.hosts.get_mut(&to).and_then(|h| h.coordinator.as_mut()) else { return Ok(()) };
        if let Some(p) = policy {
            a.min_replicas = p.min_replicas;
            a.c.set_policy(&p);
        }
        let new: Vec<Rid> = rids.difference(&a.knows).copied().collect();
        if !over {
            a.in_sync = record.in_sync.keys().copied().collect();
            // A replica that is out for a moment of a request could not be asked in that moment
            // (seed 41367).
            for asked in a.ops.values_mut() {
                asked.members.retain(|r| record.in_sync.contains_key(r));
            }
            a.knows = rids;
        }
        self.coordinator_step(to, co::Input::Record(record))?;
        for rid in new {
            self.link(to, rid)?;
        }
        let phase = self.hosts[&to].coordinator.as_ref().map(|a| a.c.status().phase);
        if over && phase != Some(Phase::Fenced) {
            return Err(format!("node {to} knows that its attachment is over and goes on"));
        }
        Ok(())
    }

    fn is_session(&self, node: u64, session: SessionId) -> bool {
        self.hosts[&node].coordinator.as_ref().is_some_and(|a| a.session == session)
    }

    /// Every coordinator will see the newest record, sooner or later.
    pub(super) fn announce(&mut self) {
        let to: Vec<_> = self.hosts.iter().filter_map(|(n, h)| Some((*n, h.coordinator.as_ref()?.session))).collect();
        for (to, session) in to {
            // A node that is cut off from Raft learns nothing; 0 stands for Raft.
            if !self.cut.contains(&(to, 0)) {
                self.send(Net::Record { to, session });
            }
        }
    }
}

impl Net {
    /// Only messages that the protocol must survive twice are duplicated.
    fn copy(&self) -> Option<Net> {
        match self {
            Net::ToReplica { from, to, env, msg } => {
                Some(Net::ToReplica { from: *from, to: *to, env: *env, msg: msg.clone() })
            }
            Net::ToCoordinator { from, to, env, msg } => {
                Some(Net::ToCoordinator { from: *from, to: *to, env: *env, msg: msg.clone() })
            }
            _ => None,
        }
    }
}

//! The second configuration: instead of one record that every node is shown sooner or later, real
//! raft-rs members with the real record, one on each of the first three nodes, on disks of their
//! own. They go down and come back with their nodes, elect leaders, and lag; a coordinator sees
//! what the member of its node has applied, and what it proposes may be lost, be committed without
//! an answer, or be answered by a leader that has been deposed. (What a disk of metadata may do in
//! the middle of a batch, and changes of the voters, are the matter of
//! `metadata/tests/raft_sim.rs`.)
//!
//! The newest record that any member has applied is what the checks of the first configuration are
//! made against.

use super::net::Net;
use super::run::Outcome;
use super::world::{Sim, VOL};
use hf_meta::log::Batch;
use hf_meta::member::{ELECTION_TICKS, MetaNode};
use hf_meta::status::Proposed;
use hf_meta_core::command::COMMAND_VERSION;
use hf_meta_core::plan::Liveness;
use hf_meta_core::record::Logs;
use hf_meta_core::{ClusterState, Command, Envelope, Refusal, image};
use hf_policy::*;
use hf_repl_core::coordinator as co;
use raft::eraftpb::{HardState, Message, MessageType, Snapshot};
use sim_log::{Disk, SimLog};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

#[path = "../../../metadata/tests/sim_log/mod.rs"]
mod sim_log;

/// Nodes with a member.
const VOTERS: u64 = 3;
/// A tick of Raft, in microseconds.
const TICK: u64 = 100_000;

/// Whom the outcome of a proposal is told to.
pub(super) enum Asker {
    /// The coordinator of this session.
    Coordinator { node: u64, session: SessionId },
    /// Nobody: the proposer looks at the record.
    Nobody,
}

/// The members of the metadata group.
pub(super) struct Group {
    disks: BTreeMap<u64, Rc<RefCell<Disk>>>,
    members: BTreeMap<u64, MetaNode<SimLog, u64>>,
    /// The generator of election timeouts, since raft-rs draws its own at random.
    salt: u64,
    net: Vec<(Tick, Message)>,
    /// Proposals without an answer, and what they count for.
    open: BTreeMap<u64, (Asker, Outcome)>,
    /// What nodes without a member of their own were last shown by one.
    followed: BTreeMap<u64, ClusterState>,
    /// Attachments that were asked for on a node, until its member has them.
    wanted: BTreeMap<u64, SessionId>,
    next_tick: Tick,
    /// The record after each log entry, and how far each member is.
    seen: BTreeMap<u64, u64>,
    at: BTreeMap<u64, u64>,
    /// The leader of each term.
    leaders: BTreeMap<u64, u64>,
}

fn digest(s: &ClusterState) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut h = DefaultHasher::new();
    image::encode(s).unwrap().hash(&mut h);
    h.finish()
}

impl Sim {
    /// From now on the record is the group's.
    pub(super) fn raft_begin(&mut self) {
        let voters: Vec<u64> = (1..=VOTERS).collect();
        let mut s = Snapshot { data: image::encode(&self.state).unwrap(), ..Default::default() };
        (s.mut_metadata().index, s.mut_metadata().term) = (1, 1);
        s.mut_metadata().mut_conf_state().voters = voters.clone();
        let hard = HardState { term: 1, commit: 1, vote: 0 };
        let disk = |n: &u64| {
            let d = Rc::new(RefCell::new(Disk::default()));
            d.borrow_mut().put(Batch { install: Some(s.clone()), hard: Some(hard.clone()), ..Batch::default() });
            (*n, d)
        };
        self.group = Some(Group {
            disks: voters.iter().map(disk).collect(),
            members: BTreeMap::new(),
            salt: self.rng.next_u64(),
            net: Vec::new(),
            open: BTreeMap::new(),
            followed: BTreeMap::new(),
            wanted: BTreeMap::new(),
            next_tick: self.now,
            seen: BTreeMap::new(),
            at: BTreeMap::new(),
            leaders: BTreeMap::new(),
        });
        voters.into_iter().for_each(|n| self.raft_start(n));
    }

    /// A node's member comes up with what was durable.
    pub(super) fn raft_start(&mut self, n: u64) {
        let Some(g) = self.group.as_mut().filter(|_| n <= VOTERS) else { return };
        // (No member is replaced, and no log put back: that is the matter of another simulator.)
        let mut member = MetaNode::new(n, SimLog::open(g.disks[&n].clone()), u64::MAX, &[]).unwrap();
        member.compact_after(8 + self.rng.below(40));
        g.members.insert(n, member);
        g.at.remove(&n);
    }

    pub(super) fn raft_stop(&mut self, n: u64) {
        if let Some(g) = self.group.as_mut() {
            g.members.remove(&n);
            g.followed.remove(&n);
            g.wanted.remove(&n);
        }
    }

    /// The record as it is known on a node. (Nothing is known on a node that is down.)
    pub(super) fn state_at(&self, node: u64) -> Option<&ClusterState> {
        match &self.group {
            None => Some(&self.state),
            Some(g) => g.members.get(&node).map(|m| &m.state).or_else(|| g.followed.get(&node)),
        }
    }

    /// No member's log holds anything that is not applied: the newest record is what will be, too.
    pub(super) fn raft_is_quiet(&self) -> bool {
        let Some(g) = &self.group else { return true };
        let applied = g.seen.keys().last().copied().unwrap_or(1);
        g.disks.values().all(|d| d.borrow().entries.keys().last().is_none_or(|last| *last <= applied))
    }

    fn apart(&self, a: u64, b: u64) -> bool {
        let cut = |x, y| self.cut.contains(&(x, y));
        a != b && (cut(a, b) || cut(b, a) || cut(a, 0) || cut(b, 0))
    }

    /// Time has passed: messages arrive, and members tick.
    pub(super) fn raft_time(&mut self) -> Result<(), String> {
        while let Some(g) = self.group.as_mut() {
            let due =
                g.net.iter().enumerate().filter(|(_, (at, _))| *at <= self.now).min_by_key(|(i, (at, _))| (*at, *i));
            if let Some(i) = due.map(|(i, _)| i) {
                let (_, m) = g.net.remove(i);
                self.raft_arrives(m)?;
            } else if g.next_tick <= self.now {
                g.next_tick = g.next_tick.plus(TICK);
                self.raft_tick()?;
            } else {
                break;
            }
        }
        Ok(())
    }

    fn raft_arrives(&mut self, m: Message) -> Result<(), String> {
        let to = m.to;
        if self.apart(m.from, to) {
            return Ok(());
        }
        let member = self.group.as_mut().and_then(|g| g.members.get_mut(&to));
        if let Some(member) = member {
            member.step(m, Logs::default()).map_err(|e| e.to_string())?;
        }
        self.raft_settle(to)
    }

    fn raft_tick(&mut self) -> Result<(), String> {
        let nodes: Vec<u64> = self.group.iter().flat_map(|g| g.members.keys().copied()).collect();
        // (No other node can become a voter here, so none is said to be there.)
        let up = nodes.iter().map(|n| NodeId(*n)).collect();
        let live = Liveness { up, ..Liveness::default() };
        for n in nodes {
            if let Some(m) = self.group.as_mut().and_then(|g| g.members.get_mut(&n)) {
                m.live(live.clone());
                m.tick();
            }
            self.raft_settle(n)?;
        }
        (VOTERS + 1..=self.nodes()).try_for_each(|n| self.raft_follow(n))
    }

    /// A node without a member asks one that it reaches for the record.
    fn raft_follow(&mut self, n: u64) -> Result<(), String> {
        let of = |g: &Group| g.members.keys().copied().filter(|m| !self.apart(n, *m)).collect();
        let near: Vec<u64> = self.group.as_ref().map(of).unwrap_or_default();
        if !self.hosts[&n].up || near.is_empty() {
            return Ok(());
        }
        let asked = near[self.rng.below(near.len() as u64) as usize];
        let Some(g) = self.group.as_mut() else { return Ok(()) };
        let (known, theirs) = (g.followed.get(&n).map_or(0, |s| s.revision), &g.members[&asked].state);
        if theirs.revision <= known {
            return Ok(());
        }
        let state = theirs.clone();
        g.followed.insert(n, state);
        self.raft_news(n)
    }

    /// Carries out everything that follows from an input to a member.
    fn raft_settle(&mut self, n: u64) -> Result<(), String> {
        let Some(g) = self.group.as_mut() else { return Ok(()) };
        let Some(member) = g.members.get_mut(&n) else { return Ok(()) };
        member.on_ready().map_err(|e| e.to_string())?;
        // It lies between the bounds that raft-rs asks for, and differs in each term, but follows
        // from the seed.
        let draw = hf_store::sim::Rng::new(g.salt ^ n << 32 ^ member.raw.raft.term).below(ELECTION_TICKS.len() as u64);
        member.raw.raft.set_randomized_election_timeout(ELECTION_TICKS.start + draw as usize);
        if member.is_leader() {
            let term = member.raw.raft.term;
            let known = *g.leaders.entry(term).or_insert_with(|| {
                self.outcome.elections += 1;
                n
            });
            if known != n {
                return Err(format!("nodes {known} and {n} lead the metadata in term {term}"));
            }
        }
        let (out, answers) = (std::mem::take(&mut member.out), std::mem::take(&mut member.answers));
        let applied = member.status().applied;
        let news = g.at.insert(n, applied) != Some(applied);
        if news {
            let sum = digest(&member.state);
            if *g.seen.entry(applied).or_insert(sum) != sum {
                return Err(format!("node {n} has another record after entry {applied}"));
            }
            if member.state.revision > self.state.revision {
                self.state = member.state.clone();
                self.state.check().map_err(|e| e.to_string())?;
                self.know_homes();
            }
        }
        out.into_iter().for_each(|(m, _)| self.raft_send(m));
        answers.into_iter().for_each(|(ticket, what)| self.raft_answered(ticket, what));
        if news { self.raft_news(n) } else { Ok(()) }
    }

    fn raft_send(&mut self, m: Message) {
        let (from, to, snapshot) = (m.from, m.to, m.msg_type() == MessageType::MsgSnapshot);
        let faulty = !self.healing && !self.prompt;
        let lost = faulty && self.rng.below(100) < 2 * self.weights[0];
        let twice = faulty && self.rng.below(100) < self.weights[1];
        let delay = if faulty && self.rng.one_in(10) { self.rng.below(self.slow) } else { self.rng.below(2_000) };
        let at = self.now.plus(50 + delay);
        let gone = self.apart(from, to) || !self.hosts[&to].up;
        let Some(g) = self.group.as_mut() else { return };
        if let Some(member) = g.members.get_mut(&from) {
            if snapshot {
                member.snapshot_sent(to, !lost && !gone);
            }
            if gone {
                member.unreachable(to);
            }
        }
        if !lost && !gone {
            if twice {
                g.net.push((at.plus(500_000), m.clone()));
            }
            g.net.push((at, m));
        }
    }

    /// Proposes to a member that takes itself for the leader, if it can be reached from a node (0:
    /// from anywhere); otherwise nothing is heard of the proposal.
    pub(super) fn raft_propose(&mut self, from: u64, asker: Asker, cmd: Command) -> Result<(), String> {
        let (id, at_ms, tally) = (self.id(), self.wall_ms(), self.tally(&cmd));
        let members = self.group.iter().flat_map(|g| &g.members);
        let leads: Vec<u64> = members.filter(|(_, m)| m.is_leader()).map(|(n, _)| *n).collect();
        let near: Vec<u64> = leads.into_iter().filter(|n| from == 0 || !self.apart(from, *n)).collect();
        let Some(leader) = near.get(self.rng.below(near.len() as u64) as usize).copied() else { return Ok(()) };
        self.trace(|| format!("PROPOSED to {leader}: {cmd:?}"));
        let env = Envelope { v: COMMAND_VERSION, request: RequestId(u128::from(id)), at_ms, cmd };
        if let Some(g) = self.group.as_mut() {
            g.open.insert(id, (asker, tally));
            if let Some(member) = g.members.get_mut(&leader) {
                member.propose(&env, id);
            }
        }
        self.raft_settle(leader)
    }

    fn raft_answered(&mut self, ticket: u64, what: Proposed) {
        let Some((asker, tally)) = self.group.as_mut().and_then(|g| g.open.remove(&ticket)) else { return };
        self.trace(|| format!("RAFT {ticket} -> {what:?}"));
        let outcome = match &what {
            Proposed::Outcome(Ok(_)) => {
                self.outcome.add(&tally);
                co::Proposed::Done
            }
            Proposed::Outcome(Err(refusal)) => refused(refusal),
            Proposed::NotLeader => co::Proposed::Retry,
            Proposed::Unknown => co::Proposed::Unknown,
        };
        if let Asker::Coordinator { node, session } = asker {
            self.send(Net::Answer { to: node, session, outcome });
        }
    }

    /// A node's member has applied something: its coordinator sees that, and an attachment may begin.
    fn raft_news(&mut self, n: u64) -> Result<(), String> {
        if let Some(session) = self.hosts[&n].coordinator.as_ref().map(|a| a.session) {
            self.send(Net::Record { to: n, session });
        }
        let Some(known) = self.state_at(n) else { return Ok(()) };
        let holder = known.volumes[&VOL].coordinator.as_ref();
        let ours = holder.filter(|a| a.node == NodeId(n)).map(|a| a.session);
        let Some(g) = self.group.as_mut() else { return Ok(()) };
        match g.wanted.get(&n).copied() {
            Some(session) if ours == Some(session) && self.hosts[&n].up => {
                g.wanted.remove(&n);
                self.begin_attachment(n, session)
            }
            _ => Ok(()),
        }
    }

    /// Asks for the volume on a node, by what is known there.
    pub(super) fn raft_attach(&mut self, node: u64, session: SessionId) -> Result<(), String> {
        let Some(epoch) = self.state_at(node).map(|s| s.volumes[&VOL].epoch) else { return Ok(()) };
        if let Some(g) = self.group.as_mut() {
            g.wanted.insert(node, session);
        }
        let node = NodeId(node);
        let cmd = Command::Attach { vol: VOL, epoch, node, session, steal: true, maintenance: false };
        self.raft_propose(node.0, Asker::Nobody, cmd)
    }
}

/// What a refusal is to a coordinator.
pub(super) fn refused(r: &Refusal) -> co::Proposed {
    match r {
        Refusal::StaleTerm { .. } | Refusal::NotAttached => co::Proposed::Stale,
        Refusal::Busy(_) => co::Proposed::Busy,
        _ => co::Proposed::Retry,
    }
}

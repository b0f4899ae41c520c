//! The simulator's second configuration: real raft-rs members with the real record on simulated disks, one
//! thread, one seed. Messages are lost, repeated, reordered and cut off; members crash between any two
//! durable writes and come back with what was durable; voters are replaced; clients repeat what they got no
//! answer to. All members apply the same commands in the same order, each answered one is applied exactly
//! once and stays, and when faults end the group works. Members' logs are lost, and put back from older
//! copies: what such a log has forgotten never counts. `HOLDFAST_RAFT_SEEDS=n`; `HOLDFAST_RAFT_SEED=s`
//! replays one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "log_faults/mod.rs"]
mod log_faults;
#[path = "sim_log/mod.rs"]
mod sim_log;

use hf_meta::log::{Batch, LogError};
use hf_meta::member::{ELECTION_TICKS, MetaNode};
use hf_meta::status::Proposed;
use hf_meta_core::command::COMMAND_VERSION;
use hf_meta_core::plan::Liveness;
use hf_meta_core::record::{Addresses, Logs, OwnLog};
use hf_meta_core::{ClusterState, Command, Envelope, image};
use hf_policy::{BootId, ClusterId, LogAge, LogId, NodeId, RequestId};
use log_faults::LogFaults;
use raft::eraftpb::{HardState, Message, Snapshot};
use sim_log::{Disk, SimLog};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const NODES: u64 = 5;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n.max(1)
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

type Node = MetaNode<SimLog, u64>;

struct World {
    rng: Rng,
    disks: BTreeMap<u64, Rc<RefCell<Disk>>>,
    nodes: BTreeMap<u64, Node>,
    /// What election timeouts are drawn from: raft-rs draws its own at random.
    salt: u64,
    net: Vec<(Message, Logs)>,
    cut: BTreeSet<(u64, u64)>,
    away: BTreeMap<u64, u64>,
    faults: bool,
    /// Elections are begun early. (Not in the pinned seeds: they were found without.)
    hasty: bool,
    /// Logs are lost and put back. (Nor this.)
    losing: bool,
    /// Nobody looks at how old a log is: for the test that this is found.
    blind: bool,
    logs: LogFaults,
    loss: u64,
    /// Requests that have no answer yet: their command's mark.
    open: BTreeMap<u64, Envelope>,
    answered: BTreeSet<u64>,
    next: u64,
    /// What every member's record was at each revision, and after each refusal.
    seen: BTreeMap<(u64, usize), u64>,
    /// The revision each member was last looked at.
    at: BTreeMap<u64, (u64, usize)>,
    leaders: BTreeMap<u64, u64>,
    /// Who was removed from the cluster by an operator, at most one, and by which request.
    removed: Option<(u64, u64)>,
    stats: (u64, u64, u64),
}

fn put_node(n: u64, release: u64) -> Command {
    Command::PutNode {
        node: None,
        name: format!("n{n}"),
        uuid: BootId(u128::from(n)),
        addr: Addresses { api: format!("n{n}:1"), data: format!("n{n}:2"), nbd: String::new() },
        labels: BTreeMap::new(),
        version: release.to_string(),
        log: Box::new(OwnLog::new(LogId(u128::from(n)))),
    }
}

fn env(request: u64, cmd: Command) -> Envelope {
    Envelope { v: COMMAND_VERSION, request: RequestId(u128::from(request)), at_ms: 0, cmd }
}

fn knows(s: &ClusterState, n: u64) -> bool {
    !s.cluster.is_some() || s.member(NodeId(n)).is_some()
}

fn digest(s: &ClusterState) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut h = DefaultHasher::new();
    image::encode(s).unwrap().hash(&mut h);
    h.finish()
}

impl World {
    fn new(seed: u64, blind: bool) -> World {
        let mut state = ClusterState { version: COMMAND_VERSION, ..ClusterState::default() };
        state.apply(&env(1, Command::Init { cluster: ClusterId(7), name: "t".into() })).unwrap();
        for n in 1..=NODES {
            state.apply(&env(1 + n, put_node(n, 0))).unwrap();
        }
        let disks: BTreeMap<u64, Rc<RefCell<Disk>>> = (1..=NODES).map(|n| (n, Rc::default())).collect();
        let drawn = Rc::new(Cell::new(0));
        for (n, d) in &disks {
            *d.borrow_mut() = Disk { own: OwnLog::new(LogId(u128::from(*n))), drawn: drawn.clone(), ..Disk::default() };
        }
        let mut s = Snapshot { data: image::encode(&state).unwrap(), ..Default::default() };
        (s.mut_metadata().index, s.mut_metadata().term) = (1, 1);
        s.mut_metadata().mut_conf_state().voters = vec![1];
        let hard = HardState { term: 1, commit: 1, vote: 0 };
        disks[&1].borrow_mut().put(Batch { install: Some(s), hard: Some(hard), ..Batch::default() });
        let mut rng = Rng(seed * 2 + 1);
        let loss = [0, 2, 10][rng.below(3) as usize];
        let mut w = World {
            rng,
            disks,
            nodes: BTreeMap::new(),
            salt: seed,
            net: Vec::new(),
            cut: BTreeSet::new(),
            away: BTreeMap::new(),
            faults: true,
            hasty: seed.is_multiple_of(3),
            losing: blind || seed % 3 != 1,
            blind,
            logs: LogFaults { last: 100, ..LogFaults::default() },
            loss,
            open: BTreeMap::new(),
            answered: BTreeSet::new(),
            next: 1000,
            seen: BTreeMap::new(),
            at: BTreeMap::new(),
            leaders: BTreeMap::new(),
            removed: None,
            stats: (0, 0, 0),
        };
        (1..=NODES).for_each(|n| w.start(n));
        w
    }

    fn start(&mut self, n: u64) {
        if self.logs.out.contains(&n) {
            return;
        }
        self.disks[&n].borrow_mut().fuse = None;
        let noted = self.logs.noted.get(&n).filter(|_| !self.blind).map(|a| ("a disk".to_string(), *a));
        let noted: Vec<(String, LogAge)> = noted.into_iter().collect();
        let mut node = match MetaNode::new(n, SimLog::open(self.disks[&n].clone()), 3_000, &noted) {
            Ok(node) => node,
            Err(LogError::Older { .. }) => {
                let old = self.logs.old.remove(&n);
                assert!(old || self.blind, "node {n} has its own log, and takes it for an older one");
                self.logs.by_disks += 1;
                self.logs.out.insert(n);
                return;
            }
            Err(e) => panic!("{e}"),
        };
        node.compact_after(8 + self.rng.below(40));
        if self.losing {
            self.logs.noted.insert(n, node.status().own.age());
            self.announce(n, node.status().own);
        }
        self.nodes.insert(n, node);
        self.at.remove(&n);
        self.settle(n);
    }

    /// Everything that follows from an input: the real numbered steps, over the simulated disk.
    fn settle(&mut self, n: u64) {
        let Some(node) = self.nodes.get_mut(&n) else { return };
        if node.on_ready().is_err() {
            self.stats.1 += 1;
            self.nodes.remove(&n);
            return;
        }
        // Between the bounds that raft-rs itself asks for, another one in each term, but from the seed.
        let draw = Rng(self.salt ^ n << 32 ^ node.raw.raft.term << 1 | 1).below(ELECTION_TICKS.len() as u64);
        node.raw.raft.set_randomized_election_timeout(ELECTION_TICKS.start + draw as usize);
        let (out, answers) = (std::mem::take(&mut node.out), std::mem::take(&mut node.answers));
        let revision = (node.state.revision, node.state.request_order.len());
        let news = (self.at.insert(n, revision) != Some(revision)).then(|| digest(&node.state));
        if node.is_leader() {
            let term = node.raw.raft.term;
            let known = *self.leaders.entry(term).or_insert(n);
            assert_eq!(known, n, "two leaders in term {term}");
        }
        if self.losing && self.logs.noted.contains_key(&n) {
            self.logs.noted.insert(n, node.status().own.age());
        }
        if let Some(sum) = news {
            let known = *self.seen.entry(revision).or_insert(sum);
            assert_eq!(known, sum, "node {n} has another record at revision {revision:?}");
        }
        for (m, logs) in out {
            let snapshot = m.msg_type() == raft::eraftpb::MessageType::MsgSnapshot;
            let (from, to) = (n, m.to);
            // (As `raft_net` does: who was removed has no address. The pinned seeds were found without.)
            let known = !self.losing || self.blind || self.nodes.get(&n).is_none_or(|m| knows(&m.state, to));
            let there = known && self.nodes.contains_key(&to) && !self.cut.contains(&(from, to));
            let lost = !there || (self.faults && self.rng.below(100) < self.loss);
            if snapshot && let Some(node) = self.nodes.get_mut(&n) {
                node.snapshot_sent(to, !lost);
            }
            if lost {
                if let Some(node) = self.nodes.get_mut(&n).filter(|_| !there) {
                    node.unreachable(to);
                }
                continue;
            }
            let logs = if self.blind { Logs::default() } else { logs };
            if self.faults && self.rng.one_in(20) {
                self.net.push((m.clone(), logs));
            }
            self.net.push((m, logs));
        }
        for (ticket, what) in answers {
            if let Proposed::Outcome(o) = what {
                let asked = self.open.remove(&ticket);
                // Who was removed may not come back.
                if asked.is_some_and(|e| !matches!(e.cmd, Command::PutNode { node: Some(_), .. })) {
                    o.unwrap();
                    self.answered.insert(ticket);
                }
            }
        }
    }

    fn deliver(&mut self) {
        if self.net.is_empty() {
            return;
        }
        // Mostly in order, sometimes not.
        let i = if self.rng.one_in(4) { self.rng.below(self.net.len() as u64) as usize } else { 0 };
        let (m, logs) = self.net.remove(i);
        let to = m.to;
        if self.cut.contains(&(m.from, to)) {
            return;
        }
        let Some(node) = self.nodes.get_mut(&to) else { return };
        let why = format!("{m:?}");
        match node.step(m, logs) {
            Ok(()) => self.settle(to),
            Err(LogError::Older { .. }) => {
                assert!(self.logs.old.remove(&to), "node {to} has its own log, and is told that it is an older one");
                self.logs.by_others += 1;
                self.nodes.remove(&to);
                self.logs.out.insert(to);
            }
            // Without a look at ages this is what is left, if there is a leader.
            Err(LogError::Behind { .. }) if self.blind => drop(self.nodes.remove(&to)),
            Err(e) => panic!("{e}; {logs:?} mine {:?}; {why}", self.nodes[&to].log_record(to)),
        }
    }

    fn tick(&mut self) {
        for n in 1..=NODES {
            *self.away.entry(n).or_default() += 100;
            if self.nodes.contains_key(&n) {
                self.away.insert(n, 0);
            }
        }
        let up: BTreeSet<NodeId> = self.nodes.keys().map(|n| NodeId(*n)).collect();
        let away = self.away.iter().filter(|(_, ms)| **ms > 0).map(|(n, ms)| (NodeId(*n), *ms)).collect();
        let live = Liveness { up, away, ..Liveness::default() };
        for n in 1..=NODES {
            if let Some(node) = self.nodes.get_mut(&n) {
                node.live(live.clone());
                node.tick();
                self.settle(n);
            }
        }
        self.announce_again();
    }

    /// A client asks somebody; what has no answer is asked again under the same request.
    fn client(&mut self) {
        let ticket = if self.faults && self.open.len() < 6 && self.rng.one_in(3) {
            self.next += 1;
            // Each command leaves a mark that can be counted: a node of its own.
            self.open.insert(self.next, env(self.next, put_node(self.next, 1)));
            self.next
        } else {
            let Some(t) = self.open.keys().nth(self.rng.below(self.open.len() as u64) as usize).copied() else {
                return;
            };
            t
        };
        let n = 1 + self.rng.below(NODES);
        let env = self.open[&ticket].clone();
        if let Some(node) = self.nodes.get_mut(&n) {
            node.propose(&env, ticket);
            self.settle(n);
        }
    }

    /// An operator removes a node, mostly the one that leads.
    fn remove_a_node(&mut self) {
        // (One thing at a time: with a log that is gone as well, a majority of three may be.)
        if self.removed.is_some() || self.losing && !self.logs_are_whole() {
            return;
        }
        let leader = self.nodes.iter().find(|(_, n)| n.is_leader()).map(|(n, _)| *n);
        let n = leader.filter(|_| self.rng.below(3) > 0).unwrap_or(1 + self.rng.below(NODES));
        self.next += 1;
        self.removed = Some((self.next, n));
        self.open.insert(self.next, env(self.next, Command::RemoveNode { node: NodeId(n) }));
    }

    fn crash(&mut self) {
        let n = 1 + self.rng.below(NODES);
        // At once, or in the middle of one of the next batches.
        if self.rng.one_in(2) {
            self.nodes.remove(&n);
            self.stats.1 += 1;
        } else {
            let fuse = (self.rng.below(3) as u32, self.rng.one_in(2));
            self.disks[&n].borrow_mut().fuse = Some(fuse);
        }
    }

    fn random_step(&mut self) {
        match self.rng.below(400) {
            0..=259 => self.deliver(),
            260..=319 => self.client(),
            320..=369 => self.tick(),
            370 => self.crash(),
            371 if self.rng.one_in(10) => self.remove_a_node(),
            371..=375 => {
                let n = 1 + self.rng.below(NODES);
                if !self.nodes.contains_key(&n) {
                    self.start(n);
                }
            }
            376 => {
                let (a, b) = (1 + self.rng.below(NODES), 1 + self.rng.below(NODES));
                self.cut.insert((a, b));
                self.stats.2 += 1;
            }
            380 if self.hasty => {
                // Somebody takes the leader's process for gone, rightly or not.
                let n = 1 + self.rng.below(NODES);
                if let Some(node) = self.nodes.get_mut(&n) {
                    let leader = node.raw.raft.leader_id;
                    node.leader_gone(leader);
                    self.settle(n);
                }
            }
            381..=383 if self.losing => {
                let n = 1 + self.rng.below(NODES);
                let copy = self.disks[&n].borrow().clone();
                self.logs.copies.insert(n, copy);
            }
            384..=386 if self.losing => self.lose_a_log(),
            387..=389 if self.losing => self.follow(),
            377..=379 => self.cut = self.cut.iter().skip(1).copied().collect(),
            _ => self.deliver(),
        }
    }

    /// Faults end: everything that was asked for is answered, and all members agree.
    fn heal(&mut self) {
        self.faults = false;
        self.cut.clear();
        for n in 1..=NODES {
            if !self.nodes.contains_key(&n) {
                self.start(n);
            }
            self.disks[&n].borrow_mut().fuse = None;
        }
        while !self.logs.out.is_empty() {
            self.follow();
        }
        for round in 0..3_000 {
            self.tick();
            self.follow();
            (0..60).for_each(|_| self.deliver());
            (0..4).for_each(|_| self.client());
            // Who is not in the group any more follows by the watch stream, which is not simulated here.
            let leader = self.nodes.values().filter(|n| n.is_leader()).max_by_key(|n| n.raw.raft.term);
            let voters = leader.map(|n| n.status().voters).unwrap_or_default();
            let revisions: BTreeSet<Option<u64>> =
                voters.iter().map(|n| self.nodes.get(n).map(|m| m.state.revision)).collect();
            // Who was removed keeps no vote, even if it led.
            let known = self.removed.is_none_or(|(_, n)| !voters.contains(&n));
            if self.open.is_empty() && voters.len() == 3 && known && revisions.len() == 1 && round > 30 {
                return self.judge();
            }
        }
        let status: Vec<_> = self.nodes.values().map(MetaNode::status).collect();
        let records: Vec<_> =
            self.nodes.values().map(|m| m.state.nodes.values().map(|n| n.log).take(5).collect::<Vec<_>>()).collect();
        panic!(
            "the group does not work after healing: {} open, removed {:?}, {status:?} {records:?}",
            self.open.len(),
            self.removed
        );
    }

    /// What was answered is in the record, once.
    fn judge(&mut self) {
        let newest = self.nodes.values().max_by_key(|n| n.state.revision).unwrap();
        for ticket in self.answered.iter().filter(|t| self.removed.is_none_or(|(r, _)| r != **t)) {
            let marks = newest.state.nodes.values().filter(|r| r.name == format!("n{ticket}")).count();
            assert_eq!(marks, 1, "request {ticket} was answered and left {marks} marks");
        }
        let uuids: BTreeSet<_> = newest.state.nodes.values().map(|r| r.uuid).collect();
        assert_eq!(uuids.len(), newest.state.nodes.len());
        assert!(self.removed.is_none_or(|(_, n)| !newest.state.nodes.contains_key(&NodeId(n))));
        self.stats.0 = self.answered.len() as u64;
    }
}

fn run(seed: u64) -> [u64; 6] {
    run_as(seed, false)
}

fn run_as(seed: u64, blind: bool) -> [u64; 6] {
    let mut w = World::new(seed, blind);
    (0..2_500).for_each(|_| w.random_step());
    w.heal();
    let ((answered, crashes, cuts), l) = (w.stats, &w.logs);
    [answered, crashes, cuts, l.lost, l.by_disks, l.by_others]
}

#[test]
fn members_agree_whatever_fails_and_answered_requests_stay() {
    if let Some(seed) = std::env::var("HOLDFAST_RAFT_SEED").ok().and_then(|s| s.parse().ok()) {
        println!("seed {seed}: {:?}", run(seed));
        return;
    }
    // A leader whose own vote was taken by a change that an earlier leader had proposed.
    // (The first two found it; in this form of the simulator it is the third that shows it.)
    for seed in [1027, 3166, 1567] {
        run(seed);
    }
    let seeds: u64 = std::env::var("HOLDFAST_RAFT_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1_000);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let part = |first: u64| {
        let mut sum = [0; 6];
        for seed in (first..seeds).step_by(threads as usize) {
            let r = std::panic::catch_unwind(|| run(seed));
            let r = r.unwrap_or_else(|_| {
                panic!("seed {seed}; replay: HOLDFAST_RAFT_SEED={seed} cargo test -p hf-meta --test all raft_sim")
            });
            sum = add(sum, r);
        }
        sum
    };
    let [answered, crashes, cuts, lost, by_disks, by_others] = std::thread::scope(|s| {
        let part = &part;
        let parts: Vec<_> = (0..threads).map(|t| s.spawn(move || part(t))).collect();
        parts.into_iter().map(|p| p.join().unwrap()).fold([0; 6], add)
    });
    println!(
        "real raft members, seeds 0..{seeds}: {answered} requests answered and kept, {crashes} crashes, {cuts} cuts; {lost} logs lost or put back, {by_disks} noticed by the node's disks, {by_others} by other members"
    );
    assert!(answered > seeds * 20 && crashes > seeds, "{answered} {crashes}");
    assert!(lost > seeds / 2 && by_disks > seeds / 20 && by_others > seeds / 200, "{lost} {by_disks} {by_others}");
}

fn add(a: [u64; 6], b: [u64; 6]) -> [u64; 6] {
    std::array::from_fn(|i| a[i] + b[i])
}

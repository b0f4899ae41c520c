//! What happens to members' logs, and what an operator does about it: they are lost, and put back from older copies.

use super::*;

/// What happens to the members' logs.
#[derive(Default)]
pub struct LogFaults {
    /// The age of each node's log as its other disks have noted it.
    pub noted: BTreeMap<u64, LogAge>,
    /// Copies of logs that were made.
    pub copies: BTreeMap<u64, Disk>,
    /// Nodes with an old copy that was put back and has not been noticed yet.
    pub old: BTreeSet<u64>,
    /// Nodes whose old copy was noticed: they stay down until an operator has them follow.
    pub out: BTreeSet<u64>,
    /// How many were lost or put back, and noticed: by the node's own disks, or by what others sent.
    pub lost: u64,
    pub by_disks: u64,
    pub by_others: u64,
    pub last: u64,
}

/// What a node tells of itself when it has started.
fn announced(n: u64, log: OwnLog) -> Command {
    let Command::PutNode { name, uuid, addr, labels, version, .. } = put_node(n, 0) else { unreachable!() };
    Command::PutNode { node: Some(NodeId(n)), name, uuid, addr, labels, version, log: Box::new(log) }
}

impl World {
    /// What a node tells of itself when it has started, until it is done; what its life before wanted is over.
    pub fn announce(&mut self, n: u64, own: OwnLog) {
        self.open.retain(|_, e| !matches!(e.cmd, Command::PutNode { node: Some(of), .. } if of.0 == n));
        self.next += 1;
        self.open.insert(self.next, env(self.next, announced(n, own)));
    }

    /// It tells once more if the record follows another log of its own: what an earlier life wanted came late.
    pub fn announce_again(&mut self) {
        let leader = self.nodes.values().filter(|n| n.is_leader()).max_by_key(|n| n.raw.raft.term);
        let Some(state) = leader.map(|l| l.state.clone()).filter(|_| self.losing) else { return };
        for n in 1..=NODES {
            let Some(own) = self.nodes.get(&n).map(|m| m.status().own) else { continue };
            let asked =
                self.open.values().any(|e| matches!(&e.cmd, Command::PutNode { node: Some(of), .. } if of.0 == n));
            if !asked && state.nodes.get(&NodeId(n)).is_some_and(|r| r.log.age.log != own.log) {
                self.announce(n, own);
            }
        }
    }

    /// Every log is one that its node's place was given to, as far as the leader knows, nobody is out, and
    /// the group has its three voters.
    pub fn logs_are_whole(&self) -> bool {
        let leader = self.nodes.values().filter(|n| n.is_leader()).max_by_key(|n| n.raw.raft.term);
        // One of three may be lost: of fewer, or in the middle of a change, it might be a majority.
        let at_rest = |m: &Node| m.status().voters.len() == 3 && !m.status().changing && !m.raw.raft.has_pending_conf();
        let three = |m: &&Node| m.status().voters.iter().all(|v| self.nodes.get(v).is_some_and(at_rest));
        let known = |s: &ClusterState, n: &u64| {
            s.nodes
                .get(&NodeId(*n))
                .is_some_and(|r| r.log.age.log == self.disks[n].borrow().own.log && !r.log.is_lost())
        };
        self.logs.out.is_empty()
            && self.logs.old.is_empty()
            && leader.filter(three).is_some_and(|m| (1..=NODES).all(|n| known(&m.state, &n)))
    }

    /// A node goes down and comes back with an older copy of its log, or with none.
    pub fn lose_a_log(&mut self) {
        let n = 1 + self.rng.below(NODES);
        if self.removed.is_some() || self.logs.lost >= 4 || !self.logs_are_whole() {
            return;
        }
        let copy = self.logs.copies.get(&n).cloned();
        // Its disks have noted a newer one; or they are gone as well, and then another member has to know.
        // (One from before the node's present log is no older: it is another one, and they know the present one.)
        let now = self.disks[&n].borrow().own.log;
        let others_know = |own: &OwnLog| {
            let later = |m: &Node| own.log != now && m.log_record(n).age.log == now;
            let knows = |m: &Node| own.is_older_than(m.log_record(n).age) || later(m);
            // Also one that is behind, and takes itself for a voter.
            let stands = |id: &u64, m: &Node| *id != n && m.status().voters.contains(id);
            self.nodes.len() as u64 == NODES && self.nodes.iter().all(|(id, m)| !stands(id, m) || knows(m))
        };
        let voted = |c: &Disk| c.snapshot.get_metadata().get_conf_state().voters.len();
        let (copy, put_back, without_disks) = match copy {
            // (One of when it was the only voter asks nobody: only its disks can tell.)
            Some(c) if voted(&c) > 1 && others_know(&c.own) && self.rng.one_in(2) => (c, true, true),
            Some(c) if self.logs.noted.get(&n).is_some_and(|a| c.own.is_older_than(*a)) => (c, true, false),
            _ if self.rng.one_in(12) => (self.empty(), false, false),
            _ => return,
        };
        self.nodes.remove(&n);
        self.logs.lost += 1;
        if put_back {
            self.logs.old.insert(n);
        }
        if without_disks {
            self.logs.noted.remove(&n);
        }
        *self.disks[&n].borrow_mut() = copy;
    }

    pub fn empty(&mut self) -> Disk {
        self.logs.last += 1;
        let drawn = self.disks[&1].borrow().drawn.clone();
        Disk { own: OwnLog::new(LogId(u128::from(self.logs.last))), drawn, ..Disk::default() }
    }

    /// An operator has a node follow that may not vote: without its log, in the place of a new one.
    pub fn follow(&mut self) {
        if let Some(n) = self.logs.out.pop_first() {
            let disk = self.empty();
            *self.disks[&n].borrow_mut() = disk;
            self.start(n);
        }
    }
}

/// What looks at how old a log is would be found missing.
#[test]
fn logs_that_were_put_back_break_the_group_if_nobody_looks() {
    let broken = |seed: &u64| {
        let why = std::panic::catch_unwind(|| run_as(*seed, true)).err()?;
        let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
        let wrong = ["two leaders", "has another record", "was answered and left"];
        wrong.iter().any(|w| why.contains(w)).then(|| (*seed, why.lines().next().unwrap_or_default().to_string()))
    };
    let first = (0..400).find_map(|seed| broken(&seed));
    println!("with nobody looking at ages, this is the first that is caught: {first:?}");
    assert!(first.is_some());
}

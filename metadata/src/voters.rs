//! Which nodes vote: the next change of the Raft group, decided from its configuration and from which nodes
//! answer. Pure.

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use std::collections::{BTreeMap, BTreeSet};

/// What the leader knows of the cluster's nodes.
#[derive(Clone, Debug, Default)]
pub struct Present {
    /// Nodes that are part of the cluster.
    pub known: BTreeSet<u64>,
    /// Nodes that answer.
    pub up: BTreeSet<u64>,
    /// Nodes that do not answer, and for how many milliseconds.
    pub away_ms: BTreeMap<u64, u64>,
    /// Learners whose log is almost complete: few entries are missing.
    pub caught_up: BTreeSet<u64>,
    /// Members whose seat was given to a log that no longer exists: they must lose it.
    pub relogged: BTreeSet<u64>,
    /// The failure domains of each node, the widest first (zone, rack); unlabelled nodes are not in it.
    pub place: BTreeMap<u64, Vec<String>>,
}

impl Present {
    /// How badly a set of voters is spread: pairs in one domain, the widest level first. Lower is better.
    fn crowding(&self, voters: &[u64]) -> Vec<usize> {
        let levels = self.place.values().map(Vec::len).max().unwrap_or(0);
        let at = |n: &u64, level: usize| self.place.get(n).and_then(|p| p.get(level));
        let pairs = |level: usize| {
            let same = |(i, a): (usize, &u64)| {
                let here = at(a, level).filter(|d| !d.is_empty());
                voters.iter().skip(i + 1).filter(|b| here.is_some() && at(b, level) == here).count()
            };
            voters.iter().enumerate().map(same).sum()
        };
        (0..levels).map(pairs).collect()
    }

    /// The best of some nodes to vote beside `voters`.
    fn best_beside(&self, voters: &[u64], of: impl Iterator<Item = u64>) -> Option<u64> {
        of.min_by_key(|n| (self.crowding(&[voters, &[*n]].concat()), *n))
    }

    /// An exchange of one voter for another node that spreads the voters better: (the node that goes, the
    /// node that comes).
    fn exchange(&self, voters: &[u64], learners: &[u64], me: u64) -> Option<(u64, u64)> {
        let free = |n: &u64| self.known.contains(n) && self.up.contains(n) && !voters.contains(n);
        let come = self.known.iter().copied().filter(free);
        let mut best = None;
        for c in come {
            for go in voters.iter().copied().filter(|n| *n != me) {
                let rest: Vec<u64> = voters.iter().copied().filter(|n| *n != go).chain([c]).collect();
                // Among equals a node that is a learner already is preferred.
                let rank = (self.crowding(&rest), !learners.contains(&c), c, go);
                if best.as_ref().is_none_or(|(b, _, _)| rank < *b) {
                    best = Some((rank, go, c));
                }
            }
        }
        best.filter(|((crowding, ..), _, _)| *crowding < self.crowding(voters)).map(|(_, go, c)| (go, c))
    }
}

/// The failure domains of a node with these labels, the widest first; an empty word where a label is missing.
pub fn place(labels: &BTreeMap<String, String>) -> Vec<String> {
    ["zone", "rack"].iter().map(|l| labels.get(*l).cloned().unwrap_or_default()).collect()
}

/// The next change, if one is due. `target`: how many voters there should be; `me`: the leader.
pub fn plan(conf: &ConfState, p: &Present, target: usize, grace_ms: u64, me: u64) -> Option<ConfChangeV2> {
    let forgot = |n: &u64| !p.known.contains(n) || p.relogged.contains(n);
    let lost = |n: &u64| *n != me && (forgot(n) || p.away_ms.get(n).is_some_and(|ms| *ms >= grace_ms));
    let (mut gone, good): (Vec<u64>, Vec<u64>) = conf.voters.iter().copied().partition(lost);
    // A removed node may still answer, and is needed until the members that cannot answer are gone (raft_sim seed 15).
    gone.sort_by_key(|n| !p.relogged.contains(n));
    let missing = target.saturating_sub(good.len());
    let learners: Vec<u64> = conf.learners.iter().copied().filter(|n| !lost(n)).collect();
    let ready = |n: &&u64| p.up.contains(n) && p.caught_up.contains(n);
    let ready: Vec<u64> = learners.iter().filter(ready).copied().collect();
    let remove = |n: u64| vec![single(ConfChangeType::RemoveNode, n)];
    let exchange = p.exchange(&good, &learners, me).filter(|_| good.len() == target && gone.is_empty());
    let changes = if missing > 0 && ready.len() >= missing {
        let come = ready.iter().take(missing).map(|n| single(ConfChangeType::AddNode, *n));
        come.chain(gone.iter().map(|n| single(ConfChangeType::RemoveNode, *n))).collect()
    } else if let Some(n) = conf.learners.iter().find(|n| lost(n)) {
        remove(*n)
    } else if missing > learners.len() {
        let taken = |n: &u64| conf.voters.contains(n) || conf.learners.contains(n);
        let beside = [&good[..], &learners[..]].concat();
        match p.best_beside(&beside, p.known.iter().copied().filter(|n| p.up.contains(n) && !taken(n))) {
            Some(n) => vec![single(ConfChangeType::AddLearnerNode, n)],
            // A voter was removed by an operator, or its log is gone, and no other node can take its seat.
            // The rest must be a majority without it: if others are away, a removed node is still needed
            // (raft_sim seed 194).
            None => {
                let n = gone.iter().copied().find(forgot)?;
                let rest = conf.voters.iter().filter(|v| **v != n);
                let there = rest.clone().filter(|v| p.up.contains(v) && !p.relogged.contains(v)).count();
                remove(Some(n).filter(|_| there * 2 > rest.count())?)
            }
        }
    } else if let Some((go, come)) = exchange {
        match ready.contains(&come) {
            true => vec![single(ConfChangeType::AddNode, come), single(ConfChangeType::RemoveNode, go)],
            false if learners.contains(&come) => return None,
            false => vec![single(ConfChangeType::AddLearnerNode, come)],
        }
    } else if missing == 0 {
        let surplus = good.iter().rev().copied().filter(|n| *n != me && good.len() > target);
        let without = |n: &u64| good.iter().copied().filter(|g| g != n).collect::<Vec<u64>>();
        let surplus = surplus.min_by_key(|n| (p.crowding(&without(n)), std::cmp::Reverse(*n)));
        remove(gone.first().copied().or(surplus).or(learners.first().copied())?)
    } else {
        return None;
    };
    Some(ConfChangeV2 { changes, ..Default::default() })
}

/// One single change of a configuration.
pub(crate) fn single(kind: ConfChangeType, node_id: u64) -> ConfChangeSingle {
    let mut s = ConfChangeSingle { node_id, ..Default::default() };
    s.set_change_type(kind);
    s
}

#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used)]
mod tests {
    use super::*;

    fn conf(voters: &[u64], learners: &[u64]) -> ConfState {
        ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..Default::default() }
    }

    fn all(n: u64) -> Present {
        Present { known: (1..=n).collect(), up: (1..=n).collect(), caught_up: (1..=n).collect(), ..Default::default() }
    }

    /// Applies changes until none is due.
    fn settle(mut c: ConfState, p: &Present, target: usize) -> (Vec<u64>, Vec<u64>) {
        for _ in 0..20 {
            let Some(change) = plan(&c, p, target, 1000, 1) else { return (c.voters, c.learners) };
            let before = c.voters.len();
            for s in change.changes.iter() {
                c.voters.retain(|n| *n != s.node_id);
                c.learners.retain(|n| *n != s.node_id);
                match s.change_type() {
                    ConfChangeType::AddNode => c.voters.push(s.node_id),
                    ConfChangeType::AddLearnerNode => c.learners.push(s.node_id),
                    ConfChangeType::RemoveNode => {}
                }
            }
            c.voters.sort_unstable();
            assert!(!(before == 1 && c.voters.len() == 2), "a group of one must not come to rest on two");
        }
        panic!("no end: {c:?}");
    }

    #[test]
    fn it_grows_from_one_to_three_to_five_and_back() {
        assert_eq!(settle(conf(&[1], &[]), &all(2), 3), (vec![1], vec![2]));
        assert_eq!(settle(conf(&[1], &[]), &all(6), 3), (vec![1, 2, 3], vec![]));
        assert_eq!(settle(conf(&[1, 2, 3], &[]), &all(6), 5), (vec![1, 2, 3, 4, 5], vec![]));
        assert_eq!(settle(conf(&[1, 2, 3, 4, 5], &[]), &all(6), 3), (vec![1, 2, 3], vec![]));
        assert_eq!(settle(conf(&[1, 2, 3], &[]), &all(4), 5).0, vec![1, 2, 3], "not four");
    }

    #[test]
    fn a_lost_voter_is_replaced_after_a_while_and_a_removed_one_at_once() {
        let mut p = all(5);
        p.up.remove(&2);
        p.away_ms.insert(2, 999);
        assert_eq!(settle(conf(&[1, 2, 3], &[]), &p, 3).0, vec![1, 2, 3]);
        p.away_ms.insert(2, 1000);
        assert_eq!(settle(conf(&[1, 2, 3], &[]), &p, 3), (vec![1, 3, 4], vec![]));
        let mut p = all(5);
        p.known.remove(&3);
        p.up.remove(&3);
        assert_eq!(settle(conf(&[1, 2, 3], &[]), &p, 3), (vec![1, 2, 4], vec![]));
        // Nobody to take its place.
        let mut p = all(3);
        p.known.remove(&3);
        p.up.remove(&3);
        assert_eq!(settle(conf(&[1, 2, 3], &[]), &p, 3), (vec![1, 2], vec![]));
        // Away, known, and no spare node: it keeps its vote.
        let mut p = all(3);
        p.up.remove(&3);
        p.away_ms.insert(3, 99_999);
        assert_eq!(settle(conf(&[1, 2, 3], &[]), &p, 3), (vec![1, 2, 3], vec![]));
    }

    #[test]
    fn a_voter_with_another_log_loses_the_old_ones_place() {
        // Another node takes it at once.
        let p = Present { relogged: [2].into(), ..all(4) };
        assert_eq!(settle(conf(&[1, 2, 3], &[]), &p, 3), (vec![1, 3, 4], vec![]));
        // Nobody else is there: it goes, and (with a place of its own) comes back as any other node.
        let p = Present { relogged: [2].into(), ..all(3) };
        let c = plan(&conf(&[1, 2, 3], &[]), &p, 3, 1000, 1).unwrap();
        assert_eq!((c.changes.len(), c.changes[0].node_id), (1, 2));
        assert_eq!(c.changes[0].change_type(), ConfChangeType::RemoveNode);
        assert_eq!(settle(conf(&[1, 3], &[]), &all(3), 3), (vec![1, 2, 3], vec![]));
        // It goes before one that was removed, and still votes.
        let mut p = Present { relogged: [3].into(), ..all(3) };
        p.known.remove(&2);
        let c = plan(&conf(&[1, 2, 3], &[]), &p, 3, 1000, 1).unwrap();
        assert_eq!((c.changes.len(), c.changes[0].node_id), (1, 3));
        // With somebody else away it stays for now.
        let mut p = all(3);
        p.known.remove(&2);
        p.up.remove(&3);
        assert_eq!(plan(&conf(&[1, 2, 3], &[]), &p, 3, 1000, 1), None);
        // A learner likewise.
        let p = Present { relogged: [4].into(), ..all(4) };
        let c = plan(&conf(&[1, 2], &[4]), &p, 3, 1000, 1).unwrap();
        assert_eq!((c.changes[0].node_id, c.changes[0].change_type()), (4, ConfChangeType::RemoveNode));
    }

    fn zones(of: &[(u64, &str)]) -> BTreeMap<u64, Vec<String>> {
        of.iter().map(|(n, z)| (*n, vec![z.to_string()])).collect()
    }

    #[test]
    fn voters_are_spread_over_failure_domains_whatever_order_the_nodes_came_in() {
        let place = zones(&[(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c"), (6, "c")]);
        let p = Present { place, ..all(6) };
        // From the beginning, after having grown within one zone, and with a zone that is half used.
        for voters in [vec![1], vec![1, 2, 3], vec![1, 4, 2]] {
            let (v, l) = settle(conf(&voters, &[]), &p, 3);
            assert_eq!(p.crowding(&v), [0], "{voters:?} became {v:?}");
            assert!(v.contains(&1) && l.is_empty(), "the leader stays, nobody is left half way: {v:?} {l:?}");
        }
        let five = settle(conf(&[1, 2, 3], &[]), &p, 5).0;
        assert_eq!((five.len(), p.crowding(&five)), (5, vec![2]), "{five:?}: two zones with two each, one with one");
        // Back to three: those go that stand closest.
        let three = settle(conf(&five, &[]), &p, 3).0;
        assert_eq!(p.crowding(&three), [0], "{three:?}");
        // A voter of zone b is lost and zone b has no other node: the rest of the nodes still make three.
        let mut q = p.clone();
        q.up.remove(&4);
        q.away_ms.insert(4, 5_000);
        assert_eq!(settle(conf(&[1, 4, 5], &[]), &q, 3).0.len(), 3);
        // Nothing to gain: nothing moves.
        assert_eq!(plan(&conf(&[1, 4, 5], &[]), &p, 3, 1000, 1), None);
        // The wider domain counts first, the narrower one decides between equals.
        let two = |z: &str, r: &str| vec![z.to_string(), r.to_string()];
        let place = [(1, two("a", "r1")), (2, two("a", "r1")), (3, two("b", "r3")), (4, two("a", "r2"))];
        let p = Present { place: place.into_iter().collect(), ..all(4) };
        assert_eq!(settle(conf(&[1, 2, 3], &[]), &p, 3).0, [1, 3, 4]);
    }
}

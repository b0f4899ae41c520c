//! Who votes: the next change of the Raft group, decided from its configuration and who is there. Pure.

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use std::collections::{BTreeMap, BTreeSet};

/// What the leader knows of the nodes.
#[derive(Clone, Debug, Default)]
pub struct Present {
    /// Part of the cluster.
    pub known: BTreeSet<u64>,
    /// They answer.
    pub up: BTreeSet<u64>,
    /// They do not, for so many milliseconds.
    pub away_ms: BTreeMap<u64, u64>,
    /// Learners whose log is as good as complete.
    pub caught_up: BTreeSet<u64>,
}

/// The next change, if one is due. `target`: how many voters there should be; `me`: the leader.
pub fn plan(conf: &ConfState, p: &Present, target: usize, grace_ms: u64, me: u64) -> Option<ConfChangeV2> {
    let lost = |n: &u64| *n != me && (!p.known.contains(n) || p.away_ms.get(n).is_some_and(|ms| *ms >= grace_ms));
    let (gone, good): (Vec<u64>, Vec<u64>) = conf.voters.iter().copied().partition(lost);
    let missing = target.saturating_sub(good.len());
    let learners: Vec<u64> = conf.learners.iter().copied().filter(|n| !lost(n)).collect();
    let ready = |n: &&u64| p.up.contains(n) && p.caught_up.contains(n);
    let ready: Vec<u64> = learners.iter().filter(ready).copied().collect();
    let remove = |n: u64| vec![single(ConfChangeType::RemoveNode, n)];
    let changes = if missing > 0 && ready.len() >= missing {
        let come = ready.iter().take(missing).map(|n| single(ConfChangeType::AddNode, *n));
        come.chain(gone.iter().map(|n| single(ConfChangeType::RemoveNode, *n))).collect()
    } else if let Some(n) = conf.learners.iter().find(|n| lost(n)) {
        remove(*n)
    } else if missing > learners.len() {
        let taken = |n: &u64| conf.voters.contains(n) || conf.learners.contains(n);
        match p.known.iter().copied().find(|n| p.up.contains(n) && !taken(n)) {
            Some(n) => vec![single(ConfChangeType::AddLearnerNode, n)],
            // Removed by an operator, and nobody is there to take its place.
            None => remove(gone.iter().copied().find(|n| !p.known.contains(n))?),
        }
    } else if missing == 0 {
        let surplus = good.iter().rev().copied().find(|n| *n != me && good.len() > target);
        remove(gone.first().copied().or(surplus).or(learners.first().copied())?)
    } else {
        return None;
    };
    Some(ConfChangeV2 { changes, ..Default::default() })
}

/// One part of a change.
pub(crate) fn single(kind: ConfChangeType, node_id: u64) -> ConfChangeSingle {
    let mut s = ConfChangeSingle { node_id, ..Default::default() };
    s.set_change_type(kind);
    s
}

#[cfg(test)]
#[allow(clippy::panic)]
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
}

//! What is wrong with a chunk, by what its replicas say that they hold.

use crate::message::{BlockInfo, BlockState};
use hf_policy::{Rid, Ver, invariant};
use std::collections::BTreeMap;

/// What is wrong with one block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub block: usize,
    /// Replicas on which it is unreadable or rotten, with what is known of it there.
    pub bad: Vec<(Rid, BlockInfo)>,
    /// Replicas that have an older version than others.
    pub behind: Vec<(Rid, Ver)>,
    /// Some replicas have the same version with other bytes.
    pub diverged: bool,
    /// This version of it is bad on the replicas that know of it, and the others have older ones
    /// only: no replica has the block, and those that would serve an older version are told so (as
    /// in a take-over).
    pub lost: Option<Ver>,
}

/// Compares what replicas hold of the first `count` blocks of a chunk while no write to it is in
/// flight. All zeroes are alike: a replica on which the block was never written need not know of a
/// trim.
pub(super) fn judge(answers: &BTreeMap<Rid, Vec<BlockInfo>>, count: usize) -> Vec<Finding> {
    invariant!(answers.values().all(|infos| infos.len() >= count), "some of {count} blocks were not told of");
    let mut found = Vec::new();
    for block in 0..count {
        let at = || answers.iter().filter_map(|(r, infos)| infos.get(block).map(|i| (*r, i)));
        let bad: Vec<(Rid, BlockInfo)> = at().filter(|(_, i)| i.state.is_bad()).map(|(r, i)| (r, *i)).collect();
        let held = |i: &BlockInfo| (!i.state.is_zero()).then_some((i.ver, i.crc));
        let good = || at().filter(|(_, i)| !i.state.is_bad());
        let newest = good().map(|(_, i)| i).max_by_key(|i| i.ver);
        let other: Vec<(Rid, Ver)> = match newest {
            Some(n) => good().filter(|(_, i)| held(i) != held(n)).map(|(r, i)| (r, i.ver)).collect(),
            None => Vec::new(),
        };
        let (mut behind, same): (Vec<_>, Vec<_>) =
            other.into_iter().partition(|(_, ver)| newest.is_some_and(|n| *ver < n.ver));
        let known = bad.iter().filter(|(_, i)| i.state == BlockState::Bad).map(|(_, i)| i.ver).max();
        let lost = known.filter(|ver| newest.is_none_or(|n| n.ver < *ver));
        if lost.is_some() {
            behind = good().map(|(r, i)| (r, i.ver)).collect();
        }
        if !bad.is_empty() || !behind.is_empty() || !same.is_empty() {
            found.push(Finding { block, bad, behind, diverged: !same.is_empty(), lost });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use hf_policy::crc::PayloadCrc;
    use hf_policy::{Seq, Term};

    fn i(seq: u64, crc: u32, state: BlockState) -> BlockInfo {
        BlockInfo { ver: Ver { term: Term(1), seq: Seq(seq) }, crc: PayloadCrc(crc), state }
    }

    fn of(three: [BlockInfo; 3]) -> Vec<Finding> {
        judge(&three.into_iter().enumerate().map(|(n, i)| (Rid(n as u64 + 1), vec![i])).collect(), 1)
    }

    #[test]
    fn what_differs_is_named_and_what_reads_alike_is_not() {
        use BlockState::*;
        let ver = |n| Ver { term: Term(1), seq: Seq(n) };
        let absent = BlockInfo::default();
        assert_eq!(of([i(5, 1, Data), i(5, 1, Data), i(5, 1, Data)]), []);
        assert_eq!(of([i(5, 0, Zero), absent, i(3, 0, Zero)]), []);
        let found = |bad, behind, diverged| vec![Finding { block: 0, bad, behind, diverged, lost: None }];
        assert_eq!(
            of([i(5, 1, Data), i(5, 0, Bad), i(5, 1, Data)]),
            found(vec![(Rid(2), i(5, 0, Bad))], vec![], false)
        );
        assert_eq!(of([i(5, 1, Data), i(4, 2, Data), i(5, 1, Data)]), found(vec![], vec![(Rid(2), ver(4))], false));
        assert_eq!(of([i(5, 1, Data), absent, i(5, 1, Data)]), found(vec![], vec![(Rid(2), Ver::ZERO)], false));
        assert_eq!(of([i(6, 0, Zero), i(5, 1, Data), i(6, 0, Zero)]), found(vec![], vec![(Rid(2), ver(5))], false));
        assert_eq!(of([i(5, 1, Data), i(5, 2, Data), i(5, 1, Data)]), found(vec![], vec![], true));
        let lost = |bad, behind| vec![Finding { block: 0, bad, behind, diverged: false, lost: Some(ver(5)) }];
        let all = (1..=3).map(|r| (Rid(r), i(5, 0, Bad))).collect();
        assert_eq!(of([i(5, 0, Bad), i(5, 0, Bad), i(5, 0, Bad)]), lost(all, vec![]));
        // The others lost a write each, and one of them all of them.
        let one = || vec![(Rid(1), i(5, 0, Bad))];
        assert_eq!(of([i(5, 0, Bad), i(4, 2, Data), absent]), lost(one(), vec![(Rid(2), ver(4)), (Rid(3), Ver::ZERO)]));
        // Where the version is lost too, what the others have is what there was.
        assert_eq!(
            of([i(9, 0, Lost), i(4, 2, Data), i(4, 2, Data)]),
            found(vec![(Rid(1), i(9, 0, Lost))], vec![], false)
        );
    }
}

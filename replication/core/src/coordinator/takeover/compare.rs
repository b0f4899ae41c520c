//! What each member lacks of one block, by the versions that all of them hold of it.

use crate::message::{BlockInfo, BlockState, Content, CopyItem};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BlockIx, Rid, Ver, invariant};
use std::collections::BTreeMap;

/// The block's winner is the highest version that is not bad. Adds to `items` what each other
/// member lacks; returns the member to fetch the bytes from, if bytes are needed. Zero is equal to
/// zero at any version (a never-written chunk keeps none). `at` is the block's place in its chunk;
/// bad blocks up to the version `relied` may have been acknowledged.
pub(super) fn compare(
    items: &mut BTreeMap<Rid, Vec<CopyItem>>,
    versions: &BTreeMap<Rid, Vec<BlockInfo>>,
    relied: Ver,
    block: BlockIx,
    at: usize,
) -> Option<Rid> {
    let good = versions.iter().filter(|(_, v)| !v[at].state.is_bad());
    let good = good.map(|(r, v)| (*r, v[at]));
    let (src, best) = if mutant::is(Mutant::ReconcileOldest) {
        good.min_by_key(|(r, i)| (i.ver, *r))?
    } else {
        good.max_by_key(|(r, i)| (i.ver, std::cmp::Reverse(*r)))?
    };
    // Writes up to `relied` may have been acknowledged. If the only copy of one is bad, a member
    // that holds something older was put back from a copy of its disk: the block is lost, and must
    // not come back as what it was before (seeds 8476, 12707). Of a block that lost its version too
    // nothing is known: what the others have is what there was.
    let bad = versions.values().map(|v| v[at]).filter(|i| i.state == BlockState::Bad && i.ver <= relied);
    if let Some(lost) = bad.map(|i| i.ver).max().filter(|ver| *ver > best.ver) {
        for (rid, has) in versions.iter().map(|(r, v)| (*r, v[at])).filter(|(_, i)| i.ver < lost) {
            let item = CopyItem { block, seen: has.ver, src: lost, content: Content::Bad, repair: false };
            items.entry(rid).or_default().push(item);
        }
        return None;
    }
    invariant!(!best.state.is_bad(), "block {} wins and is bad", block.0);
    let mut needed = false;
    for (rid, v) in versions {
        let has = v[at];
        let bad = has.state.is_bad();
        let equal = has.ver == best.ver || (has.state.is_zero() && best.state.is_zero());
        let forget = mutant::is(Mutant::ForgetZeroes) && best.state.is_zero();
        if (equal && !bad) || forget {
            continue;
        }
        // A bad block goes back to the winner even from a higher version: that was never
        // acknowledged, or the winner would have it. Left alone, a replica that is synced later and
        // still has that write would serve it while others do not (seed 1812).
        let repair = bad && has.ver == best.ver;
        let item = CopyItem { block, seen: has.ver, src: best.ver, content: Content::Zero, repair };
        items.entry(*rid).or_default().push(item);
        needed |= !best.state.is_zero();
    }
    needed.then_some(src)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(ver: (u32, u64), state: BlockState) -> Vec<BlockInfo> {
        vec![BlockInfo { ver: Ver::new(ver.0, ver.1), state, ..BlockInfo::default() }]
    }

    /// What each member gets, as (member, version, content), and the member that the bytes come from.
    fn decide(members: &[((u32, u64), BlockState)], relied: Ver) -> (Vec<(u64, Ver, Content)>, Option<u64>) {
        let versions = (1..).map(Rid).zip(members.iter().map(|(v, s)| block(*v, *s))).collect();
        let mut items = BTreeMap::new();
        let from = compare(&mut items, &versions, relied, BlockIx(0), 0);
        let list = items.into_iter().flat_map(|(r, l)| l.into_iter().map(move |i| (r.0, i.src, i.content)));
        (list.collect(), from.map(|r| r.0))
    }

    /// Seed 1812: left alone, a replica that is synced later and still has that write would serve
    /// it, others would not.
    #[test]
    fn a_bad_block_that_was_never_acknowledged_goes_back_to_what_the_others_have() {
        let members = [((1, 3), BlockState::Bad), ((0, 0), BlockState::Absent)];
        assert_eq!(decide(&members, Ver::new(1, 2)), (vec![(1, Ver::ZERO, Content::Zero)], None));
        let members = [((1, 3), BlockState::Bad), ((1, 1), BlockState::Data)];
        assert_eq!(decide(&members, Ver::new(1, 2)).1, Some(2), "its bytes are fetched");
    }

    /// A page that rots takes the versions of 256 blocks with it: the highest of them says nothing
    /// about the others.
    #[test]
    fn a_block_that_lost_its_version_goes_back_to_what_the_others_have() {
        let members = [((1, 20), BlockState::Lost), ((1, 3), BlockState::Data)];
        let (items, from) = decide(&members, Ver::new(1, 20));
        assert_eq!((items[0].0, items[0].1, from), (1, Ver::new(1, 3), Some(2)));
        let members = [((1, 20), BlockState::Lost), ((1, 20), BlockState::Data)];
        assert_eq!(decide(&members, Ver::new(1, 20)).1, Some(2));
    }

    /// Seeds 8476 and 12707: the older copy is of a disk that was put back.
    #[test]
    fn a_bad_block_that_may_have_been_acknowledged_is_lost_and_does_not_come_back_as_an_older_one() {
        let members = [((1, 3), BlockState::Bad), ((1, 1), BlockState::Data)];
        assert_eq!(decide(&members, Ver::new(1, 3)), (vec![(2, Ver::new(1, 3), Content::Bad)], None));
        assert_eq!(
            decide(&[members[0], ((1, 3), BlockState::Data)], Ver::new(1, 3)).1,
            Some(2),
            "a whole copy mends it"
        );
    }
}

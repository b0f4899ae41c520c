//! How many replicas this reactor's coordinators fill or catch up at once: the others wait, so that the
//! return of a node is no storm. Those that clients' writes wait for go first, and do not wait for others to
//! end. The leader has limits of its own, of the whole cluster and of the disk that receives
//! (`hf_meta_core::limits`).

use hf_meta_core::limits::{SYNCS_PER_NODE, URGENT};
use hf_policy::ShardId;
use std::collections::{BTreeSet, VecDeque};

/// Who syncs and who waits.
#[derive(Default)]
pub(super) struct Syncs {
    active: BTreeSet<ShardId>,
    waiting: VecDeque<ShardId>,
    urgent: VecDeque<ShardId>,
}

impl Syncs {
    /// A shard has something to bring in. May be said again when it has become urgent.
    pub fn want(&mut self, shard: ShardId, urgent: bool) {
        if self.active.contains(&shard) || self.urgent.contains(&shard) {
            return;
        }
        if urgent {
            self.waiting.retain(|s| *s != shard);
            self.urgent.push_back(shard);
        } else if !self.waiting.contains(&shard) {
            self.waiting.push_back(shard);
        }
    }

    /// These are over, or do not want it any more.
    pub fn over(&mut self, gone: impl Fn(&ShardId) -> bool) {
        self.active.retain(|s| !gone(s));
        self.waiting.retain(|s| !gone(s));
        self.urgent.retain(|s| !gone(s));
    }

    /// Who may begin now.
    pub fn next(&mut self) -> Option<ShardId> {
        let shard = match self.active.len() {
            n if n < SYNCS_PER_NODE => self.urgent.pop_front().or_else(|| self.waiting.pop_front()),
            n if n < SYNCS_PER_NODE + URGENT => self.urgent.pop_front(),
            _ => None,
        };
        self.active.extend(shard);
        shard
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hf_policy::VolumeId;

    fn shard(i: u64) -> ShardId {
        ShardId { vol: VolumeId(i), index: 0 }
    }

    #[test]
    fn those_that_clients_wait_for_go_first_and_all_have_a_bound() {
        let mut s = Syncs::default();
        (1..=9).for_each(|i| s.want(shard(i), false));
        assert_eq!((s.next(), s.next(), s.next()), (Some(shard(1)), Some(shard(2)), None));
        // One that waits becomes urgent, others come so; those that go on are not asked again.
        [5, 11, 12, 5, 1].into_iter().for_each(|i| s.want(shard(i), true));
        assert_eq!((s.next(), s.next(), s.next()), (Some(shard(5)), Some(shard(11)), None));
        s.over(|x| *x == shard(1));
        assert_eq!((s.next(), s.next()), (Some(shard(12)), None));
        // The others get their turn in the order in which they came, each once.
        s.over(|x| x.vol.0 > 9 || x.vol.0 == 5);
        let mut order = Vec::new();
        for last in [2, 3, 4, 6, 7, 8, 9] {
            order.extend(std::iter::from_fn(|| s.next()));
            s.over(|x| *x == shard(last));
        }
        assert_eq!(order, [3, 4, 6, 7, 8, 9].map(shard));
        assert_eq!(s.next(), None);
    }
}

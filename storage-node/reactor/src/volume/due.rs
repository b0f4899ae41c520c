//! Which coordinators are due: a heap of deadlines, so that a turn of the clock costs what is due and not a
//! look at every volume.
//!
//! A coordinator's deadline may move with every step. One that moves later is not looked up: the heap's entry
//! stays, and when it comes up the coordinator is asked and entered anew. So an entry is never later than the
//! deadline it stands for, and there is at most one live entry for each shard; entries that an earlier one
//! has replaced are passed over.

use hf_policy::{ShardId, Tick};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Replaced entries that may lie in the heap for each live one before it is built anew.
const STALE: usize = 4;

/// See the module.
#[derive(Default)]
pub(super) struct Due {
    heap: BinaryHeap<Reverse<(Tick, ShardId)>>,
}

impl Due {
    /// A coordinator wants to be stepped at `deadline`. `armed` is the moment of its live entry, kept beside
    /// the coordinator.
    #[inline]
    pub fn arm(&mut self, shard: ShardId, deadline: Option<Tick>, armed: &mut Option<Tick>) {
        let Some(deadline) = deadline.filter(|d| armed.is_none_or(|a| *d < a)) else { return };
        *armed = Some(deadline);
        self.heap.push(Reverse((deadline, shard)));
    }

    /// Takes the earliest entry that is not after `now`. The caller compares it with the shard's `armed` and
    /// forgets it if it differs.
    pub fn pop(&mut self, now: Tick) -> Option<(Tick, ShardId)> {
        let Reverse(first) = *self.heap.peek()?;
        (first.0 <= now).then(|| {
            self.heap.pop();
            first
        })
    }

    /// Bounds what replaced entries take: `live` tells whether an entry is its shard's live one.
    pub fn tidy(&mut self, shards: usize, live: impl Fn(&(Tick, ShardId)) -> bool) {
        if self.heap.len() > (shards + 1) * STALE {
            self.heap.retain(|Reverse(e)| live(e));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hf_policy::VolumeId;

    fn shard(vol: u64) -> ShardId {
        ShardId { vol: VolumeId(vol), index: 0 }
    }

    #[test]
    fn an_earlier_deadline_replaces_and_a_later_one_waits_for_its_entry() {
        let (mut due, mut a, mut b) = (Due::default(), None, None);
        due.arm(shard(1), Some(Tick(50)), &mut a);
        due.arm(shard(2), Some(Tick(40)), &mut b);
        due.arm(shard(1), Some(Tick(90)), &mut a);
        assert_eq!(a, Some(Tick(50)));
        due.arm(shard(1), Some(Tick(30)), &mut a);
        due.arm(shard(2), None, &mut b);
        assert_eq!((due.pop(Tick(29)), due.pop(Tick(45))), (None, Some((Tick(30), shard(1)))));
        assert_eq!((due.pop(Tick(45)), due.pop(Tick(45))), (Some((Tick(40), shard(2))), None));
        // The replaced entry is still there, and its shard's owner knows that it is not the live one.
        assert_eq!(due.pop(Tick(60)), Some((Tick(50), shard(1))));
        assert!(due.heap.is_empty());
    }

    #[test]
    fn replaced_entries_are_bounded() {
        let (mut due, mut armed) = (Due::default(), None);
        for at in (0..1000u64).rev() {
            due.arm(shard(1), Some(Tick(at)), &mut armed);
            due.tidy(1, |(t, _)| Some(*t) == armed);
        }
        assert!(due.heap.len() <= 2 * STALE + 1, "{}", due.heap.len());
        assert_eq!(due.pop(Tick(0)), Some((Tick(0), shard(1))));
    }
}

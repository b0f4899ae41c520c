//! A queue of several volumes' items that takes turns between them by bytes (deficit round robin: M. Shreedhar and
//! G. Varghese, 1995), so that one volume's backlog delays another volume by a turn and not by its length.

use hf_policy::ShardId;
use std::collections::{BTreeMap, VecDeque};

/// Bytes a shard may send in one turn.
const TURN: u64 = 128 << 10;

struct Lane<T> {
    items: VecDeque<(u64, T)>,
    /// Bytes it may still send in this turn.
    left: u64,
}

/// The queue. Within one shard the order is kept.
pub(super) struct Lanes<T> {
    by: BTreeMap<ShardId, Lane<T>>,
    turns: VecDeque<ShardId>,
    bytes: u64,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Lanes { by: BTreeMap::new(), turns: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Lanes<T> {
    pub fn push(&mut self, shard: ShardId, cost: u64, item: T) {
        self.bytes += cost;
        let lane = self.by.entry(shard).or_insert_with(|| {
            self.turns.push_back(shard);
            Lane { items: VecDeque::new(), left: 0 }
        });
        lane.items.push_back((cost, item));
    }

    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Bytes of all items.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The cost of the item whose turn it is.
    pub fn next_cost(&mut self) -> Option<u64> {
        loop {
            let shard = *self.turns.front()?;
            let lane = self.by.get_mut(&shard)?;
            let cost = lane.items.front()?.0;
            if lane.left >= cost {
                return Some(cost);
            }
            lane.left += TURN;
            // Alone in the ring it need not wait for its next turn.
            self.turns.rotate_left(1);
        }
    }

    /// The item whose turn it is, to look at.
    pub fn peek(&mut self) -> Option<&T> {
        self.next_cost()?;
        let lane = self.by.get(self.turns.front()?)?;
        lane.items.front().map(|(_, item)| item)
    }

    /// The item whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let cost = self.next_cost()?;
        let shard = *self.turns.front()?;
        let lane = self.by.get_mut(&shard)?;
        let (_, item) = lane.items.pop_front()?;
        lane.left -= cost;
        self.bytes -= cost;
        if lane.items.is_empty() {
            self.by.remove(&shard);
            self.turns.pop_front();
        }
        Some(item)
    }

    /// The first item of the first shard, in the order of turns, for which `may` says yes.
    pub fn pop_of(&mut self, may: impl Fn(&ShardId) -> bool) -> Option<T> {
        let at = self.turns.iter().position(may)?;
        let shard = self.turns[at];
        let lane = self.by.get_mut(&shard)?;
        let (cost, item) = lane.items.pop_front()?;
        lane.left = lane.left.saturating_sub(cost);
        self.bytes -= cost;
        if lane.items.is_empty() {
            self.by.remove(&shard);
            self.turns.remove(at);
        }
        Some(item)
    }

    /// Takes out what `gone` names.
    pub fn remove(&mut self, gone: impl Fn(&T) -> bool) -> usize {
        let mut removed = 0;
        for lane in self.by.values_mut() {
            lane.items.retain(|(cost, item)| {
                let goes = gone(item);
                self.bytes -= if goes { *cost } else { 0 };
                removed += usize::from(goes);
                !goes
            });
        }
        self.by.retain(|_, l| !l.items.is_empty());
        self.turns.retain(|s| self.by.contains_key(s));
        removed
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
    fn shards_get_the_same_bytes_whatever_their_backlog_and_the_size_of_their_requests() {
        let mut q = Lanes::default();
        (0..1_000).for_each(|_| q.push(shard(1), 1 << 20, 1));
        (0..100_000).for_each(|_| q.push(shard(2), 4096, 2));
        let mut sent = [0u64; 3];
        for _ in 0..20_000 {
            let cost = q.next_cost().unwrap();
            sent[q.pop().unwrap()] += cost;
        }
        assert!(sent[1].abs_diff(sent[2]) <= 2 << 20, "{sent:?}");
        // One that comes late waits for a turn, not for a backlog.
        q.push(shard(3), 4096, 0);
        let wait = (0..).find(|_| q.pop() == Some(0)).unwrap();
        assert!(wait <= 300, "{wait}");
    }

    #[test]
    fn the_order_of_one_shard_is_kept_and_what_is_removed_is_gone() {
        let mut q = Lanes::default();
        (0..10).for_each(|i| q.push(shard(i % 2), 1 << 20, i));
        assert_eq!(q.remove(|i| *i == 4 || i % 2 == 1), 6);
        assert_eq!(q.bytes(), 4 << 20);
        assert_eq!(std::iter::from_fn(|| q.pop()).collect::<Vec<_>>(), [0, 2, 6, 8]);
        assert!(q.is_empty() && q.bytes() == 0 && q.next_cost().is_none());
    }
}

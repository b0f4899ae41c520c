//! A queue of several volumes' items that takes turns between them by bytes (deficit round robin:
//! M. Shreedhar and G. Varghese, 1995), so that one volume's backlog delays another volume by a
//! turn and not by its length.

use hf_policy::{ShardId, broken, invariant};
use std::collections::{BTreeMap, VecDeque};

/// Bytes a shard may send in one turn.
const TURN: u64 = 128 << 10;

/// One shard's items, and their costs in bytes.
struct Lane<T> {
    items: VecDeque<(u64, T)>,
    /// Bytes that it may still send in this turn.
    left: u64,
}

/// The queue. Within one shard the order is kept.
pub(super) struct Lanes<T> {
    /// Only shards that have items.
    by: BTreeMap<ShardId, Lane<T>>,
    /// The same shards, in the order of their turns.
    turns: VecDeque<ShardId>,
    /// The cost of all items.
    bytes: u64,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Lanes { by: BTreeMap::new(), turns: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Lanes<T> {
    /// Puts an item of `cost` bytes behind the others of its shard.
    pub fn push(&mut self, shard: ShardId, cost: u64, item: T) {
        self.bytes += cost;
        let lane = self.by.entry(shard).or_insert_with(|| {
            self.turns.push_back(shard);
            Lane { items: VecDeque::new(), left: 0 }
        });
        lane.items.push_back((cost, item));
        invariant!(self.by.len() == self.turns.len(), "{} lanes take {} turns", self.by.len(), self.turns.len());
    }

    /// No shard has an item.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Bytes of all items.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The cost of the item whose turn it is; `None` if there is none.
    pub fn next_cost(&mut self) -> Option<u64> {
        loop {
            let shard = *self.turns.front()?;
            let first = self.by.get_mut(&shard).and_then(|lane| Some((lane.items.front()?.0, lane)));
            let Some((cost, lane)) = first else {
                broken!("it is the turn of shard {shard:?}, which has nothing");
                return None;
            };
            if lane.left >= cost {
                return Some(cost);
            }
            lane.left += TURN;
            // Alone in the ring it need not wait for its next turn.
            self.turns.rotate_left(1);
        }
    }

    /// Looks at the item whose turn it is.
    pub fn peek(&mut self) -> Option<&T> {
        self.next_cost()?;
        let lane = self.by.get(self.turns.front()?)?;
        lane.items.front().map(|(_, item)| item)
    }

    /// Takes the item whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let cost = self.next_cost()?;
        let shard = *self.turns.front()?;
        let lane = self.by.get_mut(&shard)?;
        let Some((_, item)) = lane.items.pop_front() else {
            broken!("it is the turn of shard {shard:?}, which has nothing");
            return None;
        };
        invariant!(lane.left >= cost, "an item of {cost} bytes goes in a turn that has {}", lane.left);
        invariant!(self.bytes >= cost, "an item of {cost} bytes goes, and all have {}", self.bytes);
        lane.left = lane.left.saturating_sub(cost);
        self.bytes = self.bytes.saturating_sub(cost);
        if lane.items.is_empty() {
            self.by.remove(&shard);
            self.turns.pop_front();
        }
        self.emptied();
        Some(item)
    }

    /// Takes the first item of the first shard, in the order of turns, for which `may` says yes.
    pub fn pop_of(&mut self, may: impl Fn(&ShardId) -> bool) -> Option<T> {
        let at = self.turns.iter().position(may)?;
        let shard = self.turns[at];
        let lane = self.by.get_mut(&shard)?;
        let Some((cost, item)) = lane.items.pop_front() else {
            broken!("shard {shard:?} has a turn, and nothing to send");
            return None;
        };
        lane.left = lane.left.saturating_sub(cost);
        invariant!(self.bytes >= cost, "an item of {cost} bytes goes, and all have {}", self.bytes);
        self.bytes = self.bytes.saturating_sub(cost);
        if lane.items.is_empty() {
            self.by.remove(&shard);
            self.turns.remove(at);
        }
        self.emptied();
        Some(item)
    }

    /// An item has gone.
    fn emptied(&self) {
        invariant!(self.by.len() == self.turns.len(), "{} lanes take {} turns", self.by.len(), self.turns.len());
        invariant!(!self.is_empty() || self.bytes == 0, "nothing is queued, and that is {} bytes", self.bytes);
    }

    /// Removes the items that `gone` names, and says how many they were.
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
        self.emptied();
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

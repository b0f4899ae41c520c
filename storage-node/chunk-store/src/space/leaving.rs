//! Slots and table entries of deleted replicas that wait for a checkpoint before they are free.

use hf_policy::invariant;
use std::collections::VecDeque;

/// Slots or table entries that are being freed. Each needs a checkpoint that covers the journal up
/// to the group that was applied when it was given back; until then a replay would bring back what
/// it held.
#[derive(Debug, Default)]
pub struct Leaving(VecDeque<(u32, u64)>);

impl Leaving {
    /// `what` was given back when `group` was the last applied group. Groups never fall.
    pub fn push(&mut self, what: u32, group: u64) {
        let last = self.0.back().map_or(0, |(_, group)| *group);
        invariant!(last <= group, "{what} is given back at group {group}, after one of group {last}");
        self.0.push_back((what, group));
    }
    /// `what` is not given back after all.
    pub fn forget(&mut self, what: u32) {
        self.0.retain(|(w, _)| *w != what);
    }
    /// Takes the ones that a checkpoint up to `group` frees.
    pub fn freed_by(&mut self, group: u64) -> Vec<u32> {
        let n = self.0.iter().take_while(|(_, after)| *after <= group).count();
        self.0.drain(..n).map(|(what, _)| what).collect()
    }
    /// Verifies that groups never fall.
    pub fn check(&self) {
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        for ((what, before), (next, after)) in pairs {
            invariant!(before <= after, "{next} was given back at group {after}, after {what} at group {before}");
        }
    }
    /// The ones that wait, the oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> {
        self.0.iter().map(|(what, _)| *what)
    }
    /// True if none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

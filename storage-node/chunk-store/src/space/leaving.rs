//! Slots and table entries of deleted replicas, on their way to being free.

use std::collections::VecDeque;

/// Slots or table entries on their way to being free: each needs a checkpoint that covers the journal up to the group that
/// was applied when it was given back. Until then a replay brings back what stood there.
#[derive(Debug, Default)]
pub struct Leaving(VecDeque<(u32, u64)>);

impl Leaving {
    /// `what` was given back when `group` was the last that was applied. Groups never fall.
    pub fn push(&mut self, what: u32, group: u64) {
        self.0.push_back((what, group));
    }
    /// It is not given back after all.
    pub fn forget(&mut self, what: u32) {
        self.0.retain(|(w, _)| *w != what);
    }
    /// Those that a checkpoint up to `group` frees.
    pub fn freed_by(&mut self, group: u64) -> Vec<u32> {
        let n = self.0.iter().take_while(|(_, after)| *after <= group).count();
        self.0.drain(..n).map(|(what, _)| what).collect()
    }
    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

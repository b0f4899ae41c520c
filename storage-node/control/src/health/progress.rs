//! Copies and scrubs that stand still.

use hf_meta_core::ClusterState;
use hf_meta_core::soft::{Soft, SyncTold};
use hf_policy::{Rid, VolumeId};
use std::collections::BTreeMap;

/// A copy or scrub that has not gone on for so many milliseconds is stuck.
const STUCK_MS: u64 = 600_000;

type Which = (VolumeId, u32, Option<Rid>);
type How = (u64, u64, String);

/// How far each copy and scrub has come, and since when it is there.
#[derive(Default)]
pub(super) struct Progress {
    seen: BTreeMap<Which, (How, u64)>,
    stuck: BTreeMap<VolumeId, String>,
}

/// Does an operator hold it, so that it need not go on?
fn held(state: &ClusterState, x: &SyncTold) -> bool {
    let Some(v) = state.volumes.get(&x.vol) else { return true };
    match x.rid {
        None => v.scrub.as_ref().is_none_or(|s| s.paused),
        Some(rid) => {
            let r = v.shards.get(x.shard as usize).and_then(|s| s.replicas.get(&rid));
            state.rebuild_paused || r.is_none_or(|r| r.paused)
        }
    }
}

impl Progress {
    /// Looks at all copies and scrubs. Returns the volumes of which another one, or none, is stuck now.
    pub fn look(&mut self, state: &ClusterState, soft: &Soft, now_ms: u64) -> Vec<VolumeId> {
        let mut seen = BTreeMap::new();
        let mut stuck = BTreeMap::new();
        for x in soft.syncs() {
            let which: Which = (x.vol, x.shard, x.rid);
            let how: How = (x.chunks_done, x.copied_bytes, x.stage.clone());
            let since = match self.seen.get(&which) {
                Some((was, since)) if *was == how && !held(state, x) => *since,
                _ => now_ms,
            };
            if now_ms.saturating_sub(since) >= STUCK_MS {
                let what = x.rid.map_or("the scrub".into(), |rid| format!("the copy to replica {rid}"));
                let (done, all) = (x.chunks_done, x.chunks);
                let text = format!("{what} of shard {} stands at {done} of {all} chunks ({})", x.shard, x.stage);
                stuck.entry(x.vol).or_insert(text);
            }
            seen.insert(which, (how, since));
        }
        self.seen = seen;
        let old = std::mem::replace(&mut self.stuck, stuck);
        let both = old.keys().chain(self.stuck.keys());
        let mut changed: Vec<VolumeId> = both.filter(|v| old.get(v) != self.stuck.get(v)).copied().collect();
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// What is stuck, by volume, in words.
    pub fn stuck(&self) -> &BTreeMap<VolumeId, String> {
        &self.stuck
    }
}

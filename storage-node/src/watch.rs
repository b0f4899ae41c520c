//! Watching: feeds the hub while this node leads, and makes the streams that clients of any node get from it.
//!
//! The hub is the leader's, because only the leader knows which nodes and disks answer. A client may watch at any node:
//! that node passes on what the leader streams, and finds the next leader by itself.

mod items;
mod session;

pub use session::{followed, stream};

use crate::member::{Member, wall_ms};
use hf_control::health::Now;
use hf_meta_core::Command;
use std::sync::Arc;
use std::time::Duration;

/// Changes of the record are noticed at once; of what nodes tell, at least this often.
const TICK: Duration = Duration::from_millis(500);
/// A leader that was not heard for this long is none.
const SILENT: Duration = Duration::from_secs(5);

/// Looks at what changed.
fn tick(m: &Member) {
    let term = m.meta.status.borrow().term;
    let soft = m.soft_as_leader();
    let state = m.view.borrow().clone();
    let now_ms = m.watching.now_ms();
    let insecure = soft.as_ref().is_some_and(|s| s.nodes.values().any(|n| n.told.insecure));
    let now = Now { state: &state, soft: soft.as_ref(), here: m.node, wall_ms: wall_ms(), now_ms, insecure };
    m.watching.tick(&state, now, term, m.told.age() >= SILENT);
}

/// Feeds the hub while this node leads.
pub async fn run(m: Arc<Member>) {
    let mut view = m.view.clone();
    loop {
        tick(&m);
        // The record forgets what has ended by itself; a leader that is succeeded meanwhile leaves that to the next.
        if m.meta.status.borrow().is_leader {
            for (code, subject) in m.watching.ended_mutes().into_iter().take(1) {
                let m = m.clone();
                tokio::spawn(async move { drop(m.propose_new(Command::Unmute { code, subject }).await) });
            }
        }
        let _ = tokio::time::timeout(TICK, view.changed()).await;
        // A burst of changes is looked at together.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

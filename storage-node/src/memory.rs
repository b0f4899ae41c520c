//! Gives memory back to the system once it is not needed any more. The allocator keeps what was freed, for ever where a block
//! above it is in use: a node that was busy an hour ago would hold hundreds of megabytes.

use hf_repl::budget::Budget;
use std::time::Duration;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Payload bytes below which the node counts as idle.
const IDLE: u64 = 4 << 20;
/// Growth since the last time, in bytes, that is worth giving back.
const WORTH: u64 = 32 << 20;

/// Looks now and then, for ever.
pub async fn give_back_when_idle(budget: Budget) {
    let mut least = u64::MAX;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(now) = resident() else { return };
        least = least.min(now);
        if now > least.saturating_add(WORTH) && budget.taken() < IDLE {
            // It may take some milliseconds: not on a thread that others wait for.
            let _ = tokio::task::spawn_blocking(trim).await;
            least = resident().unwrap_or(now);
        }
    }
}

/// Bytes of this process that are in memory.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

fn trim() {
    // SAFETY: no arguments that could be wrong; the allocator locks what it works on.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

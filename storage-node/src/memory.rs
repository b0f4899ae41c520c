//! Gives memory back to the system when it is no longer needed. The allocator keeps what was freed, for ever
//! if a block above it is in use, so a node that was busy an hour ago would still hold hundreds of megabytes.

use hf_repl::budget::Budget;
use std::time::Duration;

/// How often memory is measured.
const LOOK: Duration = Duration::from_secs(5);
/// Payload bytes below which the node counts as idle.
const IDLE: u64 = 4 << 20;
/// Bytes of growth since the last time that are worth giving back.
const WORTH: u64 = 32 << 20;

/// Measures memory every [`LOOK`], until the process ends, and trims the heap when the node is idle and has
/// grown.
pub async fn give_back_when_idle(budget: Budget) {
    let mut least = u64::MAX;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(now) = resident() else { return };
        least = least.min(now);
        if now > least.saturating_add(WORTH) && budget.taken() < IDLE {
            // Trimming may take some milliseconds, so it must not block a thread that others wait for.
            let _ = tokio::task::spawn_blocking(trim).await;
            least = resident().unwrap_or(now);
        }
    }
}

/// Resident memory of this process in bytes.
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

//! `rebuild_impact`: how much longer the slowest hundredth of client requests may take while replicas are filled or scrubbed.

use super::*;

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "rebuild_impact",
    values: "0–100 %",
    default: "20%",
    online: Online::Yes,
    since: "0.1",
    help: "how much of the clients' p99 latency copying to replicas and scrubbing may cost; they never stop wholly",
    check: |v| integer(v.trim_end_matches('%').trim_end(), 0, 100).map(|n| format!("{n}%")),
};

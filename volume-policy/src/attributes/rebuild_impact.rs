//! `rebuild_impact`: how much longer the slowest hundredth of client requests may take while replicas are
//! filled or scrubbed.

use super::*;

/// The row of `rebuild_impact` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "rebuild_impact",
    kind: Kind::Percent,
    values: "0–100 %",
    default: Fallback::Text("20%"),
    online: Online::Yes,
    since: "0.1",
    help: "how much of the clients' p99 latency copying to replicas and scrubbing may cost; they never stop wholly",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Percent by which copying to replicas may lengthen the clients' p99.
pub type Value = u32;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    integer(v.trim_end_matches('%').trim_end(), 0, 100)
}

pub(super) fn text(v: &Value) -> String {
    format!("{v}%")
}

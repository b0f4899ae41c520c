//! `replica_timeout`: the silence after which a replica is dropped from the set (protocol T_op).

use super::*;
use crate::unit::format_duration_us;

/// The row of `replica_timeout` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "replica_timeout",
    kind: Kind::Seconds,
    values: "200ms–60s",
    default: Fallback::Text("1s"),
    online: Online::Yes,
    since: "0.1",
    help: "how long a replica may leave a write unanswered before it is dropped",
    check: |v| parse(v).map(|v| text(&v)),
};

/// How long a member may owe an answer before it is dropped, in microseconds.
pub type Value = u64;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    duration(v, "200ms", "60s")
}

pub(super) fn text(v: &Value) -> String {
    format_duration_us(*v)
}

//! `rebuild_after`: the absence after which a replica's place is taken by a new one (protocol T_gone).

use super::*;
use crate::unit::format_duration_us;

/// The row of `rebuild_after` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "rebuild_after",
    kind: Kind::Seconds,
    values: "5s–30d",
    default: Fallback::Text("10m"),
    online: Online::Yes,
    since: "0.1",
    help: "how long a node may stay away before its replicas are made anew elsewhere",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Microseconds a node may stay away before its replicas are made anew.
pub type Value = u64;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    duration(v, "5s", "30d")
}

pub(super) fn text(v: &Value) -> String {
    format_duration_us(*v)
}

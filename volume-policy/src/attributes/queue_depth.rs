//! `queue_depth`: requests of one volume in flight at the coordinator; more wait in the socket.

use super::*;

/// The row of `queue_depth` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "queue_depth",
    kind: Kind::Count,
    values: "1–1024",
    default: Fallback::Text("128"),
    online: Online::Yes,
    since: "0.1",
    help: "requests in flight that are admitted; the rest waits",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Requests in flight.
pub type Value = u32;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    integer(v, 1, 1024)
}

pub(super) fn text(v: &Value) -> String {
    v.to_string()
}

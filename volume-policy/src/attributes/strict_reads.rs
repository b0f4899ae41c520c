//! `strict_reads`: reads rely on no clock (protocol §6, strict mode).

use super::*;

/// The row of `strict_reads` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "strict_reads",
    kind: Kind::Flag,
    values: "true, false",
    default: Fallback::Text("false"),
    online: Online::Yes,
    since: "0.1",
    help: "every read asks all in-sync replicas once more instead of relying on leases; for hosts that are paused or moved with their clocks stopped",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Must every read ask the members, instead of relying on leases?
pub type Value = bool;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    boolean(v)
}

pub(super) fn text(v: &Value) -> String {
    v.to_string()
}

//! `replicas`: how many copies, each in a failure domain of its own.

use super::*;

/// The row of `replicas` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "replicas",
    kind: Kind::Count,
    values: "1–5",
    default: Fallback::Text("3"),
    online: Online::MovesData,
    since: "0.1",
    help: "copies of every block, on different failure domains",
    check: |v| parse(v).map(|v| text(&v)),
};

/// How many copies of the data are kept.
pub type Value = u32;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    integer(v, 1, 5)
}

pub(super) fn text(v: &Value) -> String {
    v.to_string()
}

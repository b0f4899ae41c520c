//! `read_only`: writes are refused.

use super::*;

/// The row of `read_only` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "read_only",
    kind: Kind::Flag,
    values: "true, false",
    default: Fallback::Text("false"),
    online: Online::Yes,
    since: "0.1",
    help: "writes, trims and zeroes are refused; hosts see a read-only device",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Are clients' writes refused?
pub type Value = bool;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    boolean(v)
}

pub(super) fn text(v: &Value) -> String {
    v.to_string()
}

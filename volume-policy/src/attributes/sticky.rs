//! `sticky`: deletion is refused.

use super::*;

/// The row of `sticky` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "sticky",
    kind: Kind::Flag,
    values: "true, false",
    default: Fallback::Text("false"),
    online: Online::Yes,
    since: "0.1",
    help: "refuse to delete the volume until this is set back",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Is a deletion of the volume refused?
pub type Value = bool;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    boolean(v)
}

pub(super) fn text(v: &Value) -> String {
    v.to_string()
}

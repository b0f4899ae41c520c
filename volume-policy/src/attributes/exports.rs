//! `exports`: over which protocols hosts may use the volume.

use super::*;

/// The row of `exports` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "exports",
    kind: Kind::Word(&["nbd", "none"]),
    values: "nbd, none",
    default: Fallback::Text("nbd"),
    online: Online::Yes,
    since: "0.1",
    help: "protocols that serve the volume on the node where it is attached",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Over what a volume can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exports {
    /// Is the volume exported by NBD?
    pub nbd: bool,
}

/// Protocols that serve it.
pub type Value = Exports;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    if v == "iscsi" {
        return Err("iscsi is not built yet; use nbd or none".into());
    }
    Ok(Exports { nbd: one_of(v, &["nbd", "none"])? == "nbd" })
}

pub(super) fn text(v: &Value) -> String {
    if v.nbd { "nbd".into() } else { "none".into() }
}

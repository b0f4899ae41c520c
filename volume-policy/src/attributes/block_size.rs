//! `block_size`: the logical sector shown to hosts. Inside, a block is always 4 KiB.

use super::*;

/// The row of `block_size` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "block_size",
    kind: Kind::Bytes,
    values: "512, 4096",
    default: Fallback::Text("4096"),
    online: Online::No,
    since: "0.1",
    help: "logical sector shown to hosts (NBD clients may always use 512); smaller requests than 4 KiB cost a read first",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Bytes: 512 or 4096.
pub type Value = u32;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    integer(one_of(v, &["512", "4096"])?, 512, 4096)
}

pub(super) fn text(v: &Value) -> String {
    v.to_string()
}

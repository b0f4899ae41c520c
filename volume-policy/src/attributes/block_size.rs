//! `block_size`: the logical sector shown to hosts. Inside, a block is always 4 KiB.

use super::*;

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "block_size",
    values: "512, 4096",
    default: "4096",
    online: Online::No,
    since: "0.1",
    help: "logical sector shown to hosts; smaller requests than 4 KiB cost a read first",
    check: |v| one_of(v, &["512", "4096"]),
};

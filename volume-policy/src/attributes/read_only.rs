//! `read_only`: writes are refused.

use super::*;

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "read_only",
    values: "true, false",
    default: "false",
    online: Online::Yes,
    since: "0.1",
    help: "writes, trims and zeroes are refused; hosts see a read-only device",
    check: boolean,
};

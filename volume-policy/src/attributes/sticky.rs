//! `sticky`: deletion is refused.

use super::*;

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "sticky",
    values: "true, false",
    default: "false",
    online: Online::Yes,
    since: "0.1",
    help: "refuse to delete the volume until this is set back",
    check: boolean,
};

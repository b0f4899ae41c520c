//! `replicas`: how many copies, each in a failure domain of its own.

use super::*;

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "replicas",
    values: "1–5",
    default: "3",
    online: Online::MovesData,
    since: "0.1",
    help: "copies of every block, on different failure domains",
    check: |v| integer(v, 1, 5),
};

//! `queue_depth`: requests of one volume in flight at the coordinator; more wait in the socket.

use super::*;

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "queue_depth",
    values: "1–1024",
    default: "128",
    online: Online::Yes,
    since: "0.1",
    help: "requests in flight that are admitted; the rest waits",
    check: |v| integer(v, 1, 1024),
};

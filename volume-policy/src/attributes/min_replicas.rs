//! `min_replicas`: below this many in-sync replicas writes wait.

use super::*;

/// The row. The default depends on `replicas`.
pub const ATTR: Attribute = Attribute {
    key: "min_replicas",
    values: "1..replicas",
    default: "2 if replicas ≥ 3, else 1",
    online: Online::Yes,
    since: "0.1",
    help: "with fewer in-sync replicas than this, writes wait until one is back; reads go on",
    check: |v| integer(v, 1, 5),
};

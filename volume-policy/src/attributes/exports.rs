//! `exports`: over which protocols hosts may use the volume.

use super::*;

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "exports",
    values: "nbd, none",
    default: "nbd",
    online: Online::Yes,
    since: "0.1",
    help: "protocols that serve the volume on the node where it is attached",
    check: |v| {
        if v == "iscsi" {
            return Err("iscsi is not built yet; use nbd or none".into());
        }
        one_of(v, &["nbd", "none"])
    },
};

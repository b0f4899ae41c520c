//! `min_replicas`: below this many in-sync replicas writes wait.

use super::*;

/// The row. The default depends on `replicas`.
pub const ATTR: Attribute = Attribute {
    key: "min_replicas",
    kind: Kind::Count,
    values: "1..replicas",
    default: Fallback::Computed {
        shown: "2 if replicas ≥ 3, else 1",
        text: |attrs| match attrs.get(replicas::ATTR.key).map(|v| replicas::parse(v.trim())) {
            None | Some(Ok(3..)) => "2".into(),
            _ => "1".into(),
        },
    },
    online: Online::Yes,
    since: "0.1",
    help: "with fewer in-sync replicas than this, writes wait until one is back; reads go on",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Fewest in-sync copies for writes to go on.
pub type Value = u32;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    integer(v, 1, 5)
}

pub(super) fn text(v: &Value) -> String {
    v.to_string()
}

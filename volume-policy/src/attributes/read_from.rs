//! `read_from`: which in-sync replica serves reads.

use super::*;

/// The row of `read_from` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "read_from",
    kind: Kind::Word(&["local", "nearest", "spread"]),
    values: "local, nearest, spread",
    default: Fallback::Text("local"),
    online: Online::Yes,
    since: "0.1",
    help: "local: this node's replica first; nearest: same rack, zone, region first; spread: all in turn",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Which replica reads.
pub type Value = ReadFrom;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    word(v, ReadFrom::WORDS, ReadFrom::parse)
}

pub(super) fn text(v: &Value) -> String {
    v.word().into()
}

word_enum! {
    /// How the coordinator chooses the member that serves a read.
    ReadFrom {
        /// The attached node's own replica, else any.
        Local = "local",
        /// The topologically nearest.
        Nearest = "nearest",
        /// All in-sync members in turn.
        Spread = "spread",
    }
}

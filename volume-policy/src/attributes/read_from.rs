//! `read_from`: which in-sync replica serves reads.

use super::*;

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "read_from",
    values: "local, nearest, spread",
    default: "local",
    online: Online::Yes,
    since: "0.1",
    help: "local: this node's replica first; nearest: same rack, zone, region first; spread: all in turn",
    check: |v| one_of(v, ReadFrom::WORDS),
};

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

//! `media`: the class of disk that holds the replicas.

use super::*;

/// The row of `media` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "media",
    kind: Kind::Word(&["any", "nvme", "ssd", "hdd"]),
    values: "any, nvme, ssd, hdd",
    default: Fallback::Text("any"),
    online: Online::MovesData,
    since: "0.1",
    help: "pool class of the disks that hold replicas",
    check: |v| parse(v).map(|v| text(&v)),
};

/// The class that every disk of the volume must have.
pub type Value = Media;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    word(v, Media::WORDS, Media::parse)
}

pub(super) fn text(v: &Value) -> String {
    v.word().into()
}

word_enum! {
    /// A class of disk; `Any` only in policies.
    Media {
        /// Whatever there is.
        Any = "any",
        /// Flash behind NVMe.
        Nvme = "nvme",
        /// Flash of another kind than NVMe.
        Ssd = "ssd",
        /// A disk that rotates.
        Hdd = "hdd",
    }
}

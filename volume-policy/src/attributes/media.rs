//! `media`: the class of disk that holds the replicas.

use super::*;

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "media",
    values: "any, nvme, ssd, hdd",
    default: Fallback::Text("any"),
    online: Online::MovesData,
    since: "0.1",
    help: "pool class of the disks that hold replicas",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Disk class.
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
        /// NVMe flash.
        Nvme = "nvme",
        /// Other flash.
        Ssd = "ssd",
        /// Rotating.
        Hdd = "hdd",
    }
}

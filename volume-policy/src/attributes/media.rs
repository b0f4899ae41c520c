//! `media`: the class of disk that holds the replicas.

use super::*;

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "media",
    values: "any, nvme, ssd, hdd",
    default: "any",
    online: Online::MovesData,
    since: "0.1",
    help: "pool class of the disks that hold replicas",
    check: |v| one_of(v, Media::WORDS),
};

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

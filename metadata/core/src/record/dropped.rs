//! Why and when a replica left the in-sync set, as its coordinator told it.
//!
//! It is for people and for health checks: nothing is decided by it. A replica that never was in sync has none.

use serde::{Deserialize, Serialize};

/// Why a replica left the in-sync set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DropReason {
    /// It left a request unanswered for too long, though the link to it was up.
    Timeout,
    /// The link to its disk was down for too long: its process is gone, or the network between.
    Link,
    /// It refused what it was asked as something that makes no sense.
    Nack,
    /// What its disk holds is not the recorded storage: wiped, restored from a copy or replaced.
    Storage,
    /// Its disk has no room left, while enough others have.
    NoSpace,
    /// What it was sent did not match its checksum there, again and again.
    BadCrc,
    /// Its disk has failed.
    Disk,
    /// It was asked to leave: a successor is in sync, or it is not wanted any more.
    Left,
    /// It had just been filled when it missed more than can be mirrored to it: it is filled again.
    Resync,
    /// Its node did not make it, and its shard began without it.
    Unmade,
    /// Another replica was declared the truth by an operator.
    Forced,
}

impl DropReason {
    /// The reason in words, to go on after "because".
    pub fn words(self) -> &'static str {
        match self {
            DropReason::Timeout => "it did not answer in time",
            DropReason::Link => "the link to it was down",
            DropReason::Nack => "it refused what it was asked",
            DropReason::Storage => "its storage is not the recorded one (wiped, restored or replaced)",
            DropReason::NoSpace => "its disk is full",
            DropReason::BadCrc => "data reached it damaged again and again",
            DropReason::Disk => "its disk has failed",
            DropReason::Left => "it was asked to leave",
            DropReason::Resync => "it missed too much at once while it joined",
            DropReason::Unmade => "its node did not make it",
            DropReason::Forced => "another replica was declared the truth",
        }
    }
}

/// Why and when a replica left the in-sync set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// Why it left.
    pub reason: DropReason,
    /// When it left, Unix milliseconds of the proposer's clock.
    pub at_ms: u64,
}

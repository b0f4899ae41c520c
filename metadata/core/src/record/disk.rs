//! What the cluster remembers of a disk.

use super::records::{Record, replace};
use super::volume::is_zero;
use crate::cow::CowMap;
use hf_policy::attributes::Media;
use hf_policy::{DiskId, DiskUuid, NodeId};
use serde::{Deserialize, Serialize};

/// A disk's health, as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DiskState {
    /// The disk is in use.
    Ok,
    /// The disk has failed for good (C4), with the reason.
    Failed(String),
    /// The disk met more bad blocks than its error budget allows, with the reason. It serves what it holds until that
    /// lives elsewhere, and gets nothing new.
    Failing(String),
}

impl DiskState {
    /// Is it the same kind of health? The reason may differ.
    pub fn is_like(&self, other: &DiskState) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DiskFault {
    /// It answers with I/O errors.
    Io,
    /// Nothing is at its path, or its store is gone.
    Gone,
    /// Another disk is at its path.
    OtherIdentity,
    /// Another process holds it.
    Busy,
    /// It met an error that it must not go on after, or an invariant of our code did not hold.
    Latched,
    /// Its store cannot be read: damaged, or of a newer release.
    Unreadable,
    /// It met more bad blocks than its error budget allows.
    ErrorBudget,
}

/// What is recorded of a disk of a node's pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRecord {
    /// Its number, given by the cluster.
    pub id: DiskId,
    /// The node that it belongs to.
    pub node: NodeId,
    /// The uuid in its superblock.
    pub uuid: DiskUuid,
    /// Directory or device on its node, for people.
    pub path: String,
    /// Its class; never `any`.
    pub media: Media,
    /// Bytes that it has for data.
    pub capacity: u64,
    /// Its health, as last reported.
    pub state: DiskState,
    /// It is being drained: its replicas move elsewhere, and it gets no new ones.
    #[serde(default)]
    pub draining: bool,
    /// Its drain is held by an operator: nothing more is begun because of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain_paused: bool,
    /// What is wrong with it; none: nothing, or nobody told (before version 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<DiskFault>,
    /// When its health last changed, or when it came if it never did: Unix milliseconds of the proposer's clock; 0: not
    /// known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since_ms: u64,
    /// Revision of the last change.
    pub rev: u64,
}

/// Disks by uuid.
pub type DiskIndex = CowMap<(DiskUuid, DiskId), ()>;

impl Record for DiskRecord {
    type Key = DiskId;
    type Index = DiskIndex;
    const KIND: &'static str = "disk";

    fn key(&self) -> DiskId {
        self.id
    }
    fn rev(&self) -> u64 {
        self.rev
    }
    fn index(index: &mut DiskIndex, old: Option<&Self>, new: Option<&Self>) {
        let uuid = |d: &DiskRecord| (d.uuid, d.id);
        replace(index, old.map(uuid), new.map(uuid));
    }
}

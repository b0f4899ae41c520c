//! What [`crate::Command::Together`] is made of: the changes that the coordinators of a volume's shards ask for.

use crate::record::{DropReason, ScrubReport};
use hf_policy::{Rid, StoreUuid, Ver};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A change that one shard's coordinator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardChange {
    /// Number of the shard in its volume.
    pub shard: u32,
    /// What its coordinator wants.
    pub what: ShardStep,
}

/// The changes that [`crate::Command::Together`] can carry; they mean what the commands of the same names do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ShardStep {
    /// Members leave: [`crate::Command::Drop`].
    Drop {
        /// The replicas that leave.
        rids: Vec<Rid>,
        /// A version up to which each of them holds every acknowledged write.
        base: Ver,
        /// For each of them the position of its disk's journal, as it last told the caller; absent: not known.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        told: BTreeMap<Rid, u64>,
        /// Why each of them leaves; absent: not known. New in version 3.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        reasons: BTreeMap<Rid, DropReason>,
    },
    /// A replica becomes a member: [`crate::Command::Add`].
    Add {
        /// The replica that it is about.
        rid: Rid,
        /// The storage that it was filled in.
        store_uuid: StoreUuid,
    },
    /// The shard is scrubbed: [`crate::Command::Scrubbed`].
    Scrubbed {
        /// The scrub's id; one that is over is refused.
        id: u64,
        /// What the scrub of this shard met.
        report: ScrubReport,
    },
}

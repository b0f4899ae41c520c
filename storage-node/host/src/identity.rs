//! `node.json`: what a node knows about itself between starts.

use hf_policy::{BootId, ClusterId, DiskId, DiskUuid, NodeId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The format this release writes.
pub const FORMAT: u32 = 1;

/// A disk this node was given.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct KnownDisk {
    /// Where.
    pub path: PathBuf,
    /// From its superblock.
    pub uuid: DiskUuid,
    /// Its number in the cluster.
    pub id: DiskId,
}

/// `node.json`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Format of the data directory.
    pub format: u32,
    /// Made once: a node without its directory is another node.
    pub uuid: BootId,
    /// The cluster, once joined.
    pub cluster: ClusterId,
    /// The node's number, once joined.
    pub node: NodeId,
    /// Its disks.
    pub disks: Vec<KnownDisk>,
    /// It has had a part in the metadata group: its log holds votes that it must not forget.
    #[serde(default)]
    pub has_log: bool,
}

/// Why `node.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// From the future.
    #[error("format {0}, this release knows up to {FORMAT}")]
    TooNew(u32),
    /// Not what it should be.
    #[error("{0}")]
    Damaged(#[from] serde_json::Error),
}

impl Identity {
    /// From the file's bytes. The format is asked first: a newer file need not look like ours otherwise.
    pub fn parse(bytes: &[u8]) -> Result<Identity, IdentityError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let v: Version = serde_json::from_slice(bytes)?;
        if v.format > FORMAT {
            return Err(IdentityError::TooNew(v.format));
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// To the file's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }
}

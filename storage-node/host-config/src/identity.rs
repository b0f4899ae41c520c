//! `node.json`: what a node keeps about itself between starts.

use hf_policy::{BootId, ClusterId, DiskId, DiskUuid, NodeId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The format version that this release writes; newer ones are refused.
pub const FORMAT: u32 = 1;

/// A disk that was given to this node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct KnownDisk {
    /// Directory or block device.
    pub path: PathBuf,
    /// Uuid from the disk's superblock.
    pub uuid: DiskUuid,
    /// Its number in the cluster.
    pub id: DiskId,
}

/// The contents of `node.json`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Format version of the data directory.
    pub format: u32,
    /// Random, made with the data directory: a node that lost its directory is another node.
    pub uuid: BootId,
    /// The cluster, once joined.
    pub cluster: ClusterId,
    /// The node's number, once joined.
    pub node: NodeId,
    /// The disks that were given to this node.
    pub disks: Vec<KnownDisk>,
    /// The node has taken part in the metadata group, so its log holds votes that it must not forget.
    #[serde(default)]
    pub has_log: bool,
}

/// Why `node.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A newer release wrote the file, in this format version.
    #[error("format {0}, this release knows up to {FORMAT}")]
    TooNew(u32),
    /// The file is not valid JSON, or lacks a field.
    #[error("{0}")]
    Damaged(#[from] serde_json::Error),
}

impl Identity {
    /// Parses the file's bytes. The format is checked first, because a newer file may look different in
    /// everything else.
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

    /// The file's bytes, as readable JSON.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }
}

//! The daemon's configuration file, as it is written. What flags and the environment say beside it, and what all of it means, is the
//! daemon's (`storage-node/src/config.rs`). Unknown keys are refused.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The file.
#[derive(Serialize, Deserialize, Debug, Default, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Node name.
    pub name: Option<String>,
    /// Data directory.
    pub data_dir: Option<PathBuf>,
    /// Control plane address.
    pub api: Option<String>,
    /// Replication address.
    pub data: Option<String>,
    /// NBD address.
    pub nbd: Option<String>,
    /// NBD Unix socket.
    pub nbd_socket: Option<PathBuf>,
    /// Metrics address.
    pub http: Option<String>,
    /// Reactors.
    pub reactors: Option<usize>,
    /// io_uring or threads.
    pub disk_backend: Option<String>,
    /// text or json.
    pub log_format: Option<String>,
    /// A duration.
    pub replace_voter_after: Option<String>,
    /// Bad blocks a disk may meet.
    pub disk_error_budget: Option<u64>,
    /// Replicas that a disk may hold at most.
    pub disk_replicas: Option<u32>,
    /// At most so many.
    pub nbd_connections: Option<usize>,
    /// A size, per disk.
    pub write_memory: Option<String>,
    /// A size, per disk.
    pub page_memory: Option<String>,
    /// A size.
    pub metadata_memory: Option<String>,
    /// Memory of the node for payload.
    pub payload_memory: Option<String>,
    /// Topology and free labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Disks to add.
    #[serde(default)]
    pub disk: Vec<DiskConfig>,
}

/// A disk that the node adds when it joins a cluster.
#[derive(Serialize, Deserialize, Debug, Default, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Directory or block device.
    pub path: PathBuf,
    /// How much of a directory's file system to use.
    pub size: Option<String>,
    /// nvme, ssd, hdd; guessed if not given.
    pub media: Option<String>,
}

impl File {
    /// From TOML.
    pub fn parse(text: &str) -> Result<File, toml::de::Error> {
        toml::from_str(text)
    }
}

impl DiskConfig {
    /// From `PATH[,size=SIZE][,media=MEDIA]`, as a flag or the environment says it.
    pub fn parse(text: &str) -> Result<DiskConfig, String> {
        let mut words = text.split(',');
        let path = words.next().unwrap_or_default();
        if path.is_empty() {
            return Err(format!("\"{text}\" names no path; write PATH[,size=SIZE][,media=MEDIA]"));
        }
        let mut disk = DiskConfig { path: path.into(), size: None, media: None };
        for word in words {
            match word.split_once('=') {
                Some(("size", v)) => disk.size = Some(v.into()),
                Some(("media", v)) => disk.media = Some(v.into()),
                _ => return Err(format!("\"{word}\" is neither size=SIZE nor media=MEDIA")),
            }
        }
        Ok(disk)
    }
}

/// `key=value`, as a flag or the environment says a label.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((k, v)) if !k.trim().is_empty() => Ok((k.trim().into(), v.trim().into())),
        _ => Err(format!("\"{text}\" is not key=value")),
    }
}

/// Is it `host:port`?
pub fn is_address(v: &str) -> bool {
    v.rsplit_once(':').is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok())
}

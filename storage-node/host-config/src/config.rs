//! The daemon's configuration file, as it is written. Unknown keys are refused. The daemon itself
//! (`storage-node/src/config.rs`) merges it with flags and environment, and checks what the values mean.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The whole file; every key may be absent.
#[derive(Serialize, Deserialize, Debug, Default, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Name of the node, unique in the cluster.
    pub name: Option<String>,
    /// Directory for the node's identity and metadata.
    pub data_dir: Option<PathBuf>,
    /// Address of the control plane, `host:port`.
    pub api: Option<String>,
    /// Address of replication, `host:port`.
    pub data: Option<String>,
    /// Address of the NBD export, `host:port`.
    pub nbd: Option<String>,
    /// Path of the Unix socket of the NBD export.
    pub nbd_socket: Option<PathBuf>,
    /// Address of the REST API, the page and `/metrics`, `host:port`; empty: not served.
    pub http: Option<String>,
    /// Names by which callers may reach the `http` address, beside numbers and localhost.
    #[serde(default)]
    pub http_hosts: Vec<String>,
    /// Path of the Unix socket of the REST API.
    pub api_socket: Option<PathBuf>,
    /// The network is trusted: `http` may listen beyond loopback though nobody is asked who it is.
    pub trusted_network: Option<bool>,
    /// Number of reactors.
    pub reactors: Option<usize>,
    /// How disks are accessed: `io_uring` or `threads`.
    pub disk_backend: Option<String>,
    /// Format of the log: `text` or `json`.
    pub log_format: Option<String>,
    /// Duration after which a metadata voter that is away is replaced.
    pub replace_voter_after: Option<String>,
    /// Bad blocks that a disk may meet before its replicas are moved; 0: any number.
    pub disk_error_budget: Option<u64>,
    /// Replicas that a disk may hold at most.
    pub disk_replicas: Option<u32>,
    /// NBD connections that are served at once, at most.
    pub nbd_connections: Option<usize>,
    /// Size: memory of each disk for writes that are not in place yet.
    pub write_memory: Option<String>,
    /// Size: memory of each disk for chunk pages.
    pub page_memory: Option<String>,
    /// Size: memory of the metadata's RocksDB.
    pub metadata_memory: Option<String>,
    /// Size: memory of the node for the payload of requests and answers.
    pub payload_memory: Option<String>,
    /// Topology and free labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Disks that the node adds when it is part of a cluster.
    #[serde(default)]
    pub disk: Vec<DiskConfig>,
}

/// A disk that the node adds when it is part of a cluster.
#[derive(Serialize, Deserialize, Debug, Default, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Directory or block device.
    pub path: PathBuf,
    /// Size: how much of a directory's file system to use.
    pub size: Option<String>,
    /// `nvme`, `ssd` or `hdd`; absent: as the kernel says.
    pub media: Option<String>,
}

impl File {
    /// Parses the file's TOML text.
    pub fn parse(text: &str) -> Result<File, toml::de::Error> {
        toml::from_str(text)
    }
}

impl DiskConfig {
    /// Parses `PATH[,size=SIZE][,media=MEDIA]`, the form of flags and the environment. The error is for the
    /// user.
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

/// Parses `key=value`, the form of a label in flags and the environment. The error is for the user.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((k, v)) if !k.trim().is_empty() => Ok((k.trim().into(), v.trim().into())),
        _ => Err(format!("\"{text}\" is not key=value")),
    }
}

/// Whether the text has the form `host:port`.
pub fn is_address(v: &str) -> bool {
    v.rsplit_once(':').is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok())
}

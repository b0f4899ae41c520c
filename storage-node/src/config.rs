//! The daemon's configuration: one TOML file; every key is also a flag and an environment variable. Unknown keys are refused.

use crate::reactor::DiskOptions;
use hf_host::config::{DiskConfig, File, is_address};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `holdfast node`: the daemon.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct NodeArgs {
    /// Configuration file (TOML). Flags and environment variables win over it.
    #[arg(long, env = "HOLDFAST_CONFIG")]
    pub config: Option<PathBuf>,
    /// This node's name: unique in the cluster.
    #[arg(long, env = "HOLDFAST_NAME")]
    pub name: Option<String>,
    /// Where the node keeps its identity and metadata.
    #[arg(long, env = "HOLDFAST_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of the control plane (API, metadata), host:port.
    #[arg(long, env = "HOLDFAST_API")]
    pub api: Option<String>,
    /// Address of replication, host:port.
    #[arg(long, env = "HOLDFAST_DATA")]
    pub data: Option<String>,
    /// Address of the NBD export, host:port.
    #[arg(long, env = "HOLDFAST_NBD")]
    pub nbd: Option<String>,
    /// Unix socket of the NBD export.
    #[arg(long, env = "HOLDFAST_NBD_SOCKET")]
    pub nbd_socket: Option<PathBuf>,
    /// Address of /metrics and /healthz, host:port.
    #[arg(long, env = "HOLDFAST_HTTP")]
    pub http: Option<String>,
    /// Reactors (default: one per core, at most one per disk).
    #[arg(long, env = "HOLDFAST_REACTORS")]
    pub reactors: Option<usize>,
    /// How disks are accessed: io_uring or threads.
    #[arg(long, env = "HOLDFAST_DISK_BACKEND", value_parser = ["io_uring", "threads"])]
    pub disk_backend: Option<String>,
    /// A metadata voter that is away for longer is replaced by another node (default 2m).
    #[arg(long, env = "HOLDFAST_REPLACE_VOTER_AFTER")]
    pub replace_voter_after: Option<String>,
    /// Bad blocks that a disk may meet before what it holds is moved elsewhere (default 256; 0: any number).
    #[arg(long, env = "HOLDFAST_DISK_ERROR_BUDGET")]
    pub disk_error_budget: Option<u64>,
    /// Log format: text or json.
    #[arg(long, env = "HOLDFAST_LOG_FORMAT", value_parser = ["text", "json"])]
    pub log_format: Option<String>,
}

/// Everything, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Node name.
    pub name: String,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Control plane address.
    pub api: String,
    /// Replication address.
    pub data: String,
    /// NBD address.
    pub nbd: String,
    /// NBD Unix socket.
    pub nbd_socket: Option<PathBuf>,
    /// Metrics address.
    pub http: Option<String>,
    /// Reactors.
    pub reactors: usize,
    /// How disks are used.
    pub disk_options: DiskOptions,
    /// JSON logs.
    pub json_logs: bool,
    /// Microseconds.
    pub replace_voter_after: u64,
    /// Topology and free labels.
    pub labels: BTreeMap<String, String>,
    /// Disks to add.
    pub disks: Vec<DiskConfig>,
}

impl Config {
    /// File, environment and flags, all problems at once.
    pub fn load(args: NodeArgs) -> anyhow::Result<Config> {
        let file = match &args.config {
            None => File::default(),
            Some(path) => read(path)?,
        };
        let mut problems = Vec::new();
        let name = args.name.or(file.name).unwrap_or_default();
        if let Err(why) = hf_policy::policy::valid_name(&name) {
            problems.push(format!("name = \"{name}\": {why}"));
        }
        let data_dir = args.data_dir.or(file.data_dir).unwrap_or_default();
        if data_dir.as_os_str().is_empty() {
            problems.push("data_dir is missing: say where the node keeps its metadata".into());
        }
        let mut address = |key: &str, v: Option<String>, default: &str| {
            let v = v.unwrap_or_else(|| default.to_string());
            if !is_address(&v) {
                problems.push(format!("{key} = \"{v}\" is not host:port"));
            }
            v
        };
        let api = address("api", args.api.or(file.api), "127.0.0.1:7420");
        let data = address("data", args.data.or(file.data), "127.0.0.1:7421");
        let nbd = address("nbd", args.nbd.or(file.nbd), "127.0.0.1:10809");
        let http = args.http.or(file.http).map(|v| address("http", Some(v), ""));
        let backend = args.disk_backend.or(file.disk_backend).unwrap_or_else(|| "io_uring".into());
        if !["io_uring", "threads"].contains(&backend.as_str()) {
            problems.push(format!("disk_backend = \"{backend}\" is neither io_uring nor threads"));
        }
        for d in &file.disk {
            if let Some(Err(why)) = d.size.as_deref().map(hf_policy::parse_size) {
                problems.push(format!("disk {}: size = {why}", d.path.display()));
            }
        }
        let grace = args.replace_voter_after.or(file.replace_voter_after).unwrap_or_else(|| "2m".into());
        let replace_voter_after = match hf_policy::parse_duration_us(&grace) {
            Ok(us) if us >= 5_000_000 => us,
            Ok(_) => {
                problems.push(format!("replace_voter_after = \"{grace}\" is below 5s"));
                0
            }
            Err(why) => {
                problems.push(format!("replace_voter_after = {why}"));
                0
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let reactors = args.reactors.or(file.reactors).unwrap_or_else(|| cores.min(file.disk.len().max(1)));
        if reactors == 0 || reactors > 256 {
            problems.push(format!("reactors = {reactors} is not from 1 to 256"));
        }
        if !problems.is_empty() {
            anyhow::bail!("the configuration cannot be used:\n  {}", problems.join("\n  "));
        }
        Ok(Config {
            name,
            data_dir,
            api,
            data,
            nbd,
            nbd_socket: args.nbd_socket.or(file.nbd_socket),
            http,
            reactors,
            disk_options: DiskOptions {
                force_threads: backend == "threads",
                error_budget: args.disk_error_budget.or(file.disk_error_budget).unwrap_or(256),
            },
            replace_voter_after,
            json_logs: args.log_format.or(file.log_format).as_deref() == Some("json"),
            labels: file.labels,
            disks: file.disk,
        })
    }
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    File::parse(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}

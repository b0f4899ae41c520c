//! The daemon's configuration: one TOML file. Every key is also a flag and an environment variable. Unknown
//! keys are refused.

use hf_host_config::config::{DiskConfig, File, is_address, parse_label};
use hf_policy::attributes::Media;
use hf_reactor::disk::DiskOptions;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments of `holdfast node`, the daemon.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct NodeArgs {
    /// Configuration file (TOML). Flags and environment variables win over it.
    #[arg(long, env = "HOLDFAST_CONFIG")]
    pub config: Option<PathBuf>,
    /// Name of this node, unique in the cluster.
    #[arg(long, env = "HOLDFAST_NAME")]
    pub name: Option<String>,
    /// Directory for the node's identity and metadata.
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
    /// Address of the REST API, the page and /metrics, host:port (default 127.0.0.1:7423; empty: not served).
    #[arg(long, env = "HOLDFAST_HTTP")]
    pub http: Option<String>,
    /// Name by which callers may reach the http address, beside numbers and localhost; repeat it or separate several
    /// by commas. Names given here replace the file's.
    #[arg(long = "http-host", env = "HOLDFAST_HTTP_HOSTS", value_name = "NAME", value_delimiter = ',')]
    pub http_hosts: Vec<String>,
    /// Unix socket of the REST API.
    #[arg(long, env = "HOLDFAST_API_SOCKET")]
    pub api_socket: Option<PathBuf>,
    /// Let http listen beyond loopback though nobody is asked who it is: whoever reaches it can change everything.
    #[arg(long, env = "HOLDFAST_TRUSTED_NETWORK", num_args = 0..=1, default_missing_value = "true")]
    pub trusted_network: Option<bool>,
    /// Number of reactor threads (default: one per core, at most one per disk).
    #[arg(long, env = "HOLDFAST_REACTORS")]
    pub reactors: Option<usize>,
    /// How disks are accessed: io_uring or threads.
    #[arg(long, env = "HOLDFAST_DISK_BACKEND", value_parser = ["io_uring", "threads"])]
    pub disk_backend: Option<String>,
    /// A metadata voter that is away for longer is replaced by another node (default 2m).
    #[arg(long, env = "HOLDFAST_REPLACE_VOTER_AFTER")]
    pub replace_voter_after: Option<String>,
    /// Bad blocks that a disk may meet before its replicas are moved elsewhere (default 256; 0: any number).
    #[arg(long, env = "HOLDFAST_DISK_ERROR_BUDGET")]
    pub disk_error_budget: Option<u64>,
    /// Replicas that a disk may hold at most (default 65536).
    #[arg(long, env = "HOLDFAST_DISK_REPLICAS")]
    pub disk_replicas: Option<u32>,
    /// NBD connections that are served at the same time, of all volumes; more are closed at once (default
    /// 10000).
    #[arg(long, env = "HOLDFAST_NBD_CONNECTIONS")]
    pub nbd_connections: Option<usize>,
    /// Memory of each disk for writes that are in its journal but not in place yet (default 64MiB); more
    /// writes wait.
    #[arg(long, env = "HOLDFAST_WRITE_MEMORY")]
    pub write_memory: Option<String>,
    /// Memory of each disk for chunk pages, which hold places and checksums of blocks; 6 KiB for each MiB of
    /// data in use (default 48MiB).
    #[arg(long, env = "HOLDFAST_PAGE_MEMORY")]
    pub page_memory: Option<String>,
    /// Memory of the metadata's RocksDB: its memtables and its cache (default 32MiB).
    #[arg(long, env = "HOLDFAST_METADATA_MEMORY")]
    pub metadata_memory: Option<String>,
    /// Memory of the node for payload, the data of requests and answers (default 512MiB); more requests wait.
    #[arg(long, env = "HOLDFAST_PAYLOAD_MEMORY")]
    pub payload_memory: Option<String>,
    /// Log format: text or json.
    #[arg(long, env = "HOLDFAST_LOG_FORMAT", value_parser = ["text", "json"])]
    pub log_format: Option<String>,
    /// Topology or free label; repeat it or separate several by commas. Labels given here replace the file's.
    #[arg(long = "label", env = "HOLDFAST_LABELS", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Disk to add, PATH[,size=SIZE][,media=MEDIA]; repeat it or separate several by semicolons. Disks given
    /// here replace the file's.
    #[arg(long = "disk", env = "HOLDFAST_DISKS", value_name = "DISK", value_delimiter = ';')]
    pub disks: Vec<String>,
}

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the node, unique in the cluster.
    pub name: String,
    /// Directory for the node's identity and metadata.
    pub data_dir: PathBuf,
    /// Address of the control plane, `host:port`.
    pub api: String,
    /// Address of replication, `host:port`.
    pub data: String,
    /// Address of the NBD export, `host:port`.
    pub nbd: String,
    /// Path of the Unix socket of the NBD export.
    pub nbd_socket: Option<PathBuf>,
    /// NBD connections that are served at once, at most.
    pub nbd_connections: usize,
    /// Address of the REST API, the page and `/metrics`, `host:port`; `None`: not served.
    pub http: Option<String>,
    /// Names by which callers may reach it, beside numbers and localhost.
    pub http_hosts: Vec<String>,
    /// Path of the Unix socket of the REST API.
    pub api_socket: Option<PathBuf>,
    /// Whoever reaches `http` beyond loopback can change everything, and the operator accepts that.
    pub insecure: bool,
    /// Number of reactors, at least 1.
    pub reactors: usize,
    /// Options of all disks.
    pub disk_options: DiskOptions,
    /// Bytes of memory for the metadata's RocksDB.
    pub metadata_memory: usize,
    /// Bytes of memory for the payload of requests and answers.
    pub payload_memory: usize,
    /// Whether the log is JSON instead of text.
    pub json_logs: bool,
    /// Microseconds after which a metadata voter that is away is replaced.
    pub replace_voter_after: u64,
    /// Topology and free labels.
    pub labels: BTreeMap<String, String>,
    /// Disks to add when the node is part of a cluster.
    pub disks: Vec<DiskConfig>,
}

/// Reads values and collects what is wrong with them, so that all problems are reported at once.
#[derive(Default)]
struct Check(Vec<String>);

impl Check {
    fn address(&mut self, key: &str, v: Option<String>, default: &str) -> String {
        let v = v.unwrap_or_else(|| default.to_string());
        if !is_address(&v) {
            self.0.push(format!("{key} = \"{v}\" is not host:port"));
        }
        v
    }

    fn name(&mut self, given: Option<String>) -> String {
        let name = given.unwrap_or_default();
        if let Err(why) = hf_policy::policy::valid_name(&name) {
            self.0.push(format!("name = \"{name}\": {why}"));
        }
        name
    }

    /// The address of the REST API; `None`: it is not served. Beyond loopback only in a trusted network.
    fn http(&mut self, given: Option<String>, trusted: bool) -> Option<String> {
        let addr = given.unwrap_or_else(|| "127.0.0.1:7423".into());
        if addr.is_empty() {
            return None;
        }
        let addr = self.address("http", Some(addr), "");
        if !is_loopback(&addr) && !trusted {
            self.0.push(format!(
                "http = \"{addr}\" is beyond loopback, and nobody who reaches it is asked who it is: use 127.0.0.1, or say trusted_network = true if everybody on that network may change everything"
            ));
        }
        Some(addr)
    }

    /// The value; if it is an error, notes the problem and returns the type's default.
    fn value<T: Default>(&mut self, key: &str, v: Result<T, String>) -> T {
        v.unwrap_or_else(|why| {
            self.0.push(format!("{key} = {why}"));
            T::default()
        })
    }

    /// Parses a size from `least` to [`MOST_MEMORY`], in bytes.
    fn memory(&mut self, key: &str, v: Option<String>, default: &str, least: &str) -> usize {
        let v = v.unwrap_or_else(|| default.to_string());
        let (bytes, least_bytes) = (hf_policy::parse_size(&v), hf_policy::parse_size(least).unwrap_or(0));
        self.value(
            key,
            bytes.and_then(|b| match usize::try_from(b) {
                Ok(n) if b >= least_bytes && b <= MOST_MEMORY => Ok(n),
                _ => Err(format!("\"{v}\" is not from {least} to 64GiB")),
            }),
        )
    }

    /// Checks that `n` is from 1 to `most`.
    fn count(&mut self, key: &str, n: usize, most: usize) -> usize {
        if n == 0 || n > most {
            self.0.push(format!("{key} = {n} is not from 1 to {most}"));
        }
        n
    }

    fn disk(&mut self, d: &DiskConfig) {
        let (size, media) = (d.size.as_deref().map(hf_policy::parse_size), d.media.as_deref());
        if let Some(Err(why)) = size {
            self.0.push(format!("disk {}: size = {why}", d.path.display()));
        }
        if let Some(m) = media.filter(|m| Media::parse(m).is_none_or(|m| m == Media::Any)) {
            self.0.push(format!("disk {}: media = \"{m}\" is not one of nvme, ssd, hdd", d.path.display()));
        }
    }
}

/// Does the address `host:port` reach this machine only?
fn is_loopback(addr: &str) -> bool {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Largest memory bound that is accepted, in bytes. A larger one is a typo.
const MOST_MEMORY: u64 = 64 << 30;

/// Microseconds after which a voter that is away is replaced; default 2 minutes, at least 5 s.
fn voter_grace(given: Option<String>) -> Result<u64, String> {
    let grace = given.unwrap_or_else(|| "2m".into());
    hf_policy::parse_duration_us(&grace).and_then(|us| match us {
        5_000_000.. => Ok(us),
        _ => Err(format!("\"{grace}\" is below 5s")),
    })
}

impl Config {
    /// Reads the file, the environment and the flags. The error lists all problems at once.
    pub fn load(args: NodeArgs) -> anyhow::Result<Config> {
        let file = match &args.config {
            None => File::default(),
            Some(path) => read(path)?,
        };
        let mut check = Check::default();
        let name = check.name(args.name.or(file.name));
        let data_dir = args.data_dir.or(file.data_dir).unwrap_or_default();
        if data_dir.as_os_str().is_empty() {
            check.0.push("data_dir is missing: say where the node keeps its metadata".into());
        }
        let backend = args.disk_backend.or(file.disk_backend).unwrap_or_else(|| "io_uring".into());
        if !["io_uring", "threads"].contains(&backend.as_str()) {
            check.0.push(format!("disk_backend = \"{backend}\" is neither io_uring nor threads"));
        }
        let given: Vec<_> = args.disks.iter().map(|d| check.value("disk", DiskConfig::parse(d))).collect();
        let disks = if given.is_empty() { file.disk } else { given };
        disks.iter().for_each(|d| check.disk(d));
        let given: BTreeMap<_, _> = args.labels.iter().map(|l| check.value("label", parse_label(l))).collect();
        let labels = if given.is_empty() { file.labels } else { given };
        let grace = voter_grace(args.replace_voter_after.or(file.replace_voter_after));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let reactors = args.reactors.or(file.reactors).unwrap_or_else(|| cores.min(disks.len().max(1)));
        let reactors = check.count("reactors", reactors, 256);
        let nbd_connections = args.nbd_connections.or(file.nbd_connections).unwrap_or(10_000);
        let nbd_connections = check.count("nbd_connections", nbd_connections, 1_000_000);
        let http = check.http(args.http.or(file.http), args.trusted_network.or(file.trusted_network) == Some(true));
        let cfg = Config {
            name,
            data_dir,
            api: check.address("api", args.api.or(file.api), "127.0.0.1:7420"),
            data: check.address("data", args.data.or(file.data), "127.0.0.1:7421"),
            nbd: check.address("nbd", args.nbd.or(file.nbd), "127.0.0.1:10809"),
            insecure: http.as_ref().is_some_and(|a| !is_loopback(a)),
            http,
            http_hosts: if args.http_hosts.is_empty() { file.http_hosts } else { args.http_hosts },
            api_socket: args.api_socket.or(file.api_socket),
            nbd_socket: args.nbd_socket.or(file.nbd_socket),
            nbd_connections,
            reactors,
            disk_options: DiskOptions {
                force_threads: backend == "threads",
                replicas: args.disk_replicas.or(file.disk_replicas).unwrap_or(1 << 16),
                error_budget: args.disk_error_budget.or(file.disk_error_budget).unwrap_or(256),
                write_memory: check.memory("write_memory", args.write_memory.or(file.write_memory), "64MiB", "4MiB"),
                page_memory: check.memory("page_memory", args.page_memory.or(file.page_memory), "48MiB", "1MiB"),
            },
            metadata_memory: check.memory(
                "metadata_memory",
                args.metadata_memory.or(file.metadata_memory),
                "32MiB",
                "4MiB",
            ),
            payload_memory: check.memory(
                "payload_memory",
                args.payload_memory.or(file.payload_memory),
                "512MiB",
                "64MiB",
            ),
            replace_voter_after: check.value("replace_voter_after", grace),
            json_logs: args.log_format.or(file.log_format).as_deref() == Some("json"),
            labels,
            disks,
        };
        if !check.0.is_empty() {
            anyhow::bail!("the configuration cannot be used:\n  {}", check.0.join("\n  "));
        }
        Ok(cfg)
    }
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    File::parse(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}

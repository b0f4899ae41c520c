//! The command line. Exit codes: 0 done · 1 failed · 2 wrong usage · 3 not found · 4 refused by the present state ·
//! 5 nobody answered.

mod client;
mod jobs;
mod show;

pub use client::Client;

use crate::config::NodeArgs;
use clap::{Parser, Subcommand, ValueEnum};
use hf_meta_proto::pb::{self, change_request::What};

/// A block store whose volumes carry their own policy.
#[derive(Parser, Debug)]
#[command(
    name = "holdfast",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused by the present state, 5 nobody answered."
)]
pub struct Cli {
    /// API addresses of nodes, comma-separated; the first that answers is used.
    #[arg(long, global = true, env = "HOLDFAST_ENDPOINT", default_value = "127.0.0.1:7420")]
    endpoint: String,
    /// Output format.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(subcommand)]
    command: Commands,
}

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Subcommand, Debug)]
enum Commands {
    /// Run the daemon, or manage nodes.
    Node(Box<NodeCommand>),
    /// Run a small cluster on this machine.
    Dev(crate::dev::DevArgs),
    /// Found a cluster, see how it is.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Add and list disks.
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Create, use and delete volumes.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// What a policy can say.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// What happened.
    Events {
        /// Go on as things happen.
        #[arg(short, long)]
        follow: bool,
    },
    /// Replicas being made, moved or brought back in.
    #[command(subcommand)]
    Job(JobCommand),
    /// Look into a stopped node's disk: what it holds, and whether it is whole. Writes nothing.
    #[command(subcommand)]
    Inspect(InspectCommand),
    /// Print a shell's completion script.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
struct NodeCommand {
    #[command(subcommand)]
    command: Option<NodeSub>,
    #[command(flatten)]
    run: NodeArgs,
}

#[derive(Subcommand, Debug)]
enum NodeSub {
    /// List nodes.
    List,
    /// Make the node at --endpoint join a cluster.
    Join {
        /// API addresses of nodes that are part of it.
        #[arg(long, required = true, value_delimiter = ',')]
        seed: Vec<String>,
    },
    /// Move a node's replicas elsewhere; it gets no new ones.
    Drain {
        /// Its name.
        name: String,
    },
    /// A node will be away: nothing is rebuilt because of that.
    Maintenance {
        /// Its name.
        name: String,
    },
    /// Ends a drain or maintenance.
    Activate {
        /// Its name.
        name: String,
    },
    /// Forget a node that holds no replica any more.
    Remove {
        /// Its name.
        name: String,
    },
}

#[derive(Subcommand, Debug)]
enum JobCommand {
    /// What is being made, moved or brought back in, with progress.
    List {
        /// Go on until nothing is left to do.
        #[arg(short, long)]
        watch: bool,
    },
    /// Give one job up: a move, a drain, a scrub, a rebalancing.
    Cancel {
        /// Its name in the list.
        job: String,
    },
    /// Stop making and moving replicas, and scrubs that are due, in the whole cluster.
    Pause,
    /// Go on.
    Resume,
}

#[derive(Subcommand, Debug)]
enum ClusterCommand {
    /// Found a cluster on the node at --endpoint.
    Init {
        /// The cluster's name.
        #[arg(long, default_value = "holdfast")]
        name: String,
    },
    /// Nodes, leader, volumes at a glance.
    Status,
    /// Move replicas from full disks to empty ones, until that gains nothing more.
    Rebalance,
    /// How many nodes should vote on metadata: 1, 3 or 5.
    Voters {
        /// So many.
        count: u32,
    },
}

#[derive(Subcommand, Debug)]
enum DiskCommand {
    /// Add a directory or block device of the node at --endpoint to its pool. It is formatted.
    Add {
        /// Directory on a mounted file system, or block device.
        path: String,
        /// How much of a directory's file system to use.
        #[arg(long)]
        size: Option<String>,
        /// nvme, ssd or hdd (default: as the kernel says).
        #[arg(long, default_value = "")]
        media: String,
    },
    /// List disks.
    List,
    /// Move a disk's replicas elsewhere; it gets no new ones.
    Drain {
        /// Its number (holdfast disk list).
        id: u64,
        /// Stop doing so.
        #[arg(long)]
        cancel: bool,
    },
    /// Forget a disk that holds no replica any more.
    Remove {
        /// Its number.
        id: u64,
    },
}

#[derive(Subcommand, Debug)]
enum VolumeCommand {
    /// Create a volume: holdfast volume create NAME size=10GiB replicas=3 …
    Create {
        /// Its name.
        name: String,
        /// Its policy, key=value (holdfast policy attributes).
        #[arg(value_name = "KEY=VALUE")]
        attrs: Vec<String>,
    },
    /// List volumes.
    List,
    /// Everything about a volume.
    Show {
        /// Its name.
        name: String,
    },
    /// Delete a detached volume and its data.
    Delete {
        /// Its name.
        name: String,
    },
    /// Attach a volume on a node; hosts then use it there.
    Attach {
        /// Its name.
        name: String,
        /// Where (default: the node at --endpoint).
        #[arg(long, default_value = "")]
        node: String,
        /// Take it from a node that still answers.
        #[arg(long)]
        force: bool,
    },
    /// Detach a volume: its requests end, its connections close.
    Detach {
        /// Its name.
        name: String,
    },
    /// Grow a volume, attached or not.
    Resize {
        /// Its name.
        name: String,
        /// Its new size.
        size: String,
    },
    /// The last resort: declare one replica the truth, when no in-sync replica will ever come back. What only others hold is
    /// lost.
    ForceInsync {
        /// The volume's name.
        name: String,
        /// The replica's number (holdfast volume show).
        #[arg(long)]
        replica: u64,
        /// Which shard.
        #[arg(long, default_value_t = 0)]
        shard: u32,
        /// Who orders it, for the record.
        #[arg(long)]
        operator: String,
        /// And why.
        #[arg(long)]
        reason: String,
        /// The volume's name once more.
        #[arg(long, default_value = "")]
        confirm: String,
    },
    /// Read and compare every block of every replica now.
    Scrub {
        /// Its name.
        name: String,
    },
    /// Move a replica to another disk: it is copied first, then removed where it was.
    Move {
        /// The volume's name.
        name: String,
        /// The replica's number (holdfast volume show).
        #[arg(long)]
        replica: u64,
        /// Which shard.
        #[arg(long, default_value_t = 0)]
        shard: u32,
    },
    /// Change attributes that may change online.
    Set {
        /// Its name.
        name: String,
        /// What changes, key=value.
        #[arg(value_name = "KEY=VALUE", required = true)]
        attrs: Vec<String>,
    },
}

#[derive(Subcommand, Debug)]
enum InspectCommand {
    /// A disk: superblock, replicas, versions, journal.
    Disk {
        /// Directory or block device.
        path: std::path::PathBuf,
        /// Read and check every block.
        #[arg(long)]
        verify: bool,
    },
}

#[derive(Subcommand, Debug)]
enum PolicyCommand {
    /// The reference of all attributes.
    Attributes,
}

/// A command that did not succeed.
#[derive(Debug)]
pub struct Failure {
    /// What to print.
    pub error: anyhow::Error,
    /// What to exit with.
    pub code: u8,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure { error, code: 1 }
    }
}

fn usage(e: impl std::fmt::Display) -> Failure {
    Failure { error: anyhow::anyhow!("{e}"), code: 2 }
}

fn logging(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| "info".into());
    let sub = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { sub.json().init() } else { sub.with_ansi(false).init() }
}

/// Runs a command.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let endpoints: Vec<String> =
        cli.endpoint.split(',').map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect();
    let c = Client::new(&endpoints);
    let o = cli.output;
    match cli.command {
        Commands::Node(n) => node(&c, *n, o).await,
        Commands::Dev(a) => crate::dev::run(a).await,
        Commands::Cluster(ClusterCommand::Init { name }) => show::text(c.init(&name).await?, o),
        Commands::Cluster(ClusterCommand::Status) => show::cluster(&c.status().await?, o),
        Commands::Cluster(ClusterCommand::Voters { count }) => show::text(c.change(What::Voters(count)).await?, o),
        Commands::Cluster(ClusterCommand::Rebalance) => show::text(c.change(What::Rebalance(true)).await?, o),
        Commands::Disk(DiskCommand::Add { path, size, media }) => {
            let size = size.map(|s| hf_policy::parse_size(&s)).transpose().map_err(usage)?;
            show::text(c.add_disk(&path, size.unwrap_or(0), &media).await?, o)
        }
        Commands::Disk(DiskCommand::List) => show::disks(&c.status().await?, o),
        Commands::Disk(DiskCommand::Drain { id, cancel }) => {
            let what = What::DiskDrain(pb::DiskDrain { disk: id, draining: !cancel });
            show::text(c.change(what).await?, o)
        }
        Commands::Disk(DiskCommand::Remove { id }) => show::text(c.change(What::RemoveDisk(id)).await?, o),
        Commands::Job(j) => job(&c, j, o).await,
        Commands::Inspect(InspectCommand::Disk { path, verify }) => {
            let v = crate::inspect::disk(&path, verify)?;
            match o {
                Format::Json => show::json(&v)?,
                Format::Text => crate::inspect::print(&v),
            }
            Ok(())
        }
        Commands::Volume(v) => volume(&c, v, o).await,
        Commands::Policy(PolicyCommand::Attributes) => show::attributes(o),
        Commands::Events { follow } => c.events(follow, |e| show::event(e, o)).await,
        Commands::Completions { shell } => {
            let mut cmd = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut cmd, "holdfast", &mut std::io::stdout());
            Ok(())
        }
    }
}

async fn node(c: &Client, n: NodeCommand, o: Format) -> Result<(), Failure> {
    match n.command {
        None => {
            let cfg = crate::config::Config::load(n.run).map_err(usage)?;
            logging(cfg.json_logs);
            Ok(crate::node::run(cfg).await?)
        }
        Some(NodeSub::List) => show::nodes(&c.status().await?, o),
        Some(NodeSub::Join { seed }) => show::text(c.join(&seed).await?, o),
        Some(NodeSub::Drain { name }) => show::text(c.change(mode(name, "draining")).await?, o),
        Some(NodeSub::Maintenance { name }) => show::text(c.change(mode(name, "maintenance")).await?, o),
        Some(NodeSub::Activate { name }) => show::text(c.change(mode(name, "active")).await?, o),
        Some(NodeSub::Remove { name }) => show::text(c.change(What::RemoveNode(name)).await?, o),
    }
}

fn mode(node: String, mode: &str) -> What {
    What::NodeMode(pb::NodeMode { node, mode: mode.into() })
}

async fn job(c: &Client, j: JobCommand, o: Format) -> Result<(), Failure> {
    match j {
        JobCommand::Pause => show::text(c.change(What::RebuildPaused(true)).await?, o),
        JobCommand::Resume => show::text(c.change(What::RebuildPaused(false)).await?, o),
        JobCommand::Cancel { job } => show::text(c.change(jobs::cancel(&c.status().await?, &job)?).await?, o),
        JobCommand::List { watch } => loop {
            let left = jobs::list(&c.status().await?, o)?;
            if !watch || left == 0 {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            println!();
        },
    }
}

async fn volume(c: &Client, v: VolumeCommand, o: Format) -> Result<(), Failure> {
    let parse = |attrs: &[String]| hf_policy::policy::parse_pairs(attrs.iter().map(String::as_str)).map_err(usage);
    match v {
        VolumeCommand::Create { name, attrs } => {
            let attrs = parse(&attrs)?;
            // Refused here already where that needs nobody else.
            hf_policy::Policy::from_attrs(&attrs).map_err(usage)?;
            hf_policy::policy::valid_name(&name).map_err(|e| usage(format!("volume name \"{name}\": {e}")))?;
            show::text(c.create_volume(&name, attrs).await?, o)
        }
        VolumeCommand::List => show::volumes(&c.status().await?, o),
        VolumeCommand::Show { name } => show::volume(&c.status().await?, &name, o),
        VolumeCommand::Delete { name } => show::text(c.delete_volume(&name).await?, o),
        VolumeCommand::Attach { name, node, force } => show::text(c.attach(&name, &node, force).await?, o),
        VolumeCommand::Detach { name } => show::text(c.detach(&name).await?, o),
        VolumeCommand::Resize { name, size } => {
            show::text(c.set_policy(&name, parse(&[format!("size={size}")])?).await?, o)
        }
        VolumeCommand::ForceInsync { name, replica, shard, operator, reason, confirm } => {
            let f = pb::ForceInsync { volume: name, shard, rid: replica, operator, reason, confirm };
            show::text(c.change(What::ForceInsync(f)).await?, o)
        }
        VolumeCommand::Scrub { name } => {
            show::text(c.change(What::Scrub(pb::Scrub { volume: name, on: true })).await?, o)
        }
        VolumeCommand::Move { name, replica, shard } => {
            let m = pb::MoveReplica { volume: name, shard, rid: replica, moving: true };
            show::text(c.change(What::MoveReplica(m)).await?, o)
        }
        VolumeCommand::Set { name, attrs } => show::text(c.set_policy(&name, parse(&attrs)?).await?, o),
    }
}

//! The command line. Exit codes: 0 done · 1 failed · 2 wrong usage · 3 not found · 4 refused by the present state ·
//! 5 nobody answered.

mod client;
mod show;

pub use client::Client;

use crate::config::NodeArgs;
use clap::{Parser, Subcommand, ValueEnum};

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
        Commands::Disk(DiskCommand::Add { path, size, media }) => {
            let size = size.map(|s| hf_policy::parse_size(&s)).transpose().map_err(usage)?;
            show::text(c.add_disk(&path, size.unwrap_or(0), &media).await?, o)
        }
        Commands::Disk(DiskCommand::List) => show::disks(&c.status().await?, o),
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
        VolumeCommand::Set { name, attrs } => show::text(c.set_policy(&name, parse(&attrs)?).await?, o),
    }
}

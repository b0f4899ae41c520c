//! The words of the command line: every command, flag and help text. What they do stands elsewhere.

mod nouns;
mod offline;

use super::complete::{Kind, names};
use super::context::ContextCommand;
use super::out::Format;
use crate::config::NodeArgs;
use clap::{Parser, Subcommand};
pub use nouns::*;
pub use offline::*;
use std::path::PathBuf;

/// A block store whose volumes carry their own policy.
#[derive(Parser, Debug)]
#[command(
    name = "holdfast",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused in the present state, 5 no node answered or try again later, 6 accepted but not done yet, 7 no right to do this."
)]
pub struct Cli {
    /// Flags that every command knows.
    #[command(flatten)]
    pub global: Global,
    /// The command that is to be run.
    #[command(subcommand)]
    pub command: Commands,
}

/// Flags that every command knows.
#[derive(clap::Args, Debug)]
pub struct Global {
    /// Endpoints of nodes' APIs, comma-separated: host:port, http://host:port or unix:/path; the first that
    /// answers is used. Without it HOLDFAST_ENDPOINT counts, then the context, then 127.0.0.1:7423.
    #[arg(long, global = true)]
    pub endpoint: Option<String>,
    /// Context whose endpoints are used (holdfast context list). Without it HOLDFAST_CONTEXT counts, then the
    /// context that is in use.
    #[arg(long, global = true, value_name = "NAME", add = names(Kind::Context))]
    pub context: Option<String>,
    /// How long to wait for an answer and for the end of the work, such as 30s or 10m.
    #[arg(long, global = true, value_name = "TIME")]
    pub timeout: Option<String>,
    /// Do not wait until a change is in force.
    #[arg(long, global = true)]
    pub no_wait: bool,
    /// Say what a change would do, and change nothing.
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Output format: text for people, wide with more columns, json and yaml for programs, name for scripts.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// Every command of the client.
#[derive(Subcommand, Debug)]
pub enum Commands {
    /// Show on one screen what is wrong and what is there.
    Status(WatchArgs),
    /// Show what is wrong, what it means and what to do about it; silence codes.
    Health(HealthArgs),
    /// Create, use and delete volumes.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Manage the nodes of the cluster.
    Node(Box<NodeCommand>),
    /// Add, list, empty and remove disks.
    #[command(subcommand)]
    Disk(DiskCommand),
    /// List, hold and give up jobs: copies, moves, drains, scrubs.
    #[command(subcommand)]
    Job(JobCommand),
    /// Show what happened in the cluster.
    #[command(alias = "events")]
    Event(EventArgs),
    /// Found a cluster, show its state, change its voters.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Show the attributes of a policy.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Name clusters, so that --context NAME finds their endpoints.
    #[command(subcommand)]
    Context(ContextCommand),
    /// Run the daemon.
    Daemon(Box<NodeArgs>),
    /// Run a small cluster on this machine.
    Dev(DevArgs),
    /// Inspect the disks and metadata of a stopped node, and verify them. Writes nothing.
    #[command(subcommand)]
    Inspect(InspectCommand),
    /// Last resort when a majority of the metadata voters is lost for good: begin again with what is left.
    /// Nodes must be stopped.
    #[command(subcommand)]
    Rescue(RescueCommand),
    /// Print a shell's completion script, which also knows the names of volumes, nodes, disks and jobs:
    /// source <(holdfast completions bash).
    Completions {
        /// Name of the shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages.
    Man {
        /// Directory to write a page for each command to; without it, the first page is printed.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

/// Flags of what can be watched.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct WatchArgs {
    /// Go on showing what changes: drawn anew on a terminal, a line for each change elsewhere.
    #[arg(short, long)]
    pub watch: bool,
}

/// Flags of every list.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct ListArgs {
    /// Only what has these labels: key=value, key!=value or key, separated by commas.
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Only what a field says: name=PART, state=STATE, health=CODE, node=NAME, disk=ID or volume=NAME.
    #[arg(long, value_name = "FIELD=VALUE")]
    pub filter: Vec<String>,
    /// Sort by a column or a field of the JSON output; a - before it sorts downwards.
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    pub sort: Option<String>,
    /// Show at most so many, the first in the server's order.
    #[arg(long)]
    pub limit: Option<usize>,
    #[command(flatten)]
    pub watch: WatchArgs,
}

//! The words of the command line: every command, flag and help text.

use crate::config::NodeArgs;
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A block store whose volumes carry their own policy.
#[derive(Parser, Debug)]
#[command(
    name = "holdfast",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused by the present state, 5 nobody answered, 6 recorded but not in force yet."
)]
pub struct Cli {
    /// API addresses of nodes, comma-separated; the first that answers is used.
    #[arg(long, global = true, env = "HOLDFAST_ENDPOINT", default_value = "127.0.0.1:7420")]
    pub(super) endpoint: String,
    /// Output format.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    #[command(subcommand)]
    pub(super) command: Commands,
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
pub(super) enum Commands {
    /// Run the daemon, or manage nodes.
    Node(Box<NodeCommand>),
    /// Run a small cluster on this machine.
    Dev(DevArgs),
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
    /// Look into a stopped node's disks and metadata: what they hold, and whether they are whole. Writes nothing.
    #[command(subcommand)]
    Inspect(InspectCommand),
    /// When a majority of the metadata voters is lost for good: begin again with what is left. Nodes must be stopped.
    #[command(subcommand)]
    Rescue(RescueCommand),
    /// Print a shell's completion script.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct NodeCommand {
    #[command(subcommand)]
    pub(super) command: Option<NodeSub>,
    #[command(flatten)]
    pub(super) run: NodeArgs,
}

#[derive(Subcommand, Debug)]
pub(super) enum NodeSub {
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
pub(super) enum JobCommand {
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
    /// Hold a job, or, without a name, everything: no replica is made or moved and no scrub begun in the whole cluster.
    Pause {
        /// Its name in the list: node/NAME, disk/ID, replica/ID, scrub/VOLUME or rebalance.
        job: Option<String>,
    },
    /// Go on with it.
    Resume {
        /// Its name in the list: node/NAME, disk/ID, replica/ID, scrub/VOLUME or rebalance.
        job: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum ClusterCommand {
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
pub(super) enum DiskCommand {
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
pub(super) enum VolumeCommand {
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
pub(super) enum InspectCommand {
    /// A disk: superblock, replicas, versions, journal.
    Disk {
        /// Directory or block device.
        path: std::path::PathBuf,
        /// Read and check every block.
        #[arg(long)]
        verify: bool,
    },
    /// A disk's journal: groups and records in force.
    Journal {
        /// Directory or block device.
        path: std::path::PathBuf,
    },
    /// One chunk (1 MiB) of a replica: each block's state, version and checksum.
    Chunk {
        /// Directory or block device.
        path: std::path::PathBuf,
        /// The replica's number.
        #[arg(long)]
        replica: u64,
        /// The chunk's number.
        #[arg(long)]
        chunk: u32,
    },
    /// A node's metadata: image, log, and the record that follows from them.
    Raft {
        /// The node's data_dir.
        data_dir: std::path::PathBuf,
        /// Every log entry, decoded.
        #[arg(long)]
        log: bool,
    },
}

#[derive(clap::Args, Debug)]
pub(super) struct Remains {
    /// Data directories of nodes that are left (all that can be had; copies will do). If there is none, the disks alone are believed.
    #[arg(long = "data-dir", required_unless_present = "disks")]
    pub(super) data_dirs: Vec<std::path::PathBuf>,
    /// Disks that are left, besides those the data directories name.
    #[arg(long = "disk")]
    pub(super) disks: Vec<std::path::PathBuf>,
}

#[derive(Subcommand, Debug)]
pub(super) enum RescueCommand {
    /// What the newest record seems to be, and where that is a guess. Writes nothing.
    Propose {
        #[command(flatten)]
        from: Remains,
    },
    /// Make one node the only voter of a group that begins with the proposal.
    Found {
        /// That node's data directory.
        node: std::path::PathBuf,
        #[command(flatten)]
        from: Remains,
        /// The cluster's name, to say that it is meant.
        #[arg(long, default_value = "")]
        confirm: String,
        /// One of its disks, if they have outlived its data directory: an empty one is that node's from then on.
        #[arg(long)]
        own_disk: Option<std::path::PathBuf>,
    },
    /// Let another node that is left follow the new group; or one whose own metadata are damaged or gone, the old one.
    Follow {
        /// Its data directory.
        node: std::path::PathBuf,
        /// API addresses of nodes that run: where its peers are is asked of them, if it cannot be read there.
        #[arg(long, value_delimiter = ',')]
        seed: Vec<String>,
        /// One of its disks, if they have outlived its data directory: an empty one is that node's from then on.
        #[arg(long)]
        own_disk: Option<std::path::PathBuf>,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum PolicyCommand {
    /// The reference of all attributes.
    Attributes,
}

/// `holdfast dev`.
#[derive(clap::Args, Debug)]
pub struct DevArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// Where their data goes.
    #[arg(long, default_value = "holdfast-dev")]
    pub dir: PathBuf,
    /// Size of each node's one disk.
    #[arg(long, default_value = "2GiB")]
    pub disk_size: String,
    /// First port; each node takes four from here on.
    #[arg(long, default_value_t = 7420)]
    pub port: u16,
    /// Cluster up, then stop again (for scripts).
    #[arg(long, hide = true)]
    pub once: bool,
}

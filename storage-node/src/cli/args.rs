//! The words of the command line: every command, flag and help text.

use crate::config::NodeArgs;
use super::out::Format;
use clap::{Parser, Subcommand};
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
    /// Endpoints of nodes' APIs, comma-separated: host:port, http://host:port or unix:/path; the first that
    /// answers is used. Without it HOLDFAST_ENDPOINT counts, then the context, then 127.0.0.1:7423.
    #[arg(long, global = true)]
    pub(super) endpoint: Option<String>,
    /// Context whose endpoints are used (holdfast context list). Without it HOLDFAST_CONTEXT counts, then the
    /// context that is in use.
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) context: Option<String>,
    /// How long to wait for an answer and for the end of the work, such as 30s or 10m.
    #[arg(long, global = true, value_name = "TIME")]
    pub(super) timeout: Option<String>,
    /// Output format: text for people, wide with more columns, json and yaml for programs, name for scripts.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    #[command(subcommand)]
    pub(super) command: Commands,
}

#[derive(Subcommand, Debug)]
pub(super) enum Commands {
    /// Run the daemon.
    Daemon(Box<NodeArgs>),
    /// Manage nodes.
    Node(Box<NodeCommand>),
    /// Run a small cluster on this machine.
    Dev(DevArgs),
    /// Found a cluster, show its state, change its voters.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Add and list disks.
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Create, use and delete volumes.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Show the attributes of a policy.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Show what happened in the cluster.
    Events {
        /// Go on with new events as they happen.
        #[arg(short, long)]
        follow: bool,
    },
    /// List, hold and give up jobs: copies, moves, drains, scrubs.
    #[command(subcommand)]
    Job(JobCommand),
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
    /// Name clusters, so that --context NAME finds their endpoints.
    #[command(subcommand)]
    Context(ContextCommand),
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
    /// List all nodes with their state.
    List,
    /// Make the node at --endpoint join a cluster.
    Join {
        /// API addresses of nodes of that cluster, comma-separated.
        #[arg(long, required = true, value_delimiter = ',')]
        seed: Vec<String>,
    },
    /// Move all replicas of a node elsewhere, and place no new ones there.
    Drain {
        /// Name of the node.
        name: String,
    },
    /// Announce that a node will be away: nothing is rebuilt because of it.
    Maintenance {
        /// Name of the node.
        name: String,
    },
    /// End a node's drain or maintenance.
    Activate {
        /// Name of the node.
        name: String,
    },
    /// Remove a node that holds no replica any more.
    Remove {
        /// Name of the node.
        name: String,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum JobCommand {
    /// List jobs: replicas that are made, moved or brought back in, drains and scrubs, with progress.
    List {
        /// Repeat the list every second until no job is left.
        #[arg(short, long)]
        watch: bool,
    },
    /// Give up one job: a move, a drain, a scrub, or rebalancing.
    Cancel {
        /// Name of the job in the list.
        job: String,
    },
    /// Hold a job. Without a name, hold all: no replica is made or moved and no scrub begins in the whole
    /// cluster.
    Pause {
        /// Name of the job in the list: node/NAME, disk/ID, replica/ID, scrub/VOLUME or rebalance.
        job: Option<String>,
    },
    /// Go on with a job that is held, or, without a name, with all.
    Resume {
        /// Name of the job in the list: node/NAME, disk/ID, replica/ID, scrub/VOLUME or rebalance.
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
    /// Show the leader and the numbers of nodes, disks and volumes.
    Status,
    /// Move replicas from full disks to empty ones, until that no longer helps.
    Rebalance,
    /// Set how many nodes vote on metadata: 1, 3 or 5.
    Voters {
        /// Number of voters.
        count: u32,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum DiskCommand {
    /// Format a directory or block device of the node at --endpoint and add it to the pool.
    Add {
        /// Directory on a mounted file system, or block device.
        path: String,
        /// How much of a directory's file system to use, such as 500GiB.
        #[arg(long)]
        size: Option<String>,
        /// Class of the disk: nvme, ssd or hdd (default: as the kernel says).
        #[arg(long, default_value = "")]
        media: String,
    },
    /// List all disks with their use and state.
    List,
    /// Move all replicas of a disk elsewhere, and place no new ones there.
    Drain {
        /// Number of the disk (holdfast disk list).
        id: u64,
        /// End the drain instead.
        #[arg(long)]
        cancel: bool,
    },
    /// Remove a disk that holds no replica any more.
    Remove {
        /// Number of the disk (holdfast disk list).
        id: u64,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum VolumeCommand {
    /// Create a volume: holdfast volume create NAME size=10GiB replicas=3 …
    Create {
        /// Name of the volume.
        name: String,
        /// Attributes of its policy (holdfast policy attributes lists them).
        #[arg(value_name = "KEY=VALUE")]
        attrs: Vec<String>,
    },
    /// List all volumes with their state.
    List,
    /// Show a volume: state, policy and replicas.
    Show {
        /// Name of the volume.
        name: String,
    },
    /// Delete a detached volume and its data.
    Delete {
        /// Name of the volume.
        name: String,
    },
    /// Attach a volume to a node, which exports it to clients.
    Attach {
        /// Name of the volume.
        name: String,
        /// Name of the node (default: the node at --endpoint).
        #[arg(long, default_value = "")]
        node: String,
        /// Take the volume even from a node that still answers.
        #[arg(long)]
        force: bool,
    },
    /// Detach a volume: open requests are answered, then its connections are closed.
    Detach {
        /// Name of the volume.
        name: String,
    },
    /// Grow a volume, attached or not.
    Resize {
        /// Name of the volume.
        name: String,
        /// The new size, such as 20GiB.
        size: String,
    },
    /// Last resort when no in-sync replica will ever come back: declare one replica the truth. What only
    /// others hold is lost.
    ForceInsync {
        /// Name of the volume.
        name: String,
        /// Number of the replica (holdfast volume show).
        #[arg(long)]
        replica: u64,
        /// Number of the shard that the replica belongs to.
        #[arg(long, default_value_t = 0)]
        shard: u32,
        /// Name of the person who orders this, for the record.
        #[arg(long)]
        operator: String,
        /// Reason, for the record.
        #[arg(long)]
        reason: String,
        /// Name of the volume once more, to confirm.
        #[arg(long, default_value = "")]
        confirm: String,
    },
    /// Read and compare every block of every replica now.
    Scrub {
        /// Name of the volume.
        name: String,
    },
    /// Move a replica to another disk: it is copied first, then removed where it was.
    Move {
        /// Name of the volume.
        name: String,
        /// Number of the replica (holdfast volume show).
        #[arg(long)]
        replica: u64,
        /// Number of the shard that the replica belongs to.
        #[arg(long, default_value_t = 0)]
        shard: u32,
    },
    /// Change attributes of a volume's policy.
    Set {
        /// Name of the volume.
        name: String,
        /// Attributes to change; the value default takes one back.
        #[arg(value_name = "KEY=VALUE", required = true)]
        attrs: Vec<String>,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum InspectCommand {
    /// Show a disk: superblock, replicas, versions, journal.
    Disk {
        /// Directory or block device of the disk.
        path: std::path::PathBuf,
        /// Read and check every block.
        #[arg(long)]
        verify: bool,
    },
    /// Show a disk's journal: the groups and records that are in force.
    Journal {
        /// Directory or block device of the disk.
        path: std::path::PathBuf,
    },
    /// Show one chunk (1 MiB) of a replica: each block's state, version and checksum.
    Chunk {
        /// Directory or block device of the disk.
        path: std::path::PathBuf,
        /// Number of the replica.
        #[arg(long)]
        replica: u64,
        /// Number of the chunk in the shard.
        #[arg(long)]
        chunk: u32,
    },
    /// Show a node's metadata: the image, the log, and the record that follows from them.
    Raft {
        /// Data directory of the stopped node.
        data_dir: std::path::PathBuf,
        /// Show every log entry too, decoded.
        #[arg(long)]
        log: bool,
    },
}

#[derive(clap::Args, Debug)]
pub(super) struct Remains {
    /// Data directories of nodes that are left: give all that there are; copies will do. If there is none,
    /// the disks alone count.
    #[arg(long = "data-dir", required_unless_present = "disks")]
    pub(super) data_dirs: Vec<std::path::PathBuf>,
    /// Disks that are left, besides those that the data directories name.
    #[arg(long = "disk")]
    pub(super) disks: Vec<std::path::PathBuf>,
}

#[derive(Subcommand, Debug)]
pub(super) enum RescueCommand {
    /// Show what the newest record seems to be, and where that is a guess. Writes nothing.
    Propose {
        #[command(flatten)]
        from: Remains,
    },
    /// Make one node the only voter of a group that begins with the proposal.
    Found {
        /// Data directory of that node, which must be stopped.
        node: std::path::PathBuf,
        #[command(flatten)]
        from: Remains,
        /// Name of the cluster, to confirm.
        #[arg(long, default_value = "")]
        confirm: String,
        /// One of the node's disks, if its data directory was lost: an empty directory becomes that node's.
        #[arg(long)]
        own_disk: Option<std::path::PathBuf>,
    },
    /// Let a node follow the group that runs: another survivor after found, or a node whose own metadata are
    /// damaged or lost.
    Follow {
        /// Data directory of that node, which must be stopped.
        node: std::path::PathBuf,
        /// API addresses of running nodes, to learn the peers' addresses if they cannot be read in the data
        /// directory.
        #[arg(long, value_delimiter = ',')]
        seed: Vec<String>,
        /// One of the node's disks, if its data directory was lost: an empty directory becomes that node's.
        #[arg(long)]
        own_disk: Option<std::path::PathBuf>,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum ContextCommand {
    /// List all contexts; the one in use has a star.
    List,
    /// Use a context from now on.
    Use {
        /// Name of the context.
        name: String,
    },
    /// Make or change a context: its endpoints are those of --endpoint, which this needs.
    Set {
        /// Name of the context.
        name: String,
    },
    /// Remove a context.
    Remove {
        /// Name of the context.
        name: String,
    },
    /// Show which endpoints a command would use now, and why.
    Show,
}

#[derive(Subcommand, Debug)]
pub(super) enum PolicyCommand {
    /// Print the reference of all attributes.
    Attributes,
}

/// Arguments of `holdfast dev`.
#[derive(clap::Args, Debug)]
pub struct DevArgs {
    /// Number of nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// Directory for the nodes' data.
    #[arg(long, default_value = "holdfast-dev")]
    pub dir: PathBuf,
    /// Size of each node's one disk.
    #[arg(long, default_value = "2GiB")]
    pub disk_size: String,
    /// First port; each node takes four from here on.
    #[arg(long, default_value_t = 7420)]
    pub port: u16,
    /// Stop as soon as the cluster is up (for scripts).
    #[arg(long, hide = true)]
    pub once: bool,
}

//! The words of commands about what a cluster has: volumes, disks, nodes, jobs, events, health.

use super::{ListArgs, WatchArgs};
use crate::cli::complete::{Kind, names};
use crate::config::NodeArgs;
use clap::Subcommand;

/// What is done with nodes; without a command it is the daemon, as before `holdfast daemon` was there.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NodeCommand {
    /// What is done.
    #[command(subcommand)]
    pub command: Option<NodeSub>,
    /// The daemon's flags, for two releases.
    #[command(flatten)]
    pub run: NodeArgs,
}

/// What is done with nodes.
#[derive(Subcommand, Debug)]
pub enum NodeSub {
    /// List all nodes with their state.
    List(ListArgs),
    /// Show a node.
    Show {
        /// Name of the node.
        #[arg(add = names(Kind::Node))]
        name: String,
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Make the node at --endpoint join a cluster.
    Join {
        /// Control-plane addresses (api) of nodes of that cluster, comma-separated.
        #[arg(long, required = true, value_delimiter = ',')]
        seed: Vec<String>,
    },
    /// Move all replicas of a node elsewhere, and place no new ones there.
    Drain {
        /// Name of the node.
        #[arg(add = names(Kind::Node))]
        name: String,
        /// Wait until the node is empty.
        #[arg(long)]
        wait: bool,
    },
    /// End a node's drain.
    Undrain {
        /// Name of the node.
        #[arg(add = names(Kind::Node))]
        name: String,
    },
    /// Announce that a node will be away: nothing is rebuilt because of it.
    Maintenance {
        /// Name of the node.
        #[arg(add = names(Kind::Node))]
        name: String,
    },
    /// End a node's maintenance, or its drain.
    Activate {
        /// Name of the node.
        #[arg(add = names(Kind::Node))]
        name: String,
    },
    /// Remove a node that holds no replica any more.
    Remove {
        /// Name of the node.
        #[arg(add = names(Kind::Node))]
        name: String,
    },
}

/// What is done with jobs.
#[derive(Subcommand, Debug)]
pub enum JobCommand {
    /// List jobs: replicas that are made, moved or brought back in, drains and scrubs, with progress. With
    /// --watch it ends when no job is left.
    List(ListArgs),
    /// Show a job.
    Show {
        /// Name of the job in the list.
        #[arg(add = names(Kind::Job))]
        job: String,
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Give up one job: a move, a drain, a scrub, or rebalancing.
    Cancel {
        /// Name of the job in the list.
        #[arg(add = names(Kind::Job))]
        job: String,
    },
    /// Hold a job. Without a name, hold all: no replica is made or moved and no scrub begins in the whole
    /// cluster.
    Pause {
        /// Name of the job in the list: node/NAME, disk/ID, replica/ID, scrub/VOLUME or rebalance.
        #[arg(add = names(Kind::Job))]
        job: Option<String>,
    },
    /// Go on with a job that is held, or, without a name, with all.
    Resume {
        /// Name of the job in the list: node/NAME, disk/ID, replica/ID, scrub/VOLUME or rebalance.
        #[arg(add = names(Kind::Job))]
        job: Option<String>,
    },
}

/// What is shown of events.
#[derive(clap::Args, Debug)]
pub struct EventArgs {
    /// What is done; `list` unless said otherwise.
    #[command(subcommand)]
    pub command: Option<EventCommand>,
    /// The flags of the list.
    #[command(flatten)]
    pub list: EventList,
}

/// What is done with events.
#[derive(Subcommand, Debug)]
pub enum EventCommand {
    /// List events, the oldest first.
    List(EventList),
}

/// Flags of a list of events.
#[derive(clap::Args, Debug)]
pub struct EventList {
    /// Go on with new events as they happen.
    #[arg(short, long, visible_alias = "watch")]
    pub follow: bool,
    /// Only events about this volume, node or disk.
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// Only events of this kind, such as volume.created.
    #[arg(long)]
    pub kind: Option<String>,
    /// Show at most so many, the newest.
    #[arg(long)]
    pub limit: Option<usize>,
}

/// What is shown of health, and what is done with its codes.
#[derive(clap::Args, Debug)]
pub struct HealthArgs {
    /// What is done; the list unless said otherwise.
    #[command(subcommand)]
    pub command: Option<HealthCommand>,
    /// Flags of the list.
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// What is done with health codes.
#[derive(Subcommand, Debug)]
pub enum HealthCommand {
    /// List what is wrong, with its meaning and what to do.
    List(WatchArgs),
    /// Silence a code for some time.
    Mute {
        /// The code, such as VOLUME_DEGRADED.
        code: String,
        /// How long it is silenced, such as 2h or 7d.
        #[arg(long = "for", value_name = "TIME")]
        time: String,
        /// Reason, for the record.
        #[arg(long)]
        reason: String,
        /// Only about this subject, such as volume/web.
        #[arg(long)]
        subject: Option<String>,
        /// Keep it silenced when more subjects have the code.
        #[arg(long)]
        sticky: bool,
    },
    /// End a silence before its time.
    Unmute {
        /// The silenced code.
        code: String,
        /// The subject with which it was silenced.
        #[arg(long)]
        subject: Option<String>,
    },
}

/// What is done with the cluster as a whole.
#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    /// Found a cluster on the node at --endpoint.
    Init {
        /// The cluster's name.
        #[arg(long, default_value = "holdfast")]
        name: String,
    },
    /// Show the leader, capacity, and the numbers of nodes, disks and volumes.
    Status(WatchArgs),
    /// Move replicas from full disks to empty ones, until that no longer helps.
    Rebalance {
        /// Wait until that no longer helps.
        #[arg(long)]
        wait: bool,
    },
    /// Set how many nodes vote on metadata: 1, 3 or 5.
    Voters {
        /// Number of voters.
        count: u32,
    },
    /// Steps of an upgrade.
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
}

/// Steps of an upgrade.
#[derive(Subcommand, Debug)]
pub enum UpgradeCommand {
    /// Let the record be written as the newest release does; older releases cannot read it afterwards.
    Finalize,
}

/// What is done with disks.
#[derive(Subcommand, Debug)]
pub enum DiskCommand {
    /// Format a directory or block device of a node and add it to the pool.
    Add {
        /// Directory on a mounted file system, or block device.
        path: String,
        /// Name of the node that has it (default: the node at --endpoint).
        #[arg(long, add = names(Kind::Node))]
        node: Option<String>,
        /// How much of a directory's file system to use, such as 500GiB.
        #[arg(long)]
        size: Option<String>,
        /// Class of the disk: nvme, ssd or hdd (default: as the kernel says).
        #[arg(long)]
        media: Option<String>,
    },
    /// List all disks with their use and state.
    List(ListArgs),
    /// Show a disk.
    Show {
        /// Number of the disk (holdfast disk list).
        #[arg(add = names(Kind::Disk))]
        id: u64,
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Move all replicas of a disk elsewhere, and place no new ones there.
    Drain {
        /// Number of the disk (holdfast disk list).
        #[arg(add = names(Kind::Disk))]
        id: u64,
        /// Wait until the disk is empty.
        #[arg(long)]
        wait: bool,
        /// End the drain instead.
        #[arg(long, hide = true, conflicts_with = "wait")]
        cancel: bool,
    },
    /// End a disk's drain.
    Undrain {
        /// Number of the disk (holdfast disk list).
        #[arg(add = names(Kind::Disk))]
        id: u64,
    },
    /// Trust a disk again that was failing and is mended.
    Trust {
        /// Number of the disk (holdfast disk list).
        #[arg(add = names(Kind::Disk))]
        id: u64,
    },
    /// Remove a disk that holds no replica any more.
    Remove {
        /// Number of the disk (holdfast disk list).
        #[arg(add = names(Kind::Disk))]
        id: u64,
    },
}

/// What is done with volumes.
#[derive(Subcommand, Debug)]
pub enum VolumeCommand {
    /// Create a volume: holdfast volume create NAME size=10GiB replicas=3 …
    Create {
        /// Name of the volume.
        name: String,
        /// Attributes of its policy (holdfast policy attributes lists them).
        #[arg(value_name = "KEY=VALUE", add = names(Kind::Attribute))]
        attrs: Vec<String>,
    },
    /// List all volumes with their state.
    List(ListArgs),
    /// Show a volume: state, policy and replicas.
    Show {
        /// Name of the volume.
        #[arg(add = names(Kind::Volume))]
        name: String,
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Delete a detached volume and its data.
    Delete {
        /// Name of the volume.
        #[arg(add = names(Kind::Volume))]
        name: String,
    },
    /// Attach a volume to a node, which exports it to clients.
    Attach {
        /// Name of the volume.
        #[arg(add = names(Kind::Volume))]
        name: String,
        /// Name of the node (default: the node at --endpoint).
        #[arg(long, add = names(Kind::Node))]
        node: Option<String>,
        /// Take the volume even from a node that still answers.
        #[arg(long)]
        force: bool,
    },
    /// Detach a volume: open requests are answered, then its connections are closed.
    Detach {
        /// Name of the volume.
        #[arg(add = names(Kind::Volume))]
        name: String,
    },
    /// Grow a volume, attached or not.
    Resize {
        /// Name of the volume.
        #[arg(add = names(Kind::Volume))]
        name: String,
        /// The new size, such as 20GiB.
        size: String,
    },
    /// Give a detached volume another name.
    Rename {
        /// Name of the volume.
        #[arg(add = names(Kind::Volume))]
        name: String,
        /// The new name.
        to: String,
    },
    /// Change attributes of a volume's policy.
    Set {
        /// Name of the volume.
        #[arg(add = names(Kind::Volume))]
        name: String,
        /// Attributes to change; the value default takes one back.
        #[arg(value_name = "KEY=VALUE", required = true, add = names(Kind::Attribute))]
        attrs: Vec<String>,
    },
    /// Read and compare every block of every replica now.
    Scrub {
        /// Name of the volume.
        #[arg(add = names(Kind::Volume))]
        name: String,
        /// Wait until that is done.
        #[arg(long)]
        wait: bool,
    },
    /// Move a replica to another disk: it is copied first, then removed where it was.
    Move {
        /// Name of the volume.
        #[arg(add = names(Kind::Volume))]
        name: String,
        /// Number of the replica (holdfast volume show).
        #[arg(long)]
        replica: u64,
        /// Number of the shard that the replica belongs to, if that is to be checked.
        #[arg(long)]
        shard: Option<u32>,
        /// Wait until it has moved.
        #[arg(long)]
        wait: bool,
    },
    /// Last resort when no in-sync replica will ever come back: declare one replica the truth. What only
    /// others hold is lost.
    ForceInsync(ForceArgs),
}

/// What the last resort needs.
#[derive(clap::Args, Debug)]
pub struct ForceArgs {
    /// Name of the volume.
    #[arg(add = names(Kind::Volume))]
    pub name: String,
    /// Number of the replica (holdfast volume show).
    #[arg(long)]
    pub replica: u64,
    /// Number of the shard that the replica belongs to, if that is to be checked.
    #[arg(long)]
    pub shard: Option<u32>,
    /// Name of the person who orders this, for the record.
    #[arg(long)]
    pub operator: String,
    /// Reason, for the record.
    #[arg(long)]
    pub reason: String,
    /// Name of the volume once more, to confirm.
    #[arg(long, default_value = "")]
    pub confirm: String,
}

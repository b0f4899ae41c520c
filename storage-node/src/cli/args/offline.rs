//! The words of commands that need no cluster, or work on a stopped one: inspect, rescue, dev, policy.

use clap::Subcommand;
use std::path::PathBuf;

/// What is shown of a stopped node.
#[derive(Subcommand, Debug)]
pub enum InspectCommand {
    /// Show a disk: superblock, replicas, versions, journal.
    Disk {
        /// Directory or block device of the disk.
        path: PathBuf,
        /// Read and check every block.
        #[arg(long)]
        verify: bool,
    },
    /// Show a disk's journal: the groups and records that are in force.
    Journal {
        /// Directory or block device of the disk.
        path: PathBuf,
    },
    /// Show one chunk (1 MiB) of a replica: each block's state, version and checksum.
    Chunk {
        /// Directory or block device of the disk.
        path: PathBuf,
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
        data_dir: PathBuf,
        /// Show every log entry too, decoded.
        #[arg(long)]
        log: bool,
    },
}

/// What is left of a cluster.
#[derive(clap::Args, Debug)]
pub struct Remains {
    /// Data directories of nodes that are left: give all that there are; copies will do. If there is none,
    /// the disks alone count.
    #[arg(long = "data-dir", required_unless_present = "disks")]
    pub data_dirs: Vec<PathBuf>,
    /// Disks that are left, besides those that the data directories name.
    #[arg(long = "disk")]
    pub disks: Vec<PathBuf>,
}

/// Steps of the last resort.
#[derive(Subcommand, Debug)]
pub enum RescueCommand {
    /// Show what the newest record seems to be, and where that is a guess. Writes nothing.
    Propose {
        #[command(flatten)]
        from: Remains,
    },
    /// Make one node the only voter of a group that begins with the proposal.
    Found {
        /// Data directory of that node, which must be stopped.
        node: PathBuf,
        #[command(flatten)]
        from: Remains,
        /// Name of the cluster, to confirm.
        #[arg(long, default_value = "")]
        confirm: String,
        /// One of the node's disks, if its data directory was lost: an empty directory becomes that node's.
        #[arg(long)]
        own_disk: Option<PathBuf>,
    },
    /// Let a node follow the group that runs: another survivor after found, or a node whose own metadata are
    /// damaged or lost.
    Follow {
        /// Data directory of that node, which must be stopped.
        node: PathBuf,
        /// API addresses of running nodes, to learn the peers' addresses if they cannot be read in the data
        /// directory.
        #[arg(long, value_delimiter = ',')]
        seed: Vec<String>,
        /// One of the node's disks, if its data directory was lost: an empty directory becomes that node's.
        #[arg(long)]
        own_disk: Option<PathBuf>,
    },
}

/// What is shown of policies.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
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

//! What the leader hears of its nodes, typed: which of them answer, how full their disks are, what they serve.
//!
//! Nothing of this is on record. It is as old as the last heartbeat of the node that told it, and a new leader knows
//! nothing until it has heard. Views and health checks therefore say *unknown* where there is no fresh evidence here.

use crate::plan::Liveness;
use crate::record::DiskFault;
use hf_policy::{DiskId, NodeId, Rid, SessionId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Evidence older than this many milliseconds counts no more: the node that told it is silent.
pub const FRESH_MS: u64 = 5_000;

/// What the leader hears.
#[derive(Clone, Debug, Default)]
pub struct Soft {
    /// The leader's wall clock, Unix milliseconds.
    pub wall_ms: u64,
    /// Milliseconds for which this node has led.
    pub leading_ms: u64,
    /// The metadata group.
    pub group: Group,
    /// The nodes on record that this leader has heard.
    pub nodes: BTreeMap<NodeId, NodeSoft>,
    /// Nodes that count as alive: heard lately, or not yet heard by a leader that has just begun.
    pub up: BTreeSet<NodeId>,
    /// Nodes on record when this node began to lead that it has not heard since.
    pub unheard: BTreeSet<NodeId>,
    /// Disks that refused a replica lately.
    pub refusing: BTreeSet<DiskId>,
}

/// The metadata group, as the leader knows it.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The node that leads.
    pub leader: Option<NodeId>,
    /// Raft term of the leader.
    pub term: u64,
    /// Nodes that vote.
    pub voters: BTreeSet<NodeId>,
    /// Nodes that catch up before they vote.
    pub learners: BTreeSet<NodeId>,
    /// The set of voters is being changed.
    pub changing: bool,
}

/// A node as the leader has heard it.
#[derive(Clone, Debug)]
pub struct NodeSoft {
    /// Milliseconds since its last heartbeat.
    pub heard_ms: u64,
    /// What it has told.
    pub told: Arc<NodeTold>,
}

impl NodeSoft {
    /// Is what it told fresh enough to count as evidence?
    pub fn is_fresh(&self) -> bool {
        self.heard_ms < FRESH_MS
    }
}

/// What a node has told in its heartbeats.
#[derive(Clone, Debug, Default)]
pub struct NodeTold {
    /// The newest version of commands that it can apply; 0: not told.
    pub commands: u32,
    /// How far its wall clock is ahead of the leader's, milliseconds; negative: behind.
    pub clock_ahead_ms: i64,
    /// The file system of its `data_dir` has no space left beside what is set aside.
    pub data_dir_full: bool,
    /// Its API listens beyond loopback, and asks nobody who it is.
    pub insecure: bool,
    /// What it told of its disks.
    pub disks: BTreeMap<DiskId, DiskTold>,
    /// Bytes that each replica on its disks takes.
    pub replicas: Arc<BTreeMap<Rid, u64>>,
    /// The volumes that are attached to it.
    pub volumes: Arc<BTreeMap<VolumeId, VolumeTold>>,
    /// Copies and scrubs that it coordinates.
    pub syncs: Vec<SyncTold>,
    /// Replicas that the record wants there and that it cannot make; a bounded number of them.
    pub refused: Vec<Rid>,
}

/// A disk, as its node has told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiskTold {
    /// Bytes in use.
    pub used: u64,
    /// Replicas that its table can hold at most; 0: not told.
    pub entries: u64,
    /// It is open and serves.
    pub in_service: bool,
    /// Why it does not serve, or what is wrong with it though it does.
    pub fault: Option<(DiskFault, String)>,
    /// How its I/O is done: `io_uring` or `threads`; empty: not told.
    pub backend: String,
}

/// An attached volume, as its node has told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeTold {
    /// The attachment that it is about.
    pub session: SessionId,
    /// Every shard is served: clients' requests are answered.
    pub serving: bool,
    /// What it waits for if it is not served; empty otherwise.
    pub waits_for: String,
    /// Connections of clients.
    pub connections: u32,
}

/// The progress of a copy to a replica, or of a scrub, as its coordinator has told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SyncTold {
    /// The volume that it is about.
    pub vol: VolumeId,
    /// Number of the shard.
    pub shard: u32,
    /// The replica that is filled; none: a scrub.
    pub rid: Option<Rid>,
    /// `comparing`, `copying`, …, or `scrub`.
    pub stage: String,
    /// Chunks to be looked at.
    pub chunks: u64,
    /// Chunks that were looked at.
    pub chunks_done: u64,
    /// Bytes copied so far; of a scrub: repaired.
    pub copied_bytes: u64,
    /// Speed of the copy.
    pub bytes_per_second: u64,
}

impl Soft {
    /// A disk, as its node has told; none without fresh evidence.
    pub fn disk(&self, node: NodeId, disk: DiskId) -> Option<&DiskTold> {
        self.nodes.get(&node).filter(|n| n.is_fresh())?.told.disks.get(&disk)
    }

    /// Bytes that a replica takes on its disk, as last told, however long ago.
    pub fn replica_bytes(&self, node: NodeId, rid: Rid) -> Option<u64> {
        self.nodes.get(&node)?.told.replicas.get(&rid).copied()
    }

    /// A volume, as the node has told to which it is attached; none without fresh evidence.
    pub fn volume(&self, node: NodeId, vol: VolumeId) -> Option<&VolumeTold> {
        self.nodes.get(&node).filter(|n| n.is_fresh())?.told.volumes.get(&vol)
    }

    /// Copies and scrubs under way, as nodes that answer have told.
    pub fn syncs(&self) -> impl Iterator<Item = &SyncTold> {
        self.nodes.iter().filter(|(n, _)| self.up.contains(n)).flat_map(|(_, n)| &n.told.syncs)
    }

    /// What planning looks at.
    pub fn liveness(&self) -> Liveness {
        let disks = || self.nodes.values().flat_map(|n| &n.told.disks);
        let heard = self.nodes.iter().map(|(id, n)| (*id, n.heard_ms));
        let silent = heard.chain(self.unheard.iter().map(|id| (*id, self.leading_ms)));
        Liveness {
            up: self.up.clone(),
            used: disks().map(|(id, d)| (*id, d.used)).collect(),
            entries: disks().filter(|(_, d)| d.entries > 0).map(|(id, d)| (*id, d.entries)).collect(),
            away: silent.filter(|(id, _)| !self.up.contains(id)).collect(),
            refused: self.nodes.values().flat_map(|n| n.told.refused.iter().copied()).collect(),
            refusing: self.refusing.clone(),
            wall_ms: self.wall_ms,
        }
    }
}

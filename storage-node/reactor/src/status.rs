//! Where a reactor's things stand, for status and metrics.

use crate::latency::Latency;
use hf_policy::{DiskId, Lineage, Rid, SessionId, StoreUuid, VolumeId};
use hf_repl_core::coordinator as co;

/// Where one reactor stands.
#[derive(Debug, Default)]
pub struct ReactorStatus {
    /// The disks that the reactor owns.
    pub disks: Vec<DiskStatus>,
    /// The volumes attached on it.
    pub volumes: Vec<VolumeStatus>,
    /// Open connections to its exports.
    pub connections: usize,
    /// Links to remote disks on which a volume attached here has replicas.
    pub links: Vec<LinkStatus>,
    /// Bytes held for other nodes' requests to disks here, and for the answers to them.
    pub held: u64,
    /// Requests of other nodes that wait for room for their answers.
    pub parked: u64,
}

/// Where one disk stands.
#[derive(Clone, Debug)]
pub struct DiskStatus {
    /// Its id in the cluster.
    pub disk: DiskId,
    /// Its store's counters.
    pub stats: hf_store::Stats,
    /// How its I/O is done: `io_uring` or `threads`.
    pub backend: &'static str,
    /// Its first error, if it has failed.
    pub failed: Option<String>,
    /// It failed because an invariant of the code did not hold: the disk itself may be well.
    pub latched: bool,
    /// How many bad blocks it met, if those are more than its budget.
    pub failing: Option<String>,
    /// The replicas on it.
    pub replicas: Vec<ReplicaStatus>,
}

/// One replica, as its store has it.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaStatus {
    /// Its id in the cluster.
    pub rid: Rid,
    /// Identifies its storage: another value means other storage.
    pub store_uuid: StoreUuid,
    /// The history that its data belongs to.
    pub lineage: Lineage,
    /// The newest epoch it was told of.
    pub epoch: u64,
    /// Bytes that its data takes on the disk.
    pub bytes: u64,
    /// A coordinator holds a lease of it now.
    pub leased: bool,
}

/// One attached volume.
#[derive(Clone, Debug)]
pub struct VolumeStatus {
    /// Its id in the cluster.
    pub vol: VolumeId,
    /// The attachment that this reactor coordinates.
    pub session: SessionId,
    /// The attachment is over: it serves nobody any more, and is kept until the volume is attached again or deleted.
    pub over: bool,
    /// Its shards' coordinators, in order.
    pub shards: Vec<co::Status>,
    /// Open connections to its exports.
    pub connections: usize,
    /// Requests in flight on all of them.
    pub requests: u64,
    /// Bytes of payload held for them.
    pub payload: u64,
    /// Requests in flight that change the volume.
    pub writes: usize,
}

/// What the clients of a reactor's volumes have done. It is asked for apart from [`ReactorStatus`], which is looked at
/// twice a second and has no need of histograms.
#[derive(Clone, Debug, Default)]
pub struct ReactorLoad {
    /// The volumes attached on it, without those whose attachment is over.
    pub volumes: Vec<VolumeLoad>,
    /// How long requests took since the reactor began, those of attachments that are over among them.
    pub latency: Latency,
}

/// What the clients of one attached volume have done since it was attached.
#[derive(Clone, Debug)]
pub struct VolumeLoad {
    /// Its id in the cluster.
    pub vol: VolumeId,
    /// The attachment; another one counts from zero.
    pub session: SessionId,
    /// How long requests took.
    pub latency: Latency,
    /// Bytes that reads delivered.
    pub read_bytes: u64,
    /// Bytes that writes and zeroes covered.
    pub written_bytes: u64,
}

/// One link to a disk of another node.
#[derive(Clone, Copy, Debug)]
pub struct LinkStatus {
    /// The disk at the other end.
    pub disk: DiskId,
    /// Bytes sent to it since an attached volume first needed it.
    pub sent: u64,
    /// Bytes received from it since then.
    pub received: u64,
    /// Bytes of payload in flight to it.
    pub in_flight: u64,
    /// Bytes of payload that may be in flight to it.
    pub window: u64,
    /// Bytes of payload that wait for their turn.
    pub queued: u64,
    /// Bytes of answers that it was asked for.
    pub coming: u64,
}

//! What the control plane tells a reactor. The mailbox is the only way in from other threads.

use crate::disk::{DiskFile, DiskOptions};
use crate::net::Stream;
use crate::status::{ReactorLoad, ReactorStatus};
use hf_frontends::nbd::Agreed;
use hf_meta_core::ClusterState;
use hf_policy::{DiskId, Lineage, LogAge, Rid, SessionId, ShardId, VolumeId};
use hf_repl_core::coordinator::Proposed;
use hf_store::{ReplicaRec, Store, StoreError};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// One message of the control plane to a reactor.
pub enum Mail {
    /// Take over an opened disk.
    AddDisk {
        /// The disk's id in the cluster.
        disk: DiskId,
        /// Its store, replayed and not started.
        store: Box<Store>,
        /// Its file or device.
        file: Arc<DiskFile>,
        /// How it is used.
        how: DiskOptions,
    },
    /// Initialise a replica's storage.
    CreateReplica {
        /// The disk it is made on.
        disk: DiskId,
        /// What is to be durable of it.
        rec: Box<ReplicaRec>,
        /// Answered when it is durable.
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Delete a replica's data.
    DeleteReplica {
        /// The disk it is on.
        disk: DiskId,
        /// The replica that this is about.
        rid: Rid,
        /// Answered when that is durable.
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// A replica takes the lineage that the record has now.
    Adopt {
        /// The disk it is on.
        disk: DiskId,
        /// The replica that this is about.
        rid: Rid,
        /// The new history.
        lineage: Lineage,
        /// The record's epoch.
        epoch: u64,
    },
    /// The record has changed.
    State(Arc<ClusterState>),
    /// Begin to coordinate a volume that this node has just been given.
    StartVolume {
        /// The volume that this is about.
        vol: VolumeId,
        /// The volume's attachment that this is about.
        session: SessionId,
    },
    /// Let an attachment end; [`crate::Event::Drained`] follows.
    StopVolume {
        /// The volume that this is about.
        vol: VolumeId,
        /// The attachment; a newer one of the volume goes on.
        session: SessionId,
    },
    /// A negotiated NBD connection.
    Nbd {
        /// The connection, taken out of the runtime that accepted it.
        stream: Stream,
        /// What was agreed.
        agreed: Box<Agreed>,
        /// The volume that this is about.
        vol: VolumeId,
        /// Bytes that were read beyond the negotiation.
        rest: Vec<u8>,
        /// Its place among the node's connections.
        seat: OwnedSemaphorePermit,
    },
    /// Another node's link to one of this reactor's disks, its hello read and checked.
    Data {
        /// The socket, taken out of the runtime that accepted it.
        stream: std::net::TcpStream,
        /// The disk that the link is for.
        disk: DiskId,
        /// What the other side can do (`hf_repl_core::wire`).
        capabilities: u64,
    },
    /// The outcome of a proposal that a shard's coordinator made.
    Proposed {
        /// The shard whose coordinator proposed.
        shard: ShardId,
        /// The attachment that proposed.
        session: SessionId,
        /// What came of it.
        outcome: Proposed,
    },
    /// Tell where everything stands.
    Status(oneshot::Sender<ReactorStatus>),
    /// Tell what the clients of the attached volumes have done so far.
    Load(oneshot::Sender<ReactorLoad>),
    /// The volume is not exported any more, or is again: clients that are there end with their last answers.
    Export {
        /// The volume that this is about.
        vol: VolumeId,
        /// The volume's attachment that this is about.
        session: SessionId,
        /// Whether clients may use it.
        on: bool,
    },
    /// Take no more requests; answered when every connection has got its last replies and is closed.
    StopClients(oneshot::Sender<()>),
    /// How old the node's metadata log is: every disk notes it.
    LogAge(LogAge),
    /// Checkpoint every disk, then end.
    Shutdown(oneshot::Sender<()>),
}

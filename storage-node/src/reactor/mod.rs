//! A reactor: one thread that owns some disks and some attached volumes; tokio's current-thread runtime and an io_uring per
//! disk. Everything that happens enters through [`core::Core`] as a work item and is carried as far as it goes without a
//! lock or another thread.
//!
//! The mailbox is the only way in from other threads; events are the only way out.

mod conn;
mod core;
mod departures;
mod disk_host;
mod intake;
mod links;
mod pause;
mod pieces;
mod replies;
mod shard_record;
mod syncs;
mod volume_host;

pub use core::{DiskStatus, Held};
pub use links::{LinkMemory, LinkStatus};
pub use volume_host::VolumeStatus;

use crate::disk::DiskFile;
use hf_frontends::nbd::Agreed;
use hf_meta_core::ClusterState;
use hf_policy::{BootId, ClusterId, DiskId, Epoch, Lineage, LogAge, NodeId, Rid, SessionId, ShardId, Term, VolumeId};
use hf_repl::budget::Budget;
use hf_repl_core::coordinator::{Change, Proposed};
use hf_store::{ReplicaRec, Store, StoreError};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// How a disk is used.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Use threads even if io_uring is there.
    pub force_threads: bool,
    /// Bad blocks after which the disk is emptied; 0: never.
    pub error_budget: u64,
    /// Bytes for writes that are not in their place yet.
    pub write_memory: usize,
    /// Bytes for chunk pages.
    pub page_memory: usize,
    /// Replicas, at most.
    pub replicas: u32,
}

impl DiskOptions {
    /// What they mean to the store.
    pub fn store(&self) -> hf_store::Config {
        let cached_pages = self.page_memory / hf_store::PAGE_MEMORY;
        let (overlay_bytes, replicas) = (self.write_memory, self.replicas);
        hf_store::Config { overlay_bytes, cached_pages, replicas, ..hf_store::Config::default() }
    }
}

/// What the control plane tells a reactor.
pub enum Mail {
    /// Take over an opened disk.
    AddDisk {
        /// Its number.
        disk: DiskId,
        /// Its store, replayed, not started.
        store: Box<Store>,
        /// Its file.
        file: Arc<DiskFile>,
        /// How it is used.
        how: DiskOptions,
    },
    /// Initialise a replica's storage.
    CreateReplica {
        /// Where.
        disk: DiskId,
        /// What.
        rec: Box<ReplicaRec>,
        /// When durable.
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Delete a replica's data.
    DeleteReplica {
        /// Where.
        disk: DiskId,
        /// Which.
        rid: Rid,
        /// When durable.
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// A replica takes the lineage that the record has now.
    Adopt {
        /// Where.
        disk: DiskId,
        /// Which.
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
        /// Which.
        vol: VolumeId,
        /// The attachment.
        session: SessionId,
    },
    /// Let an attachment end; [`Event::Drained`] follows.
    StopVolume {
        /// The volume.
        vol: VolumeId,
        /// The attachment; a newer one of the volume goes on.
        session: SessionId,
    },
    /// A negotiated NBD connection.
    Nbd {
        /// The socket.
        stream: NbdStream,
        /// What was agreed.
        agreed: Box<Agreed>,
        /// The volume.
        vol: VolumeId,
        /// Bytes read beyond the negotiation.
        rest: Vec<u8>,
        /// Its place among the connections.
        seat: tokio::sync::OwnedSemaphorePermit,
    },
    /// A replication connection for one of this reactor's disks, its hello read.
    Data {
        /// The socket.
        stream: std::net::TcpStream,
        /// The disk.
        disk: DiskId,
        /// What the other side can do.
        capabilities: u64,
    },
    /// A proposal's outcome.
    Proposed {
        /// Whose.
        shard: ShardId,
        /// Of which attachment.
        session: SessionId,
        /// What came of it.
        outcome: Proposed,
    },
    /// Tell where everything stands.
    Status(oneshot::Sender<ReactorStatus>),
    /// The volume is not exported any more, or is again: clients that are there end with their last answers.
    Export {
        /// Which.
        vol: VolumeId,
        /// Its attachment.
        session: SessionId,
        /// May clients use it?
        on: bool,
    },
    /// Take no more requests; answered when every connection has got its last replies and is closed.
    StopClients(oneshot::Sender<()>),
    /// This is how old the node's metadata log is: every disk notes it.
    LogAge(LogAge),
    /// Checkpoint every disk, then end.
    Shutdown(oneshot::Sender<()>),
}

/// An NBD socket.
pub enum NbdStream {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// Unix.
    Unix(std::os::unix::net::UnixStream),
}

/// What a reactor tells the control plane.
#[derive(Debug)]
pub enum Event {
    /// Propose a change of the record; answer with [`Mail::Proposed`].
    Propose {
        /// Which shard.
        shard: ShardId,
        /// Of which attachment.
        session: SessionId,
        /// Compare-and-set.
        epoch: Epoch,
        /// Term.
        term: Term,
        /// What.
        change: Change,
    },
    /// Every shard would serve: that is to be recorded.
    Ready {
        /// Which.
        vol: VolumeId,
        /// The attachment.
        session: SessionId,
        /// Its term.
        term: Term,
    },
    /// The attachment is over: fenced.
    Fenced {
        /// Which.
        vol: VolumeId,
        /// The attachment.
        session: SessionId,
    },
    /// Nothing is outstanding any more.
    Drained {
        /// Which.
        vol: VolumeId,
        /// The attachment.
        session: SessionId,
    },
    /// This reactor was paused: it begins nothing before it is told that the node obeys the newest record.
    Paused {
        /// To tell it.
        fresh: oneshot::Sender<()>,
    },
    /// A disk met more bad blocks than it may.
    DiskFailing {
        /// Which.
        disk: DiskId,
        /// Why.
        why: String,
    },
    /// A disk has failed for good.
    DiskFailed {
        /// Which.
        disk: DiskId,
        /// Why.
        why: String,
    },
}

/// Where a reactor's things stand.
#[derive(Debug, Default)]
pub struct ReactorStatus {
    /// Disks.
    pub disks: Vec<DiskStatus>,
    /// Attached volumes.
    pub volumes: Vec<VolumeStatus>,
    /// NBD connections.
    pub connections: usize,
    /// Remote disks that a volume here has replicas on.
    pub links: Vec<LinkStatus>,
    /// Bytes held for other nodes' requests to disks here, and for the answers to them.
    pub held: u64,
    /// Requests of other nodes that wait for room for their answers.
    pub parked: u64,
}

/// A running reactor.
#[derive(Clone)]
pub struct Handle {
    tx: mpsc::UnboundedSender<Mail>,
}

impl Handle {
    /// Puts something into the mailbox. Mail is control traffic: its amount is bounded by what the control plane does.
    pub fn send(&self, mail: Mail) {
        let _ = self.tx.send(mail);
    }

    /// Asks where everything stands.
    pub async fn status(&self) -> ReactorStatus {
        let (tx, rx) = oneshot::channel();
        self.send(Mail::Status(tx));
        rx.await.unwrap_or_default()
    }
}

/// The node's payload memory, in the parts that must not wait for each other (docs/decisions/0032).
#[derive(Clone)]
pub struct Memory {
    /// What clients of exports may hold: a half.
    pub exports: Budget,
    /// What other nodes' requests to disks here may hold: the other half.
    pub links: LinkMemory,
    bytes: u64,
}

impl Memory {
    /// So many bytes of payload (`payload_memory`).
    pub fn new(bytes: u64) -> Memory {
        Memory { exports: Budget::new(bytes / 2), links: LinkMemory::new(bytes / 2), bytes }
    }

    /// All of it, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Who this node is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// This process.
    pub boot: BootId,
}

/// Starts a reactor's thread.
pub fn start(
    index: usize,
    id: Identity,
    events: mpsc::UnboundedSender<Event>,
    memory: Memory,
) -> std::io::Result<Handle> {
    let (tx, rx) = mpsc::unbounded_channel();
    std::thread::Builder::new().name(format!("reactor-{index}")).spawn(move || {
        let rt = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(rt) => rt,
            Err(e) => return tracing::error!("reactor {index}: {e}"),
        };
        tokio::task::LocalSet::new().block_on(&rt, core::run(id, rx, events, memory));
    })?;
    Ok(Handle { tx })
}

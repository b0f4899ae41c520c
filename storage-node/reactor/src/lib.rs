//! A reactor: one thread that owns some disks and some attached volumes, on tokio's current-thread runtime
//! with an io_uring per disk.
//!
//! The mailbox ([`Mail`]) is the only way in from other threads, [`Event`]s are the only way out. Inside,
//! everything that happens is a work item that is carried as far as it goes without a lock or another thread
//! (`core.rs`).
//!
//! | module | |
//! | --- | --- |
//! | `core`, `thread` | the loop that routes work between hosts; the thread's mailbox, clock and tasks |
//! | [`disk`] | files and devices, their I/O, and a disk as a host: its store and the replicas on it |
//! | `volume` | attached volumes as a host, and the port through which every export reaches them |
//! | `link` | links to other nodes' disks, and from other nodes' coordinators |
//! | `export`, [`net`] | clients' connections, and the sockets that carry them |
//! | [`latency`] | how long clients' requests took |
//! | `work`, [`event`], [`mail`], [`status`] | the words |
//!
//! It knows nothing of gRPC, RocksDB, the command line or the page: the daemon around it does.

mod core;
pub mod disk;
pub mod event;
mod export;
pub mod latency;
mod link;
pub mod mail;
mod memory;
pub mod net;
mod pause;
pub mod status;
mod thread;
mod volume;
mod work;

pub use event::{Event, Identity};
pub use link::memory::LinkMemory;
pub use mail::Mail;
pub use memory::Memory;
pub use status::{DiskStatus, LinkStatus, ReactorLoad, ReactorStatus, ReplicaStatus, VolumeLoad, VolumeStatus};

use tokio::sync::{mpsc, oneshot};

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

    /// Asks what the clients of the attached volumes have done so far.
    pub async fn load(&self) -> ReactorLoad {
        let (tx, rx) = oneshot::channel();
        self.send(Mail::Load(tx));
        rx.await.unwrap_or_default()
    }
}

/// Starts the thread of reactor number `index`.
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
        tokio::task::LocalSet::new().block_on(&rt, thread::run(id, rx, events, memory));
    })?;
    Ok(Handle { tx })
}

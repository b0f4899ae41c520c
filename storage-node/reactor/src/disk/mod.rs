//! Disks: files and devices ([`raw`]), their I/O ([`backend`]: io_uring or threads), and each as a host on its reactor
//! ([`host`]: the store and the replicas that live on it).

mod backend;
mod event_fd;
pub(crate) mod host;
pub mod raw;
mod threads;
mod uring;

pub use host::DiskOptions;
pub use raw::DiskFile;

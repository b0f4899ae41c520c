//! The engine's `DiskOp`s on real disks: io_uring, or a pool of threads where the kernel refuses it.

use super::event_fd::Done;
use super::raw::DiskFile;
use super::{threads, uring};
use hf_store::DiskOp;
use std::sync::Arc;

/// How a disk's operations are done.
pub(crate) enum Backend {
    /// io_uring, driven by the reactor's own thread.
    Uring(Box<uring::Uring>),
    /// Blocking system calls on other threads.
    Threads(threads::Threads),
}

impl Backend {
    /// io_uring if the kernel allows it, else threads; says which.
    pub fn new(file: Arc<DiskFile>, force_threads: bool) -> std::io::Result<Backend> {
        if !force_threads {
            match uring::Uring::new(file.clone()) {
                Ok(u) => return Ok(Backend::Uring(Box::new(u))),
                Err(e) => tracing::warn!(disk = %file.path.display(), "io_uring refused ({e}); using threads"),
            }
        }
        Ok(Backend::Threads(threads::Threads::new(file)))
    }

    /// For logs and status.
    pub fn name(&self) -> &'static str {
        match self {
            Backend::Uring(_) => "io_uring",
            Backend::Threads(_) => "threads",
        }
    }

    /// Queues an operation.
    pub fn submit(&mut self, tag: u64, op: DiskOp) {
        match self {
            Backend::Uring(u) => u.submit(tag, op),
            Backend::Threads(t) => t.submit(tag, op),
        }
    }

    /// Tells the kernel of everything queued, in one call.
    pub fn flush(&mut self) {
        if let Backend::Uring(u) = self {
            u.flush();
        }
    }

    /// Takes what has completed.
    pub fn reap(&mut self, out: &mut Vec<Done>) {
        match self {
            Backend::Uring(u) => u.reap(out),
            Backend::Threads(t) => t.reap(out),
        }
    }

    /// What becomes readable when something has completed: a descriptor of its own.
    pub fn event_fd(&self) -> std::io::Result<std::os::fd::OwnedFd> {
        match self {
            Backend::Uring(u) => u.event().duplicate(),
            Backend::Threads(t) => t.event().duplicate(),
        }
    }
}

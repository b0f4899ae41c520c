//! The engine's `DiskOp`s on real disks: io_uring, or a pool of threads where the kernel refuses it.

pub mod raw;
mod threads;
mod uring;

pub use raw::DiskFile;

use bytes::Bytes;
use hf_store::{DiskError, DiskOp};
use std::sync::Arc;

/// A completion: tag and result.
pub type Done = (u64, Result<Bytes, DiskError>);

/// How a disk's operations are done.
pub enum Backend {
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
            Backend::Uring(u) => u.event().0.try_clone(),
            Backend::Threads(t) => t.event().0.try_clone(),
        }
    }
}

/// An eventfd, closed when dropped.
struct EventFd(std::os::fd::OwnedFd);

impl EventFd {
    fn new() -> std::io::Result<EventFd> {
        use std::os::fd::FromRawFd;
        // SAFETY: plain system call; the descriptor is owned right away.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor nobody else owns.
        Ok(EventFd(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }))
    }
    fn raw(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsRawFd;
        self.0.as_raw_fd()
    }
    fn clear(&self) {
        let mut n = 0u64;
        // SAFETY: reads 8 bytes into a local; an error (nothing to read) is fine.
        unsafe { libc::read(self.raw(), (&raw mut n).cast(), 8) };
    }
    fn signal(&self) {
        let n = 1u64;
        // SAFETY: writes 8 bytes from a local.
        unsafe { libc::write(self.raw(), (&raw const n).cast(), 8) };
    }
}

//! What completions look like to whoever waits for them, and an eventfd that wakes him.

use bytes::Bytes;
use hf_host_config::workers::Bell;
use hf_store::DiskError;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// A completion: the operation's tag and its result.
pub(crate) type Done = (u64, Result<Bytes, DiskError>);

/// An eventfd: readable from a ring until it is silenced.
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    pub fn new() -> std::io::Result<EventFd> {
        Ok(EventFd(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Its number, valid as long as it lives.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Another descriptor of the same eventfd.
    pub fn duplicate(&self) -> std::io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

impl Bell for EventFd {
    fn ring(&self) {
        // It fails only if 2^64 − 2 rings are unheard.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn silence(&self) {
        // It fails if nothing was rung, which is as well.
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

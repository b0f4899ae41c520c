//! Which clients of a volume have left: the kernel keeps the list, so that a newcomer costs the same however
//! many are there.
//!
//! A new connection's requests begin after everything that a client had sent on a connection it has left. To
//! know who has left, every socket is in one epoll instance that reports nothing but departures, each once.

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// Departures that one system call fetches.
const AT_ONCE: usize = 64;

/// An epoll instance for departures.
pub(super) struct Departures(OwnedFd);

impl Departures {
    pub(super) fn new() -> io::Result<Departures> {
        Ok(Departures(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Begins to watch an open socket; its departure is reported as `key`.
    pub(super) fn watch(&self, socket: RawFd, key: u64) -> io::Result<()> {
        // Hang-ups and errors are always reported. Edges: what was reported once is not reported again and again.
        let events = EventFlags::RDHUP | EventFlags::ET;
        // SAFETY: the caller keeps the socket open during the call.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        Ok(epoll::add(&self.0, socket, EventData::new_u64(key), events)?)
    }

    /// Stops watching a socket that is still open.
    pub(super) fn forget(&self, socket: RawFd) {
        // SAFETY: as above.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        // It fails only for a socket that is not watched, which is as well.
        let _ = epoll::delete(&self.0, socket);
    }

    /// Hands on the keys of those who have left since it was asked last.
    pub(super) fn take(&self, mut on: impl FnMut(u64)) {
        let none = EventData::new_u64(0);
        loop {
            let mut events = [Event { flags: EventFlags::empty(), data: none }; AT_ONCE];
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let n = epoll::wait(&self.0, &mut events[..], Some(&at_once)).unwrap_or(0);
            // (The struct is packed: its field is copied, not borrowed.)
            events.iter().take(n).for_each(|e| on({ e.data }.u64()));
            if n < AT_ONCE {
                return;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn left(d: &Departures) -> Vec<u64> {
        let mut keys = Vec::new();
        d.take(|k| keys.push(k));
        keys.sort_unstable();
        keys
    }

    #[test]
    fn whoever_left_is_reported_once_and_nobody_else() {
        let d = Departures::new().unwrap();
        let mut pairs: Vec<_> = (0..200).map(|_| UnixStream::pair().unwrap()).collect();
        for (i, (ours, _)) in pairs.iter().enumerate() {
            d.watch(ours.as_raw_fd(), i as u64).unwrap();
        }
        assert!(left(&d).is_empty());
        pairs[3].1.write_all(b"data is no departure").unwrap();
        assert!(left(&d).is_empty());
        for (_, theirs) in &pairs[..150] {
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
        }
        assert_eq!(left(&d), (0..150).collect::<Vec<u64>>());
        assert!(left(&d).is_empty());
        d.forget(pairs[160].0.as_raw_fd());
        pairs.truncate(155);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        d.watch(ours.as_raw_fd(), 7).unwrap();
        assert!(left(&d).is_empty(), "a socket of ours that was closed is watched no more");
    }
}

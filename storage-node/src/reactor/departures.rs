//! Which clients of a volume have left: the kernel keeps the list, so that a newcomer costs the same however many are there.
//!
//! A new connection's requests begin after everything that a client had sent on a connection it has left. To know who has
//! left, every socket is in one epoll instance that reports nothing but departures, each once.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Departures that one system call fetches.
const AT_ONCE: usize = 64;

/// An epoll instance for departures.
pub(super) struct Departures(OwnedFd);

impl Departures {
    pub(super) fn new() -> io::Result<Departures> {
        // SAFETY: no pointers; the result is checked before it is used.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Departures(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Begins to watch a socket; its departure is reported as `key`.
    pub(super) fn watch(&self, socket: RawFd, key: u64) -> io::Result<()> {
        // Hang-ups and errors are always reported. Edges: what was reported once is not reported again and again.
        let mut e = libc::epoll_event { events: (libc::EPOLLRDHUP | libc::EPOLLET) as u32, u64: key };
        self.control(libc::EPOLL_CTL_ADD, socket, &mut e)
    }

    /// Stops watching a socket that is still open.
    pub(super) fn forget(&self, socket: RawFd) {
        // It fails only for a socket that is not watched, which is as well.
        let _ = self.control(libc::EPOLL_CTL_DEL, socket, &mut libc::epoll_event { events: 0, u64: 0 });
    }

    fn control(&self, how: libc::c_int, socket: RawFd, e: &mut libc::epoll_event) -> io::Result<()> {
        // SAFETY: `e` is a local struct that lives as long as the call.
        match unsafe { libc::epoll_ctl(self.0.as_raw_fd(), how, socket, e) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Hands on the keys of those who have left since it was asked last.
    pub(super) fn take(&self, mut on: impl FnMut(u64)) {
        loop {
            let mut events = [libc::epoll_event { events: 0, u64: 0 }; AT_ONCE];
            // SAFETY: room for AT_ONCE events; with a timeout of zero the call returns at once.
            let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), AT_ONCE as i32, 0) };
            let n = usize::try_from(n).unwrap_or(0);
            events.iter().take(n).for_each(|e| on(e.u64));
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

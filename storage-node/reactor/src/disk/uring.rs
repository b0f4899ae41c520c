//! io_uring inside the reactor: operations are queued, submitted in one call per turn, and reaped when the ring's
//! eventfd becomes readable. Buffers live in the ring's table until their completion has been seen.
//!
//! No more operations are in flight than the completion queue holds: what overflows it stays in the
//! kernel until somebody asks, without a sign on the eventfd. The others wait in the queue here and
//! go out when completions have been taken.

use super::event_fd::{Done, EventFd};
use super::raw::DiskFile;
use bytes::Bytes;
use hf_host_config::state_log::StateLog;
use hf_host_config::workers::Bell;
use hf_repl::AlignedBuf;
use hf_store::{DiskError, DiskOp};
use io_uring::{IoUring, opcode, types};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Entries of the submission queue; the completion queue has twice as many.
const ENTRIES: u32 = 512;

/// What the kernel may be touching.
enum Held {
    Read(AlignedBuf, usize),
    Write { bufs: Vec<Bytes>, iov: Vec<libc::iovec>, off: u64, len: usize, durable: bool },
    Sync,
}

// The iovecs point into `bufs`, which are owned next to them.
/// A ring for one disk.
pub(crate) struct Uring {
    ring: IoUring,
    file: Arc<DiskFile>,
    event: EventFd,
    held: BTreeMap<u64, Held>,
    /// Waits for a place in the submission queue.
    queue: VecDeque<u64>,
    /// Operations that the submission queue or the kernel has, and the most that there may be.
    in_flight: usize,
    most: usize,
    /// Why the ring cannot be used any more; every operation fails from then on.
    broken: Option<String>,
    /// Buffers that the kernel got before the ring broke. It may still write to them: they are kept as long
    /// as the ring.
    abandoned: Vec<Held>,
    states: StateLog,
}

impl Uring {
    pub(super) fn new(file: Arc<DiskFile>) -> std::io::Result<Uring> {
        Self::with(file, ENTRIES)
    }

    fn with(file: Arc<DiskFile>, entries: u32) -> std::io::Result<Uring> {
        let ring = IoUring::new(entries)?;
        let most = ring.params().cq_entries() as usize;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Read::CODE, opcode::Writev::CODE, opcode::Fsync::CODE];
        if needed.iter().any(|c| !probe.is_supported(*c)) {
            return Err(std::io::Error::other("the kernel's io_uring lacks read, writev or fsync"));
        }
        let event = EventFd::new()?;
        ring.submitter().register_eventfd(event.raw())?;
        let (held, queue, abandoned, states) = Default::default();
        Ok(Uring { ring, file, event, held, queue, in_flight: 0, most, broken: None, abandoned, states })
    }

    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }

    pub(super) fn submit(&mut self, tag: u64, op: DiskOp) {
        let held = match op {
            DiskOp::Read { off, len } => {
                self.push_read(tag, off, len as usize);
                return;
            }
            DiskOp::Write { off, bufs, durable } => {
                let bufs: Vec<Bytes> = bufs.iter().map(AlignedBuf::align).collect();
                let iov = bufs
                    .iter()
                    .map(|b| libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() })
                    .collect();
                let len = bufs.iter().map(Bytes::len).sum();
                Held::Write { bufs, iov, off, len, durable }
            }
            DiskOp::Sync => Held::Sync,
        };
        self.held.insert(tag, held);
        self.queue.push_back(tag);
    }

    fn push_read(&mut self, tag: u64, off: u64, len: usize) {
        self.held.insert(tag, Held::Read(AlignedBuf::zeroed(len), off as usize));
        self.queue.push_back(tag);
    }

    fn entry(&mut self, tag: u64) -> Option<io_uring::squeue::Entry> {
        let fd = types::Fd(self.file.file.as_raw_fd());
        let e = match self.held.get_mut(&tag)? {
            Held::Read(buf, off) => {
                let len = buf.as_ref().len() as u32;
                opcode::Read::new(fd, buf.as_mut_ptr(), len).offset(*off as u64).build()
            }
            Held::Write { iov, off, durable, .. } => {
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(fd, iov.as_ptr(), iov.len() as u32).offset(*off).rw_flags(flags).build()
            }
            Held::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        };
        Some(e.user_data(tag))
    }

    /// Hands over what there is room for.
    pub(super) fn flush(&mut self) {
        while self.broken.is_none() {
            self.fill();
            let offered = self.ring.submission().len();
            if offered == 0 {
                return;
            }
            match self.ring.submit() {
                // The kernel may take fewer than it was offered; the rest stays where it is and is
                // offered again.
                Ok(taken) if taken > 0 => {}
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                // It is short of memory or has completions to be taken: in the next turn, which no
                // completion may bring about.
                Ok(_) => return self.event.ring(),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => return self.event.ring(),
                Err(e) => {
                    tracing::error!("io_uring submit: {e}");
                    self.broken = Some(format!("io_uring submit: {e}"));
                }
            }
        }
        if !self.held.is_empty() {
            self.event.ring();
        }
    }

    /// Fills the submission queue, as long as every completion will have its place.
    fn fill(&mut self) {
        while self.in_flight < self.most {
            let Some(tag) = self.queue.pop_front() else { return };
            let Some(e) = self.entry(tag) else { continue };
            // SAFETY: buffers and iovecs stay in `held` until this operation's completion has been reaped.
            if unsafe { self.ring.submission().push(&e) }.is_err() {
                return self.queue.push_front(tag);
            }
            self.in_flight += 1;
        }
    }

    pub(super) fn reap(&mut self, out: &mut Vec<Done>) {
        self.event.silence();
        loop {
            let done: Vec<(u64, i32)> = self.ring.completion().map(|c| (c.user_data(), c.result())).collect();
            self.in_flight -= done.len();
            for (tag, res) in done {
                let Some(held) = self.held.remove(&tag) else { continue };
                out.push((tag, finish(held, res)));
            }
            // (Not while no more is in flight than the queue holds. Where it happens all the same,
            // entering the kernel fetches them.)
            if !self.ring.submission().cq_overflow() || self.broken.is_some() {
                break;
            }
            if let Err(e) = self.ring.submit() {
                self.states.warn("io_uring", "", &format!("io_uring, fetching completions: {e}"));
                self.event.ring();
                break;
            }
        }
        if let Some(why) = &self.broken {
            // Nothing more is submitted, and no completion is waited for: every operation counts as failed, and the
            // store fails with the first of them.
            self.queue.clear();
            for (tag, held) in std::mem::take(&mut self.held) {
                out.push((tag, Err(DiskError(why.clone()))));
                self.abandoned.push(held);
            }
            return;
        }
        self.flush();
    }
}

fn finish(held: Held, res: i32) -> Result<Bytes, DiskError> {
    let err = |what: &str| DiskError(format!("{what}: {}", std::io::Error::from_raw_os_error(-res)));
    match held {
        Held::Read(buf, off) if res >= 0 && res as usize == buf.as_ref().len() => {
            let _ = off;
            Ok(buf.freeze())
        }
        Held::Read(_, off) if res >= 0 => Err(DiskError(format!("short read of {res} bytes at {off}"))),
        Held::Read(_, off) => Err(err(&format!("read at {off}"))),
        // Direct writes of a preallocated file or a device are whole; a short one is a failing disk.
        Held::Write { len, bufs, .. } if res >= 0 && res as usize == len => {
            drop(bufs);
            Ok(Bytes::new())
        }
        Held::Write { off, .. } if res >= 0 => Err(DiskError(format!("short write of {res} bytes at {off}"))),
        Held::Write { off, .. } => Err(err(&format!("write at {off}"))),
        Held::Sync if res >= 0 => Ok(Bytes::new()),
        Held::Sync => Err(err("fdatasync")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::disk::raw::DiskFile;

    const BLOCK: u64 = 4096;

    fn disk(name: &str) -> (std::path::PathBuf, Arc<DiskFile>) {
        let dir = std::env::temp_dir().join(format!("holdfast-ring-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = DiskFile::create(&dir, 16 << 20).unwrap();
        (dir, Arc::new(file))
    }

    /// Waits for the ring's eventfd as the reactor does, and for nothing else.
    fn wait(u: &Uring) {
        let mut p = libc::pollfd { fd: u.event().raw(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, which is open.
        let n = unsafe { libc::poll(&mut p, 1, 30_000) };
        assert_eq!(n, 1, "no completion in 30 s: {} in flight, {} queued", u.in_flight, u.queue.len());
    }

    /// Submits them all at once; each must be answered once.
    fn all_complete(u: &mut Uring, ops: Vec<DiskOp>) {
        let n = ops.len();
        for (tag, op) in ops.into_iter().enumerate() {
            u.submit(tag as u64, op);
        }
        u.flush();
        let mut done = Vec::new();
        while done.len() < n {
            wait(u);
            u.reap(&mut done);
            assert!(u.in_flight <= u.most);
        }
        let mut tags: Vec<u64> = done.iter().map(|(tag, _)| *tag).collect();
        tags.sort_unstable();
        assert!(tags.iter().copied().eq(0..n as u64), "each is answered once");
        assert!(done.iter().all(|(_, r)| r.is_ok()));
        assert!(u.held.is_empty() && u.queue.is_empty() && u.in_flight == 0);
    }

    fn write(i: u64) -> DiskOp {
        let block = Bytes::from(vec![i as u8; BLOCK as usize]);
        DiskOp::Write { off: i % 4000 * BLOCK, bufs: vec![block], durable: false }
    }

    fn mixed(i: u64) -> DiskOp {
        match i % 3 {
            0 => DiskOp::Read { off: i % 4000 * BLOCK, len: BLOCK as u32 },
            1 => DiskOp::Sync,
            _ => write(i),
        }
    }

    #[test]
    fn three_thousand_operations_submitted_at_once_all_complete() {
        let (dir, file) = disk("many");
        let mut u = Uring::new(file).unwrap();
        all_complete(&mut u, (0..3000).map(write).collect());
        all_complete(&mut u, (0..300).map(mixed).collect());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_completion_queue_that_overflows_is_emptied_too() {
        let (dir, file) = disk("overflow");
        let mut u = Uring::with(file, 8).unwrap();
        // Nothing keeps what is in flight within the queue's 16 places.
        u.most = 4096;
        all_complete(&mut u, (0..3000).map(write).collect());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_small_ring_takes_any_number() {
        let (dir, file) = disk("small");
        let mut u = Uring::with(file, 4).unwrap();
        assert_eq!(u.most, 8);
        all_complete(&mut u, (0..1000).map(mixed).collect());
        std::fs::remove_dir_all(dir).unwrap();
    }

    /// With operations in the submission queue, in the kernel and in the queue here, and for those that come later.
    #[test]
    fn a_ring_that_broke_answers_everything_with_why() {
        let (dir, file) = disk("broken");
        let mut u = Uring::with(file, 4).unwrap();
        for tags in [0..20u64, 20..20, 20..25] {
            tags.clone().for_each(|tag| u.submit(tag, write(tag)));
            u.fill();
            u.broken = Some("it broke".into());
            u.flush();
            let mut done = Vec::new();
            while done.len() < tags.clone().count() {
                wait(&u);
                u.reap(&mut done);
            }
            let told = |(tag, r): &Done| tags.contains(tag) && (r.is_ok() || r == &Err(DiskError("it broke".into())));
            assert!(done.iter().all(told), "{done:?}");
            assert!(u.held.is_empty() && u.queue.is_empty());
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}

//! io_uring inside the reactor: operations are queued, submitted in one call per turn, and reaped when the ring's
//! eventfd becomes readable. Buffers live in the ring's table until their completion has been seen.

use super::{DiskFile, Done, EventFd};
use bytes::Bytes;
use hf_repl::AlignedBuf;
use hf_store::{DiskError, DiskOp};
use io_uring::{IoUring, opcode, types};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsRawFd;
use std::sync::Arc;

const ENTRIES: u32 = 512;

/// What the kernel may be touching.
enum Held {
    Read(AlignedBuf, usize),
    Write { bufs: Vec<Bytes>, iov: Vec<libc::iovec>, off: u64, len: usize, durable: bool },
    Sync,
}

// The iovecs point into `bufs`, which are owned next to them.
/// A ring for one disk.
pub struct Uring {
    ring: IoUring,
    file: Arc<DiskFile>,
    event: EventFd,
    held: BTreeMap<u64, Held>,
    queue: VecDeque<u64>,
    unsubmitted: bool,
}

impl Uring {
    pub(super) fn new(file: Arc<DiskFile>) -> std::io::Result<Uring> {
        let ring = IoUring::new(ENTRIES)?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Read::CODE, opcode::Writev::CODE, opcode::Fsync::CODE];
        if needed.iter().any(|c| !probe.is_supported(*c)) {
            return Err(std::io::Error::other("the kernel's io_uring lacks read, writev or fsync"));
        }
        let event = EventFd::new()?;
        ring.submitter().register_eventfd(event.raw())?;
        Ok(Uring { ring, file, event, held: BTreeMap::new(), queue: VecDeque::new(), unsubmitted: false })
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
        self.unsubmitted = true;
    }

    fn push_read(&mut self, tag: u64, off: u64, len: usize) {
        self.held.insert(tag, Held::Read(AlignedBuf::zeroed(len), off as usize));
        self.queue.push_back(tag);
        self.unsubmitted = true;
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

    pub(super) fn flush(&mut self) {
        while let Some(tag) = self.queue.pop_front() {
            let Some(e) = self.entry(tag) else { continue };
            // SAFETY: buffers and iovecs stay in `held` until this operation's completion has been reaped.
            if unsafe { self.ring.submission().push(&e) }.is_err() {
                self.queue.push_front(tag);
                break;
            }
        }
        if self.unsubmitted {
            match self.ring.submit() {
                Ok(_) => self.unsubmitted = !self.queue.is_empty(),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR)) => {}
                Err(e) => tracing::error!("io_uring submit: {e}"),
            }
        }
    }

    pub(super) fn reap(&mut self, out: &mut Vec<Done>) {
        self.event.clear();
        let done: Vec<(u64, i32)> = self.ring.completion().map(|c| (c.user_data(), c.result())).collect();
        for (tag, res) in done {
            let Some(held) = self.held.remove(&tag) else { continue };
            out.push((tag, finish(held, res)));
        }
        if !self.queue.is_empty() {
            self.flush();
        }
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

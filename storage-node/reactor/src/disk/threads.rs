//! The fallback where io_uring is refused (containers with strict seccomp, old kernels): blocking calls on a
//! few threads.

use super::event_fd::{Done, EventFd};
use super::raw::DiskFile;
use bytes::Bytes;
use hf_host_config::workers::Workers;
use hf_repl::AlignedBuf;
use hf_store::{DiskError, DiskOp};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const THREADS: usize = 8;

/// The pool of one disk. Its threads end when it is dropped.
pub(crate) struct Threads(Workers<(u64, DiskOp), Done, EventFd>);

impl Threads {
    pub(super) fn new(file: Arc<DiskFile>) -> Threads {
        let event = match EventFd::new() {
            Ok(e) => e,
            Err(e) => {
                tracing::error!("eventfd: {e}");
                std::process::abort();
            }
        };
        // Whatever happens, an operation has an outcome: one that is never answered would hold its clients for ever.
        let outcome = move |op| {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&file, op)));
            done.unwrap_or_else(|_| Err(DiskError("the operation ended in a panic".into())))
        };
        Threads(Workers::new(THREADS, event, move |(tag, op)| (tag, outcome(op))))
    }

    pub(super) fn event(&self) -> &EventFd {
        self.0.bell()
    }
    pub(super) fn submit(&mut self, tag: u64, op: DiskOp) {
        self.0.submit((tag, op));
    }
    pub(super) fn reap(&mut self, out: &mut Vec<Done>) {
        self.0.reap(out);
    }
}

fn run(f: &DiskFile, op: DiskOp) -> Result<Bytes, DiskError> {
    let fail = |what: String| move |e: std::io::Error| DiskError(format!("{what}: {e}"));
    match op {
        DiskOp::Read { off, len } => {
            let mut b = AlignedBuf::zeroed(len as usize);
            f.file.read_exact_at(b.bytes_mut(), off).map_err(fail(format!("read at {off}")))?;
            Ok(b.freeze())
        }
        DiskOp::Write { off, bufs, durable } => {
            let bufs: Vec<Bytes> = bufs.iter().map(AlignedBuf::align).collect();
            let len: usize = bufs.iter().map(Bytes::len).sum();
            let iov: Vec<libc::iovec> =
                bufs.iter().map(|b| libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() }).collect();
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            // SAFETY: the iovecs point into `bufs`, which outlive the call.
            let n = unsafe { libc::pwritev2(f.file.as_raw_fd(), iov.as_ptr(), iov.len() as i32, off as i64, flags) };
            match n {
                n if n < 0 => Err(fail(format!("write at {off}"))(std::io::Error::last_os_error())),
                n if n as usize == len => Ok(Bytes::new()),
                n => Err(DiskError(format!("short write of {n} bytes at {off}"))),
            }
        }
        DiskOp::Sync => f.file.sync_data().map(|()| Bytes::new()).map_err(fail("fdatasync".into())),
    }
}

//! A process that is refused a system call: io_uring, as Docker's default seccomp profile refuses
//! it, or one that fails.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

fn op(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// A system call's number, and the error it gets.
pub type Refused = (libc::c_long, libc::c_int);

/// What Docker does to io_uring.
pub const NO_IO_URING: Refused = (libc::SYS_io_uring_setup, libc::EPERM);
/// A file system that cannot write back what its page cache holds.
pub const SYNCFS_FAILS: Refused = (libc::SYS_syncfs, libc::EIO);

/// From here on the call fails in this process and its children; everything else is allowed.
pub fn refuse((call, errno): Refused) -> std::io::Result<()> {
    let filter = [
        // The number of the system call stands first in seccomp_data.
        op(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, call as u32),
        op(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        op(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let prog = sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: plain system calls; the program lives until they return.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const prog) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

//! Space that is set aside for the metadata, beside it in the data directory. When something else fills the
//! file system, the reserve is given up and the group goes on, so that an operator can still delete volumes,
//! move replicas and look.
//!
//! What it does not do: it makes room once only. When that is used up too, the node stops rather than run
//! without its log.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Size of the reserve in bytes: an image of a large cluster, and the log of weeks.
pub const SIZE: u64 = 64 << 20;
/// With less free space than this, in bytes, the reserve is given up.
const LOW: u64 = 8 << 20;

/// A file that holds space.
#[derive(Debug, Clone)]
pub struct Reserve(PathBuf);

impl Reserve {
    /// The reserve of a data directory.
    pub fn of(data_dir: &Path) -> Reserve {
        Reserve(data_dir.join("reserve"))
    }

    /// Is the space set aside now?
    pub fn held(&self) -> bool {
        self.0.exists()
    }

    /// Is what was set aside all the space that is left? Also true once it was given up, until there is more.
    pub fn is_all_there_is(&self) -> bool {
        let free = free_space(self.0.parent().unwrap_or(Path::new("/"))).unwrap_or(0);
        free < if self.held() { LOW } else { SIZE + LOW }
    }

    /// Gives the reserve up; false if there was none.
    pub fn release(&self) -> bool {
        let gone = std::fs::remove_file(&self.0).is_ok();
        if gone {
            tracing::error!(
                path = %self.0.display(),
                "the file system of the data directory is full: the reserve of {} MiB was given up; free space there now",
                SIZE >> 20
            );
        }
        gone
    }

    /// Gives the reserve up when space is short, and takes it when as much again stays free.
    pub fn tend(&self) -> io::Result<()> {
        let free = free_space(self.0.parent().unwrap_or(Path::new("/")))?;
        if self.held() {
            if free < LOW {
                self.release();
            }
        } else if free >= 2 * SIZE {
            self.take()?;
        }
        Ok(())
    }

    fn take(&self) -> io::Result<()> {
        // The file has another name until it is whole: a short one would promise space that it does not hold.
        let new = self.0.with_extension("new");
        let f = OpenOptions::new().create(true).truncate(true).write(true).open(&new)?;
        // SAFETY: plain system call on an open descriptor.
        let rc = unsafe { libc::posix_fallocate(f.as_raw_fd(), 0, SIZE as libc::off_t) };
        let done = if rc == 0 { f.sync_all() } else { Err(io::Error::from_raw_os_error(rc)) };
        match done.and_then(|()| std::fs::rename(&new, &self.0)) {
            Ok(()) => Ok(()),
            Err(e) => {
                let _ = std::fs::remove_file(&new);
                Err(e)
            }
        }
    }
}

/// Bytes free to this process in the file system of a directory.
pub fn free_space(dir: &Path) -> io::Result<u64> {
    let f = File::open(dir)?;
    // SAFETY: fstatvfs fills the zeroed struct.
    unsafe {
        let mut s: libc::statvfs = std::mem::zeroed();
        if libc::fstatvfs(f.as_raw_fd(), &mut s) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(s.f_bavail as u64 * s.f_frsize as u64)
    }
}

//! A disk's file: a preallocated file in a directory, or a raw block device; opened for O_DIRECT. Formatting,
//! opening and probing go through plain blocking calls here.
//!
//! All crash-safe file tricks of the daemon are in this module: preallocate, sync the file, sync its
//! directory (C11); refuse a file system or device whose alignment does not fit (C9); syncfs once before
//! trusting what is read.

use bytes::Bytes;
use hf_repl::AlignedBuf;
use hf_store::{DiskError, RawDisk};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file's name inside a directory disk.
pub const FILE_NAME: &str = "holdfast.disk";
/// The file while its space is being allocated.
const NEW_FILE_NAME: &str = "holdfast.disk.new";

/// A disk that cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenDiskError {
    /// The operating system.
    #[error("{path}: {what}: {source}")]
    Io {
        /// The path of the disk.
        path: String,
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// Not something a disk can be.
    #[error("{0} is neither a directory nor a block device")]
    Kind(String),
    /// Something else lives on the device.
    #[error(
        "{path} holds {what}; Holdfast does not overwrite what it did not make: if it may go, run wipefs -a {path} and add the disk again"
    )]
    Occupied {
        /// The path of the disk.
        path: String,
        /// What was recognised.
        what: &'static str,
    },
    /// Another process, or this one, has it in use.
    #[error("{0} is in use by a running Holdfast node; stop that node, or choose another disk")]
    Locked(String),
    /// A directory disk needs a size when it is made.
    #[error("{0} is a directory: say how much of it to use (size=…)")]
    NoSize(String),
    /// Not enough space.
    #[error("{path}: its file system has {free} free, {wanted} are asked for")]
    NoSpace {
        /// The path of the disk.
        path: String,
        /// Bytes that are free, for people.
        free: String,
        /// Bytes that are asked for, for people.
        wanted: String,
    },
    /// The store on it cannot be opened.
    #[error("{path}: {source}")]
    Store {
        /// The path of the disk.
        path: String,
        /// The store's reason.
        source: hf_store::OpenError,
    },
}

/// An open disk.
#[derive(Debug)]
pub struct DiskFile {
    /// The directory or device.
    pub path: PathBuf,
    /// The file or device.
    pub file: File,
    /// The size in bytes.
    pub size: u64,
    /// Rotating, flash, …: as the kernel says.
    pub rotational: bool,
}

fn io(path: &Path, what: &'static str) -> impl FnOnce(std::io::Error) -> OpenDiskError {
    let path = path.display().to_string();
    move |source| OpenDiskError::Io { path, what, source }
}

/// What a disk is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Look,
    Use,
    /// The kernel refuses a device that is mounted or part of something, and nobody takes it from us.
    UseDevice,
    Create,
}

fn open_direct(path: &Path, how: How) -> Result<File, OpenDiskError> {
    let mut o = OpenOptions::new();
    let exclusive = if how == How::UseDevice { libc::O_EXCL } else { 0 };
    o.read(true).write(how != How::Look).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC | exclusive);
    if how == How::Create {
        o.create_new(true).mode(0o600);
    }
    o.open(path).map_err(io(path, "cannot be opened for direct I/O"))
}

impl DiskFile {
    /// Opens what is there. `Ok(None)`: a directory without a disk file.
    pub fn open(path: &Path) -> Result<Option<DiskFile>, OpenDiskError> {
        Self::open_as(path, false)
    }

    /// Opens it to look at, and for nothing else: also while a daemon uses it.
    pub fn look(path: &Path) -> Result<Option<DiskFile>, OpenDiskError> {
        Self::open_as(path, true)
    }

    /// From now on it is this process's alone, until the file is closed. (A block device is that since it was opened.)
    pub fn lock(&self) -> Result<(), OpenDiskError> {
        // SAFETY: plain system call on an open descriptor.
        match unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
            0 => Ok(()),
            _ => match std::io::Error::last_os_error() {
                e if e.kind() == std::io::ErrorKind::WouldBlock => {
                    Err(OpenDiskError::Locked(self.path.display().to_string()))
                }
                e => Err(io(&self.path, "cannot be locked")(e)),
            },
        }
    }

    fn open_as(path: &Path, read_only: bool) -> Result<Option<DiskFile>, OpenDiskError> {
        let meta = std::fs::metadata(path).map_err(io(path, "cannot be looked at"))?;
        let target = if meta.is_dir() {
            path.join(FILE_NAME)
        } else if meta.file_type().is_block_device() {
            path.to_path_buf()
        } else {
            return Err(OpenDiskError::Kind(path.display().to_string()));
        };
        if meta.is_dir() && !target.try_exists().map_err(io(path, "cannot be looked at"))? {
            return Ok(None);
        }
        let how = match (read_only, meta.is_dir()) {
            (true, _) => How::Look,
            (_, true) => How::Use,
            (_, false) => How::UseDevice,
        };
        let file = open_direct(&target, how)?;
        let size = if meta.is_dir() {
            // What a crashed process left in the page cache must not be taken for what is on the media.
            // SAFETY: plain system call on an open descriptor.
            if !read_only && unsafe { libc::syncfs(file.as_raw_fd()) } != 0 {
                return Err(io(&target, "cannot be synced")(std::io::Error::last_os_error()));
            }
            file.metadata().map_err(io(&target, "cannot be looked at"))?.len()
        } else {
            use std::io::{Seek, SeekFrom};
            (&file).seek(SeekFrom::End(0)).map_err(io(&target, "has no size"))?
        };
        Self::finish(path, file, size).map(Some)
    }

    /// Makes the file of a directory disk: all its space, durable, before anything relies on it (C11). It
    /// gets its name last, so that a crash leaves no short file that would be taken for the disk.
    pub fn create(dir: &Path, size: u64) -> Result<DiskFile, OpenDiskError> {
        let target = dir.join(NEW_FILE_NAME);
        match std::fs::remove_file(&target) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(&target, "cannot be removed")(e)),
            _ => {}
        }
        let space = rustix::fs::statvfs(dir).map_err(|e| io(dir, "cannot be looked at")(e.into()))?;
        let free = space.f_bavail * space.f_frsize;
        if free < size {
            let (free, wanted) = (hf_policy::format_size(free), hf_policy::format_size(size));
            return Err(OpenDiskError::NoSpace { path: dir.display().to_string(), free, wanted });
        }
        let file = open_direct(&target, How::Create)?;
        let named = || std::fs::rename(&target, dir.join(FILE_NAME)).and_then(|()| File::open(dir)?.sync_all());
        if let Err(e) = allocate(&file, size).and_then(|()| named()) {
            let _ = std::fs::remove_file(&target);
            return Err(io(&target, "cannot be preallocated")(e));
        }
        Self::finish(dir, file, size)
    }

    /// A file that holds no store and is shorter than asked for gets the space that is missing: a crash of an
    /// older release while it made the file left it like that.
    pub fn grow(&mut self, size: u64) -> Result<(), OpenDiskError> {
        allocate(&self.file, size).map_err(io(&self.path, "cannot be preallocated"))?;
        self.size = size;
        Ok(())
    }

    fn finish(path: &Path, file: File, size: u64) -> Result<DiskFile, OpenDiskError> {
        let d = DiskFile { path: path.to_path_buf(), rotational: rotational(&file), file, size };
        check_alignment(&d)?;
        // Not every kernel tells (statx says so since 6.1): who cannot do 4 KiB direct I/O refuses the first read.
        let mut probe = AlignedBuf::zeroed(4096);
        d.file.read_at(probe.bytes_mut(), 0).map_err(io(path, "cannot do 4 KiB direct I/O"))?;
        Ok(d)
    }
}

/// All space of a file, durable.
fn allocate(file: &File, size: u64) -> std::io::Result<()> {
    // SAFETY: plain system call on an open descriptor.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, size as libc::off_t) } {
        0 => file.sync_all(),
        rc => Err(std::io::Error::from_raw_os_error(rc)),
    }
}

/// Refuses what needs coarser direct I/O than the 4 KiB that everything here is aligned to (C9).
fn check_alignment(d: &DiskFile) -> Result<(), OpenDiskError> {
    // SAFETY: statx fills the zeroed struct; the path is empty, so the open descriptor is meant.
    let (rc, s) = unsafe {
        let mut s: libc::statx = std::mem::zeroed();
        (libc::statx(d.file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &mut s), s)
    };
    let told = rc == 0 && s.stx_mask & libc::STATX_DIOALIGN != 0;
    if told && !suits(s.stx_dio_offset_align, s.stx_dio_mem_align) {
        let need = std::io::Error::other(format!(
            "it needs direct I/O aligned to {} bytes (memory {}), Holdfast does 4096",
            s.stx_dio_offset_align, s.stx_dio_mem_align
        ));
        return Err(io(&d.path, "cannot do 4 KiB direct I/O")(need));
    }
    Ok(())
}

/// Can what the kernel asks for (offset 0: no direct I/O at all) be had with everything aligned to 4 KiB?
fn suits(offset: u32, memory: u32) -> bool {
    let divides = |n: u32| n != 0 && 4096 % n == 0;
    divides(offset) && (memory == 0 || divides(memory))
}

/// What else may live on a device: (byte offset, magic, name), from the formats' own documents.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (0x438, &[0x53, 0xef], "an ext2, ext3 or ext4 file system"),
    (0, b"XFSB", "an XFS file system"),
    (0x10040, b"_BHRfS_M", "a Btrfs file system"),
    (0x400, &[0x10, 0x20, 0xf5, 0xf2], "an F2FS file system"),
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (512, b"LABELONE", "an LVM physical volume"),
    (0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a Linux RAID"),
    (4086, b"SWAPSPACE2", "swap space"),
    (510, &[0x55, 0xaa], "a partition table or a FAT or NTFS file system"),
];

/// Refuses a device on which something else is recognised. (A directory disk's file is Holdfast's own.)
pub fn check_vacant(d: &DiskFile) -> Result<(), OpenDiskError> {
    let mut head = AlignedBuf::zeroed(128 << 10);
    let n = d.file.read_at(head.bytes_mut(), 0).map_err(io(&d.path, "cannot be read"))?;
    let head = &head.as_ref()[..n];
    let found = SIGNATURES.iter().find(|(at, magic, _)| head.get(*at..*at + magic.len()) == Some(*magic));
    match found {
        Some((_, _, what)) => Err(OpenDiskError::Occupied { path: d.path.display().to_string(), what }),
        None => Ok(()),
    }
}

/// Does the kernel call the device behind this file rotational?
fn rotational(f: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(m) = f.metadata() else { return false };
    let dev = if m.file_type().is_block_device() { m.rdev() } else { m.dev() };
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    let base = format!("/sys/dev/block/{major}:{minor}");
    [format!("{base}/queue/rotational"), format!("{base}/../queue/rotational")]
        .iter()
        .find_map(|p| std::fs::read_to_string(p).ok())
        .is_some_and(|s| s.trim() == "1")
}

/// The blocking interface, for format, open and inspection.
pub struct Blocking<'a>(pub &'a DiskFile);

impl RawDisk for Blocking<'_> {
    fn size(&self) -> u64 {
        self.0.size
    }
    fn read(&mut self, off: u64, len: usize) -> Result<Bytes, DiskError> {
        let mut b = AlignedBuf::zeroed(len);
        self.0.file.read_exact_at(b.bytes_mut(), off).map_err(|e| DiskError(format!("reading at {off}: {e}")))?;
        Ok(b.freeze())
    }
    fn write(&mut self, off: u64, data: &[u8]) -> Result<(), DiskError> {
        let mut b = AlignedBuf::zeroed(data.len());
        b.bytes_mut().copy_from_slice(data);
        self.0.file.write_all_at(b.as_ref(), off).map_err(|e| DiskError(format!("writing at {off}: {e}")))
    }
    fn sync(&mut self) -> Result<(), DiskError> {
        self.0.file.sync_data().map_err(|e| DiskError(format!("syncing: {e}")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The process ends while the file's space is being allocated: the next one makes all of it, and a short
    /// file with the final name (which older releases left) is made whole before it is used.
    #[test]
    fn a_crash_while_space_is_allocated_leaves_no_short_disk() {
        let dir = std::env::temp_dir().join(format!("holdfast-short-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(NEW_FILE_NAME), vec![0; 8192]).unwrap();
        assert!(DiskFile::open(&dir).unwrap().is_none(), "half a file is no disk");
        assert_eq!(DiskFile::create(&dir, 1 << 20).unwrap().size, 1 << 20);
        let f = DiskFile::open(&dir).unwrap().unwrap();
        assert_eq!((f.size, dir.join(NEW_FILE_NAME).exists()), (1 << 20, false));
        std::fs::write(dir.join(FILE_NAME), vec![0; 8192]).unwrap();
        let mut f = DiskFile::open(&dir).unwrap().unwrap();
        f.grow(1 << 20).unwrap();
        assert_eq!((f.size, DiskFile::open(&dir).unwrap().unwrap().size), (1 << 20, 1 << 20));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn only_what_4_kib_alignment_suits_is_taken() {
        for (offset, memory) in [(512, 1), (512, 4), (512, 512), (4096, 512), (4096, 4096), (1, 0)] {
            assert!(suits(offset, memory), "{offset} {memory}");
        }
        for (offset, memory) in [(0, 0), (0, 512), (8192, 512), (65_536, 4096), (512, 8192), (520, 4)] {
            assert!(!suits(offset, memory), "{offset} {memory}");
        }
    }
}

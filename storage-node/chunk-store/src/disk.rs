//! What the engine asks of a disk.

use bytes::Bytes;

/// One disk operation. Offsets and lengths are multiples of 4096 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Reads `len` bytes.
    Read {
        /// Offset of the first byte on the disk.
        off: u64,
        /// Number of bytes to read.
        len: u32,
    },
    /// Writes the buffers one after the other.
    Write {
        /// Offset of the first byte on the disk.
        off: u64,
        /// The bytes to write.
        bufs: Vec<Bytes>,
        /// The write completes only when its bytes survive power loss (O_DSYNC).
        durable: bool,
    },
    /// Completes only when every write that had completed before the sync was submitted survives
    /// power loss.
    Sync,
}

/// The disk's own words for an operation that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DiskError(pub String);

/// The plain, blocking interface to a disk: for formatting, opening and inspecting, never while a
/// store serves it.
pub trait RawDisk {
    /// The disk's size in bytes.
    fn size(&self) -> u64;
    /// Reads exactly `len` bytes.
    fn read(&mut self, off: u64, len: usize) -> Result<Bytes, DiskError>;
    /// Writes all bytes.
    fn write(&mut self, off: u64, data: &[u8]) -> Result<(), DiskError>;
    /// Returns when everything written so far survives power loss.
    fn sync(&mut self) -> Result<(), DiskError>;
}

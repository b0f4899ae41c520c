//! What the engine asks of a disk.

use bytes::Bytes;

/// One operation. Offsets and lengths are multiples of 4096; a write's buffers are written one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Read `len` bytes.
    Read {
        /// From here.
        off: u64,
        /// Bytes.
        len: u32,
    },
    /// Write the buffers.
    Write {
        /// To here.
        off: u64,
        /// What.
        bufs: Vec<Bytes>,
        /// Completed only when the bytes survive power loss (O_DSYNC).
        durable: bool,
    },
    /// Completed only when every write completed before it was submitted survives power loss.
    Sync,
}

/// An operation the disk could not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DiskError(pub String);

/// The plain, blocking interface: used to format, open and inspect a disk, never while it serves.
pub trait RawDisk {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Reads exactly `len` bytes.
    fn read(&mut self, off: u64, len: usize) -> Result<Bytes, DiskError>;
    /// Writes all bytes.
    fn write(&mut self, off: u64, data: &[u8]) -> Result<(), DiskError>;
    /// Makes everything written survive power loss.
    fn sync(&mut self) -> Result<(), DiskError>;
}

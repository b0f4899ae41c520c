//! The chunk store's engine: versioned, checksummed 4 KiB blocks of shard replicas on one disk; thin and crash-safe.
//!
//! Pure: `Store::step(input, &mut out)` takes operations and disk completions and returns disk operations and answers. It
//! keeps the contract C1–C14 (`docs/disk-format.md` repeats it with the bytes). It knows nothing of replication,
//! sockets or the index database: everything a disk needs to be understood is on that disk.
//!
//! | module | decides |
//! | --- | --- |
//! | [`disk`] | the four disk operations, and the plain interface used to format, open and inspect |
//! | [`format`] | every byte on disk: superblock, index pages, chunk pages, journal groups |
//! | [`geometry`] | where the regions lie |
//! | [`engine`] | the state machine: wires the parts below |
//! | `requests` | operations: what goes in and out; writes, reads, what must look at what is there |
//! | `table` | which replicas, which of their chunks, in which slots; pages in memory |
//! | `space` | which 64 KiB units and slots are free, promised, on their way back (C7) |
//! | `journal` | groups in, a durable prefix out |
//! | `overlay` | what is durable and not in place yet: apply, destage, pace |
//! | `checkpoint` | makes the index say so and lets the journal go |
//! | [`recovery`] | what a disk holds after a crash |
//! | [`mutant`] | rules broken on purpose, for the tests of the tests |
//! | [`sim`] | a simulated disk that loses, tears and damages what was not synced |

/// Lowers a count that is kept beside what it counts. One that would fall below zero is wrong: it is reported, and stays at
/// zero.
macro_rules! lower {
    ($count:expr, $by:expr, $what:literal) => {{
        let by = $by;
        match $count.checked_sub(by) {
            Some(left) => $count = left,
            None => {
                hf_policy::broken!("the number of {} is {}, and falls by {by}", $what, $count);
                $count = 0;
            }
        }
    }};
}

mod check;
mod checkpoint;
pub mod disk;
pub mod engine;
pub mod format;
pub mod geometry;
mod journal;
pub mod mutant;
mod overlay;
pub mod recovery;
mod requests;
pub mod sim;
mod space;
mod table;

pub use disk::{DiskError, DiskOp, RawDisk};
pub use engine::{Answer, Config, Content, CopyItem, Input, Op, OpId, Output, Stats, Store, StoreError};
pub use format::Salt;
pub use format::replica::ReplicaRec;
pub use recovery::{FormatParams, OpenError};

pub use hf_policy::UNIT_BYTES;
/// Blocks of an allocation unit.
pub const UNIT_BLOCKS: usize = 16;
/// Units of a chunk.
pub const CHUNK_UNITS: usize = 16;
/// Bytes of memory that a chunk page takes when it is decoded (and its place in the cache).
pub const PAGE_MEMORY: usize = 6 << 10;

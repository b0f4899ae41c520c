//! The chunk store: versioned, checksummed blocks of 4 KiB for the shard replicas of one disk;
//! thin-provisioned and crash-safe.
//!
//! The crate is pure: `Store::step(input, &mut out)` takes operations and disk completions and
//! returns disk operations and answers. It keeps the contract C1–C14 (`docs/disk-format.md` states
//! it beside the bytes). It knows nothing of replication, of sockets or of an index database:
//! everything needed to understand a disk is on that disk.
//!
//! | module | decides |
//! | --- | --- |
//! | [`disk`] | the four disk operations, and the plain interface used to format, open and inspect |
//! | [`format`] | every byte on disk: superblock, index pages, chunk pages, journal groups |
//! | [`geometry`] | where the regions lie |
//! | [`engine`] | the state machine: wires the parts below |
//! | `requests` | operations: what goes in and out; writes, reads, and what must look at the stored blocks first |
//! | `table` | which replicas exist, which chunks they have, in which slots; chunk pages in memory |
//! | `space` | which 64 KiB units and chunk slots are free, promised, or being freed (C7) |
//! | `journal` | takes groups of records; makes a prefix of them durable |
//! | `overlay` | acknowledged blocks that are not in place yet: apply, destage, pace |
//! | `checkpoint` | makes the index cover the journal, then frees the journal's groups |
//! | `check` | verifies the state of all parts, for tests and the simulator |
//! | [`recovery`] | what a disk holds after a crash |
//! | [`mutant`] | rules broken on purpose, for the tests of the tests |
//! | [`sim`] | a simulated disk that loses, tears and damages what was not synced |

/// Lowers a counter that is kept beside the things it counts. A counter that would fall below zero
/// is reported by `broken!` and becomes zero.
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
/// Number of 4 KiB blocks in an allocation unit of 64 KiB.
pub const UNIT_BLOCKS: usize = 16;
/// Number of allocation units in a chunk of 1 MiB.
pub const CHUNK_UNITS: usize = 16;
/// Bytes of memory that one decoded chunk page takes, including its entry in the cache.
pub const PAGE_MEMORY: usize = 6 << 10;

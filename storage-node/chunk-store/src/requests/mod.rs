//! What goes into the store and comes out of it, and the operations that wait inside.

pub(crate) mod read;
pub(crate) mod slow;
pub(crate) mod write;

use crate::UNIT_BLOCKS;
use crate::disk::{DiskError, DiskOp};
use crate::format::page::BlockState;
use crate::format::replica::ReplicaRec;
use crate::table::Key;
use bytes::Bytes;
use hf_policy::crc::PayloadCrc;
use hf_policy::{BlockIx, BlockRange, ChunkIx, Fate, HasFate, LogAge, Rid, Term, Ver, invariant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use write::Direct;

/// The caller's name for an operation. Each operation is answered exactly once.
pub type OpId = u64;

/// The store's bounds on memory and concurrency.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes of acknowledged writes held in memory until they are destaged. Further writes wait.
    pub overlay_bytes: usize,
    /// Number of decoded chunk pages kept in the cache ([`crate::PAGE_MEMORY`] bytes each).
    pub cached_pages: usize,
    /// Largest number of journal writes in flight.
    pub groups_in_flight: usize,
    /// Largest number of chunks destaged at once.
    pub destage_jobs: usize,
    /// Largest number of replicas on the disk. Each takes about 300 bytes of memory.
    pub replicas: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config { overlay_bytes: 64 << 20, cached_pages: 8192, groups_in_flight: 2, destage_jobs: 16, replicas: 1 << 16 }
    }
}

/// A caller's operation.
#[derive(Clone, Debug)]
pub enum Op {
    /// Creates a replica with empty storage. Durable when answered.
    CreateReplica(ReplicaRec),
    /// Replaces a replica's entry (promise, stable version, size, hint). Durable when answered; a
    /// write submitted before it never takes effect after it (hazards: neon a69fdb0e8e).
    UpdateReplica(ReplicaRec),
    /// Marks a replica as deleted. Durable when answered; its space is freed in the background.
    DeleteReplica {
        /// The replica to delete.
        rid: Rid,
    },
    /// Writes whole blocks of one chunk.
    Write {
        /// The replica this is for.
        rid: Rid,
        /// The version the blocks get. A block whose version is equal or newer is left alone (C3).
        ver: Ver,
        /// The first block to write.
        start: BlockIx,
        /// The bytes of the blocks, a multiple of 4096.
        data: Bytes,
        /// A checksum per block, already verified against `data`.
        crcs: Vec<PayloadCrc>,
    },
    /// Makes blocks zero and frees their space. The range may span chunks.
    Zero {
        /// The replica this is for.
        rid: Rid,
        /// The version the blocks get.
        ver: Ver,
        /// The blocks this is about.
        range: BlockRange,
        /// If set, chunks that were never written record the version too; otherwise they stay as
        /// they are.
        keep: bool,
    },
    /// Reads blocks of one chunk.
    Read {
        /// The replica this is for.
        rid: Rid,
        /// The blocks this is about.
        range: BlockRange,
    },
    /// Writes blocks of one chunk, each under its own condition: for reconcile, sync and repair.
    Copy {
        /// The replica this is for.
        rid: Rid,
        /// The term of the coordinator that sends the copy.
        term: Term,
        /// The blocks, 1 to 256.
        items: Vec<CopyItem>,
    },
    /// Lists the versions of a chunk's blocks.
    Versions {
        /// The replica this is for.
        rid: Rid,
        /// The chunk to list.
        chunk: ChunkIx,
    },
    /// Destages every block acknowledged so far and empties the journal.
    Checkpoint,
    /// Stores the age of the node's metadata log in the superblock. Durable when answered.
    NoteLogAge(LogAge),
}

/// One block of a copy, and the condition under which it applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyItem {
    /// The block to write.
    pub block: BlockIx,
    /// Compare-and-set: unless `src` is newer than the stored version, the item applies only if
    /// that version equals `seen`.
    pub seen: Ver,
    /// The version the block gets.
    pub src: Ver,
    /// What the block holds afterwards.
    pub content: Content,
    /// Set for a repair: the content is that of the stored version, or of the version stored before
    /// its page was lost.
    pub repair: bool,
}

/// What a copied block holds afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The block is zero.
    Zero,
    /// No source has the block: it is marked bad, so that nobody takes it for its old content.
    Bad,
    /// The block's bytes and their checksum, already verified.
    Data(PayloadCrc, Bytes),
}

/// What a block holds, as the store reports it to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BlockInfo {
    /// The block's effective version.
    pub ver: Ver,
    /// The checksum of the block's bytes if `state` is `Data`, otherwise 0.
    pub crc: PayloadCrc,
    /// What kind of content the block has.
    pub state: BlockState,
}

/// The result of an operation that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The operation is done, and durable.
    Done,
    /// The result of a read. Blocks that hold no data read as zero.
    Read {
        /// One entry per block; its state is `Bad` or `Lost` if the block could not be read or
        /// verified.
        blocks: Vec<BlockInfo>,
        /// The bytes of all blocks, in order.
        data: Bytes,
    },
    /// One entry for each of a chunk's 256 blocks.
    Versions(Vec<BlockInfo>),
    /// For each copy item, whether it was applied.
    Copied(Vec<bool>),
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A write or sync failed earlier: the store does nothing any more (C4).
    #[error("the disk has failed: {0}")]
    Failed(String),
    /// There is not enough space. Nothing was changed.
    #[error("the disk is full")]
    NoSpace,
    /// Every entry of the replica table is in use, and the table cannot grow.
    #[error("the disk's replica table is full: all {0} entries are taken; delete replicas or volumes, or add a disk")]
    NoEntry(u32),
    /// The disk has no replica of this id.
    #[error("no replica {0} on this disk")]
    NoReplica(Rid),
    /// A replica of this id exists, with the storage given here.
    #[error("the replica exists already, with storage {0}")]
    Exists(hf_policy::StoreUuid),
    /// The request contradicts itself or the replica's size.
    #[error("bad request: {0}")]
    Invalid(String),
}

impl HasFate for StoreError {
    fn fate(&self) -> Fate {
        match self {
            StoreError::Failed(_) => Fate::FailDisk,
            StoreError::NoSpace | StoreError::NoEntry(_) | StoreError::Exists(_) | StoreError::Invalid(_) => {
                Fate::Refuse
            }
            StoreError::NoReplica(_) => Fate::DropMember,
        }
    }
}

/// What the driver tells the store.
#[derive(Debug)]
pub enum Input {
    /// A caller submits an operation.
    Op {
        /// The caller's name for the operation.
        id: OpId,
        /// The operation itself.
        op: Op,
    },
    /// A disk operation has completed.
    DiskDone {
        /// The tag that the store gave the disk operation.
        tag: u64,
        /// The bytes that were read; empty for writes and syncs.
        result: Result<Bytes, DiskError>,
    },
    /// How long a disk operation took; comes before its [`Input::DiskDone`]. The pace of destaging
    /// follows from it. It may be left out.
    Took {
        /// The tag that the store gave the disk operation.
        tag: u64,
        /// Duration in microseconds.
        us: u64,
    },
    /// Comes about once a second: a store that was idle since the last one destages its overlay.
    Housekeep,
}

/// What the store asks of its driver.
#[derive(Debug)]
pub enum Output {
    /// Submit this disk operation and report its end with [`Input::DiskDone`].
    Disk {
        /// The tag that the store gave the disk operation.
        tag: u64,
        /// The disk operation.
        op: DiskOp,
    },
    /// An operation has ended.
    Done {
        /// The caller's name for the operation.
        id: OpId,
        /// Its answer, or why it failed.
        result: Result<Answer, StoreError>,
    },
    /// The disk has failed. The store says so once.
    Failed(String),
}

/// Counters and gauges of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of data units on the disk.
    pub units_total: u64,
    /// Number of units that are free and not promised.
    pub units_free: u64,
    /// Number of chunk slots that are free and not promised.
    pub slots_free: u64,
    /// Number of replica table entries in use, those of replicas being deleted included.
    pub entries_used: u64,
    /// Number of replicas that can still be created: free entries, and those by which the table can
    /// grow.
    pub entries_free: u64,
    /// Number of units without a known owner, because the page that named them was lost. The store
    /// looks for them.
    pub units_unaccounted: u64,
    /// Bytes of the journal in use, padding included.
    pub journal_used: u64,
    /// Size of the journal in bytes.
    pub journal_bytes: u64,
    /// Bytes of acknowledged blocks in memory.
    pub overlay_bytes: u64,
    /// Number of chunk pages in the cache.
    pub cached_pages: u64,
    /// How many chunks the foreground allows to be destaged at once, as long as the fill level
    /// forces no more.
    pub destage_allowed: u64,
    /// Number of chunks being destaged.
    pub destaging: u64,
    /// Number of operations waiting for room in the overlay.
    pub waiting: u64,
    /// How often an operation had to wait for room.
    pub stalls: u64,
    /// Number of journal groups written.
    pub groups: u64,
    /// Number of records in those groups.
    pub records: u64,
    /// Number of disk writes submitted.
    pub disk_writes: u64,
    /// Bytes in those writes.
    pub disk_bytes_written: u64,
    /// Number of disk syncs submitted.
    pub disk_syncs: u64,
    /// Number of disk reads submitted.
    pub disk_reads: u64,
    /// Number of chunk destages completed.
    pub destaged: u64,
    /// Number of checkpoints completed.
    pub checkpoints: u64,
    /// Number of blocks that failed their checksum or could not be read.
    pub bad_blocks: u64,
    /// Number of chunk pages that failed their checksum or could not be read.
    pub bad_pages: u64,
    /// Number of journal groups replayed when the disk was opened.
    pub replayed_groups: u64,
}

/// Operations that are not in the journal's queue yet.
#[derive(Default)]
pub(crate) struct Requests {
    /// Operations that wait for room in the overlay, in order of arrival.
    pub waiting: VecDeque<(OpId, Op)>,
    /// Chunks whose first slow operation may be able to go on.
    pub slow_ready: VecDeque<Key>,
    /// Chunks whose first slow operation waits for space.
    pub short: BTreeSet<Key>,
    /// Large writes that are writing their data to fresh units, by number.
    pub directs: BTreeMap<u64, Direct>,
    /// Replica changes that wait for writes submitted before them.
    pub after_directs: VecDeque<(OpId, Op)>,
}

impl Requests {
    /// Verifies that direct writes are in flight and of whole units, and that each queue holds only
    /// its own kind of operation.
    pub(crate) fn check(&self) {
        for (number, d) in &self.directs {
            invariant!(d.outstanding > 0, "direct write {number} has no write on its way and has not ended");
            let whole = d.record.range.len as usize == d.units().len() * UNIT_BLOCKS;
            invariant!(whole, "direct write {number} is not of whole units: {:?}", d.record.range);
        }
        let not_a_change = |(_, op): &&(OpId, Op)| !matches!(op, Op::UpdateReplica(_) | Op::DeleteReplica { .. });
        invariant!(self.after_directs.iter().find(not_a_change).is_none(), "a change of no replica waits as one");
        let reads = self.waiting.iter().filter(|(_, op)| matches!(op, Op::Read { .. } | Op::Checkpoint)).count();
        invariant!(reads == 0, "{reads} operations wait for room that need none");
    }
}

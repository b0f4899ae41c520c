//! What goes in and out of the store, and the operations that wait inside it.

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

/// The caller's name for an operation; answered exactly once.
pub type OpId = u64;

/// The store's bounds.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes of acknowledged writes held in memory until they are destaged; more wait.
    pub overlay_bytes: usize,
    /// Decoded chunk pages kept ([`crate::PAGE_MEMORY`] each).
    pub cached_pages: usize,
    /// Journal I/Os in flight.
    pub groups_in_flight: usize,
    /// Chunks destaged at once, at most.
    pub destage_jobs: usize,
    /// Replicas, at most: each takes about 300 bytes of memory.
    pub replicas: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config { overlay_bytes: 64 << 20, cached_pages: 8192, groups_in_flight: 2, destage_jobs: 16, replicas: 1 << 16 }
    }
}

/// An operation.
#[derive(Clone, Debug)]
pub enum Op {
    /// Initialises a replica's storage. Durable when answered.
    CreateReplica(ReplicaRec),
    /// Replaces a replica's entry (promise, stable, size, hint). Durable when answered, and no write
    /// submitted before it takes effect afterwards (hazards: neon a69fdb0e8e).
    UpdateReplica(ReplicaRec),
    /// Marks a replica for deletion; durable when answered, its space comes back in the background.
    DeleteReplica {
        /// Which.
        rid: Rid,
    },
    /// Writes whole blocks inside one chunk.
    Write {
        /// Which replica.
        rid: Rid,
        /// Their version. Blocks that have it or a newer one are left alone (C3).
        ver: Ver,
        /// First block.
        start: BlockIx,
        /// Whole blocks.
        data: Bytes,
        /// One per block, already verified.
        crcs: Vec<PayloadCrc>,
    },
    /// Makes blocks zero; may span chunks; gives space back.
    Zero {
        /// Which replica.
        rid: Rid,
        /// Their version.
        ver: Ver,
        /// Which blocks.
        range: BlockRange,
        /// Chunks that were never written take note of it too; else they stay as they are.
        keep: bool,
    },
    /// Reads blocks inside one chunk.
    Read {
        /// Which replica.
        rid: Rid,
        /// Which blocks.
        range: BlockRange,
    },
    /// Conditional per-block writes inside one chunk: reconcile, sync, repair.
    Copy {
        /// Which replica.
        rid: Rid,
        /// The coordinator's term.
        term: Term,
        /// What.
        items: Vec<CopyItem>,
    },
    /// A chunk's versions.
    Versions {
        /// Which replica.
        rid: Rid,
        /// Which chunk.
        chunk: ChunkIx,
    },
    /// Destages everything acknowledged so far and empties the journal.
    Checkpoint,
    /// Notes how old the node's metadata log is. Durable when answered.
    NoteLogAge(LogAge),
}

/// One block of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyItem {
    /// Which block.
    pub block: BlockIx,
    /// What is not newer than what is there is applied only if the block still has this version.
    pub seen: Ver,
    /// The version it gets.
    pub src: Ver,
    /// What it becomes.
    pub content: Content,
    /// The bytes of the version that is here already, or was before the version itself was lost.
    pub repair: bool,
}

/// What a copied block becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zero.
    Zero,
    /// Lost: no source has it, so it must not be taken for what it was.
    Bad,
    /// Data, with its checksum, already verified.
    Data(PayloadCrc, Bytes),
}

/// What a block holds, as told to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BlockInfo {
    /// Its effective version.
    pub ver: Ver,
    /// Its payload's checksum, if data.
    pub crc: PayloadCrc,
    /// What it holds.
    pub state: BlockState,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, durable.
    Done,
    /// A read's result: one entry per block, and their bytes (zero where nothing is).
    Read {
        /// Per block; `Bad` or `Lost` where it could not be read or verified.
        blocks: Vec<BlockInfo>,
        /// The bytes.
        data: Bytes,
    },
    /// A chunk's 256 blocks.
    Versions(Vec<BlockInfo>),
    /// Per copy item: was it applied?
    Copied(Vec<bool>),
}

/// Why an operation was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk has failed for good.
    #[error("the disk has failed: {0}")]
    Failed(String),
    /// No space; nothing was changed.
    #[error("the disk is full")]
    NoSpace,
    /// Every entry of the replica table is taken, and it cannot be extended.
    #[error("the disk's replica table is full: all {0} entries are taken; delete replicas or volumes, or add a disk")]
    NoEntry(u32),
    /// No such replica here.
    #[error("no replica {0} on this disk")]
    NoReplica(Rid),
    /// A replica of this id exists, with this storage.
    #[error("the replica exists already, with storage {0}")]
    Exists(hf_policy::StoreUuid),
    /// A request that cannot be.
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

/// An input.
#[derive(Debug)]
pub enum Input {
    /// An operation.
    Op {
        /// Its name.
        id: OpId,
        /// What.
        op: Op,
    },
    /// A disk operation ended.
    DiskDone {
        /// Its tag.
        tag: u64,
        /// Bytes read, or empty.
        result: Result<Bytes, DiskError>,
    },
    /// How long a disk operation took, before its [`Input::DiskDone`]: what destaging is measured by. May be left out.
    Took {
        /// Its tag.
        tag: u64,
        /// Microseconds.
        us: u64,
    },
    /// Comes about once a second: an idle store destages what it holds.
    Housekeep,
}

/// An output.
#[derive(Debug)]
pub enum Output {
    /// Do this to the disk and come back with [`Input::DiskDone`].
    Disk {
        /// Its tag.
        tag: u64,
        /// What.
        op: DiskOp,
    },
    /// An operation ended.
    Done {
        /// Its name.
        id: OpId,
        /// How.
        result: Result<Answer, StoreError>,
    },
    /// The disk has failed; said once.
    Failed(String),
}

/// What the store counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Units, all.
    pub units_total: u64,
    /// Units that can still be promised.
    pub units_free: u64,
    /// Chunk slots that can still be promised.
    pub slots_free: u64,
    /// Entries of the replica table in use, by replicas being deleted too.
    pub entries_used: u64,
    /// Replicas that can still be created: free entries, and those the table can be extended by.
    pub entries_free: u64,
    /// Units that no page is known to refer to, because the page that did is lost; they are being looked for.
    pub units_unaccounted: u64,
    /// Journal bytes in use.
    pub journal_used: u64,
    /// Journal size.
    pub journal_bytes: u64,
    /// Bytes in the overlay.
    pub overlay_bytes: u64,
    /// Chunk pages in memory.
    pub cached_pages: u64,
    /// Chunks that may be destaged at once beside the foreground, while nothing forces more.
    pub destage_allowed: u64,
    /// Chunks being destaged.
    pub destaging: u64,
    /// Operations waiting for room.
    pub waiting: u64,
    /// Times an operation had to wait for room.
    pub stalls: u64,
    /// Journal groups written.
    pub groups: u64,
    /// Records in them.
    pub records: u64,
    /// Disk writes begun.
    pub disk_writes: u64,
    /// Bytes of them.
    pub disk_bytes_written: u64,
    /// Syncs begun.
    pub disk_syncs: u64,
    /// Disk reads begun.
    pub disk_reads: u64,
    /// Chunks destaged.
    pub destaged: u64,
    /// Checkpoints done.
    pub checkpoints: u64,
    /// Blocks that failed their checksum or could not be read.
    pub bad_blocks: u64,
    /// Chunk pages that failed their checksum or could not be read.
    pub bad_pages: u64,
    /// Groups replayed when the disk was opened.
    pub replayed_groups: u64,
}

/// Operations that are not in the journal's queue yet.
#[derive(Default)]
pub(crate) struct Requests {
    /// Operations that wait for room, in order.
    pub waiting: VecDeque<(OpId, Op)>,
    /// Chunks whose first slow operation may be able to go on.
    pub slow_ready: VecDeque<Key>,
    /// Chunks whose first slow operation waits for space.
    pub short: BTreeSet<Key>,
    /// Large writes whose data is on its way to fresh units, by their numbers.
    pub directs: BTreeMap<u64, Direct>,
    /// Replica changes that must not overtake writes submitted before them.
    pub after_directs: VecDeque<(OpId, Op)>,
}

impl Requests {
    /// Verifies that what waits waits for something, and that operations are in order.
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

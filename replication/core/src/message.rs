//! What coordinator and replica say to each other.

use bytes::Bytes;
use hf_policy::crc::PayloadCrc;
use hf_policy::{
    BlockIx, BlockRange, BootId, ChunkIx, ClusterId, Epoch, Fate, HasFate, Lineage, Rid, SessionId, ShardId, StoreUuid,
    Term, Ver,
};

/// Whom a message is about; the replica checks every field before anything else (I12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Envelope {
    /// The cluster.
    pub cluster: ClusterId,
    /// The shard.
    pub shard: ShardId,
    /// The replica.
    pub rid: Rid,
    /// Its storage.
    pub store_uuid: StoreUuid,
    /// The volume's history.
    pub lineage: Lineage,
    /// The coordinator's term.
    pub term: Term,
    /// The coordinator's attachment.
    pub session: SessionId,
    /// Matches a reply to its request.
    pub req: u64,
    /// The replica's process start: in requests the one that is meant (none: any), in replies its own.
    pub boot: BootId,
}

/// What a block holds, on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BlockInfo {
    /// Its version.
    pub ver: Ver,
    /// Its payload's checksum, if data.
    pub crc: PayloadCrc,
    /// What it holds.
    pub state: BlockState,
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum BlockState {
    /// Never written, or covered by a trim: zero.
    #[default]
    Absent = 0,
    /// Data.
    Data = 1,
    /// Zero.
    Zero = 2,
    /// Lost on this replica.
    Bad = 3,
    /// Lost, and with it the version: what was here was not newer than the version that is told.
    Lost = 4,
}

impl BlockState {
    /// Reads as zero?
    pub fn is_zero(self) -> bool {
        matches!(self, BlockState::Absent | BlockState::Zero)
    }

    /// Cannot be read here?
    pub fn is_bad(self) -> bool {
        matches!(self, BlockState::Bad | BlockState::Lost)
    }
}

/// What a write does to its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// New bytes, with one checksum per block.
    Data {
        /// Checksums.
        crcs: Vec<PayloadCrc>,
        /// Bytes.
        data: Bytes,
    },
    /// Zeroes (trim and write-zeroes; a trim is a write, I16).
    Zero {
        /// Also chunks that were never written there take note of it. A member that is being brought in needs that: older data
        /// of the chunk may still be copied to it (seed 2621).
        keep: bool,
    },
}

/// One block of a conditional copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyItem {
    /// Which block.
    pub block: BlockIx,
    /// Unless it is newer than what is there, it is applied only if the block still has this version.
    pub seen: Ver,
    /// The version it gets.
    pub src: Ver,
    /// What it becomes.
    pub content: Content,
    /// The bytes of the version that is there already (`src` = `seen`; not newer, if the version itself is lost), which the block
    /// has lost.
    pub repair: bool,
}

/// What a copied block becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zero.
    Zero,
    /// Lost: no source has it, so it must not be taken for what it was.
    Bad,
    /// Data, with its checksum.
    Data(PayloadCrc, Bytes),
}

/// A message's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Msg {
    /// Promise my term; tell me where you stand.
    Seal {
        /// The record's epoch (for the replica's hint).
        epoch: Epoch,
        /// What the record says this replica holds: it promised this term before, and holds some write of this version or a
        /// newer one. Storage that does not was put back from an older copy: its history is unknown (I12).
        held: Ver,
        /// What this process's predecessor said of its disk's journal ([`Msg::WriteAck`]); 0: nothing.
        position: u64,
        /// Everything up to here is on this replica: noted with the promise, durably, before it is relied upon in this term. 0: nothing
        /// is said.
        stable: Ver,
    },
    /// Promised, durably; no older-term write can apply any more.
    SealAck {
        /// Everything up to here is on all in-sync replicas, as far as this one was told.
        stable: Ver,
        /// The highest version here.
        max_ver: Ver,
        /// Bytes that can still be allocated.
        credit: u64,
        /// How far the disk's journal has got.
        position: u64,
    },
    /// Ask again in so many microseconds: a lease or the wait after a restart has not run out.
    SealWait {
        /// Microseconds.
        us: u64,
    },
    /// Write blocks of one chunk (zeroes may span chunks).
    Write {
        /// Its number in the term.
        seq: u64,
        /// Which blocks.
        range: BlockRange,
        /// The coordinator's watermark.
        stable: Ver,
        /// What.
        kind: WriteKind,
    },
    /// Every block of the write is durable at its version or a newer one.
    WriteAck {
        /// How far the disk's journal had got: it never goes back, unless the disk is put back from a copy.
        position: u64,
        /// Bytes that can still be allocated.
        credit: u64,
    },
    /// Read blocks of one chunk.
    Read {
        /// Which blocks.
        range: BlockRange,
    },
    /// A read's blocks.
    ReadAck {
        /// One per block; `Bad` where it could not be read or verified.
        infos: Vec<BlockInfo>,
        /// Their bytes.
        data: Bytes,
    },
    /// Promise not to be sealed by another session for a while.
    Lease {
        /// The coordinator's clock; comes back unchanged.
        sent_at: u64,
        /// The coordinator's watermark.
        stable: Ver,
    },
    /// Granted.
    LeaseAck {
        /// As it came.
        sent_at: u64,
        /// Bytes that can still be allocated.
        credit: u64,
    },
    /// How much would data in these blocks of one chunk take?
    Reserve {
        /// Which blocks.
        range: BlockRange,
    },
    /// So much. Nothing is promised by it.
    ReserveAck {
        /// Bytes; `u64::MAX`: more than there is in any case.
        needs: u64,
        /// Bytes that can still be allocated.
        credit: u64,
    },
    /// Which chunks have a version newer than `since`, from chunk `from` on?
    ChunkList {
        /// Watermark.
        since: Ver,
        /// Page start.
        from: ChunkIx,
    },
    /// A page of them; `more` if there are further ones.
    ChunkListAck {
        /// Chunk and its highest version.
        chunks: Vec<(ChunkIx, Ver)>,
        /// Ask again from the last one + 1.
        more: bool,
    },
    /// What do the blocks of a chunk hold that are newer than `since`, or bad? (Since version 0: all that were ever written.)
    ChunkVersions {
        /// Which chunk.
        chunk: ChunkIx,
        /// Watermark.
        since: Ver,
    },
    /// One entry for each of them, in order.
    ChunkVersionsAck {
        /// Where in the chunk, and what.
        infos: Vec<(u8, BlockInfo)>,
    },
    /// Read a chunk, verify every block, and say what each holds (a scrub; answered by `ChunkVersionsAck`).
    Verify {
        /// Which chunk.
        chunk: ChunkIx,
    },
    /// Conditional per-block writes inside one chunk.
    Copy {
        /// What.
        items: Vec<CopyItem>,
    },
    /// Per item: applied?
    CopyAck {
        /// In order.
        applied: Vec<bool>,
    },
    /// No.
    Nack(Nack),
}

/// Why a replica says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nack {
    /// A newer term was promised: the coordinator is fenced for good.
    #[error("fenced: the replica promised term {}", .promised.0)]
    StaleTerm {
        /// The newer term.
        promised: Term,
    },
    /// This term was never sealed here, or its promise is not durable yet.
    #[error("the replica has not promised this term yet")]
    FutureTerm,
    /// Not the storage the record names.
    #[error("the replica's storage is not the one that is recorded: it was wiped, restored or replaced")]
    WrongStore,
    /// Not the history the record names.
    #[error("the replica belongs to another lineage")]
    WrongLineage,
    /// No such replica here.
    #[error("no such replica on this disk")]
    NoReplica,
    /// The replica's disk is full; nothing was written.
    #[error("the replica's disk is full")]
    NoSpace,
    /// A payload did not match its checksum.
    #[error("the payload did not match its checksum")]
    BadCrc,
    /// The replica's disk has failed.
    #[error("the replica's disk has failed")]
    Failed,
    /// The request makes no sense.
    #[error("the replica refused the request as malformed")]
    Invalid,
}

impl HasFate for Nack {
    fn fate(&self) -> Fate {
        match self {
            Nack::StaleTerm { .. } => Fate::Abort,
            Nack::FutureTerm | Nack::BadCrc => Fate::Retry,
            Nack::NoSpace => Fate::Refuse,
            Nack::WrongStore | Nack::WrongLineage | Nack::NoReplica | Nack::Failed | Nack::Invalid => Fate::DropMember,
        }
    }
}

/// The entries of a whole chunk that are newer than `since`, or bad, with their places.
pub fn listed(infos: &[BlockInfo], since: Ver) -> Vec<(u8, BlockInfo)> {
    let told = |i: &BlockInfo| *i != BlockInfo::default() && (i.ver > since || i.state.is_bad());
    (0..=u8::MAX).zip(infos).filter(|(_, i)| told(i)).map(|(at, i)| (at, *i)).collect()
}

/// A whole chunk's entries from a list since version 0.
pub fn unlisted(list: &[(u8, BlockInfo)]) -> Vec<BlockInfo> {
    let mut infos = vec![BlockInfo::default(); hf_policy::CHUNK_BLOCKS as usize];
    for (at, i) in list {
        infos[usize::from(*at)] = *i;
    }
    infos
}

//! What coordinator and replica say to each other. The bytes are those of `wire`.

use bytes::Bytes;
use hf_policy::crc::PayloadCrc;
use hf_policy::{
    BlockIx, BlockRange, BootId, ChunkIx, ClusterId, Epoch, Fate, HasFate, Lineage, Rid, SessionId, ShardId, StoreUuid,
    Term, Ver,
};

/// What a message is about; the replica checks every field before anything else (I12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Envelope {
    /// The cluster that the volume belongs to.
    pub cluster: ClusterId,
    /// The shard of the volume.
    pub shard: ShardId,
    /// The replica that the message is to or from.
    pub rid: Rid,
    /// The storage that the record names for this replica.
    pub store_uuid: StoreUuid,
    /// The history of the volume that the coordinator goes on with.
    pub lineage: Lineage,
    /// The term of the coordinator.
    pub term: Term,
    /// The attachment of the coordinator.
    pub session: SessionId,
    /// The request's id, which its reply repeats; 0 if no reply is matched by it.
    pub req: u64,
    /// The replica's process: in requests the one that is meant (none: any), in replies its own.
    pub boot: BootId,
}

/// What a block holds, on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BlockInfo {
    /// The version of the block.
    pub ver: Ver,
    /// The checksum of its bytes, if it holds data.
    pub crc: PayloadCrc,
    /// What the block holds.
    pub state: BlockState,
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum BlockState {
    /// Never written, or covered by a trim; reads as zero.
    #[default]
    Absent = 0,
    /// It holds data.
    Data = 1,
    /// It was zeroed.
    Zero = 2,
    /// Its bytes are lost on this replica; its version is known.
    Bad = 3,
    /// Its bytes are lost, and with them the version: what was here was not newer than the version
    /// that is told.
    Lost = 4,
}

impl BlockState {
    /// The block reads as zero.
    pub fn is_zero(self) -> bool {
        matches!(self, BlockState::Absent | BlockState::Zero)
    }

    /// The block cannot be read on this replica.
    pub fn is_bad(self) -> bool {
        matches!(self, BlockState::Bad | BlockState::Lost)
    }
}

/// What a write does to its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// New bytes, with one checksum per block.
    Data {
        /// One checksum per block.
        crcs: Vec<PayloadCrc>,
        /// The blocks' bytes.
        data: Bytes,
    },
    /// Zeroes (trim and write-zeroes; a trim is a write, I16).
    Zero {
        /// Chunks that were never written note the zero too. A replica that is being brought in
        /// needs that: older data of the chunk may still be copied to it (seed 2621).
        keep: bool,
    },
}

/// One block of a conditional copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyItem {
    /// The block that is copied.
    pub block: BlockIx,
    /// Compare-and-set: unless `src` is newer than the stored version, apply only if that equals `seen`.
    pub seen: Ver,
    /// The version that the block gets.
    pub src: Ver,
    /// What the block becomes.
    pub content: Content,
    /// The copy brings back the bytes that the block has lost, of the version that is there already
    /// (`src` = `seen`; not newer, if the version itself is lost).
    pub repair: bool,
}

/// What a copied block becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// It becomes zero.
    Zero,
    /// It becomes lost: no source has it, so it must not be served as what it was.
    Bad,
    /// It becomes these bytes, of this checksum.
    Data(PayloadCrc, Bytes),
}

/// A message's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Msg {
    /// Promise this term, durably, and tell what you hold.
    Seal {
        /// The record's epoch; the replica keeps it as a hint for people.
        epoch: Epoch,
        /// What the record says of this replica: it promised this term before, and holds some write
        /// of this version or a newer one. Storage that does not was put back from an older copy:
        /// its history is unknown (I12).
        held: Ver,
        /// Journal position that this process's predecessor last reported ([`Msg::WriteAck`]); 0 = unknown.
        position: u64,
        /// Everything up to here is on this replica: it notes that with the promise, durably,
        /// before it is relied upon in this term. 0: nothing is said.
        stable: Ver,
    },
    /// Promised, durably; no older-term write can apply any more.
    SealAck {
        /// Everything up to here is on all in-sync replicas, as far as this one was told.
        stable: Ver,
        /// The highest version of a block on this replica.
        max_ver: Ver,
        /// The room on the disk, encoded by [`hf_policy::Space::to_credit`].
        credit: u64,
        /// The position of the disk's journal; it never goes back, unless the disk is put back from a copy.
        position: u64,
    },
    /// A lease, or the wait after a restart, has not run out: ask again later.
    SealWait {
        /// How much later, in microseconds.
        us: u64,
    },
    /// Write blocks of one chunk (zeroes may span chunks).
    Write {
        /// The write's number in the term.
        seq: u64,
        /// The blocks that are written.
        range: BlockRange,
        /// The coordinator's watermark; 0 if it tells none.
        stable: Ver,
        /// What becomes of them.
        kind: WriteKind,
    },
    /// Every block of the write is durable at its version or a newer one.
    WriteAck {
        /// The position of the disk's journal, with the write in it.
        position: u64,
        /// The room on the disk, encoded by [`hf_policy::Space::to_credit`].
        credit: u64,
    },
    /// Read blocks of one chunk.
    Read {
        /// The blocks that are read.
        range: BlockRange,
    },
    /// A read's blocks.
    ReadAck {
        /// One entry per block; [`BlockState::Bad`] where the block could not be read or verified.
        infos: Vec<BlockInfo>,
        /// The bytes of all blocks, in order; anything where a block is bad.
        data: Bytes,
    },
    /// Promise to let no other session in for a while.
    Lease {
        /// When it was asked, by the coordinator's clock, in microseconds; it comes back unchanged.
        sent_at: u64,
        /// The coordinator's watermark; 0 if it tells none.
        stable: Ver,
    },
    /// The lease is granted.
    LeaseAck {
        /// The question's `sent_at`, unchanged.
        sent_at: u64,
        /// The room on the disk, encoded by [`hf_policy::Space::to_credit`].
        credit: u64,
    },
    /// How much space would data in these blocks of one chunk take?
    Reserve {
        /// The blocks that would be written.
        range: BlockRange,
    },
    /// It would take this much. Nothing is promised by the answer.
    ReserveAck {
        /// The space, encoded by [`hf_policy::Space::to_needs`]; `u64::MAX`: more than there is in
        /// any case.
        needs: u64,
        /// The room on the disk, encoded by [`hf_policy::Space::to_credit`].
        credit: u64,
    },
    /// Which chunks have a version newer than `since`, from chunk `from` on?
    ChunkList {
        /// Only chunks with a newer version than this are listed.
        since: Ver,
        /// The first chunk of the page.
        from: ChunkIx,
    },
    /// A page of these chunks.
    ChunkListAck {
        /// Chunks in order, each with its highest version.
        chunks: Vec<(ChunkIx, Ver)>,
        /// There are further chunks behind the last one.
        more: bool,
    },
    /// What do the blocks of a chunk hold that are newer than `since`, or bad? (Since version 0:
    /// all that were ever written.)
    ChunkVersions {
        /// The chunk that is asked about.
        chunk: ChunkIx,
        /// Only blocks that are newer than this, or bad, are told of.
        since: Ver,
    },
    /// One entry for each of these blocks.
    ChunkVersionsAck {
        /// The place of each block in the chunk, rising, and what it holds.
        infos: Vec<(u8, BlockInfo)>,
    },
    /// Read a chunk, verify every block, and say what each holds (a scrub; answered by `ChunkVersionsAck`).
    Verify {
        /// The chunk to verify.
        chunk: ChunkIx,
    },
    /// Conditional per-block writes inside one chunk.
    Copy {
        /// The copies, at most 256.
        items: Vec<CopyItem>,
    },
    /// The copies were looked at, and those that apply are durable.
    CopyAck {
        /// Per item, in order: it was applied.
        applied: Vec<bool>,
    },
    /// The request is refused.
    Nack(Nack),
}

/// Why a replica refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nack {
    /// A newer term was promised: the coordinator is fenced for good.
    #[error("fenced: the replica promised term {}", .promised.0)]
    StaleTerm {
        /// The newer term that was promised.
        promised: Term,
    },
    /// This term was never sealed here, or its promise is not durable yet.
    #[error("the replica has not promised this term yet")]
    FutureTerm,
    /// This is not the storage that the record names.
    #[error("the replica's storage is not the one that is recorded: it was wiped, restored or replaced")]
    WrongStore,
    /// This is not the history that the record names.
    #[error("the replica belongs to another lineage")]
    WrongLineage,
    /// There is no such replica here.
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

/// The entries of a whole chunk (256) that are newer than `since`, or bad, with their places.
pub fn listed(infos: &[BlockInfo], since: Ver) -> Vec<(u8, BlockInfo)> {
    let told = |i: &BlockInfo| *i != BlockInfo::default() && (i.ver > since || i.state.is_bad());
    (0..=u8::MAX).zip(infos).filter(|(_, i)| told(i)).map(|(at, i)| (at, *i)).collect()
}

/// All 256 entries of a chunk, from a list since version 0.
pub fn unlisted(list: &[(u8, BlockInfo)]) -> Vec<BlockInfo> {
    let mut infos = vec![BlockInfo::default(); hf_policy::CHUNK_BLOCKS as usize];
    for (at, i) in list {
        infos[usize::from(*at)] = *i;
    }
    infos
}

//! The chunk page: versions, checksums and states of a chunk's 256 blocks and where its units are,
//! in exactly one 4 KiB block. Written to the copy that the last checkpoint does not rely on, so it
//! is torn-page safe.
//!
//! ```text
//! 0     header, 192 bytes: magic, version, checksum, identity, trim_ver, 16 unit pointers
//! 192   states, 2 bits a block (a lost one is a bad one with checksum 1)
//! 256   terms in use, up to 256 × u32
//! 1280  sequence numbers, 256 × 48 bits
//! 2816  index into the terms, 256 × u8
//! 3072  seeded checksums, 256 × u32
//! ```

use super::{Get, Put, seal, unseal};
use crate::CHUNK_UNITS;
use hf_policy::crc::SeededCrc;
use hf_policy::{BLOCK_SIZE, Rid, Seq, ShardId, Ver};

const MAGIC: u32 = 0x4750_4648; // "HFPG"
/// Offset of the checksum.
pub const CRC_AT: usize = 8;
const STATES_AT: usize = 192;
const TERMS_AT: usize = 256;
const SEQS_AT: usize = 1280;
const TERM_IX_AT: usize = 2816;
const CRCS_AT: usize = 3072;
/// Stands in the checksum field of a bad block whose version is not known either.
const VERSION_LOST: u32 = 1;
/// Number of blocks that a page describes.
pub const BLOCKS: usize = 256;
/// Marks the absence of a unit.
pub const NO_UNIT: u32 = u32::MAX;

/// What kind of content a block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum BlockState {
    /// The block has no entry: it is zero at the chunk's trim version, or was never written.
    #[default]
    Absent = 0,
    /// The block has data in its unit.
    Data = 1,
    /// The block is zero, at its own version.
    Zero = 2,
    /// The block is known to be lost here; it can never be a source.
    Bad = 3,
    /// The block is lost and so is its version, which was not newer than the entry's.
    Lost = 4,
}

impl BlockState {
    /// True if the block cannot be read.
    pub fn is_bad(self) -> bool {
        matches!(self, BlockState::Bad | BlockState::Lost)
    }
}

/// The entry of one block in a chunk page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BlockMeta {
    /// The block's own version; without meaning if it is absent.
    pub ver: Ver,
    /// The stored, seeded checksum of the block's data; 0 if it has none.
    pub crc: SeededCrc,
    /// What kind of content the block has.
    pub state: BlockState,
}

/// A chunk page, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Blocks without an entry of their own are zero at this version.
    pub trim_ver: Ver,
    /// The chunk's sixteen units; `NO_UNIT` where there is none.
    pub units: [u32; CHUNK_UNITS],
    /// The entries of the 256 blocks.
    pub blocks: Box<[BlockMeta; BLOCKS]>,
}

impl Default for Page {
    fn default() -> Page {
        Page { trim_ver: Ver::ZERO, units: [NO_UNIT; CHUNK_UNITS], blocks: Box::new([BlockMeta::default(); BLOCKS]) }
    }
}

/// Which chunk a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageId {
    /// The shard of the replica.
    pub shard: ShardId,
    /// The id of the replica.
    pub rid: Rid,
    /// The number of the chunk in the replica.
    pub chunk: u32,
}

impl Page {
    /// A substitute for a page that could not be read: every block is lost, at the highest version
    /// it may have had.
    pub fn lost(max_ver: Ver) -> Page {
        let lost = BlockMeta { ver: max_ver, crc: SeededCrc(0), state: BlockState::Lost };
        Page { blocks: Box::new([lost; BLOCKS]), ..Page::default() }
    }

    /// A block's effective entry: one that is older than the chunk's trim gives way to the trim.
    pub fn effective(&self, block: usize) -> BlockMeta {
        let m = self.blocks[block];
        if m.state == BlockState::Absent || m.ver < self.trim_ver {
            return BlockMeta { ver: self.trim_ver, crc: SeededCrc(0), state: BlockState::Absent };
        }
        m
    }

    /// Gives an entry of its own to every block that only the chunk's trim covers, so that older
    /// versions can stand beside them.
    pub fn spell_out_trim(&mut self) {
        let ver = self.trim_ver;
        let covered = self.blocks.iter_mut().filter(|m| m.state == BlockState::Absent || m.ver < ver);
        covered.for_each(|m| *m = BlockMeta { ver, crc: SeededCrc(0), state: BlockState::Zero });
        self.trim_ver = Ver::ZERO;
    }

    /// Mask of the units that the page has.
    pub fn unit_mask(&self) -> u16 {
        self.units.iter().enumerate().fold(0, |m, (i, u)| if *u == NO_UNIT { m } else { m | 1 << i })
    }

    /// Encodes the page to one block; returns it with its checksum.
    pub fn encode(&self, id: PageId) -> (Vec<u8>, u32) {
        let mut b = Vec::with_capacity(BLOCK_SIZE);
        b.p32(MAGIC);
        b.p32(1);
        b.p32(0); // checksum
        b.p32(id.chunk);
        b.p64(id.shard.vol.0);
        b.p32(id.shard.index);
        b.p64(id.rid.0);
        b.pver(self.trim_ver);
        for u in self.units {
            b.p32(u);
        }
        b.resize(BLOCK_SIZE, 0);
        let mut terms: Vec<u32> =
            self.blocks.iter().filter(|m| m.state != BlockState::Absent).map(|m| m.ver.term.0).collect();
        terms.sort_unstable();
        terms.dedup();
        for (i, t) in terms.iter().enumerate() {
            b[TERMS_AT + i * 4..][..4].copy_from_slice(&t.to_le_bytes());
        }
        for (i, m) in self.blocks.iter().enumerate().filter(|(_, m)| m.state != BlockState::Absent) {
            assert!(m.ver.seq <= Seq::MAX, "a sequence number beyond 48 bits");
            let (state, crc) = match m.state {
                BlockState::Lost => (BlockState::Bad, VERSION_LOST),
                BlockState::Data => (m.state, m.crc.0),
                _ => (m.state, 0),
            };
            b[STATES_AT + i / 4] |= (state as u8) << (i % 4 * 2);
            b[SEQS_AT + i * 6..][..6].copy_from_slice(&m.ver.seq.0.to_le_bytes()[..6]);
            b[TERM_IX_AT + i] = terms.binary_search(&m.ver.term.0).unwrap_or(0) as u8;
            b[CRCS_AT + i * 4..][..4].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = seal(&mut b, CRC_AT);
        (b, crc)
    }

    /// Decodes a page; `None` unless the block verifies, belongs to `id`, and has the checksum that
    /// the index names.
    pub fn decode(block: &[u8], id: PageId, crc: u32) -> Option<Page> {
        if block.len() != BLOCK_SIZE || unseal(block, CRC_AT)? != crc {
            return None;
        }
        let mut g = Get(block);
        let (magic, version, _, chunk) = (g.u32()?, g.u32()?, g.u32()?, g.u32()?);
        let (vol, index, rid) = (g.u64()?, g.u32()?, g.u64()?);
        if magic != MAGIC || version != 1 || chunk != id.chunk || rid != id.rid.0 {
            return None;
        }
        if vol != id.shard.vol.0 || index != id.shard.index {
            return None;
        }
        let mut page = Page { trim_ver: g.ver()?, ..Page::default() };
        for u in &mut page.units {
            *u = g.u32()?;
        }
        for i in 0..BLOCKS {
            let state = match block[STATES_AT + i / 4] >> (i % 4 * 2) & 3 {
                0 => continue,
                1 => BlockState::Data,
                2 => BlockState::Zero,
                _ => BlockState::Bad,
            };
            let mut seq = [0; 8];
            seq[..6].copy_from_slice(&block[SEQS_AT + i * 6..][..6]);
            let term = Get(&block[TERMS_AT + block[TERM_IX_AT + i] as usize * 4..]).u32()?;
            let crc = Get(&block[CRCS_AT + i * 4..]).u32()?;
            let (state, crc) = match state {
                BlockState::Bad if crc == VERSION_LOST => (BlockState::Lost, 0),
                BlockState::Data => (state, crc),
                _ => (state, 0),
            };
            let crc = SeededCrc(crc);
            page.blocks[i] = BlockMeta { ver: Ver::new(term, u64::from_le_bytes(seq)), crc, state };
        }
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hf_policy::VolumeId;

    const ID: PageId = PageId { shard: ShardId { vol: VolumeId(3), index: 1 }, rid: Rid(9), chunk: 77 };

    #[test]
    fn a_page_with_256_terms_round_trips() {
        let mut p = Page { trim_ver: Ver::new(1, 2), ..Page::default() };
        for i in 0..BLOCKS {
            let state =
                [BlockState::Data, BlockState::Zero, BlockState::Bad, BlockState::Data, BlockState::Lost][i % 5];
            let crc = if state == BlockState::Data { i as u32 * 99 } else { 0 };
            let ver = Ver::new(1000 + i as u32 * 7, (1 << 48) - 1 - i as u64);
            p.blocks[i] = BlockMeta { ver, crc: SeededCrc(crc), state };
        }
        p.units[5] = 123_456;
        let (b, crc) = p.encode(ID);
        assert_eq!(b.len(), BLOCK_SIZE);
        assert_eq!(Page::decode(&b, ID, crc), Some(p));
        assert_eq!(Page::decode(&b, PageId { chunk: 78, ..ID }, crc), None, "another chunk's page");
        for bit in [0, 100 * 8, 4095 * 8 + 7] {
            let mut c = b.clone();
            c[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Page::decode(&c, ID, crc), None, "flipped bit {bit}");
        }
    }

    #[test]
    fn a_trim_overrules_older_entries_only() {
        let mut p = Page { trim_ver: Ver::new(2, 5), ..Page::default() };
        p.blocks[0] = BlockMeta { ver: Ver::new(2, 4), crc: SeededCrc(1), state: BlockState::Data };
        p.blocks[1] = BlockMeta { ver: Ver::new(2, 6), crc: SeededCrc(1), state: BlockState::Data };
        assert_eq!((p.effective(0).ver, p.effective(0).state), (Ver::new(2, 5), BlockState::Absent));
        assert_eq!(p.effective(1).state, BlockState::Data);
        assert_eq!(p.effective(2).ver, Ver::new(2, 5));
        let before: Vec<_> =
            (0..BLOCKS).map(|i| p.effective(i)).map(|m| (m.ver, m.state == BlockState::Data)).collect();
        p.spell_out_trim();
        let after: Vec<_> = (0..BLOCKS).map(|i| p.effective(i)).map(|m| (m.ver, m.state == BlockState::Data)).collect();
        assert_eq!(before, after);
        p.blocks[7] = BlockMeta { ver: Ver::new(1, 1), crc: SeededCrc(1), state: BlockState::Data };
        assert_eq!(p.effective(7).ver, Ver::new(1, 1));
    }
}

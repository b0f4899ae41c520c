//! Index pages: the replica table, the slot table and the unit bitmap, in two halves that are
//! written in turn. A checkpoint writes the pages that changed since that half was written last;
//! the superblock names the valid half and its digest.

use super::{Get, Put, Salt, seal, unseal};
use hf_policy::{BLOCK_SIZE, DiskUuid, Ver};

const MAGIC: u32 = 0x5849_4648; // "HFIX"
const HEADER: usize = 64;
const CRC_AT: usize = 4;
/// Number of payload bytes in a page.
pub const PAYLOAD: usize = BLOCK_SIZE - HEADER;
/// Size of a slot entry in bytes.
pub const SLOT_BYTES: usize = 32;
/// Number of slot entries in a page.
pub const PAGE_SLOTS: usize = PAYLOAD / SLOT_BYTES;
/// Number of replica entries in a page.
pub const PAGE_REPLICAS: usize = PAYLOAD / super::replica::REPLICA_BYTES;
/// Number of units in a bitmap page.
pub const PAGE_UNITS: usize = PAYLOAD * 8;

const _: () = assert!(PAGE_SLOTS == 126 && PAGE_REPLICAS == 16 && PAGE_UNITS == 32256);

/// A slot entry: which chunk has the slot and which copy of the chunk's page is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SlotEntry {
    /// The replica's entry in the replica table.
    pub replica: u32,
    /// The number of the chunk in that replica.
    pub chunk: u32,
    /// The highest version of any block of the chunk (the dirty map: I10).
    pub max_ver: Ver,
    /// Mask of those of the chunk's sixteen units that are allocated.
    pub units: u16,
    /// Which page copy is valid; `None` while the chunk has only journal records.
    pub copy: Option<u8>,
    /// The checksum of that page, so that a lost write of the page shows.
    pub page_crc: u32,
}

impl SlotEntry {
    /// Appends the entry's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.p32(self.replica);
        out.p32(self.chunk);
        out.pver(self.max_ver);
        out.p16(self.units);
        out.p16(1 | self.copy.map_or(0, |c| 2 | (u16::from(c & 1) << 2)));
        out.p32(self.page_crc);
        out.p32(0);
    }

    /// Decodes an entry. The outer `None` means damaged, the inner one a free slot.
    pub fn decode(bytes: &[u8]) -> Option<Option<SlotEntry>> {
        let mut g = Get(bytes);
        let (replica, chunk, max_ver, units, flags, page_crc) =
            (g.u32()?, g.u32()?, g.ver()?, g.u16()?, g.u16()?, g.u32()?);
        if flags & 1 == 0 {
            return Some(None);
        }
        let copy = (flags & 2 != 0).then_some((flags >> 2) as u8 & 1);
        Some(Some(SlotEntry { replica, chunk, max_ver, units, copy, page_crc }))
    }
}

/// Encodes an index page; returns it with its checksum. `salt` is the disk's if the page lies among
/// data units, otherwise none.
pub fn encode_page(disk: DiskUuid, salt: Salt, page: u32, generation: u64, payload: &[u8]) -> (Vec<u8>, u32) {
    let mut b = Vec::with_capacity(BLOCK_SIZE);
    b.p32(MAGIC);
    b.p32(0);
    b.p32(page);
    b.p32(0);
    b.p64(generation);
    b.p128(disk.0);
    b.p128(salt.0);
    b.resize(HEADER, 0);
    b.extend_from_slice(payload);
    b.resize(BLOCK_SIZE, 0);
    let crc = seal(&mut b, CRC_AT);
    (b, crc)
}

/// Decodes an index page: its payload and checksum, or `None` if it does not verify or is another
/// page.
pub fn decode_page(disk: DiskUuid, salt: Salt, page: u32, block: &[u8]) -> Option<(&[u8], u32)> {
    let crc = unseal(block, CRC_AT)?;
    let mut g = Get(block);
    let (magic, _, no, _, _, uuid) = (g.u32()?, g.u32()?, g.u32()?, g.u32()?, g.u64()?, g.u128()?);
    let salted = Salt(g.u128()?) == salt;
    (magic == MAGIC && no == page && uuid == disk.0 && salted).then(|| (&block[HEADER..], crc))
}

/// The digest of a half: a checksum over the checksums of its pages.
pub fn digest(crcs: &[u32]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    for c in crcs {
        h.update(&c.to_le_bytes());
    }
    h.finalize()
}

//! The journal group: what one journal write holds. A header area of whole blocks (records, chain,
//! checksum), then the payload blocks of its data records, in order. A group is valid only if its
//! header and every payload block verify, and only directly after the group whose checksum it names
//! (C1, C6).

use super::{Get, Put, Salt, replica, seal, unseal};
use crate::mutant::{self, Mutant};
use bytes::Bytes;
use hf_policy::crc::SeededCrc;
use hf_policy::{BLOCK_SIZE, BlockRange, Rid, Ver};

const MAGIC_1: u32 = 0x314a_4648; // "HFJ1"
/// The first four bytes of a group on a disk with a salt.
pub const MAGIC: u32 = 0x324a_4648; // "HFJ2"
const FIXED_1: usize = 64;
const FIXED: usize = 144;
const SALT_AT: usize = 64;
const CRC_AT: usize = 4;
/// Largest size of the header area in blocks.
pub const MAX_HEADER_BLOCKS: usize = 64;
/// Largest payload in blocks: 2 MiB.
pub const MAX_PAYLOAD_BLOCKS: usize = 512;
/// Largest size of a group in bytes.
pub const MAX_GROUP_BYTES: u64 = ((MAX_HEADER_BLOCKS + MAX_PAYLOAD_BLOCKS) * BLOCK_SIZE) as u64;

/// What a record does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Blocks whose bytes follow in the group's payload.
    Data {
        /// A seeded checksum per block.
        crcs: Vec<SeededCrc>,
    },
    /// Whole units whose bytes are in fresh units already, durably.
    Map {
        /// The unit that holds the data, for each unit of the range.
        units: Vec<u32>,
        /// A seeded checksum per block.
        crcs: Vec<SeededCrc>,
    },
    /// Blocks become zero. Chunks that were never written stay so.
    Zero,
    /// Blocks of one chunk become zero, each with its version, and the chunk exists from then on.
    /// (A copy made them zero: that must be known here as it is at the source.)
    ZeroKept,
    /// Blocks are lost: a repair found no source for them.
    Bad,
    /// The replica's entry is replaced.
    Replica(Box<replica::ReplicaRec>),
    /// This unit extends the replica table. (The record's replica, range and version mean nothing.)
    Extend {
        /// The unit that is added to the table.
        unit: u32,
    },
}

/// One record of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The replica's entry in the replica table.
    pub replica: u32,
    /// The replica's id, so that a reused entry cannot be mistaken for it.
    pub rid: Rid,
    /// The blocks it changes.
    pub range: BlockRange,
    /// The version these blocks get.
    pub ver: Ver,
    /// What the record does.
    pub body: Body,
}

impl Record {
    /// Number of payload blocks that belong to it.
    pub fn payload_blocks(&self) -> usize {
        if let Body::Data { crcs } = &self.body { crcs.len() } else { 0 }
    }

    /// Number of bytes it takes in the header area.
    pub fn header_bytes(&self) -> usize {
        40 + match &self.body {
            Body::Data { crcs } => crcs.len() * 4,
            Body::Map { units, crcs } => (units.len() + crcs.len()) * 4,
            Body::Replica(_) => replica::REPLICA_BYTES,
            Body::Extend { .. } => 4,
            Body::Zero | Body::ZeroKept | Body::Bad => 0,
        }
    }

    fn encode(&self, b: &mut Vec<u8>) {
        let kind = match &self.body {
            Body::Data { .. } => 1,
            Body::Map { .. } => 2,
            Body::Zero => 3,
            Body::Bad => 4,
            Body::Replica(_) => 5,
            Body::ZeroKept => 6,
            Body::Extend { .. } => 7,
        };
        b.p32(kind);
        b.p32(self.replica);
        b.p64(self.rid.0);
        b.p64(self.range.start.0);
        b.p32(self.range.len);
        b.pver(self.ver);
        match &self.body {
            Body::Data { crcs } => crcs.iter().for_each(|c| b.p32(c.0)),
            Body::Map { units, crcs } => {
                units.iter().for_each(|u| b.p32(*u));
                crcs.iter().for_each(|c| b.p32(c.0));
            }
            Body::Replica(r) => b.extend_from_slice(&r.encode()),
            Body::Extend { unit } => b.p32(*unit),
            Body::Zero | Body::ZeroKept | Body::Bad => {}
        }
    }

    fn decode(g: &mut Get<'_>) -> Option<Record> {
        let kind = g.u32()?;
        let (replica, rid) = (g.u32()?, Rid(g.u64()?));
        let range = BlockRange::new(g.u64()?, g.u32()?);
        let ver = g.ver()?;
        let n = range.len as usize;
        let words = |g: &mut Get<'_>, n: usize| -> Option<Vec<u32>> {
            let raw = g.bytes(n.checked_mul(4)?)?;
            Some(raw.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
        };
        let crcs = |g: &mut Get<'_>| Some(words(g, n)?.into_iter().map(SeededCrc).collect::<Vec<_>>());
        let body = match kind {
            1 => Body::Data { crcs: crcs(g)? },
            2 => Body::Map { units: words(g, n.div_ceil(crate::UNIT_BLOCKS))?, crcs: crcs(g)? },
            3 => Body::Zero,
            4 => Body::Bad,
            5 => Body::Replica(Box::new(replica::ReplicaRec::decode(g.bytes(replica::REPLICA_BYTES)?)??)),
            6 => Body::ZeroKept,
            7 => Body::Extend { unit: g.u32()? },
            _ => return None,
        };
        Some(Record { replica, rid, range, ver, body })
    }
}

/// The contents of a group's header area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The journal generation in which it was written.
    pub journal_gen: u64,
    /// Its number. Numbers are consecutive.
    pub seq: u64,
    /// Checksum of the group before it.
    pub prev_crc: u32,
    /// Every group up to this number was durable when this one was made. If one of those cannot be
    /// read, the journal is damaged and not merely torn.
    pub acked_through: u64,
    /// The newest superblock generation that was durable when this group was made: no older one can
    /// be the newest.
    pub checkpoint: u64,
    /// Number of payload blocks that follow the header area.
    pub payload_blocks: u32,
    /// Which of the payload blocks are stored masked.
    pub masked: Masked,
    /// The records, in order.
    pub records: Vec<Record>,
}

/// The payload blocks of a group that begin like a group. They are stored in the journal with their
/// first four bytes inverted, so that no payload block there begins like a header, whatever its
/// writer knows of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Masked([u64; MAX_PAYLOAD_BLOCKS / 64]);

impl Masked {
    /// True if no block is masked.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    /// Masks the blocks that need it in a group's payload: buffers of whole blocks, in order.
    /// Buffers without such blocks are left as they are.
    pub fn mask(payload: &mut [Bytes]) -> Masked {
        let mut masked = Masked::default();
        let mut at = 0;
        for buf in payload {
            let first = at;
            for block in buf.chunks_exact(BLOCK_SIZE) {
                if block[..4] == MAGIC.to_le_bytes()
                    && let Some(word) = masked.0.get_mut(at / 64)
                {
                    *word |= 1 << (at % 64);
                }
                at += 1;
            }
            *buf = masked.inverted(buf, first);
        }
        masked
    }

    /// Returns a group's payload as it was before it was masked.
    pub fn unmask(&self, payload: &Bytes) -> Bytes {
        self.inverted(payload, 0)
    }

    /// The blocks of `buf` with the masked ones inverted; block `first` of the group is the first
    /// in `buf`. Copies only if any of them is masked.
    fn inverted(&self, buf: &Bytes, first: usize) -> Bytes {
        let is_masked = |i: &usize| self.0.get((first + i) / 64).is_some_and(|w| w >> ((first + i) % 64) & 1 == 1);
        let blocks = buf.len() / BLOCK_SIZE;
        if self.is_empty() || !(0..blocks).any(|i| is_masked(&i)) {
            return buf.clone();
        }
        let mut out = buf.to_vec();
        for i in (0..blocks).filter(is_masked) {
            out[i * BLOCK_SIZE..][..4].iter_mut().for_each(|b| *b = !*b);
        }
        Bytes::from(out)
    }
}

impl Group {
    /// Encodes the header area; returns it with its checksum. Without a salt it has the form of
    /// version 1.
    pub fn encode_header(&self, salt: Salt) -> (Bytes, u32) {
        let mut b = Vec::with_capacity(BLOCK_SIZE);
        let version = if salt.is_none() { 1 } else { 2 };
        b.p32(if salt.is_none() { MAGIC_1 } else { MAGIC });
        b.p32(0); // checksum
        b.p16(version);
        b.p16(0); // header blocks
        b.p32(self.payload_blocks);
        b.p64(self.journal_gen);
        b.p64(self.seq);
        b.p64(self.acked_through);
        b.p64(self.checkpoint);
        b.p32(self.prev_crc);
        b.p32(self.records.len() as u32);
        b.resize(FIXED_1, 0);
        if !salt.is_none() {
            b.p128(salt.0);
            self.masked.0.iter().for_each(|w| b.p64(*w));
        }
        for r in &self.records {
            r.encode(&mut b);
        }
        let blocks = b.len().div_ceil(BLOCK_SIZE);
        b.resize(blocks * BLOCK_SIZE, 0);
        b[10..12].copy_from_slice(&(blocks as u16).to_le_bytes());
        let crc = seal(&mut b, CRC_AT);
        (Bytes::from(b), crc)
    }

    /// Number of blocks of the header area that begins with this block; `None` if the block begins
    /// none of a disk with this salt.
    pub fn header_blocks(first: &[u8], salt: Salt) -> Option<usize> {
        let mut g = Get(first);
        let (magic, _, version, blocks) = (g.u32()?, g.u32()?, g.u16()?, g.u16()?);
        let ours = match salt {
            Salt::NONE => magic == MAGIC_1 && version == 1,
            _ => magic == MAGIC && version == 2 && Self::is_salted(first, salt)?,
        };
        let n = blocks as usize;
        (ours && (1..=MAX_HEADER_BLOCKS).contains(&n)).then_some(n)
    }

    fn is_salted(first: &[u8], salt: Salt) -> Option<bool> {
        Some(Salt(Get(first.get(SALT_AT..)?).u128()?) == salt || mutant::is(Mutant::AnySaltWillDo))
    }

    /// Decodes a whole header area; returns the group with its checksum, or `None` if it does not
    /// verify.
    pub fn decode_header(area: &[u8], salt: Salt) -> Option<(Group, u32)> {
        let crc = unseal(area, CRC_AT)?;
        Self::header_blocks(area, salt)?;
        let mut g = Get(area);
        g.bytes(12)?;
        let payload_blocks = g.u32()?;
        let (journal_gen, seq, acked_through, checkpoint) = (g.u64()?, g.u64()?, g.u64()?, g.u64()?);
        let (prev_crc, n) = (g.u32()?, g.u32()?);
        let mut masked = Masked::default();
        let mut g = Get(area.get(FIXED_1..)?);
        if !salt.is_none() {
            g.u128()?;
            for word in &mut masked.0 {
                *word = g.u64()?;
            }
        }
        let records: Option<Vec<Record>> = (0..n).map(|_| Record::decode(&mut g)).collect();
        let records = records?;
        let total: usize = records.iter().map(Record::payload_blocks).sum();
        if total != payload_blocks as usize || total > MAX_PAYLOAD_BLOCKS {
            return None;
        }
        let g = Group { journal_gen, seq, prev_crc, acked_through, checkpoint, payload_blocks, masked, records };
        Some((g, crc))
    }
}

/// Number of bytes for records in one group's header area.
pub const MAX_RECORD_BYTES: usize = MAX_HEADER_BLOCKS * BLOCK_SIZE - FIXED;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_round_trips_and_any_flipped_bit_is_seen() {
        let crcs: Vec<_> = (0..2000).map(SeededCrc).take(300).collect();
        let g = Group {
            journal_gen: 3,
            seq: 9,
            prev_crc: 77,
            acked_through: 8,
            checkpoint: 5,
            payload_blocks: 300,
            masked: Masked::default(),
            records: vec![
                Record {
                    replica: 1,
                    rid: Rid(4),
                    range: BlockRange::new(256, 300),
                    ver: Ver::new(1, 2),
                    body: Body::Data { crcs },
                },
                Record { replica: 1, rid: Rid(4), range: BlockRange::new(0, 9), ver: Ver::new(1, 3), body: Body::Zero },
            ],
        };
        let salt = Salt(7);
        let (bytes, crc) = g.encode_header(salt);
        assert_eq!(bytes.len() % BLOCK_SIZE, 0);
        assert_eq!(Group::decode_header(&bytes, salt), Some((g, crc)));
        for at in (0..bytes.len()).step_by(97) {
            let mut bad = bytes.to_vec();
            bad[at] ^= 4;
            assert_eq!(Group::decode_header(&bad, salt), None, "byte {at}");
        }
    }
}

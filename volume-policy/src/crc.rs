//! Block checksums: CRC32C of the payload, computed once and carried; each replica folds its own
//! identity in by CRC combination instead of hashing the payload again (C5).
//!
//! `seeded = crc32c(identity || payload) = shift_4096(crc32c(identity)) ^ crc32c(payload)`, where
//! `shift_n` advances a CRC over n zero bytes. CRC is linear over GF(2), so the shift is a 32×32 bit matrix,
//! made at compile time (the construction of zlib's `crc32_combine`).

use crate::id::{Rid, ShardId};
use crate::unit::{BLOCK_SIZE, BlockIx};
use crate::ver::Ver;
use serde::{Deserialize, Serialize};

/// CRC32C of one block's 4096 payload bytes, without any identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PayloadCrc(pub u32);

/// A payload checksum with the identity of its place folded in; what is stored on disk.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SeededCrc(pub u32);

const POLY: u32 = 0x82f6_3b78;

const fn mat_times(mat: &[u32; 32], mut vec: u32) -> u32 {
    let mut sum = 0;
    let mut i = 0;
    while vec != 0 {
        if vec & 1 == 1 {
            sum ^= mat[i];
        }
        vec >>= 1;
        i += 1;
    }
    sum
}

const fn mat_square(mat: &[u32; 32]) -> [u32; 32] {
    let mut out = [0; 32];
    let mut i = 0;
    while i < 32 {
        out[i] = mat_times(mat, mat[i]);
        i += 1;
    }
    out
}

/// The operator "append 2^k zero bits", squared up to 4096 bytes = 2^15 bits.
const fn shift_4096_matrix() -> [u32; 32] {
    let mut m = [0u32; 32];
    m[0] = POLY;
    let mut i = 1;
    while i < 32 {
        m[i] = 1 << (i - 1);
        i += 1;
    }
    let mut k = 0;
    while k < 15 {
        m = mat_square(&m);
        k += 1;
    }
    m
}

/// The operator as four byte-indexed tables: four look-ups instead of up to 32 steps.
const fn shift_4096_tables() -> [[u32; 256]; 4] {
    let m = shift_4096_matrix();
    let mut t = [[0u32; 256]; 4];
    let mut byte = 0;
    while byte < 4 {
        let mut v = 0;
        while v < 256 {
            t[byte][v] = mat_times(&m, (v as u32) << (8 * byte));
            v += 1;
        }
        byte += 1;
    }
    t
}

static SHIFT: [[u32; 256]; 4] = shift_4096_tables();

fn shift_4096(c: u32) -> u32 {
    let [b0, b1, b2, b3] = c.to_le_bytes();
    SHIFT[0][b0 as usize] ^ SHIFT[1][b1 as usize] ^ SHIFT[2][b2 as usize] ^ SHIFT[3][b3 as usize]
}

/// Checksum of one block's payload.
pub fn payload(block: &[u8]) -> PayloadCrc {
    debug_assert_eq!(block.len(), BLOCK_SIZE);
    PayloadCrc(crc32c::crc32c(block))
}

/// Checksums of a run of whole blocks.
pub fn payloads(data: &[u8]) -> Vec<PayloadCrc> {
    data.chunks_exact(BLOCK_SIZE).map(payload).collect()
}

/// The checksum of 4096 zero bytes.
pub fn zero_block() -> PayloadCrc {
    static ZERO: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    PayloadCrc(*ZERO.get_or_init(|| crc32c::crc32c(&[0; BLOCK_SIZE])))
}

/// The identity of a stored block, which its checksum is seeded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The shard that the block is of.
    pub shard: ShardId,
    /// The replica that stores it.
    pub rid: Rid,
    /// The block's index in the shard.
    pub block: BlockIx,
    /// The version of its last write.
    pub ver: Ver,
}

impl Identity {
    fn mask(&self) -> u32 {
        let mut b = [0u8; 40];
        b[0..8].copy_from_slice(&self.shard.vol.0.to_le_bytes());
        b[8..12].copy_from_slice(&self.shard.index.to_le_bytes());
        b[12..20].copy_from_slice(&self.rid.0.to_le_bytes());
        b[20..28].copy_from_slice(&self.block.0.to_le_bytes());
        b[28..32].copy_from_slice(&self.ver.term.0.to_le_bytes());
        b[32..40].copy_from_slice(&self.ver.seq.0.to_le_bytes());
        shift_4096(crc32c::crc32c(&b))
    }

    /// Folds this identity into a payload checksum.
    pub fn seed(&self, crc: PayloadCrc) -> SeededCrc {
        SeededCrc(crc.0 ^ self.mask())
    }

    /// The payload checksum that a stored one stands for, if this is really its place.
    pub fn unseed(&self, crc: SeededCrc) -> PayloadCrc {
        PayloadCrc(crc.0 ^ self.mask())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::VolumeId;

    #[test]
    fn seeding_equals_hashing_identity_then_payload() {
        let id = Identity {
            shard: ShardId { vol: VolumeId(7), index: 3 },
            rid: Rid(9),
            block: BlockIx(12345),
            ver: Ver::new(4, 77),
        };
        let data: Vec<u8> = (0..BLOCK_SIZE).map(|i| (i * 31 % 251) as u8).collect();
        let mut all = Vec::new();
        all.extend(7u64.to_le_bytes());
        all.extend(3u32.to_le_bytes());
        all.extend(9u64.to_le_bytes());
        all.extend(12345u64.to_le_bytes());
        all.extend(4u32.to_le_bytes());
        all.extend(77u64.to_le_bytes());
        all.extend(&data);
        let seeded = id.seed(payload(&data));
        assert_eq!(seeded.0, crc32c::crc32c(&all));
        assert_eq!(id.unseed(seeded), payload(&data));
        let other = Identity { block: BlockIx(12346), ..id };
        assert_ne!(other.unseed(seeded), payload(&data), "a misdirected block must not verify");
    }

    #[test]
    fn known_vector() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(zero_block(), payload(&[0; BLOCK_SIZE]));
    }
}

//! The superblock: the disk's identity, its regions, and where its journal and index stand.
//! Generation g is written to slot g % 2, twice. Opening takes the newest valid one and repairs
//! nothing (hazards: redb 8e04e95b).

use super::{FORMAT_VERSION, Get, Put, Salt, seal, unseal};
use crate::geometry::Geometry;
use hf_policy::{BLOCK_SIZE, ClusterId, DiskUuid, LogAge, LogId, NodeId};

const MAGIC: &[u8; 8] = b"HOLDFAST";
const CRC_AT: usize = 12;
/// Largest number of units that extend the replica table.
pub const MAX_EXTENSIONS: usize = 512;

/// Where the journal's first live group is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct JournalTail {
    /// The group's offset in the ring.
    pub off: u64,
    /// The group's number.
    pub seq: u64,
    /// Checksum of the group before it, which it must name.
    pub prev_crc: u32,
}

/// One generation of the superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Number of this superblock; each write raises it by one.
    pub generation: u64,
    /// The cluster the disk belongs to; none on a formatted disk that no cluster has taken yet.
    pub cluster: ClusterId,
    /// The identity of this disk.
    pub disk: DiskUuid,
    /// Where the disk's regions lie.
    pub geometry: Geometry,
    /// Raised at every open. Groups of an older generation are ignored after a newer one (C6).
    pub journal_gen: u64,
    /// Where the journal's live part begins.
    pub tail: JournalTail,
    /// Which index half is valid.
    pub half: u8,
    /// Number of the checkpoint that wrote that half.
    pub index_gen: u64,
    /// Checksum over the checksums of the half's pages, so that a lost write of a page shows.
    pub index_digest: u32,
    /// The node that formatted it; 0 if it was formatted before this was written down.
    pub node: NodeId,
    /// The age of the node's metadata log when last told; none if it never was.
    pub log_age: LogAge,
    /// Tells the disk's structures from payload; none on a disk of format version 1.
    pub salt: Salt,
    /// Journal groups from this number on have the salt; earlier ones are from before the disk got
    /// it.
    pub salted_from: u64,
    /// Units that extend the replica table, in order, as of the valid index half.
    pub extensions: Vec<u32>,
}

/// Why a block is not a superblock we can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bad {
    /// The block has no magic of ours.
    NotOurs,
    /// The block has our magic, and its checksum does not match.
    Damaged,
    /// The block has a format version that this release does not know.
    TooNew(u32),
}

impl Superblock {
    /// Encodes the superblock to one block.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(BLOCK_SIZE);
        b.extend_from_slice(MAGIC);
        b.p32(if self.salt.is_none() { 1 } else { FORMAT_VERSION });
        b.p32(0); // checksum
        b.p64(self.generation);
        b.p128(self.cluster.0);
        b.p128(self.disk.0);
        let g = &self.geometry;
        b.p64(g.disk_bytes);
        b.p64(g.journal_bytes);
        b.p32(g.replicas);
        b.p32(g.slots);
        b.p32(g.units);
        b.p64(self.journal_gen);
        b.p64(self.tail.off);
        b.p64(self.tail.seq);
        b.p32(self.tail.prev_crc);
        b.p32(u32::from(self.half));
        b.p64(self.index_gen);
        b.p32(self.index_digest);
        b.p64(self.node.0);
        b.p128(self.log_age.log.0);
        b.p64(self.log_age.age);
        if !self.salt.is_none() {
            b.p128(self.salt.0);
            b.p64(self.salted_from);
            let units = &self.extensions[..self.extensions.len().min(MAX_EXTENSIONS)];
            b.p32(units.len() as u32);
            units.iter().for_each(|u| b.p32(*u));
        }
        b.resize(BLOCK_SIZE, 0);
        seal(&mut b, CRC_AT);
        b
    }

    /// Decodes a superblock.
    pub fn decode(block: &[u8]) -> Result<Superblock, Bad> {
        let mut g = Get(block);
        if g.bytes(8) != Some(MAGIC) {
            return Err(Bad::NotOurs);
        }
        let version = g.u32().ok_or(Bad::Damaged)?;
        // The checksum is verified first: a flipped bit must not look like a newer format.
        unseal(block, CRC_AT).ok_or(Bad::Damaged)?;
        if version > FORMAT_VERSION {
            return Err(Bad::TooNew(version));
        }
        Self::fields(&mut g, version).ok_or(Bad::Damaged)
    }

    fn fields(g: &mut Get<'_>, version: u32) -> Option<Superblock> {
        g.u32()?;
        let sb = Self::fields_1(g)?;
        if version < 2 {
            return Some(sb);
        }
        let (salt, salted_from, n) = (Salt(g.u128()?), g.u64()?, g.u32()? as usize);
        if salt.is_none() || n > MAX_EXTENSIONS {
            return None;
        }
        let extensions = (0..n).map(|_| g.u32()).collect::<Option<_>>()?;
        Some(Superblock { salt, salted_from, extensions, ..sb })
    }

    /// The fields that every version has.
    fn fields_1(g: &mut Get<'_>) -> Option<Superblock> {
        Some(Superblock {
            generation: g.u64()?,
            cluster: ClusterId(g.u128()?),
            disk: DiskUuid(g.u128()?),
            geometry: Geometry {
                disk_bytes: g.u64()?,
                journal_bytes: g.u64()?,
                replicas: g.u32()?,
                slots: g.u32()?,
                units: g.u32()?,
            },
            journal_gen: g.u64()?,
            tail: JournalTail { off: g.u64()?, seq: g.u64()?, prev_crc: g.u32()? },
            half: g.u32()? as u8 & 1,
            index_gen: g.u64()?,
            index_digest: g.u32()?,
            node: NodeId(g.u64()?),
            log_age: LogAge { log: LogId(g.u128()?), age: g.u64()?, start: 0 },
            salt: Salt::NONE,
            salted_from: 0,
            extensions: Vec::new(),
        })
    }

    /// The salt of the journal group with this number.
    pub fn salt_of(&self, seq: u64) -> Salt {
        if seq < self.salted_from { Salt::NONE } else { self.salt }
    }

    /// Takes the age of the node's metadata log. The age of a log is never lowered, because it is
    /// what shows that a log was replaced by an older copy.
    pub fn note(&mut self, age: LogAge) {
        if age.log != self.log_age.log || age.age > self.log_age.age {
            self.log_age = LogAge { start: 0, ..age };
        }
    }

    /// Offset at which its generation is written (8 KiB: two copies).
    pub fn offset(&self) -> u64 {
        (self.generation % 2) * 2 * BLOCK_SIZE as u64
    }
}

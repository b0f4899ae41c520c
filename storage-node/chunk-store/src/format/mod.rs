//! Every byte on disk. Numbers are little-endian. Every block has a magic and a checksum over all
//! of its mutable bytes (C12), and the superblock has the version of them all.
//! `docs/disk-format.md` describes the same bytes.

pub mod group;
pub mod index;
pub mod page;
pub mod replica;
pub mod superblock;

/// The newest disk format that this release writes. It refuses newer ones and reads all older ones.
/// A disk without a [`Salt`] is of version 1 and is written as version 1.
pub const FORMAT_VERSION: u32 = 2;

/// A random number of one disk. Every structure of format version 2 that shares space with payload
/// contains it. Whoever writes payload does not know it, so payload is never taken for structure
/// (docs/decisions/0019).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Salt(pub u128);

impl Salt {
    /// The disk has no salt: format version 1.
    pub const NONE: Salt = Salt(0);

    /// True if the disk has no salt.
    pub fn is_none(self) -> bool {
        self == Salt::NONE
    }
}

/// Reads fields one after the other. A buffer that is too short yields `None`, never a panic.
pub(crate) struct Get<'a>(pub &'a [u8]);

impl<'a> Get<'a> {
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        if self.0.len() < n {
            return None;
        }
        let (a, b) = self.0.split_at(n);
        self.0 = b;
        Some(a)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|a| a[0])
    }
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    pub fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }
    pub fn ver(&mut self) -> Option<hf_policy::Ver> {
        Some(hf_policy::Ver::new(self.u32()?, self.u64()?))
    }
}

/// Appends fields to a buffer, as little-endian numbers.
pub(crate) trait Put {
    fn p16(&mut self, v: u16);
    fn p32(&mut self, v: u32);
    fn p64(&mut self, v: u64);
    fn p128(&mut self, v: u128);
    fn pver(&mut self, v: hf_policy::Ver);
}

impl Put for Vec<u8> {
    fn p16(&mut self, v: u16) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    fn p32(&mut self, v: u32) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    fn p64(&mut self, v: u64) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    fn p128(&mut self, v: u128) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    fn pver(&mut self, v: hf_policy::Ver) {
        self.p32(v.term.0);
        self.p64(v.seq.0);
    }
}

/// Seals a block: writes a checksum over all other bytes to `at..at+4`, and returns it.
pub fn seal(block: &mut [u8], at: usize) -> u32 {
    block[at..at + 4].fill(0);
    let crc = crc32fast::hash(block);
    block[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Verifies a sealed block: returns its checksum, or `None` if it does not match.
pub(crate) fn unseal(block: &[u8], at: usize) -> Option<u32> {
    let stored = u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?);
    let mut h = crc32fast::Hasher::new();
    h.update(&block[..at]);
    h.update(&[0; 4]);
    h.update(&block[at + 4..]);
    (h.finalize() == stored).then_some(stored)
}

//! What lies where in a disk's file, for tests that damage it.

use std::os::unix::fs::FileExt;
use std::path::Path;

/// A block that exists once in the world.
pub fn block(i: u64) -> Vec<u8> {
    let mut b = Vec::with_capacity(4096);
    while b.len() < 4096 {
        b.extend_from_slice(&(0xfeed_0000_0000_0000 | i).to_le_bytes());
        b.extend_from_slice(&i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    b
}

/// Where a disk's file holds these blocks, in place or in the journal, in bytes.
pub fn find(file: &Path, blocks: std::ops::Range<u64>) -> Vec<u64> {
    let f = std::fs::File::open(file).unwrap();
    let size = f.metadata().unwrap().len();
    let mut found = Vec::new();
    let mut piece = vec![0u8; 1 << 20];
    for at in (0..size).step_by(1 << 20) {
        let n = f.read_at(&mut piece, at).unwrap();
        for (k, b) in piece[..n].chunks(4096).enumerate() {
            let head = u64::from_le_bytes(b[..8].try_into().unwrap());
            if head >> 48 == 0xfeed && blocks.contains(&(head & 0xffff_ffff)) {
                found.push(at + k as u64 * 4096);
            }
        }
    }
    found
}

/// Where chunk pages are (docs/disk-format.md), in bytes.
pub fn pages(file: &Path) -> Vec<u64> {
    let f = std::fs::File::open(file).unwrap();
    let mut head = [0u8; 4];
    let blocks = (0..f.metadata().unwrap().len()).step_by(4096);
    blocks.filter(|at| f.read_exact_at(&mut head, *at).is_ok() && head == *b"HFPG").collect()
}

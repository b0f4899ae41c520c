//! A simulated disk. When the power goes, each block that was not synced may be lost, independently
//! of the others. On order the disk loses, tears, misdirects or damages writes, and fails
//! operations. Everything follows from a seed.
//!
//! Model: a write lands in a volatile buffer when it is submitted; a durable write moves to the
//! media when it completes; a sync moves every write that had completed before the sync was
//! submitted. A crash keeps a random subset of the buffered blocks, in write order per block.

use crate::disk::{DiskError, DiskOp, RawDisk};
use bytes::Bytes;
use hf_policy::BLOCK_SIZE;
use std::collections::BTreeMap;

/// A seeded xorshift64* generator: small, and good enough to explore.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for any seed.
    pub fn new(seed: u64) -> Rng {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Rng((z ^ (z >> 27)) | 1)
    }
    /// The next number, of 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// A number below `n` (0 if `n` is 0).
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { (self.next_u64() >> 11) % n }
    }
    /// True with probability 1/`n`; always true for `n` = 0 or 1.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Debug)]
struct Buffered {
    block: u64,
    data: Bytes,
    print: u64,
    /// The number of the operation that wrote it: a sync covers the completed ones.
    op: u64,
    completed: bool,
}

#[derive(Clone, Debug)]
struct InFlight {
    tag: u64,
    op: DiskOp,
    number: u64,
    /// For a sync: it covers writes that completed before it was submitted.
    covers: u64,
}

/// The simulated disk: its media, its volatile buffer, and the operations in flight.
#[derive(Clone, Debug)]
pub struct SimDisk {
    size: u64,
    media: BTreeMap<u64, Bytes>,
    /// The fingerprint of each block on the media.
    prints: BTreeMap<u64, u64>,
    fingerprint: u64,
    buffer: Vec<Buffered>,
    inflight: Vec<InFlight>,
    number: u64,
    completions: u64,
    completed_at: BTreeMap<u64, u64>,
    /// If set, every write and sync fails with EIO.
    pub fail_writes: bool,
    /// If set, the next sync fails and the writes it covered are dropped. (A kernel marks pages
    /// that it could not write as clean, so a second sync would report success.)
    pub fail_next_sync: bool,
    /// Blocks whose reads fail with EIO until they are written again. (A disk then remaps the
    /// sector.)
    pub unreadable: std::collections::BTreeSet<u64>,
    /// Number of further reads that fail with EIO.
    pub fail_reads: u32,
    /// If set, a write is acknowledged and never happens.
    pub lose_next_write: bool,
    /// Number of writes that still happen before that one.
    pub lose_after: u32,
}

const ZERO: &[u8] = &[0; BLOCK_SIZE];
/// Returned without a copy by large reads of space never written. (Opening a disk reads the whole
/// journal.)
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

/// A block's part in the disk's fingerprint. A block of zeroes has none, as if it was never
/// written.
fn print(block: u64, data: &[u8]) -> u64 {
    let mut h = block.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut any = 0;
    for w in data.chunks_exact(8) {
        let word = w.iter().rev().fold(0, |a, b| a << 8 | u64::from(*b));
        any |= word;
        h = (h.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    if any == 0 { 0 } else { (h ^ (h >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9) }
}

impl SimDisk {
    /// An empty disk.
    pub fn new(size: u64) -> SimDisk {
        SimDisk {
            size,
            media: BTreeMap::new(),
            prints: BTreeMap::new(),
            fingerprint: 0,
            buffer: Vec::new(),
            inflight: Vec::new(),
            number: 0,
            completions: 0,
            completed_at: BTreeMap::new(),
            fail_writes: false,
            fail_next_sync: false,
            unreadable: Default::default(),
            fail_reads: 0,
            lose_next_write: false,
            lose_after: 0,
        }
    }

    /// Takes an operation. It completes when [`SimDisk::complete`] chooses it.
    pub fn submit(&mut self, tag: u64, op: DiskOp) {
        self.number += 1;
        if let DiskOp::Write { off, bufs, .. } = &op {
            let all: Vec<u8> = bufs.concat();
            assert!(
                off % 4096 == 0 && all.len().is_multiple_of(4096) && off + all.len() as u64 <= self.size,
                "bad write"
            );
            let lost = self.lose_next_write && self.lose_after == 0;
            self.lose_after = self.lose_after.saturating_sub(u32::from(self.lose_next_write));
            if lost {
                self.lose_next_write = false;
                // (Acknowledged and never done: the buffer does not get it.)
            } else if !self.fail_writes {
                for (i, b) in all.chunks_exact(BLOCK_SIZE).enumerate() {
                    let data = Bytes::copy_from_slice(b);
                    let (block, op) = (off / 4096 + i as u64, self.number);
                    self.buffer.push(Buffered { block, print: print(block, &data), data, op, completed: false });
                }
            }
        }
        self.inflight.push(InFlight { tag, op, number: self.number, covers: self.completions });
    }

    /// Number of operations in flight.
    pub fn pending(&self) -> usize {
        self.inflight.len()
    }

    /// Completes the `i`-th operation in flight; `None` if there are fewer.
    pub fn complete(&mut self, i: usize) -> Option<(u64, Result<Bytes, DiskError>)> {
        if i >= self.inflight.len() {
            return None;
        }
        let f = self.inflight.remove(i);
        self.completions += 1;
        let result = match &f.op {
            DiskOp::Read { .. } if self.fail_reads > 0 => {
                self.fail_reads -= 1;
                Err(DiskError("injected EIO of a read".into()))
            }
            DiskOp::Read { off, len } => self.read_now(*off, *len as usize),
            DiskOp::Write { .. } | DiskOp::Sync if self.fail_writes => Err(DiskError("injected EIO".into())),
            DiskOp::Write { durable, .. } => {
                self.completed_at.insert(f.number, self.completions);
                for b in self.buffer.iter_mut().filter(|b| b.op == f.number) {
                    b.completed = true;
                }
                if *durable {
                    self.harden(|b| b.op == f.number);
                }
                Ok(Bytes::new())
            }
            DiskOp::Sync if self.fail_next_sync => {
                self.fail_next_sync = false;
                self.buffer.retain(|b| !b.completed);
                Err(DiskError("injected EIO of a sync".into()))
            }
            DiskOp::Sync => {
                let done = self.completed_at.clone();
                self.harden(|b| b.completed && done.get(&b.op).is_some_and(|at| *at <= f.covers));
                Ok(Bytes::new())
            }
        };
        Some((f.tag, result))
    }

    /// Moves buffered blocks to the media. A block that was written again later keeps its later
    /// content in the buffer.
    fn harden(&mut self, which: impl Fn(&Buffered) -> bool) {
        let mut kept = Vec::new();
        for b in std::mem::take(&mut self.buffer) {
            if which(&b) {
                // Older buffered content of the block cannot reach the media after this.
                kept.retain(|k: &Buffered| k.block != b.block);
                self.put(b.block, b.data, b.print);
            } else {
                kept.push(b);
            }
        }
        self.buffer = kept;
    }

    fn block_now(&self, block: u64) -> Bytes {
        let newest = self.buffer.iter().rev().find(|b| b.block == block).map(|b| b.data.clone());
        newest.or_else(|| self.media.get(&block).cloned()).unwrap_or_else(|| Bytes::from_static(ZERO))
    }

    fn read_now(&self, off: u64, len: usize) -> Result<Bytes, DiskError> {
        let (first, end) = (off / 4096, (off + len as u64) / 4096);
        let touched = self.media.range(first..end).next().is_some()
            || self.unreadable.range(first..end).next().is_some()
            || self.buffer.iter().any(|b| (first..end).contains(&b.block));
        if !touched && len <= ZEROES.len() {
            return Ok(Bytes::from_static(&ZEROES[..len]));
        }
        let mut out = Vec::with_capacity(len);
        for b in first..end {
            if self.unreadable.contains(&b) && !self.buffer.iter().any(|x| x.block == b) {
                return Err(DiskError(format!("injected EIO reading block {b}")));
            }
            out.extend_from_slice(&self.block_now(b));
        }
        Ok(Bytes::from(out))
    }

    /// The process is killed: nobody hears of what was in flight. Its writes are in the disk's
    /// cache and stay volatile.
    pub fn abandon(&mut self) {
        self.inflight.clear();
    }

    /// Power loss: of each buffered block a random prefix of its writes survives; a surviving write
    /// may be torn at a boundary of 512 bytes.
    pub fn crash(&mut self, rng: &mut Rng) {
        let mode = rng.below(4);
        for b in std::mem::take(&mut self.buffer) {
            let keep = match mode {
                0 => false,
                1 => true,
                _ => rng.one_in(2),
            };
            if !keep {
                continue;
            }
            let data = if rng.one_in(8) {
                let old = self.media.get(&b.block).cloned().unwrap_or_else(|| Bytes::from_static(ZERO));
                let at = 512 * rng.below(8) as usize;
                Bytes::from([&b.data[..at], &old[at..]].concat())
            } else {
                b.data
            };
            self.set_block(b.block, data);
        }
        self.inflight.clear();
        self.fail_writes = false;
    }

    /// The blocks of writes that are not durable yet, oldest write first.
    pub fn volatile(&self) -> Vec<u64> {
        self.buffer.iter().map(|b| b.block).collect()
    }

    /// Power loss that keeps exactly the chosen ones of [`SimDisk::volatile`], by position.
    pub fn crash_keeping(&mut self, keep: impl Fn(usize) -> bool) {
        for (i, b) in std::mem::take(&mut self.buffer).into_iter().enumerate() {
            if keep(i) {
                self.put(b.block, b.data, b.print);
            }
        }
        self.inflight.clear();
        self.fail_writes = false;
    }

    /// Flips one bit of a block on the media.
    pub fn flip(&mut self, block: u64, bit: usize) {
        let mut data = self.media.get(&block).map_or_else(|| ZERO.to_vec(), |b| b.to_vec());
        data[bit / 8 % BLOCK_SIZE] ^= 1 << (bit % 8);
        self.set_block(block, Bytes::from(data));
    }

    /// Numbers of the blocks on the media that were ever written.
    pub fn written(&self) -> Vec<u64> {
        self.media.keys().copied().collect()
    }

    /// The bytes of a block as a read returns them.
    pub fn block(&self, block: u64) -> Bytes {
        self.block_now(block)
    }

    /// Replaces a block on the media.
    pub fn set_block(&mut self, block: u64, data: Bytes) {
        let print = print(block, &data);
        self.put(block, data, print);
    }

    fn put(&mut self, block: u64, data: Bytes, print: u64) {
        self.media.insert(block, data);
        self.unreadable.remove(&block);
        let before = self.prints.insert(block, print).unwrap_or(0);
        self.fingerprint = self.fingerprint.wrapping_sub(before).wrapping_add(print);
    }

    /// The value that [`SimDisk::fingerprint`] would have after [`SimDisk::crash_keeping`], without
    /// the crash.
    pub fn fingerprint_keeping(&self, keep: impl Fn(usize) -> bool) -> u64 {
        let mut last = BTreeMap::new();
        let kept = self.buffer.iter().enumerate().filter(|(i, _)| keep(*i));
        last.extend(kept.map(|(_, b)| (b.block, b.print)));
        last.into_iter().fold(self.fingerprint, |sum, (block, print)| {
            sum.wrapping_sub(self.prints.get(&block).copied().unwrap_or(0)).wrapping_add(print)
        })
    }

    /// A number that is equal for media with equal contents, and differs for others.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl RawDisk for SimDisk {
    fn size(&self) -> u64 {
        self.size
    }
    fn read(&mut self, off: u64, len: usize) -> Result<Bytes, DiskError> {
        self.read_now(off, len)
    }
    fn write(&mut self, off: u64, data: &[u8]) -> Result<(), DiskError> {
        for (i, b) in data.chunks_exact(BLOCK_SIZE).enumerate() {
            let block = off / 4096 + i as u64;
            if b == ZERO && !self.media.contains_key(&block) {
                continue; // It reads as zero already.
            }
            self.set_block(block, Bytes::copy_from_slice(b));
        }
        Ok(())
    }
    fn sync(&mut self) -> Result<(), DiskError> {
        self.harden(|_| true);
        Ok(())
    }
}

//! A user of a volume whose every operation is written down and judged by the history checker:
//! unique tags in every sector, reads, writes and trims over a few hot blocks in several chunks,
//! some requests of two blocks, also across the border of two chunks.

use crate::check::register::History;
use crate::nbd::Nbd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Blocks that are used: groups of neighbours.
pub const BLOCKS: u64 = 32;
/// Neighbours in a group.
const GROUP: u64 = 4;
/// From one group to the next, bytes: every second one lies across the border of two chunks.
const APART: u64 = 512 << 10;

/// The observations of all users of one volume, and the judge of them.
pub struct Witness {
    history: Mutex<History>,
    origin: Instant,
    tag: AtomicU64,
    begun: AtomicU64,
    done: AtomicU64,
    /// Where in the volume the first group is.
    base: u64,
}

impl Default for Witness {
    fn default() -> Self {
        Witness::around(2 << 20)
    }
}

/// How one user's work ended.
#[derive(Debug, Default)]
pub struct Worked {
    /// The longest that one operation took.
    pub longest: Duration,
    /// Operations that succeeded.
    pub done: u64,
    /// What ended it early, if anything did: an error, or the connection's end.
    pub failed: Option<String>,
}

/// Tells the users to stop when it is dropped: also when the test fails between them, which would
/// otherwise wait for them for ever.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How many of them met a failure.
pub fn failures(users: &[Worked]) -> usize {
    users.iter().filter(|u| u.failed.is_some()).count()
}

/// For users whose attachment was never taken away: none of their operations may have failed.
pub fn nothing_failed(users: &[Worked], context: &str) {
    let all: Vec<&str> = users.iter().filter_map(|u| u.failed.as_deref()).collect();
    assert!(all.is_empty(), "{context}: a user saw a failure: {all:?}");
}

fn tagged(tag: u64) -> Vec<u8> {
    tag.to_le_bytes().repeat(512)
}

fn tag_of(b: &[u8]) -> u64 {
    assert!(b.chunks(8).all(|c| c == &b[..8]), "a torn block was read");
    u64::from_le_bytes(b[..8].try_into().unwrap())
}

impl Witness {
    /// A witness of blocks on both sides of `place` in the volume, from 1 MiB before it to 3 MiB
    /// after it.
    pub fn around(place: u64) -> Witness {
        let base = place - 2 * APART - GROUP / 2 * 4096;
        let zero = || AtomicU64::new(0);
        let (tag, begun, done) = (zero(), zero(), zero());
        Witness { history: Mutex::default(), origin: Instant::now(), tag, begun, done, base }
    }

    /// Where a block is, bytes.
    fn place(&self, block: u64) -> u64 {
        self.base + block / GROUP * APART + block % GROUP * 4096
    }

    fn now(&self) -> u64 {
        self.origin.elapsed().as_micros() as u64
    }

    /// Operations that were answered so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Writes that were acknowledged, and blocks that were read.
    pub fn counts(&self) -> (u64, u64) {
        let h = self.history.lock().unwrap();
        (h.writes, h.reads)
    }

    /// Fails unless one register per block could have shown all observations.
    pub fn judge(&self, context: &str) {
        self.history.lock().unwrap().check().unwrap_or_else(|e| panic!("{context}: {e}"));
    }

    fn write(&self, nbd: &mut Nbd, block: u64, blocks: u64, trim: bool) -> std::io::Result<()> {
        let tag = 1 + self.tag.fetch_add(1, Ordering::Relaxed);
        let value = if trim { 0 } else { tag };
        self.history.lock().unwrap().write_began(tag, self.now(), (block..block + blocks).map(|b| (b, value)));
        let (at, len) = (self.place(block), blocks * 4096);
        if trim { nbd.trim(at, len as u32) } else { nbd.write(at, &tagged(tag).repeat(blocks as usize)) }?;
        let end = self.now();
        self.history.lock().unwrap().write_ended(tag, end);
        Ok(())
    }

    /// Reads some blocks of one group in one request.
    pub fn read(&self, nbd: &mut Nbd, block: u64, blocks: u64) -> std::io::Result<()> {
        let start = self.now();
        let bytes = nbd.read(self.place(block), (blocks * 4096) as u32)?;
        let end = self.now();
        for (b, bytes) in (block..).zip(bytes.chunks(4096)) {
            let tag = tag_of(bytes);
            self.history.lock().unwrap().read(b, tag, start, end);
        }
        Ok(())
    }

    /// Reads every block.
    pub fn read_all(&self, nbd: &mut Nbd) -> std::io::Result<()> {
        (0..BLOCKS).try_for_each(|b| self.read(nbd, b, 1))
    }

    /// Works until told to stop or the first failure.
    pub fn work(&self, nbd: &mut Nbd, stop: &AtomicBool) -> Worked {
        let mut w = Worked::default();
        while !stop.load(Ordering::Relaxed) {
            let i = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
            let block = (i * 7) % BLOCKS;
            let blocks = if i.is_multiple_of(5) { 2.min(GROUP - block % GROUP) } else { 1 };
            let (read, trim) = (i.is_multiple_of(3), i.is_multiple_of(11));
            let began = Instant::now();
            let went = if read { self.read(nbd, block, blocks) } else { self.write(nbd, block, blocks, trim) };
            if let Err(e) = went {
                let what = if read { "read" } else { "write" };
                w.failed = Some(format!("a {what} of {blocks} block(s) at {block}, after {:?}: {e}", began.elapsed()));
                return w;
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            w.done += 1;
            w.longest = w.longest.max(began.elapsed());
        }
        w
    }
}

/// Percentile of durations, in milliseconds.
pub fn percentile(of: &mut [Duration], p: f64) -> u128 {
    of.sort();
    let at = ((of.len() as f64 * p).ceil() as usize).clamp(1, of.len().max(1)) - 1;
    of.get(at).map_or(0, Duration::as_millis)
}

/// Says whether a measured wait keeps the limit that a quiet machine has to keep. A loaded one may
/// miss it, and fails nothing; ten times the limit, and 10 s at least, is no load: something waits
/// for what does not come.
pub fn limit(what: &str, worst_ms: u128, limit_ms: u128) {
    let kept = if worst_ms < limit_ms { "kept" } else { "NOT KEPT on this machine, now" };
    println!("limit of {what}: {worst_ms} ms of {limit_ms} ms: {kept}");
    assert!(worst_ms < (10 * limit_ms).max(10_000), "{what}: {worst_ms} ms, which is no load");
}

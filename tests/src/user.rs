//! A user of a volume whose every operation is written down and judged by the history checker: unique tags in every sector, reads,
//! writes and trims over a few hot blocks.

use crate::check::register::History;
use crate::nbd::Nbd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Blocks that are used.
pub const BLOCKS: u64 = 32;

/// What all users of one volume saw.
pub struct Witness {
    history: Mutex<History>,
    origin: Instant,
    tag: AtomicU64,
    done: AtomicU64,
}

impl Default for Witness {
    fn default() -> Self {
        Witness { history: Mutex::default(), origin: Instant::now(), tag: AtomicU64::new(0), done: AtomicU64::new(0) }
    }
}

/// How a user's work ended.
#[derive(Debug, Default)]
pub struct Worked {
    /// The longest that one operation took.
    pub longest: Duration,
    /// Operations.
    pub done: u64,
}

fn tagged(tag: u64) -> Vec<u8> {
    tag.to_le_bytes().repeat(512)
}

fn tag_of(b: &[u8]) -> u64 {
    assert!(b.chunks(8).all(|c| c == &b[..8]), "a torn block was read");
    u64::from_le_bytes(b[..8].try_into().unwrap())
}

impl Witness {
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

    /// Is all that was seen what one register per block could have shown?
    pub fn judge(&self, context: &str) {
        self.history.lock().unwrap().check().unwrap_or_else(|e| panic!("{context}: {e}"));
    }

    fn write(&self, nbd: &mut Nbd, block: u64, trim: bool) -> std::io::Result<()> {
        let tag = 1 + self.tag.fetch_add(1, Ordering::Relaxed);
        let value = if trim { 0 } else { tag };
        self.history.lock().unwrap().write_began(tag, self.now(), [(block, value)].into_iter());
        if trim { nbd.trim(block * 4096, 4096) } else { nbd.write(block * 4096, &tagged(tag)) }?;
        let end = self.now();
        self.history.lock().unwrap().write_ended(tag, end);
        Ok(())
    }

    /// Reads one block.
    pub fn read(&self, nbd: &mut Nbd, block: u64) -> std::io::Result<()> {
        let start = self.now();
        let b = nbd.read(block * 4096, 4096)?;
        let (tag, end) = (tag_of(&b), self.now());
        self.history.lock().unwrap().read(block, tag, start, end);
        Ok(())
    }

    /// Reads every block.
    pub fn read_all(&self, nbd: &mut Nbd) -> std::io::Result<()> {
        (0..BLOCKS).try_for_each(|b| self.read(nbd, b))
    }

    /// Works until told to stop or the connection ends.
    pub fn work(&self, nbd: &mut Nbd, stop: &AtomicBool) -> Worked {
        let mut w = Worked::default();
        while !stop.load(Ordering::Relaxed) {
            let i = self.done.fetch_add(1, Ordering::Relaxed) + 1;
            let block = (i * 7) % BLOCKS;
            let began = Instant::now();
            let went = match i {
                i if i.is_multiple_of(3) => self.read(nbd, block),
                i => self.write(nbd, block, i.is_multiple_of(11)),
            };
            if went.is_err() {
                return w;
            }
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

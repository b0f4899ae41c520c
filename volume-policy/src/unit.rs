//! Blocks, chunks, ranges, sizes, time. Owns all rounding; conversions are checked.

use core::fmt;
use serde::{Deserialize, Serialize};

/// The unit of atomicity, checksum and version, in bytes.
pub const BLOCK_SIZE: usize = 4096;
/// [`BLOCK_SIZE`] in the type of offsets.
pub const BLOCK_BYTES: u64 = 4096;
/// Blocks of a chunk.
pub const CHUNK_BLOCKS: u64 = 256;
/// Bytes of a chunk, the unit of change tracking.
pub const CHUNK_BYTES: u64 = BLOCK_BYTES * CHUNK_BLOCKS;
/// Bytes of a shard: the unit of placement. A volume has `ceil(size / SHARD_BYTES)` of them.
pub const SHARD_BYTES: u64 = 64 << 30;
/// The largest volume: 1 PiB.
pub const MAX_VOLUME_BYTES: u64 = 1 << 50;

/// A point on the node's monotonic clock, in microseconds. Its zero is arbitrary.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Tick(pub u64);

impl Tick {
    /// This point plus a duration in microseconds.
    pub fn plus(self, us: u64) -> Tick {
        Tick(self.0.saturating_add(us))
    }
    /// Microseconds since an earlier point; 0 if it is later.
    pub fn since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Microseconds of a millisecond.
pub const MS: u64 = 1_000;

/// The index of a block inside a shard (or, where said so, a volume).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockIx(pub u64);

impl BlockIx {
    /// The chunk that holds it.
    pub fn chunk(self) -> ChunkIx {
        ChunkIx((self.0 / CHUNK_BLOCKS) as u32)
    }
    /// Its place inside the chunk, 0..256.
    pub fn in_chunk(self) -> usize {
        (self.0 % CHUNK_BLOCKS) as usize
    }
}

/// The index of a chunk inside a shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChunkIx(pub u32);

impl ChunkIx {
    /// The chunk's first block.
    pub fn first_block(self) -> BlockIx {
        BlockIx(u64::from(self.0) * CHUNK_BLOCKS)
    }
    /// The chunk's blocks.
    pub fn blocks(self) -> BlockRange {
        BlockRange { start: self.first_block(), len: CHUNK_BLOCKS as u32 }
    }
}

/// A run of blocks. May be empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct BlockRange {
    /// The first block of the range.
    pub start: BlockIx,
    /// The number of blocks.
    pub len: u32,
}

impl fmt::Debug for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}+{}]", self.start.0, self.len)
    }
}

impl BlockRange {
    /// Builds a range from bare numbers.
    pub fn new(start: u64, len: u32) -> BlockRange {
        BlockRange { start: BlockIx(start), len }
    }

    /// The smallest range of whole blocks that covers `[offset, offset + len)` bytes.
    /// `None` if it does not fit the types (the caller refuses the request).
    pub fn covering(offset: u64, len: u64) -> Option<BlockRange> {
        let end = offset.checked_add(len)?;
        let first = offset / BLOCK_BYTES;
        let last = end.div_ceil(BLOCK_BYTES);
        Some(BlockRange { start: BlockIx(first), len: u32::try_from(last - first).ok()? })
    }

    /// One past the last block.
    pub fn end(self) -> BlockIx {
        BlockIx(self.start.0.saturating_add(u64::from(self.len)))
    }
    /// Is no block in the range?
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
    /// Its size in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.len) * BLOCK_BYTES
    }
    /// Its first byte's offset.
    pub fn offset(self) -> u64 {
        self.start.0.saturating_mul(BLOCK_BYTES)
    }
    /// Do the two share a block?
    pub fn overlaps(self, other: BlockRange) -> bool {
        self.start < other.end() && other.start < self.end() && !self.is_empty() && !other.is_empty()
    }
    /// Is every block of `other` in here?
    pub fn contains(self, other: BlockRange) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }
    /// The blocks that are in both ranges.
    pub fn intersect(self, other: BlockRange) -> BlockRange {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        BlockRange { start, len: end.0.saturating_sub(start.0) as u32 }
    }
    /// Its blocks, in order.
    pub fn iter(self) -> impl Iterator<Item = BlockIx> {
        (self.start.0..self.end().0).map(BlockIx)
    }
    /// Its parts, one per chunk it touches, in order.
    pub fn by_chunk(self) -> impl Iterator<Item = (ChunkIx, BlockRange)> {
        let mut rest = self;
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let chunk = rest.start.chunk();
            let part = rest.intersect(chunk.blocks());
            rest = BlockRange { start: part.end(), len: rest.len - part.len };
            Some((chunk, part))
        })
    }
}

/// Parses a size: a number with an optional unit. `K M G T` and `KiB MiB GiB TiB` are powers of 1024,
/// `kB MB GB TB` powers of 1000.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let t = text.trim();
    let split = t.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(t.len());
    let (num, unit) = t.split_at(split);
    let mult: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "m" | "MiB" => 1 << 20,
        "G" | "g" | "GiB" => 1 << 30,
        "T" | "t" | "TiB" => 1 << 40,
        "P" | "PiB" => 1 << 50,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        other => {
            return Err(format!("\"{text}\": unknown unit \"{other}\"; use B, KiB, MiB, GiB, TiB or kB, MB, GB, TB"));
        }
    };
    let exact =
        decimal(num, mult).ok_or_else(|| format!("\"{text}\" is not a size; write it as 10GiB, 500M or 4096"))?;
    u64::try_from(exact).map_err(|_| format!("\"{text}\" is too large"))
}

/// A decimal number times its unit, exactly, rounded down to a whole; `None` if it is none. (Not by way of
/// floating point: 1.001 s would become 1000999 µs.)
fn decimal(num: &str, mult: u64) -> Option<u128> {
    let (whole, part) = num.split_once('.').unwrap_or((num, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && part.is_empty()) || !digits(whole) || !digits(part) {
        return None;
    }
    // What lies beyond 18 digits behind the point is less than any unit's last.
    let part = &part[..part.len().min(18)];
    let number = |t: &str| if t.is_empty() { 0 } else { t.parse::<u128>().unwrap_or(u128::MAX) };
    let fraction = number(part) * u128::from(mult) / 10u128.pow(part.len() as u32);
    Some(number(whole).saturating_mul(mult.into()).saturating_add(fraction))
}

/// Writes a size with the largest unit that is exact, else with two decimals.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 5] =
        [("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (name, unit) in UNITS {
        if bytes >= unit {
            return if bytes.is_multiple_of(unit) {
                format!("{}{name}", bytes / unit)
            } else {
                format!("{:.2}{name}", bytes as f64 / unit as f64)
            };
        }
    }
    format!("{bytes}B")
}

/// Parses a duration into microseconds: `200ms`, `1s`, `1.5s`, `10m`, `2h`, `7d`; a bare number is seconds.
pub fn parse_duration_us(text: &str) -> Result<u64, String> {
    let t = text.trim();
    let split = t.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(t.len());
    let (num, unit) = t.split_at(split);
    let mult = match unit.trim() {
        "us" => 1,
        "ms" => 1_000,
        "" | "s" => 1_000_000,
        "m" | "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        other => return Err(format!("\"{text}\": unknown unit \"{other}\"; use ms, s, m, h or d")),
    };
    let exact = decimal(num, mult);
    let us = exact.ok_or_else(|| format!("\"{text}\" is not a duration; write it as 200ms, 1s, 10m or 7d"))?;
    let fits = u64::try_from(us).ok().filter(|us| *us < 9_000_000_000_000_000_000);
    fits.ok_or_else(|| format!("\"{text}\" is too long"))
}

/// Writes a duration exactly, with the largest unit that divides it.
pub fn format_duration_us(us: u64) -> String {
    const UNITS: [(&str, u64); 5] =
        [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)];
    for (name, unit) in UNITS {
        if us >= unit && us.is_multiple_of(unit) {
            return format!("{}{name}", us / unit);
        }
    }
    format!("{us}us")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The oracle: a range is the set of its blocks.
    fn set(r: BlockRange) -> std::collections::BTreeSet<u64> {
        r.iter().map(|b| b.0).collect()
    }

    #[test]
    fn range_algebra_agrees_with_sets() {
        for a in 0..8u64 {
            for al in 0..6u32 {
                for b in 0..8u64 {
                    for bl in 0..6u32 {
                        let (x, y) = (BlockRange::new(a + 250, al), BlockRange::new(b + 250, bl));
                        let (sx, sy) = (set(x), set(y));
                        let both: std::collections::BTreeSet<u64> = sx.intersection(&sy).copied().collect();
                        assert_eq!(set(x.intersect(y)), both);
                        assert_eq!(x.overlaps(y), !both.is_empty());
                        if !y.is_empty() {
                            assert_eq!(x.contains(y), sy.is_subset(&sx));
                        }
                        let parts: Vec<_> = x.by_chunk().collect();
                        let joined: std::collections::BTreeSet<u64> = parts
                            .iter()
                            .flat_map(|(c, p)| {
                                assert!(c.blocks().contains(*p));
                                set(*p)
                            })
                            .collect();
                        assert_eq!(joined, sx);
                    }
                }
            }
        }
    }

    #[test]
    fn covering_rounds_outwards() {
        assert_eq!(BlockRange::covering(0, 0), Some(BlockRange::new(0, 0)));
        assert_eq!(BlockRange::covering(1, 1), Some(BlockRange::new(0, 1)));
        assert_eq!(BlockRange::covering(4095, 2), Some(BlockRange::new(0, 2)));
        assert_eq!(BlockRange::covering(4096, 4096), Some(BlockRange::new(1, 1)));
        assert_eq!(BlockRange::covering(u64::MAX, 2), None);
        assert_eq!(BlockRange::covering(0, u64::MAX), None);
    }

    #[test]
    fn sizes_and_durations_parse_and_print() {
        for (t, v) in
            [("4096", 4096), ("10GiB", 10 << 30), ("500M", 500 << 20), ("1.5G", 3 << 29), ("1TB", 1_000_000_000_000)]
        {
            assert_eq!(parse_size(t), Ok(v), "{t}");
        }
        for t in ["", "x", "-1", "1QB", "99999999P", "1.2.3G"] {
            assert!(parse_size(t).is_err(), "{t}");
        }
        assert_eq!(format_size(10 << 30), "10GiB");
        assert_eq!(format_size(4096), "4KiB");
        assert_eq!(parse_duration_us("200ms"), Ok(200_000));
        assert_eq!(parse_duration_us("1"), Ok(1_000_000));
        assert_eq!(format_duration_us(600_000_000), "10m");
        assert!(parse_duration_us("1 fortnight").is_err());
        // Exact, in both directions: by way of floating point the first was 8007999999999 (refused as no
        // multiple of 4 KiB), the second 1000999, and the third was printed as 1.000s.
        assert_eq!(parse_size("8.008TB"), Ok(8_008_000_000_000));
        assert_eq!(parse_duration_us("1.001s"), Ok(1_001_000));
        assert_eq!(parse_duration_us(&format_duration_us(1_000_002)), Ok(1_000_002));
    }
}

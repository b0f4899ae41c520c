//! Space on a disk, as stores and coordinators count it: what the store allocates, and how it is encoded on the
//! wire.

use crate::{BlockRange, CHUNK_BLOCKS};

/// Bytes of an allocation unit of the store; data takes whole units.
pub const UNIT_BYTES: u64 = 64 << 10;

/// From this number of chunk entries on the wire carries no number, only "plenty".
const PLENTY: u64 = UNIT_BYTES - 1;

/// An amount of what a store allocates. Data needs both: units for its bytes, and an entry for each
/// chunk that has none yet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Space {
    /// Bytes, in whole units.
    pub bytes: u64,
    /// Entries for chunks.
    pub chunks: u64,
}

impl Space {
    /// No space at all.
    pub const NONE: Space = Space { bytes: 0, chunks: 0 };
    /// More than any disk has.
    pub const ENDLESS: Space = Space { bytes: u64::MAX, chunks: u64::MAX };

    /// The most that new data in these blocks can take.
    pub fn at_most(range: BlockRange) -> Space {
        if range.is_empty() {
            return Space::NONE;
        }
        let bytes =
            (range.offset() + range.bytes()).next_multiple_of(UNIT_BYTES) - range.offset() / UNIT_BYTES * UNIT_BYTES;
        Space { bytes, chunks: range.end().0.div_ceil(CHUNK_BLOCKS) - range.start.0 / CHUNK_BLOCKS }
    }

    /// Is there room for `need` in it?
    pub fn covers(self, need: Space) -> bool {
        self.bytes >= need.bytes && self.chunks >= need.chunks
    }
    /// The sum of two amounts.
    pub fn plus(self, more: Space) -> Space {
        Space { bytes: self.bytes.saturating_add(more.bytes), chunks: self.chunks.saturating_add(more.chunks) }
    }
    /// What is left of it.
    pub fn minus(self, less: Space) -> Space {
        Space { bytes: self.bytes.saturating_sub(less.bytes), chunks: self.chunks.saturating_sub(less.chunks) }
    }
    /// The larger of both amounts, bytes and entries each by themselves.
    pub fn max(self, other: Space) -> Space {
        Space { bytes: self.bytes.max(other.bytes), chunks: self.chunks.max(other.chunks) }
    }

    /// How the wire says what a disk can still allocate: bytes in whole units, and in the 16 bits
    /// below a unit how many chunk entries are lacking to 65,535. Who knows only bytes reads that
    /// as less than a unit more, and says "plenty".
    pub fn to_credit(self) -> u64 {
        if self == Space::ENDLESS {
            return u64::MAX;
        }
        (self.bytes / UNIT_BYTES * UNIT_BYTES) | (PLENTY - self.chunks.min(PLENTY))
    }
    /// What a credit on the wire says.
    pub fn of_credit(credit: u64) -> Space {
        if credit == u64::MAX {
            return Space::ENDLESS;
        }
        let lacking = credit % UNIT_BYTES;
        let chunks = if lacking == 0 { u64::MAX } else { PLENTY - lacking };
        Space { bytes: credit - lacking, chunks }
    }

    /// How the wire says what a write would take: bytes in whole units, chunk entries in the 16
    /// bits below a unit.
    pub fn to_needs(self) -> u64 {
        if self.chunks > PLENTY || self.bytes > u64::MAX - UNIT_BYTES {
            return u64::MAX;
        }
        (self.bytes / UNIT_BYTES * UNIT_BYTES) | self.chunks
    }
    /// What the needs on the wire say; all ones are more than there is.
    pub fn of_needs(needs: u64) -> Space {
        if needs == u64::MAX {
            return Space::ENDLESS;
        }
        Space { bytes: needs / UNIT_BYTES * UNIT_BYTES, chunks: needs % UNIT_BYTES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_takes_whole_units_and_an_entry_for_each_chunk() {
        let at_most = |start, len| Space::at_most(BlockRange::new(start, len));
        assert_eq!(at_most(0, 1), Space { bytes: UNIT_BYTES, chunks: 1 });
        assert_eq!(at_most(15, 2), Space { bytes: 2 * UNIT_BYTES, chunks: 1 });
        assert_eq!(at_most(255, 2), Space { bytes: 2 * UNIT_BYTES, chunks: 2 });
        assert_eq!(at_most(100, 8192), Space { bytes: (32 << 20) + UNIT_BYTES, chunks: 33 });
        assert_eq!(at_most(7, 0), Space::NONE);
    }

    #[test]
    fn the_wire_says_both_amounts() {
        for bytes in [0, UNIT_BYTES, 1 << 40, 15 << 50] {
            for chunks in [0, 1, 5, 65_534] {
                let s = Space { bytes, chunks };
                assert_eq!(Space::of_credit(s.to_credit()), s);
                assert_eq!(Space::of_needs(s.to_needs()), s);
                // Who knows only bytes compares the numbers as they are.
                let one = Space { bytes, chunks: 1 };
                assert!(one.to_needs() <= s.to_credit(), "{s:?}");
            }
            let plenty = Space { bytes, chunks: 1 << 20 };
            assert_eq!(plenty.to_credit(), bytes, "as it was told before chunks were counted");
            assert_eq!(Space::of_credit(bytes), Space { bytes, chunks: u64::MAX });
        }
        assert_eq!(Space::of_needs(u64::MAX), Space::ENDLESS);
        assert_eq!(Space::of_credit(u64::MAX), Space::ENDLESS);
        assert!(!Space::of_credit(1 << 40).covers(Space::of_needs(u64::MAX)), "more than there is");
    }

    #[test]
    fn room_needs_both() {
        let room = Space { bytes: 10 * UNIT_BYTES, chunks: 2 };
        assert!(room.covers(Space { bytes: 10 * UNIT_BYTES, chunks: 2 }) && room.covers(Space::NONE));
        assert!(
            !room.covers(Space { bytes: UNIT_BYTES, chunks: 3 })
                && !room.covers(Space { bytes: 11 * UNIT_BYTES, chunks: 0 })
        );
        assert_eq!(room.minus(Space { bytes: u64::MAX, chunks: 1 }), Space { bytes: 0, chunks: 1 });
    }
}

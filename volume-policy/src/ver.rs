//! Terms, sequence numbers, versions, epochs: the only order by which histories are compared.
//!
//! A version is `(term, seq)`, lexicographic; never compare a `seq` alone (hazards: Vitastor a7929931,
//! neon edd60730c8).

use core::fmt;
use serde::{Deserialize, Serialize};

/// Raised by every attach; the fencing token replicas check on every message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u32);

impl Term {
    /// The next term.
    pub fn next(self) -> Term {
        Term(self.0.saturating_add(1))
    }
}

/// A write's number inside its term; starts at 1. 48 bits are stored (see `docs/disk-format.md`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The largest number a chunk page can hold. At a million writes a second: nine years in one term.
    pub const MAX: Seq = Seq((1 << 48) - 1);

    /// The next number.
    pub fn next(self) -> Seq {
        Seq(self.0.saturating_add(1))
    }
}

/// Raised by every change of a volume's record: the compare-and-set token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The next epoch.
    pub fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

/// The version of a block's last write. `Ver::ZERO` means never written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ver {
    /// The term of the write; it is compared first.
    pub term: Term,
    /// The number of the write in its term; it is compared second.
    pub seq: Seq,
}

impl Ver {
    /// The version of a block that was never written.
    pub const ZERO: Ver = Ver { term: Term(0), seq: Seq(0) };

    /// Builds a version from bare numbers.
    pub fn new(term: u32, seq: u64) -> Ver {
        Ver { term: Term(term), seq: Seq(seq) }
    }
}

impl fmt::Debug for Ver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term.0, self.seq.0)
    }
}
impl fmt::Display for Ver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term.0, self.seq.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_term_beats_any_sequence_number() {
        assert!(Ver::new(2, 1) > Ver::new(1, u64::MAX));
        assert!(Ver::new(1, 2) > Ver::new(1, 1));
        assert!(Ver::ZERO < Ver::new(0, 1));
    }
}

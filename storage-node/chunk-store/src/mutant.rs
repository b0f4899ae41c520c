//! Rules of the store broken on purpose, one at a time, to see whether a test notices
//! (docs/hazards.md).
//!
//! Only the cargo feature `mutants` makes it possible to break one, per thread. Without the feature
//! every question is a constant `false`, and the daemon has no trace of this.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A rule that can be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant { $($(#[$doc])* $name),* }
        /// Every rule that can be broken.
        pub const ALL: &[Mutant] = &[$(Mutant::$name),*];
    };
}

mutants! {
    /// A journal header with any salt counts as one of this disk.
    AnySaltWillDo,
    /// Payload that begins like a journal header is journaled without a mask.
    PayloadUnmasked,
    /// A deleted replica's entry is used again while the journal still names the replica.
    EntryReusedEarly,
    /// A deleted replica's chunk slots are used again while a crash would bring the chunks back.
    SlotReusedEarly,
    /// The units of a chunk whose page is lost are not looked for.
    LostUnitsForgotten,
    /// The units of a page that cannot be read at the moment are freed.
    UnreadableUnitsGiven,
    /// Bytes that a killed process left in a cache count as durable when the disk is opened.
    OpeningTrustsCaches,
    /// A superblock names the units of the replica table before their pages are written.
    TableNamedEarly,
    /// A newer operation does not wait for a direct write whose blocks it overlaps.
    DirectOvertaken,
    /// A zero of several chunks is in flight in the first of them only.
    ZeroOfFirstChunk,
    /// A block is bad if two reads of it failed, though its place was rewritten during both.
    RewrittenIsBad,
    /// A free chunk slot counts as room for 64 KiB.
    SlotsAreUnits,
    /// Units that zeroes of parts of chunks will free do not count as room before a checkpoint.
    PartsAreNoRoom,
    /// An operation that must look at stored blocks is refused although space is being freed.
    SlowNeverWaits,
    /// A destage frees units that writes in flight rely on.
    FreesHeldUnits,
    /// A promise of space that was spent stays in the sum of all promises. (All data is right until
    /// the sum says that the disk is full, so only the store's own checks can notice.)
    SpentPromiseCounts,
}

#[cfg(feature = "mutants")]
mod chosen {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// True if this rule is broken in this thread.
    pub fn is(m: Mutant) -> bool {
        CHOSEN.get() == Some(m)
    }

    /// Breaks a rule in this thread, or none.
    pub fn set(m: Option<Mutant>) {
        CHOSEN.set(m);
    }
}

#[cfg(feature = "mutants")]
pub use chosen::{is, set};

/// True if this rule is broken in this thread.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_: Mutant) -> bool {
    false
}

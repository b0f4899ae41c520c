//! Rules of the store broken on purpose, one at a time, to see whether a test notices (docs/hazards.md).
//!
//! Only with the cargo feature `mutants` can one be switched on, per thread; without it every question is a constant `false`
//! and no trace of this is in the daemon.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A broken rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant { $($(#[$doc])* $name),* }
        /// All of them.
        pub const ALL: &[Mutant] = &[$(Mutant::$name),*];
    };
}

mutants! {
    /// A journal header with any salt is taken for one of this disk.
    AnySaltWillDo,
    /// Payload that begins like a journal header is journaled as it is.
    PayloadUnmasked,
    /// A deleted replica's entry is used again while the journal still names the replica.
    EntryReusedEarly,
    /// A deleted replica's chunk slots are used again while a crash would bring the chunks back.
    SlotReusedEarly,
    /// The units of a chunk whose page is lost are not looked for.
    LostUnitsForgotten,
    /// The units of every page that cannot be read just now are given away.
    UnreadableUnitsGiven,
    /// What a killed process left in a cache counts when the disk is opened.
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
    /// What zeroes of parts of chunks make free is no room before a checkpoint.
    PartsAreNoRoom,
    /// An operation that must look at what is there is refused though space is on its way back.
    SlowNeverWaits,
    /// A destage gives units back under writes in flight that rely on them.
    FreesHeldUnits,
    /// A promise of space that was spent stays in the sum of all promises. (Data is as it should be, until the sum says that
    /// the disk is full: only the store's own checks can notice.)
    SpentPromiseCounts,
}

#[cfg(feature = "mutants")]
mod chosen {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Is this rule broken now?
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

/// Is this rule broken now?
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_: Mutant) -> bool {
    false
}

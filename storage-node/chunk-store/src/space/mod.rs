//! Space: which units and slots are free, how many of them are promised, and how many are being
//! freed.
//!
//! [`units`] has the state of each unit, [`leaving`] what waits for a checkpoint, [`credit`]
//! decides what may still be promised, and [`reckon`] looks for units without an owner.

pub(crate) mod credit;
pub(crate) mod leaving;
pub(crate) mod reckon;
pub(crate) mod units;

pub(crate) use leaving::Leaving;
pub(crate) use units::Units;

use crate::format::index::SlotEntry;
use hf_policy::invariant;
use std::collections::BTreeSet;

/// The disk's units and chunk slots, and what is promised of them.
pub(crate) struct Space {
    pub units: Units,
    /// Free slots; the last one is taken first.
    pub free_slots: Vec<u32>,
    /// Slots of deleted replicas, which a checkpoint will free.
    pub leaving_slots: Leaving,
    /// Number of slots promised to chunks that have none yet.
    pub promised_slots: u32,
    /// Number of units promised to the overlay and to operations in flight.
    pub promised_units: u32,
    /// Number of units that pages still have and the next destage of their chunk will free: their
    /// blocks were zeroed, or are in fresh units.
    pub returning: u32,
}

impl Space {
    /// The space as of the last checkpoint; nothing is promised.
    pub(crate) fn loaded(units: Units, slots: &[Option<SlotEntry>]) -> Space {
        Space {
            units,
            free_slots: (0..slots.len() as u32).rev().filter(|i| slots[*i as usize].is_none()).collect(),
            leaving_slots: Leaving::default(),
            promised_slots: 0,
            promised_units: 0,
            returning: 0,
        }
    }

    /// Verifies the units, and that no more is promised than is free.
    pub(crate) fn check(&self) {
        self.units.check();
        self.leaving_slots.check();
        let (free, promised) = (self.units.free(), self.promised_units);
        invariant!(promised <= free, "{promised} units are promised and {free} are free");
        let (free, promised) = (self.free_slots.len(), self.promised_slots);
        invariant!(promised as usize <= free, "{promised} slots are promised and {free} are free");
        let distinct: BTreeSet<u32> = self.free_slots.iter().copied().chain(self.leaving_slots.iter()).collect();
        let listed = self.free_slots.len() + self.leaving_slots.iter().len();
        invariant!(distinct.len() == listed, "a slot is free, or on its way to being free, twice");
    }
}

//! Space: which units and slots are free, what of them is promised, and what is on its way back.
//!
//! [`units`] knows each unit, [`leaving`] what waits for a checkpoint, [`credit`] decides what may still be promised, and
//! [`reckon`] looks for units that belong to nothing.

pub(crate) mod credit;
pub(crate) mod leaving;
pub(crate) mod reckon;
pub(crate) mod units;

pub(crate) use leaving::Leaving;
pub(crate) use units::Units;

use crate::format::index::SlotEntry;
use hf_policy::invariant;
use std::collections::BTreeSet;

/// Units and chunk slots: free, promised, on their way back.
pub(crate) struct Space {
    pub units: Units,
    /// Slots that can be taken now; the last one is taken first.
    pub free_slots: Vec<u32>,
    /// Slots of deleted replicas, free after their checkpoint.
    pub leaving_slots: Leaving,
    /// Slots promised to chunks that have none yet.
    pub promised_slots: u32,
    /// Units promised to the overlay and to operations in flight.
    pub promised_units: u32,
    /// Units that pages still have and the next destage gives back: of chunks that were zeroed, or have data in fresh
    /// units.
    pub returning: u32,
}

impl Space {
    /// As of the last checkpoint: nothing is promised.
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

    /// Verifies the units' own state, and that what is promised is there.
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

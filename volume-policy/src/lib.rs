//! The vocabulary of Holdfast and every judgement about a volume.
//!
//! Pure: no I/O, no clock, no threads, no randomness; depends on nothing of ours.
//!
//! | module | decides |
//! | --- | --- |
//! | [`id`] | what things are called: nodes, disks, volumes, replicas |
//! | [`name`] | what volumes and nodes may be called |
//! | [`unit`] | blocks, chunks, ranges, sizes, durations; all rounding |
//! | [`space`] | what data takes on a disk, in units and chunk entries |
//! | [`ver`] | the only order by which histories are compared |
//! | [`crc`] | payload checksums and how an identity is folded into them |
//! | [`fate`] | what an error obliges its receiver to do |
//! | [`mod@broken`] | what happens when an invariant of our own code does not hold |
//! | [`attribute`], [`table`] | the attribute table: the single source of a policy's words |
//! | [`policy`] | the typed view of a volume's attributes |
//! | [`placement`] | which disks may hold a volume's replicas, and why not the others |

pub mod attribute;
pub mod attributes;
pub mod broken;
pub mod crc;
pub mod fate;
pub mod id;
pub mod name;
pub mod placement;
pub mod policy;
pub mod space;
pub mod table;
pub mod unit;
pub mod ver;

pub use attribute::{AttrError, Attribute};
pub use fate::{Fate, HasFate};
pub use id::*;
pub use policy::Policy;
pub use space::{Space, UNIT_BYTES};
pub use table::TABLE;
pub use unit::*;
pub use ver::{Epoch, Seq, Term, Ver};

//! What the leader decides from the record and from which nodes answer, before it proposes a command. Nothing
//! here changes the record. A command may be refused when it is applied, because the record has changed
//! meanwhile; it is then decided anew.
//!
//! | module | decides |
//! | --- | --- |
//! | [`inventory`] | nothing: the disks and nodes as placement sees them |
//! | [`place`] | where new volumes and new shards go |
//! | [`repair`] | which replicas are made, moved and removed |
//! | [`growth`] | what becomes of replicas of new shards that cannot be made |
//! | [`upkeep`] | which scrubs are due, and what a rebalancing moves |
//! | [`step`] | nothing: the types that these share |

mod growth;
pub mod inventory;
pub mod place;
pub mod repair;
pub mod step;
mod upkeep;

pub use inventory::{Liveness, inventory};
pub use place::{create_volume, set_policy};
pub use step::{Standing, Step, standing};

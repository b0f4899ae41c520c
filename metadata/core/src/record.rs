//! What the cluster remembers.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`state`] | everything the cluster agrees on |
//! | [`records`] | the collection that records of one kind are in, with what is looked up in it |
//! | [`node`], [`log`] | nodes, and their metadata logs |
//! | [`disk`] | disks |
//! | [`volume`], [`attrs`] | volumes with their shards and replicas, and their policies |
//! | [`dropped`] | why a replica is not in sync |
//! | [`event`] | what happened, with the table of kinds |
//! | [`mute`] | health checks that an operator does not want to hear of |

pub mod attrs;
pub mod disk;
pub mod dropped;
pub mod event;
pub mod log;
pub mod mute;
pub mod node;
pub mod records;
pub mod state;
pub mod volume;

pub use attrs::Attrs;
pub use disk::*;
pub use dropped::*;
pub use event::*;
pub use log::*;
pub use mute::*;
pub use node::*;
pub use records::{Record, Records};
pub use state::*;
pub use volume::*;

//! What the cluster remembers.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`state`] | everything the cluster agrees on |
//! | [`records`] | the collection that records of one kind are in, with what is looked up in it |
//! | [`node`], [`log`] | nodes, and their metadata logs |
//! | [`disk`] | disks |
//! | [`volume`], [`attrs`] | volumes with their shards and replicas, and their policies |

pub mod attrs;
pub mod disk;
pub mod log;
pub mod node;
pub mod records;
pub mod state;
pub mod volume;

pub use attrs::Attrs;
pub use disk::*;
pub use log::*;
pub use node::*;
pub use records::{Record, Records};
pub use state::*;
pub use volume::*;

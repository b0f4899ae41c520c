//! The simulator: real `ClusterState`, `Coordinator` and `Replica` in one thread, one clock, one seed.
//!
//! Around them: a network that loses, duplicates, reorders and partitions; stores that crash (losing what was not
//! durable); a Raft stand-in that delays, loses answers and refuses; nodes that crash and restart; clients that read
//! and write unique tags; steals by other nodes. Every run ends with a heal phase: faults stop, I/O must resume, every block
//! is read, and the history is judged.

mod clients;
mod faults;
mod model;
mod real;
mod run;
mod store;
mod world;

pub use run::{FAULTS, Outcome, Stores, run_without};
pub use world::Sim;

//! The simulator: real `ClusterState`, `Coordinator` and `Replica` in one thread, one clock, one seed.
//!
//! Around them: a network that loses, duplicates, reorders and partitions; stores that crash
//! (losing what was not durable); a Raft stand-in that delays, loses answers and refuses (or, in
//! the second configuration, real raft-rs members on the same nodes, `group.rs`); nodes that crash
//! and restart; clients that read and write unique tags; steals by other nodes. Some seeds
//! (`swarm.rs`) also change the replica set and the policy, have clocks that run at different
//! rates, users who ask for parts of blocks, and detaches. After every input the machines check
//! their own invariants (`Coordinator::check`, `Replica::check`). Every run ends with a heal phase:
//! faults stop, I/O must resume, every replica must be where the policy wants it, every block is
//! read, and the history is judged.
//!
//! There is one shard: shards of a volume share only the term, the session and the record's epoch,
//! and each has a coordinator of its own. Growth under faults, and one record that several shards
//! change, have a smaller world of their own (`growth/`).

mod changes;
mod clients;
mod detach;
mod faults;
mod group;
pub mod growth;
mod heal;
mod lineages;
mod model;
mod net;
mod real;
mod run;
mod scenes;
mod steps;
mod store;
mod swarm;
mod world;

pub use run::{FAULTS, LATER, Metadata, Outcome, Stores, run_on, run_without};
pub use world::Sim;

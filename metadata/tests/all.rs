//! The tests of the metadata group, in one binary: the simulator of real members, and a group on
//! real directories.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod group;
mod heard;
mod raft_sim;

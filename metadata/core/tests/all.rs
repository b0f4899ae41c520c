//! The tests of the cluster's record, in one binary: a module for each file, and the small cluster
//! that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod commands;
mod cow;
mod formats;
mod growth;
mod honest;
mod limits;
mod places;
mod repair;
mod rules;
mod upkeep;
mod world;

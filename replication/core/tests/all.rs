//! The tests of the replication protocol's two machines, in one binary: a module for each file, and
//! the worlds that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod damage;
mod flow;
mod link;
mod links;
mod pairs;
mod properties;
mod reasons;
mod regressions;
mod script;
mod silence;
mod slow_links;
mod stopping;
mod transcripts;
mod wire;

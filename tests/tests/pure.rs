//! The tests that need no daemon, in one binary: the simulators, the fuzzers' corpora, a payload's
//! way. Those of the feature `mutants` break each rule of the protocol on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod copies;
mod corpus;
mod growth;
#[cfg(feature = "mutants")]
mod mutants;
mod page_files;
mod sim;

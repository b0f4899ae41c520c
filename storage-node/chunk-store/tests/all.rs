//! The tests of the chunk store, in one binary: a module for each file, and the worlds that they
//! share. Those of the feature `mutants` break each rule on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bounds;
mod common;
mod corruptions;
mod crash;
mod entries;
mod exhaustive;
mod faults;
mod golden_format;
mod hostile;
mod lost_pages;
mod mending;
#[cfg(feature = "mutants")]
mod mutants;
mod opening;
#[cfg(feature = "mutants")]
mod order_mutants;
mod overtaking;
mod properties;
mod rewritten;
mod room;
mod sync_order;
mod unreadable;

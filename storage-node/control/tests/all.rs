//! All integration tests of the control layer, in one binary: a module for each file, and the made-up clusters that
//! they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::result_large_err)]

mod cost;
mod generated;
mod health;
mod made;
mod pages;
mod refusals;
mod rows;
mod specs;
mod verbs;
mod views;
mod watch;
mod world;

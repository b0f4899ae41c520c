//! The tests of the front ends, in one binary: a module for each file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod front;
mod nbd;
mod properties;

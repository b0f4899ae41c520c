//! All integration tests of the control layer, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod rows;
mod verbs;
mod world;

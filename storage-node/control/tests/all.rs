//! All integration tests of the control layer, in one binary: a module for each file, and the made-up cluster that they
//! share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod made;
mod watch;

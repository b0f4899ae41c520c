//! The tests of links over real sockets and of the budget of payload, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod budget;
mod link;

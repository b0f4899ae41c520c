//! Everything that tests share: the simulator, the history checker, real-process clusters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

pub mod browser;
pub mod check;
pub mod cluster;
pub mod faultfs;
pub mod fuzz;
pub mod http;
pub mod media;
pub mod nbd;
pub mod netns;
pub mod remote;
pub mod seccomp;
pub mod sim;
pub mod status;
pub mod user;

//! The tests of real daemons as processes, in one binary: a module for each file. The runner
//! (`tests/runner/`) gives each test a process of its own, and runs them side by side.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod api_bad;
mod api_watch;
mod bad_input;
mod bad_sectors;
mod cli;
mod corruption;
mod daemon;
mod demo;
mod entries;
mod exports;
mod false_ok;
mod floods;
mod freeze;
mod full;
mod honest;
mod in_force;
mod inspect;
mod jobs;
mod kill;
mod many_disks;
mod metrics;
mod nbd_clients;
mod nbd_wire;
mod nodes;
mod operations;
mod page;
mod partitions;
mod policy;
mod power;
mod put_back;
mod refusals;
mod remote_reads;
mod repair;
mod rescue;
mod resync;
mod system;

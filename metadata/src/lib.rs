//! Drives the cluster record: raft-rs over RocksDB, gRPC between nodes.
//!
//! * [`log`]: what a member asks of its storage
//! * [`status`]: what a member says of itself
//! * [`raft_log`]: the log, hard state and image in RocksDB
//! * [`member`]: one member of the group, without threads or clocks
//! * [`raft_loop`]: the thread that owns it: one synced batch per Ready
//! * [`raft_net`]: Raft messages to other nodes
//! * [`voters`]: who votes, decided from the configuration and who is there
//! * [`reserve`]: space set aside for the day when the file system is full
//! * [`succession`]: a leader whose process is gone is succeeded at once
//! * [`heard`]: what the leader has heard of every node
//! * [`telling`]: what a node has to tell the leader of its replicas and volumes
//! * [`service`]: what other nodes ask of this one

pub mod heard;
pub mod log;
pub mod member;
pub mod raft_log;
pub mod raft_loop;
pub mod raft_net;
pub mod reserve;
pub mod service;
pub mod status;
pub mod succession;
pub mod telling;
pub mod voters;

pub use raft_loop::{MetaHandle, Start};

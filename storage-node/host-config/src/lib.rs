//! What the daemon needs from its machine that requires neither sockets nor RocksDB nor io_uring: its files, its
//! log of states, and the threads that do blocking work for a reactor. It is a package of its own so that fuzzers
//! parse the files without linking the daemon, and so that the hand-over between threads is tested under many schedules
//! (`shuttle`).

pub mod clock;
pub mod config;
pub mod identity;
pub mod state_log;
pub mod workers;

//! What the daemon needs of the machine it runs on and what can be had without sockets, RocksDB and io_uring: its files, and the
//! threads that do blocking work for a reactor. A package of its own so that fuzzers read the files without linking the
//! daemon, and so that the hand-over between threads is tested under every schedule (`shuttle`).

pub mod clock;
pub mod config;
pub mod identity;
pub mod workers;

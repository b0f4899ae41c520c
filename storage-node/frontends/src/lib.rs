//! Export protocols as pure front ends: bytes in, requests out; results in, bytes out. No sockets, no state but the protocol's.
//!
//! [`door`] has the words that all of them share; each protocol has a folder.

pub mod door;
pub mod nbd;

//! Export protocols as pure front ends: bytes come in and requests go out, results come in and bytes go out. A
//! front end keeps the protocol's state and nothing else; it has no sockets.
//!
//! [`door`] has the words that all of them share; each protocol has a folder.

pub mod door;
pub mod nbd;

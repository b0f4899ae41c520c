//! Replication's transport: frames over TCP, on one thread (a reactor's).
//!
//! A link goes from a coordinator's reactor to one disk of another node; the listener hands the
//! socket to the reactor that owns that disk, so that no message changes threads. Sends are
//! vectored and carry the same `Bytes` to every member.

pub mod budget;
pub mod buffers;
pub mod link;

pub use buffers::AlignedBuf;
pub use link::{LinkError, Queue, Traffic, accept, dial, read_frames, refuse, write_frames};

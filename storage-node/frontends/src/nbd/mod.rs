//! NBD, fixed newstyle (the protocol document of the NetworkBlockDevice project, `doc/proto.md`).
//!
//! * [`handshake`]: options; ends in a *new* [`Agreed`] state, so nothing else survives negotiation
//! * [`transmission`]: request headers
//! * [`reply`]: simple and structured replies

pub mod handshake;
pub mod reply;
pub mod transmission;

pub use handshake::{Agreed, ExportInfo, Exports, Handshake, Next};
pub use reply::Errno;
pub use transmission::{Command, HEADER_BYTES, Request, parse_request};

/// The largest read or write.
pub const MAX_REQUEST: u32 = 32 << 20;
/// The preferred request size and alignment.
pub const PREFERRED: u32 = 4096;

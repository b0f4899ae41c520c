//! NBD, fixed newstyle (the protocol document of the NetworkBlockDevice project, `doc/proto.md`).
//!
//! * [`handshake`]: options; ends in a *new* [`Agreed`] state, so nothing else survives negotiation
//! * [`front`]: the transmission phase as a front end; [`pieces`] what it does with large requests
//! * [`transmission`]: request headers
//! * [`reply`]: simple and structured replies

pub mod front;
pub mod handshake;
pub mod pieces;
pub mod reply;
pub mod transmission;

pub use front::Front;
pub use handshake::{Agreed, ExportInfo, Exports, Handshake, Next};
pub use reply::Errno;
pub use transmission::{Command, HEADER_BYTES, Request, parse_request};

/// Bytes of the largest read or write.
pub const MAX_REQUEST: u32 = 32 << 20;
/// The smallest request size and alignment in bytes that clients are told, whatever the volume's
/// `block_size`. A client may refuse to send less (libnbd does), and images of any number of 512-byte sectors
/// must be copied.
pub const MINIMUM: u32 = 512;
/// The preferred request size and alignment in bytes: writes of whole blocks need no read before them.
pub const PREFERRED: u32 = 4096;
/// Bytes of a text that goes to a client, at most. The protocol allows strings of 4,096 bytes.
const MAX_TEXT: usize = 1024;

/// The beginning of a text that is at most `most` bytes long, cut between letters (strings are UTF-8 in the
/// protocol).
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=text.len().min(most)).rev().find(|n| text.is_char_boundary(*n)).unwrap_or(0);
    &text[..end]
}

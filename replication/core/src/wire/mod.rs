//! The replication wire format (docs/wire.md): frames with a fixed little-endian header, a body, a payload.
//!
//! ```text
//! header  160 bytes: magic, version, type, body length, payload length, envelope, checksum of header and body
//! body    fixed fields and block checksums (the hello before the first frame is protobuf)
//! payload whole blocks, covered by the block checksums in the body
//! ```
//!
//! A frame that does not verify ends the connection: a stream with an unknown byte in it cannot be
//! resynchronised.

mod codec;
mod fields;
mod frame;
mod hello;
mod link;

pub use codec::{MAX_BODY, MAX_PAYLOAD, decode, encode, encode_unsealed, parse_header, verify_head};
pub use frame::{Frame, HEADER_BYTES, Header, LinkFields, WireError};
pub use hello::{CAPABILITIES, HELLO_BYTES, Hello, HelloReply, LINK_CREDIT, MAX_VERSION, MIN_VERSION, Refused};
pub use link::{encode_link, verify_link};

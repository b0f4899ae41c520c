//! A frame's parts, its header, and what can be wrong with it.

use crate::message::Envelope;
use bytes::Bytes;

pub(super) const MAGIC: u32 = 0x3152_4648; // "HFR1"
/// Bytes of a header.
pub const HEADER_BYTES: usize = 160;
pub(super) const CRC_AT: usize = 4;
/// The link flag: the receiver is to say at once what it has received.
pub(super) const ASK: u32 = 1;

/// What one end of a link tells the other with every frame (capability [`super::LINK_CREDIT`]).
/// Bytes are those of counted frames ([`Header::counted`]), since the link came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkFields {
    /// Bytes that the sender of this frame has received.
    pub received: u64,
    /// Bytes that may be sent to it in all; it never takes that back.
    pub limit: u64,
    /// It wants to be told at once what has been received.
    pub ask: bool,
    /// Payload bytes that follow in frames of their own, in place of a payload in this one.
    pub parts: u32,
}

/// A frame that cannot be used. The connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It does not begin like a frame of this protocol.
    #[error("not a Holdfast replication frame")]
    Magic,
    /// It is of a version that was not agreed on.
    #[error("replication frame of version {0}")]
    Version(u8),
    /// It is longer than any message.
    #[error("replication frame with a body of {0} and a payload of {1} bytes, beyond the bound")]
    TooLong(u32, u32),
    /// It does not match its checksum.
    #[error("replication frame does not match its checksum")]
    Checksum,
    /// Its fields make no message of its type.
    #[error("replication frame of type {0} is malformed")]
    Malformed(u8),
}

/// A parsed header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub(super) kind: u8,
    pub(super) crc: u32,
    /// Length of the body in bytes.
    pub body: u32,
    /// Bytes of payload right behind the body.
    pub payload: u32,
    /// What the sending end says of the link.
    pub link: LinkFields,
    /// What the message is about.
    pub env: Envelope,
}

/// A frame to be sent: `head` (header and body), then the payload's pieces, vectored.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Header and body.
    pub head: Bytes,
    /// The payload's bytes, in pieces that follow each other.
    pub payload: Vec<Bytes>,
}

impl Frame {
    /// Bytes of the whole frame.
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }
    /// The frame has no head. No frame that was encoded is empty.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }
}

/// Checks that header and body are what was sealed.
pub(super) fn checksum(raw: &[u8; HEADER_BYTES], h: &Header, body: &[u8]) -> Result<(), WireError> {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&raw[..CRC_AT]);
    hash.update(&[0; 4]);
    hash.update(&raw[CRC_AT + 4..]);
    hash.update(body);
    if hash.finalize() == h.crc { Ok(()) } else { Err(WireError::Checksum) }
}

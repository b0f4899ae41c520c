//! What a link's two ends say to each other with every frame, in the header, and the frames that
//! carry nothing else (docs/wire.md; what it is for: `crate::flow`).

use super::frame::{ASK, CRC_AT, Frame, HEADER_BYTES, Header, LinkFields, MAGIC, WireError, checksum};
use bytes::{Bytes, BytesMut};

/// Where in the header the link's fields begin ([`LinkFields`]), in bytes.
const LINK_AT: usize = 136;
/// The type of a frame that carries nothing but the link's own fields.
const CREDIT: u8 = 24;
/// The type of a frame with a piece of the payload of the frame before it.
const PART: u8 = 25;
/// A body of more bytes than this counts against the link's window, as payload does.
const SMALL_BODY: u32 = 4 << 10;

impl Header {
    /// It carries only the link's fields.
    pub fn is_credit(&self) -> bool {
        self.kind == CREDIT
    }

    /// Its payload continues that of the frame before it that announced parts.
    pub fn is_part(&self) -> bool {
        self.kind == PART
    }

    /// Bytes of the frame that count against the link's window and limit; 0 for small frames
    /// without payload.
    pub fn counted(&self) -> u64 {
        counted(self.body, self.payload, self.link.parts)
    }
}

/// Bytes that count ([`Header::counted`]). Parts count when they come.
fn counted(body: u32, payload: u32, parts: u32) -> u64 {
    let counts = payload > 0 || parts > 0 || body > SMALL_BODY;
    if counts { HEADER_BYTES as u64 + u64::from(body) + u64::from(payload) } else { 0 }
}

impl Frame {
    /// Bytes of the frame that count against the link's window and limit, as [`Header::counted`] has them.
    pub fn counted(&self) -> u64 {
        let payload = self.payload.iter().map(Bytes::len).sum::<usize>();
        counted((self.head.len() - HEADER_BYTES) as u32, payload as u32, 0)
    }

    /// Writes the link's fields into the head and seals it with its checksum. A frame with `parts`
    /// is sent without its payload.
    pub fn stamp(&mut self, link: &LinkFields) {
        let mut head = BytesMut::from(std::mem::take(&mut self.head));
        let payload = if link.parts > 0 { 0 } else { self.payload.iter().map(Bytes::len).sum::<usize>() as u32 };
        put(&mut head, 20, &payload.to_le_bytes());
        put(&mut head, LINK_AT, &link.received.to_le_bytes());
        put(&mut head, LINK_AT + 8, &link.limit.to_le_bytes());
        put(&mut head, LINK_AT + 16, &(if link.ask { ASK } else { 0 }).to_le_bytes());
        put(&mut head, LINK_AT + 20, &link.parts.to_le_bytes());
        put(&mut head, CRC_AT, &[0; 4]);
        let crc = crc32fast::hash(&head);
        put(&mut head, CRC_AT, &crc.to_le_bytes());
        self.head = head.freeze();
    }
}

fn put(head: &mut [u8], at: usize, bytes: &[u8]) {
    head[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A frame of the link itself: nothing but its fields, or a piece of the payload that was announced before.
pub fn encode_link(piece: Option<Bytes>) -> Frame {
    let kind = if piece.is_some() { PART } else { CREDIT };
    let mut head = vec![0; HEADER_BYTES];
    put(&mut head, 0, &MAGIC.to_le_bytes());
    head[8] = 1;
    head[9] = kind;
    Frame { head: Bytes::from(head), payload: piece.into_iter().collect() }
}

/// Checks a frame of the link itself.
///
/// # Errors
/// It carries more than it may, or does not match its checksum.
pub fn verify_link(raw: &[u8; HEADER_BYTES], h: &Header) -> Result<(), WireError> {
    if h.body != 0 || (h.kind == CREDIT && h.payload != 0) || h.link.parts != 0 {
        return Err(WireError::Malformed(h.kind));
    }
    checksum(raw, h, &[])
}

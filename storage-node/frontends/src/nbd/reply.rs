//! Replies, simple and structured. These functions make the heads only; the payload is sent beside them
//! without a copy.

use super::handshake::BASE_ALLOCATION_ID;
use crate::door::Fault;

const SIMPLE: u32 = 0x6744_6698;
const STRUCTURED: u32 = 0x668e_33ef;
const DONE: u16 = 1;
const TYPE_NONE: u16 = 0;
const TYPE_OFFSET_DATA: u16 = 1;
const TYPE_BLOCK_STATUS: u16 = 5;
const TYPE_ERROR: u16 = (1 << 15) | 1;
const STATE_HOLE: u32 = 1;
const STATE_ZERO: u32 = 2;

/// Errors as NBD numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// EPERM: the export is read-only.
    Perm = 1,
    /// EIO: no in-sync replica has the data whole.
    Io = 5,
    /// ENOMEM: the server lacks memory for the request.
    NoMem = 12,
    /// EINVAL: the request makes no sense, or was not negotiated.
    Invalid = 22,
    /// ENOSPC: a write ends beyond the end of the export, or the disks are full.
    NoSpace = 28,
    /// EOVERFLOW: a structured read is longer than the largest request.
    Overflow = 75,
    /// ENOTSUP: the combination of flags is not served.
    NotSup = 95,
    /// ESHUTDOWN: the attachment is over.
    Shutdown = 108,
}

/// The NBD error for a fault.
pub fn errno(f: Fault) -> Errno {
    match f {
        Fault::Io => Errno::Io,
        Fault::NoSpace => Errno::NoSpace,
        Fault::Fenced => Errno::Shutdown,
        Fault::Invalid => Errno::Invalid,
    }
}

fn simple(cookie: u64, error: u32) -> Vec<u8> {
    let mut b = SIMPLE.to_be_bytes().to_vec();
    b.extend_from_slice(&error.to_be_bytes());
    b.extend_from_slice(&cookie.to_be_bytes());
    b
}

fn chunk(cookie: u64, kind: u16, len: u32) -> Vec<u8> {
    chunk_of_many(cookie, kind, len, true)
}

fn chunk_of_many(cookie: u64, kind: u16, len: u32, last: bool) -> Vec<u8> {
    let mut b = STRUCTURED.to_be_bytes().to_vec();
    b.extend_from_slice(&(if last { DONE } else { 0 }).to_be_bytes());
    b.extend_from_slice(&kind.to_be_bytes());
    b.extend_from_slice(&cookie.to_be_bytes());
    b.extend_from_slice(&len.to_be_bytes());
    b
}

/// The reply to a request that is done and has no data in its answer. A simple reply would be allowed here
/// even if structured ones were negotiated; a structured one is sent all the same, as strict clients expect.
pub fn done(structured: bool, cookie: u64) -> Vec<u8> {
    if structured { chunk(cookie, TYPE_NONE, 0) } else { simple(cookie, 0) }
}

/// The head of a read's answer; `len` bytes of data follow. A chunk of data holds at least one byte, so a
/// read of zero bytes gets the reply of [`done`].
pub fn read_head(structured: bool, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    if !structured || len == 0 {
        return done(structured, cookie);
    }
    data_head(cookie, offset, len, true)
}

/// The head of one chunk of a structured read's answer; `len` bytes of data follow, at least one. Unless it
/// is the `last` one, more chunks follow.
pub fn data_head(cookie: u64, offset: u64, len: u32, last: bool) -> Vec<u8> {
    let mut b = chunk_of_many(cookie, TYPE_OFFSET_DATA, len + 8, last);
    b.extend_from_slice(&offset.to_be_bytes());
    b
}

/// The reply to a request that failed. The text is cut at 256 bytes.
pub fn error(structured: bool, cookie: u64, errno: Errno, text: &str) -> Vec<u8> {
    if !structured {
        return simple(cookie, errno as u32);
    }
    error_chunk(cookie, errno, text, true)
}

/// A chunk that says that a structured request failed. Unless it is the `last` one, more chunks follow.
pub fn error_chunk(cookie: u64, errno: Errno, text: &str, last: bool) -> Vec<u8> {
    let text = super::cut(text, 256).as_bytes();
    let mut b = chunk_of_many(cookie, TYPE_ERROR, 6 + text.len() as u32, last);
    b.extend_from_slice(&(errno as u32).to_be_bytes());
    b.extend_from_slice(&(text.len() as u16).to_be_bytes());
    b.extend_from_slice(text);
    b
}

/// The reply to a block status. `extents`: bytes, and whether they are a hole that reads as zero. `one`:
/// report the first extent only.
pub fn block_status(cookie: u64, extents: &[(u64, bool)], one: bool) -> Vec<u8> {
    // An extent whose length does not fit is shortened and ends the list: a following extent would be taken
    // for the bytes right behind.
    let fits = |len: u64| u32::try_from(len).ok();
    let whole = extents.iter().take_while(|(len, _)| fits(*len).is_some()).count();
    let take = if one { 1 } else { whole + 1 };
    let list: Vec<_> = extents.iter().take(take).collect();
    let mut b = chunk(cookie, TYPE_BLOCK_STATUS, 4 + list.len() as u32 * 8);
    b.extend_from_slice(&BASE_ALLOCATION_ID.to_be_bytes());
    for (len, hole) in list {
        b.extend_from_slice(&fits(*len).unwrap_or(!4095).to_be_bytes());
        let state = if *hole { STATE_HOLE | STATE_ZERO } else { 0 };
        b.extend_from_slice(&state.to_be_bytes());
    }
    b
}

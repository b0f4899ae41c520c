//! Replies, simple and structured. Heads only: payload travels beside them, uncopied.

use super::handshake::BASE_ALLOCATION_ID;

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
    /// EPERM.
    Perm = 1,
    /// EIO.
    Io = 5,
    /// ENOMEM.
    NoMem = 12,
    /// EINVAL.
    Invalid = 22,
    /// ENOSPC.
    NoSpace = 28,
    /// EOVERFLOW.
    Overflow = 75,
    /// ENOTSUP.
    NotSup = 95,
    /// ESHUTDOWN.
    Shutdown = 108,
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

/// A request without data in its answer is done. Simple replies are allowed for these even when structured ones were
/// negotiated; structured is sent all the same, as strict clients expect.
pub fn done(structured: bool, cookie: u64) -> Vec<u8> {
    if structured { chunk(cookie, TYPE_NONE, 0) } else { simple(cookie, 0) }
}

/// The head of a read's answer; `len` bytes follow. A chunk of data holds at least one byte, so a read of nothing is done.
pub fn read_head(structured: bool, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    if !structured || len == 0 {
        return done(structured, cookie);
    }
    data_head(cookie, offset, len, true)
}

/// The head of a chunk of a structured read's answer; `len` bytes follow, at least one. More chunks follow unless it is the
/// `last` one.
pub fn data_head(cookie: u64, offset: u64, len: u32, last: bool) -> Vec<u8> {
    let mut b = chunk_of_many(cookie, TYPE_OFFSET_DATA, len + 8, last);
    b.extend_from_slice(&offset.to_be_bytes());
    b
}

/// A request failed.
pub fn error(structured: bool, cookie: u64, errno: Errno, text: &str) -> Vec<u8> {
    if !structured {
        return simple(cookie, errno as u32);
    }
    error_chunk(cookie, errno, text, true)
}

/// A chunk that says that a structured request failed; more chunks follow unless it is the `last` one.
pub fn error_chunk(cookie: u64, errno: Errno, text: &str, last: bool) -> Vec<u8> {
    let text = super::cut(text, 256).as_bytes();
    let mut b = chunk_of_many(cookie, TYPE_ERROR, 6 + text.len() as u32, last);
    b.extend_from_slice(&(errno as u32).to_be_bytes());
    b.extend_from_slice(&(text.len() as u16).to_be_bytes());
    b.extend_from_slice(text);
    b
}

/// Allocation extents: (bytes, is a hole that reads as zero).
pub fn block_status(cookie: u64, extents: &[(u64, bool)], one: bool) -> Vec<u8> {
    // Nothing may follow an extent that had to be shortened: it would be taken for what comes right behind.
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

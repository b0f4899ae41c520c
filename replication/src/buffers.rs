//! Buffers whose address and length suit O_DIRECT, so that payload goes from the socket to the disk
//! without another copy. They are zeroed when they are made, so no byte of another request is ever
//! seen in one.

use bytes::Bytes;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

/// Every buffer begins at a multiple of this many bytes, and is as long.
pub const ALIGN: usize = 4096;

/// An owned, aligned buffer.
pub struct AlignedBuf {
    ptr: *mut u8,
    cap: usize,
    len: usize,
}

// SAFETY: the buffer is owned memory without any tie to a thread.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> AlignedBuf {
        let cap = len.max(1).next_multiple_of(ALIGN);
        let layout = Self::layout(cap);
        // SAFETY: the layout has a non-zero size; the memory is initialised before anybody can read it.
        let ptr = unsafe { alloc(layout) };
        if ptr.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: `ptr` is valid for `cap` bytes.
        unsafe { ptr.write_bytes(0, cap) };
        AlignedBuf { ptr, cap, len }
    }

    fn layout(cap: usize) -> Layout {
        // SAFETY: ALIGN is a power of two and cap, a multiple of it, is far below isize::MAX
        // (frames are bounded).
        unsafe { Layout::from_size_align_unchecked(cap, ALIGN) }
    }

    /// Its address, for the kernel to write to.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.ptr
    }

    /// Its bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: valid and initialised for `len` bytes; uniquely borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }

    /// The same memory as shared bytes that cannot change any more.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// The same bytes in an aligned place (C9); without a copy if they are in one.
    pub fn align(b: &Bytes) -> Bytes {
        if (b.as_ptr() as usize).is_multiple_of(ALIGN) {
            return b.clone();
        }
        let mut copy = AlignedBuf::zeroed(b.len());
        copy.bytes_mut().copy_from_slice(b);
        copy.freeze()
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: valid and initialised for `len` bytes.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout.
        unsafe { dealloc(self.ptr, Self::layout(self.cap)) }
    }
}

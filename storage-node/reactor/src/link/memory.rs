//! The part of the node's payload memory that links hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Memory for other nodes' requests to this node's disks and for the answers to them. All links of all
/// reactors share it equally. It is apart from the exports' part: if clients here could take what other
/// nodes' writes need, and theirs what ours need, two nodes could wait for each other for ever.
#[derive(Clone, Debug)]
pub struct LinkMemory {
    bytes: u64,
    links: Arc<AtomicU64>,
}

impl LinkMemory {
    /// Memory of `bytes` in all.
    pub fn new(bytes: u64) -> LinkMemory {
        LinkMemory { bytes, links: Arc::default() }
    }

    /// A link begins; [`LinkMemory::went`] is called when it has ended.
    pub(crate) fn came(&self) {
        self.links.fetch_add(1, Ordering::Relaxed);
    }

    /// A link has ended.
    pub(crate) fn went(&self) {
        self.links.fetch_sub(1, Ordering::Relaxed);
    }

    /// Bytes for one link's requests, and as many for its answers. A link may hold the largest request
    /// whatever its share is.
    pub(crate) fn share(&self) -> u64 {
        self.bytes / 2 / self.links.load(Ordering::Relaxed).max(1)
    }
}

//! The node's payload memory, in the parts that must not wait for each other (docs/decisions/0032).

use crate::link::memory::LinkMemory;
use hf_repl::budget::Budget;

/// All reactors of a node share it.
#[derive(Clone)]
pub struct Memory {
    /// What clients of exports may hold: a half.
    pub exports: Budget,
    /// What other nodes' requests to disks here may hold: the other half.
    pub(crate) links: LinkMemory,
    bytes: u64,
}

impl Memory {
    /// Memory for `bytes` of payload (`payload_memory`).
    pub fn new(bytes: u64) -> Memory {
        Memory { exports: Budget::new(bytes / 2), links: LinkMemory::new(bytes / 2), bytes }
    }

    /// All of it, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

//! The words in which hosts speak to each other: work items, handled one after another by [`crate::core`],
//! and the queue that they go through. A host gets a work item and the queue; what it wants of another host
//! it puts into the queue.

use crate::event::Event;
use bytes::Bytes;
use hf_policy::{DiskId, Rid, ShardId};
use hf_repl_core::coordinator as co;
use hf_repl_core::flow;
use hf_repl_core::message::{Envelope, Msg};
use hf_repl_core::replica::Link;
use hf_store::{DiskError, StoreError};
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// The link of this reactor's own coordinators. Links of other nodes have higher numbers.
pub(crate) const LOCAL: Link = 0;

/// Something to do.
pub(crate) enum Work {
    /// For a disk of this reactor.
    Disk(DiskId, DiskWork),
    /// For a coordinator of this reactor.
    Shard(ShardId, co::Input),
    /// A coordinator's message to a replica, here or on another node.
    Send { disk: DiskId, env: Envelope, msg: Msg },
    /// A replica's reply to a coordinator, here or on another node.
    Reply { link: Link, env: Envelope, msg: Msg },
    /// A coordinator does not wait for the answer to this request any more.
    Forget { disk: DiskId, key: flow::Key },
    /// A volume has left: no request of its coordinators is wanted any more.
    ForgetUnwanted,
    /// A replica on a disk here is gone or begins anew: requests to it that came over links will not be answered.
    ForgetServed(Rid),
}

/// Something for a disk to do.
pub(crate) enum DiskWork {
    /// A disk operation has ended.
    Done { tag: u64, result: Result<Bytes, DiskError> },
    /// The store has carried out an operation.
    Answered { id: u64, result: Result<hf_store::Answer, StoreError> },
    /// A message to a replica, over a link.
    Message { link: Link, env: Envelope, msg: Msg },
}

/// The work that is left to do, and the way to the control plane.
pub(crate) struct WorkQueue {
    work: VecDeque<Work>,
    events: mpsc::UnboundedSender<Event>,
}

impl WorkQueue {
    pub fn new(events: mpsc::UnboundedSender<Event>) -> WorkQueue {
        WorkQueue { work: VecDeque::new(), events }
    }

    /// Adds a work item behind the others.
    #[inline]
    pub fn push(&mut self, work: Work) {
        self.work.push_back(work);
    }

    /// Takes the oldest work item.
    #[inline]
    pub fn pop(&mut self) -> Option<Work> {
        self.work.pop_front()
    }

    /// Tells the control plane something.
    pub fn tell(&self, event: Event) {
        // Nobody listens any more when the node ends.
        let _ = self.events.send(event);
    }
}

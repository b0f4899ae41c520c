//! What a reactor tells the control plane, and who the reactor's node is.

use hf_policy::{BootId, ClusterId, DiskId, Epoch, NodeId, SessionId, ShardId, Term, VolumeId};
use hf_repl_core::coordinator::Change;
use tokio::sync::oneshot;

/// The node that a reactor belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The cluster that the node is part of.
    pub cluster: ClusterId,
    /// Its id in the cluster.
    pub node: NodeId,
    /// This process of it.
    pub boot: BootId,
}

/// What a reactor tells the control plane.
#[derive(Debug)]
pub enum Event {
    /// A shard's coordinator asks for a change of the record; [`crate::Mail::Proposed`] answers.
    Propose {
        /// The shard whose coordinator asks.
        shard: ShardId,
        /// The volume's attachment that this is about.
        session: SessionId,
        /// The record's epoch on which the change builds (compare-and-set).
        epoch: Epoch,
        /// The attachment's term.
        term: Term,
        /// The change that is asked for.
        change: Change,
    },
    /// Every shard of the volume would serve; the control plane records that.
    Ready {
        /// The volume that this is about.
        vol: VolumeId,
        /// The volume's attachment that this is about.
        session: SessionId,
        /// The attachment's term.
        term: Term,
    },
    /// The attachment is fenced: it is never served again.
    Fenced {
        /// The volume that this is about.
        vol: VolumeId,
        /// The volume's attachment that this is about.
        session: SessionId,
    },
    /// The attachment was asked to end, and nothing of it is outstanding any more.
    Drained {
        /// The volume that this is about.
        vol: VolumeId,
        /// The volume's attachment that this is about.
        session: SessionId,
    },
    /// The reactor's thread was paused. It begins no client request until `fresh` says that the node obeys
    /// the newest record.
    Paused {
        /// Sent or dropped by the control plane when the node is up to date.
        fresh: oneshot::Sender<()>,
    },
    /// A disk met more bad blocks than its budget allows.
    DiskFailing {
        /// The disk that this is about.
        disk: DiskId,
        /// How many, and the budget.
        why: String,
    },
    /// A disk has failed for good.
    DiskFailed {
        /// The disk that this is about.
        disk: DiskId,
        /// Its first error.
        why: String,
    },
}

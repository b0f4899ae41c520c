//! What commands come to.

use hf_policy::{DiskId, Fate, HasFate, NodeId, Term, VolumeId};
use serde::{Deserialize, Serialize};

/// What a command returns when it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// Done, nothing to say.
    Done,
    /// A node's number.
    Node(NodeId),
    /// A disk's number.
    Disk(DiskId),
    /// A volume's number.
    Volume(VolumeId),
    /// An attachment's term.
    Attached(Term),
}

/// Why a command was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Refusal {
    /// The record moved on since the decision was made; look again and decide again.
    #[error("the volume's record changed meanwhile (epoch is {now}); try again")]
    EpochMismatch {
        /// The record's.
        now: u64,
    },
    /// A newer attachment exists.
    #[error("fenced: the volume's term is {now}, the caller's is older")]
    StaleTerm {
        /// The record's.
        now: u32,
    },
    /// Would leave no holder of the acknowledged data.
    #[error("refused: it would leave no in-sync replica")]
    LastReplica,
    /// Attached elsewhere.
    #[error("volume {volume} is attached on node {node}; detach it there, or attach with --force if that node is gone")]
    Attached {
        /// The volume.
        volume: String,
        /// Where.
        node: String,
    },
    /// Not attached (by that session).
    #[error("the volume is not attached by this session")]
    NotAttached,
    /// Its replicas are being made.
    #[error("volume {0}: its replicas are still being created on their nodes; try again in a moment")]
    NotReady(String),
    /// A name that is taken.
    #[error("{kind} \"{name}\" exists already; choose another name")]
    Exists {
        /// Of what.
        kind: String,
        /// Which.
        name: String,
    },
    /// Nothing of that name or number.
    #[error("no {kind} {name}")]
    NotFound {
        /// Of what.
        kind: String,
        /// Which.
        name: String,
    },
    /// Protected.
    #[error("volume {0} is sticky; set sticky=false before deleting it")]
    Sticky(String),
    /// The present state does not allow it, or leaves nothing to do.
    #[error("{0}")]
    State(String),
    /// As much of it goes on as may at once: to be asked again a little later.
    #[error("not now: {0}")]
    Busy(String),
    /// Wrong in itself.
    #[error("{0}")]
    Invalid(String),
}

impl Refusal {
    /// Can the same command only be refused again, whenever it is applied once more? Epochs and terms only grow, and what was refused at
    /// an epoch is refused at it again. Such a refusal need not be kept to be true.
    pub fn is_final(&self) -> bool {
        match self {
            Refusal::EpochMismatch { .. }
            | Refusal::StaleTerm { .. }
            | Refusal::NotAttached
            | Refusal::NotReady(_)
            | Refusal::LastReplica => true,
            Refusal::Attached { .. }
            | Refusal::Exists { .. }
            | Refusal::NotFound { .. }
            | Refusal::Sticky(_)
            | Refusal::State(_)
            | Refusal::Busy(_)
            | Refusal::Invalid(_) => false,
        }
    }
}

impl HasFate for Refusal {
    fn fate(&self) -> Fate {
        match self {
            Refusal::EpochMismatch { .. } | Refusal::NotReady(_) | Refusal::Busy(_) => Fate::Retry,
            Refusal::StaleTerm { .. } | Refusal::NotAttached => Fate::Abort,
            Refusal::LastReplica
            | Refusal::State(_)
            | Refusal::Attached { .. }
            | Refusal::Exists { .. }
            | Refusal::NotFound { .. }
            | Refusal::Sticky(_)
            | Refusal::Invalid(_) => Fate::Refuse,
        }
    }
}

/// A command's outcome; also what a repeated request gets.
pub type Outcome = Result<Reply, Refusal>;

//! The outcome of a command: a reply, or a refusal with its reason.

use hf_policy::{DiskId, Fate, HasFate, NodeId, Term, VolumeId};
use serde::{Deserialize, Serialize};

/// What a command returns when it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// The command was done, and has nothing to return.
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
    /// The record has changed since the command was decided: read it and decide again.
    #[error("the volume's record changed meanwhile (epoch is {now}); try again")]
    EpochMismatch {
        /// The record's epoch.
        now: u64,
    },
    /// A newer attachment exists: the caller is fenced.
    #[error("fenced: the volume's term is {now}, the caller's is older")]
    StaleTerm {
        /// The record's term.
        now: u32,
    },
    /// It would leave no replica that holds every acknowledged write.
    #[error("refused: it would leave no in-sync replica")]
    LastReplica,
    /// The volume is attached to another node.
    #[error("volume {volume} is attached on node {node}; detach it there, or attach with --force if that node is gone")]
    Attached {
        /// Name of the volume.
        volume: String,
        /// Name of the node that has it.
        node: String,
    },
    /// The volume is not attached, or not by this session.
    #[error("the volume is not attached by this session")]
    NotAttached,
    /// The volume's replicas are still being made.
    #[error("volume {0}: its replicas are still being created on their nodes; try again in a moment")]
    NotReady(String),
    /// The name is taken.
    #[error("{kind} \"{name}\" exists already; choose another name")]
    Exists {
        /// What it names: `volume`, `node`, `disk`, …
        kind: String,
        /// The name or number.
        name: String,
    },
    /// Nothing has this name or number.
    #[error("no {kind} {name}")]
    NotFound {
        /// What it names: `volume`, `node`, `disk`, …
        kind: String,
        /// The name or number.
        name: String,
    },
    /// The volume's policy says that it must not be deleted.
    #[error("volume {0} is sticky; set sticky=false before deleting it")]
    Sticky(String),
    /// The present state does not allow it, or there is nothing to do.
    #[error("{0}")]
    State(String),
    /// As many are under way as may be at once: ask again a little later.
    #[error("not now: {0}")]
    Busy(String),
    /// The command is wrong whatever the state.
    #[error("{0}")]
    Invalid(String),
    /// Too few disks may hold a replica by the policy's rules; the text says which rule excluded which disk. It is
    /// placement's, before anything is proposed; new in version 3.
    #[error("{0}")]
    Unplaceable(String),
    /// Disks that may hold a replica have no room for one more: no bytes, or no entry in their table. As above.
    #[error("{0}")]
    NoSpace(String),
}

impl Refusal {
    /// Would the same command be refused again whenever it is applied? Epochs and terms only grow, and what
    /// was refused at an epoch is refused at it again, so such a refusal need not be kept for a repeated
    /// request.
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
            | Refusal::Invalid(_)
            | Refusal::Unplaceable(_)
            | Refusal::NoSpace(_) => false,
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
            | Refusal::Invalid(_)
            | Refusal::Unplaceable(_)
            | Refusal::NoSpace(_) => Fate::Refuse,
        }
    }
}

/// The outcome of a command. A repeated request gets the stored one.
pub type Outcome = Result<Reply, Refusal>;

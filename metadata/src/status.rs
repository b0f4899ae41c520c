//! What a member of the Raft group says: about itself, and about what was proposed to it.

use hf_meta_core::Outcome;
use hf_meta_core::record::OwnLog;
use hf_policy::NodeId;

/// What a proposal came to.
#[derive(Debug)]
pub enum Proposed {
    /// Applied (or refused) by the cluster.
    Outcome(Outcome),
    /// This node does not lead.
    NotLeader,
    /// Not known: leadership was lost on the way, or too many wait.
    Unknown,
}

/// What everybody may know about Raft here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// This node leads.
    pub is_leader: bool,
    /// Raft's term.
    pub term: u64,
    /// Voters.
    pub voters: Vec<u64>,
    /// Learners.
    pub learners: Vec<u64>,
    /// A change of the voters is under way: until it is through, a majority of the old ones is needed as well.
    pub changing: bool,
    /// Applied index.
    pub applied: u64,
    /// Commands applied since start.
    pub commands: u64,
    /// What its log says of itself: to be noted on the node's disks, and told to the cluster.
    pub own: OwnLog,
    /// It takes no part yet: the group does not know this log, or its place is still that of an earlier one.
    pub waits: bool,
}

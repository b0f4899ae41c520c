//! What a member of the Raft group tells: its place in the group, and the outcome of proposals.

use hf_meta_core::Outcome;
use hf_meta_core::record::OwnLog;
use hf_policy::NodeId;

/// The outcome of a proposal.
#[derive(Debug)]
pub enum Proposed {
    /// Applied (or refused) by the cluster.
    Outcome(Outcome),
    /// This node does not lead.
    NotLeader,
    /// Not known: leadership was lost on the way, or too many wait.
    Unknown,
}

/// This member's place in the group, for others to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// This node leads.
    pub is_leader: bool,
    /// The present Raft term.
    pub term: u64,
    /// Raft ids of the voters.
    pub voters: Vec<u64>,
    /// Raft ids of the learners.
    pub learners: Vec<u64>,
    /// A change of the voters is under way: until it is complete, a majority of the old voters is needed too.
    pub changing: bool,
    /// Index of the last applied entry.
    pub applied: u64,
    /// Commands applied since start.
    pub commands: u64,
    /// What its log says of itself; it is noted on the node's disks and told to the cluster.
    pub own: OwnLog,
    /// It takes no part yet: the group does not know this log, or the node's seat is still that of an earlier log.
    pub waits: bool,
}

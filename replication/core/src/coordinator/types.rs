//! What goes in and out of a coordinator.

use crate::message::{Envelope, Msg};
use bytes::Bytes;
use hf_meta_core::record::{DropReason, ScrubReport};
use hf_policy::attributes::ReadFrom;
use hf_policy::{
    BootId, ClusterId, Epoch, Fate, HasFate, Lineage, NodeId, Rid, SessionId, ShardId, StoreUuid, Term, Ver,
};
use std::collections::{BTreeMap, BTreeSet};

/// The front end's name for a request; answered exactly once.
pub type ClientId = u64;

/// What the driver knows of the attachment. It does not change, except by
/// [`super::Coordinator::set_blocks`], `set_nearest` and `set_policy`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster that the volume belongs to.
    pub cluster: ClusterId,
    /// The shard that this coordinator serves.
    pub shard: ShardId,
    /// This attachment, as the record names it.
    pub session: SessionId,
    /// The node that the volume is attached to.
    pub node: NodeId,
    /// Size of the shard in blocks.
    pub blocks: u64,
    /// Writes wait while fewer members than this are in sync.
    pub min_replicas: u32,
    /// How long a member may leave a request unanswered (T_op), in microseconds.
    pub replica_timeout: u64,
    /// Which member is asked for reads.
    pub read_from: ReadFrom,
    /// Reads are confirmed by all members after they have arrived; leases, and so clocks, are not
    /// relied upon.
    pub strict_reads: bool,
    /// Percent by which copying may lengthen the clients' p99 latency.
    pub rebuild_impact: u32,
    /// Members by topological nearness to the attached node, nearest first.
    pub nearest: Vec<Rid>,
}

/// A member, as Raft records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// The node that it is on.
    pub node: NodeId,
    /// The storage that holds it; another one holds nothing of it.
    pub store_uuid: StoreUuid,
}

/// The part of the volume's record that concerns this shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The volume's term: it rises with every attach.
    pub term: Term,
    /// The record's epoch: it rises with every change that matters to the shard.
    pub epoch: Epoch,
    /// Which session is attached, if any.
    pub session: Option<SessionId>,
    /// The volume's history.
    pub lineage: Lineage,
    /// The newest term that is known to have been served: every member in sync had promised it.
    pub activated: Term,
    /// This term is recorded as served: clients' requests may begin.
    pub served: bool,
    /// The in-sync set.
    pub in_sync: BTreeMap<Rid, MemberInfo>,
    /// Replicas that are out.
    pub out: BTreeMap<Rid, OutInfo>,
    /// Members that are to leave: they are dropped when enough others are in sync.
    pub leaving: BTreeSet<Rid>,
    /// Replicas that an operator does not want to be filled now.
    pub paused: BTreeSet<Rid>,
    /// The number of the scrub that is asked for and that this shard has not finished.
    pub scrub: Option<u64>,
    /// An operator holds that scrub.
    pub scrub_paused: bool,
}

impl Record {
    /// Every replica, in the set or out of it.
    pub(super) fn everybody(&self) -> impl Iterator<Item = (Rid, MemberInfo)> {
        let out = self
            .out
            .iter()
            .map(|(r, o)| (*r, MemberInfo { node: o.node, store_uuid: o.store_uuid.unwrap_or_default() }));
        self.in_sync.iter().map(|(r, m)| (*r, *m)).chain(out)
    }
}

/// A replica that is out, as Raft records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutInfo {
    /// The node that it is on.
    pub node: NodeId,
    /// The storage that holds it, once that has been made.
    pub store_uuid: Option<StoreUuid>,
    /// It holds every acknowledged write up to here; 0: it holds nothing.
    pub base: Ver,
    /// Journal position it last reported before it was dropped, by which everything up to the base
    /// was there; 0 = unknown.
    pub position: u64,
    /// The number of the sync that has begun, if one has.
    pub sync_id: Option<u64>,
}

/// A change of the record that a coordinator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These members leave the in-sync set (or a join is given up).
    Drop {
        /// The members that leave.
        rids: Vec<Rid>,
        /// These members hold every acknowledged write up to here.
        base: Ver,
        /// The journal position that each had last reported; none of those that are unknown.
        told: BTreeMap<Rid, u64>,
        /// Why each of them leaves; none of those whose join is given up, which were not in the set.
        reasons: BTreeMap<Rid, DropReason>,
    },
    /// The sync of a replica that is out begins.
    SyncStart {
        /// The replica that is brought in.
        rid: Rid,
        /// The number of the attempt.
        sync_id: u64,
    },
    /// This replica holds every acknowledged write: it becomes a member.
    Add {
        /// The replica whose sync has ended well.
        rid: Rid,
        /// The storage that was filled.
        store_uuid: StoreUuid,
    },
    /// A scrub of this shard has finished.
    Scrubbed {
        /// The number of the scrub.
        id: u64,
        /// What it has found and mended.
        report: ScrubReport,
    },
}

/// The phase of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Members are asked to promise this term.
    Sealing,
    /// The sealed members are made equal.
    Reconciling,
    /// Clients are served, once the record says that the term is.
    Serving,
    /// The attachment is over for good: a newer term exists, or it was abandoned.
    Fenced,
}

/// A client's request. Offsets and lengths are bytes inside the shard, of any alignment.
#[derive(Clone, Debug)]
pub enum ClientOp {
    /// Read the bytes of a span.
    Read {
        /// First byte, counted from the shard's beginning.
        off: u64,
        /// How many bytes.
        len: u32,
    },
    /// Write bytes; answered when they are durable on the whole in-sync set.
    Write {
        /// First byte, counted from the shard's beginning.
        off: u64,
        /// The bytes to be written.
        data: Bytes,
    },
    /// Make the bytes zero, and give space back.
    Zero {
        /// First byte, counted from the shard's beginning.
        off: u64,
        /// How many bytes.
        len: u64,
    },
    /// Make durable every write that was answered before; answered at once.
    Flush,
    /// Which blocks hold data? Answered in block-aligned extents.
    Status {
        /// First byte, counted from the shard's beginning.
        off: u64,
        /// How many bytes.
        len: u64,
    },
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientReply {
    /// It is done, durable on the whole in-sync set.
    Done,
    /// The bytes that were read, in order; together as many as were asked for.
    Data(Vec<Bytes>),
    /// (bytes, is a hole), in order, covering the request.
    Extents(Vec<(u64, bool)>),
}

/// Why a request failed. Each numbered part of it was certainly applied nowhere, or (fenced) its
/// outcome is unknown; of a request over several chunks other parts may have been applied, on every
/// member alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// No in-sync replica has the block whole.
    #[error("no in-sync replica can supply a block")]
    Io,
    /// No space on the replicas' disks.
    #[error("the replicas' disks are full")]
    NoSpace,
    /// The attachment is over.
    #[error("the volume was attached elsewhere; this attachment is over")]
    Fenced,
    /// Beyond the end, or too large.
    #[error("the request lies beyond the volume's end")]
    Invalid,
}

impl HasFate for IoError {
    fn fate(&self) -> Fate {
        match self {
            IoError::Fenced => Fate::Abort,
            IoError::Io | IoError::NoSpace | IoError::Invalid => Fate::Refuse,
        }
    }
}

/// How a proposal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposed {
    /// Committed; the record follows.
    Done,
    /// Refused: look at the record and decide again.
    Retry,
    /// Refused for now because others go first. Only the beginning of a sync is refused so.
    Busy,
    /// Refused: this term is over.
    Stale,
    /// No answer: it may or may not be committed. The record will tell.
    Unknown,
}

/// What a coordinator is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client has sent a request.
    Client {
        /// The front end's name for it.
        id: ClientId,
        /// What is to be done.
        op: ClientOp,
    },
    /// The client does not wait for the answer to this request any more. It is answered all the same.
    GiveUp {
        /// The front end's name for it.
        id: ClientId,
    },
    /// A reply has come from a replica's disk.
    Message {
        /// The replica that the link leads to.
        rid: Rid,
        /// The reply's envelope, as it came.
        env: Envelope,
        /// The message's body.
        msg: Msg,
    },
    /// Of the requests that are overdue at this moment ([`super::Coordinator::overdue`]), these
    /// wait their turn on a link that moves: they are not lost.
    Waits {
        /// Pairs of a member and the id of a request to it.
        reqs: Vec<(Rid, u64)>,
    },
    /// The link to a replica's disk is up.
    PeerUp {
        /// The replica that it leads to.
        rid: Rid,
        /// The process that the link leads to.
        boot: BootId,
    },
    /// The link to a replica's disk is down.
    PeerDown {
        /// The replica that it led to.
        rid: Rid,
    },
    /// The volume's record has changed.
    Record(Record),
    /// The open proposal has ended.
    Proposed(Proposed),
    /// This node has room for a sync: the answer to [`Output::WantSync`]. If that is not wanted any
    /// more, [`Output::SyncOver`] follows.
    SyncGo,
    /// Answer what clients have asked for, let everything else end, then say [`Output::Drained`].
    Stop,
    /// Time has passed.
    Tick,
}

/// What a coordinator asks of its driver.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a message to a replica.
    Send {
        /// The replica that it is for.
        rid: Rid,
        /// The message's envelope.
        env: Envelope,
        /// The message's body.
        msg: Msg,
    },
    /// The answer to this request is not wanted any more: if the request has not left yet it need not.
    Forget {
        /// The replica that it is for.
        rid: Rid,
        /// The id of the request.
        req: u64,
    },
    /// Propose a change of the record; answered by [`Input::Proposed`].
    Propose {
        /// The record's epoch on which the change builds.
        epoch: Epoch,
        /// The term in which it is proposed.
        term: Term,
        /// The change that is proposed.
        change: Change,
    },
    /// A member could be brought back in; answered by [`Input::SyncGo`] when that may begin.
    WantSync {
        /// Writes wait for it: fewer members are in sync than they need. May be said later than the rest.
        urgent: bool,
    },
    /// The sync has ended, well or not: its place is free.
    SyncOver,
    /// Answer a client.
    Reply {
        /// The front end's name for the request.
        id: ClientId,
        /// How it ended.
        result: Result<ClientReply, IoError>,
    },
    /// Every member holds everything and has noted it: the record is to say that this term is
    /// served, and clients' requests begin when it does.
    Ready,
    /// Over for good: close every client session, never serve this attachment again.
    Fenced,
    /// Nothing is outstanding any more.
    Drained,
}

/// What the coordinator counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Client reads answered.
    pub reads: u64,
    /// Client writes (and zeroes) answered.
    pub writes: u64,
    /// Bytes that client reads delivered.
    pub read_bytes: u64,
    /// Bytes that client writes and zeroes covered.
    pub write_bytes: u64,
    /// Client requests that failed.
    pub errors: u64,
    /// Members that were dropped from the set.
    pub drops: u64,
    /// Requests to members that were sent again.
    pub resends: u64,
    /// Blocks a member could not supply.
    pub bad_blocks: u64,
    /// Reads that had to wait for a lease.
    pub lease_waits: u64,
    /// Replicas that were brought back in.
    pub syncs: u64,
    /// Attempts to bring a replica in that ended otherwise.
    pub syncs_failed: u64,
    /// Blocks copied to members that were out.
    pub synced_blocks: u64,
    /// Blocks that were bad on a member and replaced from another one.
    pub repaired_blocks: u64,
    /// Chunks read and compared by scrubs.
    pub scrubbed_chunks: u64,
}

/// The state of a coordinator, for people.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// The phase of the attachment.
    pub phase: Phase,
    /// In the first phase: a member that has not promised the term yet.
    pub unsealed: Option<Rid>,
    /// The term of the attachment.
    pub term: Term,
    /// The epoch of the record as it was last shown.
    pub epoch: Epoch,
    /// Members in sync.
    pub in_sync: u32,
    /// Client requests that are not answered.
    pub outstanding: u32,
    /// The attachment was asked to end, and has not yet.
    pub draining: Option<super::Draining>,
    /// The watermark: everything up to here is on all in-sync members.
    pub stable: Ver,
    /// Blocks copied by the take-over.
    pub reconciled_blocks: u64,
    /// Replicas that are out.
    pub out: u32,
    /// The sync that is going on.
    pub sync: Option<SyncStatus>,
    /// The scrub that is going on.
    pub scrub: Option<super::ScrubStatus>,
    /// Bytes a second that copying and scrubbing may take now.
    pub pace: u64,
    /// What clients' slowest hundredth took, microseconds: undisturbed, and beside copying in the
    /// last second.
    pub pace_p99: (u64, u64),
    /// What was counted since the attachment began.
    pub stats: Stats,
}

/// A sync's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncStatus {
    /// The replica that is brought in.
    pub rid: Rid,
    /// The stage of the attempt.
    pub stage: super::SyncStage,
    /// Chunks that have to be compared; 0 before they are known.
    pub chunks: u64,
    /// Chunks of these that are done.
    pub chunks_done: u64,
    /// Blocks that were copied so far.
    pub copied_blocks: u64,
    /// Bytes of live writes that the target has not acknowledged.
    pub behind_bytes: u64,
}

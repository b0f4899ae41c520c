//! What goes in and out of a coordinator.

use crate::message::{Envelope, Msg};
use bytes::Bytes;
use hf_meta_core::record::ScrubReport;
use hf_policy::attributes::ReadFrom;
use hf_policy::{
    BootId, ClusterId, Epoch, Fate, HasFate, Lineage, NodeId, Rid, SessionId, ShardId, StoreUuid, Term, Tick, Ver,
};
use std::collections::{BTreeMap, BTreeSet};

/// The front end's name for a request; answered exactly once.
pub type ClientId = u64;

/// What does not change while attached (but for [`super::Coordinator::set_blocks`] and `set_policy`).
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// The shard.
    pub shard: ShardId,
    /// This attachment.
    pub session: SessionId,
    /// The attached node.
    pub node: NodeId,
    /// Size in blocks.
    pub blocks: u64,
    /// Below this many in-sync members writes wait.
    pub min_replicas: u32,
    /// Microseconds a member may leave a request unanswered (T_op).
    pub replica_timeout: u64,
    /// Which member reads.
    pub read_from: ReadFrom,
    /// Reads are confirmed by all members after they arrived; leases, and so clocks, are not relied upon.
    pub strict_reads: bool,
    /// Percent by which copying may lengthen the clients' p99.
    pub rebuild_impact: u32,
    /// Members by topological nearness to the attached node, nearest first.
    pub nearest: Vec<Rid>,
}

/// A member, as Raft records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its node.
    pub node: NodeId,
    /// Its storage.
    pub store_uuid: StoreUuid,
}

/// The part of the volume's record that concerns this shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The volume's term.
    pub term: Term,
    /// The record's epoch.
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
    /// Members that are not wanted any more: they are taken out when the others can do without them.
    pub leaving: BTreeSet<Rid>,
    /// Replicas that are not to be filled now: an operator holds that.
    pub paused: BTreeSet<Rid>,
    /// The scrub that is asked for and that this shard is not through with.
    pub scrub: Option<u64>,
    /// It is held.
    pub scrub_paused: bool,
}

impl Record {
    /// Every replica.
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
    /// Its node.
    pub node: NodeId,
    /// Its storage, once made.
    pub store_uuid: Option<StoreUuid>,
    /// It holds every acknowledged write up to here.
    pub base: Ver,
    /// How far its disk's journal had got when it was dropped: everything up to the base was there by then. 0: nobody knows.
    pub position: u64,
    /// The sync that has begun, if one has.
    pub sync_id: Option<u64>,
}

/// A change of the record that a coordinator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These members leave the in-sync set (or a join is given up).
    Drop {
        /// Who.
        rids: Vec<Rid>,
        /// They hold every acknowledged write up to here.
        base: Ver,
        /// How far each one's journal had got, as it had last told.
        told: BTreeMap<Rid, u64>,
    },
    /// A sync of this member begins.
    SyncStart {
        /// Who.
        rid: Rid,
        /// Which attempt.
        sync_id: u64,
    },
    /// This member holds everything.
    Add {
        /// Who.
        rid: Rid,
        /// Its storage.
        store_uuid: StoreUuid,
    },
    /// A scrub is through.
    Scrubbed {
        /// Which.
        id: u64,
        /// What it met.
        report: ScrubReport,
    },
}

/// Where the coordinator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Collecting promises.
    Sealing,
    /// Making the sealed members equal.
    Reconciling,
    /// Serving clients.
    Serving,
    /// Over for good: a newer term exists.
    Fenced,
}

/// A client's request. Offsets and lengths are bytes inside the shard, of any alignment.
#[derive(Clone, Debug)]
pub enum ClientOp {
    /// Read.
    Read {
        /// Offset.
        off: u64,
        /// Length.
        len: u32,
    },
    /// Write.
    Write {
        /// Offset.
        off: u64,
        /// Bytes.
        data: Bytes,
    },
    /// Zero, giving space back.
    Zero {
        /// Offset.
        off: u64,
        /// Length.
        len: u64,
    },
    /// Everything received before is durable.
    Flush,
    /// Which blocks hold data? Answered in block-aligned extents.
    Status {
        /// Offset.
        off: u64,
        /// Length.
        len: u64,
    },
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientReply {
    /// Done, durable on the whole in-sync set.
    Done,
    /// The bytes, in order.
    Data(Vec<Bytes>),
    /// (bytes, is a hole), in order, covering the request.
    Extents(Vec<(u64, bool)>),
}

/// Why a request failed. Each numbered part of it was certainly applied nowhere, or (fenced) nobody may say; of a request
/// over several chunks other parts may have been applied, on every member alike.
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
    /// Refused for now: others go first. Only a sync's beginning is.
    Busy,
    /// Refused: this term is over.
    Stale,
    /// No answer: it may or may not be committed. The record will tell.
    Unknown,
}

/// An input.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client's request.
    Client {
        /// Its name.
        id: ClientId,
        /// What.
        op: ClientOp,
    },
    /// Nobody waits for the answer to this request any more. It is answered all the same.
    GiveUp {
        /// Its name.
        id: ClientId,
    },
    /// A member's reply.
    Message {
        /// Who.
        rid: Rid,
        /// As it came.
        env: Envelope,
        /// What.
        msg: Msg,
    },
    /// Of the requests that are overdue at this moment, these wait their turn on a link that moves: they are not lost.
    Waits {
        /// Member and request.
        reqs: Vec<(Rid, u64)>,
    },
    /// The link to a member's disk is up.
    PeerUp {
        /// Who.
        rid: Rid,
        /// Its process.
        boot: BootId,
    },
    /// The link is down.
    PeerDown {
        /// Who.
        rid: Rid,
    },
    /// The volume's record has changed.
    Record(Record),
    /// The open proposal ended.
    Proposed(Proposed),
    /// This node has room for a sync: the answer to [`Output::WantSync`]. If that is not wanted any
    /// more, [`Output::SyncOver`] follows.
    SyncGo,
    /// Answer what clients have asked for, let everything else end, then say [`Output::Drained`].
    Stop,
    /// Time has passed.
    Tick,
}

/// An output.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send to a member.
    Send {
        /// Who.
        rid: Rid,
        /// About whom.
        env: Envelope,
        /// What.
        msg: Msg,
    },
    /// The answer to this request is wanted by nobody: if it has not left yet it need not.
    Forget {
        /// Whom it is for.
        rid: Rid,
        /// Which.
        req: u64,
    },
    /// Propose a change of the record; answered by [`Input::Proposed`].
    Propose {
        /// The record's epoch.
        epoch: Epoch,
        /// The term.
        term: Term,
        /// What.
        change: Change,
    },
    /// A member could be brought back in; answered by [`Input::SyncGo`] when that may begin.
    WantSync {
        /// Writes wait for it: fewer members are in sync than they need. May be said later than the rest.
        urgent: bool,
    },
    /// The sync has ended, one way or the other.
    SyncOver,
    /// Answer a client.
    Reply {
        /// Whose request.
        id: ClientId,
        /// How it ended.
        result: Result<ClientReply, IoError>,
    },
    /// Every member holds everything and has noted it: the record is to say that this term is served, and clients' requests begin when
    /// it does.
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
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Members dropped.
    pub drops: u64,
    /// Messages sent again.
    pub resends: u64,
    /// Blocks a member could not supply.
    pub bad_blocks: u64,
    /// Reads that had to wait for a lease.
    pub lease_waits: u64,
    /// Members brought back in.
    pub syncs: u64,
    /// Attempts that ended otherwise.
    pub syncs_failed: u64,
    /// Blocks copied to members that were out.
    pub synced_blocks: u64,
    /// Blocks that were bad on a member and replaced from another one.
    pub repaired_blocks: u64,
    /// Chunks read and compared by scrubs.
    pub scrubbed_chunks: u64,
}

/// Where a coordinator stands, for people.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Phase.
    pub phase: Phase,
    /// Term.
    pub term: Term,
    /// Epoch.
    pub epoch: Epoch,
    /// Size of the in-sync set.
    pub in_sync: u32,
    /// Requests not answered.
    pub outstanding: u32,
    /// The attachment was asked to end, and has not yet.
    pub draining: Option<super::Draining>,
    /// Watermark.
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
    /// What clients' slowest hundredth took, microseconds: undisturbed, and beside copying in the last second.
    pub pace_p99: (u64, u64),
    /// Counters.
    pub stats: Stats,
}

/// A sync's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncStatus {
    /// Who is brought back in.
    pub rid: Rid,
    /// Where it stands.
    pub stage: super::SyncStage,
    /// Chunks to compare.
    pub chunks: u64,
    /// Chunks done.
    pub chunks_done: u64,
    /// Blocks copied.
    pub copied_blocks: u64,
    /// Bytes of live writes that it has not acknowledged.
    pub behind_bytes: u64,
}

/// A member, as the coordinator sees it.
pub(super) struct Member {
    pub info: MemberInfo,
    pub up: bool,
    pub boot: BootId,
    pub down_since: Tick,
    /// Valid for the coordinator until here.
    pub lease_until: Tick,
    pub lease_sent: Tick,
    pub lease_asked: bool,
    /// The newest question that it has answered.
    pub confirmed: u64,
    /// Since when a lease request is unanswered.
    pub asked_since: Tick,
    /// It said that it cannot be relied upon (failed disk, wrong storage).
    pub broken: bool,
    /// Its process began anew while it was relied upon, and has not shown yet that it holds what it had acknowledged.
    pub unproven: bool,
    /// How far its disk's journal had got when it last acknowledged a write.
    pub position: u64,
    /// Last time it answered anything.
    pub heard: Tick,
    pub credit: u64,
}

impl Member {
    pub fn new(info: MemberInfo) -> Member {
        Member {
            info,
            up: false,
            boot: BootId::NONE,
            down_since: Tick(0),
            lease_until: Tick(0),
            lease_sent: Tick(0),
            lease_asked: false,
            confirmed: 0,
            asked_since: Tick(0),
            broken: false,
            unproven: false,
            position: 0,
            heard: Tick(0),
            credit: u64::MAX,
        }
    }

    /// Since when it owes a sign of life; `None` if it owes none.
    pub fn silent_since(&self) -> Option<Tick> {
        match (self.up, self.lease_asked) {
            (false, _) => Some(self.down_since.max(self.heard)),
            (true, true) => Some(self.asked_since.max(self.heard)),
            (true, false) => None,
        }
    }
}

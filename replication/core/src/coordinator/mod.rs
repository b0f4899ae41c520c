//! The coordinator of one attached shard: numbers writes, keeps every acknowledged write on the whole in-sync set, reads
//! under leases, takes over and reconciles, drops members by way of Raft. Rules W, R, F, T and §5, §7 of docs/protocol.md.
//!
//! It keeps nothing authoritative: its record is a copy of Raft's, and a restart is a new attach with a new term.
//!
//! | file | decides |
//! | --- | --- |
//! | `takeover.rs` | sealing the set, reconciling what differs |
//! | `io.rs` | client requests: locks, splitting, merging of partial blocks, answers |
//! | `write.rs` | numbering, sending, completing writes; the watermark |
//! | `space.rs` | is there room on every member, before a write gets its number |
//! | `read.rs` | choosing a member, verifying, delivering under leases |
//! | `lease.rs` | leases and signs of life |
//! | `membership.rs` | suspects, drops, records, fencing |
//! | `sync/` | bringing a member back in |
//! | `stop.rs` | the end of an attachment: what it waits for, what it gives back |
//! | `scrub.rs` | reading and comparing everything, now and then |
//! | `pace.rs` | how fast both may go |
//! | `width.rs` | how much of copying is on its way at once |
//! | `link.rs` | requests to members, repeated until answered |

mod io;
mod lease;
mod link;
mod membership;
mod pace;
mod read;
mod scrub;
mod space;
mod stop;
mod sync;
mod takeover;
mod types;
mod width;
mod write;

pub use scrub::ScrubStatus;
pub use stop::{Draining, WaitsFor};
pub use sync::SyncStage;
pub use types::*;

use crate::message::Envelope;
use crate::range_lock::RangeLock;
use crate::timing;
use hf_policy::{Rid, Tick, Ver};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What every handler of an input is given: the moment of the step, and where its outputs go.
pub(crate) struct Cx<'a> {
    /// The moment of the step, on the driver's monotonic clock. It does not change within a step.
    pub now: Tick,
    /// The driver's list of outputs, to which this step appends.
    pub out: &'a mut Vec<Output>,
}

/// One shard's coordinator.
pub struct Coordinator {
    cfg: Config,
    record: Record,
    phase: Phase,
    members: BTreeMap<Rid, Member>,
    seq: u64,
    stable: Ver,
    next_id: u64,
    locks: RangeLock,
    /// Requests that wait for the volume to serve.
    queued: VecDeque<(ClientId, ClientOp)>,
    requests: BTreeMap<u64, io::Request>,
    writes: BTreeMap<u64, write::Write>,
    /// Refused writes that wait to be tried again.
    again: Vec<write::Again>,
    /// The most that writes on their way may allocate, in bytes.
    owed: hf_policy::Space,
    /// Requests that wait for room which writes in flight are counted at.
    blocked: Vec<u64>,
    reads: BTreeMap<u64, read::Read>,
    pending: BTreeMap<u64, link::Pending>,
    proposal: Option<membership::Proposal>,
    suspects: BTreeSet<Rid>,
    takeover: takeover::Takeover,
    sync: Option<sync::Sync>,
    sync_retry: sync::Retry,
    put_off: Option<sync::PutOff>,
    sync_count: u64,
    permit: sync::Permit,
    scrub: Option<scrub::Scrub>,
    pace: pace::Pace,
    width: width::Width,
    last_read: Tick,
    next_lease: Tick,
    /// The newest question about leases.
    asked: u64,
    next_tick: Tick,
    turn: u64,
    stop: stop::Stop,
    stats: Stats,
}

impl Coordinator {
    /// A coordinator for a record that an `Attach` of this session has just made.
    pub fn new(now: Tick, cfg: Config, record: Record, out: &mut Vec<Output>) -> Coordinator {
        let members = record.everybody().map(|(rid, m)| (rid, Member::new(m))).collect();
        let pace = pace::Pace::new(cfg.rebuild_impact);
        let mut c = Coordinator {
            cfg,
            record,
            phase: Phase::Sealing,
            members,
            seq: 0,
            stable: Ver::ZERO,
            next_id: 0,
            locks: RangeLock::default(),
            queued: VecDeque::new(),
            requests: BTreeMap::new(),
            writes: BTreeMap::new(),
            again: Vec::new(),
            owed: hf_policy::Space::NONE,
            blocked: Vec::new(),
            reads: BTreeMap::new(),
            pending: BTreeMap::new(),
            proposal: None,
            suspects: BTreeSet::new(),
            takeover: takeover::Takeover::new(now),
            sync: None,
            sync_retry: Default::default(),
            put_off: None,
            sync_count: 0,
            permit: sync::Permit::None,
            scrub: None,
            pace,
            width: width::Width::new(),
            last_read: now,
            next_lease: now,
            asked: 0,
            next_tick: now,
            turn: 0,
            stop: stop::Stop::No,
            stats: Stats::default(),
        };
        c.drive_seal(&mut Cx { now, out });
        c
    }

    /// Takes one input; everything that follows from it is in `out`.
    pub fn step(&mut self, now: Tick, input: Input, out: &mut Vec<Output>) {
        if self.next_deadline().is_some_and(|d| now.since(d) > PAUSED) {
            self.restart_clocks(now);
        }
        let cx = &mut Cx { now, out };
        match input {
            Input::Client { id, op } => self.client(id, op, cx),
            Input::GiveUp { id } => self.give_up(id, cx),
            Input::Message { rid, env, msg } => self.message(rid, env, msg, cx),
            Input::Waits { reqs } => self.waits(now, &reqs),
            Input::PeerUp { rid, boot } => self.peer_up(rid, boot, cx),
            Input::PeerDown { rid } => self.peer_down(now, rid),
            Input::Record(r) => self.on_record(r, cx),
            Input::Proposed(p) => self.on_proposed(p, cx),
            Input::SyncGo => self.place_granted(cx),
            Input::Stop => self.stop(cx),
            Input::Tick => {}
        }
        self.settle(cx);
    }

    /// After every input: deadlines, and what became possible. Cheap when nothing is due.
    fn settle(&mut self, cx: &mut Cx) {
        if self.phase == Phase::Fenced {
            return;
        }
        if cx.now >= self.next_tick {
            self.next_tick = cx.now.plus(TICK);
            self.expire(cx);
            self.suspect_silent(cx.now);
            self.drive_again(cx);
            self.drive_takeover(cx);
            self.drive_leases(cx);
        }
        self.pace.run(cx.now, self.sync.is_some() || (self.scrubbing() && !self.record.scrub_paused));
        self.drive_sync(cx);
        self.drive_scrub(cx);
        self.drive_membership(cx);
        self.drive_stop(cx);
    }

    /// When the driver should step with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Tick> {
        match self.phase {
            Phase::Fenced => None,
            Phase::Serving
                if self.pending.is_empty()
                    && self.reads.is_empty()
                    && self.again.is_empty()
                    && self.suspects.is_empty()
                    && self.queued.is_empty()
                    && self.sync.is_none()
                    && self.record.scrub.is_none() =>
            {
                let retry = self.sync_retry.values().map(|(at, _)| *at).min();
                Some(retry.map_or(self.next_lease, |r| r.min(self.next_lease)).max(self.next_tick))
            }
            _ => Some(self.next_tick),
        }
    }

    /// Whose replies are matched: requests carry this.
    pub(crate) fn envelope(&self, rid: Rid, req: u64) -> Envelope {
        Envelope {
            cluster: self.cfg.cluster,
            shard: self.cfg.shard,
            rid,
            store_uuid: self.members.get(&rid).map(|m| m.info.store_uuid).unwrap_or_default(),
            lineage: self.record.lineage,
            term: self.record.term,
            session: self.cfg.session,
            req,
            boot: self.members.get(&rid).map(|m| m.boot).unwrap_or_default(),
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The members whose acknowledgement every write needs: the committed in-sync set and who is joining it (I2). A member
    /// whose drop is proposed counts until the commit is seen (I3).
    fn required(&self) -> BTreeSet<Rid> {
        self.record.in_sync.keys().copied().chain(self.joining()).collect()
    }

    /// Where it stands, for people and metrics.
    pub fn status(&self) -> Status {
        Status {
            phase: self.phase,
            term: self.record.term,
            epoch: self.record.epoch,
            in_sync: self.record.in_sync.len() as u32,
            outstanding: (self.requests.len() + self.queued.len()) as u32,
            draining: self.draining(),
            stable: self.stable,
            reconciled_blocks: self.takeover.copied,
            out: self.record.out.len() as u32,
            sync: self.sync_status(),
            scrub: self.scrub_status(),
            pace: self.pace.rate(),
            pace_p99: self.pace.measured,
            stats: self.stats,
        }
    }

    /// Asserts what must hold between steps; for the simulator.
    pub fn check(&self) -> Result<(), String> {
        for (seq, w) in &self.writes {
            if w.waiting.is_empty() && !w.held {
                return Err(format!("write {seq} waits for nobody and is not answered"));
            }
            let known =
                |r: &Rid| self.record.in_sync.contains_key(r) || self.sync.as_ref().is_some_and(|s| s.rid == *r);
            if !w.waiting.iter().all(known) {
                return Err(format!("write {seq} waits for a member that is out"));
            }
        }
        if self.stable.term == self.record.term && self.stable.seq.0 > self.seq {
            return Err("the watermark leads".into());
        }
        Ok(())
    }

    /// The volume was resized; requests beyond the end are refused by the new size from now on.
    pub fn set_blocks(&mut self, blocks: u64) {
        self.cfg.blocks = blocks;
    }

    /// Replicas have come or gone: members by nearness to the attached node, nearest first.
    pub fn set_nearest(&mut self, nearest: Vec<Rid>) {
        self.cfg.nearest = nearest;
    }

    /// New values of what the policy changes online.
    pub fn set_policy(&mut self, p: &hf_policy::Policy) {
        self.cfg.min_replicas = p.min_replicas;
        self.cfg.replica_timeout = p.replica_timeout;
        self.cfg.read_from = p.read_from;
        self.cfg.strict_reads = p.strict_reads;
        self.cfg.rebuild_impact = p.rebuild_impact;
        self.pace.impact = p.rebuild_impact;
    }
}

/// The grain of deadlines while something is outstanding, in microseconds.
const TICK: u64 = 20 * hf_policy::MS;

/// A deadline missed by this much means that this process was paused.
const PAUSED: u64 = 1_500 * hf_policy::MS;

const _: () = assert!(timing::DEAD > timing::LEASE_AT_REPLICA);

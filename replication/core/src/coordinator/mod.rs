//! The coordinator of one attached shard: numbers writes, keeps every acknowledged write on the
//! whole in-sync set, reads under leases, takes over and reconciles, drops members by way of Raft.
//! Rules W, R, F, T and §5, §7 of docs/protocol.md.
//!
//! It keeps nothing authoritative: its record is a copy of Raft's, and a restart is a new attach
//! with a new term.
//!
//! | file | holds and decides |
//! | --- | --- |
//! | `members.rs` | the replicas: links, processes, suspects, the open proposal |
//! | `membership.rs` | drops, records, fencing |
//! | `pending.rs` | requests to members, repeated until answered |
//! | `why.rs` | the reason for which a member is dropped |
//! | `answers.rs` | what a member's reply means, and whom it is for |
//! | `requests/` | client requests: locks, splitting, merging of partial blocks, room, writes, reads |
//! | `leases.rs` | leases and signs of life |
//! | `takeover/` | sealing the set, reconciling what differs |
//! | `sync/` | bringing a replica back in |
//! | `scrub/` | reading and comparing everything, now and then |
//! | `pace.rs` | how fast both may go |
//! | `stop.rs` | the end of an attachment: what it waits for, what it gives back |
//! | `timers.rs` | when to be stepped next |
//! | `check.rs` | what must hold between steps, across all of these |
//!
//! An assertion ([`hf_policy::invariant!`]) is about this crate's own state, never about what a
//! member, a client or a record says. A driver that sees one fail ends the attachment by
//! [`Coordinator::abandon`].

mod answers;
mod check;
mod leases;
mod members;
mod membership;
mod pace;
mod pending;
mod requests;
mod scrub;
mod stop;
mod sync;
mod takeover;
mod timers;
mod types;
mod why;

pub use scrub::ScrubStatus;
pub use stop::{Draining, WaitsFor};
pub use sync::SyncStage;
pub use types::*;

use crate::message::Envelope;
use crate::timing;
use hf_policy::{Rid, Tick};
use leases::Leases;
use members::Members;
use pace::Pace;
use pending::Pending;
use requests::Requests;
use requests::reads::Reads;
use requests::writes::Writes;
use scrub::Scrub;
use std::collections::BTreeSet;
use sync::Sync;
use takeover::Takeover;
use timers::{Timer, Timers};

/// What every handler of an input is given: the moment of the step, and where its outputs go.
pub(crate) struct Cx<'a> {
    /// The moment of the step, on the driver's monotonic clock. It does not change within a step.
    pub now: Tick,
    /// The driver's list of outputs, to which this step appends.
    pub out: &'a mut Vec<Output>,
}

/// One shard's coordinator. Each part of its state has a type of its own, with its own invariants
/// and `check()`; the coordinator wires them: what one part decides, it carries to the others
/// within the same step.
pub struct Coordinator {
    cfg: Config,
    /// The shard's part of the volume's record, as of the newest epoch that was shown.
    record: Record,
    phase: Phase,
    /// The replicas, and which of them are suspected.
    members: Members,
    /// Client requests and their range locks.
    requests: Requests,
    /// Numbered writes and the watermark.
    writes: Writes,
    /// Reads of members, for clients and for the scrub.
    reads: Reads,
    leases: Leases,
    /// What members were asked and have not answered.
    pending: Pending,
    takeover: Takeover,
    sync: Sync,
    scrub: Scrub,
    /// How fast syncs and scrubs may go.
    pace: Pace,
    timers: Timers,
    stop: stop::Stop,
    /// The last id that was given to a request, a read or a message.
    last_id: u64,
    stats: Stats,
}

impl Coordinator {
    /// A coordinator for a record that an `Attach` of this session has just made.
    pub fn new(now: Tick, cfg: Config, record: Record, out: &mut Vec<Output>) -> Coordinator {
        let mut c = Coordinator {
            members: Members::new(&record),
            pace: Pace::new(cfg.rebuild_impact),
            cfg,
            record,
            phase: Phase::Sealing,
            requests: Requests::default(),
            writes: Writes::default(),
            reads: Reads::new(now),
            leases: Leases::new(now),
            pending: Pending::default(),
            takeover: Takeover::default(),
            sync: Sync::default(),
            scrub: Scrub::default(),
            timers: Timers::new(now),
            stop: stop::Stop::No,
            last_id: 0,
            stats: Stats::default(),
        };
        c.drive_seal(&mut Cx { now, out });
        c.arm();
        c
    }

    /// Takes one input at `now`, on a clock that never goes back; everything that follows from it
    /// is appended to `out`.
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
        self.arm();
    }

    /// After every input: what is due, and what became possible. Cheap when nothing is.
    fn settle(&mut self, cx: &mut Cx) {
        if self.phase == Phase::Fenced {
            return;
        }
        if cx.now >= self.timers.next_round {
            self.timers.next_round = cx.now.plus(timers::ROUND);
            self.expire(cx);
            self.suspect_silent(cx.now);
            self.drive_again(cx);
            self.drive_takeover(cx);
            self.drive_leases(cx);
        }
        self.pace.run(cx.now, self.sync.attempt.is_some() || (self.scrub.is_walking() && !self.record.scrub_paused));
        self.drive_sync(cx);
        self.drive_scrub(cx);
        self.drive_membership(cx);
        self.drive_stop(cx);
    }

    /// When the driver should step with [`Input::Tick`] at the latest, if nothing else happens
    /// before; `None` once the attachment is over. It is a field read: a driver of many shards may
    /// keep them ordered by it.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.timers.next()
    }

    /// Writes down every deadline anew, from what is outstanding now.
    fn arm(&mut self) {
        let t = &mut self.timers;
        if self.phase == Phase::Fenced {
            return t.clear();
        }
        let serving = self.phase == Phase::Serving;
        t.set_round(Timer::TakeOver, !serving);
        t.set_round(Timer::Pending, !self.pending.is_empty());
        t.set_round(Timer::Reads, !self.reads.is_empty());
        t.set_round(Timer::Again, !self.writes.again.is_empty());
        t.set_round(Timer::Suspects, !self.members.suspects.is_empty());
        t.set_round(Timer::Queued, !self.requests.queued.is_empty());
        t.set_round(Timer::Sync, self.sync.attempt.is_some());
        t.set_round(Timer::Scrub, self.record.scrub.is_some());
        t.set(Timer::Leases, serving.then_some(self.leases.next));
        t.set(Timer::Retry, self.sync.next_retry().filter(|_| serving));
    }

    /// What every message to this replica carries; its replies are matched by it. `req` is 0 if no
    /// reply is matched.
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

    /// An id that no request, read or message of this attachment has had.
    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The members whose acknowledgement every write needs: the committed in-sync set and who is
    /// joining it (I2). A member whose drop is proposed counts until the commit is seen (I3).
    fn required(&self) -> BTreeSet<Rid> {
        self.required_ids().collect()
    }

    /// The same, the joining one last.
    fn required_ids(&self) -> impl Iterator<Item = Rid> {
        self.record.in_sync.keys().copied().chain(self.joining())
    }

    /// Where it stands, for people and metrics.
    pub fn status(&self) -> Status {
        Status {
            phase: self.phase,
            unsealed: self.unsealed(),
            term: self.record.term,
            epoch: self.record.epoch,
            in_sync: self.record.in_sync.len() as u32,
            outstanding: self.requests.unanswered() as u32,
            draining: self.draining(),
            stable: self.writes.stable,
            reconciled_blocks: self.takeover.copied,
            out: self.record.out.len() as u32,
            sync: self.sync_status(),
            scrub: self.scrub_status(),
            pace: self.pace.rate(),
            pace_p99: self.pace.measured,
            stats: self.stats,
        }
    }

    /// Bytes that client reads delivered, and bytes that client writes and zeroes covered, since the attachment began.
    pub fn bytes(&self) -> (u64, u64) {
        (self.stats.read_bytes, self.stats.write_bytes)
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

/// A deadline missed by this much means that this process was paused.
const PAUSED: u64 = 1_500 * hf_policy::MS;

const _: () = assert!(timing::DEAD > timing::LEASE_AT_REPLICA);

//! The attached volumes of a reactor: one coordinator per shard, requests split at shard borders and joined
//! by their worst part, record changes, draining and fencing. A value: work items in, work items and events
//! out through the queue.

use super::due::Due;
use super::intake::Intake;
use super::record::{nearest, record_of};
use super::requests::{Callback, ConnectionId, Requests};
use super::syncs::Syncs;
use crate::event::{Event, Identity};
use crate::latency::{Latency, Recorder};
use crate::work::{Work, WorkQueue};
use hf_host_config::clock::now;
use hf_meta_core::ClusterState;
use hf_meta_core::record::VolumeRecord;
use hf_policy::{BLOCK_BYTES, BootId, DiskId, Rid, SHARD_BYTES, SessionId, ShardId, Term, Tick, VolumeId};
use hf_repl::budget::Budget;
use hf_repl_core::coordinator::{self as co, ClientOp};
use hf_repl_core::flow;
use hf_repl_core::{Coordinator, IoError};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// Tells whether a disk can be reached, and the process that has it: this one, or the one at the other end of a link.
pub(crate) type Reach<'a> = &'a dyn Fn(DiskId) -> Option<BootId>;

/// One attached volume.
pub(super) struct VolumeHost {
    pub vol: VolumeId,
    pub session: SessionId,
    /// The revision of the volume's record that its coordinators have seen.
    rev: u64,
    /// Microseconds that a member may leave a request unanswered.
    replica_timeout: u64,
    pub shards: Vec<Coordinator>,
    /// When each of them is looked at next ([`Due`]).
    armed: Vec<Option<Tick>>,
    disks: BTreeMap<(u32, Rid), DiskId>,
    ready: usize,
    drained: BTreeSet<u32>,
    /// It was asked to end: nobody may connect any more, and it does not grow.
    stopping: bool,
    pub requests: Requests,
    /// What clients have in flight. Closed when the attachment ends: then every connection answers what is
    /// left, and ends.
    pub intake: Rc<Intake>,
    pub over: bool,
}

/// See the module.
pub(crate) struct Volumes {
    node: Identity,
    state: Arc<ClusterState>,
    budget: Budget,
    pub(super) all: BTreeMap<VolumeId, VolumeHost>,
    /// Syncs that go on here, and those that wait for one to end.
    syncs: Syncs,
    due: Due,
    /// How long the requests of attachments took that are over.
    pub(super) ended: Rc<RefCell<Latency>>,
    /// The node stops: no client is served any more.
    stopping: bool,
}

impl Volumes {
    pub fn new(node: Identity, budget: Budget) -> Volumes {
        let state = Arc::new(ClusterState::default());
        Volumes {
            node,
            state,
            budget,
            all: BTreeMap::new(),
            syncs: Syncs::default(),
            due: Due::default(),
            ended: Rc::default(),
            stopping: false,
        }
    }

    /// Begins to coordinate a volume, if the record names this attachment.
    pub fn start(&mut self, vol: VolumeId, session: SessionId, reach: Reach, queue: &mut WorkQueue) {
        let state = self.state.clone();
        let Some(v) = state.volumes.get(&vol) else { return };
        if self.all.get(&vol).is_some_and(|h| h.session == session)
            || v.coordinator.as_ref().is_none_or(|a| a.session != session)
        {
            return;
        }
        self.drop_volume(vol, queue);
        let host = VolumeHost {
            vol,
            session,
            rev: v.rev,
            replica_timeout: 0,
            shards: Vec::new(),
            armed: Vec::new(),
            disks: BTreeMap::new(),
            ready: 0,
            drained: BTreeSet::new(),
            stopping: false,
            requests: Requests::default(),
            // Until the policy is known.
            intake: Intake::new(1, self.budget.account(), Recorder::new(self.ended.clone())),
            over: false,
        };
        if self.stopping {
            host.intake.close();
        }
        self.all.insert(vol, host);
        self.add_shards(v, reach, queue);
    }

    /// Coordinators for shards that have none yet.
    fn add_shards(&mut self, v: &VolumeRecord, reach: Reach, queue: &mut WorkQueue) {
        let Ok(policy) = v.policy() else { return };
        let (id, state) = (self.node, self.state.clone());
        let Some(h) = self.all.get_mut(&v.id) else { return };
        h.intake.set_shape(h.intake.size(), policy.read_only);
        h.replica_timeout = policy.replica_timeout;
        h.intake.slots.set_most(u64::from(policy.queue_depth));
        if h.stopping {
            return;
        }
        let first = h.shards.len() as u32;
        let mut started = Vec::new();
        for index in first..v.shards.len() as u32 {
            // The record comes again when it has been made, and is part of the volume.
            if !v.has_begun(index) {
                break;
            }
            for r in v.shards[index as usize].replicas.values() {
                h.disks.insert((index, r.rid), r.disk);
            }
            let shard = ShardId { vol: v.id, index };
            let cfg = co::Config {
                cluster: id.cluster,
                shard,
                session: h.session,
                node: id.node,
                blocks: v.shard_bytes(index) / BLOCK_BYTES,
                min_replicas: policy.min_replicas,
                replica_timeout: policy.replica_timeout,
                read_from: policy.read_from,
                strict_reads: policy.strict_reads,
                rebuild_impact: policy.rebuild_impact,
                nearest: nearest(&state, v, index, &id),
            };
            let mut out = Vec::new();
            h.shards.push(Coordinator::new(now(), cfg, record_of(v, index), &mut out));
            h.armed.push(None);
            h.arm(index, &mut self.due);
            started.push((shard, out));
        }
        // Only what has a coordinator: a request for more than that would wait for nobody.
        h.intake.set_shape((h.shards.len() as u64 * SHARD_BYTES).min(v.size), policy.read_only);
        for (shard, out) in started {
            self.outputs(shard, out, queue);
            self.tell_links(shard, reach, queue);
        }
    }

    /// Tells a new coordinator which of its members' disks can be reached.
    fn tell_links(&self, shard: ShardId, reach: Reach, queue: &mut WorkQueue) {
        let Some(h) = self.all.get(&shard.vol) else { return };
        let members = h.disks.range((shard.index, Rid(0))..).take_while(|((index, _), _)| *index == shard.index);
        members.for_each(|((_, rid), disk)| tell_link(shard, *rid, *disk, reach, queue));
    }

    /// The disks that the volumes here have replicas on.
    pub fn disks(&self) -> BTreeSet<DiskId> {
        self.all.values().flat_map(|h| h.disks.values().copied()).collect()
    }

    /// The record has changed: every coordinator hears of it.
    pub fn follow(&mut self, state: Arc<ClusterState>, reach: Reach, queue: &mut WorkQueue) {
        self.state = state.clone();
        let vols: Vec<VolumeId> = self.all.keys().copied().collect();
        for vol in vols {
            let Some(v) = state.volumes.get(&vol) else {
                self.drop_volume(vol, queue);
                continue;
            };
            let Ok(policy) = v.policy() else { continue };
            // A commit costs what it changed.
            let Some(h) = self.all.get_mut(&vol).filter(|h| h.rev != v.rev) else { continue };
            h.rev = v.rev;
            for (i, c) in h.shards.iter_mut().enumerate() {
                c.set_blocks(v.shard_bytes(i as u32) / BLOCK_BYTES);
                c.set_policy(policy);
            }
            let n = h.shards.len() as u32;
            let before = h.disks.len();
            let new = h.follow_replicas(v);
            if !new.is_empty() || before != h.disks.len() {
                // A member that came later may be nearer.
                for (i, c) in h.shards.iter_mut().enumerate().filter(|(i, _)| *i < v.shards.len()) {
                    c.set_nearest(nearest(&state, v, i as u32, &self.node));
                }
            }
            let disks: Vec<_> = new.into_iter().filter_map(|k| Some((k, *h.disks.get(&k)?))).collect();
            if v.coordinator.as_ref().is_some_and(|a| a.session == h.session) {
                self.add_shards(v, reach, queue);
            }
            for index in 0..n {
                let input = co::Input::Record(record_of(v, index));
                queue.push(Work::Shard(ShardId { vol, index }, input));
            }
            for ((index, rid), disk) in disks.into_iter().filter(|((index, _), _)| *index < n) {
                tell_link(ShardId { vol, index }, rid, disk, reach, queue);
            }
        }
    }

    /// Handles one input of a shard's coordinator. `waits` tells which requests wait for their turn on a link
    /// that moves.
    pub fn step(
        &mut self,
        shard: ShardId,
        input: co::Input,
        waits: impl Fn(Tick, DiskId, &flow::Key, u64) -> bool,
        queue: &mut WorkQueue,
    ) {
        let t = now();
        let Some(h) = self.all.get_mut(&shard.vol) else { return };
        let (session, patience) = (h.session, h.patience());
        let Some(c) = h.shards.get_mut(shard.index as usize) else { return };
        let mut out = Vec::new();
        let mut reqs = c.overdue(t);
        let disks = &h.disks;
        reqs.retain(|(rid, req)| {
            let disk = disks.get(&(shard.index, *rid));
            disk.is_some_and(|d| waits(t, *d, &(shard, *rid, session, *req), patience))
        });
        if !reqs.is_empty() {
            c.step(t, co::Input::Waits { reqs }, &mut out);
        }
        c.step(t, input, &mut out);
        h.arm(shard.index, &mut self.due);
        self.outputs(shard, out, queue);
    }

    fn outputs(&mut self, shard: ShardId, out: Vec<co::Output>, queue: &mut WorkQueue) {
        for o in out {
            match o {
                co::Output::Send { rid, env, msg } => {
                    let Some(disk) = self.disk_of(shard, rid) else { continue };
                    queue.push(Work::Send { disk, env, msg });
                }
                co::Output::Forget { rid, req } => {
                    let Some(h) = self.all.get(&shard.vol) else { continue };
                    let Some(disk) = h.disks.get(&(shard.index, rid)) else { continue };
                    queue.push(Work::Forget { disk: *disk, key: (shard, rid, h.session, req) });
                }
                co::Output::Propose { epoch, term, change } => {
                    let Some(session) = self.all.get(&shard.vol).map(|h| h.session) else { continue };
                    queue.tell(Event::Propose { shard, session, epoch, term, change });
                }
                co::Output::WantSync { urgent } => self.syncs.want(shard, urgent),
                co::Output::SyncOver => self.syncs.over(|s| *s == shard),
                co::Output::Reply { id, result } => {
                    if let Some(h) = self.all.get_mut(&shard.vol) {
                        h.requests.part_done(id, result);
                    }
                }
                co::Output::Ready => self.shard_ready(shard.vol, queue),
                co::Output::Fenced => self.fence(shard.vol, queue),
                co::Output::Drained => self.shard_drained(shard, queue),
            }
        }
    }

    fn disk_of(&self, shard: ShardId, rid: Rid) -> Option<DiskId> {
        self.all.get(&shard.vol)?.disks.get(&(shard.index, rid)).copied()
    }

    fn shard_ready(&mut self, vol: VolumeId, queue: &mut WorkQueue) {
        let Some(h) = self.all.get_mut(&vol) else { return };
        h.ready += 1;
        if h.ready == h.shards.len() {
            let term = h.shards.first().map_or(Term(0), |c| c.status().term);
            queue.tell(Event::Ready { vol, session: h.session, term });
        }
    }

    /// Over for good: clients get their last answers, and this attachment is never served again (I19).
    pub fn fence(&mut self, vol: VolumeId, queue: &mut WorkQueue) {
        if let Some(h) = self.all.get_mut(&vol).filter(|h| !h.over) {
            h.over = true;
            h.intake.close();
            queue.tell(Event::Fenced { vol, session: h.session });
        }
    }

    /// An invariant of our own code did not hold in a step of this volume. What memory says of it may be
    /// wrong, so its coordinators do nothing more: the attachment is fenced.
    pub fn give_up_volume(&mut self, vol: VolumeId, why: &str, queue: &mut WorkQueue) {
        tracing::error!(volume = %vol, "attachment fenced: {why}");
        self.fence(vol, queue);
        if let Some(h) = self.all.get_mut(&vol) {
            h.shards.clear();
            h.armed.clear();
            h.requests.end_all();
        }
        self.syncs.over(|s| s.vol == vol);
        queue.push(Work::ForgetUnwanted);
    }

    fn shard_drained(&mut self, shard: ShardId, queue: &mut WorkQueue) {
        let Some(h) = self.all.get_mut(&shard.vol) else { return };
        h.drained.insert(shard.index);
        if h.drained.len() == h.shards.len() {
            queue.tell(Event::Drained { vol: shard.vol, session: h.session });
        }
    }

    fn drop_volume(&mut self, vol: VolumeId, queue: &mut WorkQueue) {
        if let Some(mut h) = self.all.remove(&vol) {
            self.syncs.over(|s| s.vol == vol);
            queue.push(Work::ForgetUnwanted);
            h.over = true;
            h.intake.close();
            h.intake.set_shape(0, true);
            h.requests.end_all();
            h.intake.latency.hand_over();
        }
    }

    /// A client's request, in bytes of the volume. `done` is called exactly once.
    pub fn client(&mut self, vol: VolumeId, from: ConnectionId, op: ClientOp, done: Callback, queue: &mut WorkQueue) {
        let Some(h) = self.all.get_mut(&vol).filter(|h| !h.over) else { return done(Err(IoError::Fenced)) };
        for (index, id, op) in h.requests.begin(from, op, done) {
            queue.push(Work::Shard(ShardId { vol, index }, co::Input::Client { id, op }));
        }
    }

    /// A connection is gone: nobody waits for its answers.
    pub fn give_up(&self, vol: VolumeId, from: ConnectionId, queue: &mut WorkQueue) {
        let Some(h) = self.all.get(&vol) else { return };
        for (index, id) in h.requests.of(from) {
            queue.push(Work::Shard(ShardId { vol, index }, co::Input::GiveUp { id }));
        }
    }

    /// A link to a disk is up: the process at its other end.
    pub fn link_up(&self, disk: DiskId, boot: BootId, queue: &mut WorkQueue) {
        self.members_on(disk).for_each(|(shard, rid)| queue.push(Work::Shard(shard, co::Input::PeerUp { rid, boot })));
    }

    /// A link to a disk is down.
    pub fn link_down(&self, disk: DiskId, queue: &mut WorkQueue) {
        self.members_on(disk).for_each(|(shard, rid)| queue.push(Work::Shard(shard, co::Input::PeerDown { rid })));
    }

    fn members_on(&self, disk: DiskId) -> impl Iterator<Item = (ShardId, Rid)> {
        self.all.values().flat_map(move |h| {
            let here = h.disks.iter().filter(move |(_, d)| **d == disk);
            here.map(|((index, rid), _)| (ShardId { vol: h.vol, index: *index }, *rid))
        })
    }

    /// Has an attached volume a replica on this disk?
    pub fn needs(&self, disk: DiskId) -> bool {
        self.all.values().any(|h| !h.over && h.disks.values().any(|d| *d == disk))
    }

    /// Does a coordinator here wait for the answer to this request?
    pub fn wants(&self, key: &flow::Key) -> bool {
        let (shard, _, session, req) = key;
        let h = self.all.get(&shard.vol).filter(|h| h.session == *session && !h.over);
        h.and_then(|h| h.shards.get(shard.index as usize)).is_some_and(|c| c.wants(*req))
    }

    /// Coordinators for which a deadline has passed hear so.
    pub fn tick(&mut self, now: Tick, queue: &mut WorkQueue) {
        while let Some((at, shard)) = self.due.pop(now) {
            let Some(h) = self.all.get_mut(&shard.vol) else { continue };
            let (i, deadline) = (shard.index as usize, h.deadline(shard.index));
            if h.armed.get(i).copied().flatten() != Some(at) {
                continue;
            }
            h.armed[i] = None;
            if deadline.is_some_and(|d| d <= now) {
                // The step enters its next deadline.
                queue.push(Work::Shard(shard, co::Input::Tick));
            } else {
                h.arm(shard.index, &mut self.due);
            }
        }
        let shards = self.all.values().map(|h| h.shards.len()).sum();
        let live = |(at, shard): &(Tick, ShardId)| {
            let h = self.all.get(&shard.vol);
            h.and_then(|h| h.armed.get(shard.index as usize)).copied().flatten() == Some(*at)
        };
        self.due.tidy(shards, live);
    }

    /// The next sync that may begin.
    pub fn next_sync(&mut self) -> Option<ShardId> {
        self.syncs.next()
    }

    /// A proposal's outcome, for the attachment that made it.
    pub fn proposed(&self, shard: ShardId, session: SessionId, outcome: co::Proposed, queue: &mut WorkQueue) {
        if self.all.get(&shard.vol).is_some_and(|h| h.session == session) {
            queue.push(Work::Shard(shard, co::Input::Proposed(outcome)));
        }
    }

    /// Where the clients of a volume come in, unless no more may come.
    pub fn intake(&self, vol: VolumeId) -> Option<Rc<Intake>> {
        self.all.get(&vol).map(|h| h.intake.clone()).filter(|i| !i.is_closing())
    }

    /// Clients may come, or those that are here end with their last answers and nobody may.
    pub fn set_exported(&mut self, vol: VolumeId, session: SessionId, on: bool) {
        let Some(h) = self.all.get_mut(&vol).filter(|h| h.session == session && !h.over) else { return };
        if on && !self.stopping {
            if h.intake.is_closing() && !h.stopping {
                h.intake = h.intake.again();
            }
        } else {
            h.intake.close();
        }
    }

    /// The node stops: every connection answers what is in flight, and ends.
    pub fn stop_clients(&mut self) {
        self.stopping = true;
        self.all.values().for_each(|h| h.intake.close());
    }

    /// Ends an attachment's client sessions; what is outstanding is carried out, then [`Event::Drained`] is said.
    pub fn stop(&mut self, vol: VolumeId, session: SessionId, queue: &mut WorkQueue) {
        let Some(h) = self.all.get_mut(&vol).filter(|h| h.session == session) else { return };
        h.stopping = true;
        h.intake.close();
        for index in 0..h.shards.len() as u32 {
            queue.push(Work::Shard(ShardId { vol, index }, co::Input::Stop));
        }
    }
}

/// Tells a coordinator that a member's disk can be reached, if it can.
fn tell_link(shard: ShardId, rid: Rid, disk: DiskId, reach: Reach, queue: &mut WorkQueue) {
    if let Some(boot) = reach(disk) {
        queue.push(Work::Shard(shard, co::Input::PeerUp { rid, boot }));
    }
}

impl VolumeHost {
    /// Replicas come and go; returns the new ones.
    fn follow_replicas(&mut self, v: &VolumeRecord) -> Vec<(u32, Rid)> {
        let now: BTreeMap<(u32, Rid), DiskId> = v.replicas().map(|(shard, r)| ((shard.index, r.rid), r.disk)).collect();
        let new = now.keys().filter(|k| !self.disks.contains_key(k)).copied().collect();
        self.disks = now;
        new
    }

    fn deadline(&self, index: u32) -> Option<Tick> {
        self.shards.get(index as usize)?.next_deadline()
    }

    #[inline]
    fn arm(&mut self, index: u32, due: &mut Due) {
        let shard = ShardId { vol: self.vol, index };
        if let (Some(c), Some(armed)) = (self.shards.get(index as usize), self.armed.get_mut(index as usize)) {
            due.arm(shard, c.next_deadline(), armed);
        }
    }

    /// Microseconds without any movement after which a request does not wait any more. Less than half the
    /// timeout, at which requests are looked at: a member that freezes is dropped after one timeout, not two.
    fn patience(&self) -> u64 {
        self.replica_timeout / 8 * 3
    }
}

//! An attached volume on its reactor: one coordinator per shard, requests split at shard boundaries and joined by their worst
//! part, record changes, draining and fencing.

use super::Event;
use super::core::{Core, CoreRef, LOCAL, Work, now};
use super::intake::Intake;
use super::shard_record::{nearest, record_of};
use bytes::Bytes;
use hf_meta_core::record::VolumeRecord;
use hf_policy::{BLOCK_BYTES, DiskId, Rid, SHARD_BYTES, SessionId, ShardId, Term, Tick, VolumeId};
use hf_repl_core::coordinator::{self as co, ClientOp, ClientReply};
use hf_repl_core::{Coordinator, IoError};
use std::collections::BTreeMap;
use std::rc::Rc;

/// How a client's request ended.
pub(super) type Result_ = Result<ClientReply, IoError>;
type Callback = Box<dyn FnOnce(Result_)>;

/// Names a client's connection on its reactor.
pub(super) type ConnectionId = u64;

/// A request that was split over shards.
struct Join {
    /// The connection that it came over.
    from: ConnectionId,
    left: usize,
    parts: Vec<Option<ClientReply>>,
    worst: Option<IoError>,
    /// It changes the volume.
    writes: bool,
    done: Callback,
}

/// An attached volume, for status and metrics.
#[derive(Clone, Debug)]
pub struct VolumeStatus {
    /// Which.
    pub vol: VolumeId,
    /// The attachment.
    pub session: SessionId,
    /// Per shard.
    pub shards: Vec<co::Status>,
    /// NBD connections.
    pub connections: usize,
    /// Requests of all of them in flight.
    pub requests: u64,
    /// Bytes of payload held for them.
    pub payload: u64,
    /// Requests in flight that change the volume.
    pub writes: usize,
}

pub(super) struct VolumeHost {
    pub vol: VolumeId,
    pub session: SessionId,
    pub size: u64,
    pub read_only: bool,
    /// Microseconds that a member may leave a request unanswered.
    replica_timeout: u64,
    shards: Vec<Coordinator>,
    disks: BTreeMap<(u32, Rid), DiskId>,
    ready: usize,
    drained: std::collections::BTreeSet<u32>,
    /// It was asked to end: nobody may connect any more, and it does not grow.
    stopping: bool,
    joins: BTreeMap<u64, Join>,
    /// Part of a join: client id to (join, part, shard index).
    parts: BTreeMap<u64, (u64, usize, u32)>,
    next: u64,
    /// What clients have in flight. Closed when the attachment ends: then every connection answers what is left, and ends.
    pub intake: Rc<Intake>,
    pub over: bool,
}

/// Begins to coordinate a volume: the record names this node and this session.
pub(super) fn start(core: &CoreRef, vol: VolumeId, session: SessionId) {
    let wanted: Vec<DiskId> = {
        let mut c = core.borrow_mut();
        let Some(v) = c.state.volumes.get(&vol).cloned() else { return };
        if c.volumes.get(&vol).is_some_and(|h| h.session == session)
            || v.coordinator.as_ref().is_none_or(|a| a.session != session)
        {
            return;
        }
        c.drop_volume(vol);
        let account = c.budget.account();
        let host = VolumeHost {
            vol,
            session,
            size: 0,
            read_only: false,
            replica_timeout: 0,
            shards: Vec::new(),
            disks: BTreeMap::new(),
            ready: 0,
            drained: Default::default(),
            stopping: false,
            joins: BTreeMap::new(),
            parts: BTreeMap::new(),
            next: 0,
            // Until the policy is known.
            intake: Intake::new(1, account),
            over: false,
        };
        if c.stopping {
            host.intake.close();
        }
        c.volumes.insert(vol, host);
        c.add_shards(&v);
        c.remote_disks(vol)
    };
    wanted.into_iter().for_each(|d| super::links::ensure(core, d));
}

impl Core {
    /// Coordinators for shards that have none yet.
    fn add_shards(&mut self, v: &VolumeRecord) {
        let Ok(policy) = v.policy() else { return };
        let (id, state) = (self.id, self.state.clone());
        let Some(h) = self.volumes.get_mut(&v.id) else { return };
        h.read_only = policy.read_only;
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
            started.push((shard, out));
        }
        // Only what has a coordinator: a request for more than that would wait for nobody.
        h.size = (h.shards.len() as u64 * hf_policy::SHARD_BYTES).min(v.size);
        for (shard, out) in started {
            self.outputs(shard, out);
            self.tell_links(shard);
        }
        self.drain();
    }

    /// Tells a new coordinator which of its members' links are up.
    fn tell_links(&mut self, shard: ShardId) {
        let Some(h) = self.volumes.get(&shard.vol) else { return };
        let members: Vec<Rid> = h.disks.keys().filter(|(s, _)| *s == shard.index).map(|(_, r)| *r).collect();
        members.into_iter().for_each(|rid| self.tell_link(shard, rid));
    }

    fn tell_link(&mut self, shard: ShardId, rid: Rid) {
        let Some(disk) = self.disk_of(shard, rid) else { return };
        let boot = if self.disks.contains_key(&disk) {
            Some(self.id.boot)
        } else {
            self.peers.0.get(&disk).filter(|p| p.queue.is_some()).map(|p| p.boot)
        };
        if let Some(boot) = boot {
            self.work.push_back(Work::Coordinator { shard, input: co::Input::PeerUp { rid, boot } });
        }
    }

    pub(super) fn remote_disks(&self, vol: VolumeId) -> Vec<DiskId> {
        let Some(h) = self.volumes.get(&vol) else { return Vec::new() };
        h.disks.values().copied().filter(|d| !self.disks.contains_key(d)).collect()
    }

    /// The record moved: every coordinator hears of it.
    pub(super) fn records_changed(&mut self) {
        let state = self.state.clone();
        let vols: Vec<VolumeId> = self.volumes.keys().copied().collect();
        for vol in vols {
            let Some(v) = state.volumes.get(&vol) else {
                self.drop_volume(vol);
                continue;
            };
            let Ok(policy) = v.policy() else { continue };
            let Some(h) = self.volumes.get_mut(&vol) else { continue };
            for (i, c) in h.shards.iter_mut().enumerate() {
                c.set_blocks(v.shard_bytes(i as u32) / BLOCK_BYTES);
                c.set_policy(policy);
            }
            let n = h.shards.len() as u32;
            let before = h.disks.len();
            let new = h.follow_replicas(v);
            if !new.is_empty() || before != h.disks.len() {
                // Who came later may be nearer.
                for (i, c) in h.shards.iter_mut().enumerate().filter(|(i, _)| *i < v.shards.len()) {
                    c.set_nearest(nearest(&state, v, i as u32, &self.id));
                }
            }
            if v.coordinator.as_ref().is_some_and(|a| a.session == h.session) {
                self.add_shards(v);
            }
            for index in 0..n {
                let shard = ShardId { vol, index };
                let input = co::Input::Record(record_of(v, index));
                self.work.push_back(Work::Coordinator { shard, input });
            }
            for (index, rid) in new.into_iter().filter(|(index, _)| *index < n) {
                self.tell_link(ShardId { vol, index }, rid);
            }
        }
    }

    pub(super) fn coordinator(&mut self, shard: ShardId, input: co::Input) {
        let t = now();
        let reqs = self.waiting(shard, t);
        let Some(h) = self.volumes.get_mut(&shard.vol) else { return };
        let Some(c) = h.shards.get_mut(shard.index as usize) else { return };
        let mut out = Vec::new();
        if !reqs.is_empty() {
            c.step(t, co::Input::Waits { reqs }, &mut out);
        }
        c.step(t, input, &mut out);
        self.outputs(shard, out);
    }

    fn outputs(&mut self, shard: ShardId, out: Vec<co::Output>) {
        for o in out {
            match o {
                co::Output::Send { rid, env, msg } => {
                    let Some(disk) = self.disk_of(shard, rid) else { continue };
                    if self.disks.contains_key(&disk) {
                        self.work.push_back(Work::ToReplica { disk, link: LOCAL, env, msg });
                    } else if let Some(q) = self.peers.0.get(&disk).and_then(|p| p.queue.as_ref()) {
                        q.send(env, msg);
                    }
                }
                co::Output::Forget { rid, req } => {
                    let Some(session) = self.volumes.get(&shard.vol).map(|h| h.session) else { continue };
                    let disk = self.disk_of(shard, rid);
                    if let Some(q) = disk.and_then(|d| self.peers.0.get(&d)).and_then(|p| p.queue.as_ref()) {
                        q.change(|f| f.forget(&(shard, rid, session, req)));
                    }
                }
                co::Output::Propose { epoch, term, change } => {
                    let Some(session) = self.volumes.get(&shard.vol).map(|h| h.session) else { continue };
                    if let co::Change::Drop { rids, .. } = &change {
                        tracing::warn!(volume = %shard.vol, ?rids, "replicas do not answer: asking to drop them");
                    }
                    let _ = self.events.send(Event::Propose { shard, session, epoch, term, change });
                }
                co::Output::WantSync { urgent } => self.syncs.want(shard, urgent),
                co::Output::SyncOver => self.syncs.over(|s| *s == shard),
                co::Output::Reply { id, result } => self.part_done(shard.vol, id, result),
                co::Output::Ready => self.shard_ready(shard.vol),
                co::Output::Fenced => self.fenced(shard.vol),
                co::Output::Drained => self.shard_drained(shard),
            }
        }
    }

    fn shard_ready(&mut self, vol: VolumeId) {
        let Some(h) = self.volumes.get_mut(&vol) else { return };
        h.ready += 1;
        if h.ready == h.shards.len() {
            let term = h.shards.first().map_or(Term(0), |c| c.status().term);
            let _ = self.events.send(Event::Ready { vol, session: h.session, term });
        }
    }

    /// Over for good: clients get their last answers, and this attachment is never served again (I19).
    fn fenced(&mut self, vol: VolumeId) {
        if let Some(h) = self.volumes.get_mut(&vol).filter(|h| !h.over) {
            h.over = true;
            h.intake.close();
            let _ = self.events.send(Event::Fenced { vol, session: h.session });
        }
    }

    fn shard_drained(&mut self, shard: ShardId) {
        let Some(h) = self.volumes.get_mut(&shard.vol) else { return };
        h.drained.insert(shard.index);
        if h.drained.len() == h.shards.len() {
            let _ = self.events.send(Event::Drained { vol: shard.vol, session: h.session });
        }
    }

    fn drop_volume(&mut self, vol: VolumeId) {
        if let Some(mut h) = self.volumes.remove(&vol) {
            self.syncs.over(|s| s.vol == vol);
            self.forget_unwanted();
            h.over = true;
            h.intake.close();
            for j in std::mem::take(&mut h.joins).into_values() {
                (j.done)(Err(IoError::Fenced));
            }
        }
    }

    /// A client's request, in bytes of the volume. `done` is called exactly once.
    pub(super) fn client(&mut self, vol: VolumeId, from: ConnectionId, op: ClientOp, done: Callback) {
        let Some(h) = self.volumes.get_mut(&vol).filter(|h| !h.over) else { return done(Err(IoError::Fenced)) };
        let writes = matches!(op, ClientOp::Write { .. } | ClientOp::Zero { .. });
        let parts = split(op);
        h.next += 1;
        let join = h.next;
        let n = parts.len();
        h.joins.insert(join, Join { from, left: n, parts: vec![None; n], worst: None, writes, done });
        let mut inputs = Vec::new();
        for (i, (index, op)) in parts.into_iter().enumerate() {
            h.next += 1;
            h.parts.insert(h.next, (join, i, index));
            inputs
                .push(Work::Coordinator { shard: ShardId { vol, index }, input: co::Input::Client { id: h.next, op } });
        }
        self.work.extend(inputs);
    }

    /// A connection is gone: nobody waits for its answers.
    pub(super) fn give_up(&mut self, vol: VolumeId, from: ConnectionId) {
        let Some(h) = self.volumes.get(&vol) else { return };
        let of_connection = |join: &u64| h.joins.get(join).is_some_and(|j| j.from == from);
        let parts = h.parts.iter().filter(|(_, (join, ..))| of_connection(join));
        self.work.extend(parts.map(|(id, (_, _, index))| {
            let shard = ShardId { vol, index: *index };
            Work::Coordinator { shard, input: co::Input::GiveUp { id: *id } }
        }));
    }

    fn part_done(&mut self, vol: VolumeId, id: u64, result: Result_) {
        let Some(h) = self.volumes.get_mut(&vol) else { return };
        let Some((join, part, _)) = h.parts.remove(&id) else { return };
        let Some(j) = h.joins.get_mut(&join) else { return };
        match result {
            Ok(r) => j.parts[part] = Some(r),
            Err(e) => j.worst = Some(e),
        }
        j.left -= 1;
        if j.left == 0
            && let Some(j) = h.joins.remove(&join)
        {
            (j.done)(joined(j.parts, j.worst));
        }
    }
}

/// The whole request's outcome: the worst part's, or all parts' bytes in order.
fn joined(parts: Vec<Option<ClientReply>>, worst: Option<IoError>) -> Result_ {
    if let Some(e) = worst {
        return Err(e);
    }
    let mut bytes: Vec<Bytes> = Vec::new();
    let mut extents = Vec::new();
    for p in parts.into_iter().flatten() {
        match p {
            ClientReply::Data(d) => bytes.extend(d),
            ClientReply::Extents(e) => extents.extend(e),
            ClientReply::Done => {}
        }
    }
    Ok(match (bytes.is_empty(), extents.is_empty()) {
        (false, _) => ClientReply::Data(bytes),
        (_, false) => ClientReply::Extents(extents),
        _ => ClientReply::Done,
    })
}

/// A request's parts per shard, with offsets inside the shard.
fn split(op: ClientOp) -> Vec<(u32, ClientOp)> {
    let pieces = |off: u64, len: u64| {
        let mut at = off;
        let mut out = Vec::new();
        while at < off + len || (len == 0 && at == off && out.is_empty()) {
            let end = ((at / SHARD_BYTES + 1) * SHARD_BYTES).min(off + len);
            out.push(((at / SHARD_BYTES) as u32, at % SHARD_BYTES, at - off, end - at));
            if len == 0 {
                break;
            }
            at = end;
        }
        out
    };
    match op {
        // It waits for nothing in any shard, and a shard that is fenced fences the whole attachment.
        ClientOp::Flush => vec![(0, ClientOp::Flush)],
        ClientOp::Read { off, len } => pieces(off, u64::from(len))
            .into_iter()
            .map(|(i, o, _, n)| (i, ClientOp::Read { off: o, len: n as u32 }))
            .collect(),
        ClientOp::Write { off, data } => pieces(off, data.len() as u64)
            .into_iter()
            .map(|(i, o, at, n)| (i, ClientOp::Write { off: o, data: data.slice(at as usize..(at + n) as usize) }))
            .collect(),
        ClientOp::Zero { off, len } => {
            pieces(off, len).into_iter().map(|(i, o, _, n)| (i, ClientOp::Zero { off: o, len: n })).collect()
        }
        // The answer may cover less than was asked: the first shard's part is enough.
        ClientOp::Status { off, len } => {
            pieces(off, len).into_iter().take(1).map(|(i, o, _, n)| (i, ClientOp::Status { off: o, len: n })).collect()
        }
    }
}

impl VolumeHost {
    pub(super) fn disk_of(&self, shard: ShardId, rid: Rid) -> Option<DiskId> {
        self.disks.get(&(shard.index, rid)).copied()
    }
    /// Replicas come and go; returns the new ones.
    fn follow_replicas(&mut self, v: &VolumeRecord) -> Vec<(u32, Rid)> {
        let now: BTreeMap<(u32, Rid), DiskId> = v.replicas().map(|(shard, r)| ((shard.index, r.rid), r.disk)).collect();
        let new = now.keys().filter(|k| !self.disks.contains_key(k)).copied().collect();
        self.disks = now;
        new
    }

    /// Clients may come, or those that are here end with their last answers and nobody may.
    pub(super) fn set_exported(&mut self, on: bool) {
        if on && self.intake.is_closing() && !self.stopping {
            let most = self.intake.slots.most();
            self.intake = Intake::new(most, self.intake.payload.clone());
        } else if !on {
            self.intake.close();
        }
    }

    pub(super) fn uses(&self, disk: DiskId) -> bool {
        !self.over && self.disks.values().any(|d| *d == disk)
    }
    pub(super) fn members_on(&self, disk: DiskId) -> Vec<(ShardId, Rid)> {
        let here = self.disks.iter().filter(|(_, d)| **d == disk);
        here.map(|((index, rid), _)| (ShardId { vol: self.vol, index: *index }, *rid)).collect()
    }
    pub(super) fn due(&self, now: Tick) -> Vec<ShardId> {
        let due = |c: &Coordinator| c.next_deadline().is_some_and(|d| d <= now);
        let shards = self.shards.iter().enumerate().filter(|(_, c)| due(c));
        shards.map(|(i, _)| ShardId { vol: self.vol, index: i as u32 }).collect()
    }
    /// Requests to members that a shard's coordinator would repeat now, or hold against them.
    pub(super) fn overdue(&self, shard: ShardId, now: Tick) -> Vec<(Rid, u64)> {
        self.shards.get(shard.index as usize).map(|c| c.overdue(now)).unwrap_or_default()
    }

    /// Does a shard's coordinator wait for the answer to a request?
    pub(super) fn wants(&self, shard: ShardId, req: u64) -> bool {
        !self.over && self.shards.get(shard.index as usize).is_some_and(|c| c.wants(req))
    }

    /// Microseconds without any movement after which a request does not wait any more. Less than half the timeout, at which requests
    /// are looked at: a member that freezes is dropped after one timeout, not two.
    pub(super) fn patience(&self) -> u64 {
        self.replica_timeout / 8 * 3
    }

    pub(super) fn status(&self) -> VolumeStatus {
        let shards = self.shards.iter().map(Coordinator::status).collect();
        VolumeStatus {
            vol: self.vol,
            session: self.session,
            shards,
            connections: self.intake.connections(),
            requests: self.intake.slots.taken(),
            payload: self.intake.payload.taken(),
            writes: self.joins.values().filter(|j| j.writes).count(),
        }
    }
    /// Ends client sessions; what is outstanding is carried out, then [`Event::Drained`] is said.
    pub(super) fn stop(&mut self, work: &mut std::collections::VecDeque<Work>) {
        self.stopping = true;
        self.intake.close();
        for index in 0..self.shards.len() as u32 {
            let shard = ShardId { vol: self.vol, index };
            work.push_back(Work::Coordinator { shard, input: co::Input::Stop });
        }
    }
}

//! A disk on its reactor: the store, its I/O, and the replicas that live on it. `hf_replica_host` translates
//! between them.

use super::backend::Backend;
use super::raw::DiskFile;
use crate::event::{Event, Identity};
use crate::status::{DiskStatus, ReplicaStatus};
use crate::work::{DiskWork, Work, WorkQueue};
use bytes::Bytes;
use hf_host_config::clock::{now, random};
use hf_meta_core::ClusterState;
use hf_policy::{DiskId, Lineage, LogAge, Rid, StoreUuid, Ver, broken};
use hf_repl_core::Replica;
use hf_repl_core::message::{Envelope, Msg, Nack};
use hf_repl_core::replica::{self as re, Link, StoreAnswer, StoreOp};
use hf_replica_host::{Asked, durable};
use hf_store::{Answer, DiskError, DiskOp, Input, Op, Output, ReplicaRec, Store, StoreError};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::oneshot;

/// How a disk is used.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Threads do its I/O even if io_uring is there.
    pub force_threads: bool,
    /// Bad blocks after which the disk is emptied; 0: never.
    pub error_budget: u64,
    /// Bytes of memory for writes that are not in their place yet.
    pub write_memory: usize,
    /// Bytes of memory for chunk pages.
    pub page_memory: usize,
    /// The most replicas that it may hold.
    pub replicas: u32,
}

impl DiskOptions {
    /// What they mean to the store.
    pub fn store(&self) -> hf_store::Config {
        let cached_pages = self.page_memory / hf_store::PAGE_MEMORY;
        let (overlay_bytes, replicas) = (self.write_memory, self.replicas);
        hf_store::Config { overlay_bytes, cached_pages, replicas, ..hf_store::Config::default() }
    }
}

/// Who waits for an operation of the store.
enum Owner {
    Adopt(Box<ReplicaRec>),
    Replica { rid: Rid, tag: u64 },
    Create { rec: Box<ReplicaRec>, reply: oneshot::Sender<Result<(), StoreError>> },
    Admin(oneshot::Sender<Result<(), StoreError>>),
    Checkpoint,
    Nobody,
}

/// See the module.
pub(crate) struct DiskHost {
    id: DiskId,
    node: Identity,
    store: Store,
    io: Backend,
    replicas: BTreeMap<Rid, Replica>,
    /// The record, for what is noted of volumes.
    state: Arc<ClusterState>,
    owners: BTreeMap<u64, Owner>,
    /// When operations that somebody waits for were begun, microseconds.
    begun: BTreeMap<u64, u64>,
    next_op: u64,
    out: Vec<Output>,
    failed: Option<String>,
    /// Bad blocks that are tolerated; 0: any number.
    error_budget: u64,
    over_budget: Option<String>,
    /// An invariant of our own code did not hold: this process writes nothing more to the disk.
    latched: bool,
    /// Scratch for completions.
    done: Vec<super::event_fd::Done>,
}

/// What opening a disk yields: the host, and the descriptor that becomes readable when something has completed.
type Opened = (DiskHost, OwnedFd);

impl DiskHost {
    /// Takes a disk over, its store replayed: its replicas wake, its store starts.
    pub fn open(
        node: Identity,
        id: DiskId,
        (store, file, how): (Store, Arc<DiskFile>, DiskOptions),
        state: Arc<ClusterState>,
        queue: &mut WorkQueue,
    ) -> std::io::Result<Opened> {
        let io = Backend::new(file, how.force_threads)?;
        let fd = io.event_fd()?;
        tracing::info!(disk = %id, backend = io.name(), "disk in service");
        let mut host = DiskHost {
            id,
            node,
            store,
            io,
            replicas: BTreeMap::new(),
            state,
            owners: BTreeMap::new(),
            begun: BTreeMap::new(),
            next_op: 0,
            out: Vec::new(),
            failed: None,
            error_budget: how.error_budget,
            over_budget: None,
            latched: false,
            done: Vec::new(),
        };
        let recs: Vec<ReplicaRec> = host.store.replicas().cloned().collect();
        for rec in recs {
            host.wake(&rec);
        }
        host.store.start(&mut host.out);
        host.outputs(queue);
        Ok((host, fd))
    }

    /// A replica begins, from what is durable of it.
    fn wake(&mut self, rec: &ReplicaRec) {
        let durable = durable(self.node.cluster, rec, self.store.position());
        self.replicas.insert(rec.rid, Replica::new(now(), self.node.boot, durable));
    }

    /// Handles one work item.
    #[inline]
    pub fn step(&mut self, work: DiskWork, queue: &mut WorkQueue) {
        if self.latched {
            if let DiskWork::Message { link, env, .. } = work {
                let env = Envelope { boot: self.node.boot, ..env };
                queue.push(Work::Reply { link, env, msg: Msg::Nack(Nack::Failed) });
            }
            return;
        }
        match work {
            DiskWork::Done { tag, result } => self.done(tag, result, queue),
            DiskWork::Answered { id, result } => self.answered(id, result, queue),
            DiskWork::Message { link, env, msg } => self.message(link, env, msg, queue),
        }
    }

    /// An invariant of our own code did not hold in a step of this disk. What memory says of it may be wrong,
    /// so nothing more is written: the disk counts as failed until the process is started again.
    pub fn latch(&mut self, why: String, queue: &mut WorkQueue) {
        tracing::error!(disk = %self.id, "disk latched: {why}");
        self.latched = true;
        self.owners.clear();
        self.failed = Some(why.clone());
        queue.tell(Event::DiskFailed { disk: self.id, why });
    }

    /// Queues what has completed: many operations for one wake-up.
    pub fn reap(&mut self, queue: &mut WorkQueue) {
        self.io.reap(&mut self.done);
        for (tag, result) in self.done.drain(..) {
            queue.push(Work::Disk(self.id, DiskWork::Done { tag, result }));
        }
    }

    /// The record has changed.
    pub fn follow(&mut self, state: Arc<ClusterState>) {
        self.state = state;
    }

    fn input(&mut self, input: Input, queue: &mut WorkQueue) {
        self.store.step(input, &mut self.out);
        self.outputs(queue);
    }

    /// A disk operation has ended.
    fn done(&mut self, tag: u64, result: Result<Bytes, DiskError>, queue: &mut WorkQueue) {
        if let Some(begun) = self.begun.remove(&tag) {
            self.store.step(Input::Took { tag, us: now().0.saturating_sub(begun) }, &mut self.out);
        }
        self.input(Input::DiskDone { tag, result }, queue);
    }

    fn outputs(&mut self, queue: &mut WorkQueue) {
        for o in self.out.drain(..) {
            match o {
                Output::Disk { tag, op } => {
                    if matches!(op, DiskOp::Read { .. } | DiskOp::Write { durable: true, .. }) {
                        self.begun.insert(tag, now().0);
                    }
                    self.io.submit(tag, op);
                }
                Output::Done { id, result } => queue.push(Work::Disk(self.id, DiskWork::Answered { id, result })),
                Output::Failed(why) => {
                    tracing::error!(disk = %self.id, "disk failed: {why}");
                    self.failed = Some(why.clone());
                    queue.tell(Event::DiskFailed { disk: self.id, why });
                }
            }
        }
    }

    pub fn flush(&mut self) {
        self.io.flush();
    }

    /// What is done once a second.
    pub fn housekeep(&mut self, queue: &mut WorkQueue) {
        if self.latched {
            return;
        }
        self.input(Input::Housekeep, queue);
        if let Some(why) = self.take_over_budget() {
            queue.tell(Event::DiskFailing { disk: self.id, why });
        }
    }

    /// Said once: it met more bad blocks than it may.
    fn take_over_budget(&mut self) -> Option<String> {
        let bad = self.store.stats().bad_blocks + self.store.stats().bad_pages;
        if self.over_budget.is_some() || self.error_budget == 0 || bad <= self.error_budget {
            return None;
        }
        self.over_budget =
            Some(format!("{bad} bad blocks since the daemon began, the budget is {}", self.error_budget));
        self.over_budget.clone()
    }

    pub fn status(&self) -> DiskStatus {
        DiskStatus {
            disk: self.id,
            stats: self.store.stats(),
            backend: self.io.name(),
            failed: self.failed.clone(),
            latched: self.latched,
            failing: self.over_budget.clone(),
            replicas: self
                .store
                .replicas()
                .map(|r| ReplicaStatus {
                    rid: r.rid,
                    store_uuid: r.store_uuid,
                    lineage: r.lineage,
                    epoch: r.hint_epoch,
                    bytes: self.store.bytes_of(r.rid),
                    leased: self.replicas.get(&r.rid).is_some_and(|x| x.leased(now())),
                })
                .collect(),
        }
    }

    /// Nothing is on its way, or nothing will come any more.
    pub fn is_quiet(&self) -> bool {
        self.failed.is_some() || !self.owners.values().any(|o| matches!(o, Owner::Checkpoint))
    }

    fn op(&mut self, owner: Owner, op: Op, queue: &mut WorkQueue) {
        if self.latched {
            // Whoever waits for it hears that it was given up.
            return drop(owner);
        }
        self.next_op += 1;
        let id = self.next_op;
        self.owners.insert(id, owner);
        self.input(Input::Op { id, op }, queue);
    }

    pub fn checkpoint(&mut self, queue: &mut WorkQueue) {
        self.op(Owner::Checkpoint, Op::Checkpoint, queue);
    }

    /// If the disk fails over it, that is told like any other failure.
    pub fn note_log_age(&mut self, age: LogAge, queue: &mut WorkQueue) {
        self.op(Owner::Nobody, Op::NoteLogAge(age), queue);
    }

    pub fn create(&mut self, rec: ReplicaRec, reply: oneshot::Sender<Result<(), StoreError>>, queue: &mut WorkQueue) {
        self.op(Owner::Create { rec: Box::new(rec.clone()), reply }, Op::CreateReplica(rec), queue);
    }

    /// A replica takes a new lineage, by order of the record (a last resort was taken).
    pub fn adopt(&mut self, rid: Rid, lineage: Lineage, epoch: u64, queue: &mut WorkQueue) {
        let known = self.store.replica(rid).filter(|r| r.lineage != lineage && r.hint_epoch < epoch);
        if let Some(rec) = known.cloned() {
            tracing::warn!(replica = %rid, "the volume has a new lineage by an operator's order");
            let rec = self.sized(ReplicaRec { lineage, hint_epoch: epoch, ..rec });
            self.op(Owner::Adopt(Box::new(rec.clone())), Op::UpdateReplica(rec), queue);
        }
    }

    /// The storage is older than what is recorded of it: it becomes another one, whose history is unknown.
    /// The agent reports it.
    fn renew(&mut self, rid: Rid, queue: &mut WorkQueue) {
        if let Some(rec) = self.store.replica(rid).cloned() {
            tracing::error!(replica = %rid, "this replica's storage was put back from an older copy: it is compared with the others as a whole");
            let rec = ReplicaRec { store_uuid: StoreUuid(random()), ..rec };
            self.op(Owner::Adopt(Box::new(rec.clone())), Op::UpdateReplica(rec), queue);
        }
    }

    pub fn delete(&mut self, rid: Rid, reply: oneshot::Sender<Result<(), StoreError>>, queue: &mut WorkQueue) {
        self.replicas.remove(&rid);
        self.op(Owner::Admin(reply), Op::DeleteReplica { rid }, queue);
    }

    /// Bytes that can still be promised to new data.
    fn credit(&self) -> u64 {
        self.store.credit()
    }

    /// Does what a replica's step asked for.
    fn replica_outputs(&mut self, rid: Rid, out: Vec<re::Output>, queue: &mut WorkQueue) {
        for o in out {
            match o {
                re::Output::Send { link, env, msg } => queue.push(Work::Reply { link, env, msg }),
                re::Output::Store { tag, op } => self.replica_store(rid, tag, op, queue),
                re::Output::Renew => self.renew(rid, queue),
            }
        }
    }

    /// With its volume's size, for the day when nothing but the disks is left.
    fn sized(&self, rec: ReplicaRec) -> ReplicaRec {
        let size = self.state.volumes.get(&rec.shard.vol).map_or(rec.hint_size, |v| v.size);
        ReplicaRec { hint_size: size, ..rec }
    }

    fn replica_store(&mut self, rid: Rid, tag: u64, op: StoreOp, queue: &mut WorkQueue) {
        match hf_replica_host::ask(&self.store, rid, op) {
            Asked::Do(Op::UpdateReplica(rec)) => {
                self.op(Owner::Replica { rid, tag }, Op::UpdateReplica(self.sized(rec)), queue);
            }
            Asked::Do(op) => self.op(Owner::Replica { rid, tag }, op, queue),
            Asked::Known(answer) => self.answer_now(rid, tag, answer, queue),
        }
    }

    /// An answer that needs no disk.
    fn answer_now(&mut self, rid: Rid, tag: u64, answer: StoreAnswer, queue: &mut WorkQueue) {
        let max_ver = self.store.max_ver(rid);
        self.tell_replica(rid, (tag, answer, max_ver), queue);
    }

    fn tell_replica(&mut self, rid: Rid, (tag, answer, max_ver): (u64, StoreAnswer, Ver), queue: &mut WorkQueue) {
        let (credit, position) = (self.credit(), self.store.position());
        let input = re::Input::Store { tag, answer, credit, max_ver, position };
        let mut out = Vec::new();
        if let Some(r) = self.replicas.get_mut(&rid) {
            r.step(now(), input, &mut out);
        }
        self.replica_outputs(rid, out, queue);
    }

    #[inline]
    fn message(&mut self, link: Link, env: Envelope, msg: Msg, queue: &mut WorkQueue) {
        let credit = matches!(msg, Msg::Lease { .. }).then(|| self.credit());
        let Some(r) = self.replicas.get_mut(&env.rid) else {
            let env = Envelope { boot: self.node.boot, ..env };
            return queue.push(Work::Reply { link, env, msg: Msg::Nack(Nack::NoReplica) });
        };
        let mut out = Vec::new();
        credit.into_iter().for_each(|c| r.set_credit(c));
        r.step(now(), re::Input::Message { link, env, msg }, &mut out);
        self.replica_outputs(env.rid, out, queue);
    }

    /// The store has carried out an operation.
    fn answered(&mut self, id: u64, result: Result<Answer, StoreError>, queue: &mut WorkQueue) {
        // Every answer of the store is to an operation of ours, once.
        let Some(owner) = self.owners.remove(&id) else { return broken!("disk {}: nobody asked for {id}", self.id) };
        match owner {
            Owner::Checkpoint | Owner::Nobody => {}
            Owner::Admin(reply) => drop(reply.send(result.map(|_| ()))),
            Owner::Create { rec, reply } => {
                if result.is_ok() && !self.replicas.contains_key(&rec.rid) {
                    self.wake(&rec);
                }
                let _ = reply.send(result.map(|_| ()));
            }
            Owner::Adopt(rec) => {
                if result.is_ok() {
                    self.wake(&rec);
                    queue.push(Work::ForgetServed(rec.rid));
                }
            }
            Owner::Replica { rid, tag } => {
                // The highest version is needed in the answer to a promise only.
                let promise = matches!(result, Ok(Answer::Done))
                    && self.replicas.get(&rid).is_some_and(|r| r.awaits_promise(tag));
                let max_ver = if promise { self.store.max_ver(rid) } else { Ver::default() };
                self.tell_replica(rid, (tag, hf_replica_host::answer(result), max_ver), queue);
            }
        }
    }
}

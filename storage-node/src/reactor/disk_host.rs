//! A disk on its reactor: the store, its I/O, and the replicas that live on it. `hf_replica_host` translates between them.

use super::core::{Core, CoreRef, DiskStatus, Work, now};
use crate::disk::{Backend, DiskFile};
use crate::reactor::Held;
use bytes::Bytes;
use hf_meta_core::ClusterState;
use hf_policy::{DiskId, Lineage, LogAge, Rid, StoreUuid};
use hf_repl_core::Replica;
use hf_repl_core::message::{Envelope, Msg, Nack};
use hf_repl_core::replica::{self as re, Link, StoreAnswer, StoreOp};
use hf_replica_host::{Asked, durable};
use hf_store::{Answer, DiskError, DiskOp, Input, Op, Output, ReplicaRec, Store, StoreError};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

enum Owner {
    Adopt(Box<ReplicaRec>),
    Replica { rid: Rid, tag: u64 },
    Create { rec: Box<ReplicaRec>, reply: oneshot::Sender<Result<(), StoreError>> },
    Admin(oneshot::Sender<Result<(), StoreError>>),
    Checkpoint,
    Nobody,
}

pub(super) struct DiskHost {
    id: DiskId,
    store: Store,
    io: Backend,
    replicas: BTreeMap<Rid, Replica>,
    /// The record, for what is noted of volumes.
    pub state: Arc<ClusterState>,
    owners: BTreeMap<u64, Owner>,
    /// When operations that somebody waits for were begun, microseconds.
    begun: BTreeMap<u64, u64>,
    next_op: u64,
    out: Vec<Output>,
    failure: Option<String>,
    failed: Option<String>,
    /// Bad blocks that are tolerated; 0: any number.
    error_budget: u64,
    over_budget: bool,
}

/// Takes a disk over: its replicas wake, its ring is watched.
pub(super) fn add(core: &CoreRef, id: DiskId, store: Store, file: Arc<DiskFile>, how: super::DiskOptions) {
    let mut c = core.borrow_mut();
    let io = match Backend::new(file, how.force_threads) {
        Ok(io) => io,
        Err(e) => {
            let _ = c.events.send(super::Event::DiskFailed { disk: id, why: e.to_string() });
            return;
        }
    };
    tracing::info!(disk = %id, backend = io.name(), "disk in service");
    let fd = io.event_fd();
    let identity = c.id;
    let mut host = DiskHost {
        id,
        store,
        io,
        replicas: BTreeMap::new(),
        state: c.state.clone(),
        owners: BTreeMap::new(),
        begun: BTreeMap::new(),
        next_op: 0,
        out: Vec::new(),
        failure: None,
        failed: None,
        error_budget: how.error_budget,
        over_budget: false,
    };
    let recs: Vec<ReplicaRec> = host.store.replicas().cloned().collect();
    let position = host.store.position();
    for rec in recs {
        let d = durable(identity.cluster, &rec, position);
        host.replicas.insert(rec.rid, Replica::new(now(), identity.boot, d));
    }
    let mut out = Vec::new();
    host.store.start(&mut out);
    let mut work = std::mem::take(&mut c.work);
    host.out = out;
    host.outputs(&mut work);
    c.work = work;
    c.disks.insert(id, host);
    c.drain();
    drop(c);
    match fd {
        Ok(fd) => drop(tokio::task::spawn_local(watch(core.clone(), id, fd))),
        Err(e) => drop(core.borrow().events.send(super::Event::DiskFailed { disk: id, why: e.to_string() })),
    }
}

/// Reaps completions: many for one wake-up.
async fn watch(core: CoreRef, id: DiskId, fd: std::os::fd::OwnedFd) {
    // SAFETY: the descriptor is owned by the AsyncFd and is never closed or replaced behind its back.
    let fd = match unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) } {
        Ok(fd) => fd,
        Err(e) => {
            let _ = core.borrow().events.send(super::Event::DiskFailed { disk: id, why: e.to_string() });
            return;
        }
    };
    let mut done = Vec::new();
    loop {
        let Ok(mut ready) = fd.readable().await else { return };
        ready.clear_ready();
        let mut c = core.borrow_mut();
        let Some(d) = c.disks.get_mut(&id) else { return };
        d.io.reap(&mut done);
        c.work.extend(done.drain(..).map(|(tag, result)| Work::DiskDone { disk: id, tag, result }));
        c.drain();
    }
}

type WorkQueue = std::collections::VecDeque<Work>;

impl DiskHost {
    pub(super) fn input(&mut self, input: Input, work: &mut WorkQueue) {
        self.store.step(input, &mut self.out);
        self.outputs(work);
    }

    /// A disk operation has ended.
    pub(super) fn done(&mut self, tag: u64, result: Result<Bytes, DiskError>, work: &mut WorkQueue) {
        if let Some(begun) = self.begun.remove(&tag) {
            self.store.step(Input::Took { tag, us: now().0.saturating_sub(begun) }, &mut self.out);
        }
        self.input(Input::DiskDone { tag, result }, work);
    }

    fn outputs(&mut self, work: &mut WorkQueue) {
        for o in self.out.drain(..) {
            match o {
                Output::Disk { tag, op } => {
                    if matches!(op, DiskOp::Read { .. } | DiskOp::Write { durable: true, .. }) {
                        self.begun.insert(tag, now().0);
                    }
                    self.io.submit(tag, op);
                }
                Output::Done { id, result } => work.push_back(Work::StoreDone { disk: self.id, id, result }),
                Output::Failed(why) => {
                    tracing::error!(disk = %self.id, "disk failed: {why}");
                    self.failed = Some(why.clone());
                    self.failure = Some(why);
                }
            }
        }
    }

    pub(super) fn flush(&mut self) {
        self.io.flush();
    }

    pub(super) fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// Said once: it met more bad blocks than it may.
    pub(super) fn take_over_budget(&mut self) -> Option<String> {
        let bad = self.store.stats().bad_blocks + self.store.stats().bad_pages;
        if self.over_budget || self.error_budget == 0 || bad <= self.error_budget {
            return None;
        }
        self.over_budget = true;
        Some(format!("{bad} bad blocks since the daemon began, the budget is {}", self.error_budget))
    }

    pub(super) fn status(&self, disk: DiskId) -> DiskStatus {
        DiskStatus {
            disk,
            stats: self.store.stats(),
            backend: self.io.name(),
            failed: self.failed.clone(),
            replicas: self
                .store
                .replicas()
                .map(|r| Held {
                    rid: r.rid,
                    store_uuid: r.store_uuid,
                    lineage: r.lineage,
                    epoch: r.hint_epoch,
                    leased: self.replicas.get(&r.rid).is_some_and(|x| x.leased(now())),
                })
                .collect(),
        }
    }

    /// Nothing is on its way, or nothing will come any more.
    pub(super) fn is_quiet(&self) -> bool {
        self.failed.is_some() || !self.owners.values().any(|o| matches!(o, Owner::Checkpoint))
    }

    fn op(&mut self, owner: Owner, op: Op, work: &mut WorkQueue) {
        self.next_op += 1;
        let id = self.next_op;
        self.owners.insert(id, owner);
        self.input(Input::Op { id, op }, work);
    }

    pub(super) fn checkpoint(&mut self, work: &mut WorkQueue) {
        self.op(Owner::Checkpoint, Op::Checkpoint, work);
    }

    /// If the disk fails over it, that is told like any other failure.
    pub(super) fn note_log_age(&mut self, age: LogAge, work: &mut WorkQueue) {
        self.op(Owner::Nobody, Op::NoteLogAge(age), work);
    }

    pub(super) fn create(
        &mut self,
        rec: ReplicaRec,
        reply: oneshot::Sender<Result<(), StoreError>>,
        work: &mut WorkQueue,
    ) {
        self.op(Owner::Create { rec: Box::new(rec.clone()), reply }, Op::CreateReplica(rec), work);
    }

    /// A replica takes a new lineage, by order of the record (a last resort was taken).
    pub(super) fn adopt(&mut self, rid: Rid, lineage: Lineage, epoch: u64, work: &mut WorkQueue) {
        let known = self.store.replica(rid).filter(|r| r.lineage != lineage && r.hint_epoch < epoch);
        if let Some(rec) = known.cloned() {
            tracing::warn!(replica = %rid, "the volume has a new lineage by an operator's order");
            let rec = self.sized(ReplicaRec { lineage, hint_epoch: epoch, ..rec });
            self.op(Owner::Adopt(Box::new(rec.clone())), Op::UpdateReplica(rec), work);
        }
    }

    /// The storage is older than what is recorded of it: it becomes another one, whose history is unknown. The agent reports it.
    fn renew(&mut self, rid: Rid, work: &mut WorkQueue) {
        if let Some(rec) = self.store.replica(rid).cloned() {
            tracing::error!(replica = %rid, "this replica's storage was put back from an older copy: it is compared with the others as a whole");
            let rec = ReplicaRec { store_uuid: StoreUuid(crate::identity::random()), ..rec };
            self.op(Owner::Adopt(Box::new(rec.clone())), Op::UpdateReplica(rec), work);
        }
    }

    pub(super) fn delete(&mut self, rid: Rid, reply: oneshot::Sender<Result<(), StoreError>>, work: &mut WorkQueue) {
        self.replicas.remove(&rid);
        self.op(Owner::Admin(reply), Op::DeleteReplica { rid }, work);
    }

    /// Bytes that can still be promised to new data.
    fn credit(&self) -> u64 {
        self.store.credit()
    }

    /// Does what a replica's step asked for; replies come back as (link, envelope, message).
    fn replica_outputs(&mut self, rid: Rid, out: Vec<re::Output>, work: &mut WorkQueue) -> Vec<(Link, Envelope, Msg)> {
        let mut sends = Vec::new();
        for o in out {
            match o {
                re::Output::Send { link, env, msg } => sends.push((link, env, msg)),
                re::Output::Store { tag, op } => self.replica_store(rid, tag, op, work),
                re::Output::Renew => self.renew(rid, work),
            }
        }
        sends
    }

    /// With its volume's size, for the day when nothing but the disks is left.
    fn sized(&self, rec: ReplicaRec) -> ReplicaRec {
        let size = self.state.volumes.get(&rec.shard.vol).map_or(rec.hint_size, |v| v.size);
        ReplicaRec { hint_size: size, ..rec }
    }

    fn replica_store(&mut self, rid: Rid, tag: u64, op: StoreOp, work: &mut WorkQueue) {
        match hf_replica_host::ask(&self.store, rid, op) {
            Asked::Do(Op::UpdateReplica(rec)) => {
                self.op(Owner::Replica { rid, tag }, Op::UpdateReplica(self.sized(rec)), work);
            }
            Asked::Do(op) => self.op(Owner::Replica { rid, tag }, op, work),
            Asked::Known(answer) => self.answer_now(rid, tag, answer, work),
        }
    }

    /// An answer that needs no disk.
    fn answer_now(&mut self, rid: Rid, tag: u64, answer: StoreAnswer, work: &mut WorkQueue) {
        let (credit, max_ver, position) = (self.credit(), self.store.max_ver(rid), self.store.position());
        let input = re::Input::Store { tag, answer, credit, max_ver, position };
        let mut out = Vec::new();
        if let Some(r) = self.replicas.get_mut(&rid) {
            r.step(now(), input, &mut out);
        }
        for (link, env, msg) in self.replica_outputs(rid, out, work) {
            // Goes out with the next turn of the loop, like every other reply.
            work.push_back(Work::ToReplica { disk: self.id, link: link | REPLY, env, msg });
        }
    }
}

/// Marks a queued message as a reply on its way out.
const REPLY: Link = 1 << 63;

impl Core {
    pub(super) fn message_to_replica(&mut self, disk: DiskId, link: Link, env: Envelope, msg: Msg) {
        if link & REPLY != 0 {
            return self.reply(link & !REPLY, env, msg);
        }
        let boot = self.id.boot;
        let mut work = std::mem::take(&mut self.work);
        let sends = match self.disks.get_mut(&disk) {
            Some(d) => {
                let mut out = Vec::new();
                let credit = matches!(msg, Msg::Lease { .. }).then(|| d.credit());
                let known = d.replicas.get_mut(&env.rid).map(|r| {
                    credit.into_iter().for_each(|c| r.set_credit(c));
                    r.step(now(), re::Input::Message { link, env, msg }, &mut out)
                });
                match known {
                    Some(()) => d.replica_outputs(env.rid, out, &mut work),
                    None => vec![(link, Envelope { boot, ..env }, Msg::Nack(Nack::NoReplica))],
                }
            }
            None => vec![(link, Envelope { boot, ..env }, Msg::Nack(Nack::Failed))],
        };
        self.work = work;
        sends.into_iter().for_each(|(link, env, msg)| self.reply(link, env, msg));
    }

    pub(super) fn store_done(&mut self, disk: DiskId, id: u64, result: Result<Answer, StoreError>) {
        let identity = self.id;
        let mut work = std::mem::take(&mut self.work);
        let (mut sends, mut anew) = (Vec::new(), None);
        if let Some(d) = self.disks.get_mut(&disk)
            && let Some(owner) = d.owners.remove(&id)
        {
            match owner {
                Owner::Checkpoint | Owner::Nobody => {}
                Owner::Admin(reply) => drop(reply.send(result.map(|_| ()))),
                Owner::Create { rec, reply } => {
                    if result.is_ok() {
                        d.replicas.entry(rec.rid).or_insert_with(|| {
                            Replica::new(now(), identity.boot, durable(identity.cluster, &rec, d.store.position()))
                        });
                    }
                    let _ = reply.send(result.map(|_| ()));
                }
                Owner::Adopt(rec) => {
                    if result.is_ok() {
                        anew = Some(rec.rid);
                        d.replicas.insert(
                            rec.rid,
                            Replica::new(now(), identity.boot, durable(identity.cluster, &rec, d.store.position())),
                        );
                    }
                }
                Owner::Replica { rid, tag } => {
                    // The highest version is needed in the answer to a promise only.
                    let max_ver = match &result {
                        Ok(Answer::Done) => d.max_ver_for(rid, tag),
                        _ => Default::default(),
                    };
                    let (credit, position) = (d.credit(), d.store.position());
                    let answer = hf_replica_host::answer(result);
                    let input = re::Input::Store { tag, answer, credit, max_ver, position };
                    let mut out = Vec::new();
                    if let Some(r) = d.replicas.get_mut(&rid) {
                        r.step(now(), input, &mut out);
                    }
                    sends = d.replica_outputs(rid, out, &mut work);
                }
            }
        }
        self.work = work;
        anew.into_iter().for_each(|rid| self.forget_served(rid));
        sends.into_iter().for_each(|(link, env, msg)| self.reply(link, env, msg));
        if self.shutdown.is_some()
            && self.disks.values().all(DiskHost::is_quiet)
            && let Some(tx) = self.shutdown.take()
        {
            let _ = tx.send(());
        }
    }
}

impl DiskHost {
    fn max_ver_for(&self, rid: Rid, tag: u64) -> hf_policy::Ver {
        let promise = self.replicas.get(&rid).is_some_and(|r| r.awaits_promise(tag));
        if promise { self.store.max_ver(rid) } else { Default::default() }
    }
}

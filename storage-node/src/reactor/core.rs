//! The reactor's state and its loop: work items in, system calls out.

use super::Memory;
use super::disk_host::DiskHost;
use super::links::{LinkMemory, Peers};
use super::pause::{self, Pause};
use super::syncs::Syncs;
use super::volume_host::{ConnectionId, VolumeHost};
use super::{Event, Identity, Mail, ReactorStatus};
pub(super) use crate::pulse::now;
use bytes::Bytes;
use hf_meta_core::ClusterState;
use hf_policy::{DiskId, Lineage, Rid, ShardId, StoreUuid, VolumeId};
use hf_repl::Queue;
use hf_repl::budget::Budget;
use hf_repl_core::coordinator as co;
use hf_repl_core::message::{Envelope, Msg};
use hf_repl_core::replica::Link;
use hf_store::DiskError;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The link of this reactor's own coordinators.
pub(super) const LOCAL: Link = 0;

/// Something to do. Handled one after another; handling one may add more.
pub(super) enum Work {
    DiskDone { disk: DiskId, tag: u64, result: Result<Bytes, DiskError> },
    StoreDone { disk: DiskId, id: u64, result: Result<hf_store::Answer, hf_store::StoreError> },
    ToReplica { disk: DiskId, link: Link, env: Envelope, msg: Msg },
    ToCoordinator { env: Envelope, msg: Msg },
    Coordinator { shard: ShardId, input: co::Input },
}

/// A replica on a disk, as its store has it.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Which.
    pub rid: Rid,
    /// Its storage.
    pub store_uuid: StoreUuid,
    /// Its history.
    pub lineage: Lineage,
    /// The newest epoch it was told of.
    pub epoch: u64,
    /// A coordinator holds a lease of it.
    pub leased: bool,
}

/// A disk, for status and metrics.
#[derive(Clone, Debug)]
pub struct DiskStatus {
    /// Which.
    pub disk: DiskId,
    /// Its store's counters.
    pub stats: hf_store::Stats,
    /// How its I/O is done.
    pub backend: &'static str,
    /// Failed, and why.
    pub failed: Option<String>,
    /// Replicas on it.
    pub replicas: Vec<Held>,
}

pub(super) struct Core {
    pub id: Identity,
    /// The node's payload memory.
    pub budget: Budget,
    pub disks: BTreeMap<DiskId, DiskHost>,
    pub volumes: BTreeMap<VolumeId, VolumeHost>,
    pub peers: Peers,
    /// Replies to coordinators elsewhere.
    pub inbound: BTreeMap<Link, Queue>,
    pub next_link: Link,
    /// What requests over links, and answers to them, may hold on this node.
    pub link_memory: LinkMemory,
    pub work: VecDeque<Work>,
    /// Syncs that go on here, and those that wait for one to end.
    pub syncs: Syncs,
    pub events: mpsc::UnboundedSender<Event>,
    pub state: Arc<ClusterState>,
    pub connections: usize,
    next_connection: ConnectionId,
    pub pause: Pause,
    /// No client is served any more.
    pub stopping: bool,
    /// Who waits for the last connection to end.
    pub stopped: Option<oneshot::Sender<()>>,
    pub shutdown: Option<oneshot::Sender<()>>,
}

pub(super) type CoreRef = Rc<RefCell<Core>>;

/// The reactor's life.
pub(super) async fn run(
    id: Identity,
    mut rx: mpsc::UnboundedReceiver<Mail>,
    events: mpsc::UnboundedSender<Event>,
    memory: Memory,
) {
    let core: CoreRef = Rc::new(RefCell::new(Core {
        id,
        budget: memory.exports,
        disks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        peers: Peers::default(),
        inbound: BTreeMap::new(),
        next_link: LOCAL + 1,
        link_memory: memory.links,
        work: VecDeque::new(),
        syncs: Syncs::default(),
        events,
        state: Arc::new(ClusterState::default()),
        connections: 0,
        next_connection: 0,
        pause: Pause::default(),
        stopping: false,
        stopped: None,
        shutdown: None,
    }));
    tokio::task::spawn_local(ticker(core.clone()));
    while let Some(mail) = rx.recv().await {
        handle(&core, mail);
        // Disks are checkpointed one after another; when all are clean the process may end.
        let ended = core.borrow_mut().finish_shutdown();
        if ended {
            return;
        }
    }
}

async fn ticker(core: CoreRef) {
    let mut interval = tokio::time::interval(Duration::from_millis(20));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut turn = 0u32;
    loop {
        interval.tick().await;
        turn = turn.wrapping_add(1);
        let t = now();
        pause::beat(&core, t);
        let mut c = core.borrow_mut();
        let due: Vec<ShardId> = c.volumes.values().flat_map(|v| v.due(t)).collect();
        c.work.extend(due.into_iter().map(|shard| Work::Coordinator { shard, input: co::Input::Tick }));
        if turn.is_multiple_of(50) {
            c.housekeep();
        }
        c.drain();
    }
}

fn handle(core: &CoreRef, mail: Mail) {
    match mail {
        Mail::AddDisk { disk, store, file, how } => {
            super::disk_host::add(core, disk, *store, file, how);
        }
        Mail::Nbd { stream, agreed, vol, rest, seat } => super::conn::start(core, stream, *agreed, vol, rest, seat),
        Mail::Data { stream, disk, capabilities } => super::links::accept(core, stream, disk, capabilities),
        Mail::StartVolume { vol, session } => super::volume_host::start(core, vol, session),
        Mail::State(state) => {
            let wanted: Vec<DiskId> = {
                let mut c = core.borrow_mut();
                c.mail(Mail::State(state));
                c.drain();
                let vols: Vec<VolumeId> = c.volumes.keys().copied().collect();
                vols.into_iter().flat_map(|v| c.remote_disks(v)).collect()
            };
            wanted.into_iter().for_each(|d| super::links::ensure(core, d));
        }
        mail => {
            let mut c = core.borrow_mut();
            c.mail(mail);
            c.drain();
        }
    }
}

impl Core {
    fn mail(&mut self, mail: Mail) {
        match mail {
            Mail::CreateReplica { disk, rec, reply } => match self.disks.get_mut(&disk) {
                Some(d) => d.create(*rec, reply, &mut self.work),
                None => drop(reply.send(Err(hf_store::StoreError::Failed("the disk is not open".into())))),
            },
            Mail::DeleteReplica { disk, rid, reply } => {
                self.forget_served(rid);
                match self.disks.get_mut(&disk) {
                    Some(d) => d.delete(rid, reply, &mut self.work),
                    None => drop(reply.send(Err(hf_store::StoreError::Failed("the disk is not open".into())))),
                }
            }
            Mail::Adopt { disk, rid, lineage, epoch } => {
                if let Some(d) = self.disks.get_mut(&disk) {
                    d.adopt(rid, lineage, epoch, &mut self.work);
                }
            }
            Mail::State(state) => {
                self.state = state;
                self.disks.values_mut().for_each(|d| d.state = self.state.clone());
                self.records_changed();
            }
            Mail::StopVolume { vol, session } => {
                if let Some(v) = self.volumes.get_mut(&vol).filter(|v| v.session == session) {
                    v.stop(&mut self.work);
                }
            }
            Mail::Proposed { shard, session, outcome } => {
                if self.volumes.get(&shard.vol).is_some_and(|v| v.session == session) {
                    self.work.push_back(Work::Coordinator { shard, input: co::Input::Proposed(outcome) });
                }
            }
            Mail::Status(tx) => {
                let status = ReactorStatus {
                    disks: self.disks.iter().map(|(id, d)| d.status(*id)).collect(),
                    volumes: self.volumes.values().map(VolumeHost::status).collect(),
                    connections: self.connections,
                    links: self.peers.0.iter().map(|(d, p)| p.status(*d)).collect(),
                    held: self.inbound.values().map(|q| q.flow().held() + q.flow().answers_held()).sum(),
                    parked: self.inbound.values().map(|q| q.flow().parked() as u64).sum(),
                };
                let _ = tx.send(status);
            }
            Mail::Export { vol, session, on } => {
                let open = on && !self.stopping;
                if let Some(h) = self.volumes.get_mut(&vol).filter(|h| h.session == session && !h.over) {
                    h.set_exported(open);
                }
            }
            Mail::StopClients(tx) => {
                self.stopping = true;
                self.stopped = Some(tx);
                self.volumes.values().for_each(|h| h.intake.close());
                self.say_stopped();
            }
            Mail::LogAge(age) => self.disks.values_mut().for_each(|d| d.note_log_age(age, &mut self.work)),
            Mail::Shutdown(tx) => {
                self.shutdown = Some(tx);
                for d in self.disks.values_mut() {
                    d.checkpoint(&mut self.work);
                }
            }
            Mail::AddDisk { .. } | Mail::Nbd { .. } | Mail::Data { .. } | Mail::StartVolume { .. } => {}
        }
    }

    /// One more connection; its name on this reactor.
    pub(super) fn connection_begun(&mut self) -> ConnectionId {
        self.connections += 1;
        self.next_connection += 1;
        self.next_connection
    }

    pub(super) fn connection_ended(&mut self) {
        self.connections = self.connections.saturating_sub(1);
        self.say_stopped();
    }

    fn say_stopped(&mut self) {
        if self.connections == 0
            && let Some(tx) = self.stopped.take()
        {
            let _ = tx.send(());
        }
    }

    /// True when a shutdown was asked for and every disk is clean or failed.
    fn finish_shutdown(&mut self) -> bool {
        let ready = self.shutdown.is_some() && self.disks.values().all(DiskHost::is_quiet);
        if ready && let Some(tx) = self.shutdown.take() {
            let _ = tx.send(());
        }
        ready
    }

    fn housekeep(&mut self) {
        self.share_link_memory();
        self.forget_unwanted();
        for (id, d) in &mut self.disks {
            d.input(hf_store::Input::Housekeep, &mut self.work);
            if let Some(why) = d.take_over_budget() {
                let _ = self.events.send(Event::DiskFailing { disk: *id, why });
            }
        }
        if self.shutdown.is_some() {
            self.finish_shutdown();
        }
    }

    /// Handles everything there is to do, then tells the kernel, once.
    pub(super) fn drain(&mut self) {
        loop {
            let go = |shard| Work::Coordinator { shard, input: co::Input::SyncGo };
            let Some(w) = self.work.pop_front().or_else(|| self.syncs.next().map(go)) else { break };
            match w {
                Work::DiskDone { disk, tag, result } => {
                    if let Some(d) = self.disks.get_mut(&disk) {
                        d.done(tag, result, &mut self.work);
                    }
                }
                Work::StoreDone { disk, id, result } => self.store_done(disk, id, result),
                Work::ToReplica { disk, link, env, msg } => self.message_to_replica(disk, link, env, msg),
                Work::ToCoordinator { env, msg } => {
                    let input = co::Input::Message { rid: env.rid, env, msg };
                    self.coordinator(env.shard, input);
                }
                Work::Coordinator { shard, input } => self.coordinator(shard, input),
            }
        }
        self.report_failures();
        for d in self.disks.values_mut() {
            d.flush();
        }
    }

    fn report_failures(&mut self) {
        for (id, d) in &mut self.disks {
            if let Some(why) = d.take_failure() {
                let _ = self.events.send(Event::DiskFailed { disk: *id, why });
            }
        }
    }

    /// A reply leaves a replica: to a coordinator here, or over its link.
    pub(super) fn reply(&mut self, link: Link, env: Envelope, msg: Msg) {
        if link == LOCAL {
            self.work.push_back(Work::ToCoordinator { env, msg });
        } else if let Some(q) = self.inbound.get(&link) {
            q.send(env, msg);
        }
    }

    /// Which disk a replica of an attached volume is on.
    pub(super) fn disk_of(&self, shard: ShardId, rid: Rid) -> Option<DiskId> {
        self.volumes.get(&shard.vol)?.disk_of(shard, rid)
    }
}

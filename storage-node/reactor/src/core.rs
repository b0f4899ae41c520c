//! A reactor's state, and the loop that everything on it goes through.
//!
//! All work is a queue of items ([`crate::work`]). [`Core::drain`] takes one after another, gives it to the
//! host that it is for (a disk, the volumes, the links) and goes on until none is left; what a host wants of
//! another is a new item at the end. Then it tells the kernel of all disk operations at once. So a write that
//! comes over a socket is carried to the disk's ring and to the links' queues in one turn, on one thread,
//! without a lock. The price: whatever a host does in one step delays everything else on the reactor, so no
//! step may block, and none may take long.
//!
//! Hosts are values and know nothing of each other or of this. Only this module routes between them, and the
//! tasks that own sockets reach it through two narrow interfaces: [`Inside`] for connections, [`Owner`] for
//! links.

use crate::disk::host::DiskHost;
use crate::event::{Event, Identity};
use crate::link::host::Links;
use crate::link::owner::{Owner, Wanted};
use crate::mail::Mail;
use crate::memory::Memory;
use crate::status::ReactorStatus;
use crate::volume::host::Volumes;
use crate::volume::port::Inside;
use crate::volume::requests::{Callback, ConnectionId};
use crate::work::{DiskWork, LOCAL, Work, WorkQueue};
use hf_meta_core::ClusterState;
use hf_policy::{BootId, DiskId, ShardId, Tick, VolumeId, broken};
use hf_repl::{Queue, Traffic};
use hf_repl_core::coordinator::{self as co, ClientOp};
use hf_repl_core::message::{Envelope, Msg, Nack};
use hf_repl_core::replica::Link;
use hf_repl_core::wire::{CAPABILITIES, Hello, MAX_VERSION, MIN_VERSION};
use hf_store::StoreError;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// See the module.
pub(crate) struct Core {
    id: Identity,
    pub disks: BTreeMap<DiskId, DiskHost>,
    pub volumes: Volumes,
    links: Links,
    pub queue: WorkQueue,
    pub state: Arc<ClusterState>,
    connections: usize,
    next_connection: ConnectionId,
    /// Answered when the last connection has ended.
    stopped: Option<oneshot::Sender<()>>,
    /// Answered when every disk is clean or failed.
    shutdown: Option<oneshot::Sender<()>>,
}

/// Who ran the step in which an invariant did not hold.
enum Culprit {
    Disk(DiskId),
    Volume(VolumeId),
    Nobody,
}

impl Core {
    pub fn new(id: Identity, events: mpsc::UnboundedSender<Event>, memory: Memory) -> Core {
        Core {
            id,
            disks: BTreeMap::new(),
            volumes: Volumes::new(id, memory.exports),
            links: Links::new(memory.links),
            queue: WorkQueue::new(events),
            state: Arc::new(ClusterState::default()),
            connections: 0,
            next_connection: 0,
            stopped: None,
            shutdown: None,
        }
    }

    /// The node that this reactor belongs to.
    pub fn identity(&self) -> Identity {
        self.id
    }

    /// Handles everything there is to do, then tells the kernel, once.
    pub fn drain(&mut self) {
        loop {
            let sync = || self.volumes.next_sync().map(|shard| Work::Shard(shard, co::Input::SyncGo));
            let Some(work) = self.queue.pop().or_else(sync) else { break };
            let culprit = self.route(work);
            if let Some(why) = broken::take() {
                self.contain(culprit, why);
            }
        }
        self.disks.values_mut().for_each(DiskHost::flush);
    }

    #[inline]
    fn route(&mut self, work: Work) -> Culprit {
        match work {
            Work::Disk(id, work) => self.disk(id, work),
            Work::Shard(shard, input) => self.shard(shard, input),
            Work::Send { disk, env, msg } => match self.disks.get_mut(&disk) {
                Some(d) => {
                    d.step(DiskWork::Message { link: LOCAL, env, msg }, &mut self.queue);
                    Culprit::Disk(disk)
                }
                None => {
                    self.links.send(disk, env, msg);
                    Culprit::Nobody
                }
            },
            Work::Reply { link: LOCAL, env, msg } => {
                let shard = env.shard;
                self.shard(shard, co::Input::Message { rid: env.rid, env, msg })
            }
            Work::Reply { link, env, msg } => {
                self.links.reply(link, env, msg);
                Culprit::Nobody
            }
            Work::Forget { disk, key } => {
                self.links.forget(disk, &key);
                Culprit::Nobody
            }
            Work::ForgetUnwanted => {
                self.links.keep_wanted(|key| self.volumes.wants(key));
                Culprit::Nobody
            }
            Work::ForgetServed(rid) => {
                self.links.forget_served(rid);
                Culprit::Nobody
            }
        }
    }

    #[inline]
    fn shard(&mut self, shard: ShardId, input: co::Input) -> Culprit {
        let links = &self.links;
        let waits = |t: Tick, disk, key: &_, patience| links.waits(t, disk, key, patience);
        self.volumes.step(shard, input, waits, &mut self.queue);
        Culprit::Volume(shard.vol)
    }

    #[inline]
    fn disk(&mut self, id: DiskId, work: DiskWork) -> Culprit {
        match (self.disks.get_mut(&id), work) {
            (Some(d), work) => d.step(work, &mut self.queue),
            // A link's hello named a disk that is not in service here any more.
            (None, DiskWork::Message { link, env, .. }) => {
                let env = Envelope { boot: self.id.boot, ..env };
                self.queue.push(Work::Reply { link, env, msg: Msg::Nack(Nack::Failed) });
            }
            (None, _) => broken!("{id} completed something and is not here"),
        }
        Culprit::Disk(id)
    }

    /// An invariant of our own code did not hold (a release build goes on): what ran the step is taken out of service.
    fn contain(&mut self, culprit: Culprit, why: String) {
        match culprit {
            Culprit::Disk(id) => {
                if let Some(d) = self.disks.get_mut(&id) {
                    d.latch(why, &mut self.queue);
                }
            }
            Culprit::Volume(vol) => self.volumes.give_up_volume(vol, &why, &mut self.queue),
            Culprit::Nobody => tracing::error!("{why}"),
        }
    }

    /// Handles a message of the control plane, but for those that begin tasks ([`crate::thread`]).
    pub fn mail(&mut self, mail: Mail) {
        let not_open = || Err(StoreError::Failed("the disk is not open".into()));
        match mail {
            Mail::CreateReplica { disk, rec, reply } => match self.disks.get_mut(&disk) {
                Some(d) => d.create(*rec, reply, &mut self.queue),
                None => drop(reply.send(not_open())),
            },
            Mail::DeleteReplica { disk, rid, reply } => {
                self.links.forget_served(rid);
                match self.disks.get_mut(&disk) {
                    Some(d) => d.delete(rid, reply, &mut self.queue),
                    None => drop(reply.send(not_open())),
                }
            }
            Mail::Adopt { disk, rid, lineage, epoch } => {
                if let Some(d) = self.disks.get_mut(&disk) {
                    d.adopt(rid, lineage, epoch, &mut self.queue);
                }
            }
            Mail::State(state) => self.follow(state),
            Mail::StartVolume { vol, session } => {
                let reach = reach(&self.disks, &self.links, self.id.boot);
                self.volumes.start(vol, session, &reach, &mut self.queue);
            }
            Mail::StopVolume { vol, session } => self.volumes.stop(vol, session, &mut self.queue),
            Mail::Proposed { shard, session, outcome } => {
                self.volumes.proposed(shard, session, outcome, &mut self.queue);
            }
            Mail::Status(tx) => drop(tx.send(self.status())),
            Mail::Load(tx) => drop(tx.send(self.volumes.load())),
            Mail::Export { vol, session, on } => self.volumes.set_exported(vol, session, on),
            Mail::StopClients(tx) => {
                self.volumes.stop_clients();
                self.stopped = Some(tx);
                self.say_stopped();
            }
            Mail::LogAge(age) => self.disks.values_mut().for_each(|d| d.note_log_age(age, &mut self.queue)),
            Mail::Shutdown(tx) => {
                self.shutdown = Some(tx);
                self.disks.values_mut().for_each(|d| d.checkpoint(&mut self.queue));
            }
            Mail::AddDisk { .. } | Mail::Nbd { .. } | Mail::Data { .. } => {}
        }
        self.drain();
    }

    fn follow(&mut self, state: Arc<ClusterState>) {
        self.state = state.clone();
        self.disks.values_mut().for_each(|d| d.follow(state.clone()));
        let reach = reach(&self.disks, &self.links, self.id.boot);
        self.volumes.follow(state, &reach, &mut self.queue);
    }

    /// Makes entries for the remote disks that volumes here have replicas on; those that are new are to be dialled.
    pub fn new_links(&mut self) -> Vec<(DiskId, Traffic)> {
        let remote = self.volumes.disks().into_iter().filter(|d| !self.disks.contains_key(d));
        remote.filter_map(|d| Some((d, self.links.add(d)?))).collect()
    }

    fn status(&self) -> ReactorStatus {
        let (held, parked) = self.links.held();
        ReactorStatus {
            disks: self.disks.values().map(DiskHost::status).collect(),
            volumes: self.volumes.status(),
            connections: self.connections,
            links: self.links.status(),
            held,
            parked,
        }
    }

    fn say_stopped(&mut self) {
        if self.connections == 0
            && let Some(tx) = self.stopped.take()
        {
            let _ = tx.send(());
        }
    }

    /// True when a shutdown was asked for and every disk is clean or failed. Disks are checkpointed side by side.
    pub fn finish_shutdown(&mut self) -> bool {
        let ready = self.shutdown.is_some() && self.disks.values().all(DiskHost::is_quiet);
        if ready && let Some(tx) = self.shutdown.take() {
            let _ = tx.send(());
        }
        ready
    }

    /// What is done once a second.
    pub fn housekeep(&mut self) {
        self.links.share_memory();
        self.links.keep_wanted(|key| self.volumes.wants(key));
        self.disks.values_mut().for_each(|d| d.housekeep(&mut self.queue));
    }

    /// A turn of the clock.
    pub fn tick(&mut self, t: Tick) {
        self.volumes.tick(t, &mut self.queue);
    }

    /// Queues what a disk has completed.
    pub fn reap(&mut self, disk: DiskId) {
        if let Some(d) = self.disks.get_mut(&disk) {
            d.reap(&mut self.queue);
        }
        self.drain();
        self.finish_shutdown();
    }
}

/// The process that has a disk, if the disk can be reached from here.
fn reach<'a>(
    disks: &'a BTreeMap<DiskId, DiskHost>,
    links: &'a Links,
    boot: BootId,
) -> impl Fn(DiskId) -> Option<BootId> + 'a {
    move |disk| if disks.contains_key(&disk) { Some(boot) } else { links.boot(disk) }
}

/// The core, for the tasks of its thread. No borrow of it outlives a call.
pub(crate) struct Shared(pub RefCell<Core>);

impl Inside for Shared {
    fn enter(&self) -> ConnectionId {
        let mut c = self.0.borrow_mut();
        c.connections += 1;
        c.next_connection += 1;
        c.next_connection
    }

    fn begin(&self, vol: VolumeId, from: ConnectionId, op: ClientOp, done: Callback) {
        let c = &mut *self.0.borrow_mut();
        c.volumes.client(vol, from, op, done, &mut c.queue);
        c.drain();
    }

    fn leave(&self, vol: VolumeId, from: ConnectionId) {
        // The thread's own end drops its tasks while the core may be borrowed.
        if let Ok(mut c) = self.0.try_borrow_mut() {
            let c = &mut *c;
            c.connections = c.connections.saturating_sub(1);
            c.say_stopped();
            c.volumes.give_up(vol, from, &mut c.queue);
            c.drain();
        }
    }
}

impl Owner for Shared {
    fn wanted(&self, disk: DiskId) -> Wanted {
        let mut c = self.0.borrow_mut();
        if !c.volumes.needs(disk) {
            c.links.remove(disk);
            return Wanted::No;
        }
        let node = c.state.disks.get(&disk).and_then(|d| c.state.nodes.get(&d.node));
        let Some(addr) = node.map(|n| n.addr.data.clone()) else { return Wanted::Unknown };
        let hello = Hello {
            min_version: MIN_VERSION,
            max_version: MAX_VERSION,
            capabilities: CAPABILITIES,
            cluster: c.id.cluster.0.to_be_bytes().to_vec(),
            node: c.id.node.0,
            boot: c.id.boot.0.to_be_bytes().to_vec(),
            disk: disk.0,
        };
        Wanted::At(addr, hello)
    }

    fn up(&self, disk: DiskId, queue: Queue, boot: BootId) {
        let c = &mut *self.0.borrow_mut();
        c.links.up(disk, queue, boot);
        c.volumes.link_up(disk, boot, &mut c.queue);
        c.drain();
    }

    fn down(&self, disk: DiskId) {
        let c = &mut *self.0.borrow_mut();
        c.links.down(disk);
        c.volumes.link_down(disk, &mut c.queue);
        c.drain();
    }

    fn received(&self, env: Envelope, msg: Msg) {
        let c = &mut *self.0.borrow_mut();
        c.queue.push(Work::Shard(env.shard, co::Input::Message { rid: env.rid, env, msg }));
        c.drain();
    }

    fn boot(&self) -> BootId {
        self.0.borrow().id.boot
    }

    fn enter(&self, queue: Queue) -> Link {
        self.0.borrow_mut().links.enter(queue)
    }

    fn requested(&self, disk: DiskId, link: Link, requests: &mut dyn Iterator<Item = (Envelope, Msg)>) {
        let c = &mut *self.0.borrow_mut();
        for (env, msg) in requests {
            c.queue.push(Work::Disk(disk, DiskWork::Message { link, env, msg }));
        }
        c.drain();
    }

    fn leave(&self, link: Link) {
        self.0.borrow_mut().links.leave(link);
    }
}

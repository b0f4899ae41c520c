//! Links to other nodes' disks (this reactor's coordinators dial) and from other nodes' coordinators (they dial a disk here).

use super::core::{Core, CoreRef, Work, now};
use hf_policy::{BootId, DiskId, Rid, ShardId, Tick};
use hf_repl::{Queue, Traffic};
use hf_repl_core::coordinator as co;
use hf_repl_core::flow::{self, End};
use hf_repl_core::message::Envelope;
use hf_repl_core::wire::{CAPABILITIES, Hello, HelloReply, LINK_CREDIT, MAX_VERSION, MIN_VERSION};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// One remote disk.
pub(super) struct Peer {
    pub queue: Option<Queue>,
    pub boot: BootId,
    pub traffic: Traffic,
}

/// A link to a disk of another node, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct LinkStatus {
    /// Which disk.
    pub disk: DiskId,
    /// Bytes sent to it, since an attached volume first needed it.
    pub sent: u64,
    /// Bytes received from it.
    pub received: u64,
    /// Bytes of payload in flight to it.
    pub in_flight: u64,
    /// Bytes that may be.
    pub window: u64,
    /// Bytes of payload that wait for their turn.
    pub queued: u64,
    /// Bytes of answers that it was asked for.
    pub coming: u64,
}

impl Peer {
    pub(super) fn status(&self, disk: DiskId) -> LinkStatus {
        let (in_flight, window) = self.queue.as_ref().map_or((0, 0), |q| q.flow().in_flight());
        let (queued, coming) = self.queue.as_ref().map_or((0, 0), |q| q.flow().queued());
        let (sent, received) = (self.traffic.sent(), self.traffic.received());
        LinkStatus { disk, sent, received, in_flight, window, queued, coming }
    }
}

/// Remote disks this reactor talks to.
#[derive(Default)]
pub(super) struct Peers(pub BTreeMap<DiskId, Peer>);

/// Makes sure that a link to this disk exists or is being made.
pub(super) fn ensure(core: &CoreRef, disk: DiskId) {
    let traffic = Traffic::default();
    {
        let mut c = core.borrow_mut();
        if c.peers.0.contains_key(&disk) {
            return;
        }
        c.peers.0.insert(disk, Peer { queue: None, boot: BootId::NONE, traffic: traffic.clone() });
    }
    tokio::task::spawn_local(keep(core.clone(), disk, traffic));
}

/// A link that lasted so long had no trouble in coming up, in microseconds.
const LASTED: u64 = 1_000 * hf_policy::MS;

/// Keeps a link up as long as an attached volume has a replica there.
async fn keep(core: CoreRef, disk: DiskId, traffic: Traffic) {
    let mut wait = Duration::from_millis(20);
    loop {
        let (addr, hello) = {
            let mut c = core.borrow_mut();
            if !c.needs(disk) {
                c.peers.0.remove(&disk);
                return;
            }
            let addr = c.state.disks.get(&disk).and_then(|d| c.state.nodes.get(&d.node)).map(|n| n.addr.data.clone());
            let hello = Hello {
                min_version: MIN_VERSION,
                max_version: MAX_VERSION,
                capabilities: CAPABILITIES,
                cluster: c.id.cluster.0.to_be_bytes().to_vec(),
                node: c.id.node.0,
                boot: c.id.boot.0.to_be_bytes().to_vec(),
                disk: disk.0,
            };
            (addr, hello)
        };
        let Some(addr) = addr else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        match hf_repl::dial(&addr, &hello).await {
            Ok((stream, boot, capabilities)) => {
                let began = now();
                let (r, w) = stream.into_split();
                let queue = Queue::new(End::Asking, capabilities & LINK_CREDIT != 0, now);
                core.borrow_mut().link_up(disk, queue.clone(), boot);
                let reader = hf_repl::read_frames(r, queue.clone(), traffic.clone(), |env, msg| {
                    let mut c = core.borrow_mut();
                    c.work.push_back(Work::ToCoordinator { env, msg });
                    c.drain();
                });
                let why = tokio::select! {
                    e = reader => e.to_string(),
                    r = hf_repl::write_frames(w, queue, traffic.clone(), |_| {}) => r.map_or_else(|e| e.to_string(), |()| "closed".into()),
                };
                tracing::info!(disk = %disk, addr, "replication link down: {why}");
                core.borrow_mut().link_down(disk);
                // One that ends at once is dialled again with pauses that grow.
                if now().since(began) < LASTED {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(1));
                } else {
                    wait = Duration::from_millis(20);
                }
            }
            Err(e) => {
                tracing::debug!(disk = %disk, addr, "replication link: {e}");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(1));
            }
        }
    }
}

/// Serves a coordinator's link to a disk of this reactor; the hello was checked.
pub(super) fn accept(core: &CoreRef, stream: std::net::TcpStream, disk: DiskId, capabilities: u64) {
    let core = core.clone();
    tokio::task::spawn_local(async move {
        let Ok(mut stream) = tokio::net::TcpStream::from_std(stream) else { return };
        let boot = core.borrow().id.boot;
        let reply = HelloReply {
            version: MAX_VERSION,
            capabilities: CAPABILITIES,
            boot: boot.0.to_be_bytes().to_vec(),
            ..Default::default()
        };
        if stream.write_all(&reply.to_frame()).await.is_err() {
            return;
        }
        let (r, w) = stream.into_split();
        let queue = Queue::new(End::Serving, capabilities & LINK_CREDIT != 0, now);
        let link = {
            let mut c = core.borrow_mut();
            let link = c.next_link;
            c.next_link += 1;
            c.inbound.insert(link, queue.clone());
            c.link_memory.came();
            c.share_link_memory();
            link
        };
        let traffic = Traffic::default();
        let begin = |queue: &Queue, c: &mut Core, env: Envelope, msg| {
            if env.boot == BootId::NONE || env.boot == boot {
                c.work.push_back(Work::ToReplica { disk, link, env, msg });
            } else {
                // It is for this process's predecessor: nobody answers.
                queue.change(|f| f.ignored(&env));
            }
        };
        let here = queue.clone();
        let reader = hf_repl::read_frames(r, queue.clone(), traffic.clone(), |env, msg| {
            let mut c = core.borrow_mut();
            begin(&here, &mut c, env, msg);
            c.drain();
        });
        let begin_parked = |queue: &Queue| {
            if queue.flow().parked() == 0 {
                return;
            }
            let mut c = core.borrow_mut();
            while let Some((env, msg)) = queue.next_parked() {
                begin(queue, &mut c, env, msg);
            }
            c.drain();
        };
        let why = tokio::select! {
            e = reader => e.to_string(),
            r = hf_repl::write_frames(w, queue, traffic, begin_parked) => r.map_or_else(|e| e.to_string(), |()| "closed".into()),
        };
        tracing::debug!(disk = %disk, "replication link ended: {why}");
        let mut c = core.borrow_mut();
        c.inbound.remove(&link);
        c.link_memory.went();
    });
}

/// The part of the node's payload memory that other nodes' requests to its disks, and the answers to them, may hold. Links share it
/// equally, on all reactors. It is apart from the exports' part: if clients here could take what other nodes' writes need, and theirs
/// what ours need, two nodes could wait for each other for ever.
#[derive(Clone, Debug)]
pub struct LinkMemory {
    bytes: u64,
    links: Arc<AtomicU64>,
}

impl LinkMemory {
    /// So many bytes in all.
    pub fn new(bytes: u64) -> LinkMemory {
        LinkMemory { bytes, links: Arc::default() }
    }

    fn came(&self) {
        self.links.fetch_add(1, Ordering::Relaxed);
    }

    fn went(&self) {
        self.links.fetch_sub(1, Ordering::Relaxed);
    }

    /// Bytes for one link: half for requests, half for answers. A link has at least what one of the largest takes.
    fn share(&self) -> u64 {
        self.bytes / 2 / self.links.load(Ordering::Relaxed).max(1)
    }
}

impl Core {
    /// Links come and go: each gets its share.
    pub(super) fn share_link_memory(&mut self) {
        let share = self.link_memory.share();
        self.inbound.values().for_each(|q| q.change(|f| f.set_shares(share, share)));
    }

    /// What coordinators do not wait for any more (their members were dropped, their syncs ended, they are fenced) leaves the links'
    /// queues, and with it its memory.
    pub(super) fn forget_unwanted(&self) {
        let wanted = |k: &flow::Key| {
            let h = self.volumes.get(&k.0.vol).filter(|h| h.session == k.2);
            h.is_some_and(|h| h.wants(k.0, k.3))
        };
        for q in self.peers.0.values().filter_map(|p| p.queue.as_ref()) {
            q.change(|f| f.keep_wanted(wanted));
        }
    }

    /// A replica on a disk here is gone, or begins anew: requests to it that came over links will not be answered.
    pub(super) fn forget_served(&self, rid: Rid) {
        self.inbound.values().for_each(|q| q.change(|f| f.forget_replica(rid)));
    }

    /// Which of a coordinator's overdue requests wait their turn on a link that moves.
    pub(super) fn waiting(&self, shard: ShardId, t: Tick) -> Vec<(Rid, u64)> {
        let Some(h) = self.volumes.get(&shard.vol) else { return Vec::new() };
        let mut reqs = h.overdue(shard, t);
        reqs.retain(|(rid, req)| {
            let link = h.disk_of(shard, *rid).and_then(|d| self.peers.0.get(&d)).and_then(|p| p.queue.as_ref());
            link.is_some_and(|q| q.flow().waits(t, &(shard, *rid, h.session, *req), h.patience()))
        });
        reqs
    }

    fn needs(&self, disk: DiskId) -> bool {
        self.volumes.values().any(|v| v.uses(disk))
    }

    fn tell(&mut self, disk: DiskId, input: impl Fn(Rid) -> co::Input) {
        let whom: Vec<(ShardId, Rid)> = self.volumes.values().flat_map(|v| v.members_on(disk)).collect();
        for (shard, rid) in whom {
            self.work.push_back(Work::Coordinator { shard, input: input(rid) });
        }
        self.drain();
    }

    fn link_up(&mut self, disk: DiskId, queue: Queue, boot: BootId) {
        if let Some(p) = self.peers.0.get_mut(&disk) {
            p.queue = Some(queue);
            p.boot = boot;
        }
        self.tell(disk, |rid| co::Input::PeerUp { rid, boot });
    }

    fn link_down(&mut self, disk: DiskId) {
        if let Some(p) = self.peers.0.get_mut(&disk) {
            p.queue = None;
        }
        self.tell(disk, |rid| co::Input::PeerDown { rid });
    }
}

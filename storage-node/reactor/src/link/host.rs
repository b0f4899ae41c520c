//! The links of a reactor, as values: those that its coordinators dialled to disks of other nodes, and those
//! over which other nodes' coordinators use disks here. The sockets belong to tasks of their own
//! ([`super::dial`], [`super::serve`]).

use super::memory::LinkMemory;
use crate::status::LinkStatus;
use crate::work::LOCAL;
use hf_policy::{BootId, DiskId, Rid, Tick};
use hf_repl::{Queue, Traffic};
use hf_repl_core::flow;
use hf_repl_core::message::{Envelope, Msg};
use hf_repl_core::replica::Link;
use std::collections::BTreeMap;

/// A disk of another node.
struct Peer {
    /// While the link is up: what is to be sent, and what is known of what was.
    queue: Option<Queue>,
    /// The process at the other end, as it last said.
    boot: BootId,
    traffic: Traffic,
}

/// See the module.
pub(crate) struct Links {
    peers: BTreeMap<DiskId, Peer>,
    inbound: BTreeMap<Link, Queue>,
    next: Link,
    memory: LinkMemory,
}

impl Links {
    pub fn new(memory: LinkMemory) -> Links {
        Links { peers: BTreeMap::new(), inbound: BTreeMap::new(), next: LOCAL + 1, memory }
    }

    /// Makes an entry for a remote disk. If there was none, the caller starts the task that dials it, with
    /// the returned counters.
    pub fn add(&mut self, disk: DiskId) -> Option<Traffic> {
        if self.peers.contains_key(&disk) {
            return None;
        }
        let traffic = Traffic::default();
        self.peers.insert(disk, Peer { queue: None, boot: BootId::NONE, traffic: traffic.clone() });
        Some(traffic)
    }

    /// No attached volume has a replica on this disk any more.
    pub fn remove(&mut self, disk: DiskId) {
        self.peers.remove(&disk);
    }

    pub fn up(&mut self, disk: DiskId, queue: Queue, boot: BootId) {
        if let Some(p) = self.peers.get_mut(&disk) {
            p.queue = Some(queue);
            p.boot = boot;
        }
    }

    pub fn down(&mut self, disk: DiskId) {
        if let Some(p) = self.peers.get_mut(&disk) {
            p.queue = None;
        }
    }

    fn queue(&self, disk: DiskId) -> Option<&Queue> {
        self.peers.get(&disk)?.queue.as_ref()
    }

    /// The process at the other end, if the link to this disk is up.
    pub fn boot(&self, disk: DiskId) -> Option<BootId> {
        self.peers.get(&disk).filter(|p| p.queue.is_some()).map(|p| p.boot)
    }

    /// A coordinator's message to a remote replica. Without a link it is lost; the coordinator sends again
    /// over the next one.
    pub fn send(&self, disk: DiskId, env: Envelope, msg: Msg) {
        if let Some(q) = self.queue(disk) {
            q.send(env, msg);
        }
    }

    /// A replica's reply to a coordinator of another node.
    pub fn reply(&self, link: Link, env: Envelope, msg: Msg) {
        if let Some(q) = self.inbound.get(&link) {
            q.send(env, msg);
        }
    }

    /// Nobody waits for the answer to this request any more.
    pub fn forget(&self, disk: DiskId, key: &flow::Key) {
        if let Some(q) = self.queue(disk) {
            q.change(|f| f.forget(key));
        }
    }

    /// Requests that no coordinator wants leave the queues, and with them their memory.
    pub fn keep_wanted(&self, wanted: impl Fn(&flow::Key) -> bool) {
        for q in self.peers.values().filter_map(|p| p.queue.as_ref()) {
            q.change(|f| f.keep_wanted(&wanted));
        }
    }

    /// A replica here is gone or begins anew: requests to it that came over links will not be answered.
    pub fn forget_served(&self, rid: Rid) {
        self.inbound.values().for_each(|q| q.change(|f| f.forget_replica(rid)));
    }

    /// Does this request wait for its turn on a link that has moved within `patience` microseconds?
    pub fn waits(&self, t: Tick, disk: DiskId, key: &flow::Key, patience: u64) -> bool {
        self.queue(disk).is_some_and(|q| q.flow().waits(t, key, patience))
    }

    /// Another node's link to a disk here begins; its number.
    pub fn enter(&mut self, queue: Queue) -> Link {
        let link = self.next;
        self.next += 1;
        self.inbound.insert(link, queue);
        self.memory.came();
        self.share_memory();
        link
    }

    /// Another node's link has ended.
    pub fn leave(&mut self, link: Link) {
        if self.inbound.remove(&link).is_some() {
            self.memory.went();
        }
    }

    /// Links come and go on all reactors: each one here gets its share of the node's memory.
    pub fn share_memory(&self) {
        let share = self.memory.share();
        self.inbound.values().for_each(|q| q.change(|f| f.set_shares(share, share)));
    }

    /// Bytes held for other nodes' requests and their answers, and how many requests wait for room.
    pub fn held(&self) -> (u64, u64) {
        let bytes = self.inbound.values().map(|q| q.flow().held() + q.flow().answers_held()).sum();
        (bytes, self.inbound.values().map(|q| q.flow().parked() as u64).sum())
    }

    /// The links to other nodes' disks.
    pub fn status(&self) -> Vec<LinkStatus> {
        let one = |(disk, p): (&DiskId, &Peer)| {
            let (in_flight, window) = p.queue.as_ref().map_or((0, 0), |q| q.flow().in_flight());
            let (queued, coming) = p.queue.as_ref().map_or((0, 0), |q| q.flow().queued());
            let (sent, received) = (p.traffic.sent(), p.traffic.received());
            LinkStatus { disk: *disk, sent, received, in_flight, window, queued, coming }
        };
        self.peers.iter().map(one).collect()
    }
}

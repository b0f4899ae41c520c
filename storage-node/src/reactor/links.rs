//! Links to other nodes' disks (this reactor's coordinators dial) and from other nodes' coordinators (they dial a disk here).

use super::core::{Core, CoreRef, Work};
use hf_policy::{BootId, DiskId, ShardId};
use hf_repl::{Queue, Traffic};
use hf_repl_core::coordinator as co;
use hf_repl_core::wire::{CAPABILITIES, Hello, HelloReply, MAX_VERSION, MIN_VERSION};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// One remote disk.
pub(super) struct Peer {
    pub queue: Option<Queue>,
    pub boot: BootId,
    pub traffic: Traffic,
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
            Ok((stream, boot)) => {
                wait = Duration::from_millis(20);
                let (r, w) = stream.into_split();
                let queue = Queue::default();
                core.borrow_mut().link_up(disk, queue.clone(), boot);
                let reader = hf_repl::read_frames(r, traffic.clone(), |env, msg| {
                    let mut c = core.borrow_mut();
                    c.work.push_back(Work::ToCoordinator { env, msg });
                    c.drain();
                });
                let why = tokio::select! {
                    e = reader => e.to_string(),
                    r = hf_repl::write_frames(w, queue, traffic.clone()) => r.map_or_else(|e| e.to_string(), |()| "closed".into()),
                };
                tracing::info!(disk = %disk, addr, "replication link down: {why}");
                core.borrow_mut().link_down(disk);
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
pub(super) fn accept(core: &CoreRef, stream: std::net::TcpStream, disk: DiskId) {
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
        let queue = Queue::default();
        let link = {
            let mut c = core.borrow_mut();
            let link = c.next_link;
            c.next_link += 1;
            c.inbound.insert(link, queue.clone());
            link
        };
        let reader = hf_repl::read_frames(r, Traffic::default(), |env, msg| {
            let mut c = core.borrow_mut();
            c.work.push_back(Work::ToReplica { disk, link, env, msg });
            c.drain();
        });
        tokio::select! {
            e = reader => tracing::debug!(disk = %disk, "replication link ended: {e}"),
            _ = hf_repl::write_frames(w, queue, Traffic::default()) => {}
        }
        core.borrow_mut().inbound.remove(&link);
    });
}

impl Core {
    fn needs(&self, disk: DiskId) -> bool {
        self.volumes.values().any(|v| v.uses(disk))
    }

    fn tell(&mut self, disk: DiskId, input: impl Fn(hf_policy::Rid) -> co::Input) {
        let whom: Vec<(ShardId, hf_policy::Rid)> = self.volumes.values().flat_map(|v| v.members_on(disk)).collect();
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

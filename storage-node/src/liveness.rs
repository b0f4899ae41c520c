//! What the leader knows of nodes and disks, asked from any node.

use crate::member::Member;
use hf_meta_core::plan::Liveness;
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use hf_policy::{DiskId, NodeId};
use std::time::{Duration, Instant};

/// How long a node that leads may be looked for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the leader knows of who lives; none if no leader answers within [`PATIENCE`]. A guess that nobody lives would
/// take volumes from live nodes.
pub async fn of_leader(m: &Member) -> Option<Liveness> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(live) = m.liveness_as_leader() {
            return Some(live);
        }
        if let Some(live) = ask_leader(m).await {
            return Some(live);
        }
        if Instant::now() > end {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What the leader knows of nodes and disks. Its size does not depend on the number of volumes.
async fn ask_leader(m: &Member) -> Option<Liveness> {
    let leader = m.meta.status.borrow().leader.filter(|l| *l != m.node);
    let known = leader.and_then(|l| m.view.borrow().nodes.get(&l).map(|n| n.addr.api.clone()));
    let addr = match known {
        Some(addr) => addr,
        None => m.leader.look(None, &m.peers()).await?.0,
    };
    let mut c = PeerClient::new(hf_meta_proto::channel(&addr).ok()?);
    let req = pb::LivingRequest { cluster: m.cluster.0.to_be_bytes().to_vec() };
    let asked = tokio::time::timeout(Duration::from_millis(800), c.living(req)).await;
    let r = asked.ok()?.ok()?.into_inner();
    r.leader.then(|| Liveness {
        up: r.up.iter().map(|n| NodeId(*n)).collect(),
        used: r.used.iter().map(|d| (DiskId(d.disk), d.used)).collect(),
        // A leader of an older release does not say how large the tables are.
        entries: r.used.iter().filter(|d| d.entries > 0).map(|d| (DiskId(d.disk), d.entries)).collect(),
        refusing: r.refusing.iter().map(|d| DiskId(*d)).collect(),
        ..Liveness::default()
    })
}

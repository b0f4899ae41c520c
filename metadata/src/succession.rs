//! A leader whose process is gone is succeeded at once. Raft alone would wait for an election timeout, and with it
//! everything that needs the record, such as the drop of a replica that died with the leader.
//!
//! What it promises: an election is begun early only when the leader's address refuses connections, that is,
//! when its machine says that nobody listens there. Silence (a cut link, a frozen machine) is left to Raft's
//! own timeouts. If the refusal misleads, a healthy leader is replaced by another one: Raft is safe whenever
//! elections begin.

use crate::raft_loop::MetaHandle;
use crate::raft_net::View;
use hf_meta_proto::pb::{AliveRequest, peer_client::PeerClient};
use hf_policy::{ClusterId, NodeId};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// The voters begin elections one after another at this interval, so that they do not split the votes.
const TURN: Duration = Duration::from_millis(60);
/// The pause after a look that changed nothing.
const AGAIN: Duration = Duration::from_millis(50);
/// How long a refusal may take to arrive.
const REFUSAL: Duration = Duration::from_millis(300);

/// Watches the leader, for as long as this process lives.
pub async fn watch(cluster: ClusterId, me: NodeId, meta: MetaHandle, view: View) {
    let mut status = meta.status.clone();
    loop {
        let now = status.borrow_and_update().clone();
        let leader = now.leader.filter(|l| *l != me && now.voters.contains(&me.0));
        let addr = leader.and_then(|l| view.borrow().nodes.get(&l).map(|n| n.addr.api.clone()));
        let (Some(leader), Some(addr)) = (leader, addr) else {
            // The view may learn the leader's address without a change of Raft's status.
            if matches!(timeout(Duration::from_millis(500), status.changed()).await, Ok(Err(_))) {
                return;
            }
            continue;
        };
        tokio::select! {
            () = ends(cluster, &addr) => {}
            changed = status.wait_for(|s| s.leader != Some(leader)) => match changed {
                Ok(s) if s.leader.is_some() => continue,
                // Another member stood for election, perhaps in vain, because its log is older than this node's.
                Ok(_) => {}
                Err(_) => return,
            },
        }
        if !refuses(&addr).await {
            sleep(AGAIN).await;
            continue;
        }
        let before = now.voters.iter().filter(|v| **v < me.0 && **v != leader.0).count() as u32;
        sleep(TURN * before).await;
        if meta.status.borrow().leader.is_none_or(|l| l == leader) && refuses(&addr).await {
            tracing::info!(%leader, "the metadata leader's process is gone: asking for an election");
            meta.leader_gone(leader);
        }
        sleep(AGAIN).await;
    }
}

/// Waits until the leader's process, or the connection to it, has ended.
async fn ends(cluster: ClusterId, addr: &str) {
    let Ok(ch) = hf_meta_proto::channel(addr) else { return };
    let asked = PeerClient::new(ch).alive(AliveRequest { cluster: cluster.0.to_be_bytes().to_vec() }).await;
    let Ok(answer) = asked else { return };
    let mut stream = answer.into_inner();
    while let Ok(Some(_)) = stream.message().await {}
}

/// Does the machine say that no process listens there?
async fn refuses(addr: &str) -> bool {
    let refused = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ConnectionRefused;
    matches!(timeout(REFUSAL, TcpStream::connect(addr)).await, Ok(Err(e)) if refused(&e))
}

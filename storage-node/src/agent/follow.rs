//! How the record comes to this node: by its own Raft if that hears a leader, else from another node, by revision, so that after
//! any gap it gets what it missed.
//!
//! Nodes that follow others form a tree below the leader, in the order of their ids, so that thousands of them cost the leader
//! little and no two wait for each other. Whoever sees that what it follows hangs behind what the leader says looks elsewhere.

use crate::member::Member;
use crate::node::Node;
use hf_meta::status::RaftStatus;
use hf_meta_core::record::ClusterState;
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use hf_policy::NodeId;
use std::sync::Arc;
use std::time::Duration;

/// So many nodes follow one.
const BRANCHES: usize = 16;
/// How long one that is followed may say nothing of what the leader has: at first, and at most. (A large delta takes long on a slow
/// way, so that it grows with each attempt that brought nothing.)
const PATIENCE: Duration = Duration::from_millis(1_500);
const MOST_PATIENCE: Duration = Duration::from_secs(12);
/// So many nodes are asked in a row whether they hear a leader.
const ASKED: usize = 8;
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(300);

/// The newest of what Raft applied here and what another node brought.
fn advance(m: &Member, state: Arc<ClusterState>) {
    m.view_tx.send_if_modified(|v| {
        let newer = state.revision > v.revision || (v.cluster != state.cluster && state.cluster.is_some());
        if newer {
            *v = state;
        }
        newer
    });
}

/// Takes what this node's own Raft brings.
pub async fn raft(m: Arc<Member>) {
    let mut rx = m.meta.state.clone();
    loop {
        let state = rx.borrow_and_update().clone();
        advance(&m, state);
        if rx.changed().await.is_err() {
            return;
        }
    }
}

/// Does its own Raft bring it the record? Not if it has no vote; nor if the way to who leads is cut from here, though others hear it.
fn hears_raft(s: &RaftStatus, node: NodeId) -> bool {
    s.voters.contains(&node.0) && s.leader.is_some()
}

/// Follows another node whenever Raft does not bring the record.
pub async fn others(node: Arc<Node>, m: Arc<Member>) {
    let (mut turn, mut patience) = (0, PATIENCE);
    let mut raft = m.meta.status.clone();
    while raft.wait_for(|s| !hears_raft(s, m.node)).await.is_ok() {
        let before = m.view.borrow().revision;
        if let Some(peer) = choose(&m, turn).await
            && let Err(e) = follow(&node, &m, &peer, patience).await
        {
            tracing::debug!(%peer, "following the record: {e}");
        }
        turn += 1;
        let nothing = m.view.borrow().revision == before;
        patience = if nothing { (patience * 2).min(MOST_PATIENCE) } else { PATIENCE };
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whom to follow: in turn the one above in the tree, and any that hears who leads.
async fn choose(m: &Member, turn: usize) -> Option<String> {
    let votes = m.votes();
    // A voter that is cut off rather follows another voter.
    if votes.contains(&m.api) {
        let others: Vec<String> = votes.into_iter().filter(|a| *a != m.api).collect();
        if let Some(hears) = m.leader.one_that_hears(&others).await {
            return Some(hears);
        }
    }
    let mut peers: Vec<String> = m.peers().into_iter().filter(|a| *a != m.api).collect();
    if turn.is_multiple_of(2)
        && let Some(leader) = m.leader.known()
    {
        let view = m.view.borrow();
        let nodes = view.nodes.values().map(|n| (n.id, n.addr.api.as_str()));
        if let Some(up) = above(nodes, &leader, m.node) {
            return Some(up.to_string());
        }
    }
    let first = turn % peers.len().max(1);
    peers.rotate_left(first);
    peers.truncate(ASKED);
    match m.leader.one_that_hears(&peers).await {
        Some(hears) => Some(hears),
        None => peers.into_iter().next(),
    }
}

/// The node above this one, of nodes in the order of their ids and where they are; the leader is at `leader`.
fn above<'a>(nodes: impl Iterator<Item = (NodeId, &'a str)>, leader: &'a str, me: NodeId) -> Option<&'a str> {
    let below: Vec<_> = nodes.filter(|(_, addr)| *addr != leader).collect();
    let place = below.iter().position(|(id, _)| *id == me)?;
    match place / BRANCHES {
        0 => Some(leader),
        n => Some(below[n - 1].1).filter(|a| !a.is_empty()),
    }
}

/// Until it ends, or hangs behind, or Raft brings the record here.
async fn follow(node: &Node, m: &Member, addr: &str, patience: Duration) -> anyhow::Result<()> {
    let mut c = PeerClient::new(hf_meta_proto::channel(addr)?).max_decoding_message_size(hf_meta_proto::MAX_MESSAGE);
    let mut local = (**m.view.borrow()).clone();
    let request =
        pb::WatchRequest { from_revision: local.revision, follow: true, cluster: m.cluster.0.to_be_bytes().to_vec() };
    let mut stream = tokio::time::timeout(patience, c.watch(request)).await??.into_inner();
    loop {
        let Ok(next) = tokio::time::timeout(patience, stream.message()).await else {
            anyhow::ensure!(m.told.is_all(local.revision), "it hangs behind the leader");
            continue;
        };
        let Some(e) = next? else { anyhow::bail!("it has ended") };
        local.follow(serde_json::from_slice(&e.delta)?)?;
        // (Nothing but a start without peers and a rescue look at it: what cannot be kept is only told.)
        if let Err(e) = node.dir.save_view(&local) {
            tracing::warn!("what this node knows of the record is not kept: {e:#}");
        }
        advance(m, Arc::new(local.clone()));
        if hears_raft(&m.meta.status.borrow(), m.node) {
            return Ok(());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// From every node the way up ends at the leader, in few steps, and nobody has more below than a voter can serve.
    #[test]
    fn the_way_up_ends_at_the_leader() {
        for (n, leader, most) in [(1, 1, 0), (5, 3, 1), (20, 20, 2), (4_000, 7, 3)] {
            let nodes: Vec<(NodeId, String)> = (1..=n).map(|id| (NodeId(id), id.to_string())).collect();
            let top = leader.to_string();
            let up = |me| above(nodes.iter().map(|(id, a)| (*id, a.as_str())), &top, me).unwrap().to_string();
            let mut below = BTreeMap::<String, usize>::new();
            for id in (1..=n).map(NodeId).filter(|id| id.0 != leader) {
                *below.entry(up(id)).or_default() += 1;
                let (mut at, mut steps) = (id, 0);
                while at.0 != leader {
                    at = NodeId(up(at).parse().unwrap());
                    steps += 1;
                    assert!(steps <= most, "{n} nodes: {id} is {steps} steps away");
                }
            }
            assert!(below.values().all(|b| *b <= BRANCHES), "{below:?}");
        }
    }
}

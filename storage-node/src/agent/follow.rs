//! How this node gets the record: from its own Raft if that hears a leader, otherwise from another node. The
//! other node sends deltas from a revision on, so that after any gap this node gets what it missed.
//!
//! Nodes that follow others form a tree below the leader, in the order of their ids, so that thousands of
//! them cost the leader little and no two wait for each other. A node that gets less than the leader says it
//! has follows another node instead (docs/decisions/0033).

use crate::member::Member;
use crate::node::Node;
use hf_meta::status::RaftStatus;
use hf_meta_core::record::ClusterState;
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use hf_policy::NodeId;
use std::sync::Arc;
use std::time::Duration;

/// Nodes that follow one node in the tree, at most.
const BRANCHES: usize = 16;
/// How long a followed node may send nothing although the leader has more. It doubles after each attempt that
/// brought nothing, up to [`MOST_PATIENCE`], because a large delta takes long over a slow link.
const PATIENCE: Duration = Duration::from_millis(1_500);
const MOST_PATIENCE: Duration = Duration::from_secs(12);
/// Nodes that are asked in a row whether they hear a leader, at most.
const ASKED: usize = 8;
/// Pause between two attempts.
const AGAIN: Duration = Duration::from_millis(300);

/// Makes `state` the view, if it is newer than the present one.
fn advance(m: &Member, state: Arc<ClusterState>) {
    m.view_tx.send_if_modified(|v| {
        let newer = state.revision > v.revision || (v.cluster != state.cluster && state.cluster.is_some());
        if newer {
            *v = state;
        }
        newer
    });
}

/// Takes over each new state that this node's own Raft has applied.
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

/// Whether this node's own Raft brings it the record. It does not if the node has no vote, or cannot reach
/// the leader although others can.
fn hears_raft(s: &RaftStatus, node: NodeId) -> bool {
    s.voters.contains(&node.0) && s.leader.is_some()
}

/// Follows another node whenever this node's own Raft does not bring the record.
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

/// The address of the node to follow: in turn the one above in the tree, and any node that hears a leader.
async fn choose(m: &Member, turn: usize) -> Option<String> {
    let votes = m.votes();
    // A voter that is cut off prefers another voter.
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

/// The address of the node above `me` in the tree. `nodes`: ids in order, with addresses; `leader`: the
/// leader's address.
fn above<'a>(nodes: impl Iterator<Item = (NodeId, &'a str)>, leader: &'a str, me: NodeId) -> Option<&'a str> {
    let below: Vec<_> = nodes.filter(|(_, addr)| *addr != leader).collect();
    let place = below.iter().position(|(id, _)| *id == me)?;
    match place / BRANCHES {
        0 => Some(leader),
        n => Some(below[n - 1].1).filter(|a| !a.is_empty()),
    }
}

/// Follows the node at `addr` until the stream ends, the node falls behind the leader, or Raft brings the
/// record here.
async fn follow(node: &Node, m: &Member, addr: &str, patience: Duration) -> anyhow::Result<()> {
    let mut c = PeerClient::new(hf_meta_proto::channel(addr)?).max_decoding_message_size(hf_meta_proto::MAX_MESSAGE);
    let mut local = (**m.view.borrow()).clone();
    let request =
        pb::WatchRequest { from_revision: local.revision, follow: true, cluster: m.cluster.0.to_be_bytes().to_vec() };
    let mut stream = tokio::time::timeout(patience, c.watch(request)).await??.into_inner();
    loop {
        let Ok(next) = tokio::time::timeout(patience, stream.message()).await else {
            anyhow::ensure!(m.told.is_all(local.revision), "it is behind the leader");
            continue;
        };
        let Some(e) = next? else { anyhow::bail!("the stream has ended") };
        local.follow(serde_json::from_slice(&e.delta)?)?;
        // Only a start without peers and a rescue read the saved view, so a failure to save it is only a
        // warning.
        match node.dir.save_view(&local) {
            Ok(_) => m.states.over("view", ""),
            Err(e) => m.states.warn("view", "", &format!("the view of the record could not be saved: {e:#}")),
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

    /// From every node the path up ends at the leader in few steps, and no node has more than `BRANCHES`
    /// below it.
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

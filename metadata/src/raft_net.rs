//! Raft messages to other nodes: one task and one bounded queue per node, so that a slow one delays nobody else. Lost
//! messages are Raft's business; order within a node is kept.

use crate::raft_loop::{MetaHandle, Outgoing};
use hf_meta_core::ClusterState;
use hf_meta_core::record::{LogRecord, Logs, WhichLog};
use hf_meta_proto::pb::{LogTold, RaftRequest, peer_client::PeerClient};
use hf_policy::{ClusterId, LogAge, LogId, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How many messages may wait for one node.
const QUEUE: usize = 1024;

/// The newest state that a node has, applied or followed: a learner must find its leader before it has
/// applied anything.
pub type View = watch::Receiver<Arc<ClusterState>>;

/// Sends the Raft loop's messages, until the loop ends.
pub async fn run(cluster: ClusterId, me: NodeId, meta: MetaHandle, view: View, mut rx: mpsc::Receiver<Outgoing>) {
    let mut peers: BTreeMap<u64, mpsc::Sender<Outgoing>> = BTreeMap::new();
    while let Some(m) = rx.recv().await {
        let to = m.to;
        let tx = peers.entry(to).or_insert_with(|| {
            let (tx, rx) = mpsc::channel(QUEUE);
            tokio::spawn(peer(cluster, me, NodeId(to), meta.clone(), view.clone(), rx));
            tx
        });
        if tx.try_send(m).is_err() {
            meta.unreachable(to);
        }
    }
}

async fn peer(
    cluster: ClusterId,
    me: NodeId,
    to: NodeId,
    meta: MetaHandle,
    view: View,
    mut rx: mpsc::Receiver<Outgoing>,
) {
    let mut client: Option<(String, PeerClient<tonic::transport::Channel>)> = None;
    while let Some(Outgoing { message, logs, snapshot, .. }) = rx.recv().await {
        // Only members know which nodes were removed and are still members.
        let at = |s: &ClusterState| s.member(to).map(|n| n.addr.api.clone());
        let addr = at(&meta.state.borrow()).or_else(|| at(&view.borrow()));
        let Some(addr) = addr else {
            if snapshot {
                meta.snapshot_sent(to.0, false).await;
            }
            continue;
        };
        if client.as_ref().is_none_or(|(a, _)| *a != addr) {
            client = hf_meta_proto::channel(&addr).ok().map(|c| {
                let c = PeerClient::new(c).max_encoding_message_size(hf_meta_proto::MAX_MESSAGE);
                (addr, c)
            });
        }
        let Some((_, c)) = client.as_mut() else {
            if snapshot {
                meta.snapshot_sent(to.0, false).await;
            }
            continue;
        };
        let req = RaftRequest {
            cluster: cluster.0.to_be_bytes().to_vec(),
            from: me.0,
            to: to.0,
            message,
            log: Some(told(logs.to)),
            from_log: logs.from.log.0.to_be_bytes().to_vec(),
            from_nth: logs.from.nth,
        };
        let patience = patience(req.message.len());
        if snapshot {
            // An image may take long: heartbeats must not wait for it.
            let (mut c, meta) = (c.clone(), meta.clone());
            tokio::spawn(async move {
                let sent = tokio::time::timeout(patience, c.raft(req)).await;
                meta.snapshot_sent(to.0, matches!(sent, Ok(Ok(_)))).await;
            });
            continue;
        }
        let sent = tokio::time::timeout(patience, c.raft(req)).await;
        if !matches!(sent, Ok(Ok(_))) {
            meta.unreachable(to.0);
        }
    }
}

/// The slowest link over which an image is expected to arrive, in bytes a second.
const SLOWEST: usize = 16 << 10;

/// How long a message may take: two seconds, and for an image of a large or long-lived cluster as long as a
/// slow link needs. (A link that is dead is noticed by its keep-alive.)
fn patience(bytes: usize) -> Duration {
    Duration::from_secs(2) + Duration::from_millis((bytes / (SLOWEST / 1000)) as u64)
}

fn told(r: LogRecord) -> LogTold {
    let LogAge { log, age, start } = r.age;
    LogTold { id: log.0.to_be_bytes().to_vec(), age, start, nth: r.nth, member: r.member.unwrap_or(0) }
}

/// What a sender says of the logs at both ends; nothing in messages of older senders.
pub fn heard(r: &RaftRequest) -> Option<Logs> {
    let id = |raw: &[u8]| raw.try_into().ok().map(|id| LogId(u128::from_be_bytes(id)));
    let Some(t) = &r.log else { return Some(Logs::default()) };
    let from = WhichLog { log: id(&r.from_log)?, nth: r.from_nth };
    let age = LogAge { log: id(&t.id)?, age: t.age, start: t.start };
    Some(Logs { from, to: LogRecord { age, nth: t.nth, member: (t.member > 0).then_some(t.member) } })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The image of one volume that was attached 9,000 times is 1 MB: over a link of 200 kbit it takes 42 s.
    #[test]
    fn an_image_is_given_the_time_that_a_slow_link_needs() {
        assert!(patience(200) < Duration::from_millis(2_100));
        assert!(patience(1_052_764) > Duration::from_secs(42));
    }
}

//! Changes of a policy, answered when they are in force, that is, when the node to which the volume is
//! attached obeys. If that node is silent, the answer says so; the node then obeys before it serves again,
//! because of its pulse or because it attaches anew.

use crate::member::Member;
use hf_meta_core::record::VolumeRecord;
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use hf_policy::{Epoch, NodeId, VolumeId};
use std::time::{Duration, Instant};

/// How long a change waits for the attached node. It is longer than a pause that goes unnoticed, and than the
/// leader takes to notice a node's death.
const IN_FORCE: Duration = Duration::from_secs(6);
/// Interval at which conditions are checked that cannot be waited for otherwise.
const LOOK: Duration = Duration::from_millis(20);
/// A node that does not answer for this long is asked again.
const ASK: Duration = Duration::from_secs(2);

/// Waits until the node with the volume obeys its record of this epoch. The error says what that waits for.
pub async fn everywhere(m: &Member, vol: VolumeId, epoch: Epoch) -> Result<(), String> {
    let end = Instant::now() + IN_FORCE;
    let mut why = String::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(why);
        }
        let Some(v) = m.view.borrow().volumes.get(&vol).cloned() else { return Ok(()) };
        let at = v.coordinator.as_ref().filter(|a| !a.maintenance || a.home.is_some());
        let Some(node) = at.map(|a| a.home.unwrap_or(a.node)) else {
            // No node serves the volume; the next attach finds the change in the record.
            match left_to_make(&v) {
                None => return Ok(()),
                Some(what) => why = what,
            }
            tokio::time::sleep(LOOK).await;
            continue;
        };
        let asked = match node == m.node {
            true => obeys(m, vol, epoch, left).await,
            false => ask(m, node, vol, epoch, left).await,
        };
        match asked {
            Ok(()) => return Ok(()),
            Err(what) => why = what,
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks the node to which the volume is attached, for at most `left`. The error says what it waits for, or
/// that it is silent.
async fn ask(m: &Member, node: NodeId, vol: VolumeId, epoch: Epoch, left: Duration) -> Result<(), String> {
    let (addr, name) = {
        let s = m.view.borrow();
        (s.nodes.get(&node).map(|n| n.addr.api.clone()), s.node_name(node))
    };
    let silent = || format!("node {name}, to which the volume is attached, does not answer");
    let channel = addr.and_then(|a| hf_meta_proto::channel(&a).ok()).ok_or_else(silent)?;
    let (cluster, patience) = (m.cluster.0.to_be_bytes().to_vec(), left.min(ASK));
    let req = pb::InForceRequest { cluster, vol: vol.0, epoch: epoch.0, patience_ms: patience.as_millis() as u64 };
    // The node's own patience ends first, and then it says what it waits for.
    match tokio::time::timeout(patience + ASK / 4, PeerClient::new(channel).in_force(req)).await {
        Ok(Ok(r)) => match r.into_inner().why {
            why if why.is_empty() => Ok(()),
            why => Err(format!("node {name}: {why}")),
        },
        Ok(Err(e)) if e.code() != tonic::Code::Unavailable => Err(format!("node {name}: {}", e.message())),
        _ => Err(silent()),
    }
}

/// Text about the part of the volume that is still to be made; none if all is made.
fn left_to_make(v: &VolumeRecord) -> Option<String> {
    let made = v.made_size();
    (made < v.size).then(|| {
        format!(
            "{} of {} can be used; replicas of the rest are still being created",
            hf_policy::format_size(made),
            hf_policy::format_size(v.size)
        )
    })
}

/// Waits until this node obeys: its reactors and exports know the record, all of the volume is made, and if
/// it became read-only no write is in flight. The error says what that waits for.
async fn obeys(m: &Member, vol: VolumeId, epoch: Epoch, patience: Duration) -> Result<(), String> {
    let end = Instant::now() + patience;
    let mut why = "it has not seen the change yet".to_string();
    loop {
        m.pulse.fresh().await;
        let (v, revision) = {
            let s = m.view.borrow();
            (s.volumes.get(&vol).cloned(), s.revision)
        };
        let Some(v) = v else { return Ok(()) };
        let left = end.saturating_duration_since(Instant::now());
        if v.epoch >= epoch && m.obeys(revision, left).await {
            match waits_for(m, &v).await {
                None => return Ok(()),
                Some(what) => why = what,
            }
        }
        if end <= Instant::now() {
            return Err(why);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn waits_for(m: &Member, v: &VolumeRecord) -> Option<String> {
    if let Some(left) = left_to_make(v) {
        return Some(left);
    }
    if !v.policy().is_ok_and(|p| p.read_only) {
        return None;
    }
    let mut writes = 0;
    for r in &m.reactors {
        writes += r.status().await.volumes.iter().filter(|s| s.vol == v.id).map(|s| s.writes).sum::<usize>();
    }
    (writes > 0).then(|| format!("{writes} earlier writes are not answered yet"))
}

/// Answers another node that waits until this one obeys.
pub async fn here(m: &Member, r: pb::InForceRequest) -> Result<pb::InForceReply, tonic::Status> {
    if r.cluster != m.cluster.0.to_be_bytes() {
        return Err(tonic::Status::permission_denied("this node belongs to another cluster"));
    }
    let patience = Duration::from_millis(r.patience_ms).min(IN_FORCE);
    let waited = tokio::time::timeout(patience + LOOK, obeys(m, VolumeId(r.vol), Epoch(r.epoch), patience)).await;
    let why = match waited {
        Ok(Ok(())) => String::new(),
        Ok(Err(why)) => why,
        Err(_) => "it was paused, and has not caught up yet".into(),
    };
    Ok(pb::InForceReply { why })
}

//! Changes of a policy, answered when they are in force, that is, when the node to which the volume is
//! attached obeys. If that node is silent, the answer says so; the node then obeys before it serves again,
//! because of its pulse or because it attaches anew.

use super::{Answer, Service, VISIBLE, decide, find, internal, refused, request_id, until};
use crate::member::Member;
use hf_meta_core::record::VolumeRecord;
use hf_meta_core::{Command, plan};
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use hf_policy::policy::AttrMap;
use hf_policy::{Epoch, NodeId, VolumeId};
use std::time::{Duration, Instant};
use tonic::{Response, Status};

/// How long a change waits for the attached node. It is longer than a pause that goes unnoticed, and than the
/// leader takes to notice a node's death.
const IN_FORCE: Duration = Duration::from_secs(6);
/// Interval at which conditions are checked that cannot be waited for otherwise.
const LOOK: Duration = Duration::from_millis(20);
/// A node that does not answer for this long is asked again.
const ASK: Duration = Duration::from_secs(2);

impl Service {
    pub(super) async fn change_policy(&self, r: pb::CreateVolumeRequest) -> Answer<pb::TextReply> {
        let m = self.0.member()?;
        m.freshen().await;
        let request = request_id(&r.request_id)?;
        let change: AttrMap = r.attrs.into_iter().collect();
        let live = self.liveness(&m).await?;
        let (mut vol, mut before) = (VolumeId(0), Epoch(0));
        decide(&m, request, |s| {
            let v = find(s, &r.name)?;
            (vol, before) = (v.id, v.epoch);
            let new_shards = plan::set_policy(s, &live, &v, &change, request.0 as u64).map_err(refused)?;
            Ok(Command::SetPolicy { vol, epoch: before, change: change.clone(), new_shards })
        })
        .await?;
        let shows = |s: &hf_meta_core::ClusterState| s.volumes.get(&vol).filter(|n| n.epoch > before).map(|n| n.epoch);
        let why = match until(&m, VISIBLE, shows).await {
            Some(epoch) => in_force(&m, vol, epoch).await.err(),
            None => Some("the change does not show in this node's record yet".to_string()),
        };
        let json = serde_json::json!({"volume": r.name, "in_force": why.is_none(), "not_yet": why});
        let text = match &why {
            None => format!("volume {} changed", r.name),
            Some(_) => format!("volume {}: the change is recorded, but not in force yet", r.name),
        };
        Ok(Response::new(pb::TextReply { text, json: json.to_string(), not_yet: why.unwrap_or_default() }))
    }
}

/// Waits until the node with the volume obeys its record of this epoch. The error says what that waits for.
async fn in_force(m: &Member, vol: VolumeId, epoch: Epoch) -> Result<(), String> {
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
pub(super) async fn obeys(m: &Member, vol: VolumeId, epoch: Epoch, patience: Duration) -> Result<(), String> {
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

impl Service {
    pub(super) async fn in_force_here(&self, r: pb::InForceRequest) -> Result<pb::InForceReply, Status> {
        let m = self.0.member()?;
        if r.cluster != m.cluster.0.to_be_bytes() {
            return Err(Status::permission_denied("this node belongs to another cluster"));
        }
        let patience = Duration::from_millis(r.patience_ms).min(IN_FORCE);
        let waited = tokio::time::timeout(patience + LOOK, obeys(&m, VolumeId(r.vol), Epoch(r.epoch), patience)).await;
        let why = match waited {
            Ok(Ok(())) => String::new(),
            Ok(Err(why)) => why,
            Err(_) => "it was paused, and has not caught up yet".into(),
        };
        Ok(pb::InForceReply { why })
    }

    /// The status in pieces of at most [`PIECE`] bytes.
    pub(super) fn in_pieces(text: String) -> impl Iterator<Item = Result<pb::JsonReply, Status>> {
        let mut left = text.as_str();
        let mut pieces = Vec::new();
        while !left.is_empty() {
            let mut at = left.len().min(PIECE);
            while !left.is_char_boundary(at) {
                at -= 1;
            }
            let (piece, rest) = left.split_at(at);
            pieces.push(Ok(pb::JsonReply { json: piece.into() }));
            left = rest;
        }
        pieces.into_iter()
    }

    /// Joins the pieces of a status and parses it.
    pub(super) async fn joined(mut parts: tonic::Streaming<pb::JsonReply>) -> Result<serde_json::Value, Status> {
        let mut text = String::new();
        while let Some(p) = parts.message().await? {
            text.push_str(&p.json);
        }
        serde_json::from_str(&text).map_err(internal)
    }
}

/// Bytes of a status in one message, at most.
const PIECE: usize = 1 << 20;

//! How a node becomes part of a cluster: it founds one, or joins one.

use crate::identity::random;
use crate::member::first_envelope;
use crate::node::Node;
use hf_control::error::{Code, Fate, Problem};
use hf_control::model::Outcome;
use hf_meta_core::{ClusterState, Reply};
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use hf_policy::{ClusterId, NodeId, RequestId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long seeds are asked in turn.
const PATIENCE: Duration = Duration::from_secs(15);

fn internal(e: impl std::fmt::Display) -> Problem {
    Problem::new(Code::Internal, e.to_string())
}

fn is_member() -> Problem {
    Problem::new(Code::State, "this node is part of a cluster already").so("holdfast cluster status shows which")
}

fn outcome(node: &Node, message: String) -> Outcome {
    let revision = node.member.get().map_or(0, |m| m.view.borrow().revision);
    Outcome { message, done: true, waiting_for: None, revision, dry_run: false }
}

/// The answer to a request by which this node became a member: whoever lost it asks again.
fn repeated(node: &Node, request: RequestId) -> Option<Outcome> {
    let by = node.member_by.lock().ok()?;
    by.as_ref().filter(|(r, _)| *r == request).map(|(_, o)| o.clone())
}

/// Notes by which request this node became a member, and with which answer.
fn noted(node: &Node, request: RequestId, done: Outcome) -> Outcome {
    if let Ok(mut by) = node.member_by.lock() {
        *by = Some((request, done.clone()));
    }
    done
}

/// Founds a cluster, of which this node is the first.
pub async fn found(node: &Arc<Node>, name: &str, request: RequestId) -> Result<Outcome, Problem> {
    hf_policy::policy::valid_name(name)
        .map_err(|why| Problem::new(Code::Invalid, format!("cluster name \"{name}\"")).because(why).at("/name"))?;
    let _one = node.admin.lock().await;
    if node.member.get().is_some() {
        return repeated(node, request).ok_or_else(is_member);
    }
    let (cluster, name) = written(node, name)?;
    save_identity(node, cluster, NodeId(1))?;
    node.become_member().await.map_err(internal)?;
    Ok(noted(node, request, outcome(node, format!("cluster {name} founded ({cluster})"))))
}

/// Writes the founding state to the log: the cluster and its first node. The log begins behind it. If an
/// earlier founding was cut short before it was noted in `node.json`, that one is completed.
fn written(node: &Node, name: &str) -> Result<(ClusterId, String), Problem> {
    let mut log = node.raft_log().map_err(internal)?;
    if !log.is_empty() {
        let begun = hf_meta_core::image::decode(&log.image().data).map_err(internal)?;
        let uuid = node.identity.lock().map_err(internal)?.uuid;
        if begun.nodes.len() == 1 && begun.nodes.values().all(|n| n.uuid == uuid) {
            return Ok((begun.cluster, begun.name));
        }
        return Err(Problem::new(
            Code::State,
            format!("{} holds the metadata of cluster {}", node.dir.path.display(), begun.cluster),
        )
        .because("this node's identity does not say that it is part of one")
        .so("restore its node.json, or give the node an empty data_dir"));
    }
    let cluster = ClusterId(random());
    let state = ClusterState::found(cluster, name.into(), node.put_node(), crate::member::wall_ms())?;
    log.found(1, hf_meta_core::image::encode(&state).map_err(internal)?).map_err(internal)?;
    Ok((cluster, name.into()))
}

fn save_identity(node: &Node, cluster: ClusterId, id: NodeId) -> Result<(), Problem> {
    let identity = {
        let mut i = node.identity.lock().map_err(internal)?;
        i.cluster = cluster;
        i.node = id;
        i.clone()
    };
    node.dir.save(&identity).map_err(internal)
}

/// Joins the cluster of the seeds, which are asked in turn.
pub async fn join(node: &Arc<Node>, seeds: &[String], request: RequestId) -> Result<Outcome, Problem> {
    if seeds.is_empty() || seeds.len() > 64 {
        return Err(Problem::new(Code::Invalid, format!("{} seeds", seeds.len())).so("name 1 to 64").at("/seeds"));
    }
    let _one = node.admin.lock().await;
    if node.member.get().is_some() {
        return repeated(node, request).ok_or_else(is_member);
    }
    let envelope = first_envelope(request, node.put_node()).encode().map_err(internal)?;
    let mut targets = seeds.to_vec();
    let mut problems = Vec::new();
    let end = Instant::now() + PATIENCE;
    let mut turn = 0;
    while Instant::now() < end {
        let addr = targets[turn % targets.len()].clone();
        turn += 1;
        let channel = hf_meta_proto::channel(&addr)
            .map_err(|e| Problem::new(Code::Invalid, format!("seed {addr}")).because(e.to_string()).at("/seeds"))?;
        let mut c = PeerClient::new(channel).max_decoding_message_size(hf_meta_proto::MAX_MESSAGE);
        let asked = c.join(pb::JoinRequest { envelope: envelope.clone(), cluster: Vec::new() });
        let joined = match asked.await {
            Ok(j) => j.into_inner(),
            Err(e) => {
                problems.push(format!("{addr}: {}", e.message()));
                if problems.len() >= 3 * targets.len() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
                continue;
            }
        };
        let reply = joined.reply.unwrap_or_default();
        if reply.not_leader || reply.unknown {
            if !reply.leader_api.is_empty() && !targets.contains(&reply.leader_api) {
                targets.insert(0, reply.leader_api);
                turn = 0;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        }
        let done = admitted(node, &reply.outcome, &joined.cluster, &joined.state).await?;
        return Ok(noted(node, request, done));
    }
    problems.dedup();
    let p = Problem::new(Code::NodeSilent, "no seed let this node join")
        .because(problems.join("; "))
        .so("check that each address is the api address of a node that runs and is part of a cluster");
    // Each seed was asked in vain again and again: a caller that repeated this by itself would only keep its user
    // waiting.
    Err(Problem { fate: Fate::Refuse, retry_after_seconds: None, ..p })
}

/// The cluster has given this node a number.
async fn admitted(node: &Arc<Node>, outcome_json: &[u8], cluster: &[u8], state: &[u8]) -> Result<Outcome, Problem> {
    let outcome_of: hf_meta_core::Outcome = serde_json::from_slice(outcome_json).map_err(internal)?;
    let id = match outcome_of? {
        Reply::Node(id) => id,
        other => return Err(internal(format!("a join was answered with {other:?}"))),
    };
    let raw: [u8; 16] = cluster.try_into().map_err(|_| internal("a cluster id has 16 bytes"))?;
    let view: ClusterState = serde_json::from_slice(state).map_err(internal)?;
    node.dir.save_view(&view).map_err(internal)?;
    save_identity(node, ClusterId(u128::from_be_bytes(raw)), id)?;
    node.become_member().await.map_err(internal)?;
    Ok(outcome(node, format!("node {} joined as #{id}", node.cfg.name)))
}

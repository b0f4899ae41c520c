//! Questions to other nodes, and the answers to theirs: reads, which the leader answers, and deeds that only one
//! certain node can do. One hop, never a redirect: clients may not reach the addresses of nodes.

use crate::local;
use crate::member::Member;
use crate::node::Node;
use hf_control::error::{Code, Problem};
use hf_control::ports::{NodeAnswer, NodeVerb};
use hf_control::read::Query;
use hf_control::view::{Look, answer};
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use hf_policy::NodeId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How long the leader may take to answer a read.
const READ: Duration = Duration::from_millis(1_500);
/// How long a node may take to do what it was asked: an attach waits for the take-over.
const DEED: Duration = Duration::from_secs(45);

/// Events of one revision, at most: a page is not cut among them.
const SAME_REVISION: usize = 64;

/// What one node asks of another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Asked {
    /// A read, to be answered.
    Read(Query),
    /// A deed, to be done.
    Do(NodeVerb),
}

/// A read, with how fresh it is.
#[derive(Debug)]
pub struct Read {
    /// JSON of the resource.
    pub text: String,
    /// The revision of the record that was read.
    pub revision: u64,
    /// No leader answered: this is what the node itself knew, and for how many seconds it has not heard one.
    pub stale: Option<u64>,
}

/// Answers a read here, by what this node knows.
pub async fn read_here(m: &Member, q: &Query) -> Result<Read, Problem> {
    match q {
        Query::Events { after, limit, subject, kind } if is_old(m, *after) => {
            old_events(m, *after, *limit, subject.clone(), kind.clone()).await
        }
        _ => looked_up(m, q),
    }
}

/// Are there events behind this revision that the record has forgotten?
fn is_old(m: &Member, after: u64) -> bool {
    m.event_log.get().is_some() && m.view.borrow().events.front().is_some_and(|e| e.rev > after + 1)
}

/// Events from the files that this node keeps.
async fn old_events(
    m: &Member,
    after: u64,
    limit: usize,
    subject: Option<String>,
    kind: Option<String>,
) -> Result<Read, Problem> {
    let limit = hf_control::view::event_limit(limit)?;
    let Some(log) = m.event_log.get().cloned() else { return Err(internal("no events are kept")) };
    let fits = move |e: &hf_meta_core::record::Event| {
        subject.as_ref().is_none_or(|s| e.subject == *s) && kind.as_ref().is_none_or(|k| e.kind == *k)
    };
    let found = tokio::task::spawn_blocking(move || {
        log.lock().map(|l| l.read(after, limit + SAME_REVISION, fits)).unwrap_or_default()
    });
    let events = found.await.map_err(internal)?;
    let revision = m.view.borrow().revision;
    let list = hf_control::view::event_list(events.iter(), limit, events.len() as u64, revision);
    let text = serde_json::to_string(&list).map_err(internal)?;
    Ok(Read { text, revision, stale: None })
}

fn looked_up(m: &Member, q: &Query) -> Result<Read, Problem> {
    let state = m.view.borrow().clone();
    let soft = m.soft_as_leader();
    let wall_ms = crate::member::wall_ms();
    m.watching.with(|alerts, states| {
        let look = Look { state: &state, soft: soft.as_ref(), alerts, here: m.node, wall_ms };
        let text = answer(look, q, states)?;
        Ok(Read { text, revision: state.revision, stale: None })
    })
}

/// Answers a read as fresh as the leader is. Without a leader it is answered here, and says that it is stale.
pub async fn read(m: &Member, q: Query) -> Result<Read, Problem> {
    if m.meta.status.borrow().is_leader {
        m.freshen().await;
        return read_here(m, &q).await;
    }
    let asked = Asked::Read(q);
    if let Some(addr) = leader_address(m).await
        && let Some(reply) = ask_leader(m, &addr, &asked).await
    {
        let revision = reply.revision;
        return opened(reply).map(|text| Read { text, revision, stale: None });
    }
    let Asked::Read(q) = asked else { return Err(internal("a read became a deed")) };
    let here = read_here(m, &q).await?;
    Ok(Read { stale: Some(m.told.age().as_secs()), ..here })
}

/// Where the node that leads is reached, as far as this node can find out.
pub async fn leader_address(m: &Member) -> Option<String> {
    let leader = m.meta.status.borrow().leader.filter(|l| *l != m.node);
    let known = leader.and_then(|l| m.view.borrow().nodes.get(&l).map(|n| n.addr.api.clone()));
    match known {
        Some(addr) => Some(addr),
        None => Some(tokio::time::timeout(READ, m.leader.look(m.leader.known(), &m.peers())).await.ok()??.0),
    }
}

async fn ask_leader(m: &Member, addr: &str, asked: &Asked) -> Option<pb::AskReply> {
    let request = request(m, asked, true).ok()?;
    let mut peer =
        PeerClient::new(hf_meta_proto::channel(addr).ok()?).max_decoding_message_size(hf_meta_proto::MAX_MESSAGE);
    let reply = tokio::time::timeout(READ, peer.ask(request)).await.ok()?.ok()?.into_inner();
    (!reply.not_leader).then_some(reply)
}

fn request(m: &Member, asked: &Asked, as_leader: bool) -> Result<pb::AskRequest, Problem> {
    let what = serde_json::to_string(asked).map_err(internal)?;
    Ok(pb::AskRequest { cluster: m.cluster.0.to_be_bytes().to_vec(), what, caller: String::new(), as_leader })
}

fn internal(e: impl std::fmt::Display) -> Problem {
    Problem::new(Code::Internal, e.to_string())
}

fn opened(reply: pb::AskReply) -> Result<String, Problem> {
    match reply.problem.as_str() {
        "" => Ok(reply.answer),
        problem => Err(serde_json::from_str(problem).unwrap_or_else(internal)),
    }
}

/// Has a node do what only it can.
pub async fn on_node(node: &Arc<Node>, m: &Arc<Member>, to: NodeId, verb: NodeVerb) -> Result<NodeAnswer, Problem> {
    if to == m.node {
        return local::run(node, m, verb).await;
    }
    let (addr, name) = {
        let s = m.view.borrow();
        (s.nodes.get(&to).map(|n| n.addr.api.clone()), s.node_name(to))
    };
    let addr = addr.ok_or_else(|| Problem::no("node", &name))?;
    let silent = |why: String| {
        Problem::new(Code::NodeSilent, format!("node {name} does not answer")).because(why).at(format!("node/{name}"))
    };
    let request = request(m, &Asked::Do(verb), false)?;
    let mut peer = PeerClient::new(hf_meta_proto::channel(&addr).map_err(internal)?);
    match tokio::time::timeout(DEED, peer.ask(request)).await {
        Ok(Ok(reply)) => serde_json::from_str(&opened(reply.into_inner())?).map_err(internal),
        Ok(Err(e)) => Err(silent(e.message().to_string())),
        // It was sent, and may be done.
        Err(_) => Err(Problem::new(Code::NotInTime, format!("node {name} did not answer in time"))
            .because(format!("{} s went by", DEED.as_secs()))
            .so("send the same request again with the same Idempotency-Key to learn what came of it")
            .at(format!("node/{name}"))),
    }
}

/// Answers what another node asks.
pub async fn answered(node: &Arc<Node>, m: &Arc<Member>, r: &pb::AskRequest) -> pb::AskReply {
    let leads = m.meta.status.borrow().is_leader;
    if r.as_leader && !leads {
        return pb::AskReply { not_leader: true, ..Default::default() };
    }
    let done = match serde_json::from_str::<Asked>(&r.what) {
        Ok(Asked::Read(q)) => {
            m.freshen().await;
            read_here(m, &q).await.map(|r| (r.text, r.revision))
        }
        Ok(Asked::Do(verb)) => {
            let done = local::run(node, m, verb).await;
            let revision = m.view.borrow().revision;
            done.and_then(|a| serde_json::to_string(&a).map_err(internal)).map(|text| (text, revision))
        }
        Err(e) => Err(Problem::new(Code::Invalid, "this release does not know what it was asked")
            .because(e.to_string())
            .so("upgrade this node")),
    };
    match done {
        Ok((answer, revision)) => pb::AskReply { answer, revision, ..Default::default() },
        Err(p) => pb::AskReply { problem: serde_json::to_string(&p).unwrap_or_default(), ..Default::default() },
    }
}

//! Proposes through the node that leads: follows hints, tries the others, and repeats the same request id,
//! which the cluster applies at most once. If the leader cannot be reached from here, another node that hears
//! it hands the request on.

use crate::pb::{HeartbeatReply, HeartbeatRequest, ProposeReply, ProposeRequest, peer_client::PeerClient};
use hf_meta_core::{Envelope, Outcome};
use hf_policy::RequestId;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// A proposal whose outcome is not known.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// No leader could be reached in time. The command may or may not have been applied.
    #[error("no metadata leader answered within {0:?}; last problem: {1}. Is a majority of the voters running?")]
    NoLeader(Duration, String),
    /// The command could not be encoded; it was not sent.
    #[error("the command cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

/// A client that remembers which node leads.
pub struct LeaderClient {
    cluster: Vec<u8>,
    known: Mutex<Known>,
}

/// How long one node may take to answer a proposal before another one is asked.
const ANSWER: Duration = Duration::from_millis(1_500);
/// After this long without an answer the others are asked whether one of them leads by now: a leader that is
/// frozen or cut off says nothing, and is succeeded long before [`ANSWER`] is over.
const HEDGE: Duration = Duration::from_millis(300);
/// After this long another node is asked to hand the request on: it may hear a leader that is out of reach from here.
const RELAY: Duration = Duration::from_millis(600);
/// How many nodes are asked in a row whether they hear a leader.
const ASKED: usize = 8;
/// For this long a node that did not answer is not asked again.
const AVOID: Duration = Duration::from_millis(1_500);

#[derive(Default)]
struct Known {
    leader: Option<String>,
    channels: BTreeMap<String, Channel>,
}

impl LeaderClient {
    /// A client of the leaders of one cluster.
    pub fn new(cluster: hf_policy::ClusterId) -> LeaderClient {
        LeaderClient { cluster: cluster.0.to_be_bytes().to_vec(), known: Mutex::new(Known::default()) }
    }

    fn channel(&self, addr: &str) -> Option<Channel> {
        let mut k = self.known.lock().ok()?;
        if let Some(c) = k.channels.get(addr) {
            return Some(c.clone());
        }
        let c = crate::channel(addr).ok()?;
        k.channels.insert(addr.to_string(), c.clone());
        Some(c)
    }

    /// Learns from a heartbeat which node leads.
    pub fn hint(&self, addr: Option<String>) {
        if let Ok(mut k) = self.known.lock() {
            k.leader = addr;
        }
    }

    /// Address of the leader, as far as this client knows.
    pub fn known(&self) -> Option<String> {
        self.known.lock().ok().and_then(|k| k.leader.clone())
    }

    /// Proposes until an outcome is known or `patience` is over. `nodes`: every address that may lead.
    pub async fn propose(&self, env: &Envelope, nodes: &[String], patience: Duration) -> Result<Outcome, ProposeError> {
        self.propose_seen(env, nodes, patience).await.map(|(outcome, _)| outcome)
    }

    /// The same, and the revision of the record in which its effects are.
    pub async fn propose_seen(
        &self,
        env: &Envelope,
        nodes: &[String],
        patience: Duration,
    ) -> Result<(Outcome, u64), ProposeError> {
        let req = ProposeRequest { envelope: env.encode()?, ..self.request() };
        let read = |r: &ProposeReply| serde_json::from_slice(&r.outcome).map(|o| (o, r.revision));
        self.until_answered(req, nodes, patience, read).await
    }

    /// The outcome of a request, if it was applied and is still stored.
    pub async fn outcome_of(
        &self,
        request: RequestId,
        nodes: &[String],
        patience: Duration,
    ) -> Result<Option<Outcome>, ProposeError> {
        let req = ProposeRequest { request: request.0.to_be_bytes().to_vec(), ..self.request() };
        let read = |r: &ProposeReply| {
            if r.outcome.is_empty() { Ok(None) } else { serde_json::from_slice(&r.outcome).map(Some) }
        };
        self.until_answered(req, nodes, patience, read).await
    }

    fn request(&self) -> ProposeRequest {
        ProposeRequest { cluster: self.cluster.clone(), ..Default::default() }
    }

    async fn until_answered<T>(
        &self,
        req: ProposeRequest,
        nodes: &[String],
        patience: Duration,
        read: impl Fn(&ProposeReply) -> Result<T, serde_json::Error>,
    ) -> Result<T, ProposeError> {
        let began = Instant::now();
        let mut problem = String::from("no node is known");
        let mut turn = 0usize;
        // A node that did not answer is left alone for a moment, even if others still take it for the leader.
        let mut silent: Option<(String, Instant)> = None;
        while began.elapsed() < patience {
            let avoid = silent.as_ref().filter(|(_, t)| t.elapsed() < AVOID).map(|(a, _)| a.clone());
            let target = match self.known().filter(|l| avoid.as_ref() != Some(l)) {
                Some(l) => l,
                None if nodes.is_empty() => break,
                None => {
                    turn += 1;
                    let next = &nodes[turn % nodes.len()];
                    if nodes.len() > 1 && avoid.as_ref() == Some(next) {
                        continue;
                    }
                    next.clone()
                }
            };
            let others: Vec<String> = nodes.iter().filter(|n| **n != target).cloned().collect();
            let asked = tokio::select! {
                r = self.ask(&target, ProposeRequest { relay: avoid.is_some(), ..req.clone() }) => r,
                r = self.relayed(&others, &req) => match read(&r) {
                    Ok(o) => return Ok(o),
                    Err(_) => continue,
                },
                next = self.successor(&others) => {
                    self.hint(Some(next));
                    silent = Some((target, Instant::now()));
                    continue;
                }
            };
            match asked {
                Ok(r) if !r.not_leader && !r.unknown => match read(&r) {
                    Ok(o) => {
                        self.hint(Some(target));
                        return Ok(o);
                    }
                    Err(e) => problem = format!("{target} answered nonsense: {e}"),
                },
                Ok(r) => {
                    problem = format!("{target} does not lead");
                    self.hint((!r.leader_api.is_empty() && r.leader_api != target).then_some(r.leader_api));
                }
                Err(e) => {
                    problem = format!("{target}: {}", e.message());
                    self.hint(None);
                    silent = Some((target, Instant::now()));
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(ProposeError::NoLeader(patience, problem))
    }

    /// The node that says that it leads, and the revision of its record. `first` is asked first, then all
    /// others once, and the nodes that they name.
    pub async fn look(&self, first: Option<String>, nodes: &[String]) -> Option<(String, u64)> {
        for addr in first.iter().chain(nodes.iter().filter(|n| first.as_ref() != Some(n))) {
            let Some(r) = self.asks_who_leads(addr).await else { continue };
            if r.leader {
                return Some((addr.clone(), r.revision));
            }
            let named = Some(r.leader_api).filter(|n| nodes.contains(n) && n != addr && first.as_ref() != Some(n));
            if let Some(named) = named
                && let Some(r) = self.asks_who_leads(&named).await.filter(|r| r.leader)
            {
                return Some((named, r.revision));
            }
        }
        None
    }

    /// Waits until one of these nodes says that it leads.
    async fn successor(&self, others: &[String]) -> String {
        loop {
            tokio::time::sleep(HEDGE).await;
            if let Some((addr, _)) = self.look(None, others).await {
                return addr;
            }
        }
    }

    /// The first of these nodes that hears a leader.
    pub async fn one_that_hears(&self, nodes: &[String]) -> Option<String> {
        for addr in nodes {
            if self.asks_who_leads(addr).await.is_some_and(|r| r.leader_node != 0) {
                return Some(addr.clone());
            }
        }
        None
    }

    /// Waits for the outcome by way of one of these nodes that hears the leader.
    async fn relayed(&self, others: &[String], req: &ProposeRequest) -> ProposeReply {
        let mut turn = 0;
        loop {
            tokio::time::sleep(RELAY).await;
            // Only voters hear a leader, and most nodes are none, so several are asked at a time.
            turn = (turn + ASKED) % others.len().max(1);
            let some: Vec<String> = others.iter().cycle().skip(turn).take(ASKED.min(others.len())).cloned().collect();
            let Some(addr) = self.one_that_hears(&some).await else { continue };
            match self.ask(&addr, ProposeRequest { relay: true, ..req.clone() }).await {
                Ok(r) if !r.not_leader && !r.unknown => return r,
                _ => {}
            }
        }
    }

    async fn asks_who_leads(&self, addr: &str) -> Option<HeartbeatReply> {
        let channel = self.channel(addr)?;
        let req = HeartbeatRequest { cluster: self.cluster.clone(), asks: true, ..Default::default() };
        let asked = tokio::time::timeout(HEDGE, PeerClient::new(channel).heartbeat(req)).await;
        asked.ok()?.ok().map(tonic::Response::into_inner)
    }

    async fn ask(&self, addr: &str, req: ProposeRequest) -> Result<ProposeReply, tonic::Status> {
        let channel = self.channel(addr).ok_or_else(|| tonic::Status::unavailable("bad address"))?;
        let mut peer = PeerClient::new(channel);
        // Asking again is harmless: a request id has one outcome.
        match tokio::time::timeout(ANSWER, peer.propose(req)).await {
            Ok(r) => r.map(tonic::Response::into_inner),
            Err(_) => Err(tonic::Status::unavailable("no answer")),
        }
    }
}

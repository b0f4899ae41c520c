//! Proposes through whichever node leads: follows hints, tries the others, and repeats the same request id, which the
//! cluster applies at most once.

use crate::pb::{ProposeReply, ProposeRequest, peer_client::PeerClient};
use hf_meta_core::{Envelope, Outcome};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// A proposal whose outcome is not known.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Nobody who leads could be reached in time. It may or may not have been applied.
    #[error("no metadata leader answered within {0:?}; last problem: {1}. Is a majority of the voters running?")]
    NoLeader(Duration, String),
    /// Encoding.
    #[error("the command cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

/// A client that remembers who leads.
pub struct LeaderClient {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    leader: Option<String>,
    channels: BTreeMap<String, Channel>,
}

impl Default for LeaderClient {
    fn default() -> Self {
        LeaderClient { known: Mutex::new(Known::default()) }
    }
}

impl LeaderClient {
    fn channel(&self, addr: &str) -> Option<Channel> {
        let mut k = self.known.lock().ok()?;
        if let Some(c) = k.channels.get(addr) {
            return Some(c.clone());
        }
        let c = crate::channel(addr).ok()?;
        k.channels.insert(addr.to_string(), c.clone());
        Some(c)
    }

    /// Learns who leads from elsewhere (heartbeats).
    pub fn hint(&self, addr: Option<String>) {
        if let Ok(mut k) = self.known.lock() {
            k.leader = addr;
        }
    }

    fn leader(&self) -> Option<String> {
        self.known.lock().ok().and_then(|k| k.leader.clone())
    }

    /// Proposes until an outcome is known or `patience` is over. `nodes`: every address that may lead.
    pub async fn propose(&self, env: &Envelope, nodes: &[String], patience: Duration) -> Result<Outcome, ProposeError> {
        let bytes = env.encode()?;
        let began = Instant::now();
        let mut problem = String::from("no node is known");
        let mut turn = 0usize;
        while began.elapsed() < patience {
            let target = match self.leader() {
                Some(l) => l,
                None if nodes.is_empty() => break,
                None => {
                    turn += 1;
                    nodes[turn % nodes.len()].clone()
                }
            };
            match self.ask(&target, bytes.clone()).await {
                Ok(r) if !r.not_leader && !r.unknown => match serde_json::from_slice::<Outcome>(&r.outcome) {
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
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(ProposeError::NoLeader(patience, problem))
    }

    async fn ask(&self, addr: &str, envelope: Vec<u8>) -> Result<ProposeReply, tonic::Status> {
        let channel = self.channel(addr).ok_or_else(|| tonic::Status::unavailable("bad address"))?;
        let ask = PeerClient::new(channel).propose(ProposeRequest { envelope }).await;
        ask.map(tonic::Response::into_inner)
    }
}

//! The client's calls. A call that changes something has one request id and is repeated with it, on every
//! endpoint in turn, until one answers.

use super::failure::Failure;
use crate::identity::random;
use hf_meta_proto::pb::{self, api_client::ApiClient};
use hf_policy::RequestId;
use hf_policy::policy::AttrMap;
use std::future::Future;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// A client of several API endpoints.
pub struct Client {
    endpoints: Vec<String>,
}

/// An endpoint that does not answer within this time is asked last.
const ALIVE: Duration = Duration::from_millis(600);
/// How long one call may take; an attach waits for the take-over.
const PATIENCE: Duration = Duration::from_secs(60);

fn failure(e: Status) -> Failure {
    let code = match e.code() {
        Code::NotFound => 3,
        Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => 4,
        Code::InvalidArgument => 2,
        Code::Unavailable | Code::DeadlineExceeded => 5,
        _ => 1,
    };
    Failure::own(code, "refused", e.message())
}

fn id() -> String {
    RequestId(random()).to_string()
}

impl Client {
    /// A client of these API addresses.
    pub fn new(endpoints: &[String]) -> Client {
        Client { endpoints: endpoints.to_vec() }
    }

    /// The endpoints in the order to ask them. Those where nothing answers come last: a frozen machine still
    /// accepts connections.
    async fn lively_first(&self) -> Vec<&String> {
        if self.endpoints.len() < 2 {
            return self.endpoints.iter().collect();
        }
        let mut silent = Vec::new();
        for (i, e) in self.endpoints.iter().enumerate() {
            let Ok(ch) = hf_meta_proto::channel(e) else { break };
            // Any answer will do, also the refusal that this request gets because it names no cluster.
            let mut peer = pb::peer_client::PeerClient::new(ch);
            let asked = peer.heartbeat(pb::HeartbeatRequest::default());
            match tokio::time::timeout(ALIVE, asked).await {
                Err(_) => silent.push(e),
                Ok(_) => return self.endpoints[i..].iter().chain(silent).collect(),
            }
        }
        self.endpoints.iter().collect()
    }

    async fn call<T, F>(&self, f: impl Fn(ApiClient<Channel>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut last = None;
        for e in self.lively_first().await {
            let channel = hf_meta_proto::channel(e)
                .map_err(|x| super::failure::usage(format!("endpoint {e}: {x}")))?;
            let client = ApiClient::new(channel).max_decoding_message_size(hf_meta_proto::MAX_MESSAGE);
            match tokio::time::timeout(PATIENCE, f(client)).await {
                Ok(Ok(r)) => return Ok(r.into_inner()),
                // No node is there: try the next endpoint. Anything else is an answer.
                Ok(Err(s)) if s.code() == Code::Unavailable && s.metadata().is_empty() => {
                    last = Some(Status::unavailable(format!("{e}: {}", s.message())));
                }
                Ok(Err(s)) => return Err(failure(s)),
                Err(_) => last = Some(Status::deadline_exceeded(format!("{e}: no answer within {PATIENCE:?}"))),
            }
        }
        let why = last.unwrap_or_else(|| Status::unavailable("no endpoint given"));
        Err(Failure::own(
            5,
            "no_answer",
            format!(
                "{} (is the node running? set --endpoint or HOLDFAST_ENDPOINT to its api address)",
                why.message()
            ),
        ))
    }

    /// Founds a cluster on the node at the endpoint.
    pub async fn init(&self, name: &str) -> Result<pb::TextReply, Failure> {
        let req = pb::InitRequest { name: name.into(), request_id: id() };
        self.call(|mut c| {
            let req = req.clone();
            async move { c.init(req).await }
        })
        .await
    }
    /// Makes the node at the endpoint join the cluster of the `seeds`.
    pub async fn join(&self, seeds: &[String]) -> Result<pb::TextReply, Failure> {
        let req = pb::JoinClusterRequest { seeds: seeds.to_vec(), request_id: id() };
        self.call(|mut c| {
            let req = req.clone();
            async move { c.join_cluster(req).await }
        })
        .await
    }
    /// The whole status of the cluster as JSON.
    pub async fn status(&self) -> Result<serde_json::Value, Failure> {
        let mut parts = self.call(|mut c| async move { c.status_parts(pb::Empty {}).await }).await?;
        let mut text = String::new();
        while let Some(p) = parts.message().await.map_err(failure)? {
            text.push_str(&p.json);
        }
        serde_json::from_str(&text).map_err(|e| anyhow::anyhow!("unreadable answer: {e}").into())
    }
    /// Adds a disk to the node at the endpoint.
    pub async fn add_disk(&self, path: &str, size: u64, media: &str) -> Result<pb::TextReply, Failure> {
        let req = pb::AddDiskRequest { path: path.into(), size, media: media.into(), request_id: id() };
        self.call(|mut c| {
            let req = req.clone();
            async move { c.add_disk(req).await }
        })
        .await
    }
    /// Creates a volume.
    pub async fn create_volume(&self, name: &str, attrs: AttrMap) -> Result<pb::TextReply, Failure> {
        let req = pb::CreateVolumeRequest { name: name.into(), attrs: attrs.into_iter().collect(), request_id: id() };
        self.call(|mut c| {
            let req = req.clone();
            async move { c.create_volume(req).await }
        })
        .await
    }
    /// Changes a policy.
    pub async fn set_policy(&self, name: &str, attrs: AttrMap) -> Result<pb::TextReply, Failure> {
        let req = pb::CreateVolumeRequest { name: name.into(), attrs: attrs.into_iter().collect(), request_id: id() };
        self.call(|mut c| {
            let req = req.clone();
            async move { c.set_policy(req).await }
        })
        .await
    }
    /// Deletes a volume.
    pub async fn delete_volume(&self, name: &str) -> Result<pb::TextReply, Failure> {
        let req = pb::VolumeRequest { name: name.into(), request_id: id(), ..Default::default() };
        self.call(|mut c| {
            let req = req.clone();
            async move { c.delete_volume(req).await }
        })
        .await
    }
    /// Attaches a volume.
    pub async fn attach(&self, name: &str, node: &str, force: bool) -> Result<pb::TextReply, Failure> {
        let req = pb::AttachRequest { name: name.into(), node: node.into(), force, request_id: id() };
        self.call(|mut c| {
            let req = req.clone();
            async move { c.attach(req).await }
        })
        .await
    }
    /// Detaches a volume.
    pub async fn detach(&self, name: &str) -> Result<pb::TextReply, Failure> {
        let req = pb::VolumeRequest { name: name.into(), request_id: id(), ..Default::default() };
        self.call(|mut c| {
            let req = req.clone();
            async move { c.detach(req).await }
        })
        .await
    }
    /// Sends an operator's change of nodes, disks, jobs or replicas.
    pub async fn change(&self, what: pb::change_request::What) -> Result<pb::TextReply, Failure> {
        let req = pb::ChangeRequest { request_id: id(), what: Some(what) };
        self.call(|mut c| {
            let req = req.clone();
            async move { c.change(req).await }
        })
        .await
    }
    /// Gives events to `on` one by one, as JSON; with `follow` also those that come later.
    pub async fn events(&self, follow: bool, mut on: impl FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut stream =
            self.call(|mut c| async move {
                c.events(pb::WatchRequest { from_revision: 0, follow, ..Default::default() }).await
            })
            .await?;
        while let Some(e) = stream.message().await.map_err(failure)? {
            on(&e.json)?;
        }
        Ok(())
    }
}

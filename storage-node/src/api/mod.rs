//! The gRPC services of a node: `Api` for operators and `Peer` for other nodes.

mod attach;
mod force;
mod status;

use crate::identity::random;
use crate::member::Member;
use crate::node::Node;
use hf_meta::service::{AliveStream, DeltaStream};
use hf_meta_core::plan;
use hf_meta_core::record::{ClusterState, VolumeRecord};
use hf_meta_core::{Command, Outcome, Refusal, Reply};
use hf_meta_proto::pb::{self, api_client::ApiClient, api_server::Api, peer_client::PeerClient, peer_server::Peer};
use hf_policy::policy::AttrMap;
use hf_policy::{ClusterId, Epoch, Lineage, NodeId, RequestId, VolumeId};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

/// How long a committed change may take to show in this node's view.
const VISIBLE: Duration = Duration::from_secs(10);
/// How long an attach may take until the volume is served.
const SERVING: Duration = Duration::from_secs(30);

/// Serves both services until `stop` is true.
pub async fn serve(node: Arc<Node>, l: TcpListener, mut stop: watch::Receiver<bool>) {
    let api = pb::api_server::ApiServer::new(Service(node.clone()));
    let peer = pb::peer_server::PeerServer::new(Service(node))
        .max_decoding_message_size(hf_meta_proto::MAX_MESSAGE)
        .max_encoding_message_size(hf_meta_proto::MAX_MESSAGE);
    let incoming = tonic::transport::server::TcpIncoming::from(l).with_nodelay(Some(true));
    let served = tonic::transport::Server::builder().add_service(api).add_service(peer).serve_with_incoming_shutdown(
        incoming,
        async move {
            let _ = stop.wait_for(|s| *s).await;
        },
    );
    if let Err(e) = served.await {
        tracing::error!("api: {e}");
    }
}

#[derive(Clone)]
struct Service(Arc<Node>);

type Answer<T> = Result<Response<T>, Status>;

fn refused(r: Refusal) -> Status {
    let text = r.to_string();
    match r {
        Refusal::NotFound { .. } => Status::not_found(text),
        Refusal::Exists { .. } => Status::already_exists(text),
        Refusal::Invalid(_) | Refusal::Unplaceable(_) | Refusal::NoSpace(_) => Status::invalid_argument(text),
        _ => Status::failed_precondition(text),
    }
}

fn internal(e: impl std::fmt::Display) -> Status {
    Status::internal(e.to_string())
}

fn text(t: impl Into<String>, json: serde_json::Value) -> Answer<pb::TextReply> {
    Ok(Response::new(pb::TextReply { text: t.into(), json: json.to_string(), not_yet: String::new() }))
}

/// The caller's request id, or a new one if it sent none.
fn request_id(given: &str) -> Result<RequestId, Status> {
    if given.is_empty() {
        return Ok(RequestId(random()));
    }
    given.parse().map_err(|_| Status::invalid_argument("request_id is not 32 hexadecimal digits"))
}

/// Makes a command from the newest record and proposes it; again as long as others change the record in
/// between (a coordinator drops a replica, the leader repairs). All attempts share one request id. Refusals
/// for being overtaken are not kept, so a caller that repeats the whole request gets the outcome of the
/// attempt that was done.
async fn decide(
    m: &Member,
    request: RequestId,
    mut decide: impl FnMut(&ClusterState) -> Result<Command, Status>,
) -> Result<Reply, Status> {
    let end = Instant::now() + VISIBLE;
    loop {
        let decided = decide(&m.view.borrow().clone());
        let cmd = match decided {
            Ok(cmd) => cmd,
            // An earlier attempt of this very request may have been done and made it impossible now: the
            // caller repeats it.
            Err(e) => match m.outcome_of(request).await {
                Some(known) => return known.map_err(refused),
                None => return Err(e),
            },
        };
        match m.propose(request, cmd).await.map_err(|e| Status::unavailable(e.to_string()))? {
            Err(e @ (Refusal::EpochMismatch { .. } | Refusal::NotReady(_))) => {
                if Instant::now() > end {
                    return Err(refused(e));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                m.freshen().await;
            }
            other => return other.map_err(refused),
        }
    }
}

/// Waits until `see` finds something in this node's view of the record; `None` after `patience`.
async fn until<T>(m: &Member, patience: Duration, mut see: impl FnMut(&ClusterState) -> Option<T>) -> Option<T> {
    let mut rx = m.view.clone();
    let end = Instant::now() + patience;
    loop {
        if let Some(t) = see(&rx.borrow_and_update()) {
            return Some(t);
        }
        let left = end.checked_duration_since(Instant::now())?;
        let _ = tokio::time::timeout(left, rx.changed()).await;
    }
}

/// The error for a forwarded call: which node did not answer, and what to do about it.
fn silent(e: Status, who: &str, advice: &str) -> Status {
    match e.code() {
        tonic::Code::Unavailable => Status::unavailable(format!("{who} does not answer ({}); {advice}", e.message())),
        _ => e,
    }
}

fn no_volume(name: &str) -> Refusal {
    Refusal::NotFound { kind: "volume".into(), name: name.into() }
}

fn find(state: &ClusterState, name: &str) -> Result<Arc<VolumeRecord>, Status> {
    state.volume_named(name).cloned().ok_or_else(|| refused(no_volume(name)))
}

impl Service {
    /// A client of the `Api` service of another node.
    fn api_of(&self, m: &Member, node: NodeId) -> Result<ApiClient<tonic::transport::Channel>, Status> {
        let addr = m.view.borrow().nodes.get(&node).map(|n| n.addr.api.clone());
        let addr = addr.ok_or_else(|| Status::not_found(format!("no node #{node}")))?;
        Ok(ApiClient::new(hf_meta_proto::channel(&addr).map_err(internal)?))
    }

    /// Writes the founding state to the log: the cluster and its first node. The log begins behind it. If an
    /// earlier founding was cut short before it was noted in `node.json`, that one is completed.
    fn found(&self, name: String) -> Result<(ClusterId, String), Status> {
        let mut log = self.0.raft_log().map_err(internal)?;
        if !log.is_empty() {
            let begun = hf_meta_core::image::decode(&log.image().data).map_err(internal)?;
            let uuid = self.0.identity.lock().map_err(internal)?.uuid;
            if begun.nodes.len() == 1 && begun.nodes.values().all(|n| n.uuid == uuid) {
                return Ok((begun.cluster, begun.name));
            }
            return Err(Status::failed_precondition(format!(
                "{} holds the metadata of cluster {}, but this node's identity does not say that it is part of one: restore its node.json, or give the node an empty data_dir",
                self.0.dir.path.display(),
                begun.cluster
            )));
        }
        let cluster = ClusterId(random());
        let at_ms = crate::member::wall_ms();
        let state = ClusterState::found(cluster, name.clone(), self.0.put_node(), at_ms).map_err(refused)?;
        log.found(1, hf_meta_core::image::encode(&state).map_err(internal)?).map_err(internal)?;
        Ok((cluster, name))
    }

    async fn save_identity(&self, cluster: ClusterId, node: NodeId) -> Result<(), Status> {
        let id = {
            let mut id = self.0.identity.lock().map_err(internal)?;
            id.cluster = cluster;
            id.node = node;
            id.clone()
        };
        self.0.dir.save(&id).map_err(internal)
    }
}

#[tonic::async_trait]
impl Api for Service {
    async fn init(&self, r: Request<pb::InitRequest>) -> Answer<pb::TextReply> {
        let r = r.into_inner();
        let _one = self.0.admin.lock().await;
        if self.0.member.get().is_some() {
            return Err(Status::already_exists("this node is part of a cluster already"));
        }
        let name = if r.name.is_empty() { "holdfast".to_string() } else { r.name };
        let (cluster, name) = self.found(name)?;
        self.save_identity(cluster, NodeId(1)).await?;
        self.0.become_member().await.map_err(internal)?;
        text(format!("cluster {name} founded ({cluster})"), serde_json::json!({"cluster": cluster, "node": 1}))
    }

    async fn join_cluster(&self, r: Request<pb::JoinClusterRequest>) -> Answer<pb::TextReply> {
        let r = r.into_inner();
        let _one = self.0.admin.lock().await;
        if self.0.member.get().is_some() {
            return Err(Status::already_exists("this node is part of a cluster already"));
        }
        let env = crate::member::first_envelope(request_id(&r.request_id)?, self.0.put_node());
        let envelope = env.encode().map_err(internal)?;
        let mut targets: Vec<String> = r.seeds.clone();
        let mut problems = Vec::new();
        let end = Instant::now() + Duration::from_secs(15);
        let mut i = 0;
        while !targets.is_empty() && Instant::now() < end {
            let addr = targets[i % targets.len()].clone();
            i += 1;
            let req = pb::JoinRequest { envelope: envelope.clone(), cluster: Vec::new() };
            let ch =
                hf_meta_proto::channel(&addr).map_err(|e| Status::invalid_argument(format!("seed {addr}: {e}")))?;
            let mut c = PeerClient::new(ch).max_decoding_message_size(hf_meta_proto::MAX_MESSAGE);
            let joined = match c.join(req).await {
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
                    i = 0;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            let outcome: Outcome = serde_json::from_slice(&reply.outcome).map_err(internal)?;
            let Reply::Node(id) = outcome.map_err(refused)? else { return Err(Status::internal("unexpected answer")) };
            let raw: [u8; 16] = joined.cluster.as_slice().try_into().map_err(|_| internal("bad cluster id"))?;
            let view: ClusterState = serde_json::from_slice(&joined.state).map_err(internal)?;
            self.0.dir.save_view(&view).map_err(internal)?;
            self.save_identity(ClusterId(u128::from_be_bytes(raw)), id).await?;
            self.0.become_member().await.map_err(internal)?;
            let name = &self.0.cfg.name;
            return text(format!("node {name} joined as #{id}"), serde_json::json!({"node": id, "name": name}));
        }
        problems.dedup();
        Err(Status::unavailable(format!(
            "no seed let this node join ({}); check that each address is the api address of a node that runs and is part of a cluster",
            problems.join("; ")
        )))
    }

    async fn status(&self, _: Request<pb::Empty>) -> Answer<pb::JsonReply> {
        Ok(Response::new(pb::JsonReply { json: self.whole_status().await?.to_string() }))
    }

    type StatusPartsStream = Pin<Box<dyn Stream<Item = Result<pb::JsonReply, Status>> + Send>>;

    async fn status_parts(&self, _: Request<pb::Empty>) -> Answer<Self::StatusPartsStream> {
        let text = self.whole_status().await?.to_string();
        Ok(Response::new(Box::pin(tokio_stream::iter(Self::in_pieces(text)))))
    }

    async fn add_disk(&self, r: Request<pb::AddDiskRequest>) -> Answer<pb::TextReply> {
        let r = r.into_inner();
        let media = match r.media.as_str() {
            "" => None,
            m => match hf_policy::attributes::Media::parse(m) {
                Some(m) => Some(m),
                None => return Err(Status::invalid_argument(format!("media \"{m}\" is not one of nvme, ssd, hdd"))),
            },
        };
        let new = crate::disks::NewDisk { path: r.path.clone().into(), size: (r.size > 0).then_some(r.size), media };
        let id = crate::disks::add(&self.0, new).await.map_err(|e| Status::failed_precondition(format!("{e:#}")))?;
        text(format!("disk {id} added: {}", r.path), serde_json::json!({"disk": id, "path": r.path}))
    }

    async fn create_volume(&self, r: Request<pb::CreateVolumeRequest>) -> Answer<pb::TextReply> {
        let (m, r) = (self.0.member()?, r.into_inner());
        m.freshen().await;
        let request = request_id(&r.request_id)?;
        let attrs: AttrMap = r.attrs.into_iter().collect();
        let (live, lineage) = (self.liveness(&m).await?, Lineage(random()));
        decide(&m, request, |s| {
            let shards = plan::create_volume(s, &live, &r.name, &attrs, request.0 as u64).map_err(refused)?;
            Ok(Command::CreateVolume { name: r.name.clone(), attrs: attrs.clone(), lineage, shards })
        })
        .await?;
        let ready = until(&m, VISIBLE, |s| s.volume_named(&r.name).filter(|v| v.ready()).cloned()).await;
        let not_yet = if ready.is_some() { "" } else { "its replicas are still being created" };
        let json = serde_json::json!({"volume": r.name, "ready": ready.is_some()});
        let (text, json) = (format!("volume {} created", r.name), json.to_string());
        Ok(Response::new(pb::TextReply { text, json, not_yet: not_yet.into() }))
    }

    async fn delete_volume(&self, r: Request<pb::VolumeRequest>) -> Answer<pb::TextReply> {
        let (m, r) = (self.0.member()?, r.into_inner());
        m.freshen().await;
        let mut vol = None;
        decide(&m, request_id(&r.request_id)?, |s| {
            // The volume that had this name at the first attempt; a later volume of the same name is not
            // meant.
            let v = match vol {
                None => find(s, &r.name)?,
                Some(id) => s.volumes.get(&id).cloned().ok_or_else(|| refused(no_volume(&r.name)))?,
            };
            vol = Some(v.id);
            Ok(Command::DeleteVolume { vol: v.id, epoch: v.epoch })
        })
        .await?;
        until(&m, VISIBLE, |s| vol.is_none_or(|v| !s.volumes.contains_key(&v)).then_some(())).await;
        text(format!("volume {} deleted", r.name), serde_json::json!({"volume": r.name}))
    }

    async fn set_policy(&self, r: Request<pb::CreateVolumeRequest>) -> Answer<pb::TextReply> {
        self.change_policy(r.into_inner()).await
    }

    async fn attach(&self, r: Request<pb::AttachRequest>) -> Answer<pb::TextReply> {
        let (m, r) = (self.0.member()?, r.into_inner());
        m.freshen().await;
        let request = request_id(&r.request_id)?;
        let target = match r.node.as_str() {
            "" => m.node,
            name => {
                let found = m.view.borrow().node_named(name).map(|n| n.id);
                found.ok_or_else(|| refused(Refusal::NotFound { kind: "node".into(), name: name.into() }))?
            }
        };
        if target != m.node {
            let ask = pb::AttachRequest { node: String::new(), ..r.clone() };
            let asked = self.api_of(&m, target)?.attach(ask).await;
            return asked.map_err(|e| silent(e, &format!("node {}", r.node), "start it, or attach on another node"));
        }
        self.attach_here(&m, &r, request).await
    }

    async fn detach(&self, r: Request<pb::VolumeRequest>) -> Answer<pb::TextReply> {
        let (m, r) = (self.0.member()?, r.into_inner());
        m.freshen().await;
        let v = find(&m.view.borrow().clone(), &r.name)?;
        let Some(a) = v.coordinator.clone() else {
            return text(format!("volume {} is not attached", r.name), serde_json::json!({"volume": r.name}));
        };
        if a.node != m.node {
            if r.forwarded {
                return Err(Status::unavailable("the attachment moved; try again"));
            }
            let name = m.view.borrow().node_name(a.node);
            let ask = pb::VolumeRequest { forwarded: true, ..r };
            let asked = self.api_of(&m, a.node)?.detach(ask).await;
            let who = format!("node {name}, where the volume is attached,");
            return asked.map_err(|e| silent(e, &who, "attach it elsewhere with --force"));
        }
        m.exports.end(v.id, a.session);
        for r in &m.reactors {
            r.send(hf_reactor::Mail::StopVolume { vol: v.id, session: a.session });
        }
        let gone = until(&m, SERVING, |s| {
            let now = s.volumes.get(&v.id).and_then(|x| x.coordinator.as_ref()).map(|x| x.session);
            (now != Some(a.session)).then_some(())
        });
        match gone.await {
            Some(()) => text(format!("volume {} detached", r.name), serde_json::json!({"volume": r.name})),
            None => {
                let waits = attach::what_it_waits_for(&m, v.id).await;
                Err(Status::deadline_exceeded(format!(
                    "volume {} is no longer exported, but not detached yet: {waits}. The detach goes on; an attach of the volume ends those requests with an error",
                    r.name
                )))
            }
        }
    }

    async fn change(&self, r: Request<pb::ChangeRequest>) -> Answer<pb::TextReply> {
        let (m, r) = (self.0.member()?, r.into_inner());
        m.freshen().await;
        let request = request_id(&r.request_id)?;
        let mut said = String::new();
        let forced = matches!(r.what, Some(pb::change_request::What::ForceInsync(_)));
        let up = if forced { self.liveness(&m).await?.up } else { Default::default() };
        decide(&m, request, |s| {
            let (cmd, text) = crate::repair::change(s, r.what.clone(), &up)?;
            said = text;
            Ok(cmd)
        })
        .await?;
        text(said.clone(), serde_json::json!({ "done": said }))
    }

    async fn maintain(&self, r: Request<pb::MaintainRequest>) -> Answer<pb::Empty> {
        let (m, r) = (self.0.member()?, r.into_inner());
        crate::repair::maintain(&m, VolumeId(r.vol), r.begin, Epoch(r.epoch)).await?;
        Ok(Response::new(pb::Empty {}))
    }

    type EventsStream = Pin<Box<dyn Stream<Item = Result<pb::JsonReply, Status>> + Send>>;

    async fn events(&self, r: Request<pb::WatchRequest>) -> Answer<Self::EventsStream> {
        let m = self.0.member()?;
        m.freshen().await;
        let r = r.into_inner();
        let mut at = r.from_revision;
        let states: Pin<Box<dyn Stream<Item = Arc<ClusterState>> + Send>> = if r.follow {
            Box::pin(tokio_stream::wrappers::WatchStream::new(m.view.clone()))
        } else {
            Box::pin(tokio_stream::once(m.view.borrow().clone()))
        };
        let out = states
            .map(move |s| {
                let new: Vec<_> = s.events.iter().filter(|e| e.rev > at).cloned().collect();
                at = at.max(s.revision);
                tokio_stream::iter(new)
            })
            .map(|batch| batch.map(|e| serde_json::to_string(&e).map(|json| pb::JsonReply { json }).map_err(internal)));
        Ok(Response::new(Box::pin(flatten(out))))
    }
}

/// Joins a stream of streams, one after another.
fn flatten<S, T>(mut outer: S) -> impl Stream<Item = T> + Send
where
    S: Stream + Send + Unpin + 'static,
    S::Item: Stream<Item = T> + Send + Unpin,
    T: Send + 'static,
{
    let (tx, rx) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(mut inner) = outer.next().await {
            while let Some(item) = inner.next().await {
                if tx.send(item).await.is_err() {
                    return;
                }
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(rx)
}

#[tonic::async_trait]
impl Peer for Service {
    async fn raft(&self, r: Request<pb::RaftRequest>) -> Answer<pb::Empty> {
        self.0.peer_service()?.raft(r).await
    }
    async fn propose(&self, r: Request<pb::ProposeRequest>) -> Answer<pb::ProposeReply> {
        self.0.peer_service()?.propose(r).await
    }
    async fn join(&self, r: Request<pb::JoinRequest>) -> Answer<pb::JoinReply> {
        self.0.peer_service()?.join(r).await
    }
    type WatchStream = DeltaStream;
    async fn watch(&self, r: Request<pb::WatchRequest>) -> Answer<DeltaStream> {
        self.0.peer_service()?.watch(r).await
    }
    type AliveStream = AliveStream;
    async fn alive(&self, r: Request<pb::AliveRequest>) -> Answer<AliveStream> {
        self.0.peer_service()?.alive(r).await
    }
    async fn living(&self, r: Request<pb::LivingRequest>) -> Answer<pb::LivingReply> {
        self.0.peer_service()?.living(r).await
    }
    async fn in_force(&self, r: Request<pb::InForceRequest>) -> Answer<pb::InForceReply> {
        self.in_force_here(r.into_inner()).await.map(Response::new)
    }
    async fn heartbeat(&self, r: Request<pb::HeartbeatRequest>) -> Answer<pb::HeartbeatReply> {
        self.0.peer_service()?.heartbeat(r).await
    }
}

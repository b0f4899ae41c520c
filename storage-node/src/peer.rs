//! The gRPC service that other nodes call. There is no other one: operators and programs use REST.

use crate::node::Node;
use hf_meta::service::{AliveStream, DeltaStream, FollowStream};
use hf_meta_proto::pb::{self, peer_server::Peer};
use hf_policy::{Epoch, VolumeId};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// Serves other nodes until `stop` is true.
pub async fn serve(node: Arc<Node>, l: TcpListener, mut stop: watch::Receiver<bool>) {
    let peer = pb::peer_server::PeerServer::new(Service(node))
        .max_decoding_message_size(hf_meta_proto::MAX_MESSAGE)
        .max_encoding_message_size(hf_meta_proto::MAX_MESSAGE);
    let incoming = tonic::transport::server::TcpIncoming::from(l).with_nodelay(Some(true));
    let served =
        tonic::transport::Server::builder().add_service(peer).serve_with_incoming_shutdown(incoming, async move {
            let _ = stop.wait_for(|s| *s).await;
        });
    if let Err(e) = served.await {
        tracing::error!("api: {e}");
    }
}

#[derive(Clone)]
struct Service(Arc<Node>);

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    fn check(&self, cluster: &[u8]) -> Result<Arc<crate::member::Member>, Status> {
        let m = self.0.member()?;
        match cluster == m.cluster.0.to_be_bytes() {
            true => Ok(m),
            false => Err(Status::permission_denied("this node belongs to another cluster")),
        }
    }
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
        let m = self.0.member()?;
        crate::in_force::here(&m, r.into_inner()).await.map(Response::new)
    }
    async fn heartbeat(&self, r: Request<pb::HeartbeatRequest>) -> Answer<pb::HeartbeatReply> {
        self.0.peer_service()?.heartbeat(r).await
    }
    async fn ask(&self, r: Request<pb::AskRequest>) -> Answer<pb::AskReply> {
        let r = r.into_inner();
        let m = self.check(&r.cluster)?;
        Ok(Response::new(crate::ask::answered(&self.0, &m, &r).await))
    }
    type FollowStream = FollowStream;
    async fn follow(&self, r: Request<pb::FollowRequest>) -> Answer<FollowStream> {
        let r = r.into_inner();
        let m = self.check(&r.cluster)?;
        Ok(Response::new(crate::watch::followed(&m, &r)?))
    }
    async fn maintain(&self, r: Request<pb::MaintainRequest>) -> Answer<pb::Empty> {
        let (m, r) = (self.0.member()?, r.into_inner());
        crate::repair::maintain(&m, VolumeId(r.vol), r.begin, Epoch(r.epoch)).await?;
        Ok(Response::new(pb::Empty {}))
    }
}

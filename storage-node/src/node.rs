//! A node: its configuration, its data directory, and its membership once it is part of a cluster.

use crate::config::Config;
use crate::export::Doors;
use crate::identity::{DataDir, Identity};
use crate::member::Member;
use hf_meta::log::{FORGOT, LogError};
use hf_meta::raft_log::RaftLog;
use hf_meta::service::PeerService;
use hf_meta_core::Command;
use hf_policy::BootId;
use std::sync::{Arc, Mutex, OnceLock};
use tokio::sync::{mpsc, oneshot, watch};

/// Asks the daemon to make this node a member of the cluster that its identity names; the answer goes there.
pub type Joining = oneshot::Sender<anyhow::Result<()>>;

/// The daemon, whether or not it is part of a cluster yet.
pub struct Node {
    /// The configuration that it was started with.
    pub cfg: Config,
    /// The data directory, locked for this process.
    pub dir: DataDir,
    /// Identity, as on disk.
    pub identity: Mutex<Identity>,
    /// The id of this process.
    pub boot: BootId,
    /// Set once, when the node becomes part of a cluster.
    pub member: OnceLock<Arc<Member>>,
    /// The request by which this process made the node a member, and its answer, for whoever lost it.
    pub member_by: Mutex<Option<(hf_policy::RequestId, hf_control::model::Outcome)>>,
    /// Connections that have not said yet what they want.
    pub doors: Doors,
    /// Set when the daemon stops.
    pub stopping: watch::Sender<bool>,
    /// Serialises init, join and disk changes.
    pub admin: tokio::sync::Mutex<()>,
    /// To the daemon.
    pub joins: mpsc::Sender<Joining>,
}

impl Node {
    /// The member part, or why there is none.
    pub fn member(&self) -> Result<Arc<Member>, tonic::Status> {
        self.member.get().cloned().ok_or_else(|| {
            tonic::Status::failed_precondition(
                "this node is not part of a cluster yet; run holdfast cluster init on the first node, then holdfast node join on the others",
            )
        })
    }

    /// This node's own record.
    pub fn put_node(&self) -> Command {
        let uuid = self.identity.lock().map(|i| i.uuid).unwrap_or_default();
        let member = self.member.get();
        Command::PutNode {
            log: member.map(|m| Box::new(m.meta.status.borrow().own.clone())).unwrap_or_default(),
            node: member.map(|m| m.node),
            name: self.cfg.name.clone(),
            uuid,
            addr: hf_meta_core::record::Addresses {
                api: self.cfg.api.clone(),
                data: self.cfg.data.clone(),
                nbd: self.cfg.nbd.clone(),
            },
            labels: self.cfg.labels.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Opens the metadata store.
    pub fn raft_log(&self) -> anyhow::Result<RaftLog> {
        let reserve = self.dir.reserve();
        // Before it is opened: on a full file system it could not be.
        if let Err(e) = reserve.tend() {
            // A quota, perhaps: without a reserve it works as well, until the space is gone.
            tracing::warn!("data_dir {}: no space can be set aside: {e}", self.dir.path.display());
        }
        let log = RaftLog::open_within(&self.dir.path.join("meta"), self.cfg.metadata_memory).map_err(|e| match e {
            LogError::Damaged(_) => anyhow::anyhow!("data_dir {}: {e}. {FORGOT}", self.dir.path.display()),
            e => e.into(),
        })?;
        Ok(log.with_reserve(reserve))
    }

    /// It has an identity in a cluster now: everything that a member runs is started.
    pub async fn become_member(&self) -> anyhow::Result<()> {
        let (tx, rx) = oneshot::channel();
        self.joins.send(tx).await?;
        rx.await?
    }

    /// Once this node has a log it remembers outside of it that there is one.
    pub async fn remember_log(self: Arc<Self>, m: Arc<Member>) {
        let mut status = m.meta.status.clone();
        if status.wait_for(|s| s.applied > 0).await.is_err() {
            return;
        }
        let _one = self.admin.lock().await;
        let changed = self.identity.lock().ok().and_then(|mut id| {
            let first = !std::mem::replace(&mut id.has_log, true);
            first.then(|| id.clone())
        });
        if let Some(Err(e)) = changed.map(|id| self.dir.save(&id)) {
            tracing::warn!("data_dir {}: {e}", self.dir.path.display());
        }
    }

    /// The service other nodes use.
    pub fn peer_service(&self) -> Result<PeerService, tonic::Status> {
        let m = self.member()?;
        Ok(PeerService {
            cluster: m.cluster,
            node: m.node,
            meta: m.meta.clone(),
            view: m.view.clone(),
            heard: m.heard.clone(),
            stopping: self.stopping.subscribe(),
        })
    }
}

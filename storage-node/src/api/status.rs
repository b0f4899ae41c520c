//! The answer of `Status`: the record, the leader's view of liveness, and what this node serves.

use super::{Service, VISIBLE};
use crate::member::Member;
use hf_meta_core::plan::Liveness;
use hf_meta_proto::pb::{self, api_client::ApiClient, peer_client::PeerClient};
use hf_policy::{DiskId, NodeId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tonic::Status;

impl Service {
    /// What the leader knows of liveness. If another node leads, it is asked.
    pub(super) async fn status_json(&self, m: &Member) -> Result<serde_json::Value, Status> {
        let raft = m.meta.status.borrow().clone();
        let known = m.soft_as_leader();
        let leads = known.is_some();
        let soft = known.unwrap_or_default();
        let (live, syncs) = (soft.liveness(), crate::repair::syncs_json(&soft));
        let mut reactors = Vec::new();
        for r in &m.reactors {
            reactors.push(r.status().await);
        }
        let state = m.view.borrow().clone();
        let volumes: Vec<_> = reactors.iter().flat_map(|r| &r.volumes).map(volume_json).collect();
        let disks: Vec<_> = reactors.iter().flat_map(|r| &r.disks).map(disk_json).collect();
        let inventory = hf_meta_core::plan::inventory(&state, &live);
        let replicas: BTreeMap<_, _> = inventory.iter().map(|d| (d.disk, d.replicas)).collect();
        Ok(serde_json::json!({
            "cluster": state.cluster, "name": state.name, "revision": state.revision,
            "leader": raft.leader, "is_leader": leads, "raft_term": raft.term,
            "voters": raft.voters, "voters_changing": raft.changing, "learners": raft.learners, "this_node": m.node,
            "up": live.up, "used": live.used, "entries": live.entries, "replicas": replicas, "away": live.away, "syncs": syncs, "rebuild_paused": state.rebuild_paused,
            "rebalancing": state.rebalancing, "rebalance_paused": state.rebalance_paused,
            "nodes": state.nodes, "disks": state.disks, "volumes": state.volumes,
            "tombstones": state.tombstones, "attached_here": volumes, "disks_here": disks,
        }))
    }

    /// The leader's status, which includes liveness; without a leader, this node's own.
    pub(super) async fn leader_json(&self, m: &Member) -> Result<serde_json::Value, Status> {
        let leader = m.meta.status.borrow().leader.filter(|l| *l != m.node);
        let leader = leader.or_else(|| {
            let voters = m.meta.status.borrow().voters.clone();
            (!voters.contains(&m.node.0))
                .then(|| m.view.borrow().nodes.keys().find(|n| **n != m.node).copied())
                .flatten()
        });
        let addr = leader.and_then(|l| m.view.borrow().nodes.get(&l).map(|n| n.addr.api.clone()));
        if let Some(ch) = addr.and_then(|a| hf_meta_proto::channel(&a).ok()) {
            let mut c = ApiClient::new(ch);
            // A status may be large; its first piece shows that the leader answers.
            let asked = tokio::time::timeout(Duration::from_millis(800), c.status_parts(pb::Empty {})).await;
            if let Ok(Ok(r)) = asked
                && let Ok(Ok(v)) = tokio::time::timeout(VISIBLE, Self::joined(r.into_inner())).await
            {
                return Ok(v);
            }
        }
        self.status_json(m).await
    }

    /// The leader's status, or this node's.
    pub(super) async fn whole_status(&self) -> Result<serde_json::Value, Status> {
        let m = self.0.member()?;
        m.freshen().await;
        if m.meta.status.borrow().is_leader { self.status_json(&m).await } else { self.leader_json(&m).await }
    }

    pub(super) async fn liveness(&self, m: &Member) -> Result<Liveness, Status> {
        // Only the leader knows which nodes live. A guess that none does would take volumes from live nodes.
        let end = Instant::now() + VISIBLE;
        loop {
            if let Some(live) = m.liveness_as_leader() {
                return Ok(live);
            }
            if let Some(live) = ask_leader(m).await {
                return Ok(live);
            }
            if Instant::now() > end {
                return Err(Status::unavailable(
                    "no metadata leader answers, so it is unknown which nodes live; try again",
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What the leader knows of nodes and disks. Its size does not depend on the number of volumes.
async fn ask_leader(m: &Member) -> Option<Liveness> {
    let leader = m.meta.status.borrow().leader.filter(|l| *l != m.node);
    let known = leader.and_then(|l| m.view.borrow().nodes.get(&l).map(|n| n.addr.api.clone()));
    let addr = match known {
        Some(addr) => addr,
        None => m.leader.look(None, &m.peers()).await?.0,
    };
    let mut c = PeerClient::new(hf_meta_proto::channel(&addr).ok()?);
    let req = pb::LivingRequest { cluster: m.cluster.0.to_be_bytes().to_vec() };
    let asked = tokio::time::timeout(Duration::from_millis(800), c.living(req)).await;
    let r = asked.ok()?.ok()?.into_inner();
    r.leader.then(|| Liveness {
        up: r.up.iter().map(|n| NodeId(*n)).collect(),
        used: r.used.iter().map(|d| (DiskId(d.disk), d.used)).collect(),
        // A leader of an older release does not say how large the tables are.
        entries: r.used.iter().filter(|d| d.entries > 0).map(|d| (DiskId(d.disk), d.entries)).collect(),
        refusing: r.refusing.iter().map(|d| DiskId(*d)).collect(),
        ..Liveness::default()
    })
}

fn volume_json(v: &hf_reactor::VolumeStatus) -> serde_json::Value {
    let shards: Vec<_> = v
        .shards
        .iter()
        .map(|s| {
            serde_json::json!({
                "phase": format!("{:?}", s.phase), "term": s.term, "in_sync": s.in_sync, "outstanding": s.outstanding,
                "stable": s.stable.to_string(), "reads": s.stats.reads, "writes": s.stats.writes,
                "errors": s.stats.errors, "drops": s.stats.drops, "reconciled_blocks": s.reconciled_blocks,
                "draining": s.draining.map(|d| d.waits_for.to_string()),
            })
        })
        .collect();
    serde_json::json!({"volume": v.vol, "session": v.session, "shards": shards, "connections": v.connections})
}

fn disk_json(d: &hf_reactor::DiskStatus) -> serde_json::Value {
    serde_json::json!({
        "disk": d.disk, "backend": d.backend, "replicas": d.replicas.len(), "failed": d.failed,
        "journal_used": d.stats.journal_used, "overlay_bytes": d.stats.overlay_bytes,
    })
}

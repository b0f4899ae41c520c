//! What `Status` answers: the record, the leader's liveness, and what this node serves.

use super::{Service, VISIBLE, internal};
use crate::node::Member;
use hf_meta_core::plan::Liveness;
use hf_meta_proto::pb::{self, api_client::ApiClient};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tonic::Status;

impl Service {
    /// What the leader knows of liveness: asked of the leader itself, if that is not this node.
    pub(super) async fn status_json(&self, m: &Member) -> Result<serde_json::Value, Status> {
        let raft = m.meta.status.borrow().clone();
        let known = m.liveness_as_leader();
        let leads = known.is_some();
        let live = known.unwrap_or_default();
        let syncs = m.heard.lock().map(|h| crate::repair::syncs_json(&h.syncs())).unwrap_or_default();
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

    /// The leader's view, so that liveness is in it; this node's own if nobody leads.
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
            let asked = tokio::time::timeout(Duration::from_millis(800), ApiClient::new(ch).status(pb::Empty {})).await;
            if let Ok(Ok(r)) = asked
                && let Ok(v) = serde_json::from_str(&r.into_inner().json)
            {
                return Ok(v);
            }
        }
        self.status_json(m).await
    }

    pub(super) async fn liveness(&self, m: &Member) -> Result<Liveness, Status> {
        // Only the leader knows; to guess that nobody lives would take volumes from nodes that do.
        let end = Instant::now() + VISIBLE;
        let v = loop {
            let v = self.leader_json(m).await?;
            if v["is_leader"] == true {
                break v;
            }
            if Instant::now() > end {
                return Err(Status::unavailable(
                    "no metadata leader answers, so nobody knows which nodes live; try again",
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let up = serde_json::from_value(v["up"].clone()).map_err(internal)?;
        let used = serde_json::from_value(v["used"].clone()).map_err(internal)?;
        // (A leader of an older release does not tell.)
        let entries = serde_json::from_value(v["entries"].clone()).unwrap_or_default();
        Ok(Liveness { up, used, entries, ..Liveness::default() })
    }
}

fn volume_json(v: &crate::reactor::VolumeStatus) -> serde_json::Value {
    let shards: Vec<_> = v
        .shards
        .iter()
        .map(|s| {
            serde_json::json!({
                "phase": format!("{:?}", s.phase), "term": s.term, "in_sync": s.in_sync, "outstanding": s.outstanding,
                "stable": s.stable.to_string(), "reads": s.stats.reads, "writes": s.stats.writes,
                "errors": s.stats.errors, "drops": s.stats.drops, "reconciled_blocks": s.reconciled_blocks,
            })
        })
        .collect();
    serde_json::json!({"volume": v.vol, "session": v.session, "shards": shards, "connections": v.connections})
}

fn disk_json(d: &crate::reactor::DiskStatus) -> serde_json::Value {
    serde_json::json!({
        "disk": d.disk, "backend": d.backend, "replicas": d.replicas.len(), "failed": d.failed,
        "journal_used": d.stats.journal_used, "overlay_bytes": d.stats.overlay_bytes,
    })
}

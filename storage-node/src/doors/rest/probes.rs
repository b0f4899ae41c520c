//! Probes and metrics: `/livez`, `/readyz` (also `/healthz`), `/metrics`.

use crate::node::Node;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;

/// The paths of this module.
pub fn router() -> Router<Arc<Node>> {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .route("/metrics", get(metrics))
}

/// The Prometheus page.
async fn metrics(State(node): State<Arc<Node>>) -> Response {
    use crate::doors::metrics;
    match metrics::page(&node).await {
        Ok(page) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response(),
        Err(e) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics could not be written: {e}\n")).into_response()
        }
    }
}

/// Ready: the node is part of a cluster, hears a leader, and its disks are open.
async fn ready(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    let not = |why: String| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    let Some(m) = node.member.get() else { return not("not part of a cluster yet".into()) };
    let raft = m.meta.status.borrow().clone();
    let votes = raft.voters.contains(&m.node.0);
    if raft.leader.is_none() && (votes || m.told.age() > LEADER) {
        return not("no metadata leader".into());
    }
    let found = m.disks_found.borrow().clone();
    let down = found.iter().filter(|(_, d)| !d.in_service);
    let why =
        |d: &hf_meta_core::soft::DiskTold| d.fault.as_ref().map_or("does not serve", |(_, w)| w.as_str()).to_string();
    let broken: Vec<String> = down.map(|(id, d)| format!("disk {id}: {}", why(d))).collect();
    if !broken.is_empty() {
        return not(broken.join("; "));
    }
    if !node.dir.reserve().held() {
        // The node works but needs attention. The code is 200, so that no supervisor restarts it for that.
        return (StatusCode::OK, "ok, but the file system of data_dir is almost full: free space there\n".into());
    }
    (StatusCode::OK, "ok\n".into())
}

/// After this silence of the leader a node without a vote is not ready.
const LEADER: std::time::Duration = std::time::Duration::from_secs(10);

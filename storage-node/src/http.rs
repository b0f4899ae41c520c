//! `/metrics` (`doors/metrics/` says what is on it) and `/healthz`.

use crate::doors::metrics;
use crate::node::Node;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;

/// Answers requests until the process ends.
pub async fn serve(node: Arc<Node>, l: tokio::net::TcpListener) {
    let app = axum::Router::new().route("/metrics", get(page)).route("/healthz", get(health)).with_state(node);
    if let Err(e) = axum::serve(l, app).await {
        tracing::error!("http: {e}");
    }
}

async fn health(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    let Some(m) = node.member.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "not part of a cluster yet\n".into());
    };
    let raft = m.meta.status.borrow().clone();
    let in_group = raft.voters.contains(&m.node.0);
    if in_group && raft.leader.is_none() {
        return (StatusCode::SERVICE_UNAVAILABLE, "no metadata leader\n".into());
    }
    if !node.dir.reserve().held() {
        // The node works but needs attention. The code is 200, so that no supervisor restarts it for that.
        return (StatusCode::OK, "ok, but the file system of data_dir is almost full: free space there\n".into());
    }
    (StatusCode::OK, "ok\n".into())
}

async fn page(State(node): State<Arc<Node>>) -> Response {
    match metrics::page(&node).await {
        Ok(page) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response(),
        Err(e) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics could not be written: {e}\n")).into_response()
        }
    }
}

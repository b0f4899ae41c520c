//! What every request passes first: a request id for the log, and, for changes over TCP, proof that no hostile page in
//! a browser sent it.

use super::reply::Answer;
use crate::node::Node;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hf_control::error::{Code, Problem};
use std::net::IpAddr;
use std::sync::Arc;

/// The header that a script of another origin cannot set.
pub const CSRF: &str = "holdfast-csrf";
/// The header that names a request in answers and in the log.
pub const REQUEST: &str = "holdfast-request";

/// Checks a request before it is handled.
pub async fn guard(State((node, tcp)): State<(Arc<Node>, bool)>, r: Request, next: Next) -> Response {
    let id = format!("{:016x}", crate::identity::random() as u64);
    let changes = matches!(*r.method(), Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
    let (method, path) = (r.method().clone(), r.uri().path().to_string());
    let checked = if changes && tcp { no_stranger(&node, r.headers()) } else { Ok(()) };
    let mut response = match checked {
        Ok(()) => next.run(r).await,
        Err(p) => Answer::from(p).into_response(),
    };
    if changes {
        tracing::info!(request = id, %method, path, status = response.status().as_u16(), "a change was asked for");
    }
    if let Ok(v) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST, v);
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Refuses a change that a page of another origin could have sent: it can neither set our header nor JSON as content
/// type without asking first, and a name that was bound to our address for the purpose shows in Host.
fn no_stranger(node: &Node, h: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| h.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = text("content-type").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind != "application/json" {
        return Err(Problem::new(Code::MediaType, "a change needs Content-Type: application/json").at("Content-Type"));
    }
    if text(CSRF).is_empty() {
        return Err(Problem::new(Code::Forbidden, "a change needs the header Holdfast-CSRF")
            .because("a hostile page in a browser cannot set it")
            .so("send Holdfast-CSRF: 1")
            .at("Holdfast-CSRF"));
    }
    let host = text("host");
    if known_host(node, host) {
        return Ok(());
    }
    Err(Problem::new(Code::Forbidden, format!("the name \"{}\" in Host is not known here", host.escape_debug()))
        .because("a hostile page may have bound a name of its own to this address")
        .so("use the address as a number, localhost, or add the name to http_hosts in the node's configuration")
        .at("Host"))
}

fn known_host(node: &Node, host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || node.cfg.http_hosts.iter().any(|h| h.eq_ignore_ascii_case(name))
}

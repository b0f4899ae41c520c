//! The page: `/` and its files below `/ui/`. It may load nothing from elsewhere and run nothing that is not a file of
//! its own; a browser asks each time whether a file is still the one that it has.

use crate::doors::web;
use crate::node::Node;
use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;

/// What a browser lets the page do.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

/// The paths of this module.
pub fn router() -> Router<Arc<Node>> {
    Router::new()
        .route("/", get(|h: HeaderMap| async move { served("index.html", &h) }))
        .route("/ui/{*path}", get(|Path(p): Path<String>, h: HeaderMap| async move { served(&p, &h) }))
}

/// A file of the page, or 304 if the caller has it.
fn served(path: &str, asked: &HeaderMap) -> Response {
    let Some((kind, body, tag)) = web::file(path) else {
        return (StatusCode::NOT_FOUND, "the page has no such file\n").into_response();
    };
    let tag = format!("\"{tag}\"");
    let known = asked.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains(&tag));
    let headers: [(HeaderName, String); 4] = [
        (header::ETAG, tag),
        (header::CACHE_CONTROL, "no-cache".into()),
        (header::CONTENT_SECURITY_POLICY, POLICY.into()),
        (header::REFERRER_POLICY, "no-referrer".into()),
    ];
    if known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, [(header::CONTENT_TYPE, kind)], body).into_response()
}

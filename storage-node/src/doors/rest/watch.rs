//! The watch stream: everything that changes, as server-sent events.

use super::call::here;
use super::reply::Answer;
use crate::node::Node;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, Sse};
use hf_control::access::{Verb, may};
use hf_control::error::Problem;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use tokio_stream::{Stream, StreamExt};
use utoipa::IntoParams;

/// What a watch takes in its query.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct WatchQuery {
    /// Only these kinds, separated by commas: volume, node, disk, job, event, health, cluster.
    #[param(
        required = false,
        pattern = "^(volume|node|disk|job|event|health|cluster)(,(volume|node|disk|job|event|health|cluster))*$"
    )]
    kinds: Option<String>,
    /// The revision of a list: what changed since then comes first.
    #[param(required = false, minimum = 0, maximum = 9007199254740992_i64)]
    after: Option<u64>,
}

/// Streams what changes, as server-sent events.
///
/// `put` and `gone` of resources, `event`, `bookmark` as a sign of life each 10 s, `soft` with the progress of jobs,
/// and `reset` when the caller must list anew.
#[utoipa::path(
    get, path = "/v1/watch", tag = "watch",
    params(
        WatchQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last item that the caller had", max_length = 64)
    ),
    responses(
        (status = 200, description = "Server-sent events", content_type = "text/event-stream", body = String),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn watch(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    q: Result<axum::extract::Query<WatchQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Answer> {
    may(&super::call::caller(), Verb::Watch)?;
    let q = q.map_err(|e| {
        Problem::new(hf_control::error::Code::Invalid, "the query is not what this path takes").because(e.body_text())
    })?;
    let here = here(&node)?;
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok()).unwrap_or_default().to_string();
    let kinds = q.kinds.clone().unwrap_or_default();
    let items = crate::watch::stream(&here.member, &last, q.after, &kinds)?;
    let events = items.map(|i| {
        let e = Event::default().event(i.event).data(i.data);
        Ok(if i.id.is_empty() { e } else { e.id(i.id) })
    });
    Ok(Sse::new(events))
}

//! Events: what happened in the cluster.

use super::reads::{Fresh, Reading};
use super::reply::Handled;
use hf_control::access::Verb;
use hf_control::error::Problem;
use hf_control::model::*;

/// Lists events after a revision, oldest first.
#[utoipa::path(
    get, path = "/v1/events", tag = "events",
    params(("after" = Option<u64>, Query, description = "Events of later revisions only", minimum = 0, maximum = 9007199254740992_i64), ("limit" = Option<u64>, Query, description = "Items of a page; 100 if absent", minimum = 1, maximum = 1000), ("subject" = Option<String>, Query, description = "Only about this volume, node or disk", max_length = 128), ("kind" = Option<String>, Query, description = "Only of this kind", max_length = 128), Fresh),
    responses(
        (status = 200, description = "As asked", body = EventList),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list(r: Reading) -> Handled {
    let q = r.events()?;
    r.answer(Verb::EventRead, q).await
}

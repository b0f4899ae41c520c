//! Replicas.

use super::call::{Asking, ChangeQuery, Empty, Headers, Nothing, Number};
use super::reads::{Fresh, Narrow, Reading};
use super::reply::Handled;
use axum::http::StatusCode;
use hf_control::access::Verb;
use hf_control::error::Problem;
use hf_control::model::*;
use hf_control::read::Query;
use hf_control::verbs;

/// Lists replicas, in the order of their numbers.
#[utoipa::path(
    get, path = "/v1/replicas", tag = "replicas",
    params(Fresh, Narrow),
    responses(
        (status = 200, description = "As asked", body = ReplicaList),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list(r: Reading) -> Handled {
    let q = Query::Replicas(r.filter());
    r.answer(Verb::ReplicaRead, q).await
}

/// Shows a replica.
#[utoipa::path(
    get, path = "/v1/replicas/{id}", tag = "replicas",
    params(("id" = u64, Path, description = "Number of the replica", minimum = 0, maximum = 9007199254740992_i64), Fresh),
    responses(
        (status = 200, description = "As asked", body = Replica),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get(Number(id): Number, r: Reading) -> Handled {
    r.answer(Verb::ReplicaRead, Query::Replica(id)).await
}

/// Moves a replica to another disk: it is copied first, then removed where it was.
#[utoipa::path(
    post, path = "/v1/replicas/{id}/move", tag = "replicas", request_body = Empty, 
    params(("id" = u64, Path, description = "Number of the replica", minimum = 0, maximum = 9007199254740992_i64), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn relocate(Number(id): Number, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::replica::relocate(&h, &c, id).await }, StatusCode::OK).await
}

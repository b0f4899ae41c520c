//! The cluster as a whole, and the attributes of policies.

use super::call::{Asking, ChangeQuery, Empty, Headers, Nothing};
use super::reads::{Fresh, Reading};
use super::reply::{Answer, Handled};
use axum::http::StatusCode;
use hf_control::access::{Verb, may};
use hf_control::error::Problem;
use hf_control::model::*;
use hf_control::read::Query;
use hf_control::verbs;

/// Shows the cluster: its leader, its capacity, and how much of it is in which state.
#[utoipa::path(
    get, path = "/v1/cluster", tag = "cluster",
    params(Fresh),
    responses(
        (status = 200, description = "As asked", body = Cluster),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get(r: Reading) -> Handled {
    r.answer(Verb::ClusterRead, Query::Cluster).await
}

/// Founds a cluster on the node that is asked.
#[utoipa::path(
    post, path = "/v1/cluster/init", tag = "cluster", request_body = NewCluster,
    params(Headers),
    responses(
        (status = 201, description = "Founded", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn init(a: Asking<NewCluster>) -> Handled {
    may(&a.call.caller, Verb::ClusterInit)?;
    a.no_trial()?;
    let done = crate::local::found(&a.node, &a.input.name, a.call.request).await?;
    Answer::of(StatusCode::CREATED, &done, done.revision)
}

/// Has the node that is asked join a cluster.
#[utoipa::path(
    post, path = "/v1/cluster/join", tag = "cluster", request_body = Join,
    params(Headers),
    responses(
        (status = 200, description = "Joined", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn join(a: Asking<Join>) -> Handled {
    may(&a.call.caller, Verb::ClusterJoin)?;
    a.no_trial()?;
    let done = crate::local::join(&a.node, &a.input.seeds, a.call.request).await?;
    Answer::of(StatusCode::OK, &done, done.revision)
}

/// Lists the attributes of a volume's policy.
#[utoipa::path(
    get, path = "/v1/attributes", tag = "cluster",
    responses((status = 200, description = "As asked", body = AttributeList))
)]
pub async fn attributes() -> Handled {
    Answer::of(StatusCode::OK, &hf_control::model::attributes(), 0)
}

/// Moves replicas from full disks to empty ones, until that no longer helps.
#[utoipa::path(
    post, path = "/v1/cluster/rebalance", tag = "cluster", request_body = Empty, 
    params(ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn rebalance(a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::cluster::rebalance(&h, &c).await }, StatusCode::OK).await
}

/// Sets how many nodes vote on metadata: 1, 3 or 5.
#[utoipa::path(
    put, path = "/v1/cluster/voters", tag = "cluster", request_body = Voters, 
    params(ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn voters(a: Asking<Voters>) -> Handled {
    a.done(|h, c, i| async move { verbs::cluster::voters(&h, &c, &i).await }, StatusCode::OK).await
}

/// Raises the version by which the record is written, once every node knows it. There is no way back.
#[utoipa::path(
    post, path = "/v1/cluster/finalize", tag = "cluster", request_body = Empty, 
    params(ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn finalize(a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::cluster::finalize(&h, &c).await }, StatusCode::OK).await
}

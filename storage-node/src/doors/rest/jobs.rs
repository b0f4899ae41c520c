//! Jobs.

use super::call::{Asking, ChangeQuery, Empty, Headers, JobName, Nothing};
use super::reads::{Fresh, Narrow, Reading};
use super::reply::Handled;
use axum::http::StatusCode;
use hf_control::access::Verb;
use hf_control::error::Problem;
use hf_control::model::*;
use hf_control::read::Query;
use hf_control::verbs;

/// Lists jobs: replicas that are made, moved or brought back in, drains, scrubs, rebalancing.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs",
    params(Fresh, Narrow),
    responses(
        (status = 200, description = "As asked", body = JobList),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list(r: Reading) -> Handled {
    let q = Query::Jobs(r.filter());
    r.answer(Verb::JobRead, q).await
}

/// Shows a job.
#[utoipa::path(
    get, path = "/v1/jobs/{kind}/{of}", tag = "jobs",
    params(("kind" = String, Path, description = "node, disk, replica, scrub or rebalance", pattern = "^(node|disk|replica|scrub|rebalance)$"), ("of" = String, Path, description = "What the job is of", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), Fresh),
    responses(
        (status = 200, description = "As asked", body = Job),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get(JobName(id): JobName, r: Reading) -> Handled {
    r.answer(Verb::JobRead, Query::Job(id)).await
}

/// Holds a job.
#[utoipa::path(
    post, path = "/v1/jobs/{kind}/{of}/pause", tag = "jobs", request_body = Empty, 
    params(("kind" = String, Path, description = "node, disk, replica, scrub or rebalance", pattern = "^(node|disk|replica|scrub|rebalance)$"), ("of" = String, Path, description = "What the job is of", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn pause(JobName(id): JobName, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::job::pause(&h, &c, &id, true).await }, StatusCode::OK).await
}

/// Lets a job go on that is held.
#[utoipa::path(
    post, path = "/v1/jobs/{kind}/{of}/resume", tag = "jobs", request_body = Empty, 
    params(("kind" = String, Path, description = "node, disk, replica, scrub or rebalance", pattern = "^(node|disk|replica|scrub|rebalance)$"), ("of" = String, Path, description = "What the job is of", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn resume(JobName(id): JobName, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::job::pause(&h, &c, &id, false).await }, StatusCode::OK).await
}

/// Gives a job up: a move, a drain, a scrub, or rebalancing.
#[utoipa::path(
    post, path = "/v1/jobs/{kind}/{of}/cancel", tag = "jobs", request_body = Empty, 
    params(("kind" = String, Path, description = "node, disk, replica, scrub or rebalance", pattern = "^(node|disk|replica|scrub|rebalance)$"), ("of" = String, Path, description = "What the job is of", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn cancel(JobName(id): JobName, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::job::cancel(&h, &c, &id).await }, StatusCode::OK).await
}

/// Holds all jobs: no replica is made or moved and no scrub begins in the whole cluster.
#[utoipa::path(
    post, path = "/v1/jobs/pause", tag = "jobs", request_body = Empty, 
    params(ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn pause_all(a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::job::pause_all(&h, &c, true).await }, StatusCode::OK).await
}

/// Goes on with making and moving of replicas.
#[utoipa::path(
    post, path = "/v1/jobs/resume", tag = "jobs", request_body = Empty, 
    params(ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn resume_all(a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::job::pause_all(&h, &c, false).await }, StatusCode::OK).await
}

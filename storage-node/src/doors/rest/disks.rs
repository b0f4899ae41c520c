//! Disks.

use super::call::{Asking, ChangeQuery, Empty, Headers, Nothing, Number};
use super::reads::{Fresh, Narrow, Reading};
use super::reply::Handled;
use axum::http::StatusCode;
use hf_control::access::Verb;
use hf_control::error::Problem;
use hf_control::model::*;
use hf_control::read::Query;
use hf_control::verbs;

/// Lists disks, in the order of their numbers.
#[utoipa::path(
    get, path = "/v1/disks", tag = "disks",
    params(Fresh, Narrow),
    responses(
        (status = 200, description = "As asked", body = DiskList),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list(r: Reading) -> Handled {
    let q = Query::Disks(r.filter());
    r.answer(Verb::DiskRead, q).await
}

/// Shows a disk.
#[utoipa::path(
    get, path = "/v1/disks/{id}", tag = "disks",
    params(("id" = u64, Path, description = "Number of the disk", minimum = 0, maximum = 9007199254740992_i64), Fresh),
    responses(
        (status = 200, description = "As asked", body = Disk),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get(Number(id): Number, r: Reading) -> Handled {
    r.answer(Verb::DiskRead, Query::Disk(id)).await
}

/// Formats a directory or block device of a node and adds it to the pool.
#[utoipa::path(
    post, path = "/v1/disks", tag = "disks", request_body = NewDisk,
    params(Headers),
    responses(
        (status = 201, description = "Added", body = DiskOutcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn add(a: Asking<NewDisk>) -> Handled {
    a.done(|h, c, i| async move { verbs::disk::add(&h, &c, &i).await }, StatusCode::CREATED).await
}

/// Moves all replicas of a disk elsewhere, and places no new ones there.
#[utoipa::path(
    post, path = "/v1/disks/{id}/drain", tag = "disks", request_body = Empty, 
    params(("id" = u64, Path, description = "Number of the disk", minimum = 0, maximum = 9007199254740992_i64), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn drain(Number(id): Number, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::disk::drain(&h, &c, id, true).await }, StatusCode::OK).await
}

/// Ends the drain of a disk.
#[utoipa::path(
    post, path = "/v1/disks/{id}/undrain", tag = "disks", request_body = Empty, 
    params(("id" = u64, Path, description = "Number of the disk", minimum = 0, maximum = 9007199254740992_i64), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn undrain(Number(id): Number, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::disk::drain(&h, &c, id, false).await }, StatusCode::OK).await
}

/// Trusts a disk again that met more bad blocks than its budget allows.
#[utoipa::path(
    post, path = "/v1/disks/{id}/trust", tag = "disks", request_body = Empty, 
    params(("id" = u64, Path, description = "Number of the disk", minimum = 0, maximum = 9007199254740992_i64), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn trust(Number(id): Number, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::disk::trust(&h, &c, id).await }, StatusCode::OK).await
}

/// Forgets a disk that holds no replica any more.
#[utoipa::path(
    delete, path = "/v1/disks/{id}", tag = "disks", request_body = Empty,
    params(("id" = u64, Path, description = "Number of the disk", minimum = 0, maximum = 9007199254740992_i64), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn remove(Number(id): Number, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::disk::remove(&h, &c, id).await }, StatusCode::OK).await
}

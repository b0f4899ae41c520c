//! Volumes.

use super::call::{Asking, ChangeQuery, Empty, Headers, Name, Nothing, revision};
use super::reads::{Fresh, Narrow, Reading};
use super::reply::{Answer, Handled};
use axum::http::StatusCode;
use hf_control::access::Verb;
use hf_control::error::Problem;
use hf_control::model::*;
use hf_control::read::Query;
use hf_control::verbs;

/// Lists volumes, in the order of their names.
#[utoipa::path(
    get, path = "/v1/volumes", tag = "volumes",
    params(Fresh, Narrow),
    responses(
        (status = 200, description = "As asked", body = VolumeList),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list(r: Reading) -> Handled {
    let q = Query::Volumes(r.filter());
    r.answer(Verb::VolumeRead, q).await
}

/// Creates a volume, and waits until its replicas are made.
#[utoipa::path(
    post, path = "/v1/volumes", tag = "volumes", request_body = NewVolume, 
    params(ChangeQuery, Headers),
    responses(
        (status = 200, description = "With dry_run: it could be created", body = VolumeOutcome),
        (status = 201, description = "Created, and ready", body = VolumeOutcome),
        (status = 202, description = "Recorded; its replicas are still being made", body = VolumeOutcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create(a: Asking<NewVolume>) -> Handled {
    a.done(|h, c, i| async move { verbs::volume::create(&h, &c, &i).await }, StatusCode::CREATED).await
}

/// Shows a volume.
#[utoipa::path(
    get, path = "/v1/volumes/{name}", tag = "volumes",
    params(("name" = String, Path, description = "Name of the volume", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), Fresh),
    responses(
        (status = 200, description = "As asked", body = Volume),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get(Name(name): Name, r: Reading) -> Handled {
    r.answer(Verb::VolumeRead, Query::Volume(name)).await
}

/// Changes attributes of a policy, and waits until that is in force.
#[utoipa::path(
    patch, path = "/v1/volumes/{name}", tag = "volumes", request_body = PolicyChange, 
    params(("name" = String, Path, description = "Name of the volume", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = VolumeOutcome),
        (status = 202, description = "Recorded, and goes on", body = VolumeOutcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn set(Name(name): Name, a: Asking<PolicyChange>) -> Handled {
    a.done(|h, c, i| async move { verbs::volume::set(&h, &c, &name, &i).await }, StatusCode::OK).await
}

/// Deletes a detached volume and its data.
#[utoipa::path(
    delete, path = "/v1/volumes/{name}", tag = "volumes", request_body = Empty,
    params(("name" = String, Path, description = "Name of the volume", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn delete(Name(name): Name, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::volume::delete(&h, &c, &name).await }, StatusCode::OK).await
}

/// Grows a volume, attached or not.
#[utoipa::path(
    post, path = "/v1/volumes/{name}/resize", tag = "volumes", request_body = Resize, 
    params(("name" = String, Path, description = "Name of the volume", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = VolumeOutcome),
        (status = 202, description = "Recorded, and goes on", body = VolumeOutcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn resize(Name(name): Name, a: Asking<Resize>) -> Handled {
    a.done(|h, c, i| async move { verbs::volume::resize(&h, &c, &name, &i).await }, StatusCode::OK).await
}

/// Gives a detached volume another name.
#[utoipa::path(
    post, path = "/v1/volumes/{name}/rename", tag = "volumes", request_body = Rename, 
    params(("name" = String, Path, description = "Name of the volume", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = VolumeOutcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn rename(Name(name): Name, a: Asking<Rename>) -> Handled {
    a.done(|h, c, i| async move { verbs::volume::rename(&h, &c, &name, &i).await }, StatusCode::OK).await
}

/// Attaches a volume to a node, and waits until it is served.
#[utoipa::path(
    post, path = "/v1/volumes/{name}/attach", tag = "volumes", request_body = Attach, 
    params(("name" = String, Path, description = "Name of the volume", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = VolumeOutcome),
        (status = 202, description = "Recorded, and goes on", body = VolumeOutcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn attach(Name(name): Name, a: Asking<Attach>) -> Handled {
    a.done(|h, c, i| async move { verbs::volume::attach(&h, &c, &name, &i).await }, StatusCode::OK).await
}

/// Detaches a volume: open requests are answered, then its connections are closed.
#[utoipa::path(
    post, path = "/v1/volumes/{name}/detach", tag = "volumes", request_body = Empty, 
    params(("name" = String, Path, description = "Name of the volume", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = VolumeOutcome),
        (status = 202, description = "Recorded, and goes on", body = VolumeOutcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn detach(Name(name): Name, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::volume::detach(&h, &c, &name).await }, StatusCode::OK).await
}

/// Begins to read and compare every block of every replica.
#[utoipa::path(
    post, path = "/v1/volumes/{name}/scrub", tag = "volumes", request_body = Empty, 
    params(("name" = String, Path, description = "Name of the volume", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = VolumeOutcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn scrub(Name(name): Name, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::volume::scrub(&h, &c, &name).await }, StatusCode::OK).await
}

/// Last resort: declares one replica the truth. What only others hold is lost.
#[utoipa::path(
    post, path = "/v1/volumes/{name}/force-insync", tag = "volumes", request_body = ForceInsync, 
    params(("name" = String, Path, description = "Name of the volume", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn force_insync(Name(name): Name, a: Asking<ForceInsync>) -> Handled {
    a.done(|h, c, i| async move { verbs::replica::force(&h, &c, &name, &i).await }, StatusCode::OK).await
}

/// Shows the recent history of a volume: throughput and latency.
#[utoipa::path(
    get, path = "/v1/volumes/{name}/stats", tag = "volumes",
    params(("name" = String, Path, description = "Name of the volume", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")),
    responses(
        (status = 200, description = "As asked", body = VolumeStats),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn stats(Name(name): Name, a: Asking<Nothing>) -> Handled {
    let here = a.here()?;
    let stats = verbs::volume::stats(&here, &a.call, &name).await?;
    Answer::of(StatusCode::OK, &stats, revision(&here))
}

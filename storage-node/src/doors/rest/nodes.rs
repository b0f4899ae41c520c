//! Nodes.

use super::call::{Asking, ChangeQuery, Empty, Headers, Name, Nothing};
use super::reads::{Fresh, Narrow, Reading};
use super::reply::Handled;
use axum::http::StatusCode;
use hf_control::access::Verb;
use hf_control::error::Problem;
use hf_control::model::*;
use hf_control::read::Query;
use hf_control::verbs;

/// Lists nodes, in the order of their names.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "nodes",
    params(Fresh, Narrow),
    responses(
        (status = 200, description = "As asked", body = NodeList),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list(r: Reading) -> Handled {
    let q = Query::Nodes(r.filter());
    r.answer(Verb::NodeRead, q).await
}

/// Shows a node.
#[utoipa::path(
    get, path = "/v1/nodes/{name}", tag = "nodes",
    params(("name" = String, Path, description = "Name of the node", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), Fresh),
    responses(
        (status = 200, description = "As asked", body = Node),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get(Name(name): Name, r: Reading) -> Handled {
    r.answer(Verb::NodeRead, Query::Node(name)).await
}

/// Moves all replicas of a node elsewhere, and places no new ones there.
#[utoipa::path(
    post, path = "/v1/nodes/{name}/drain", tag = "nodes", request_body = Empty, 
    params(("name" = String, Path, description = "Name of the node", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn drain(Name(name): Name, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::node::mode(&h, &c, &name, Mode::Draining).await }, StatusCode::OK).await
}

/// Ends the drain of a node.
#[utoipa::path(
    post, path = "/v1/nodes/{name}/undrain", tag = "nodes", request_body = Empty, 
    params(("name" = String, Path, description = "Name of the node", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn undrain(Name(name): Name, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::node::mode(&h, &c, &name, Mode::Active).await }, StatusCode::OK).await
}

/// Announces that a node will be away: nothing is rebuilt because of it.
#[utoipa::path(
    post, path = "/v1/nodes/{name}/maintenance", tag = "nodes", request_body = Empty, 
    params(("name" = String, Path, description = "Name of the node", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn maintenance(Name(name): Name, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::node::mode(&h, &c, &name, Mode::Maintenance).await }, StatusCode::OK).await
}

/// Ends the drain or the maintenance of a node.
#[utoipa::path(
    post, path = "/v1/nodes/{name}/activate", tag = "nodes", request_body = Empty, 
    params(("name" = String, Path, description = "Name of the node", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn activate(Name(name): Name, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::node::mode(&h, &c, &name, Mode::Active).await }, StatusCode::OK).await
}

/// Forgets a node that holds no replica any more.
#[utoipa::path(
    delete, path = "/v1/nodes/{name}", tag = "nodes", request_body = Empty,
    params(("name" = String, Path, description = "Name of the node", pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"), ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn remove(Name(name): Name, a: Asking<Nothing>) -> Handled {
    a.done(|h, c, _| async move { verbs::node::remove(&h, &c, &name).await }, StatusCode::OK).await
}

//! Health: the codes that are raised, and silencing them.

use super::call::{Asking, ChangeQuery, Empty, Headers, HealthCode, Nothing};
use super::reads::{Fresh, Reading};
use super::reply::Handled;
use crate::ports::Here;
use axum::http::StatusCode;
use hf_control::access::Verb;
use hf_control::error::{Code, Problem};
use hf_control::model::*;
use hf_control::ports::Ports;
use hf_control::read::Query;
use hf_control::verbs::{self, Call};

/// Shows the health codes that are raised, the gravest first.
#[utoipa::path(
    get, path = "/v1/health", tag = "health",
    params(Fresh),
    responses(
        (status = 200, description = "As asked", body = Health),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get(r: Reading) -> Handled {
    r.answer(Verb::HealthRead, Query::Health).await
}

/// Silences a health code for a while.
#[utoipa::path(
    post, path = "/v1/health/mutes", tag = "health", request_body = NewMute, 
    params(ChangeQuery, Headers),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn mute(a: Asking<NewMute>) -> Handled {
    a.done(|h, c, i| async move { mute_now(&h, &c, &i).await }, StatusCode::OK).await
}

async fn mute_now(h: &Here, c: &Call, i: &NewMute) -> Result<Outcome, Problem> {
    let health: Health =
        serde_json::from_str(&h.read(Query::Health).await?).map_err(|e| Problem::new(Code::Internal, e.to_string()))?;
    let subjects = health.counts.get(&i.code).copied().unwrap_or(0);
    verbs::cluster::mute(h, c, i, subjects).await
}

/// Ends the silence of a health code.
#[utoipa::path(
    delete, path = "/v1/health/mutes/{code}", tag = "health", request_body = Empty,
    params(
        ("code" = String, Path, description = "The code", pattern = "^[A-Z0-9_]{1,64}$"),
        ("subject" = Option<String>, Query, description = "The subject of the mute; absent: every subject", max_length = 128),
        ChangeQuery, Headers
    ),
    responses(
        (status = 200, description = "Done", body = Outcome),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or not known", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn unmute(HealthCode(code): HealthCode, a: Asking<Nothing>) -> Handled {
    let subject = a.subject.clone();
    a.done(|h, c, _| async move { verbs::cluster::unmute(&h, &c, &code, &subject).await }, StatusCode::OK).await
}

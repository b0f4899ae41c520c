//! What comes with a request beside its body: who asks, which request it is, and under which conditions it holds.

use super::body;
use super::reply::{Answer, Handled};
use crate::identity::random;
use crate::node::Node;
use crate::ports::Here;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use hf_control::access::{Caller, Role, Via};
use hf_control::error::{Code, Problem};
use hf_control::model::MOST_INTEGER;
use hf_control::ports::Ports;
use hf_control::verbs::{Call, request_id};
use hf_policy::RequestId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::IntoParams;

/// What every change takes in its query.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ChangeQuery {
    /// Change nothing; say what would happen.
    #[param(required = false)]
    dry_run: bool,
    /// Seconds to wait until the change is in force, at most 60.
    #[param(required = false, minimum = 0, maximum = 60)]
    wait: Option<u64>,
    /// The number that the named volume must have.
    #[param(required = false, minimum = 1, maximum = 9007199254740992_i64)]
    id: Option<u64>,
    /// The subject of the mute that ends.
    #[param(ignore)]
    subject: Option<String>,
}

/// The headers that every change takes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)] // The description of the headers; `Asking` reads them.
pub struct Headers {
    /// Over TCP: any value. A page of another origin cannot set it.
    #[param(required = true, rename = "Holdfast-CSRF", pattern = "^[!-~]{1,16}$")]
    csrf: String,
    /// Makes repeats of the request one request: 1 to 128 visible ASCII characters.
    #[param(required = false, rename = "Idempotency-Key", value_type = String, pattern = "^[!-~]{1,128}$")]
    key: Option<String>,
    /// The epoch that the volume must have, in quotes (its `ETag`); `*` is any. Everything else but volumes ignores it.
    #[param(required = false, rename = "If-Match", value_type = String)]
    epoch: Option<String>,
}

/// An empty body.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // The description of `Nothing`.
pub struct Empty {}

/// A change that is asked for, with its body.
pub struct Asking<T> {
    /// The node that was asked.
    pub node: Arc<Node>,
    /// What comes with the change.
    pub call: Call,
    /// The body of the request.
    pub input: T,
    /// The subject of the mute that ends.
    pub subject: String,
    /// The caller named the request by a key of its own.
    keyed: bool,
}

/// No body, or an empty object.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl<T: DeserializeOwned> FromRequest<Arc<Node>> for Asking<T> {
    type Rejection = Answer;

    async fn from_request(r: Request, node: &Arc<Node>) -> Result<Self, Answer> {
        let (parts, body) = r.into_parts();
        let bytes = body::read(body).await?;
        let q: ChangeQuery = query(&parts)?;
        let caller = caller();
        // How long to wait, and whether it is only tried, is not part of what is asked for.
        let mut what = format!("{} {} {:?} {:?}\n", parts.method, parts.uri.path(), q.id, q.subject).into_bytes();
        what.extend_from_slice(&bytes);
        let key = key(&parts)?;
        let request = key.map_or_else(|| RequestId(random()), |k| request_id(&caller.name, k, &what));
        if q.wait.is_some_and(|w| w > 60) {
            return Err(Problem::new(Code::Invalid, "wait is more than 60 seconds").at("wait").into());
        }
        if q.id.is_some_and(|n| n > MOST_INTEGER) {
            return Err(Problem::new(Code::Invalid, "id is beyond 2^53").at("id").into());
        }
        let call = Call {
            caller,
            request,
            dry_run: q.dry_run,
            if_epoch: if_match(&parts)?,
            id: q.id,
            wait_ms: q.wait.map(|s| s * 1000),
        };
        let input = body::parse(&bytes)?;
        let subject = q.subject.unwrap_or_default();
        Ok(Asking { node: node.clone(), call, input, subject, keyed: key.is_some() })
    }
}

impl<T> Asking<T> {
    /// The node as verbs see it; refused before it is part of a cluster.
    pub fn here(&self) -> Result<Here, Problem> {
        here(&self.node)
    }

    /// Refuses `dry_run` for what can only be tried by doing it.
    pub fn no_trial(&self) -> Result<(), Problem> {
        match self.call.dry_run {
            true => Err(Problem::new(Code::Invalid, "nothing here tells without doing it").at("dry_run")),
            false => Ok(()),
        }
    }

    /// Was this very request answered before? Asked before it is done again.
    pub async fn is_repeated(&self) -> bool {
        let Some(m) = self.node.member.get().filter(|_| self.keyed) else { return false };
        // (A node that follows may not have heard yet of what another one has just done.)
        m.freshen().await;
        let known = m.view.borrow().requests.contains_key(&self.call.request);
        let votes = m.meta.status.borrow().voters.contains(&m.node.0);
        known || !votes && m.outcome_of(self.call.request).await.is_some()
    }

    /// Does the change and answers with its outcome: 200, or 202 if it is not in force yet.
    pub async fn done<O, F>(self, verb: impl FnOnce(Here, Call, T) -> F, status: StatusCode) -> Handled
    where
        O: Serialize + Finished,
        F: Future<Output = Result<O, Problem>>,
    {
        let repeated = self.is_repeated().await;
        let here = self.here()?;
        let o = verb(here, self.call, self.input).await?;
        let status = match () {
            () if !o.is_done() => StatusCode::ACCEPTED,
            () if o.is_dry_run() => StatusCode::OK,
            () => status,
        };
        let answer = Answer::of(status, &o, o.revision())?;
        Ok(if repeated { answer.with("idempotency-replayed", true) } else { answer })
    }
}

/// What outcomes of changes have in common.
pub trait Finished {
    /// Is the change in force?
    fn is_done(&self) -> bool;
    /// Was nothing changed, because `dry_run` was asked for?
    fn is_dry_run(&self) -> bool;
    /// The revision of the record that has the change.
    fn revision(&self) -> u64;
}

macro_rules! finished {
    ($($name:ident),*) => {$(
        impl Finished for hf_control::model::$name {
            fn is_done(&self) -> bool {
                self.done
            }
            fn is_dry_run(&self) -> bool {
                self.dry_run
            }
            fn revision(&self) -> u64 {
                self.revision
            }
        }
    )*};
}
finished!(Outcome, VolumeOutcome);

impl Finished for hf_control::model::DiskOutcome {
    fn is_done(&self) -> bool {
        true
    }
    fn is_dry_run(&self) -> bool {
        false
    }
    fn revision(&self) -> u64 {
        self.revision
    }
}

/// The node as verbs see it; refused before it is part of a cluster.
pub fn here(node: &Arc<Node>) -> Result<Here, Problem> {
    let member = node.member.get().cloned().ok_or_else(|| {
        Problem::new(Code::NotMember, "this node is not part of a cluster yet")
            .so("run holdfast cluster init on the first node, then holdfast node join on the others")
    })?;
    Ok(Here { node: node.clone(), member })
}

/// Who asks. Until there are users, everybody is an admin.
pub fn caller() -> Caller {
    Caller { name: "admin".into(), role: Role::Admin, via: Via::Tcp }
}

/// The query of a request; unknown parameters are refused.
pub fn query<Q: DeserializeOwned>(parts: &Parts) -> Result<Q, Problem> {
    let parsed = Query::<Q>::try_from_uri(&parts.uri);
    parsed.map(|q| q.0).map_err(|e| {
        let text = e.body_text();
        match text.find("unknown field").and_then(|at| body::unknown(&text[at..])) {
            Some((word, known)) => body::unfamiliar("parameter", word, &known).at(word),
            None => Problem::new(Code::Invalid, "the query is not what this path takes").because(text),
        }
    })
}

fn key(parts: &Parts) -> Result<Option<&str>, Problem> {
    let Some(v) = parts.headers.get("idempotency-key") else { return Ok(None) };
    let visible = v.to_str().ok().filter(|k| (1..=128).contains(&k.len()) && k.bytes().all(|b| b.is_ascii_graphic()));
    visible.map(Some).ok_or_else(|| {
        Problem::new(Code::Invalid, "Idempotency-Key has 1 to 128 visible ASCII characters").at("Idempotency-Key")
    })
}

/// The epoch that the volume must have. A tag that no volume has, a weak one and several at once are lawful (RFC 9110)
/// and match nothing.
fn if_match(parts: &Parts) -> Result<Option<u64>, Problem> {
    let Some(v) = parts.headers.get("if-match") else { return Ok(None) };
    let epoch = |t: &str| t.strip_prefix('"')?.strip_suffix('"')?.parse::<u64>().ok();
    match v.to_str().map(str::trim) {
        Ok("*") => Ok(None),
        Ok(t) if t.is_empty() || t.contains('"') => Ok(Some(epoch(t).unwrap_or(u64::MAX))),
        _ => Err(Problem::new(Code::Invalid, "If-Match is not an epoch in quotes, such as \"7\"").at("If-Match")),
    }
}

/// The name in a path. It is decoded once; a slash or another sign that no name has is refused.
pub struct Name(pub String);

impl FromRequestParts<Arc<Node>> for Name {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, s: &Arc<Node>) -> Result<Self, Answer> {
        let Path(name): Path<String> = Path::from_request_parts(parts, s)
            .await
            .map_err(|e| Problem::new(Code::Invalid, "the name in the path cannot be read").because(e.body_text()))?;
        hf_policy::policy::valid_name(&name).map_err(|why| {
            Problem::new(Code::Invalid, format!("\"{}\" is not a name", name.escape_debug())).because(why)
        })?;
        Ok(Name(name))
    }
}

/// The health code in a path.
pub struct HealthCode(pub String);

impl FromRequestParts<Arc<Node>> for HealthCode {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, s: &Arc<Node>) -> Result<Self, Answer> {
        let path: Result<Path<String>, _> = Path::from_request_parts(parts, s).await;
        let capital = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        let good = path.ok().filter(|c| (1..=64).contains(&c.len()) && c.bytes().all(capital));
        good.map(|Path(c)| HealthCode(c))
            .ok_or_else(|| Problem::new(Code::Invalid, "the path names no health code").so("see docs/health.md").into())
    }
}

/// The number in a path.
pub struct Number(pub u64);

impl FromRequestParts<Arc<Node>> for Number {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, s: &Arc<Node>) -> Result<Self, Answer> {
        let text: Result<Path<String>, _> = Path::from_request_parts(parts, s).await;
        let parsed = text.ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse::<u64>().ok());
        let number = parsed.filter(|n| *n <= MOST_INTEGER);
        number.map(Number).ok_or_else(|| Problem::new(Code::Invalid, "the path names no number").into())
    }
}

/// The name of a job in a path: its kind and what it is of.
pub struct JobName(pub String);

impl FromRequestParts<Arc<Node>> for JobName {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, s: &Arc<Node>) -> Result<Self, Answer> {
        let path: Result<Path<(String, String)>, _> = Path::from_request_parts(parts, s).await;
        let good = path.ok().filter(|Path((k, of))| {
            ["node", "disk", "replica", "scrub", "rebalance"].contains(&k.as_str())
                && hf_policy::policy::valid_name(of).is_ok()
        });
        good.map(|Path((k, of))| JobName(format!("{k}/{of}"))).ok_or_else(|| {
            Problem::new(Code::Invalid, "the path names no job")
                .so("a job is node/NAME, disk/ID, replica/ID, scrub/VOLUME or rebalance/cluster")
                .into()
        })
    }
}

/// The revision of the record that this node has, for answers that have no other.
pub fn revision(here: &Here) -> u64 {
    here.view().revision
}

//! Reads: how fresh they are to be, and what lists are narrowed to.

use super::call::{here, query};
use super::reply::{Answer, Handled};
use crate::ask;
use crate::node::Node;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use hf_control::access::{Verb, may};
use hf_control::error::{Code, Problem};
use hf_control::model::MOST_INTEGER;
use hf_control::ports::Ports;
use hf_control::read::{Filter, Query};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use utoipa::IntoParams;

/// How long a read waits for a revision if the caller does not say.
const WAIT: u64 = 5;

/// What every read takes in its query; lists take the rest, too.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    min_revision: Option<u64>,
    wait: Option<u64>,
    consistency: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
    name: Option<String>,
    state: Option<String>,
    health: Option<String>,
    node: Option<String>,
    disk: Option<u64>,
    volume: Option<String>,
    label: Option<String>,
    subject: Option<String>,
    kind: Option<String>,
}

/// How fresh a read is to be.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)] // The description of the parameters; `Given` reads them.
pub struct Fresh {
    /// Answer with this revision of the record or a later one.
    #[param(required = false, minimum = 0, maximum = 9007199254740992_i64)]
    min_revision: Option<u64>,
    /// Seconds to wait for that revision, at most 60; 5 if absent.
    #[param(required = false, minimum = 0, maximum = 60)]
    wait: Option<u64>,
    /// `local`: answer with what this node knows, ask nobody.
    #[param(required = false, pattern = "^(local|leader)$")]
    consistency: Option<String>,
}

/// What lists are narrowed to.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)] // The description of the parameters; `Given` reads them.
pub struct Narrow {
    /// Items of a page; 100 if absent.
    #[param(required = false, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// What `next` of the page before said.
    #[param(required = false, max_length = 600)]
    after: Option<String>,
    /// Part of the name.
    #[param(required = false, max_length = 128)]
    name: Option<String>,
    /// Only this state.
    #[param(required = false, max_length = 128)]
    state: Option<String>,
    /// Only what has this health code.
    #[param(required = false, max_length = 128)]
    health: Option<String>,
    /// Only what concerns this node.
    #[param(required = false, max_length = 128)]
    node: Option<String>,
    /// Only what is on this disk.
    #[param(required = false, minimum = 0, maximum = 9007199254740992_i64)]
    disk: Option<u64>,
    /// Only what belongs to this volume.
    #[param(required = false, max_length = 128)]
    volume: Option<String>,
    /// Only what has these labels: `key=value`, `key!=value` or `key`, separated by commas.
    #[param(required = false, max_length = 512)]
    label: Option<String>,
}

/// A read that is asked for.
pub struct Reading {
    node: Arc<Node>,
    given: Given,
}

impl FromRequestParts<Arc<Node>> for Reading {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, Answer> {
        let given: Given = query(parts)?;
        let invalid = |at: &str, why: &str| Err(Problem::new(Code::Invalid, format!("{at} {why}")).at(at).into());
        if given.limit.is_some_and(|l| l == 0 || l > hf_control::view::MOST_ITEMS) {
            return invalid("limit", "is not from 1 to 1000");
        }
        if given.wait.is_some_and(|w| w > 60) {
            return invalid("wait", "is more than 60 seconds");
        }
        if given.consistency.as_deref().is_some_and(|c| c != "local" && c != "leader") {
            return invalid("consistency", "is neither local nor leader");
        }
        for (at, n) in [("min_revision", given.min_revision), ("disk", given.disk)] {
            if n.is_some_and(|n| n > MOST_INTEGER) {
                return invalid(at, "is beyond 2^53");
            }
        }
        let texts = [
            ("name", &given.name, 128),
            ("state", &given.state, 128),
            ("health", &given.health, 128),
            ("node", &given.node, 128),
            ("volume", &given.volume, 128),
            ("label", &given.label, 512),
            ("subject", &given.subject, 128),
            ("kind", &given.kind, 128),
        ];
        for (at, text, most) in texts {
            if text.as_ref().is_some_and(|t| t.chars().count() > most) {
                return invalid(at, "is too long");
            }
        }
        Ok(Reading { node: node.clone(), given })
    }
}

impl Reading {
    /// What the list is narrowed to.
    pub fn filter(&self) -> Filter {
        let g = &self.given;
        Filter {
            limit: g.limit.unwrap_or(0),
            after: g.after.clone(),
            name: g.name.clone(),
            state: g.state.clone(),
            health: g.health.clone(),
            node: g.node.clone(),
            disk: g.disk,
            volume: g.volume.clone(),
            label: g.label.clone(),
        }
    }

    /// Events that are asked for.
    pub fn events(&self) -> Result<Query, Problem> {
        let g = &self.given;
        let after = g.after.as_deref().map_or(Some(0), |t| t.parse::<u64>().ok().filter(|n| *n <= MOST_INTEGER));
        let after = after.ok_or_else(|| Problem::new(Code::Invalid, "after is not a revision").at("after"))?;
        Ok(Query::Events { after, limit: g.limit.unwrap_or(0), subject: g.subject.clone(), kind: g.kind.clone() })
    }

    /// Reads, and answers with the resource.
    pub async fn answer(self, verb: Verb, q: Query) -> Handled {
        may(&super::call::caller(), verb)?;
        let here = here(&self.node)?;
        let local = self.given.consistency.as_deref() == Some("local");
        let end = Instant::now() + Duration::from_secs(self.given.wait.unwrap_or(WAIT));
        let least = self.given.min_revision.unwrap_or(0);
        let volume = matches!(q, Query::Volume(_));
        loop {
            let read = match local {
                true => ask::read_here(&here.member, &q).await?,
                false => ask::read(&here.member, q.clone()).await?,
            };
            if read.revision >= least {
                let epoch = if volume { epoch_of(&read.text) } else { None };
                let mut answer = Answer::json(StatusCode::OK, read.text, read.revision);
                if let Some(s) = read.stale {
                    answer = answer.with("holdfast-stale", s);
                }
                return Ok(match epoch {
                    Some(e) => answer.with("etag", format!("\"{e}\"")),
                    None => answer,
                });
            }
            let left = end.saturating_duration_since(Instant::now()).as_millis() as u64;
            if left == 0 {
                return Err(Problem::new(Code::NotReady, format!("revision {least} has not come yet"))
                    .because(format!("the record is at {}", read.revision))
                    .at("min_revision")
                    .into());
            }
            here.changed(here.view().revision, left.min(200)).await;
        }
    }
}

/// The epoch in the JSON of a volume.
fn epoch_of(text: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Epoch {
        epoch: u64,
    }
    serde_json::from_str::<Epoch>(text).ok().map(|e| e.epoch)
}

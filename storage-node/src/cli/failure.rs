//! How a command fails: an error as the REST API words it (RFC 9457), what of it is printed, and with which
//! code the process exits.

use super::format::Format;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Display;

/// The exit code of a command whose request is accepted, but is not done yet.
pub const NOT_YET: u8 = 6;

/// An error as a server words it, or as the client words one of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The HTTP status; absent if no server said this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The error's name, such as `not_found`.
    pub code: String,
    /// What may be done: `refuse`, `retry`, `unknown` or `begin_anew`.
    pub fate: String,
    /// What did not happen.
    pub what: String,
    /// The reason why it did not happen.
    pub why: String,
    /// What to do about it.
    pub next: String,
    /// How long to wait before the request is repeated, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<f64>,
    /// Everything else that the server said.
    #[serde(flatten)]
    pub more: serde_json::Map<String, Value>,
}

/// A command that did not succeed.
#[derive(Debug)]
pub struct Failure {
    /// The error to print; none if nothing is to be said.
    pub problem: Option<Box<Problem>>,
    /// The exit code of the process, from 0 to 7.
    pub code: u8,
}

impl Problem {
    /// The exit code that a problem means.
    pub fn exit(&self) -> u8 {
        match self.status {
            Some(400 | 405 | 413 | 415 | 422) => 2,
            Some(404) => 3,
            Some(409 | 412) => 4,
            Some(429 | 503) => 5,
            Some(504) => NOT_YET,
            Some(401 | 403) => 7,
            _ => 1,
        }
    }

    /// Says that the same request may be sent again: a node is not ready, or did not learn the outcome in time.
    /// A node that belongs to no cluster does not change that by itself.
    pub fn may_be_repeated(&self) -> bool {
        let retry = matches!(self.status, Some(429 | 503)) && self.fate != "refuse" && self.code != "not_member";
        retry || self.status == Some(504)
    }

    /// A failure with this problem and an exit code that no status says.
    pub fn with_exit(self, code: u8) -> Failure {
        Failure { code, problem: Some(Box::new(self)) }
    }

    /// The text for people: what: why; next.
    fn text(&self) -> String {
        let detail = || self.more.get("detail").or(self.more.get("title")).and_then(Value::as_str).unwrap_or_default();
        let mut text = if self.what.is_empty() { detail().to_string() } else { self.what.clone() };
        for (between, part) in [(": ", &self.why), ("; ", &self.next)] {
            if !part.is_empty() {
                text = if text.is_empty() { part.clone() } else { text + between + part };
            }
        }
        text
    }
}

impl Failure {
    /// An end of the command about which nothing is said, with exit code 0.
    pub fn quiet() -> Failure {
        Failure { problem: None, code: 0 }
    }

    /// A failure of the client's own with this exit code.
    pub fn own(code: u8, name: &str, what: impl Display) -> Failure {
        let problem = Problem { code: name.into(), what: what.to_string(), ..Problem::default() };
        Failure { problem: Some(Box::new(problem)), code }
    }

    /// A failure without a code of its own (exit code 1).
    pub fn failed(what: impl Display) -> Failure {
        Failure::own(1, "failed", what)
    }

    /// What is to be printed on standard error, if anything.
    pub fn said(&self, o: Format) -> Option<String> {
        let p = self.problem.as_ref()?;
        Some(match o {
            Format::Json => match serde_json::to_string(p) {
                Ok(json) => json,
                Err(e) => format!("holdfast: {}: {e}", p.text()),
            },
            _ => format!("holdfast: {}", p.text()),
        })
    }
}

impl From<Problem> for Failure {
    fn from(p: Problem) -> Self {
        Failure { code: p.exit(), problem: Some(Box::new(p)) }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::failed(format_args!("{error:#}"))
    }
}

/// A failure because of wrong usage (exit code 2).
pub fn usage(e: impl Display) -> Failure {
    Failure::own(2, "invalid", e)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_exit_code() {
        let exit = |status| Problem { status: Some(status), ..Problem::default() }.exit();
        for (code, of) in [
            (2, &[400, 405, 413, 415, 422][..]),
            (3, &[404]),
            (4, &[409, 412]),
            (5, &[429, 503]),
            (6, &[504]),
            (7, &[401, 403]),
            (1, &[410, 418, 500]),
        ] {
            of.iter().for_each(|s| assert_eq!(exit(*s), code, "{s}"));
        }
    }

    #[test]
    fn a_problem_is_said_in_one_line_and_kept_whole_in_json() {
        let body = r#"{"type":"/docs/errors#not_found","title":"Not found","status":404,"detail":"d","code":"not_found",
            "fate":"refuse","what":"no volume web","why":"none has this name","next":"holdfast volume list","revision":7}"#;
        let f = Failure::from(serde_json::from_str::<Problem>(body).unwrap());
        assert_eq!(f.said(Format::Text).unwrap(), "holdfast: no volume web: none has this name; holdfast volume list");
        let back: Value = serde_json::from_str(&f.said(Format::Json).unwrap()).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(body).unwrap());
        // A problem of which only RFC 9457's own fields are known is said too.
        let f = Failure::from(serde_json::from_str::<Problem>(r#"{"status":400,"title":"Bad request"}"#).unwrap());
        assert_eq!((f.code, f.said(Format::Text).unwrap().as_str()), (2, "holdfast: Bad request"));
    }
}

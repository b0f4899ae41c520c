//! Every error of the API: RFC 9457 problems with a stable code, what happened to the request (its fate), and what to
//! do next. The table [`CODES`] is the one place that gives a code its HTTP status, exit code, fate and meaning.

use hf_meta_core::Refusal;
use hf_policy::AttrError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What happened to the request, and what its sender may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Nothing happened, and the same request would be refused again.
    Refuse,
    /// Nothing happened; the same request may be sent again.
    Retry,
    /// It may or may not have happened: send it again with the same idempotency key to learn which.
    Unknown,
    /// The position that was given is gone: list anew.
    BeginAnew,
}

/// A kind of error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The table says what each means.
pub enum Code {
    Invalid,
    UnknownAttribute,
    TooLarge,
    MediaType,
    KeyReused,
    Unauthenticated,
    Forbidden,
    NotFound,
    Method,
    Exists,
    Attached,
    InUse,
    Sticky,
    LastReplica,
    State,
    Unplaceable,
    NoSpace,
    EpochMismatch,
    Gone,
    RateLimited,
    Busy,
    NotReady,
    NoLeader,
    NodeSilent,
    NotMember,
    NotInTime,
    Internal,
}

/// What a code stands for.
pub struct Meaning {
    /// The code that stands for it.
    pub code: Code,
    /// The word of the code in JSON.
    pub word: &'static str,
    /// HTTP status of the answer.
    pub status: u16,
    /// Exit code of the command line.
    pub exit: u8,
    /// What happened to the request.
    pub fate: Fate,
    /// What it means, in a sentence.
    pub means: &'static str,
}

const fn row(code: Code, word: &'static str, status: u16, exit: u8, fate: Fate, means: &'static str) -> Meaning {
    Meaning { code, word, status, exit, fate, means }
}

/// Every code, with what it stands for.
pub const CODES: &[Meaning] = {
    use Code::*;
    use Fate::{BeginAnew, Refuse, Retry, Unknown};
    &[
        row(Invalid, "invalid", 400, 2, Refuse, "The request is wrong whatever the state of the cluster."),
        row(UnknownAttribute, "unknown_attribute", 400, 2, Refuse, "No attribute or field has this name."),
        row(TooLarge, "too_large", 413, 2, Refuse, "The request is larger than the bound that the error names."),
        row(MediaType, "media_type", 415, 2, Refuse, "A request with a body says Content-Type: application/json."),
        row(KeyReused, "key_reused", 422, 2, Refuse, "The idempotency key was used for another request."),
        row(Unauthenticated, "unauthenticated", 401, 7, Refuse, "The caller did not say who it is."),
        row(Forbidden, "forbidden", 403, 7, Refuse, "The caller may not do this."),
        row(NotFound, "not_found", 404, 3, Refuse, "Nothing has this name or number."),
        row(Method, "method", 405, 2, Refuse, "The path does not know this method."),
        row(Exists, "exists", 409, 4, Refuse, "The name is taken."),
        row(Attached, "attached", 409, 4, Refuse, "The volume is attached to another node, or is attached at all."),
        row(InUse, "in_use", 409, 4, Refuse, "It still holds something, or is being used."),
        row(Sticky, "sticky", 409, 4, Refuse, "The volume's policy forbids its deletion."),
        row(
            LastReplica,
            "last_replica",
            409,
            4,
            Refuse,
            "No replica would be left that holds every acknowledged write.",
        ),
        row(State, "state", 409, 4, Refuse, "The present state does not allow it, or there is nothing to do."),
        row(
            Unplaceable,
            "unplaceable",
            409,
            4,
            Refuse,
            "No disks fit the policy's rules; the error names what excludes each.",
        ),
        row(
            NoSpace,
            "no_space",
            409,
            4,
            Refuse,
            "The disks that fit have no space or no place in their replica table.",
        ),
        row(
            EpochMismatch,
            "epoch_mismatch",
            412,
            4,
            Refuse,
            "The resource changed since the epoch in If-Match, or has another id.",
        ),
        row(Gone, "gone", 410, 1, BeginAnew, "The cursor or watch position is no longer known: list anew."),
        row(RateLimited, "rate_limited", 429, 5, Retry, "Too many requests or streams are open: ask again later."),
        row(Busy, "busy", 503, 5, Retry, "As much is under way as may be at once: ask again later."),
        row(NotReady, "not_ready", 503, 5, Retry, "It is still being created: ask again later."),
        row(NoLeader, "no_leader", 503, 5, Retry, "No metadata leader answers, so nothing can be changed now."),
        row(NodeSilent, "node_silent", 503, 5, Retry, "The node that must do it does not answer."),
        row(NotMember, "not_member", 503, 5, Retry, "This node is not part of a cluster yet."),
        row(NotInTime, "not_in_time", 504, 6, Unknown, "No outcome came in time; the same key gives it later."),
        row(Internal, "internal", 500, 1, Unknown, "This release has a fault: please report it with the node's log."),
    ]
};

impl Code {
    /// What the code stands for.
    pub fn meaning(self) -> &'static Meaning {
        // Every code has its row (a test looks for each); the last row stands for what has none.
        CODES.iter().find(|m| m.code == self).unwrap_or(&CODES[CODES.len() - 1])
    }

    /// The code of a word.
    pub fn parse(word: &str) -> Option<Code> {
        CODES.iter().find(|m| m.word == word).map(|m| m.code)
    }
}

/// An error as the API says it (RFC 9457).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Where the code is explained.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means.
    pub title: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// The whole error in a sentence or two.
    pub detail: String,
    /// The code that stands for it.
    pub code: Code,
    /// What happened to the request.
    pub fate: Fate,
    /// What is wrong.
    pub what: String,
    /// Why; empty if `what` says it all.
    pub why: String,
    /// What to do next; empty if that is plain.
    pub next: String,
    /// What it is about, such as `volume/web` or a JSON pointer into the request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<String>,
    /// The revision of the record on which it was decided.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub revision: Option<u64>,
    /// The request, to be found in the log.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
    /// Seconds after which to ask again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after_seconds: Option<u64>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl Problem {
    /// An error of a code: what is wrong, in a few words.
    pub fn new(code: Code, what: impl Into<String>) -> Problem {
        let m = code.meaning();
        let what = what.into();
        Problem {
            kind: format!("/docs/errors#{}", m.word),
            title: m.means.into(),
            status: m.status,
            detail: what.clone(),
            code,
            fate: m.fate,
            what,
            why: String::new(),
            next: String::new(),
            subject: None,
            revision: None,
            request_id: None,
            retry_after_seconds: (m.fate == Fate::Retry).then_some(1),
        }
    }

    fn told(mut self) -> Problem {
        let mut detail = self.what.clone();
        for (sep, part) in [(": ", &self.why), ("; ", &self.next)] {
            if !part.is_empty() {
                detail += sep;
                detail += part;
            }
        }
        self.detail = detail;
        self
    }

    /// The same problem with its reason.
    pub fn because(mut self, why: impl Into<String>) -> Problem {
        self.why = why.into();
        self.told()
    }

    /// Says what to do next.
    pub fn so(mut self, next: impl Into<String>) -> Problem {
        self.next = next.into();
        self.told()
    }

    /// Says what it is about.
    pub fn at(mut self, subject: impl Into<String>) -> Problem {
        self.subject = Some(subject.into());
        self
    }

    /// Nothing has this name.
    pub fn no(kind: &str, name: &str) -> Problem {
        Problem::new(Code::NotFound, format!("no {kind} {name}"))
            .so(format!("holdfast {kind} list shows what there is"))
            .at(format!("{kind}/{name}"))
    }
}

impl From<&AttrError> for Problem {
    fn from(e: &AttrError) -> Problem {
        match e {
            AttrError::Unknown { nearest: Some(k), .. } => {
                Problem::new(Code::UnknownAttribute, e.to_string()).so(format!("use {k}"))
            }
            AttrError::Unknown { .. } => Problem::new(Code::UnknownAttribute, e.to_string()),
            AttrError::NotOnline { .. } => Problem::new(Code::State, e.to_string()),
            AttrError::Value { .. } | AttrError::Twice(_) | AttrError::Missing(_) => {
                Problem::new(Code::Invalid, e.to_string())
            }
        }
    }
}

impl From<Refusal> for Problem {
    fn from(r: Refusal) -> Problem {
        let text = r.to_string();
        let code = match &r {
            Refusal::EpochMismatch { .. } => Code::Busy,
            Refusal::StaleTerm { .. } | Refusal::NotAttached | Refusal::State(_) => Code::State,
            Refusal::LastReplica => Code::LastReplica,
            Refusal::Attached { .. } => Code::Attached,
            Refusal::NotReady(_) => Code::NotReady,
            Refusal::Exists { .. } => Code::Exists,
            Refusal::NotFound { .. } => Code::NotFound,
            Refusal::Sticky(_) => Code::Sticky,
            Refusal::Busy(_) => Code::Busy,
            Refusal::Invalid(_) => Code::Invalid,
            Refusal::Unplaceable(_) => Code::Unplaceable,
            Refusal::NoSpace(_) => Code::NoSpace,
        };
        let subject = match &r {
            Refusal::Attached { volume, .. } | Refusal::NotReady(volume) | Refusal::Sticky(volume) => {
                Some(format!("volume/{volume}"))
            }
            Refusal::Exists { kind, name } | Refusal::NotFound { kind, name } => Some(format!("{kind}/{name}")),
            _ => None,
        };
        Problem { subject, ..Problem::new(code, text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_row_and_its_word_is_what_json_says() {
        for m in CODES {
            assert_eq!(serde_json::to_value(m.code).unwrap(), m.word);
            assert_eq!(Code::parse(m.word), Some(m.code));
            assert_eq!(m.code.meaning().word, m.word);
            assert!(m.means.ends_with('.'), "{}", m.word);
        }
        let words: std::collections::BTreeSet<_> = CODES.iter().map(|m| m.word).collect();
        assert_eq!(words.len(), CODES.len());
        assert_eq!(Code::Internal as usize + 1, CODES.len(), "a code without a row");
    }

    #[test]
    fn a_problem_says_what_why_and_what_next() {
        let p =
            Problem::new(Code::State, "node n2 cannot be removed").because("it holds 3 replicas").so("drain it first");
        assert_eq!(p.detail, "node n2 cannot be removed: it holds 3 replicas; drain it first");
        assert_eq!((p.status, p.fate, p.kind.as_str()), (409, Fate::Refuse, "/docs/errors#state"));
    }
}

//! Answers: JSON with the revision that it is of, or a problem.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hf_control::error::{Code, Problem};
use serde::Serialize;

/// The media type of errors (RFC 9457).
const PROBLEM: &str = "application/problem+json";

/// An answer with its headers.
pub struct Answer {
    status: StatusCode,
    body: String,
    media: &'static str,
    headers: Vec<(HeaderName, String)>,
}

/// What a handler returns.
pub type Handled = Result<Answer, Answer>;

impl Answer {
    /// JSON text of a revision of the record.
    pub fn json(status: StatusCode, body: String, revision: u64) -> Answer {
        let headers = vec![(HeaderName::from_static("holdfast-revision"), revision.to_string())];
        Answer { status, body, media: "application/json", headers }
    }

    /// A value as JSON.
    pub fn of<T: Serialize>(status: StatusCode, t: &T, revision: u64) -> Handled {
        match serde_json::to_string(t) {
            Ok(body) => Ok(Answer::json(status, body, revision)),
            Err(e) => Err(Problem::new(Code::Internal, format!("an answer cannot be encoded: {e}")).into()),
        }
    }

    /// The same with one more header.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Answer {
        self.headers.push((HeaderName::from_static(name), value.to_string()));
        self
    }
}

impl From<Problem> for Answer {
    fn from(p: Problem) -> Answer {
        let status = StatusCode::from_u16(p.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut headers = Vec::new();
        if let Some(s) = p.retry_after_seconds {
            headers.push((header::RETRY_AFTER, s.to_string()));
        }
        Answer { status, body: serde_json::to_string(&p).unwrap_or_default(), media: PROBLEM, headers }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut r = (self.status, self.body).into_response();
        let h = r.headers_mut();
        h.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media));
        h.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.headers {
            if let Ok(v) = HeaderValue::from_str(&value) {
                h.insert(name, v);
            }
        }
        r
    }
}

/// The answer for a path that is not served.
pub async fn nothing_here(uri: axum::http::Uri) -> Answer {
    Problem::new(Code::NotFound, format!("nothing is served at {}", uri.path())).so("see /docs").into()
}

/// The answer for a method that the path does not know.
pub async fn no_such_method(method: axum::http::Method, uri: axum::http::Uri) -> Answer {
    Problem::new(Code::Method, format!("{} does not know the method {method}", uri.path())).so("see /docs").into()
}

//! The client's calls. A call that changes something has one idempotency key and is repeated with it, on every
//! endpoint in turn, until one answers for good.
//!
//! It promises: endpoints where nothing answers are asked last; a change is done at most once however often it
//! is sent; no call takes longer than the patience of the command.

use super::failure::{Failure, Problem};
use super::http::sse::{Event, Events};
use super::http::{self, Endpoint, Method, Request, Response, Silent};
use crate::identity::random;
use hf_policy::RequestId;
use hyper::header::{self, HeaderName};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// An endpoint that does not answer within this time is asked last.
const ALIVE: Duration = Duration::from_millis(600);
/// How long one call may take unless the command says otherwise; an attach waits for the take-over.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait before a request is repeated, if the server does not say.
const AGAIN: Duration = Duration::from_millis(500);
/// The longest time that a server may ask to wait between two repeats.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A watch in which nothing came for this long is begun anew: a bookmark comes each 10 s.
const QUIET: Duration = Duration::from_secs(35);

/// A client of several endpoints.
pub struct Client {
    endpoints: Vec<Endpoint>,
    patience: Duration,
    dry_run: bool,
}

/// An answer that is no problem.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status, from 200 to 299.
    pub status: u16,
    /// The body; null if there was none.
    pub body: Value,
}

/// The first endpoint that answered, or what all of them said.
enum Round<T> {
    Done(T),
    /// A node refused for now, and may be asked again after this time.
    Later(Box<Problem>, Duration),
    Silent(String),
}

impl Client {
    /// A client of these endpoints, each call of which takes at most `patience`. With `dry_run` nothing is
    /// changed: the answers say what a change would do.
    pub fn new(endpoints: Vec<Endpoint>, patience: Duration, dry_run: bool) -> Client {
        Client { endpoints, patience, dry_run }
    }

    /// The endpoints in the order to ask them. Those where nothing answers come last: a frozen machine still
    /// accepts connections.
    async fn lively_first(&self) -> Vec<&Endpoint> {
        if self.endpoints.len() < 2 {
            return self.endpoints.iter().collect();
        }
        let mut silent = Vec::new();
        for (i, e) in self.endpoints.iter().enumerate() {
            // Any answer will do, also that there is no such page.
            match timeout(ALIVE, http::ask(e, &Request::get("/livez"))).await {
                Ok(Ok(_)) => return self.endpoints[i..].iter().chain(silent).collect(),
                Ok(Err(_)) | Err(_) => silent.push(e),
            }
        }
        silent
    }

    /// Asks one endpoint after the other until one answers for good.
    async fn round<T>(
        &self,
        request: &Request,
        until: Instant,
        read: impl AsyncFn(&Endpoint, &Request) -> Result<Result<T, Box<Problem>>, Silent>,
    ) -> Result<Round<T>, Failure> {
        let (mut later, mut silent) = (None, Vec::new());
        for e in self.lively_first().await {
            match timeout_at(until, read(e, request)).await {
                Err(_) => silent.push(format!("{e}: no answer within {:.1?}", self.patience)),
                Ok(Err(s)) if s.sent => silent.push(format!("{e}: asked, but no answer came: {}", s.why)),
                Ok(Err(s)) => silent.push(format!("{e}: {}", s.why)),
                Ok(Ok(Ok(done))) => return Ok(Round::Done(done)),
                Ok(Ok(Err(p))) if p.may_be_repeated() => later = Some(p),
                Ok(Ok(Err(p))) => return Err((*p).into()),
            }
        }
        Ok(match later {
            Some(p) => {
                let wait = p.retry_after_seconds.map_or(AGAIN, |s| Duration::from_secs_f64(s.clamp(0.05, 3600.0)));
                Round::Later(p, wait.min(LONGEST_WAIT))
            }
            None => Round::Silent(silent.join("; ")),
        })
    }

    /// Reads what is at a path with its query. A node that refuses for now is not asked again.
    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        match self.round(&Request::get(path), Instant::now() + self.patience, whole).await? {
            Round::Done(a) => Ok(a),
            Round::Later(p, _) => Err((*p).into()),
            Round::Silent(why) => Err(nobody(&why)),
        }
    }

    /// Changes something. Every repeat has the same key, so that it is done once.
    pub async fn change(&self, method: Method, path: &str, body: &Value) -> Result<Answer, Failure> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let path = if self.dry_run { format!("{path}{mark}dry_run=true") } else { path.into() };
        let headers = vec![
            (HeaderName::from_static("idempotency-key"), RequestId(random()).to_string()),
            (HeaderName::from_static("holdfast-csrf"), "1".into()),
            (header::CONTENT_TYPE, "application/json".into()),
        ];
        let request = Request { method, path, headers, body: body.to_string().into() };
        let until = Instant::now() + self.patience;
        loop {
            match self.round(&request, until, whole).await? {
                Round::Done(a) => return Ok(a),
                Round::Later(p, wait) if Instant::now() + wait >= until => return Err((*p).into()),
                Round::Later(_, wait) => sleep(wait).await,
                Round::Silent(why) => return Err(nobody(&why)),
            }
        }
    }

    /// Begins to watch what is at a path with its query.
    pub fn watch(&self, path: &str) -> Watch<'_> {
        Watch { client: self, path: path.into(), last: None, now: None, begun: false }
    }
}

/// A stream of events that is begun anew, after the last event that came, when its connection is lost.
pub struct Watch<'a> {
    client: &'a Client,
    path: String,
    last: Option<String>,
    now: Option<Events>,
    begun: bool,
}

impl Watch<'_> {
    /// Connects, if that is not done yet. What happens from then on is told.
    pub async fn open(&mut self) -> Result<(), Failure> {
        if self.now.is_none() {
            self.now = Some(self.begin().await?);
            self.begun = true;
        }
        Ok(())
    }

    /// Waits for the next event.
    pub async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            self.open().await?;
            let Some(events) = &mut self.now else { continue };
            match timeout(QUIET, events.next()).await {
                Ok(Ok(Some(e))) => {
                    self.last = e.id.clone().or(self.last.take());
                    return Ok(e);
                }
                // The node ended, or is frozen.
                Ok(Ok(None) | Err(_)) | Err(_) => self.now = None,
            }
        }
    }

    async fn begin(&self) -> Result<Events, Failure> {
        let mut request = Request::get(&self.path);
        request.headers.push((header::ACCEPT, "text/event-stream".into()));
        if let Some(id) = &self.last {
            request.headers.push((HeaderName::from_static("last-event-id"), id.clone()));
        }
        let until = Instant::now() + self.client.patience;
        loop {
            let (wait, failure) = match self.client.round(&request, until, stream).await? {
                Round::Done(events) => return Ok(events),
                Round::Later(p, wait) => (wait, Failure::from(*p)),
                // (A node that starts again is back soon; who never connected is told at once.)
                Round::Silent(why) => (AGAIN, nobody(&why)),
            };
            if !self.begun || Instant::now() + wait >= until {
                return Err(failure);
            }
            sleep(wait).await;
        }
    }
}

fn nobody(why: &str) -> Failure {
    let why = if why.is_empty() { "no endpoint is given" } else { why };
    Problem {
        code: "no_answer".into(),
        fate: "retry".into(),
        what: "no node answered".into(),
        why: why.into(),
        next: "start the node, or set --endpoint, HOLDFAST_ENDPOINT or a context (holdfast context set) to the http address of one that runs".into(),
        ..Problem::default()
    }
    .with_exit(5)
}

async fn whole(e: &Endpoint, request: &Request) -> Result<Result<Answer, Box<Problem>>, Silent> {
    Ok(judged(e, http::ask(e, request).await?))
}

async fn stream(e: &Endpoint, request: &Request) -> Result<Result<Events, Box<Problem>>, Silent> {
    match http::open(e, request).await?.events() {
        Ok(events) => Ok(Ok(events)),
        Err(open) => Ok(match judged(e, open.whole().await?) {
            Err(p) => Err(p),
            Ok(a) => Err(Box::new(strange(e, a.status, "the answer is no stream of events"))),
        }),
    }
}

/// Parts answers from problems.
fn judged(e: &Endpoint, r: Response) -> Result<Answer, Box<Problem>> {
    let text = String::from_utf8_lossy(&r.body);
    if (200..300).contains(&r.status) {
        if r.body.is_empty() {
            return Ok(Answer { status: r.status, body: Value::Null });
        }
        let body = serde_json::from_slice(&r.body);
        return body
            .map(|body| Answer { status: r.status, body })
            .map_err(|x| Box::new(strange(e, r.status, &format!("the answer is not JSON: {x}"))));
    }
    let start: String = text.trim().chars().take(200).collect();
    let mut p = serde_json::from_slice::<Problem>(&r.body).unwrap_or_else(|_| strange(e, r.status, &start));
    p.status = Some(r.status);
    let header = r.headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    p.retry_after_seconds = p.retry_after_seconds.or(header);
    Err(Box::new(p))
}

/// An answer that no Holdfast gives.
fn strange(e: &Endpoint, status: u16, why: &str) -> Problem {
    Problem {
        status: Some(status),
        code: "strange_answer".into(),
        what: format!("{e} answered with HTTP status {status}"),
        why: if why.is_empty() { "it said nothing else".into() } else { why.into() },
        next: "see whether this endpoint is the http address of a Holdfast node".into(),
        ..Problem::default()
    }
}

#[cfg(test)]
mod tests;

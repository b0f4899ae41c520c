//! What every command of a cluster has at hand: the client, the output, and how long it waits.

use super::args::Global;
use super::client::{Answer, Client, PATIENCE};
use super::context::{Said, endpoints};
use super::failure::{Failure, NOT_YET, Problem, usage};
use super::http::Method;
use super::out::{Format, Out};
use super::progress::Waiting;
use super::table::word;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a node is asked to wait until a change is in force, unless the command says otherwise.
const IN_FORCE: Duration = Duration::from_secs(10);
/// The longest time for which one request asks a node to wait; after it the client asks itself.
const ONE_REQUEST: Duration = Duration::from_secs(30);
/// How often the client asks whether a change is in force, or how far a job is.
const ASK: Duration = Duration::from_millis(400);

/// One command of a cluster.
pub struct Session {
    /// The client of the cluster's nodes.
    pub client: Client,
    /// Where results are printed.
    pub out: Out,
    timeout: Option<Duration>,
    no_wait: bool,
}

impl Session {
    /// A session with what the flags and the environment say.
    pub fn new(g: &Global) -> Result<Session, Failure> {
        let timeout = g.timeout.as_deref().map(time).transpose()?;
        if timeout.is_some_and(|t| t.is_zero()) {
            return Err(usage("--timeout 0: nothing can be done in no time; give a time such as 30s"));
        }
        let (endpoints, _) = endpoints(&Said::here(g.endpoint.clone(), g.context.clone()))?;
        let client = Client::new(endpoints, timeout.unwrap_or(PATIENCE), g.dry_run);
        Ok(Session { client, out: Out::new(g.output), timeout, no_wait: g.no_wait })
    }

    /// For how long a change is waited for.
    fn in_force(&self) -> Duration {
        if self.no_wait { Duration::ZERO } else { self.timeout.unwrap_or(IN_FORCE) }
    }

    /// The part of a query that asks a node to wait until the change is in force, for less than the client waits
    /// for its answer.
    pub fn wait(&self) -> String {
        let most = self.in_force().min(ONE_REQUEST).as_millis() * if self.timeout.is_some() { 8 } else { 10 };
        format!("wait={}", most / 10_000)
    }

    /// Changes something and says what came of it.
    pub async fn change(&mut self, method: Method, path: &str, body: &Value) -> Result<(), Failure> {
        let a = self.client.change(method, path, body).await?;
        self.told(&a)
    }

    /// Says what came of a change; one that is not in force yet is a failure with exit code 6.
    pub fn told(&mut self, a: &Answer) -> Result<(), Failure> {
        let b = &a.body;
        match self.out.format {
            Format::Text | Format::Wide => self.out.line(b["message"].as_str().unwrap_or("done"))?,
            Format::Json | Format::Yaml => self.out.value(b)?,
            Format::Name => {
                for (noun, key) in [("volume", "name"), ("disk", "id")] {
                    if let Some(o) = b[noun].as_object() {
                        self.out.line(format_args!("{noun}/{}", word(o.get(key))))?;
                    }
                }
            }
        }
        if a.status != 202 || b["done"] == true {
            return Ok(());
        }
        let why = b["waiting_for"].as_str().unwrap_or_default();
        Err(Problem {
            code: "not_in_time".into(),
            fate: "accepted".into(),
            what: "recorded, not in force yet".into(),
            why: why.into(),
            next: "it goes on by itself; --timeout waits longer".into(),
            ..Problem::default()
        }
        .with_exit(NOT_YET))
    }

    /// Waits on after an answer that a change is recorded, until `done` holds of the resource at `path` or the
    /// time that the command has is over. `field` of the answer is replaced by what the resource is then.
    pub async fn until(
        &mut self,
        mut a: Answer,
        path: &str,
        field: &str,
        done: impl Fn(&Value) -> bool,
    ) -> Result<Answer, Failure> {
        let Some(time) = self.timeout.filter(|_| a.status == 202 && a.body["done"] == false && !self.no_wait) else {
            return Ok(a);
        };
        let (end, mut bar) = (Instant::now() + time, Waiting::new(path));
        while Instant::now() + ASK < end {
            sleep(ASK).await;
            let Ok(now) = self.client.get(path).await else { continue };
            bar.says(now.body["why"].as_str().unwrap_or("not in force yet"));
            if done(&now.body) {
                a.body["done"] = json!(true);
                a.body.as_object_mut().map(|o| o.remove("waiting_for"));
                a.body[field] = now.body;
                break;
            }
        }
        Ok(a)
    }

    /// Waits until a job is no more, with its progress on a terminal.
    pub async fn job(&mut self, id: &str) -> Result<(), Failure> {
        // What was changed is said before the wait for its end.
        self.out.flush()?;
        let end = self.timeout.map(|t| Instant::now() + t);
        let (path, mut bar) = (super::kinds::job_path(id)?, Waiting::new(id));
        loop {
            match self.client.get(&path).await {
                Ok(job) => bar.job(&job.body),
                Err(e) if e.code == 3 => return Ok(()),
                // Nodes may be away for a moment in a long wait.
                Err(e) if e.code == 5 => bar.says("no node answers now"),
                Err(e) => return Err(e),
            }
            if end.is_some_and(|end| Instant::now() + ASK >= end) {
                return Err(Failure::own(NOT_YET, "not_in_time", format_args!("{id} goes on after --timeout")));
            }
            sleep(ASK).await;
        }
    }
}

/// A time that a person wrote, such as 10m.
pub fn time(text: &str) -> Result<Duration, Failure> {
    hf_policy::parse_duration_us(text).map(Duration::from_micros).map_err(usage)
}

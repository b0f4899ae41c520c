//! `holdfast job …`: what is asked of the API, and a job as text.

use super::args::JobCommand;
use super::client::Client;
use super::failure::Failure;
use super::http::Method;
use super::kinds::{JOB, job_path};
use super::out::Out;
use super::session::Session;
use super::{list, watch};
use serde_json::{Value, json};

/// Runs one command about jobs.
pub async fn run(s: &mut Session, command: JobCommand) -> Result<(), Failure> {
    let (job, verb) = match command {
        JobCommand::List(a) if a.watch.watch => return watch::list(s, &JOB, &a).await,
        JobCommand::List(a) => {
            let page = list::fetch(&s.client, &JOB, &a).await?;
            if s.out.format.is_text() {
                held(s).await?;
                if list::items(&page).is_empty() {
                    return s.out.line(list::NOTHING);
                }
            }
            return list::show(&JOB, &page, &mut s.out);
        }
        JobCommand::Show { job, watch } => {
            let path = job_path(&job)?;
            let show = |v: &Value, out: &mut Out| list::one(&JOB, v, out, text);
            if watch.watch {
                let fetch = async |c: &Client| Ok(c.get(&path).await?.body);
                return watch::again(s, JOB.noun, Some(&job), fetch, show).await;
            }
            return show(&s.client.get(&path).await?.body, &mut s.out);
        }
        JobCommand::Cancel { job } => (Some(job), "cancel"),
        JobCommand::Pause { job } => (job, "pause"),
        JobCommand::Resume { job } => (job, "resume"),
    };
    let path = job.as_deref().map_or(Ok(JOB.path.to_string()), job_path)?;
    s.change(Method::POST, &format!("{path}/{verb}"), &json!({})).await
}

/// Says so if everything is held.
async fn held(s: &mut Session) -> Result<(), Failure> {
    if s.client.get("/v1/cluster").await?.body["rebuild_paused"] == true {
        s.out.line("paused: no replica is made or moved (holdfast job resume)")?;
    }
    Ok(())
}

/// A job as text: a line for each column.
fn text(j: &Value) -> String {
    let line = |(head, cell): (&str, String)| format!("{:<10} {cell}\n", head.to_lowercase());
    JOB.heads(true).into_iter().zip(JOB.row(j, true)).map(line).collect()
}

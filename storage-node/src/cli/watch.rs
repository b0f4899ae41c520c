//! `--watch`: shows a list, a resource or a screen again as it changes, by the API's watch stream.
//!
//! It promises: on a terminal the picture is drawn anew; elsewhere there is a line for each change, of JSON if
//! that was asked for; a lost connection is taken up where it was, and a position that the servers no longer
//! know begins anew with the whole list. It keeps what is shown in memory, and nothing else.

use super::args::ListArgs;
use super::client::{Client, Watch};
use super::failure::Failure;
use super::http::sse::Event;
use super::kinds::Kind;
use super::list;
use super::out::{Format, Out};
use super::session::Session;
use super::table::word;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Changes within this time are shown together where each would have to be asked for.
const TOGETHER: Duration = Duration::from_millis(200);

/// After a reset, so much later begins the next stream.
const AFTER_RESET: Duration = Duration::from_millis(300);

/// What the stream says of one resource.
#[derive(Debug, PartialEq)]
enum Change {
    /// A resource of this kind and key is as the value says.
    Put(String, String, Value),
    /// A resource of this kind and key is gone.
    Gone(String, String),
    /// The position is lost: list anew.
    Reset,
}

fn changes(e: &Event) -> Vec<Change> {
    let data: Value = serde_json::from_str(&e.data).unwrap_or_default();
    let text = |field: &str| word(data.get(field));
    match e.event.as_str() {
        "put" | "event" => vec![Change::Put(text("kind"), text("key"), data["object"].clone())],
        "gone" => vec![Change::Gone(text("kind"), text("key"))],
        "reset" => vec![Change::Reset],
        "soft" => {
            let jobs = data["jobs"].as_array().into_iter().flatten();
            jobs.map(|j| Change::Put("job".into(), word(j.get("id")), j.clone())).collect()
        }
        _ => Vec::new(),
    }
}

/// The next changes; a position that nobody knows any more is a reset.
async fn next(w: &mut Watch<'_>) -> Result<Vec<Change>, Failure> {
    match w.next().await {
        Ok(e) => Ok(changes(&e)),
        Err(e) if e.problem.as_ref().is_some_and(|p| p.status == Some(410)) => Ok(vec![Change::Reset]),
        Err(e) => Err(e),
    }
}

/// A list as it was shown last.
struct Shown<'a> {
    kind: &'a Kind,
    items: BTreeMap<String, Value>,
    /// The picture on the terminal.
    drawn: Vec<String>,
    begun: bool,
}

impl Shown<'_> {
    /// Shows what differs from what was shown last.
    fn update(&mut self, now: BTreeMap<String, Value>, sorted: &[Value], out: &mut Out) -> Result<(), Failure> {
        let before = std::mem::replace(&mut self.items, now);
        let wide = out.format == Format::Wide;
        let row = |v: &Value| self.kind.row(v, wide);
        if out.format.is_text() && (out.on_terminal() || !self.begun) {
            let lines = list::lines(self.kind, sorted, wide);
            if lines == self.drawn {
                return Ok(());
            }
            if out.on_terminal() {
                clear(out)?;
            }
            self.begun = true;
            lines.iter().try_for_each(|l| out.line(l))?;
            self.drawn = lines;
            return out.flush();
        }
        for v in sorted {
            let old = before.get(&self.kind.name(v));
            match out.format {
                Format::Json | Format::Yaml if old != Some(v) => out.one_of_many(&list::put(self.kind, v))?,
                Format::Name if old.is_none() => out.line(self.kind.full_name(v))?,
                // (A change of nothing that is shown is none here.)
                Format::Text | Format::Wide if old.map(row) != Some(row(v)) => out.line(row(v).join("  "))?,
                _ => {}
            }
        }
        for (name, v) in before.iter().filter(|(name, _)| !self.items.contains_key(*name)) {
            match out.format {
                Format::Json | Format::Yaml => out.one_of_many(&json!({"kind": self.kind.noun, "key": name}))?,
                _ => out.line(format_args!("{} is gone", self.kind.full_name(v)))?,
            }
        }
        self.begun = true;
        out.flush()
    }
}

fn clear(out: &mut Out) -> Result<(), Failure> {
    out.print("\x1b[2J\x1b[H")
}

/// Watches a list until the reader goes, or, of jobs, until none is left.
pub async fn list(s: &mut Session, kind: &Kind, a: &ListArgs) -> Result<(), Failure> {
    let mut shown = Shown { kind, items: BTreeMap::new(), drawn: Vec::new(), begun: false };
    let narrowed = a.limit.is_some() || !list::query(kind, a)?.is_empty();
    let keyed =
        |items: &[Value]| -> BTreeMap<String, Value> { items.iter().map(|v| (kind.name(v), v.clone())).collect() };
    loop {
        let page = list::fetch(&s.client, kind, a).await?;
        let mut items = keyed(list::items(&page));
        shown.update(items.clone(), list::items(&page), &mut s.out)?;
        let mut w = s.client.watch(&format!("/v1/watch?kinds={}&after={}", kind.noun, page["revision"]));
        loop {
            if kind.noun == "job" && items.is_empty() {
                return if s.out.format.is_text() { s.out.line(list::NOTHING) } else { Ok(()) };
            }
            let changes = next(&mut w).await?;
            if changes.contains(&Change::Reset) {
                sleep(AFTER_RESET).await;
                break;
            }
            let mut ours = false;
            for c in changes {
                match c {
                    Change::Put(k, key, v) if k == kind.noun => drop(items.insert(key, v)),
                    Change::Gone(k, key) if k == kind.noun => drop(items.remove(&key)),
                    _ => continue,
                }
                ours = true;
            }
            if ours && narrowed {
                if together(&mut w, |c| *c == Change::Reset).await? {
                    break;
                }
                // The server alone says what the filter means.
                let page = list::fetch(&s.client, kind, a).await?;
                items = keyed(list::items(&page));
                shown.update(items.clone(), list::items(&page), &mut s.out)?;
            } else if ours {
                let mut sorted: Vec<Value> = items.values().cloned().collect();
                kind.sort(&mut sorted, a.sort.as_deref().unwrap_or(kind.key))?;
                shown.update(items.clone(), &sorted, &mut s.out)?;
            }
        }
    }
}

/// Takes what else comes within a moment. Returns whether any of it is wanted.
async fn together(w: &mut Watch<'_>, wanted: impl Fn(&Change) -> bool) -> Result<bool, Failure> {
    let (end, mut any) = (Instant::now() + TOGETHER, false);
    while let Ok(more) = timeout_at(end, next(w)).await {
        any |= more?.iter().any(&wanted);
    }
    Ok(any)
}

/// Shows what `fetch` gives, again after each change of these kinds, and of this key if there is one. It ends
/// when what it shows is gone.
pub async fn again(
    s: &mut Session,
    kinds: &str,
    key: Option<&str>,
    fetch: impl AsyncFn(&Client) -> Result<Value, Failure>,
    show: impl Fn(&Value, &mut Out) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let wanted = |c: &Change| match c {
        Change::Reset => true,
        Change::Put(k, of, _) | Change::Gone(k, of) => {
            kinds.split(',').any(|x| x == k) && key.is_none_or(|key| key == of)
        }
    };
    let mut before: Option<Value> = None;
    loop {
        // The stream is open before the first look, so that nothing is missed between the two.
        let mut w = s.client.watch(&format!("/v1/watch?kinds={kinds}"));
        w.open().await?;
        loop {
            match fetch(&s.client).await {
                Ok(now) if before.as_ref() == Some(&now) => {}
                Ok(now) => {
                    picture(&now, before.is_some(), &show, &mut s.out)?;
                    before = Some(now);
                }
                Err(e) if e.code == 3 && before.is_some() => {
                    let what = format!("{kinds}/{} is gone", key.unwrap_or_default());
                    return if s.out.format.is_text() { s.out.line(what) } else { Ok(()) };
                }
                Err(e) => return Err(e),
            }
            let mut come = Vec::new();
            while !come.iter().any(wanted) {
                come = next(&mut w).await?;
            }
            if together(&mut w, |c| *c == Change::Reset).await? || come.contains(&Change::Reset) {
                break;
            }
        }
        sleep(AFTER_RESET).await;
    }
}

/// Gives each event after a revision to `on`, until that fails or the reader goes.
pub async fn events(
    client: &Client,
    after: u64,
    mut on: impl FnMut(&Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut w = client.watch(&format!("/v1/watch?kinds=event&after={after}"));
    loop {
        for c in next(&mut w).await? {
            match c {
                Change::Put(kind, _, e) if kind == "event" => on(&e)?,
                Change::Reset => {
                    // What lies between is in the list of events; the stream goes on from now.
                    super::out::note("holdfast: events were missed: see holdfast event list");
                    w = client.watch("/v1/watch?kinds=event");
                }
                _ => {}
            }
        }
    }
}

fn picture(
    now: &Value,
    again: bool,
    show: &impl Fn(&Value, &mut Out) -> Result<(), Failure>,
    out: &mut Out,
) -> Result<(), Failure> {
    match out.format {
        Format::Json | Format::Yaml => out.one_of_many(now)?,
        Format::Text | Format::Wide if out.on_terminal() => {
            clear(out)?;
            show(now, out)?;
        }
        Format::Text | Format::Wide if again => {
            out.line("")?;
            show(now, out)?;
        }
        _ => show(now, out)?,
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_the_stream_are_changes() {
        let e = |event: &str, data: &str| changes(&Event { event: event.into(), id: None, data: data.into() });
        let put = |kind: &str, key: &str, v| Change::Put(kind.into(), key.into(), v);
        assert_eq!(
            e("put", r#"{"kind":"volume","key":"web","object":{"a":1}}"#),
            [put("volume", "web", json!({"a": 1}))]
        );
        assert_eq!(e("gone", r#"{"kind":"disk","key":7}"#), [Change::Gone("disk".into(), "7".into())]);
        assert_eq!(e("reset", r#"{"why":"x"}"#), [Change::Reset]);
        assert_eq!(e("soft", r#"{"jobs":[{"id":"node/n1"}]}"#), [put("job", "node/n1", json!({"id": "node/n1"}))]);
        assert!(e("bookmark", r#"{"revision":7}"#).is_empty() && e("put", "no json").len() == 1);
    }
}

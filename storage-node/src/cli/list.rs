//! Lists of resources: all pages of one, filtered by the server, sorted here, and shown in any format.

use super::args::ListArgs;
use super::client::Client;
use super::failure::{Failure, usage};
use super::http::encoded;
use super::kinds::Kind;
use super::out::{Format, Out};
use super::table;
use serde_json::{Value, json};

/// What is said when there is no job.
pub const NOTHING: &str = "nothing to do: every replica is in sync and where it should be";

/// Items that one page brings, at most.
const PAGE: usize = 1_000;
/// Items that one command shows, at most.
const MOST: usize = 1_000_000;
/// Fields by which a server filters.
const FIELDS: [&str; 6] = ["name", "state", "health", "node", "disk", "volume"];

/// The part of a query that filters.
pub fn query(kind: &Kind, a: &ListArgs) -> Result<String, Failure> {
    let mut parts = String::new();
    for f in &a.filter {
        let Some((field, value)) = f.split_once('=').filter(|(field, _)| FIELDS.contains(field)) else {
            return Err(usage(format_args!(
                "--filter {f}: write FIELD=VALUE, where the field is {}",
                FIELDS.join(", ")
            )));
        };
        parts += &format!("&{field}={}", encoded(value));
    }
    if let Some(labels) = &a.selector {
        if !kind.labels {
            return Err(usage(format_args!(
                "--selector: a {} has no labels; --filter has its other fields",
                kind.noun
            )));
        }
        parts += &format!("&label={}", encoded(labels));
    }
    Ok(parts)
}

/// A list as the API says it: `items` of all pages, or of as many as are wanted, with the rest of the last page.
pub async fn fetch(client: &Client, kind: &Kind, a: &ListArgs) -> Result<Value, Failure> {
    if a.limit == Some(0) {
        return Err(usage("--limit 0 shows nothing; give a number of 1 or more"));
    }
    let most = a.limit.unwrap_or(MOST);
    let query = query(kind, a)?;
    let (mut items, mut after) = (Vec::new(), String::new());
    let mut page = loop {
        let limit = PAGE.min(most - items.len());
        let mut page = client.get(&format!("{}?limit={limit}{query}{after}", kind.path)).await?.body;
        if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
            items.extend(more);
        }
        match page["next"].as_str() {
            Some(next) if items.len() < most => after = format!("&after={}", encoded(next)),
            _ => break page,
        }
    };
    if let Some(by) = &a.sort {
        kind.sort(&mut items, by)?;
    }
    page["items"] = Value::Array(items);
    Ok(page)
}

/// The items of a list.
pub fn items(page: &Value) -> &[Value] {
    page["items"].as_array().map_or(&[], Vec::as_slice)
}

/// The lines of a list for people.
pub fn lines(kind: &Kind, items: &[Value], wide: bool) -> Vec<String> {
    table::lines(&kind.heads(wide), &items.iter().map(|v| kind.row(v, wide)).collect::<Vec<_>>())
}

/// Shows a list.
pub fn show(kind: &Kind, page: &Value, out: &mut Out) -> Result<(), Failure> {
    match out.format {
        Format::Json | Format::Yaml => out.value(page),
        Format::Name => items(page).iter().try_for_each(|v| out.line(kind.full_name(v))),
        Format::Text | Format::Wide => {
            let wide = out.format == Format::Wide;
            lines(kind, items(page), wide).iter().try_for_each(|l| out.line(l))
        }
    }
}

/// Shows one resource; `text` makes it for people.
pub fn one(kind: &Kind, v: &Value, out: &mut Out, text: impl Fn(&Value) -> String) -> Result<(), Failure> {
    match out.format {
        Format::Json | Format::Yaml => out.value(v),
        Format::Name => out.line(kind.full_name(v)),
        Format::Text | Format::Wide => out.print(text(v)),
    }
}

/// A change of a resource as the watch stream says it.
pub fn put(kind: &Kind, v: &Value) -> Value {
    json!({"kind": kind.noun, "key": kind.name(v), "object": v})
}

//! `holdfast node …` and `holdfast disk …`: what is asked of the API, and both as text.

use super::args::{DiskCommand, ListArgs, NodeSub, WatchArgs};
use super::client::Client;
use super::failure::{Failure, usage};
use super::http::{Method, encoded};
use super::kinds::{DISK, Kind, NODE, about, pairs};
use super::out::Out;
use super::session::Session;
use super::table::word;
use super::{list, watch};
use serde_json::{Value, json};

/// Runs one command about nodes.
pub async fn node(s: &mut Session, command: NodeSub) -> Result<(), Failure> {
    let (name, verb, wait) = match command {
        NodeSub::List(a) => return all(s, &NODE, &a).await,
        NodeSub::Show { name, watch } => return show(s, &NODE, &name, &watch, node_text).await,
        NodeSub::Join { seed } => {
            return s.change(Method::POST, "/v1/cluster/join", &json!({"seeds": seed})).await;
        }
        NodeSub::Remove { name } => {
            return s.change(Method::DELETE, &format!("{}/{}", NODE.path, encoded(&name)), &json!({})).await;
        }
        NodeSub::Drain { name, wait } => (name, "drain", wait),
        NodeSub::Undrain { name } => (name, "undrain", false),
        NodeSub::Maintenance { name } => (name, "maintenance", false),
        NodeSub::Activate { name } => (name, "activate", false),
    };
    s.change(Method::POST, &format!("{}/{}/{verb}", NODE.path, encoded(&name)), &json!({})).await?;
    if wait { s.job(&format!("node/{name}")).await } else { Ok(()) }
}

/// Runs one command about disks.
pub async fn disk(s: &mut Session, command: DiskCommand) -> Result<(), Failure> {
    let (id, verb, wait) = match command {
        DiskCommand::List(a) => return all(s, &DISK, &a).await,
        DiskCommand::Show { id, watch } => return show(s, &DISK, &id.to_string(), &watch, disk_text).await,
        DiskCommand::Add { path, node, size, media } => {
            let mut body = json!({"path": path});
            if let Some(size) = size {
                body["size_bytes"] = hf_policy::parse_size(&size).map_err(usage)?.into();
            }
            for (field, value) in [("node", node), ("media", media)] {
                if let Some(value) = value {
                    body[field] = value.into();
                }
            }
            return s.change(Method::POST, DISK.path, &body).await;
        }
        DiskCommand::Remove { id } => {
            return s.change(Method::DELETE, &format!("{}/{id}", DISK.path), &json!({})).await;
        }
        DiskCommand::Drain { id, cancel: true, .. } | DiskCommand::Undrain { id } => (id, "undrain", false),
        DiskCommand::Drain { id, wait, .. } => (id, "drain", wait),
        DiskCommand::Trust { id } => (id, "trust", false),
    };
    s.change(Method::POST, &format!("{}/{id}/{verb}", DISK.path), &json!({})).await?;
    if wait { s.job(&format!("disk/{id}")).await } else { Ok(()) }
}

async fn all(s: &mut Session, kind: &Kind, a: &ListArgs) -> Result<(), Failure> {
    match a.watch.watch {
        true => watch::list(s, kind, a).await,
        false => list::show(kind, &list::fetch(&s.client, kind, a).await?, &mut s.out),
    }
}

async fn show(
    s: &mut Session,
    kind: &Kind,
    name: &str,
    w: &WatchArgs,
    text: fn(&Value) -> String,
) -> Result<(), Failure> {
    let show = |v: &Value, out: &mut Out| list::one(kind, v, out, text);
    let path = format!("{}/{}", kind.path, encoded(name));
    if w.watch {
        let fetch = async |c: &Client| Ok(c.get(&path).await?.body);
        return watch::again(s, kind.noun, Some(name), fetch, show).await;
    }
    show(&s.client.get(&path).await?.body, &mut s.out)
}

/// Conditions and health codes, a line for each that says something.
fn judged(v: &Value) -> Vec<String> {
    let all = |field: &str| v[field].as_array().cloned().unwrap_or_default();
    let conditions = all("conditions").into_iter().map(|c| {
        let message = c["message"].as_str().filter(|m| !m.is_empty()).map_or(String::new(), |m| format!(": {m}"));
        format!("{:<12} {}{message}", word(c.get("type")), word(c.get("status")))
    });
    let health = all("health").into_iter();
    let health = health.map(|h| format!("{:<12} {}: {}", "health", word(h.get("code")), word(h.get("message"))));
    conditions.chain(health).collect()
}

fn field(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name:<12} {value}")
}

/// A node as text.
fn node_text(n: &Value) -> String {
    let mut lines = vec![
        field("node", format_args!("{} (#{})", word(n.get("name")), n["id"])),
        field("state", word(n.get("state"))),
        field("mode", word(n.get("mode"))),
        field("metadata", word(n.get("part"))),
        field("version", word(n.get("version"))),
        field("labels", pairs(&n["labels"])),
        field("addresses", pairs(&n["addresses"])),
        field("replicas", word(n.get("replicas"))),
        field("attached", format_args!("{} volumes", word(n.get("attached")))),
    ];
    if let Some(heard) = n["heard_seconds"].as_f64() {
        lines.push(field("heard", format_args!("{heard:.1} s ago")));
    }
    let disks: Vec<String> = n["disks"].as_array().into_iter().flatten().map(Value::to_string).collect();
    lines.push(field("disks", disks.join(",")));
    lines.extend(judged(n));
    lines.join("\n") + "\n"
}

/// A disk as text.
fn disk_text(d: &Value) -> String {
    let mut lines = vec![
        field("disk", format_args!("{} on {}", d["id"], word(d.get("node")))),
        field("path", word(d.get("path"))),
        field("media", word(d.get("media"))),
        field("uuid", word(d.get("uuid"))),
        field("state", word(d.get("state"))),
    ];
    for name in ["why", "fault", "since", "backend"] {
        if let Some(text) = d[name].as_str() {
            lines.push(field(name, text));
        }
    }
    if d["draining"] == true {
        lines.push(field("draining", if d["held"] == true { "yes, held" } else { "yes" }));
    }
    let bytes = [("capacity", "capacity_bytes"), ("used", "used_bytes"), ("provisioned", "provisioned_bytes")];
    lines.extend(bytes.map(|(name, key)| field(name, about(&d[key]))));
    let slots = &d["replica_slots"];
    lines.push(field("replicas", format_args!("{} of {}", word(slots.get("used")), word(slots.get("total")))));
    lines.extend(judged(d));
    lines.join("\n") + "\n"
}

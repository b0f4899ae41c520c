//! `holdfast volume …`: what is asked of the API, and a volume as text.

use super::args::{ForceArgs, ListArgs, VolumeCommand, WatchArgs};
use super::client::{Answer, Client};
use super::failure::{Failure, usage};
use super::http::{Method, encoded};
use super::kinds::{VOLUME, about, attached, pairs, size, state};
use super::out::Out;
use super::session::Session;
use super::table::word;
use super::{list, table, watch};
use hf_policy::attribute::Kind as Of;
use serde_json::{Value, json};

/// Runs one command about volumes.
pub async fn run(s: &mut Session, command: VolumeCommand) -> Result<(), Failure> {
    match command {
        VolumeCommand::List(a) => all(s, &a).await,
        VolumeCommand::Show { name, watch } => show(s, &name, &watch).await,
        VolumeCommand::Create { name, attrs } => create(s, &name, &attrs).await,
        VolumeCommand::Delete { name } => {
            let path = guarded(s, &name, "", false).await?;
            s.change(Method::DELETE, &path, &json!({})).await
        }
        VolumeCommand::Attach { name, node, force } => {
            let mut body = json!({});
            if let Some(node) = node {
                body["node"] = node.into();
            }
            if force {
                body["force"] = true.into();
            }
            let path = guarded(s, &name, "/attach", true).await?;
            let a = s.client.change(Method::POST, &path, &body).await?;
            waited(s, a, &name, |v| v["attachment"]["serving"] == true).await
        }
        VolumeCommand::Detach { name } => {
            let path = guarded(s, &name, "/detach", true).await?;
            let a = s.client.change(Method::POST, &path, &json!({})).await?;
            waited(s, a, &name, |v| v["attachment"].is_null()).await
        }
        VolumeCommand::Resize { name, size } => {
            hf_policy::parse_size(&size).map_err(usage)?;
            let path = guarded(s, &name, "/resize", true).await?;
            let a = s.client.change(Method::POST, &path, &json!({"size": size})).await?;
            waited(s, a, &name, |v| v["usable_bytes"] == v["size_bytes"]).await
        }
        VolumeCommand::Rename { name, to } => {
            valid_name(&to)?;
            let path = guarded(s, &name, "/rename", false).await?;
            s.change(Method::POST, &path, &json!({"name": to})).await
        }
        VolumeCommand::Set { name, attrs } => {
            let body = json!({"spec": spec(&attrs)?});
            let path = guarded(s, &name, "", true).await?;
            s.change(Method::PATCH, &path, &body).await
        }
        VolumeCommand::Scrub { name, wait } => {
            let path = guarded(s, &name, "/scrub", false).await?;
            s.change(Method::POST, &path, &json!({})).await?;
            if wait { s.job(&format!("scrub/{name}")).await } else { Ok(()) }
        }
        VolumeCommand::Move { name, replica, shard, wait } => {
            has_replica(&s.client, &name, replica, shard).await?;
            s.change(Method::POST, &format!("/v1/replicas/{replica}/move"), &json!({})).await?;
            if wait { s.job(&format!("replica/{replica}")).await } else { Ok(()) }
        }
        VolumeCommand::ForceInsync(f) => force(s, f).await,
    }
}

async fn all(s: &mut Session, a: &ListArgs) -> Result<(), Failure> {
    match a.watch.watch {
        true => watch::list(s, &VOLUME, a).await,
        false => list::show(&VOLUME, &list::fetch(&s.client, &VOLUME, a).await?, &mut s.out),
    }
}

async fn show(s: &mut Session, name: &str, w: &WatchArgs) -> Result<(), Failure> {
    let show = |v: &Value, out: &mut Out| list::one(&VOLUME, v, out, text);
    let path = at(name);
    if w.watch {
        let fetch = async |c: &Client| Ok(c.get(&path).await?.body);
        return watch::again(s, VOLUME.noun, Some(name), fetch, show).await;
    }
    show(&s.client.get(&path).await?.body, &mut s.out)
}

async fn create(s: &mut Session, name: &str, attrs: &[String]) -> Result<(), Failure> {
    let map = hf_policy::policy::parse_pairs(attrs.iter().map(String::as_str)).map_err(usage)?;
    // What can be refused without the cluster is refused here.
    hf_policy::Policy::from_attrs(&map).map_err(usage)?;
    valid_name(name)?;
    let path = format!("{}?{}", VOLUME.path, s.wait());
    let a = s.client.change(Method::POST, &path, &json!({"name": name, "spec": map})).await?;
    waited(s, a, name, |v| condition(v, "Ready")).await
}

async fn force(s: &mut Session, f: ForceArgs) -> Result<(), Failure> {
    has_replica(&s.client, &f.name, f.replica, f.shard).await?;
    let body = json!({"replica": f.replica, "operator": f.operator, "reason": f.reason, "confirm": f.confirm});
    let path = guarded(s, &f.name, "/force-insync", false).await?;
    s.change(Method::POST, &path, &body).await
}

/// Waits on, if there is time, and says what came of it.
async fn waited(s: &mut Session, a: Answer, name: &str, done: impl Fn(&Value) -> bool) -> Result<(), Failure> {
    let a = s.until(a, &at(name), "volume", done).await?;
    s.told(&a)
}

fn condition(v: &Value, kind: &str) -> bool {
    v["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "true")
}

fn valid_name(name: &str) -> Result<(), Failure> {
    hf_policy::policy::valid_name(name).map_err(|e| usage(format_args!("volume name \"{name}\": {e}")))
}

fn spec(attrs: &[String]) -> Result<Value, Failure> {
    Ok(json!(hf_policy::policy::parse_pairs(attrs.iter().map(String::as_str)).map_err(usage)?))
}

/// The path of a volume.
fn at(name: &str) -> String {
    format!("{}/{}", VOLUME.path, encoded(name))
}

/// The path of a change of a volume. It holds only as long as the name means the volume that it means now: a
/// repeat that comes late does not meet a younger volume of the same name.
async fn guarded(s: &Session, name: &str, verb: &str, waits: bool) -> Result<String, Failure> {
    let v = s.client.get(&at(name)).await?.body;
    let wait = if waits { format!("&{}", s.wait()) } else { String::new() };
    Ok(format!("{}{verb}?id={}{wait}", at(name), v["id"]))
}

/// Fails unless the volume has the replica.
async fn has_replica(c: &Client, name: &str, replica: u64, shard: Option<u32>) -> Result<(), Failure> {
    let v = c.get(&at(name)).await?.body;
    let known = |r: &&Value| r["id"] == replica && shard.is_none_or(|s| r["shard"] == s);
    if v["replicas"].as_array().into_iter().flatten().any(|r| known(&r)) {
        return Ok(());
    }
    let of = shard.map_or(String::new(), |s| format!(" in shard {s}"));
    let what = format!("volume {name} has no replica {replica}{of}; holdfast volume show {name} lists them");
    Err(Failure::own(3, "not_found", what))
}

/// A value of a policy as a person would write it.
pub fn attribute(key: &str, v: &Value) -> String {
    match (hf_policy::table::find(key).map(|a| a.kind), v.as_f64()) {
        (Some(Of::Bytes), Some(_)) => size(v),
        (Some(Of::Seconds), Some(seconds)) => hf_policy::format_duration_us((seconds * 1e6).round() as u64),
        (Some(Of::Percent), Some(_)) => format!("{v}%"),
        _ => word(Some(v)),
    }
}

fn policy(spec: &Value) -> String {
    let all = spec.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", attribute(k, v)));
    all.collect::<Vec<_>>().join(" ")
}

/// A volume as text: its state, policy and replicas.
fn text(v: &Value) -> String {
    let mut lines = vec![
        format!("volume    {} (#{})", word(v.get("name")), v["id"]),
        format!("size      {}, {} used", size(&v["size_bytes"]), about(&v["used_bytes"])),
        format!("state     {}", state(v)),
    ];
    if let Some(why) = v["why"].as_str() {
        lines.push(format!("why       {why}"));
    }
    let a = &v["attachment"];
    let term = if a.is_null() { String::new() } else { format!("term {}, ", a["term"]) };
    lines.push(format!("attached  {}  ({term}epoch {})", attached(v), v["epoch"]));
    if let Some(why) = a["waits_for"].as_str() {
        lines.push(format!("waits for {why}"));
    }
    if let Some(n) = a["clients"].as_u64() {
        lines.push(format!("clients   {n}"));
    }
    lines.push(format!("policy    {}", policy(&v["spec"])));
    if v["labels"].as_object().is_some_and(|l| !l.is_empty()) {
        lines.push(format!("labels    {}", pairs(&v["labels"])));
    }
    lines.extend(a["uris"].as_array().into_iter().flatten().map(|u| format!("uri       {}", word(Some(u)))));
    if let Some(x) = v["scrubbed"].as_object() {
        let n = |k: &str| x.get(k).and_then(Value::as_u64).unwrap_or(0);
        lines.push(format!(
            "scrubbed  {} chunks; {} bad blocks, {} repaired, {} lost, {} diverged",
            n("chunks"),
            n("bad"),
            n("repaired"),
            n("lost"),
            n("diverged")
        ));
    }
    let health = v["health"].as_array().into_iter().flatten();
    lines.extend(health.map(|h| format!("health    {}: {}", word(h.get("code")), word(h.get("message")))));
    lines.push(String::new());
    let rows: Vec<Vec<String>> = v["replicas"].as_array().into_iter().flatten().map(replica).collect();
    lines.extend(table::lines(&["REPLICA", "SHARD", "NODE", "DISK", "STATE", "USED", "WHY"], &rows));
    lines.join("\n") + "\n"
}

fn replica(r: &Value) -> Vec<String> {
    let mut state = word(r.get("state"));
    if r["moving"] == true {
        state += ", moving";
    }
    if r["held"] == true {
        state += ", held";
    }
    if let (Some(done), Some(total)) = (r["sync"]["done_bytes"].as_u64(), r["sync"]["total_bytes"].as_u64()) {
        state += &format!(", {} of {}", hf_policy::format_size(done), hf_policy::format_size(total));
    }
    let why = r["why"].as_str().unwrap_or_default().to_string();
    let [id, shard, node, disk] = ["id", "shard", "node", "disk"].map(|k| word(r.get(k)));
    vec![id, shard, node, disk, state, about(&r["used_bytes"]), why]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_shown_as_they_are_written() {
        for (key, v, text) in [
            ("size", json!(268_435_456u64), "256MiB"),
            ("size", json!("256MiB"), "256MiB"),
            ("replicas", json!(3), "3"),
            ("sticky", json!(true), "true"),
            ("label.app", json!("web"), "web"),
        ] {
            assert_eq!(attribute(key, &v), text);
        }
        let seconds = hf_policy::TABLE.iter().find(|a| a.kind == Of::Seconds).map(|a| a.key).unwrap_or_default();
        assert_eq!((attribute(seconds, &json!(600)), attribute(seconds, &json!(0.2))), ("10m".into(), "200ms".into()));
    }
}

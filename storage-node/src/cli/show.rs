//! Printing results: tables for people, JSON for programs.

use super::failure::Failure;
use super::out::Out;
use super::table;
use hf_meta_proto::pb::TextReply;
use hf_policy::format_size;
use serde_json::Value;

pub fn text(r: TextReply, out: &mut Out) -> Result<(), Failure> {
    match out.format.is_text() {
        true => out.line(&r.text)?,
        false => out.line(&r.json)?,
    }
    if r.not_yet.is_empty() {
        return Ok(());
    }
    Err(Failure::own(super::failure::NOT_YET, "not_in_force", format!("recorded, not in force yet: {}", r.not_yet)))
}

pub(super) fn objects<'a>(s: &'a Value, key: &str) -> Vec<&'a Value> {
    let mut list: Vec<&Value> = s[key].as_object().map(|o| o.values().collect()).unwrap_or_default();
    list.sort_by_key(|v| v["id"].as_u64());
    list
}

pub(super) fn word(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Null => "–".into(),
        other => other.to_string(),
    }
}

pub(super) fn node_name(s: &Value, id: &Value) -> String {
    s["nodes"][id.to_string()]["name"].as_str().map_or_else(|| format!("#{id}"), String::from)
}

pub(super) fn is_up(s: &Value, id: &Value) -> bool {
    s["up"].as_array().is_some_and(|u| u.contains(id))
}

fn in_list(s: &Value, key: &str, id: &Value) -> bool {
    s[key].as_array().is_some_and(|u| u.contains(id))
}

pub fn nodes(s: &Value, out: &mut Out) -> Result<(), Failure> {
    if !out.format.is_text() {
        let list: Vec<Value> = objects(s, "nodes")
            .into_iter()
            .map(|n| {
                let mut n = n.clone();
                n["up"] = is_up(s, &n["id"]).into();
                n["voter"] = in_list(s, "voters", &n["id"]).into();
                n["leader"] = (s["leader"] == n["id"]).into();
                n
            })
            .collect();
        return out.value(&Value::Array(list));
    }
    let row = |n: &Value| {
        let role = match () {
            () if s["leader"] == n["id"] => "leader",
            () if in_list(s, "voters", &n["id"]) => "voter",
            () if in_list(s, "learners", &n["id"]) => "learner",
            () => "follower",
        };
        let mut up = if is_up(s, &n["id"]) { "up" } else { "down" }.to_string();
        if n["mode"] != "active" {
            up += &format!(", {}", word(&n["mode"]));
        }
        vec![word(&n["id"]), word(&n["name"]), up, role.into(), word(&n["addr"]["api"]), word(&n["addr"]["nbd"])]
    };
    table::print(out, &["ID", "NAME", "STATE", "METADATA", "API", "NBD"], &objects(s, "nodes").into_iter().map(row).collect::<Vec<_>>())
}

pub fn disks(s: &Value, out: &mut Out) -> Result<(), Failure> {
    if !out.format.is_text() {
        let list: Vec<Value> = objects(s, "disks")
            .into_iter()
            .map(|d| {
                let mut d = d.clone();
                for key in ["used", "replicas", "entries"] {
                    d[key] = s[key][d["id"].to_string()].clone();
                }
                d
            })
            .collect();
        return out.value(&Value::Array(list));
    }
    let row = |d: &Value| {
        let used = s["used"][d["id"].to_string()].as_u64();
        // Replicas on the disk, and how many its table can hold.
        let (placed, most) = (&s["replicas"][d["id"].to_string()], &s["entries"][d["id"].to_string()]);
        let placed = placed.as_u64().map_or("–".into(), |n| match most.as_u64() {
            Some(most) => format!("{n} of {most}"),
            None => n.to_string(),
        });
        let state = match &d["state"] {
            Value::String(s) => s.clone(),
            other if other["failing"].is_string() => format!("failing: {}", word(&other["failing"])),
            other => format!("failed: {}", word(&other["failed"])),
        };
        let state = if d["draining"] == true { format!("{state}, draining") } else { state };
        vec![
            word(&d["id"]),
            node_name(s, &d["node"]),
            word(&d["path"]),
            word(&d["media"]),
            format_size(d["capacity"].as_u64().unwrap_or(0)),
            used.map_or("–".into(), format_size),
            placed,
            state,
        ]
    };
    table::print(out, &["ID", "NODE", "PATH", "MEDIA", "CAPACITY", "USED", "REPLICAS", "STATE"], &objects(s, "disks").into_iter().map(row).collect::<Vec<_>>())
}

fn replicas(v: &Value) -> Vec<&Value> {
    let shards = v["shards"].as_array().map(|a| a.iter().collect::<Vec<_>>()).unwrap_or_default();
    shards
        .into_iter()
        .flat_map(|s| s["replicas"].as_object().map(|o| o.values().collect::<Vec<_>>()).unwrap_or_default())
        .collect()
}

/// A volume's state in one word, or a few.
fn health(s: &Value, v: &Value) -> String {
    let all = replicas(v);
    let in_sync = all.iter().filter(|r| r["state"] == "in_sync").count();
    if all.iter().any(|r| r["state"] == "in_sync" && r["store_uuid"].is_null()) {
        return match v["term"].as_u64() {
            Some(0) => "creating".into(),
            // The part with replicas is served; new shards still wait for theirs.
            _ => "growing".into(),
        };
    }
    let down = all.iter().filter(|r| r["state"] == "in_sync" && !is_up(s, &r["node"])).count();
    match () {
        () if in_sync < all.len() => format!("degraded {in_sync}/{}", all.len()),
        () if down > 0 => format!("{down} replica node(s) down"),
        () => "ok".into(),
    }
}

fn attached(s: &Value, v: &Value) -> String {
    match &v["coordinator"] {
        Value::Null => "–".into(),
        a if a["home"].is_number() => {
            format!("{}, away; {} looks after its replicas", node_name(s, &a["home"]), node_name(s, &a["node"]))
        }
        a if a["maintenance"] == true => format!("–; {} looks after its replicas", node_name(s, &a["node"])),
        a => node_name(s, &a["node"]),
    }
}

pub fn volumes(s: &Value, out: &mut Out) -> Result<(), Failure> {
    if !out.format.is_text() {
        return out.value(&Value::Array(objects(s, "volumes").into_iter().cloned().collect()));
    }
    let row = |v: &Value| {
        let nodes: Vec<String> = replicas(v).iter().map(|r| node_name(s, &r["node"])).collect();
        vec![
            word(&v["name"]),
            format_size(v["size"].as_u64().unwrap_or(0)),
            health(s, v),
            attached(s, v),
            nodes.join(","),
        ]
    };
    table::print(out, &["NAME", "SIZE", "STATE", "ATTACHED", "REPLICAS"], &objects(s, "volumes").into_iter().map(row).collect::<Vec<_>>())
}

pub fn volume(s: &Value, name: &str, out: &mut Out) -> Result<(), Failure> {
    let Some(v) = objects(s, "volumes").into_iter().find(|v| v["name"] == name) else {
        return Err(Failure::own(3, "not_found", format!("no volume {name}")));
    };
    if !out.format.is_text() {
        return out.value(v);
    }
    out.line(format!("volume    {name} (#{})", v["id"]))?;
    out.line(format!("size      {}", format_size(v["size"].as_u64().unwrap_or(0))))?;
    out.line(format!("state     {}", health(s, v)))?;
    out.line(format!("attached  {}  (term {}, epoch {})", attached(s, v), v["term"], v["epoch"]))?;
    if let Some(a) = v["attrs"].as_object() {
        let words: Vec<String> = a.iter().map(|(k, x)| format!("{k}={}", word(x))).collect();
        out.line(format!("policy    {}", words.join(" ")))?;
    }
    if let Some(a) = v["coordinator"].as_object().filter(|a| a["maintenance"] != true) {
        out.line(format!("uri       nbd://{}/{name}", word(&s["nodes"][a["node"].to_string()]["addr"]["nbd"])))?;
    }
    if let Some(x) = v["scrubbed"].as_object() {
        let n = |k: &str| x["report"][k].as_u64().unwrap_or(0);
        out.line(format!(
            "scrubbed  {} chunks; {} bad blocks, {} repaired, {} lost, {} diverged",
            n("chunks"),
            n("bad") + n("behind"),
            n("repaired"),
            n("lost"),
            n("diverged")
        ))?;
    }
    out.line("")?;
    let row = |r: &Value| {
        let state = match &r["state"] {
            Value::String(w) => w.clone(),
            Value::Object(o) => o.keys().next().cloned().unwrap_or_default(),
            _ => String::new(),
        };
        let up = if is_up(s, &r["node"]) { "up" } else { "down" };
        vec![word(&r["rid"]), node_name(s, &r["node"]), word(&r["disk"]), state, up.into()]
    };
    table::print(out, &["REPLICA", "NODE", "DISK", "STATE", "NODE STATE"], &replicas(v).into_iter().map(row).collect::<Vec<_>>())
}

pub fn cluster(s: &Value, out: &mut Out) -> Result<(), Failure> {
    if !out.format.is_text() {
        return out.value(s);
    }
    let count = |k: &str| s[k].as_object().map_or(0, |m| m.len());
    let up = s["up"].as_array().map_or(0, Vec::len);
    out.line(format!("cluster   {} ({})", word(&s["name"]), word(&s["cluster"])))?;
    let leader = if s["leader"].is_null() {
        "none: no change is possible; attached volumes go on".into()
    } else {
        node_name(s, &s["leader"])
    };
    out.line(format!("leader    {leader}"))?;
    let changing = if s["voters_changing"] == true { " (changing: do not stop nodes now)" } else { "" };
    out.line(format!("voters    {}{changing}", s["voters"].as_array().map_or(0, Vec::len)))?;
    out.line(format!("nodes     {} ({up} up)", count("nodes")))?;
    out.line(format!("disks     {}", count("disks")))?;
    let bad = objects(s, "volumes").into_iter().filter(|v| health(s, v) != "ok").count();
    out.line(format!("volumes   {} ({bad} not ok)", count("volumes")))?;
    Ok(())
}

pub fn attributes(out: &mut Out) -> Result<(), Failure> {
    if out.format.is_text() {
        out.print(format!("{}", hf_policy::table::reference()))?;
        return Ok(());
    }
    let row = |a: &hf_policy::Attribute| serde_json::json!({"key": a.key, "values": a.values, "default": a.default.shown(), "online": a.online.text(), "since": a.since, "help": a.help});
    out.value(&hf_policy::TABLE.iter().map(row).collect())
}

pub fn event(raw: &str, out: &mut Out) -> Result<(), Failure> {
    let parsed: Option<Value> = serde_json::from_str(raw).ok();
    match (out.format.is_text(), parsed) {
        (true, Some(e)) => out.line(format!("{:>6}  {:<18} {}", e["rev"], word(&e["kind"]), word(&e["text"])))?,
        _ => out.line(raw)?,
    }
    out.flush()
}

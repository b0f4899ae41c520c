//! `holdfast cluster …`, `status`, `health` and `event …`: the cluster as a whole.

use super::args::{
    ClusterCommand, EventArgs, EventCommand, EventList, HealthArgs, HealthCommand, UpgradeCommand, WatchArgs,
};
use super::client::Client;
use super::failure::{Failure, usage};
use super::http::{Method, encoded};
use super::kinds::about;
use super::out::{Format, Out};
use super::session::{Session, time};
use super::table::word;
use super::{table, watch};
use serde_json::{Value, json};
use std::fmt::Display;

/// Runs one command about the cluster.
pub async fn run(s: &mut Session, command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Init { name } => s.change(Method::POST, "/v1/cluster/init", &json!({"name": name})).await,
        ClusterCommand::Status(w) => {
            let fetch = async |c: &Client| Ok(c.get("/v1/cluster").await?.body);
            screen(s, &w, "cluster", fetch, |v, out| shown(v, out, "cluster", cluster)).await
        }
        ClusterCommand::Rebalance { wait } => {
            s.change(Method::POST, "/v1/cluster/rebalance", &json!({})).await?;
            if wait { s.job("rebalance").await } else { Ok(()) }
        }
        ClusterCommand::Voters { count } => s.change(Method::PUT, "/v1/cluster/voters", &json!({"count": count})).await,
        ClusterCommand::Upgrade(UpgradeCommand::Finalize) => {
            s.change(Method::POST, "/v1/cluster/finalize", &json!({})).await
        }
    }
}

/// Shows on one screen what is wrong and what is there.
pub async fn status(s: &mut Session, w: &WatchArgs) -> Result<(), Failure> {
    let fetch = async |c: &Client| {
        let cluster = c.get("/v1/cluster").await?.body;
        let health = c.get("/v1/health").await?.body;
        Ok(json!({"revision": cluster["revision"], "cluster": cluster, "health": health}))
    };
    let text = |v: &Value| {
        let mut lines = codes(&v["health"]);
        lines.push(String::new());
        lines.extend(cluster(&v["cluster"]));
        lines
    };
    screen(s, w, "cluster,health", fetch, |v, out| shown(v, out, "status", text)).await
}

/// Shows health, or silences a code.
pub async fn health(s: &mut Session, a: HealthArgs) -> Result<(), Failure> {
    match a.command {
        Some(HealthCommand::Mute { code, time: span, reason, subject, sticky }) => {
            let seconds = time(&span)?.as_secs();
            if seconds == 0 {
                return Err(usage(format_args!("--for {span}: a silence lasts at least 1s")));
            }
            let mut body = json!({"code": code, "for_seconds": seconds, "reason": reason});
            if let Some(subject) = subject {
                body["subject"] = subject.into();
            }
            if sticky {
                body["sticky"] = true.into();
            }
            s.change(Method::POST, "/v1/health/mutes", &body).await
        }
        Some(HealthCommand::Unmute { code, subject }) => {
            let subject = subject.map_or(String::new(), |x| format!("?subject={}", encoded(&x)));
            s.change(Method::DELETE, &format!("/v1/health/mutes/{}{subject}", encoded(&code)), &json!({})).await
        }
        command => {
            let w = if let Some(HealthCommand::List(w)) = command { w } else { a.watch };
            let fetch = async |c: &Client| Ok(c.get("/v1/health").await?.body);
            screen(s, &w, "health", fetch, |v, out| shown(v, out, "health", explained)).await
        }
    }
}

async fn screen(
    s: &mut Session,
    w: &WatchArgs,
    kinds: &str,
    fetch: impl AsyncFn(&Client) -> Result<Value, Failure>,
    show: impl Fn(&Value, &mut Out) -> Result<(), Failure>,
) -> Result<(), Failure> {
    match w.watch {
        true => watch::again(s, kinds, None, fetch, show).await,
        false => show(&fetch(&s.client).await?, &mut s.out),
    }
}

fn shown(v: &Value, out: &mut Out, noun: &str, text: impl Fn(&Value) -> Vec<String>) -> Result<(), Failure> {
    match out.format {
        Format::Json | Format::Yaml => out.value(v),
        Format::Name if noun == "health" => {
            items(v, "items").try_for_each(|h| out.line(format_args!("health/{}", word(h.get("code")))))
        }
        Format::Name => {
            let c = if noun == "status" { &v["cluster"] } else { v };
            out.line(format_args!("cluster/{}", word(c.get("name"))))
        }
        Format::Text | Format::Wide => text(v).iter().try_for_each(|l| out.line(l)),
    }
}

fn items<'a>(v: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    v[field].as_array().into_iter().flatten()
}

fn line(name: &str, value: impl Display) -> String {
    format!("{name:<10}{value}")
}

/// What is wrong, a line for each code; silenced ones are only counted.
fn codes(h: &Value) -> Vec<String> {
    let loud: Vec<&Value> = items(h, "items").filter(|i| i["muted"] != true).collect();
    let muted = items(h, "items").count() - loud.len();
    let more = h["total"].as_u64().unwrap_or(0).saturating_sub((loud.len() + muted) as u64);
    let mut lines = vec![line("health", word(h.get("state")))];
    let rows: Vec<Vec<String>> =
        loud.iter().map(|i| ["severity", "code", "subject", "message"].map(|k| word(i.get(k))).to_vec()).collect();
    if !rows.is_empty() {
        lines.extend(table::lines(&["SEVERITY", "CODE", "SUBJECT", "MESSAGE"], &rows));
    }
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    if muted > 0 {
        lines.push(format!("{muted} silenced (holdfast health shows them)"));
    }
    lines
}

/// What is wrong, with its meaning and what to do; then what is silenced.
fn explained(h: &Value) -> Vec<String> {
    let mut lines = vec![line("health", word(h.get("state")))];
    for i in items(h, "items") {
        let since = i["since"].as_str().map_or(String::new(), |t| format!(", since {t}"));
        let muted = if i["muted"] == true { ", silenced" } else { "" };
        lines.push(String::new());
        lines.push(format!(
            "{} {} ({}{since}{muted})",
            word(i.get("code")),
            word(i.get("subject")),
            word(i.get("severity"))
        ));
        for (name, key) in [("what", "message"), ("means", "means"), ("do", "action")] {
            lines.push(format!("  {name:<6} {}", word(i.get(key))));
        }
    }
    if items(h, "mutes").next().is_some() {
        let row = |m: &Value| ["code", "subject", "until", "by", "reason"].map(|k| word(m.get(k))).to_vec();
        lines.push(String::new());
        let rows: Vec<Vec<String>> = items(h, "mutes").map(row).collect();
        lines.extend(table::lines(&["SILENCED", "SUBJECT", "UNTIL", "BY", "REASON"], &rows));
    }
    lines
}

/// Numbers by state, such as `3 (2 up, 1 down)`.
fn counts(v: &Value) -> String {
    let of = |n: &Value| n.as_u64().unwrap_or(0);
    let all: Vec<(&String, u64)> = v.as_object().into_iter().flatten().map(|(k, n)| (k, of(n))).collect();
    let states: Vec<String> =
        all.iter().filter(|(_, n)| *n > 0).map(|(k, n)| format!("{n} {}", k.replace('_', " "))).collect();
    let sum: u64 = all.iter().map(|(_, n)| n).sum();
    if states.is_empty() { sum.to_string() } else { format!("{sum} ({})", states.join(", ")) }
}

/// The cluster as text.
fn cluster(c: &Value) -> Vec<String> {
    let leader = c["leader"].as_str().unwrap_or("none: no change is possible; attached volumes go on");
    let voters: Vec<String> = items(c, "voters").map(|v| word(Some(v))).collect();
    let changing = if c["voters_changing"] == true { " (changing: do not stop nodes now)" } else { "" };
    let mut lines = vec![
        line("cluster", format_args!("{} ({})", word(c.get("name")), word(c.get("id")))),
        line("leader", leader),
        line("voters", format_args!("{} of {}: {}{changing}", voters.len(), c["voters_wanted"], voters.join(","))),
        line("nodes", counts(&c["nodes"])),
        line("disks", counts(&c["disks"])),
        line("volumes", counts(&c["volumes"])),
    ];
    let k = &c["capacity"];
    lines.push(line(
        "capacity",
        format_args!(
            "{} used of {}; volumes may grow to {} ({:.2} of it)",
            about(&k["used_bytes"]),
            about(&k["raw_bytes"]),
            about(&k["provisioned_bytes"]),
            k["over_commit"].as_f64().unwrap_or(0.0)
        ),
    ));
    if let (Some(spare), Some(node)) = (k["spare_bytes"].as_i64(), k["largest_node"].as_str()) {
        let bytes = hf_policy::format_size(spare.unsigned_abs());
        lines.push(line(
            "spare",
            match spare < 0 {
                true => format!("if {node} were lost, {bytes} could not be rebuilt: add disks elsewhere"),
                false => format!("if {node} were lost, all could be rebuilt, and {bytes} would be left"),
            },
        ));
    }
    if c["rebuild_paused"] == true {
        lines.push(line("paused", "no replica is made or moved (holdfast job resume)"));
    }
    lines
}

/// Events that one page brings.
const PAGE: usize = 1_000;
/// Events that one command shows, at most.
const MOST: usize = 100_000;

/// Shows events; with `--follow` also those that come.
pub async fn events(s: &mut Session, a: EventArgs) -> Result<(), Failure> {
    let EventList { follow, subject, kind, limit } = match a.command {
        Some(EventCommand::List(l)) => l,
        None => a.list,
    };
    let filter: String = [("subject", &subject), ("kind", &kind)]
        .iter()
        .filter_map(|(k, v)| Some(format!("&{k}={}", encoded(v.as_ref()?))))
        .collect();
    let (mut all, mut after) = (Vec::new(), 0);
    let mut page = loop {
        let mut page = s.client.get(&format!("/v1/events?after={after}&limit={PAGE}{filter}")).await?.body;
        if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
            all.extend(more);
        }
        let next = page["next"].as_str().and_then(|n| n.parse().ok()).or(page["next"].as_u64());
        match next.filter(|n| *n > after && all.len() < MOST) {
            Some(next) => after = next,
            None => break page,
        }
    };
    let newest = all.last().and_then(|e| e["revision"].as_u64()).unwrap_or(0);
    let revision = page["revision"].as_u64().unwrap_or(0).max(newest);
    let first = all.len() - limit.unwrap_or(MOST).min(all.len());
    all.drain(..first);
    if !follow && matches!(s.out.format, Format::Json | Format::Yaml) {
        page["items"] = Value::Array(all);
        return s.out.value(&page);
    }
    all.iter().try_for_each(|e| event(e, &mut s.out))?;
    if !follow {
        return Ok(());
    }
    s.out.flush()?;
    let wanted = |e: &Value| {
        // (What the list has shown is not shown again.)
        if e["revision"].as_u64().is_some_and(|r| r <= newest) {
            return false;
        }
        let is = |field: &str, want: &Option<String>| want.as_ref().is_none_or(|w| e[field] == **w);
        is("subject", &subject) && is("kind", &kind)
    };
    let out = &mut s.out;
    watch::events(&s.client, revision, |e| if wanted(e) { event(e, out).and_then(|()| out.flush()) } else { Ok(()) })
        .await
}

fn event(e: &Value, out: &mut Out) -> Result<(), Failure> {
    let [at, kind, subject, message] = ["at", "kind", "subject", "message"].map(|k| word(e.get(k)));
    match out.format {
        Format::Json | Format::Yaml => out.one_of_many(e),
        Format::Name => out.line(format_args!("event/{}", e["revision"])),
        Format::Text => out.line(format_args!("{:>6}  {at}  {kind:<18} {message}", e["revision"])),
        Format::Wide => {
            let severity = word(e.get("severity"));
            out.line(format_args!("{:>6}  {at}  {severity:<7}  {kind:<18} {subject:<12} {message}", e["revision"]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_said_with_their_states() {
        assert_eq!(counts(&json!({"up": 2, "down": 1, "unknown": 0})), "3 (1 down, 2 up)");
        assert_eq!(counts(&json!({})), "0");
    }

    #[test]
    fn what_is_wrong_comes_first_and_what_is_silenced_is_counted() {
        let h = json!({"state": "error", "total": 4, "items": [
            {"severity": "error", "code": "NODE_DOWN", "subject": "node/n2", "message": "not heard for 9 s", "muted": false},
            {"severity": "warning", "code": "INSECURE", "subject": "cluster", "message": "m", "muted": true},
        ]});
        let said = codes(&h);
        assert_eq!(said[0], "health    error");
        assert_eq!(said[2], "error     NODE_DOWN  node/n2  not heard for 9 s");
        assert_eq!(said[3..], ["and 2 more".to_string(), "1 silenced (holdfast health shows them)".into()]);
    }

    #[test]
    fn spare_space_is_said_either_way() {
        let of = |spare: i64| cluster(&json!({"capacity": {"spare_bytes": spare, "largest_node": "n1"}})).join("\n");
        assert!(of(-(5 << 30)).contains("if n1 were lost, 5GiB could not be rebuilt"));
        assert!(of(1 << 30).contains("if n1 were lost, all could be rebuilt, and 1GiB would be left"));
    }
}

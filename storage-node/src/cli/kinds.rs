//! The kinds of resources as lists show them: where they are in the API, what names one, and their columns.

use super::failure::{Failure, usage};
use super::http::encoded;
use super::progress::span;
use super::table::word;
use hf_policy::format_size;
use serde_json::Value;
use std::cmp::Ordering;

/// One column of a list.
pub struct Column {
    /// The head of the column.
    head: &'static str,
    /// The column is shown in the wide format only.
    wide: bool,
    /// What stands in the column of a resource.
    cell: fn(&Value) -> String,
}

/// A kind of resource.
pub struct Kind {
    /// The noun, as commands and the watch stream say it.
    pub noun: &'static str,
    /// The path of the list.
    pub path: &'static str,
    /// The field that names a resource.
    pub key: &'static str,
    /// Says that resources of this kind have labels.
    pub labels: bool,
    columns: &'static [Column],
}

const fn col(head: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { head, wide: false, cell }
}

const fn wide(head: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { head, wide: true, cell }
}

/// Volumes, by their names.
pub const VOLUME: Kind = Kind {
    noun: "volume",
    path: "/v1/volumes",
    key: "name",
    labels: true,
    columns: &[
        col("NAME", |v| word(v.get("name"))),
        col("SIZE", |v| size(&v["size_bytes"])),
        col("USED", |v| about(&v["used_bytes"])),
        col("STATE", state),
        col("ATTACHED", attached),
        col("REPLICAS", |v| list(&v["replicas"], "node")),
        wide("COPIES", |v| format!("{} of {}", word(v.get("copies_ok")), word(v.get("copies_wanted")))),
        wide("ID", |v| word(v.get("id"))),
        wide("EPOCH", |v| word(v.get("epoch"))),
        wide("CREATED", |v| word(v.get("created_at"))),
        wide("LABELS", |v| pairs(&v["labels"])),
        wide("WHY", |v| word(v.get("why"))),
    ],
};

/// Nodes, by their names.
pub const NODE: Kind = Kind {
    noun: "node",
    path: "/v1/nodes",
    key: "name",
    labels: true,
    columns: &[
        col("ID", |n| word(n.get("id"))),
        col("NAME", |n| word(n.get("name"))),
        col("STATE", |n| match n["mode"].as_str() {
            None | Some("active") => word(n.get("state")),
            Some(mode) => format!("{}, {mode}", word(n.get("state"))),
        }),
        col("METADATA", |n| word(n.get("part"))),
        col("API", |n| word(n["addresses"].get("api"))),
        col("NBD", |n| word(n["addresses"].get("nbd"))),
        col("REPLICAS", |n| word(n.get("replicas"))),
        col("ATTACHED", |n| word(n.get("attached"))),
        wide("VERSION", |n| word(n.get("version"))),
        wide("DISKS", |n| list(&n["disks"], "")),
        wide("LABELS", |n| pairs(&n["labels"])),
        wide("HEALTH", |n| list(&n["health"], "code")),
    ],
};

/// Disks, by their numbers.
pub const DISK: Kind = Kind {
    noun: "disk",
    path: "/v1/disks",
    key: "id",
    labels: false,
    columns: &[
        col("ID", |d| word(d.get("id"))),
        col("NODE", |d| word(d.get("node"))),
        col("PATH", |d| word(d.get("path"))),
        col("MEDIA", |d| word(d.get("media"))),
        col("CAPACITY", |d| about(&d["capacity_bytes"])),
        col("USED", |d| about(&d["used_bytes"])),
        col("REPLICAS", slots),
        col("STATE", |d| {
            let why = d["why"].as_str().map_or(String::new(), |w| format!(": {w}"));
            let draining = if d["draining"] == true { ", draining" } else { "" };
            word(d.get("state")) + &why + draining
        }),
        wide("PROVISIONED", |d| about(&d["provisioned_bytes"])),
        wide("BACKEND", |d| word(d.get("backend"))),
        wide("UUID", |d| word(d.get("uuid"))),
        wide("SINCE", |d| word(d.get("since"))),
    ],
};

/// Jobs, by their names.
pub const JOB: Kind = Kind {
    noun: "job",
    path: "/v1/jobs",
    key: "id",
    labels: false,
    columns: &[
        col("JOB", |j| word(j.get("id"))),
        col("ABOUT", |j| word(j.get("subject"))),
        col("NODE", |j| word(j.get("node"))),
        col("STATE", |j| word(j.get("state"))),
        col("WHAT", |j| match j["why_waiting"].as_str() {
            Some(why) => format!("{}: {why}", word(j.get("message"))),
            None => word(j.get("message")),
        }),
        col("PROGRESS", job_progress),
        col("LEFT", |j| j["eta_seconds"].as_u64().map_or("–".into(), |s| format!("at most {}", span(s)))),
        wide("COPIED", |j| about(&j["copied_bytes"])),
        wide("SPEED", |j| j["bytes_per_second"].as_u64().map_or("–".into(), |r| format!("{}/s", format_size(r)))),
        wide("BECAUSE", |j| word(j.get("because"))),
    ],
};

impl Kind {
    /// The name of a resource among those of its kind.
    pub fn name(&self, v: &Value) -> String {
        word(v.get(self.key))
    }

    /// Noun and name, such as volume/web.
    pub fn full_name(&self, v: &Value) -> String {
        format!("{}/{}", self.noun, self.name(v))
    }

    /// The heads of the columns.
    pub fn heads(&self, wide: bool) -> Vec<&'static str> {
        self.columns.iter().filter(|c| wide || !c.wide).map(|c| c.head).collect()
    }

    /// A resource as a row.
    pub fn row(&self, v: &Value, wide: bool) -> Vec<String> {
        self.columns.iter().filter(|c| wide || !c.wide).map(|c| (c.cell)(v)).collect()
    }

    /// Sorts resources by a field of their JSON, such as `size_bytes` or `attachment.node`, or by a column; a
    /// `-` before it sorts downwards. What lacks the field comes last.
    pub fn sort(&self, items: &mut [Value], by: &str) -> Result<(), Failure> {
        let (down, by) = by.strip_prefix('-').map_or((false, by), |by| (true, by));
        let column = self.columns.iter().find(|c| c.head.eq_ignore_ascii_case(by));
        let pointer = format!("/{}", by.replace('.', "/"));
        let known = items.is_empty() || items.iter().any(|v| v.pointer(&pointer).is_some());
        if !known && column.is_none() {
            let heads = self.heads(true).join(", ").to_lowercase();
            return Err(usage(format_args!("--sort {by}: no {} has this field; columns are {heads}", self.noun)));
        }
        // A column of sizes sorts by the bytes behind it.
        let bytes = ["_bytes", "_seconds"].map(|end| format!("/{}{end}", by.to_lowercase()));
        let field = |v: &Value| {
            let found = std::iter::once(&pointer).chain(&bytes).find_map(|p| v.pointer(p)).cloned();
            found.or_else(|| column.map(|c| Value::from((c.cell)(v)))).filter(|f| !f.is_null())
        };
        items.sort_by(|a, b| {
            let (a, b) = (field(a), field(b));
            match (&a, &b) {
                (Some(x), Some(y)) if down => order(y, x),
                (Some(x), Some(y)) => order(x, y),
                _ => b.is_some().cmp(&a.is_some()),
            }
        });
        Ok(())
    }
}

fn order(a: &Value, b: &Value) -> Ordering {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => word(Some(a)).cmp(&word(Some(b))),
    }
}

/// The path of a job by its name. `rebalance` alone means that of the cluster.
pub fn job_path(id: &str) -> Result<String, Failure> {
    const KINDS: [&str; 5] = ["node", "disk", "replica", "scrub", "rebalance"];
    let (kind, of) = id.split_once('/').unwrap_or((id, if id == "rebalance" { "cluster" } else { "" }));
    if !KINDS.contains(&kind) || of.is_empty() {
        return Err(usage(format_args!(
            "{id} names no job; holdfast job list shows what goes on: node/NAME, disk/ID, replica/ID, scrub/VOLUME, rebalance"
        )));
    }
    Ok(format!("{}/{kind}/{}", JOB.path, encoded(of)))
}

/// A size as it was given: exact, in the largest unit that divides it.
pub fn size(v: &Value) -> String {
    const UNITS: [(&str, u64); 5] =
        [("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some(bytes) = v.as_u64() else { return "–".into() };
    let unit = UNITS.iter().find(|(_, u)| bytes > 0 && bytes.is_multiple_of(*u));
    unit.map_or(format!("{bytes}B"), |(name, u)| format!("{}{name}", bytes / u))
}

/// A number of bytes that nobody gave, rounded.
pub fn about(v: &Value) -> String {
    v.as_u64().map_or("–".into(), format_size)
}

/// A volume's state in a few words; of a degraded one also how many copies there are.
pub fn state(v: &Value) -> String {
    match v["state"].as_str() {
        Some("degraded") => format!("degraded {}/{}", word(v.get("copies_ok")), word(v.get("copies_wanted"))),
        Some(other) => other.replace('_', " "),
        None => "unknown".into(),
    }
}

/// Where a volume is attached.
pub fn attached(v: &Value) -> String {
    let a = &v["attachment"];
    let Some(node) = a["node"].as_str() else { return "–".into() };
    match (a["looked_after_by"].as_str(), a["serving"].as_bool()) {
        (Some(other), _) => format!("{node}, away; {other} looks after its replicas"),
        (None, Some(false)) => format!("{node}, not serving"),
        _ => node.into(),
    }
}

fn list(v: &Value, field: &str) -> String {
    let one = |x: &Value| word(Some(if field.is_empty() { x } else { &x[field] }));
    let all: Vec<String> = v.as_array().into_iter().flatten().map(one).collect();
    if all.is_empty() { "–".into() } else { all.join(",") }
}

/// A map as KEY=VALUE words.
pub fn pairs(v: &Value) -> String {
    let all: Vec<String> = v.as_object().into_iter().flatten().map(|(k, x)| format!("{k}={}", word(Some(x)))).collect();
    if all.is_empty() { "–".into() } else { all.join(",") }
}

fn slots(d: &Value) -> String {
    let (used, total) = (&d["replica_slots"]["used"], &d["replica_slots"]["total"]);
    match total.is_null() {
        true => word(Some(used)),
        false => format!("{used} of {total}"),
    }
}

fn job_progress(j: &Value) -> String {
    let mut words = Vec::new();
    if let Some(n) = j["replicas_left"].as_u64() {
        words.push(format!("{n} replicas left"));
    }
    if let (Some(_), Some(_)) = (j["done_bytes"].as_u64(), j["total_bytes"].as_u64()) {
        words.push(format!("{} of {}", about(&j["done_bytes"]), about(&j["total_bytes"])));
    }
    if words.is_empty() { "–".into() } else { words.join(", ") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_are_shown_as_they_were_given() {
        for (bytes, text) in [
            (268_435_456u64, "256MiB"),
            (1536 << 20, "1536MiB"),
            (10 << 30, "10GiB"),
            (4096, "4KiB"),
            (0, "0B"),
            (513, "513B"),
        ] {
            assert_eq!(size(&json!(bytes)), text);
        }
        assert_eq!((size(&Value::Null), about(&json!(1_600_000_000u64))), ("–".into(), "1.49GiB".into()));
    }

    #[test]
    fn lists_are_sorted_by_fields_and_columns() {
        let mut v = vec![
            json!({"name": "a", "size_bytes": 2_000, "state": "ok"}),
            json!({"name": "b", "size_bytes": 10_000, "state": "degraded", "attachment": {"node": "n2"}}),
            json!({"name": "c", "size_bytes": 300, "state": "ok", "attachment": {"node": "n1"}}),
        ];
        let mut sorted = |by: &str| {
            VOLUME.sort(&mut v, by).unwrap();
            v.iter().map(|v| VOLUME.name(v)).collect::<String>()
        };
        assert_eq!(sorted("size_bytes"), "cab");
        assert_eq!(sorted("-size"), "bac");
        assert_eq!(sorted("name"), "abc");
        assert_eq!(sorted("attachment.node"), "cba");
        assert_eq!(sorted("-attachment.node"), "bca");
        assert_eq!(sorted("STATE"), "bca");
        let e = VOLUME.sort(&mut v, "colour").unwrap_err();
        assert_eq!(e.code, 2);
    }

    #[test]
    fn a_job_has_a_path() {
        for (id, want) in [("node/n1", "/node/n1"), ("scrub/a b", "/scrub/a%20b"), ("rebalance", "/rebalance/cluster")]
        {
            assert_eq!(job_path(id).ok(), Some(format!("/v1/jobs{want}")));
        }
        for bad in ["", "n1", "node/", "volume/x", "node"] {
            assert_eq!(job_path(bad).err().map(|e| e.code), Some(2), "{bad}");
        }
    }
}

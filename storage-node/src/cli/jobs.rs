//! Jobs: whatever moves, copies or compares replicas. No job has a record of its own. Each follows from the
//! cluster's record, so it survives everything that the record survives, and its name says what it is about.

use super::out::Out;
use super::failure::Failure;
use super::show::{is_up, node_name, objects, word};
use super::table;
use hf_meta_proto::pb::{self, change_request::What};
use hf_policy::format_size;
use serde_json::Value;
use std::collections::BTreeSet;

/// One line of the list.
struct Job {
    id: String,
    about: String,
    node: String,
    what: String,
    progress: String,
    left: String,
}

fn all(s: &Value) -> Vec<Job> {
    let mut jobs = Vec::new();
    let plain = |id: String, about: String, what: &str, progress: String| Job {
        id,
        about,
        node: "–".into(),
        what: what.into(),
        progress,
        left: "–".into(),
    };
    if s["rebalancing"] == true {
        let moving = replicas(s).iter().filter(|(_, _, r)| r["moving"] == true).count();
        jobs.push(plain(
            "rebalance".into(),
            "cluster".into(),
            if s["rebalance_paused"] == true { "is held" } else { "disks are evened out" },
            format!("{moving} replicas on the move"),
        ));
    }
    for n in objects(s, "nodes").into_iter().filter(|n| n["mode"] == "draining") {
        let name = word(&n["name"]);
        let what = if n["drain_paused"] == true { "its drain is held" } else { "is being drained" };
        let job = plain(format!("node/{name}"), name, what, String::new());
        jobs.extend(drain(s, job, |r| r["node"] == n["id"]));
    }
    for d in objects(s, "disks") {
        let failing = d["state"]["failing"].is_string();
        if d["draining"] == true || failing {
            let what = match (failing, d["drain_paused"] == true) {
                (true, _) => "is failing and being emptied",
                (_, true) => "its drain is held",
                _ => "is being drained",
            };
            let id = word(&d["id"]);
            let job = plain(format!("disk/{id}"), format!("disk {id}"), what, String::new());
            jobs.extend(drain(s, job, |r| r["disk"] == d["id"]));
        }
    }
    jobs.extend(objects(s, "volumes").into_iter().filter_map(|v| scrub(s, v)));
    jobs.extend(replicas(s).into_iter().filter_map(|(v, shard, r)| replica(s, v, shard, r)));
    jobs
}

/// The progress of a drain: replicas and bytes that are still there, and how long that takes at the speed of
/// the copies that replace them. A drain of what holds nothing any more is done and no job; otherwise a
/// script that waits for the end of all jobs would wait for ever.
fn drain(s: &Value, job: Job, there: impl Fn(&Value) -> bool) -> Option<Job> {
    let all = replicas(s);
    let left: Vec<_> = all.iter().filter(|(_, _, r)| there(r)).collect();
    if left.is_empty() {
        return None;
    }
    let disks: BTreeSet<String> = left.iter().map(|(_, _, r)| r["disk"].to_string()).collect();
    let bytes: u64 = disks.iter().filter_map(|d| s["used"][d].as_u64()).sum();
    let of_these = |x: &&Value| {
        left.iter().any(|(v, shard, _)| x["volume"] == v["id"] && x["shard"] == *shard) && x["stage"] != "scrub"
    };
    let syncs = s["syncs"].as_array().into_iter().flatten().filter(of_these);
    let rate: u64 = syncs.filter_map(|x| x["bytes_per_second"].as_u64()).sum();
    Some(Job {
        progress: format!("{} replicas, {} left", left.len(), format_size(bytes)),
        left: bytes.checked_div(rate).map_or("–".into(), |s| format!("at most {} s", s + 1)),
        ..job
    })
}

/// Every replica, with its volume and shard.
fn replicas(s: &Value) -> Vec<(&Value, u64, &Value)> {
    let mut list = Vec::new();
    for v in objects(s, "volumes") {
        for (index, shard) in v["shards"].as_array().into_iter().flatten().enumerate() {
            let of_shard = shard["replicas"].as_object().into_iter().flat_map(|o| o.values());
            list.extend(of_shard.map(|r| (v, index as u64, r)));
        }
    }
    list
}

fn scrub(s: &Value, v: &Value) -> Option<Job> {
    v["scrub"].as_object()?;
    let here: Vec<&Value> =
        s["syncs"].as_array()?.iter().filter(|x| x["volume"] == v["id"] && x["stage"] == "scrub").collect();
    let sum = |k: &str| here.iter().filter_map(|x| x[k].as_u64()).sum::<u64>();
    let progress = match here.len() {
        0 => "waits until a node looks after its volume".into(),
        _ => format!("{}/{} chunks, {} repaired", sum("chunks_done"), sum("chunks"), format_size(sum("copied_bytes"))),
    };
    let name = word(&v["name"]);
    let node = if v["coordinator"].is_null() { "–".into() } else { node_name(s, &v["coordinator"]["node"]) };
    Some(Job {
        id: format!("scrub/{name}"),
        about: name,
        node,
        what: if v["scrub"]["paused"] == true { "its scrub is held" } else { "is being scrubbed" }.into(),
        progress,
        left: "–".into(),
    })
}

fn replica(s: &Value, v: &Value, shard: u64, r: &Value) -> Option<Job> {
    let in_sync = r["state"] == "in_sync";
    let node = &s["nodes"][r["node"].to_string()];
    let disk = &s["disks"][r["disk"].to_string()];
    let failing = disk["state"]["failing"].is_string();
    let leaves = r["leaving"] == true || node["mode"] == "draining" || disk["draining"] == true || failing;
    let moving = r["moving"] == true || leaves;
    let sync = s["syncs"]
        .as_array()
        .and_then(|l| l.iter().find(|x| x["volume"] == v["id"] && x["shard"] == shard && x["replica"] == r["rid"]));
    let what = match (in_sync, moving, sync.is_some()) {
        (true, false, _) => return None,
        _ if r["paused"] == true => "is held",
        (true, true, _) => "leaves when the others are in sync",
        (false, true, _) => "is removed",
        (false, false, true) => "is brought in",
        (false, false, false) if !is_up(s, &r["node"]) => "waits for its node",
        (false, false, false) => "waits its turn",
    };
    let number = |key: &str| sync.and_then(|x| x[key].as_u64()).unwrap_or(0);
    let (all, done, copied, rate) =
        (number("chunks"), number("chunks_done"), number("copied_bytes"), number("bytes_per_second"));
    let progress =
        if sync.is_some() { format!("{done}/{all} chunks, {} copied", format_size(copied)) } else { "–".into() };
    // This is an upper bound: chunks are compared first, and only what differs is copied.
    let left = (all - done.min(all)) * hf_policy::CHUNK_BYTES;
    let left = match rate {
        0 => "–".into(),
        r => format!("at most {} s", left / r + 1),
    };
    let about = if shard > 0 { format!("{} shard {shard}", word(&v["name"])) } else { word(&v["name"]) };
    Some(Job {
        id: format!("replica/{}", r["rid"]),
        about,
        node: word(&node["name"]),
        what: what.into(),
        progress,
        left,
    })
}

/// Prints the jobs, and returns how many there are.
pub fn list(s: &Value, out: &mut Out) -> Result<usize, Failure> {
    let jobs = all(s);
    if !out.format.is_text() {
        let one = |j: &Job| serde_json::json!({"job": j.id, "about": j.about, "node": j.node, "what": j.what, "progress": j.progress, "left": j.left});
        let list: Vec<Value> = jobs.iter().map(one).collect();
        out.value(&serde_json::json!({"paused": s["rebuild_paused"], "jobs": list}))?;
        return Ok(jobs.len());
    }
    if s["rebuild_paused"] == true {
        out.line(format!("paused: no replica is made or moved (holdfast job resume)"))?;
    }
    if jobs.is_empty() {
        out.line(format!("nothing to do: every replica is in sync and where it should be"))?;
        return Ok(0);
    }
    let n = jobs.len();
    let rows: Vec<_> = jobs.into_iter().map(|j| vec![j.id, j.about, j.node, j.what, j.progress, j.left]).collect();
    table::print(out, &["JOB", "ABOUT", "NODE", "WHAT", "PROGRESS", "LEFT"], &rows)?;
    Ok(n)
}

/// The change that holds a job or lets it go on; without a name, all jobs.
pub fn pause(job: Option<String>, paused: bool) -> Result<What, Failure> {
    let Some(job) = job else { return Ok(What::RebuildPaused(paused)) };
    let mut what = pb::PauseJob { paused, ..Default::default() };
    let known = match job.split_once('/') {
        None => {
            what.rebalance = true;
            job == "rebalance"
        }
        Some(("node", name)) => {
            what.node = name.into();
            !name.is_empty()
        }
        Some(("scrub", volume)) => {
            what.scrub = volume.into();
            !volume.is_empty()
        }
        Some(("disk", id)) => {
            what.disk = id.parse().unwrap_or(0);
            what.disk > 0
        }
        Some(("replica", id)) => {
            what.replica = id.parse().unwrap_or(0);
            what.replica > 0
        }
        Some(_) => false,
    };
    if known {
        return Ok(What::PauseJob(what));
    }
    let error = format!(
        "{job} names no job; holdfast job list shows what goes on: node/NAME, disk/ID, replica/ID, scrub/VOLUME, rebalance"
    );
    Err(super::failure::usage(error))
}

/// The change that gives a job up.
pub fn cancel(s: &Value, id: &str) -> Result<What, Failure> {
    let refuse = |code, text: String| Err(Failure::own(code, "refused", text));
    if !all(s).iter().any(|j| j.id == id) {
        return refuse(3, format!("no job {id}; holdfast job list shows what goes on"));
    }
    match id.split_once('/') {
        None => Ok(What::Rebalance(false)),
        Some(("scrub", volume)) => Ok(What::Scrub(pb::Scrub { volume: volume.into(), on: false })),
        Some(("node", node)) => Ok(What::NodeMode(pb::NodeMode { node: node.into(), mode: "active".into() })),
        Some(("disk", n)) => {
            let disk = n.parse().unwrap_or(0);
            Ok(match s["disks"][n]["draining"] == true {
                true => What::DiskDrain(pb::DiskDrain { disk, draining: false }),
                false => What::DiskInService(disk),
            })
        }
        _ => {
            let found = replicas(s).into_iter().find(|(_, _, r)| format!("replica/{}", r["rid"]) == id);
            match found {
                Some((v, shard, r)) if r["moving"] == true => Ok(What::MoveReplica(pb::MoveReplica {
                    volume: word(&v["name"]),
                    shard: shard as u32,
                    rid: r["rid"].as_u64().unwrap_or(0),
                    moving: false,
                })),
                _ => refuse(
                    4,
                    format!(
                        "{id}: the volume's policy, or a drain, asks for this; change the policy, cancel the drain, or hold everything with holdfast job pause"
                    ),
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(on: u64, paused: bool) -> Value {
        let node =
            |id: u64, mode: &str| json!({"id": id, "name": format!("n{id}"), "mode": mode, "drain_paused": paused});
        let replica = |rid: u64, node: u64, state: &str| json!({"rid": rid, "node": node, "disk": node, "state": state, "leaving": false, "moving": false});
        json!({
            "nodes": {"1": node(1, "active"), "2": node(2, "draining"), "3": node(3, "active")},
            "disks": {"1": {"id": 1, "state": "ok"}, "2": {"id": 2, "state": "ok"}, "3": {"id": 3, "state": "ok"}},
            "used": {"1": 5 << 20, "2": 8 << 20, "3": 0},
            "up": [1, 2, 3],
            "syncs": [{"volume": 1, "shard": 0, "replica": 9, "stage": "copying", "bytes_per_second": 1 << 20}],
            "volumes": {"1": {"id": 1, "name": "v", "shards": [{"replicas": {
                "7": replica(7, 1, "in_sync"), "8": replica(8, on, "in_sync"),
            }}]}},
        })
    }

    #[test]
    fn a_drain_says_what_is_left_and_ends() {
        let jobs = all(&status(2, false));
        let job = jobs.iter().find(|j| j.id == "node/n2");
        let said = job.map(|j| (j.what.as_str(), j.progress.as_str(), j.left.as_str()));
        assert_eq!(said, Some(("is being drained", "1 replicas, 8MiB left", "at most 9 s")));
        assert!(all(&status(2, true)).iter().any(|j| j.id == "node/n2" && j.what == "its drain is held"));
        // The node or disk is empty, so its drain is done.
        assert_eq!(all(&status(3, false)).len(), 0);
    }
}

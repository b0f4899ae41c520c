//! The whole state of a cluster as one JSON object, for tests: the record as nodes hand it to each other
//! (`Peer.Watch`), beside it what the leader hears, from the REST API. No public call gives all of this at once; a test
//! may compare anything with anything. The parts are read one after the other, so they may be of revisions that follow
//! each other; `revision` is that of the record.

use crate::http;
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How long a node may take to hand out the record.
const RECORD: Duration = Duration::from_secs(8);

/// The state, by the first of these http addresses that answers: the record's own fields (`nodes`, `disks`, `volumes`,
/// `tombstones`, …) and `leader`, `voters`, `voters_changing`, `learners`, `this_node`, `up`, `used`, `entries`,
/// `replicas`, `disks_here`.
pub fn whole(addrs: &[String]) -> Result<Value, String> {
    let mut said = Vec::new();
    for addr in http::lively_first(addrs) {
        match by(&addr) {
            Ok(s) => return Ok(s),
            Err(e) => said.push(e),
        }
    }
    Err(said.join("; "))
}

/// The copies that the leader has heard of: `replica`, `stage`. Read before the record, so that one which the record
/// still calls syncing afterwards went on in between.
pub fn syncs(addrs: &[String]) -> Result<Vec<Value>, String> {
    let first = http::lively_first(addrs);
    let page = http::get(first.first().ok_or("no address")?, "/v1/replicas?limit=1000")?.good()?;
    assert!(page["next"].is_null(), "more replicas than one page shows");
    let one = |r: &Value| {
        let sync = r.get("sync")?;
        Some(json!({"replica": r["id"], "volume": r["volume"], "shard": r["shard"], "stage": sync["stage"]}))
    };
    Ok(page["items"].as_array().into_iter().flatten().filter_map(one).collect())
}

fn by(addr: &str) -> Result<Value, String> {
    let get = |path: &str| http::get(addr, path)?.good();
    let list = |path: &str| Ok::<_, String>(get(path)?["items"].as_array().cloned().unwrap_or_default());
    let cluster = get("/v1/cluster")?;
    let (nodes, disks) = (list("/v1/nodes?limit=1000")?, list("/v1/disks?limit=1000")?);
    let mut s = record(&cluster, &nodes)?;
    let id = |name: &Value| nodes.iter().find(|n| n["name"] == *name).map_or(Value::Null, |n| n["id"].clone());
    let which = |field: &str, is: &[&str]| -> Value {
        nodes.iter().filter(|n| is.iter().any(|w| n[field] == *w)).map(|n| n["id"].clone()).collect()
    };
    let of_disks = |field: &str| -> Value {
        let one = |d: &Value| Some((d["id"].to_string(), d.pointer(field).filter(|v| !v.is_null())?.clone()));
        Value::Object(disks.iter().filter_map(one).collect::<Map<_, _>>())
    };
    let here = |d: &&Value| d["node"] == cluster["answered_by"] && (d["state"] == "ok" || d["state"] == "failing");
    let disks_here = disks.iter().filter(here).map(|d| json!({"disk": d["id"], "backend": d["backend"]})).collect();
    for (key, value) in [
        ("leader", id(&cluster["leader"])),
        ("voters", cluster["voters"].as_array().into_iter().flatten().map(id).collect()),
        ("voters_changing", cluster["voters_changing"].clone()),
        ("learners", which("part", &["learner"])),
        ("this_node", id(&cluster["answered_by"])),
        ("up", which("state", &["up"])),
        ("used", of_disks("/used_bytes")),
        ("entries", of_disks("/replica_slots/total")),
        ("replicas", of_disks("/replica_slots/used")),
        ("disks_here", disks_here),
    ] {
        s[key] = value;
    }
    Ok(s)
}

/// The record, of the leader if it answers.
fn record(cluster: &Value, nodes: &[Value]) -> Result<Value, String> {
    let id = cluster["id"].as_str().and_then(|id| u128::from_str_radix(id, 16).ok()).ok_or("the cluster has no id")?;
    let first = |n: &&Value| (n["name"] != cluster["leader"], n["name"] != cluster["answered_by"]);
    let mut order: Vec<&Value> = nodes.iter().collect();
    order.sort_by_key(first);
    let mut said = Vec::new();
    for n in order {
        let api = n["addresses"]["api"].as_str().unwrap_or_default();
        match of(api, id) {
            Ok(state) => return Ok(state),
            Err(e) => said.push(format!("{api}: {e}")),
        }
    }
    Err(said.join("; "))
}

/// The record that a node has, whole.
fn of(api: &str, cluster: u128) -> Result<Value, String> {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = async {
        let channel = hf_meta_proto::channel(api).map_err(|e| e.to_string())?;
        let mut peer = PeerClient::new(channel).max_decoding_message_size(hf_meta_proto::MAX_MESSAGE);
        let cluster = cluster.to_be_bytes().to_vec();
        let r = peer.watch(pb::WatchRequest { from_revision: 0, follow: false, cluster }).await;
        let mut deltas = r.map_err(|e| e.message().to_string())?.into_inner();
        let first = deltas.message().await.map_err(|e| e.message().to_string())?;
        let delta: Value = serde_json::from_slice(&first.ok_or("no record came")?.delta).map_err(|e| e.to_string())?;
        Ok::<_, String>(delta["whole"].clone())
    };
    let state = rt.block_on(async { tokio::time::timeout(RECORD, ask).await });
    match state.map_err(|_| "no record came in time".to_string())?? {
        Value::Null => Err("it is not the whole record that came".into()),
        state => Ok(state),
    }
}

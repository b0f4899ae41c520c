//! `holdfast inspect raft`: shows a node's metadata, that is the image, the log behind it, and the record
//! that follows from both.

use hf_meta::log::Log;
use hf_meta::member::apply_entry;
use hf_meta::raft_log::RaftLog;
use hf_meta_core::record::OwnLog;
use hf_meta_core::{ClusterState, Logged, image};
use serde_json::{Value, json};
use std::path::Path;

/// The metadata in a stopped node's data directory.
pub struct Known {
    /// The record after the image and the committed part of the log.
    pub state: ClusterState,
    /// The record after the whole log, with entries that this node did not know to be committed. If the other
    /// voters are lost, the newest log counts whole, as in an election.
    pub whole: ClusterState,
    /// The newest index and term in the log.
    pub last: (u64, u64),
    /// What the log says of itself: id, age, last starts.
    pub own: OwnLog,
    /// Numbers of the voters: those of the image, changed by the log's entries.
    pub voters: Vec<u64>,
}

/// Reads the metadata of a stopped node and passes each log entry to `each`. `None`: the node never voted, so
/// it has no log.
pub fn load(data_dir: &Path, each: &mut dyn FnMut(Value)) -> anyhow::Result<Option<Known>> {
    let dir = data_dir.join("meta");
    if !dir.exists() {
        return Ok(None);
    }
    let log = RaftLog::open_read_only(&dir).map_err(|e| anyhow::anyhow!("{}: {e}", dir.display()))?;
    if log.is_empty() {
        return Ok(None);
    }
    let meta = log.image().get_metadata().clone();
    let mut state = image::decode(&log.image().data)?;
    let (mut last, mut whole) = ((meta.index, meta.term), None);
    for e in log.log()? {
        last = (e.index, e.term);
        let committed = e.index <= log.hard().commit;
        let command = match e.entry_type {
            _ if e.data.is_empty() => json!("a new leader began"),
            0 => match Logged::decode(&e.data, whole.as_ref().unwrap_or(&state)) {
                Ok(entry) => {
                    let outcome = committed.then(|| apply_entry(&mut state, &entry, log.conf()));
                    if !committed {
                        // A refusal changes nothing, so the outcome does not matter here.
                        let _ = apply_entry(whole.get_or_insert_with(|| state.clone()), &entry, log.conf());
                    }
                    match entry {
                        Logged::Command(env) => {
                            json!({"at_ms": env.at_ms, "command": env.cmd, "outcome": outcome})
                        }
                        Logged::Above(header) => json!({"version": header.v, "outcome": outcome}),
                    }
                }
                Err(err) => json!({"damaged": err.to_string()}),
            },
            _ => json!("a change of the voters"),
        };
        each(json!({"index": e.index, "term": e.term, "committed": committed, "what": command}));
    }
    let whole = whole.unwrap_or_else(|| state.clone());
    Ok(Some(Known { state, whole, last, own: Log::own(&log).clone(), voters: log.conf().voters.clone() }))
}

/// The metadata as JSON; with `log`, every entry too.
pub fn raft(data_dir: &Path, log: bool) -> anyhow::Result<Value> {
    let mut entries = Vec::new();
    let known = load(data_dir, &mut |e| entries.push(e))?;
    let Some(k) = known else {
        anyhow::bail!(
            "{} holds no metadata: this node follows the group without voting (its last view is view.json)",
            data_dir.display()
        );
    };
    let count = entries.len();
    let unread = entries.iter().filter(|e| !e["what"]["damaged"].is_null()).count();
    let unread = (unread > 0).then(|| format!("{unread} log entries cannot be read"));
    Ok(json!({
        "path": data_dir, "cluster": k.state.cluster, "name": k.state.name, "revision": k.state.revision,
        "voters": k.voters, "last_index": k.last.0, "last_term": k.last.1, "log_entries": count,
        "log_id": k.own.log, "log_age": k.own.age, "older_copy": k.own.older,
        "nodes": k.state.nodes.len(), "disks": k.state.disks.len(), "volumes": k.state.volumes.len(),
        "damage": unread.or(k.state.check().err()),
        "log": log.then_some(entries),
    }))
}

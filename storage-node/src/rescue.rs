//! `holdfast rescue`: for the day when the metadata group is lost for good, that is, when a majority of its
//! voters never comes back.
//!
//! Every data directory holds the cluster's record, at most a little old: voters have it in their log, other
//! nodes in `view.json`. Every disk says for each replica which volume and lineage it belongs to, how far it
//! has got, the newest term that it promised, and the epoch of the record at that time.
//!
//! - `propose` reads what is left of both and reports what the newest record seems to be. The result is a
//!   guess unless the logs of a majority of the voters were read, because decisions of the other voters may
//!   have left no trace. If no data directory is left, the record is made from the disks alone (`disks.rs`).
//! - `found` makes one surviving node the only voter of a group that begins with the proposal.
//! - `follow` lets another survivor follow the new group.
//!
//! Nothing here runs by itself, and nothing is deleted: what is replaced is set aside.

mod disks;

use crate::identity::{DataDir, Identity, VIEW};
use crate::inspect::{disk::chunks, raft};
use hf_meta::raft_log::RaftLog;
use hf_meta_core::record::*;
use hf_meta_core::{ClusterState, image};
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use hf_policy::{BLOCK_BYTES, CHUNK_BYTES, DiskUuid, Rid, SHARD_BYTES, ShardId, Term, Ver, VolumeId};
use hf_reactor::disk::raw::{Blocking, DiskFile};
use hf_store::{Config, ReplicaRec, recovery};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How far revisions, epochs, terms and the Raft index jump, to be beyond whatever the lost majority may have
/// decided meanwhile. (Otherwise a replica that comes back after all would fence every coordinator with a
/// lower term than it has promised.)
const JUMP: u64 = 1_000_000;

/// What one disk says about one replica.
struct Found {
    rec: ReplicaRec,
    disk: DiskUuid,
    path: PathBuf,
    /// Generation of the disk's superblock; the higher one of two copies of a disk counts.
    generation: u64,
    newest: Ver,
    /// Bytes from the shard's beginning to the end of the last chunk with data.
    bytes: u64,
}

/// The record that a new group would begin with, and what it rests on.
pub struct Proposal {
    /// The record to go on with.
    pub state: ClusterState,
    /// The newest Raft index and term that was seen.
    last: (u64, u64),
    /// What was read, what the record rests on, and what is a guess.
    pub report: Value,
}

/// Reads data directories and disks, and proposes a record. Fails only if nothing usable was found.
pub fn propose(data_dirs: &[PathBuf], disks: &[PathBuf]) -> anyhow::Result<Proposal> {
    let (mut logs, mut sources) = (Logs::default(), Vec::new());
    let mut paths: Vec<PathBuf> = disks.to_vec();
    let mut notes: Vec<String> = Vec::new();
    for dir in data_dirs {
        // A directory that cannot be read counts as missing, but the disks that it names are read all the
        // same.
        match logs.add(dir) {
            Ok(said) => sources.push(said),
            Err(e) => notes.push(format!("{}: {e:#}", dir.display())),
        }
        if let Ok(id) = identity(dir) {
            paths.extend(id.disks.into_iter().map(|d| d.path).filter(|p| p.exists()));
        }
    }
    // One disk under two names counts once.
    for p in &mut paths {
        *p = std::fs::canonicalize(&*p).unwrap_or_else(|_| p.clone());
    }
    paths.sort();
    paths.dedup();
    let (last, mut best) = (logs.last, logs.best());
    let disks_alone = best.disks.is_empty();
    if disks_alone {
        best = disks::record(&paths, &mut notes)?;
    }
    if best.disks.is_empty() {
        let why = notes.join("; ");
        anyhow::bail!(
            "no given data directory holds the cluster's record, and no disk was given: give all that are left. {why}"
        );
    }
    let mut disks_read = 0;
    let mut found: BTreeMap<Rid, Found> = BTreeMap::new();
    for p in &paths {
        match replicas_on(p) {
            Ok(list) => {
                disks_read += 1;
                list.into_iter().for_each(|f| keep_newer(&mut found, f, &mut notes));
            }
            Err(e) => notes.push(format!("{}: {e:#}", p.display())),
        }
    }
    let mut volumes = Vec::new();
    restore_unknown(&mut best, &found, &mut notes);
    if disks_alone {
        disks::settle(&mut best, &mut notes);
        notes.push("no data directory holds the record: this is what the disks alone say. The nodes' names are unknown; of each volume's policy only the size and the number of replicas that were found are known".into());
    }
    let ids: Vec<VolumeId> = best.volumes.keys().copied().collect();
    for id in ids {
        volumes.extend(best.volumes.update(&id, |v| judge(v, &found, &logs)));
    }
    begin_anew(&mut best);
    best.check().map_err(|e| anyhow::anyhow!("the proposal contradicts itself: {e}"))?;
    let report = json!({
        "cluster": best.cluster, "name": best.name, "sources": sources,
        "voters": logs.voters, "voters_read": logs.read, "disks_read": disks_read,
        "replicas_found": found.len(), "volumes": volumes, "notes": notes,
    });
    Ok(Proposal { state: best, last, report })
}

/// Prepares the record for a new group: no node's log has a place in it yet, and nodes that knew more are
/// made to drop it.
fn begin_anew(state: &mut ClusterState) {
    // The number of the log rises, so that a node that still runs with the old record does not take a new log
    // for an older one.
    state.revision += JUMP;
    let rev = state.revision;
    state.nodes.update_all(|n| {
        (n.log, n.rev) = (LogRecord { nth: n.log.nth + JUMP, ..LogRecord::default() }, rev);
    });
    state.removed_members.clear();
    // A node that knew more must not keep it, so every follower is sent the whole record.
    (state.removals, state.removals_floor) = (Default::default(), state.revision);
    state.volumes.update_all(|v| v.rev = rev);
}

/// What the data directories hold of the record.
#[derive(Default)]
struct Logs {
    /// Numbers of the voters, by the newest log.
    voters: Vec<u64>,
    /// Voters whose own log was read and is not known to be an older copy.
    read: BTreeSet<u64>,
    /// The end of the newest log (term, index), and the record at that end.
    newest: Option<((u64, u64), ClusterState)>,
    /// The newest record of all other sources: followers' views, and logs that are known to be older copies.
    other: ClusterState,
    /// The highest Raft index and term of any log.
    last: (u64, u64),
}

impl Logs {
    /// Reads one directory, and returns what it has for the report.
    fn add(&mut self, dir: &Path) -> anyhow::Result<Value> {
        let (known, view) = (raft::load(dir, &mut |_| {})?, DataDir::view(dir));
        // The view of a voter is from before it had a vote and may be years old, so it is ignored.
        if known.is_none() && identity(dir).is_ok_and(|id| id.has_log) {
            anyhow::bail!("{}: its metadata (meta) is gone", dir.display());
        }
        let (mut state, mut kind) = (view, "a follower's view");
        if let Some(k) = known {
            let (end, older) = ((k.last.1, k.last.0), k.own.older);
            self.last = (self.last.0.max(k.last.0), self.last.1.max(k.last.1));
            if state.as_ref().is_none_or(|v| v.revision <= k.whole.revision) {
                (state, kind) =
                    (Some(k.whole.clone()), if older { "a voter's log, an older copy" } else { "a voter's log" });
            }
            if let (false, Ok(id)) = (older, identity(dir)) {
                self.read.insert(id.node.0);
                // The newest log as Raft compares logs: by term, then by length.
                if self.newest.as_ref().is_none_or(|(at, _)| end > *at) {
                    (self.voters, self.newest) = (k.voters, Some((end, k.whole)));
                }
            }
        }
        let state = state.ok_or_else(|| anyhow::anyhow!("{} holds no record of a cluster", dir.display()))?;
        let said = json!({"data_dir": dir, "kind": kind, "revision": state.revision, "volumes": state.volumes.len()});
        if state.revision > self.other.revision {
            self.other = state;
        }
        Ok(said)
    }

    /// Whether a majority of the voters was read, so that every decision is in the newest of their logs.
    fn are_complete(&self) -> bool {
        let here = self.voters.iter().filter(|v| self.read.contains(v)).count();
        here > self.voters.len() / 2
    }

    /// The record to go on with: of a majority, that of the newest log; otherwise the newest record that
    /// there is.
    fn best(&self) -> ClusterState {
        match &self.newest {
            Some((_, s)) if self.are_complete() || s.revision >= self.other.revision => s.clone(),
            _ => self.other.clone(),
        }
    }
}

fn identity(dir: &Path) -> anyhow::Result<Identity> {
    Ok(serde_json::from_slice(&std::fs::read(dir.join("node.json"))?)?)
}

fn replicas_on(path: &Path) -> anyhow::Result<Vec<Found>> {
    let file = DiskFile::look(path)?.ok_or_else(|| anyhow::anyhow!("it holds no Holdfast disk"))?;
    let store = recovery::open(&mut Blocking(&file), Config::default())?;
    let (disk, generation) = (store.superblock().disk, store.superblock().generation);
    let one = |r: &ReplicaRec| Found {
        rec: r.clone(),
        disk,
        path: path.to_path_buf(),
        generation,
        newest: store.max_ver(r.rid),
        bytes: chunks(&store, r.rid).last().map_or(0, |c| (u64::from(c.0) + 1) * CHUNK_BYTES),
    };
    Ok(store.replicas().filter(|r| !r.deleting).map(one).collect())
}

/// Of two copies of one disk, the newer one counts.
fn keep_newer(found: &mut BTreeMap<Rid, Found>, f: Found, notes: &mut Vec<String>) {
    if let Some(other) = found.get(&f.rec.rid) {
        let (newer, older) = if other.generation >= f.generation { (other, &f) } else { (&f, other) };
        notes.push(format!(
            "replica {} is at {} and at {}: the first one is newer and counts",
            f.rec.rid,
            newer.path.display(),
            older.path.display()
        ));
        if other.generation >= f.generation {
            return;
        }
    }
    found.insert(f.rec.rid, f);
}

/// Adds replicas that were made after the newest record was written, so that it does not know them.
fn restore_unknown(state: &mut ClusterState, found: &BTreeMap<Rid, Found>, notes: &mut Vec<String>) {
    let first_new = state.next.rid;
    for (rid, f) in found {
        let known = state.volumes.values().any(|v| v.replicas().any(|(_, r)| r.rid == *rid));
        if known || state.tombstones.contains_key(rid) {
            continue;
        }
        let disk = state.disks.values().find(|d| d.uuid == f.disk).map(|d| (d.id, d.node));
        let (Some((disk, node)), true) = (disk, rid.0 >= first_new) else {
            notes.push(format!("{}: replica {rid} of volume {} is left alone: the record says it was removed, or does not know its disk", f.path.display(), f.rec.hint_name));
            continue;
        };
        let ShardId { vol, index } = f.rec.shard;
        let mut v = state.volumes.get(&vol).map_or_else(|| unknown_volume(f), |v| VolumeRecord::clone(v));
        while v.shards.len() <= index as usize {
            v.shards.push(ShardRecord::default());
        }
        // The size is the one noted when the volume was last attached. If none was noted (older releases),
        // the data's end counts; the volume can be grown.
        let (begin, noted) = (u64::from(index) * SHARD_BYTES, f.rec.hint_size);
        let written = begin + f.bytes.clamp(BLOCK_BYTES, SHARD_BYTES);
        let grown = written > noted.next_multiple_of(CHUNK_BYTES);
        v.size = v.size.max(if grown { written } else { noted });
        v.attrs.set("size", v.size.to_string());
        let out = ReplicaState::Out { base: Ver::ZERO };
        let mut r = ReplicaRecord::new(*rid, disk, node, out, v.epoch);
        r.store_uuid = Some(f.rec.store_uuid);
        v.shards[index as usize].replicas.insert(*rid, r);
        state.volumes.insert(v);
        state.next.rid = state.next.rid.max(rid.0 + 1);
        state.next.volume = state.next.volume.max(vol.0 + 1);
    }
    // A shard of which no replica was found cannot be made up.
    state.volumes.retain(|v| {
        let shards = v.size.div_ceil(SHARD_BYTES);
        let whole = v.shards.len() as u64 >= shards && v.shards.iter().all(|s| !s.replicas.is_empty());
        if !whole {
            notes.push(format!("volume {}: a shard was found on no disk; it cannot be restored from these", v.name));
        }
        whole
    });
}

fn unknown_volume(f: &Found) -> VolumeRecord {
    VolumeRecord {
        id: f.rec.shard.vol,
        name: f.rec.hint_name.clone(),
        attrs: Default::default(),
        size: 0,
        lineage: f.rec.lineage,
        term: Term(0),
        epoch: hf_policy::Epoch(0),
        coordinator: None,
        shards: Vec::new(),
        snaps: Vec::new(),
        activated: Term(0),
        scrub: None,
        scrubbed: None,
        created_ms: 0,
        rev: 0,
    }
}

/// Decides which replicas of a volume are in sync. A record that a majority of the voters has stands. A
/// record that the disks contradict is not the newest, and members may have been dropped since. Then, if all
/// its in-sync replicas were found, only the one that has noted to hold most is believed. If some were not
/// found, no other replica is promoted in their place, because they may hold more: that is for an operator to
/// decide, by `volume force-insync`.
fn judge(v: &mut VolumeRecord, found: &BTreeMap<Rid, Found>, logs: &Logs) -> Value {
    let here: Vec<&Found> = v.shards.iter().flat_map(|s| mine_of(s, found)).filter_map(|r| found.get(&r)).collect();
    let heard = here.iter().map(|f| f.rec.hint_epoch).max().unwrap_or(0);
    let promised = here.iter().map(|f| f.rec.promised_term.0).max();
    let contradicted = heard > v.epoch.0 || v.shards.iter().any(|s| one_came_back(s, found));
    let all_here = v.shards.iter().all(|s| s.in_sync().iter().all(|r| found.contains_key(r)));
    let made_up = v.shards.iter().any(|s| s.in_sync().is_empty());
    let stale = made_up || contradicted && all_here && !logs.are_complete();
    let (mut shards, mut missing) = (Vec::new(), Vec::new());
    for (index, s) in v.shards.iter_mut().enumerate() {
        let best = mine_of(s, found).into_iter().max_by_key(|r| {
            // The noted watermark counts first: a replica that was being filled may have the newest writes,
            // and holes.
            let f = &found[r];
            (f.rec.stable_known, f.rec.promised_term, f.newest, std::cmp::Reverse(*r))
        });
        if let (true, Some(best)) = (stale, best) {
            for r in s.replicas.values_mut() {
                r.state = if r.rid == best { ReplicaState::InSync } else { ReplicaState::Out { base: Ver::ZERO } };
            }
        }
        missing.extend(s.in_sync().into_iter().filter(|r| !found.contains_key(r)));
        let list: Vec<Value> = s
            .replicas
            .values()
            .map(|r| {
                let f = found.get(&r.rid);
                json!({
                    "replica": r.rid, "node": r.node, "counts": r.in_sync(), "found": f.map(|f| f.path.clone()),
                    "promised_term": f.map(|f| f.rec.promised_term), "newest": f.map(|f| f.newest.to_string()),
                    "holds_all_up_to": f.map(|f| f.rec.stable_known.to_string()),
                })
            })
            .collect();
        shards.push(json!({"shard": index, "replicas": list}));
    }
    v.coordinator = None;
    v.scrub = None;
    let beyond = u32::try_from(JUMP).unwrap_or(1);
    v.term = Term(v.term.0.max(promised.unwrap_or(0)).saturating_add(beyond));
    v.epoch = hf_policy::Epoch(v.epoch.0.max(heard) + JUMP);
    let said = match (stale, logs.are_complete()) {
        (true, _) => {
            "a guess: what the disks hold or have heard of is newer than the record; only the replica that has noted to hold most counts"
        }
        (false, true) => "as recorded, by a majority of the voters",
        (false, false) if contradicted => {
            "a guess: what the disks hold or have heard of is newer than the record, but not all replicas that it calls in sync were found: give their disks too; if they are lost, choose one with `volume force-insync` once the cluster is up"
        }
        (false, false) => {
            "a guess: nothing that was found contradicts the newest record that was read, but fewer than a majority of the voters' logs were read: a replica that it calls in sync may have been dropped since, and lack what was written then"
        }
    };
    json!({
        "volume": v.name, "size": v.size, "decision": said, "guess": stale || !logs.are_complete(), "missing": missing,
        "shards": shards,
    })
}

/// Whether a replica that is out by the record has been in sync since: it has noted to hold more than its
/// base.
fn one_came_back(s: &ShardRecord, found: &BTreeMap<Rid, Found>) -> bool {
    let base = |r: &ReplicaRecord| match r.state {
        ReplicaState::InSync => None,
        ReplicaState::Out { base } | ReplicaState::Syncing { base, .. } => Some(base),
    };
    let noted = |r: &ReplicaRecord| found.get(&r.rid).map(|f| f.rec.stable_known);
    s.replicas.values().any(|r| matches!((noted(r), base(r)), (Some(noted), Some(base)) if noted > base))
}

fn mine_of(s: &ShardRecord, found: &BTreeMap<Rid, Found>) -> Vec<Rid> {
    s.replicas.keys().copied().filter(|r| found.contains_key(r)).collect()
}

/// Renames a file or directory if it is there. Returns what to tell the operator about it.
fn set_aside(dir: &Path, name: &str) -> anyhow::Result<String> {
    let from = dir.join(name);
    if from.exists() {
        let aside = dir.join(format!("{name}.before-rescue-{}", crate::member::wall_ms()));
        std::fs::rename(&from, &aside).map_err(|e| anyhow::anyhow!("{}: {e}", from.display()))?;
        return Ok(format!(" {} is kept as {}.", from.display(), aside.display()));
    }
    Ok(String::new())
}

/// Makes a stopped node the only voter of a group that begins with the proposal. Returns what to tell the
/// operator.
pub fn found(dir: &Path, own: Option<&Path>, p: Proposal, confirm: &str) -> anyhow::Result<String> {
    if confirm != p.state.name {
        anyhow::bail!(
            "this founds the metadata of cluster {0} anew: what only lost voters knew is gone, and old voters that start again without `holdfast rescue follow` would contradict it. If you mean it, confirm with --confirm {0}",
            p.state.name
        );
    }
    // The lock is held until the end, so no daemon runs on this directory meanwhile.
    let lock = DataDir::open(dir)?;
    let id = disks::identity(&lock, own, &p.state)?;
    let kept = set_aside(dir, "meta")? + &set_aside(dir, VIEW)?;
    let mut log = RaftLog::open(&dir.join("meta"))?;
    log.found_again(id.node.0, image::encode(&p.state)?, p.last.0 + JUMP, p.last.1 + 10)?;
    lock.save(&id)?;
    Ok(format!(
        "node #{} is the only voter of cluster {} now, at revision {}. Start it; on every other node run: holdfast rescue follow DATA_DIR, then start it; more voters join by themselves.{}{kept}",
        id.node,
        p.state.name,
        p.state.revision,
        disks::elsewhere(&id, &p.state)
    ))
}

/// The record as running nodes have it, for a node that cannot read its own or has lost its data directory.
pub async fn record_at(dir: &Path, own: Option<&Path>, seeds: &[String]) -> anyhow::Result<ClusterState> {
    let cluster = match own {
        Some(disk) => disks::owner(disk)?.0,
        None => identity(dir).map_err(|e| anyhow::anyhow!("{}: {e}", dir.join("node.json").display()))?.cluster,
    };
    let cluster = cluster.0.to_be_bytes().to_vec();
    let mut why = Vec::new();
    for seed in seeds {
        let ask = async {
            let ch = hf_meta_proto::channel(seed)?;
            let mut c = PeerClient::new(ch).max_decoding_message_size(hf_meta_proto::MAX_MESSAGE);
            let req = pb::WatchRequest { from_revision: 0, follow: true, cluster: cluster.clone() };
            let first = c.watch(req).await?.into_inner().message().await?;
            let mut state = ClusterState::default();
            let delta = first.ok_or_else(|| anyhow::anyhow!("it has no record of the cluster"))?.delta;
            state.follow(serde_json::from_slice(&delta)?)?;
            // After a rescue from disks alone a node's address is unknown until that node has started.
            if state.nodes.values().all(|n| n.addr.api.is_empty()) {
                anyhow::bail!("that node has not announced its address yet; try again in a moment");
            }
            anyhow::Ok(state)
        };
        match tokio::time::timeout(Duration::from_secs(10), ask).await {
            Ok(Ok(state)) => return Ok(state),
            Ok(Err(e)) => why.push(format!("{seed}: {e:#}")),
            Err(_) => why.push(format!("{seed}: no answer within 10 s")),
        }
    }
    anyhow::bail!("{}", why.join("; "))
}

/// Makes a stopped node forget what it voted on, so that it follows the leader without a vote. It must know
/// its peers' addresses, from its own record or from `known`.
pub fn follow(dir: &Path, own: Option<&Path>, known: Option<ClusterState>) -> anyhow::Result<String> {
    let lock = DataDir::open(dir)?;
    let view = known.map_or_else(
        || {
            let mut logs = Logs::default();
            let read = logs.add(dir).map(|_| logs.best());
            // Of an old view, only the peers' addresses are used.
            let old = || DataDir::view(dir).filter(|v| identity(dir).is_ok_and(|id| v.nodes.contains_key(&id.node)));
            read.or_else(|e| {
                old().ok_or_else(|| {
                    anyhow::anyhow!(
                        "the peers' addresses cannot be read here: {e:#}. Give --seed, the api address of a node that runs"
                    )
                })
            })
        },
        Ok,
    )?;
    let id = disks::identity(&lock, own, &view)?;
    // The file is synced, because the log from which these addresses came is set aside below.
    lock.save_view(&view)?;
    std::fs::File::open(dir.join(VIEW))?.sync_all()?;
    let kept = set_aside(dir, "meta")?;
    lock.save(&Identity { has_log: false, ..id.clone() })?;
    Ok(format!(
        "node #{} will follow the group without a vote until the leader gives it one.{}{kept}",
        id.node,
        disks::elsewhere(&id, &view)
    ))
}

#[cfg(test)]
mod tests;

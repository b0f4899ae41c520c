//! `holdfast rescue`: for the day when the metadata group is lost for good, that is, a majority of its voters never comes back.
//!
//! Every data directory holds the cluster's record, at most a little old: voters in their log, the others in `view.json`. Every
//! disk says of each replica which volume it belongs to, its history, the newest term it promised and the newest epoch it heard of
//! (`meta_hint`). `propose` reads what is left of both and says what the newest record seems to be, and where that is a guess;
//! `found` makes one surviving node the only voter of a group that begins with it; `follow` lets another survivor follow that.
//! Nothing here runs on its own, and nothing is deleted: what is replaced is set aside.

use crate::disk::raw::{Blocking, DiskFile};
use crate::identity::{DataDir, Identity};
use crate::inspect::{disk::chunks, raft};
use hf_meta::raft_log::RaftLog;
use hf_meta_core::record::*;
use hf_meta_core::{ClusterState, image};
use hf_policy::{BLOCK_BYTES, CHUNK_BYTES, DiskUuid, Rid, SHARD_BYTES, ShardId, Term, Ver, VolumeId};
use hf_store::{Config, ReplicaRec, recovery};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How far revisions and the Raft index jump: beyond whatever the lost majority may have decided meanwhile.
const JUMP: u64 = 1_000_000;

/// What one disk holds of one replica.
struct Found {
    rec: ReplicaRec,
    disk: DiskUuid,
    path: PathBuf,
    newest: Ver,
    bytes: u64,
}

/// What was read, and what follows from it.
pub struct Proposal {
    /// The record to go on with.
    pub state: ClusterState,
    /// The newest Raft index and term that was seen.
    last: (u64, u64),
    /// What it rests on, and what is a guess.
    pub report: Value,
}

/// Reads data directories and disks, and proposes.
pub fn propose(data_dirs: &[PathBuf], disks: &[PathBuf]) -> anyhow::Result<Proposal> {
    let (mut best, mut last, mut sources) = (ClusterState::default(), (0, 0), Vec::new());
    let mut paths: Vec<PathBuf> = disks.to_vec();
    for dir in data_dirs {
        let (state, at, kind) = state_of(dir)?;
        sources
            .push(json!({"data_dir": dir, "kind": kind, "revision": state.revision, "volumes": state.volumes.len()}));
        last = (last.0.max(at.0), last.1.max(at.1));
        if state.revision > best.revision {
            best = state;
        }
        if let Ok(id) = identity(dir) {
            paths.extend(id.disks.into_iter().map(|d| d.path).filter(|p| p.exists()));
        }
    }
    if !best.cluster.is_some() {
        anyhow::bail!(
            "no data directory given holds the cluster's record; give at least one (voters and followers both have it)"
        );
    }
    paths.sort();
    paths.dedup();
    let mut found: BTreeMap<Rid, Found> = BTreeMap::new();
    let mut notes: Vec<String> = Vec::new();
    for p in &paths {
        match replicas_on(p) {
            Ok(list) => found.extend(list.into_iter().map(|f| (f.rec.rid, f))),
            Err(e) => notes.push(format!("{}: {e:#}", p.display())),
        }
    }
    let mut volumes = Vec::new();
    restore_unknown(&mut best, &found, &mut notes);
    let ids: Vec<VolumeId> = best.volumes.keys().copied().collect();
    for id in ids {
        if let Some(v) = best.volumes.get_mut(&id) {
            volumes.push(judge(v, &found));
        }
    }
    // The group is begun anew: nobody's log has a place in it yet.
    // (The number goes on: who still runs with the old record must not take a new log for an older one.)
    best.revision += JUMP;
    for n in best.nodes.values_mut() {
        (n.log, n.rev) = (LogRecord { nth: n.log.nth + JUMP, ..LogRecord::default() }, best.revision);
    }
    best.removed_members.clear();
    for v in best.volumes.values_mut() {
        v.rev = best.revision;
    }
    best.check().map_err(|e| anyhow::anyhow!("the proposal contradicts itself: {e}"))?;
    let report = json!({
        "cluster": best.cluster, "name": best.name, "sources": sources, "disks_read": paths.len() - notes.len().min(paths.len()),
        "replicas_found": found.len(), "volumes": volumes, "notes": notes,
    });
    Ok(Proposal { state: best, last, report })
}

fn identity(dir: &Path) -> anyhow::Result<Identity> {
    Ok(serde_json::from_slice(&std::fs::read(dir.join("node.json"))?)?)
}

/// The newest record of a data directory, where its log ends, and where it comes from.
fn state_of(dir: &Path) -> anyhow::Result<(ClusterState, (u64, u64), &'static str)> {
    let known = raft::load(dir, &mut |_| {})?;
    let view: Option<ClusterState> =
        std::fs::read(dir.join("view.json")).ok().and_then(|b| serde_json::from_slice(&b).ok());
    Ok(match (known, view) {
        (Some(k), Some(v)) if v.revision > k.state.revision => (v, k.last, "a follower's view"),
        (Some(k), _) => (k.state, k.last, "a voter's log"),
        (None, Some(v)) => (v, (0, 0), "a follower's view"),
        (None, None) => anyhow::bail!("{} holds no record of a cluster", dir.display()),
    })
}

fn replicas_on(path: &Path) -> anyhow::Result<Vec<Found>> {
    let file = DiskFile::look(path)?.ok_or_else(|| anyhow::anyhow!("it holds no Holdfast disk"))?;
    let store = recovery::open(&mut Blocking(&file), Config::default())?;
    let disk = store.superblock().disk;
    let one = |r: &ReplicaRec| Found {
        rec: r.clone(),
        disk,
        path: path.to_path_buf(),
        newest: store.max_ver(r.rid),
        bytes: chunks(&store, r.rid).last().map_or(0, |c| (u64::from(c.0) + 1) * CHUNK_BYTES),
    };
    Ok(store.replicas().filter(|r| !r.deleting).map(one).collect())
}

/// Replicas that the newest record does not know of: made after it was written.
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
        let v = state.volumes.entry(vol).or_insert_with(|| unknown_volume(f));
        while v.shards.len() <= index as usize {
            v.shards.push(ShardRecord::default());
        }
        // The size is what its data says; it can be grown to what it was.
        v.size = v.size.max(u64::from(index) * SHARD_BYTES + f.bytes.clamp(BLOCK_BYTES, SHARD_BYTES));
        v.attrs.insert("size".into(), v.size.to_string());
        let r = ReplicaRecord {
            rid: *rid,
            disk,
            node,
            store_uuid: Some(f.rec.store_uuid),
            state: ReplicaState::Out { base: Ver::ZERO },
            out_since: v.epoch,
            position: 0,
            leaving: false,
            moving: false,
            paused: false,
        };
        v.shards[index as usize].replicas.insert(*rid, r);
        state.next.rid = state.next.rid.max(rid.0 + 1);
        state.next.volume = state.next.volume.max(vol.0 + 1);
    }
    // A shard of which nothing was found cannot be made up.
    state.volumes.retain(|_, v| {
        let whole = v.shards.iter().all(|s| !s.replicas.is_empty());
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

/// Which replicas of a volume count. If no disk has heard of a newer epoch than the record has, the record stands. Else members
/// may have been dropped since: then only the replica that got furthest is believed.
fn judge(v: &mut VolumeRecord, found: &BTreeMap<Rid, Found>) -> Value {
    let here: Vec<&Found> = v.shards.iter().flat_map(|s| mine_of(s, found)).filter_map(|r| found.get(&r)).collect();
    let heard = here.iter().map(|f| f.rec.hint_epoch).max().unwrap_or(0);
    let promised = here.iter().map(|f| f.rec.promised_term.0).max();
    let stale = heard > v.epoch.0 || v.shards.iter().any(|s| s.in_sync().is_empty());
    let mut shards = Vec::new();
    for (index, s) in v.shards.iter_mut().enumerate() {
        let best = mine_of(s, found).into_iter().max_by_key(|r| {
            let f = &found[r];
            (f.rec.promised_term, f.newest, std::cmp::Reverse(*r))
        });
        if let (true, Some(best)) = (stale, best) {
            for r in s.replicas.values_mut() {
                r.state = if r.rid == best { ReplicaState::InSync } else { ReplicaState::Out { base: Ver::ZERO } };
            }
        }
        let list: Vec<Value> = s
            .replicas
            .values()
            .map(|r| {
                let f = found.get(&r.rid);
                json!({
                    "replica": r.rid, "node": r.node, "counts": r.in_sync(), "found": f.map(|f| f.path.clone()),
                    "promised_term": f.map(|f| f.rec.promised_term), "newest": f.map(|f| f.newest.to_string()),
                })
            })
            .collect();
        shards.push(json!({"shard": index, "replicas": list}));
    }
    v.coordinator = None;
    v.scrub = None;
    v.term = Term(v.term.0.max(promised.unwrap_or(0)) + 1);
    v.epoch = hf_policy::Epoch(v.epoch.0.max(heard) + 1);
    let said = if stale {
        "a guess: disks have heard of newer records; the replica that got furthest counts alone"
    } else {
        "as recorded: no disk knows a newer record"
    };
    json!({"volume": v.name, "size": v.size, "decision": said, "guess": stale, "shards": shards})
}

fn mine_of(s: &ShardRecord, found: &BTreeMap<Rid, Found>) -> Vec<Rid> {
    s.replicas.keys().copied().filter(|r| found.contains_key(r)).collect()
}

fn set_aside(dir: &Path, name: &str) -> anyhow::Result<()> {
    let from = dir.join(name);
    if from.exists() {
        let aside = dir.join(format!("{name}.before-rescue-{}", crate::node::wall_ms()));
        std::fs::rename(&from, &aside).map_err(|e| anyhow::anyhow!("{}: {e}", from.display()))?;
        eprintln!("{} is kept as {}", from.display(), aside.display());
    }
    Ok(())
}

/// Makes a stopped node the only voter of a group that begins with the proposal.
pub fn found(dir: &Path, p: Proposal, confirm: &str) -> anyhow::Result<String> {
    if confirm != p.state.name {
        anyhow::bail!(
            "this founds the metadata of cluster {0} anew; whatever only lost voters knew is gone, and old voters that start again without `holdfast rescue follow` would contradict it. If that is meant: --confirm {0}",
            p.state.name
        );
    }
    // Held until the end: a running daemon keeps this out.
    let lock = DataDir::open(dir)?;
    let id = lock.identity()?;
    if id.cluster != p.state.cluster || !p.state.nodes.contains_key(&id.node) {
        anyhow::bail!("{} belongs to node #{} of cluster {}, not to this one", dir.display(), id.node, id.cluster);
    }
    set_aside(dir, "meta")?;
    set_aside(dir, "view.json")?;
    let mut log = RaftLog::open(&dir.join("meta"))?;
    log.found_again(id.node.0, image::encode(&p.state)?, p.last.0 + JUMP, p.last.1 + 10)?;
    Ok(format!(
        "node #{} is the only voter of cluster {} now, at revision {}. Start it; on every other node run: holdfast rescue follow DATA_DIR, then start it; more voters join by themselves.",
        id.node, p.state.name, p.state.revision
    ))
}

/// Makes a stopped node forget what it voted on: it follows whoever leads.
pub fn follow(dir: &Path) -> anyhow::Result<String> {
    let lock = DataDir::open(dir)?;
    let id = lock.identity()?;
    // It must know where its peers are.
    let (state, _, _) = state_of(dir)?;
    std::fs::write(dir.join("view.json"), serde_json::to_vec(&state)?)?;
    set_aside(dir, "meta")?;
    lock.save(&Identity { has_log: false, ..id.clone() })?;
    Ok(format!("node #{} will follow the group without a vote until it is given one", id.node))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use hf_policy::attributes::Media;
    use hf_policy::{DiskId, Lineage, NodeId, Policy, SessionId, StoreUuid};

    fn found(chunks: u64) -> Found {
        let rec = ReplicaRec {
            shard: ShardId { vol: VolumeId(4), index: 0 },
            rid: Rid(7),
            store_uuid: StoreUuid(1),
            lineage: Lineage(1),
            promised_term: Term(1),
            promised_session: SessionId(1),
            stable_known: Ver::ZERO,
            blocks: chunks * 256,
            deleting: false,
            hint_epoch: 1,
            hint_name: "lost".into(),
        };
        Found { rec, disk: DiskUuid(9), path: "/d".into(), newest: Ver::ZERO, bytes: chunks * CHUNK_BYTES }
    }

    fn with_a_disk() -> ClusterState {
        let disk = DiskRecord {
            id: DiskId(1),
            node: NodeId(1),
            uuid: DiskUuid(9),
            path: "/d".into(),
            media: Media::Ssd,
            capacity: 1 << 40,
            state: DiskState::Ok,
            draining: false,
            drain_paused: false,
            rev: 1,
        };
        ClusterState { disks: BTreeMap::from([(disk.id, disk)]), ..ClusterState::default() }
    }

    /// Three replicas that the record of epoch 5 has in sync: what each disk has heard of, promised and got.
    fn judged(heard: [(u64, u32, u64); 3], recorded: bool) -> (VolumeRecord, Value) {
        let of = |(hint, term, seq): (u64, u32, u64), rid| {
            let rec = ReplicaRec { rid: Rid(rid), hint_epoch: hint, promised_term: Term(term), ..found(4).rec };
            (Rid(rid), Found { rec, newest: Ver::new(term, seq), ..found(4) })
        };
        let all: BTreeMap<Rid, Found> = heard.into_iter().zip(7..).map(|(h, rid)| of(h, rid)).collect();
        let mut state = with_a_disk();
        restore_unknown(&mut state, &all, &mut Vec::new());
        let mut v = state.volumes.remove(&VolumeId(4)).unwrap();
        (v.epoch, v.term) = (hf_policy::Epoch(5), Term(4));
        for r in v.shards[0].replicas.values_mut() {
            r.state = if recorded { ReplicaState::InSync } else { ReplicaState::Out { base: Ver::ZERO } };
        }
        let said = judge(&mut v, &all);
        (v, said)
    }

    fn in_sync(v: &VolumeRecord) -> Vec<u64> {
        v.shards[0].in_sync().into_iter().map(|r| r.0).collect()
    }

    /// A record that no disk knows a newer one of stands, whatever the disks hold beyond each other: the take-over makes them equal.
    #[test]
    fn a_record_stands_while_no_disk_has_heard_of_a_newer_one() {
        let (v, said) = judged([(5, 4, 9), (3, 4, 2), (4, 4, 12)], true);
        assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![7, 8, 9], Some(false)), "{said}");
        assert_eq!((v.term, v.epoch), (Term(5), hf_policy::Epoch(6)));
    }

    /// If one has, members may have been dropped since: the one that got furthest counts alone, the others begin anew, and it is said to
    /// be a guess. The new term and epoch are above all that any disk has heard of.
    #[test]
    fn a_record_that_was_overtaken_is_guessed_from_who_got_furthest() {
        let (v, said) = judged([(5, 4, 90), (7, 6, 3), (6, 6, 1)], true);
        assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![8], Some(true)), "{said}");
        assert_eq!((v.term, v.epoch), (Term(7), hf_policy::Epoch(8)));
        let others = v.shards[0].replicas.values().filter(|r| r.rid != Rid(8));
        assert!(others.into_iter().all(|r| r.state == ReplicaState::Out { base: Ver::ZERO }));
        assert!(said["decision"].as_str().is_some_and(|d| d.starts_with("a guess")), "{said}");
        // The same where the record has nobody in sync: made up from disks alone.
        let (v, said) = judged([(1, 4, 3), (1, 4, 5), (1, 3, 99)], false);
        assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![8], Some(true)), "{said}");
    }

    /// The stored attribute is the exact size. (In rounded words, 1537 MiB became 1.50 GiB: the next change of any attribute made the
    /// volume a chunk shorter; 1639 MiB became 1.60 GiB, which is no multiple of 4 KiB, and the volume was never served.)
    #[test]
    fn a_volume_that_is_made_up_from_its_disks_has_the_size_of_its_data() {
        for chunks in [1, 100, 1024, 1536, 1537, 1639, 65536] {
            let mut state = with_a_disk();
            restore_unknown(&mut state, &BTreeMap::from([(Rid(7), found(chunks))]), &mut Vec::new());
            let v = &state.volumes[&VolumeId(4)];
            let policy = Policy::from_attrs(&v.attrs);
            assert_eq!(policy.map(|p| p.size), Ok(v.size), "{chunks} chunks");
            assert_eq!(v.size, chunks * CHUNK_BYTES);
        }
    }
}

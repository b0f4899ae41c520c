//! `holdfast rescue`: for the day when the metadata group is lost for good, that is, a majority of its voters never comes back.
//!
//! Every data directory holds the cluster's record, at most a little old: voters in their log, the others in `view.json`. Every
//! disk says of each replica which volume it belongs to, its history, how far it has got, the newest term it promised and the epoch of the
//! record at that time (`meta_hint`). `propose` reads what is left of both and says what the newest record seems to be. That is a guess
//! unless a majority of the voters' logs was read: what only the others had decided left no trace here, or only some;
//! `found` makes one surviving node the only voter of a group that begins with it; `follow` lets another survivor follow that.
//! Nothing here runs on its own, and nothing is deleted: what is replaced is set aside.

use crate::disk::raw::{Blocking, DiskFile};
use crate::identity::{DataDir, Identity, VIEW};
use crate::inspect::{disk::chunks, raft};
use hf_meta::raft_log::RaftLog;
use hf_meta_core::record::*;
use hf_meta_core::{ClusterState, image};
use hf_policy::{BLOCK_BYTES, CHUNK_BYTES, DiskUuid, Rid, SHARD_BYTES, ShardId, Term, Ver, VolumeId};
use hf_store::{Config, ReplicaRec, recovery};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// How far revisions, epochs, terms and the Raft index jump: beyond whatever the lost majority may have decided meanwhile. (A replica
/// that comes back after all would fence every coordinator of a lower term than it has promised.)
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
    let mut logs = Logs::default();
    let mut paths: Vec<PathBuf> = disks.to_vec();
    for dir in data_dirs {
        let (state, at, kind) = state_of(dir)?;
        logs.add(dir, at)?;
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
            volumes.push(judge(v, &found, &logs));
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
        "cluster": best.cluster, "name": best.name, "sources": sources,
        "voters": logs.voters, "voters_read": logs.read, "disks_read": paths.len() - notes.len().min(paths.len()),
        "replicas_found": found.len(), "volumes": volumes, "notes": notes,
    });
    Ok(Proposal { state: best, last, report })
}

/// Whose logs were read.
#[derive(Default)]
struct Logs {
    /// Who votes, by the newest log, and where that ends.
    voters: Vec<u64>,
    at: (u64, u64),
    /// Nodes whose own log was read.
    read: BTreeSet<u64>,
}

impl Logs {
    fn add(&mut self, dir: &Path, at: (u64, u64)) -> anyhow::Result<()> {
        let (Some(known), Ok(id)) = (raft::load(dir, &mut |_| {})?, identity(dir)) else { return Ok(()) };
        self.read.insert(id.node.0);
        // (Newest as Raft compares logs: by term, then by length.)
        if self.voters.is_empty() || (at.1, at.0) > (self.at.1, self.at.0) {
            (self.voters, self.at) = (known.voters, at);
        }
        Ok(())
    }

    /// Whatever was decided is in one of them.
    fn are_complete(&self) -> bool {
        let here = self.voters.iter().filter(|v| self.read.contains(v)).count();
        here > self.voters.len() / 2
    }
}

fn identity(dir: &Path) -> anyhow::Result<Identity> {
    Ok(serde_json::from_slice(&std::fs::read(dir.join("node.json"))?)?)
}

/// The newest record of a data directory, where its log ends, and where it comes from.
fn state_of(dir: &Path) -> anyhow::Result<(ClusterState, (u64, u64), &'static str)> {
    let known = raft::load(dir, &mut |_| {})?;
    let view = DataDir::view(dir);
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

/// Which replicas of a volume count. If nothing that was found contradicts the record, it stands. Else members may have been dropped
/// since: then only the replica that got furthest is believed.
fn judge(v: &mut VolumeRecord, found: &BTreeMap<Rid, Found>, logs: &Logs) -> Value {
    let here: Vec<&Found> = v.shards.iter().flat_map(|s| mine_of(s, found)).filter_map(|r| found.get(&r)).collect();
    let heard = here.iter().map(|f| f.rec.hint_epoch).max().unwrap_or(0);
    let promised = here.iter().map(|f| f.rec.promised_term.0).max();
    let overtaken = |s: &ShardRecord| s.in_sync().is_empty() || one_came_back(s, found);
    let stale = heard > v.epoch.0 || v.shards.iter().any(overtaken);
    let (mut shards, mut missing) = (Vec::new(), Vec::new());
    for (index, s) in v.shards.iter_mut().enumerate() {
        let best = mine_of(s, found).into_iter().max_by_key(|r| {
            // What it has noted to hold all of comes first: one that was being filled may have the newest writes, and holes.
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
            "a guess: what disks hold or have heard of is newer than the record; the replica that got furthest counts alone"
        }
        (false, true) => "as recorded, by a majority of the voters",
        (false, false) => {
            "a guess: the newest record that was read, and nothing that was found contradicts it; but fewer than a majority of the voters' logs were read: a replica that counts may have been dropped since, and lack what was written then"
        }
    };
    json!({
        "volume": v.name, "size": v.size, "decision": said, "guess": stale || !logs.are_complete(), "missing": missing,
        "shards": shards,
    })
}

/// A replica that is out by the record has been in sync since: it has noted to hold more than it was known to when it was dropped.
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
    set_aside(dir, VIEW)?;
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
    lock.save_view(&state)?;
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

    /// What one disk says of its replica: the epoch it has heard of, the term it promised, its newest write, and what it has noted to hold.
    struct Says(u64, u32, u64, Ver);

    /// Three replicas in a record of epoch 5; `out`: those that are out by it, since this.
    fn judged(disks: [Says; 3], out: [Option<Ver>; 3], logs: &Logs) -> (VolumeRecord, Value) {
        let of = |Says(hint, term, seq, noted): Says, rid| {
            let rec = ReplicaRec {
                rid: Rid(rid),
                hint_epoch: hint,
                promised_term: Term(term),
                stable_known: noted,
                ..found(4).rec
            };
            (Rid(rid), Found { rec, newest: Ver::new(term, seq), ..found(4) })
        };
        let all: BTreeMap<Rid, Found> = disks.into_iter().zip(7..).map(|(d, rid)| of(d, rid)).collect();
        let mut state = with_a_disk();
        restore_unknown(&mut state, &all, &mut Vec::new());
        let mut v = state.volumes.remove(&VolumeId(4)).unwrap();
        (v.epoch, v.term) = (hf_policy::Epoch(5), Term(4));
        for (r, out) in v.shards[0].replicas.values_mut().zip(out) {
            r.state = out.map_or(ReplicaState::InSync, |base| ReplicaState::Out { base });
        }
        let said = judge(&mut v, &all, logs);
        (v, said)
    }

    fn logs(voters: &[u64], read: &[u64]) -> Logs {
        Logs { voters: voters.to_vec(), at: (9, 1), read: read.iter().copied().collect() }
    }

    fn in_sync(v: &VolumeRecord) -> Vec<u64> {
        v.shards[0].in_sync().into_iter().map(|r| r.0).collect()
    }

    fn noted(seq: u64) -> Ver {
        Ver::new(4, seq)
    }

    /// A record that nothing contradicts stands, whatever the disks hold beyond each other: the take-over makes them equal. It is certain
    /// only if a majority of the voters has it.
    #[test]
    fn a_record_stands_while_nothing_contradicts_it_and_is_a_guess_unless_a_majority_has_it() {
        let disks = || [Says(5, 4, 9, noted(1)), Says(3, 4, 2, noted(0)), Says(4, 4, 12, noted(7))];
        for (read, certain) in [(&[1, 2][..], true), (&[1, 2, 3], true), (&[1], false), (&[1, 9], false), (&[], false)]
        {
            let (v, said) = judged(disks(), [None; 3], &logs(&[1, 2, 3], read));
            assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![7, 8, 9], Some(!certain)), "{said}");
            assert_eq!((v.term, v.epoch), (Term(1_000_004), hf_policy::Epoch(1_000_005)));
        }
        // One that is out, and being filled: its newest write says nothing.
        let disks = [Says(5, 4, 9, noted(8)), Says(5, 4, 99, Ver::ZERO), Says(5, 4, 9, noted(3))];
        let (v, said) = judged(disks, [None, Some(Ver::ZERO), Some(noted(3))], &logs(&[1], &[1]));
        assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![7], Some(false)), "{said}");
    }

    /// If one has heard of a newer one, members may have been dropped since: who has noted to hold most counts alone, the others begin anew,
    /// and it is said to be a guess. The new term and epoch are far above all that any disk has heard of.
    #[test]
    fn a_record_that_was_overtaken_is_guessed_from_who_has_noted_to_hold_most() {
        let all = logs(&[1], &[1]);
        let disks = [Says(5, 4, 90, noted(80)), Says(7, 6, 3, Ver::new(6, 0)), Says(6, 6, 9, Ver::ZERO)];
        let (v, said) = judged(disks, [None; 3], &all);
        assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![8], Some(true)), "{said}");
        assert_eq!((v.term, v.epoch), (Term(1_000_006), hf_policy::Epoch(1_000_007)));
        let others = v.shards[0].replicas.values().filter(|r| r.rid != Rid(8));
        assert!(others.into_iter().all(|r| r.state == ReplicaState::Out { base: Ver::ZERO }));
        assert!(said["decision"].as_str().is_some_and(|d| d.starts_with("a guess")), "{said}");
        // The same where the record has nobody in sync: made up from disks alone.
        let disks = [Says(1, 4, 3, noted(2)), Says(1, 4, 5, noted(4)), Says(1, 4, 99, Ver::ZERO)];
        let (v, said) = judged(disks, [Some(Ver::ZERO); 3], &all);
        assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![8], Some(true)), "{said}");
    }

    /// One was out when the record was written, came back in, and then the one that counts was dropped: all within a term, so that no
    /// epoch on a disk tells. What the first has noted does.
    #[test]
    fn a_replica_that_came_back_in_after_the_record_was_written_shows_that_it_is_old() {
        let disks = [Says(5, 4, 40, noted(30)), Says(5, 4, 90, noted(80)), Says(5, 4, 40, noted(20))];
        let (v, said) = judged(disks, [None, Some(noted(20)), Some(noted(20))], &logs(&[1, 2, 3], &[1]));
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

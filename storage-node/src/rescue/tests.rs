//! Tests of what a rescue concludes from disks and logs.
#![allow(clippy::unwrap_used)]

use super::*;
use hf_policy::attributes::Media;
use hf_policy::{CHUNK_BYTES, DiskId, Lineage, NodeId, Policy, SessionId, StoreUuid};

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
        hint_size: 0,
    };
    Found { rec, disk: DiskUuid(9), path: "/d".into(), generation: 1, newest: Ver::ZERO, bytes: chunks * CHUNK_BYTES }
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
        fault: None,
        since_ms: 0,
        rev: 1,
    };
    ClusterState { disks: [disk].into_iter().collect(), ..ClusterState::default() }
}

/// What one disk says of its replica: the epoch that it has heard of, the term that it promised, its newest
/// write, and what it has noted to hold.
struct Says(u64, u32, u64, Ver);

fn found_of(Says(hint, term, seq, noted): Says, rid: u64) -> (Rid, Found) {
    let (rid, promised) = (Rid(rid), Term(term));
    let rec = ReplicaRec { rid, hint_epoch: hint, promised_term: promised, stable_known: noted, ..found(4).rec };
    (rid, Found { rec, newest: Ver::new(term, seq), ..found(4) })
}

/// A volume with three replicas in a record of epoch 5; `out` lists those that are out, with their bases.
fn judged(disks: [Says; 3], out: [Option<Ver>; 3], logs: &Logs) -> (VolumeRecord, Value) {
    let all: BTreeMap<Rid, Found> = disks.into_iter().zip(7..).map(|(d, rid)| found_of(d, rid)).collect();
    let mut state = with_a_disk();
    restore_unknown(&mut state, &all, &mut Vec::new());
    let mut v = VolumeRecord::clone(&state.volumes[&VolumeId(4)]);
    (v.epoch, v.term) = (hf_policy::Epoch(5), Term(4));
    for (r, out) in v.shards[0].replicas.values_mut().zip(out) {
        r.state = out.map_or(ReplicaState::InSync, |base| ReplicaState::Out { base });
    }
    let said = judge(&mut v, &all, logs);
    (v, said)
}

fn logs(voters: &[u64], read: &[u64]) -> Logs {
    Logs { voters: voters.to_vec(), read: read.iter().copied().collect(), ..Logs::default() }
}

fn in_sync(v: &VolumeRecord) -> Vec<u64> {
    v.shards[0].in_sync().into_iter().map(|r| r.0).collect()
}

fn noted(seq: u64) -> Ver {
    Ver::new(4, seq)
}

/// A record that nothing contradicts stands, even if some disks hold more than others, because the take-over
/// makes them equal. It is certain only if a majority of the voters has it.
#[test]
fn a_record_stands_while_nothing_contradicts_it_and_is_a_guess_unless_a_majority_has_it() {
    let disks = || [Says(5, 4, 9, noted(1)), Says(3, 4, 2, noted(0)), Says(4, 4, 12, noted(7))];
    for (read, certain) in [(&[1, 2][..], true), (&[1, 2, 3], true), (&[1], false), (&[1, 9], false), (&[], false)] {
        let (v, said) = judged(disks(), [None; 3], &logs(&[1, 2, 3], read));
        assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![7, 8, 9], Some(!certain)), "{said}");
        assert_eq!((v.term, v.epoch), (Term(1_000_004), hf_policy::Epoch(1_000_005)));
    }
    // The newest write of a replica that is out and being filled says nothing.
    let disks = [Says(5, 4, 9, noted(8)), Says(5, 4, 99, Ver::ZERO), Says(5, 4, 9, noted(3))];
    let (v, said) = judged(disks, [None, Some(Ver::ZERO), Some(noted(3))], &logs(&[1], &[1]));
    assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![7], Some(false)), "{said}");
}

/// If a disk has heard of a newer record, members may have been dropped since. Only the replica that has
/// noted to hold most counts, the others begin anew, and the report calls it a guess. The new term and epoch
/// are far above all that any disk has heard of.
#[test]
fn a_record_that_was_overtaken_is_guessed_from_who_has_noted_to_hold_most() {
    let all = logs(&[1, 2, 3], &[1]);
    let disks = [Says(5, 4, 90, noted(80)), Says(7, 6, 3, Ver::new(6, 0)), Says(6, 6, 9, Ver::ZERO)];
    let (v, said) = judged(disks, [None; 3], &all);
    assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![8], Some(true)), "{said}");
    assert_eq!((v.term, v.epoch), (Term(1_000_006), hf_policy::Epoch(1_000_007)));
    let others = v.shards[0].replicas.values().filter(|r| r.rid != Rid(8));
    assert!(others.into_iter().all(|r| r.state == ReplicaState::Out { base: Ver::ZERO }));
    assert!(said["decision"].as_str().is_some_and(|d| d.starts_with("a guess")), "{said}");
    // The same holds if the record has no replica in sync, because it was made from disks alone.
    let disks = [Says(1, 4, 3, noted(2)), Says(1, 4, 5, noted(4)), Says(1, 4, 99, Ver::ZERO)];
    let (v, said) = judged(disks, [Some(Ver::ZERO); 3], &all);
    assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![8], Some(true)), "{said}");
}

/// One replica was out when the record was written and came back in, and then the replica that the record
/// calls in sync was dropped. All of that was within a term, so no epoch on a disk shows it. The first one's
/// watermark does.
#[test]
fn a_replica_that_came_back_in_after_the_record_was_written_shows_that_it_is_old() {
    let disks = || [Says(5, 4, 40, noted(30)), Says(5, 4, 90, noted(80)), Says(5, 4, 40, noted(20))];
    let out = [None, Some(noted(20)), Some(noted(20))];
    let (v, said) = judged(disks(), out, &logs(&[1, 2, 3], &[1]));
    assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![8], Some(true)), "{said}");
    // A majority of logs decides otherwise: the replica had noted that before a join that failed.
    let (v, said) = judged(disks(), out, &logs(&[1, 2, 3], &[1, 3]));
    assert_eq!((in_sync(&v), said["guess"].as_bool()), (vec![7], Some(false)), "{said}");
    // Nor is it promoted if the in-sync replica was merely not found, because that one may hold more.
    let mut v = v;
    v.shards[0].replicas.values_mut().nth(1).unwrap().state = ReplicaState::Out { base: noted(20) };
    let (_, f) = disks().into_iter().zip([7, 8]).map(|(d, rid)| found_of(d, rid)).nth(1).unwrap();
    let said = judge(&mut v, &BTreeMap::from([(Rid(8), f)]), &logs(&[1, 2, 3], &[1]));
    assert_eq!((in_sync(&v), &said["missing"]), (vec![7], &json!([7])), "{said}");
    assert!(said["decision"].as_str().is_some_and(|d| d.contains("force-insync")), "{said}");
}

/// The stored attribute is the exact size. (It was once rounded text: 1537 MiB became 1.50 GiB, and the next
/// change of any attribute made the volume a chunk shorter; 1639 MiB became 1.60 GiB, which is no multiple of
/// 4 KiB, and the volume was never served.)
#[test]
fn a_volume_that_is_made_up_from_its_disks_has_its_exact_size() {
    for chunks in [1, 100, 1024, 1536, 1537, 1639, 65536] {
        let mut state = with_a_disk();
        restore_unknown(&mut state, &BTreeMap::from([(Rid(7), found(chunks))]), &mut Vec::new());
        let v = &state.volumes[&VolumeId(4)];
        let policy = Policy::from_attrs(&v.attrs);
        assert_eq!(policy.map(|p| p.size), Ok(v.size), "{chunks} chunks");
        assert_eq!(v.size, chunks * CHUNK_BYTES);
        // The noted size counts: the end may never have been written, or lie in the middle of a chunk.
        let size = (chunks + 7) * CHUNK_BYTES - 4096;
        let noted = |index| {
            let rec = ReplicaRec {
                shard: ShardId { vol: VolumeId(4), index },
                rid: Rid(7 + u64::from(index)),
                ..found(chunks).rec
            };
            let hint_size = size;
            (rec.rid, Found { rec: ReplicaRec { hint_size, ..rec }, bytes: CHUNK_BYTES, ..found(chunks) })
        };
        let mut state = with_a_disk();
        let shards = size.div_ceil(SHARD_BYTES) as u32;
        restore_unknown(&mut state, &(0..shards).map(noted).collect(), &mut Vec::new());
        assert_eq!(
            (state.volumes[&VolumeId(4)].size, state.volumes[&VolumeId(4)].shards.len()),
            (size, shards as usize)
        );
        // A volume whose last shard was not found is left out, not served shorter.
        let (mut state, mut notes) = (with_a_disk(), Vec::new());
        restore_unknown(&mut state, &(0..shards - 1).map(noted).collect(), &mut notes);
        assert!(
            state.volumes.is_empty() && (shards == 1 || notes[0].contains("a shard was found on no disk")),
            "{notes:?}"
        );
        // The volume was grown after its size was noted: what was written there is not cut off.
        let f = found(chunks);
        let f = Found { rec: ReplicaRec { hint_size: CHUNK_BYTES, ..f.rec }, ..f };
        let mut state = with_a_disk();
        restore_unknown(&mut state, &BTreeMap::from([(Rid(7), f)]), &mut Vec::new());
        assert_eq!(state.volumes[&VolumeId(4)].size, chunks * CHUNK_BYTES);
    }
}

/// All of the newest log counts, also entries that its node did not know to be committed, because the lost
/// voters may have acted on them. A log that is known to be an older copy does not count.
#[test]
fn a_majority_counts_with_the_whole_of_its_newest_log_and_without_older_copies() {
    use hf_meta::log::{Batch, Log};
    use hf_meta_core::Command;
    use hf_policy::{BootId, RequestId};
    let root = std::env::temp_dir().join(format!("holdfast-rescue-{}", std::process::id()));
    let dir = |n: u64| root.join(n.to_string());
    let node = |n: u64, tail: bool, older: bool| {
        std::fs::create_dir_all(dir(n)).unwrap();
        let id = Identity {
            format: crate::identity::FORMAT,
            uuid: BootId(n.into()),
            cluster: hf_policy::ClusterId(5),
            node: NodeId(n),
            disks: Vec::new(),
            has_log: true,
        };
        std::fs::write(dir(n).join("node.json"), id.encode().unwrap()).unwrap();
        let mut state = with_a_disk();
        state.cluster = hf_policy::ClusterId(5);
        let mut log = RaftLog::open(&dir(n).join("meta")).unwrap();
        let mut first = Batch { install: Some(Default::default()), hard: Some(Default::default()), ..Batch::default() };
        if let (Some(s), Some(hard)) = (first.install.as_mut(), first.hard.as_mut()) {
            s.data = image::encode(&state).unwrap();
            (s.mut_metadata().index, s.mut_metadata().term) = (10, 3);
            s.mut_metadata().mut_conf_state().voters = vec![1, 2, 3];
            (hard.term, hard.commit) = (3, 10);
        }
        log.commit(first).unwrap();
        if tail {
            let cmd = Command::PauseRebuild { paused: true };
            let env = hf_meta_core::Envelope { v: 1, request: RequestId(7), at_ms: 0, cmd };
            let mut b = Batch::default();
            b.entries.resize_with(1, Default::default);
            (b.entries[0].index, b.entries[0].term) = (11, 3);
            b.entries[0].data = env.encode().unwrap();
            log.commit(b).unwrap();
        }
        let own = log.own().clone();
        log.set_own(hf_meta_core::record::OwnLog { older, ..own }).unwrap();
    };
    node(1, false, false);
    node(2, true, false);
    node(3, true, true);
    let read = |nodes: &[u64]| {
        let mut logs = Logs::default();
        nodes.iter().for_each(|n| drop(logs.add(&dir(*n)).unwrap()));
        (logs.are_complete(), logs.best().rebuild_paused)
    };
    assert_eq!(read(&[1, 2]), (true, true));
    assert_eq!(read(&[1]), (false, false));
    assert_eq!(read(&[2]), (false, true));
    assert!(!read(&[1, 3]).0, "an older copy is no voter's word");
    std::fs::remove_dir_all(root).unwrap();
}

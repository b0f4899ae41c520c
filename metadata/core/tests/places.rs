//! Where replicas go and where not: slots of a disk's table are counted, a refusal says what is missing, a disk that
//! has failed gets nothing and holds nothing that counts, and a plan follows from the record alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::world::World;
use hf_meta_core::limits::{Going, SYNCS_PER_DISK, room};
use hf_meta_core::plan::repair::{needs_coordinator, steps};
use hf_meta_core::plan::{self, Standing, Step, standing};
use hf_meta_core::record::*;
use hf_meta_core::{Command, Refusal, Reply};
use hf_policy::policy::parse_pairs;
use hf_policy::*;

/// What a create is answered, if it is placed now; it is recorded.
fn create(w: &mut World, name: &str, attrs: &str) -> Result<VolumeId, Refusal> {
    let attrs = parse_pairs(attrs.split_whitespace()).unwrap();
    let shards = plan::create_volume(&w.s, &w.live, name, &attrs, 7)?;
    let done = w.run(Command::CreateVolume { name: name.into(), attrs, lineage: Lineage(1), shards });
    let Some(Reply::Volume(id)) = done else { panic!("{name} is placed and refused") };
    Ok(id)
}

#[test]
fn the_65th_replica_of_a_table_for_64_is_refused_by_name() {
    let mut w = World::new(1, 1);
    w.live.entries.insert(DiskId(1), 64);
    for i in 0..64 {
        create(&mut w, &format!("v{i}"), "size=1MiB replicas=1").unwrap();
    }
    let e = create(&mut w, "v64", "size=1MiB replicas=1").unwrap_err();
    assert!(matches!(e, Refusal::NoSpace(_)), "{e:?}");
    let text = e.to_string();
    assert!(text.contains("node n1 disk 1: its replica table is full: 64 replicas of at most 64 (entries)"), "{text}");
    // A slot is free only when the data of a deleted replica is gone.
    let (vol, epoch) = (VolumeId(1), w.s.volumes[&VolumeId(1)].epoch);
    w.run(Command::DeleteVolume { vol, epoch }).unwrap();
    assert!(matches!(create(&mut w, "v64", "size=1MiB replicas=1"), Err(Refusal::NoSpace(_))));
    w.agents();
    create(&mut w, "v64", "size=1MiB replicas=1").unwrap();
}

#[test]
fn every_shard_of_a_volume_takes_a_slot() {
    let mut w = World::new(1, 1);
    w.live.entries.insert(DiskId(1), 2);
    assert!(matches!(create(&mut w, "v", "size=129GiB replicas=1"), Err(Refusal::NoSpace(_))), "three shards");
    let vol = create(&mut w, "v", "size=128GiB replicas=1").unwrap();
    let change = parse_pairs(["size=129GiB"]).unwrap();
    let v = w.s.volumes[&vol].clone();
    assert!(matches!(plan::set_policy(&w.s, &w.live, &v, &change, 0), Err(Refusal::NoSpace(_))));
}

/// With three replicas on three nodes one full disk is enough to refuse; a fourth node takes its place.
#[test]
fn a_full_disk_counts_where_every_node_is_needed() {
    for (nodes, fits) in [(3, false), (4, true)] {
        let mut w = World::new(1, nodes);
        w.live.entries.extend((1..=nodes).map(|i| (DiskId(i), 64)));
        for i in 0..64 {
            create(&mut w, &format!("v{i}"), "size=1MiB replicas=1 nodes=n1").unwrap();
        }
        assert_eq!(w.s.load(DiskId(1)).replicas, 64);
        match create(&mut w, "all", "size=1MiB replicas=3") {
            Ok(vol) => {
                assert!(fits && w.s.volumes[&vol].replicas().all(|(_, r)| r.disk != DiskId(1)));
            }
            Err(e) => {
                assert!(!fits && matches!(e, Refusal::NoSpace(_)), "{e:?}");
                assert!(
                    e.to_string().contains("only 2 can hold one; node n1 disk 1: its replica table is full"),
                    "{e}"
                );
            }
        }
    }
}

#[test]
fn a_refusal_by_rules_is_another_one_than_for_want_of_room() {
    let mut w = World::new(1, 3);
    for attrs in ["size=1MiB replicas=4", "size=1MiB replicas=1 media=hdd", "size=1MiB replicas=1 nodes=nobody"] {
        let e = create(&mut w, "v", attrs).unwrap_err();
        assert!(matches!(&e, Refusal::Unplaceable(text) if text.contains("cannot place")), "{attrs}: {e:?}");
    }
    let vol = create(&mut w, "v", "size=1MiB replicas=3").unwrap();
    let v = w.s.volumes[&vol].clone();
    let set = |pairs: &str| {
        let change = parse_pairs([pairs]).unwrap();
        plan::set_policy(&w.s, &w.live, &v, &change, 0).unwrap_err()
    };
    assert!(matches!(set("replicas=4"), Refusal::Unplaceable(_)));
    let e = set("size=60TiB");
    assert!(matches!(&e, Refusal::NoSpace(text) if text.contains("do not fit")), "{e:?}");
    for refusal in [Refusal::Unplaceable("x".into()), Refusal::NoSpace("x".into())] {
        assert!(!refusal.is_final() && refusal.fate() == Fate::Refuse && refusal.to_string() == "x");
    }
}

/// A volume with a replica in sync on each of three nodes, of which the disk of node 1 fails.
fn with_a_failed_disk() -> (World, VolumeId) {
    let mut w = World::new(1, 3);
    let vol = w.volume("v", "size=1GiB replicas=3 min_replicas=1");
    let state = DiskState::Failed("EIO".into());
    w.run(Command::SetDiskState { disk: DiskId(1), state, fault: Some(DiskFault::Io) }).unwrap();
    (w, vol)
}

fn on(w: &World, vol: VolumeId, node: u64) -> ReplicaRecord {
    w.s.volumes[&vol].replicas().find(|(_, r)| r.node == NodeId(node)).map(|(_, r)| r.clone()).unwrap()
}

#[test]
fn a_disk_that_has_failed_gets_nothing_whoever_decided_it() {
    let (mut w, vol) = with_a_failed_disk();
    let e = create(&mut w, "other", "size=1MiB replicas=3").unwrap_err();
    assert!(matches!(&e, Refusal::Unplaceable(text) if text.contains("node n1 disk 1: it has failed")), "{e:?}");
    let attrs = parse_pairs(["size=1MiB", "replicas=1"]).unwrap();
    let shards = vec![vec![DiskId(1)]];
    let decided_before = Command::CreateVolume { name: "x".into(), attrs, lineage: Lineage(1), shards };
    assert_eq!(w.run(decided_before), None);
    let one = create(&mut w, "one", "size=1MiB replicas=1 nodes=n2").unwrap();
    let epoch = w.s.volumes[&one].epoch;
    assert_eq!(w.run(Command::AddReplica { vol: one, shard: 0, epoch, disk: DiskId(1) }), None);
    assert_eq!(w.s.load(DiskId(1)).replicas, 1, "only what it had: {:?}", w.s.volumes[&vol]);
}

#[test]
fn a_replica_in_sync_on_a_disk_that_has_failed_is_not_available() {
    let (mut w, vol) = with_a_failed_disk();
    let (r, policy) = (on(&w, vol, 1), w.s.volumes[&vol].policy().unwrap().clone());
    assert!(r.in_sync() && !w.s.is_available(&r) && w.s.is_available(&on(&w, vol, 2)));
    assert_eq!(standing(&w.s, &w.live, &policy, &r), Standing::Gone);
    assert!(needs_coordinator(&w.s, &w.live, &w.s.volumes[&vol], &policy), "somebody has to take it out");
    // Whose own copy is lost is not asked to look after the others.
    let maintain: Vec<NodeId> = steps(&w.s, &w.live)
        .iter()
        .filter_map(|s| if let Step::Maintain { node, .. } = s { Some(*node) } else { None })
        .collect();
    assert!(maintain.len() == 1 && maintain[0] != NodeId(1), "{maintain:?}");
    // It is no reason to let another one go, and cannot be declared the truth.
    let leave = |w: &mut World, node: u64| {
        let (epoch, rid) = (w.s.volumes[&vol].epoch, on(w, vol, node).rid);
        w.run(Command::Leave { vol, shard: 0, epoch, rid })
    };
    assert!(leave(&mut w, 2).is_some(), "the one on node 3 stays");
    assert!(leave(&mut w, 3).is_none(), "none that works would stay");
    assert!(leave(&mut w, 1).is_some(), "it is of no use itself");
    let force = |w: &mut World, node: u64| {
        let (epoch, rid, lineage) = (w.s.volumes[&vol].epoch, on(w, vol, node).rid, Lineage(2));
        w.run(Command::ForceInsync { vol, shard: 0, epoch, rid, lineage, operator: "o".into(), reason: "r".into() })
    };
    assert!(force(&mut w, 1).is_none());
    assert!(force(&mut w, 3).is_some());
}

/// A copy that nobody can send takes no place from those that can run.
#[test]
fn a_disk_that_has_failed_is_no_source_of_a_copy() {
    let mut w = World::new(1, 3);
    let mut going = Vec::new();
    for i in 0..=SYNCS_PER_DISK {
        let vol = w.volume(&format!("v{i}"), "size=1GiB replicas=1 nodes=n1");
        let epoch = w.s.volumes[&vol].epoch;
        w.run(Command::AddReplica { vol, shard: 0, epoch, disk: DiskId(2) }).unwrap();
        going.push(Going { vol, shard: 0, rid: on(&w, vol, 2).rid });
    }
    let up = w.live.up.clone();
    let (last, others) = going.split_last().unwrap();
    assert!(matches!(room(&w.s, others, &up, *last), Err(Refusal::Busy(_))), "as many are filled as may");
    let state = DiskState::Failed("EIO".into());
    w.run(Command::SetDiskState { disk: DiskId(1), state, fault: None }).unwrap();
    assert_eq!(room(&w.s, others, &up, *last), Ok(()));
}

/// Who asks what the leader would do gets the answer that the leader acts on, also later and on another node.
#[test]
fn a_plan_follows_from_the_record_and_from_who_answers() {
    let mut w = World::new(1, 9);
    let vols: Vec<VolumeId> = (0..20).map(|i| w.volume(&format!("v{i}"), "size=1GiB replicas=2")).collect();
    let state = DiskState::Failed("EIO".into());
    w.run(Command::SetDiskState { disk: DiskId(1), state, fault: None }).unwrap();
    let adds = |w: &World| {
        let add = |s: &Step| match s {
            Step::Do(Command::AddReplica { vol, disk, .. }) => Some((*vol, *disk)),
            _ => None,
        };
        steps(&w.s, &w.live).iter().filter_map(add).collect::<Vec<_>>()
    };
    let asked = adds(&w);
    assert!(asked.len() >= 2, "{asked:?}");
    // Other things that happen meanwhile move the revision, and nothing else.
    w.run(Command::SetVoters { voters: 3 }).unwrap();
    assert_eq!(adds(&w), asked);
    let disks: std::collections::BTreeSet<DiskId> = asked.iter().map(|(_, d)| *d).collect();
    assert!(disks.len() >= 2, "they do not all go to one disk: {asked:?}");
    assert!(asked.iter().all(|(v, _)| vols.contains(v)));
}

//! What the record says since version 3: why replicas are out, what is wrong with disks, which checks are muted, how a
//! volume is called now; that nothing of it is said before; and the table of kinds of events.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::formats::samples;
use crate::world::World;
use hf_meta_core::command::{COMMAND_VERSION, FIRST_VERSION, ShardChange, ShardStep};
use hf_meta_core::record::*;
use hf_meta_core::{Command, Envelope, Outcome, Refusal, Reply};
use hf_policy::*;
use std::collections::{BTreeMap, BTreeSet};

/// Applies a command, and says what came of it; by this version of commands.
fn apply(w: &mut World, v: u32, at_ms: u64, cmd: Command) -> Outcome {
    let done = w.s.apply(&Envelope { v, request: RequestId::NONE, at_ms, cmd });
    w.s.check().unwrap();
    done
}

/// A volume with three replicas that is attached on node 1.
fn attached() -> (World, VolumeId) {
    let mut w = World::new(1, 3);
    let vol = w.volume("v", "size=1GiB replicas=3 min_replicas=1");
    attach(&mut w, vol, 1, false);
    (w, vol)
}

fn attach(w: &mut World, vol: VolumeId, node: u64, maintenance: bool) {
    let (epoch, node, session) = (w.s.volumes[&vol].epoch, NodeId(node), SessionId(u128::from(node)));
    w.run(Command::Attach { vol, epoch, node, session, steal: true, maintenance }).unwrap();
}

fn replica(w: &World, vol: VolumeId, rid: u64) -> &ReplicaRecord {
    &w.s.volumes[&vol].shards[0].replicas[&Rid(rid)]
}

fn drop_of(w: &World, vol: VolumeId, rids: &[(u64, Option<DropReason>)]) -> Command {
    let v = &w.s.volumes[&vol];
    let reasons = rids.iter().filter_map(|(r, why)| why.map(|why| (Rid(*r), why))).collect();
    let (shard, epoch, term, rids) = (0, v.epoch, v.term, rids.iter().map(|(r, _)| Rid(*r)).collect());
    Command::Drop { vol, shard, epoch, term, rids, base: Ver::ZERO, told: BTreeMap::new(), reasons }
}

fn last(w: &World) -> &Event {
    w.s.events.back().unwrap()
}

#[test]
fn a_replica_says_why_and_since_when_it_is_out_until_it_is_in_sync_again() {
    let (mut w, vol) = attached();
    let cmd = drop_of(&w, vol, &[(2, Some(DropReason::Disk))]);
    apply(&mut w, 3, 77, cmd).unwrap();
    assert_eq!(replica(&w, vol, 2).dropped, Some(Dropped { reason: DropReason::Disk, at_ms: 77 }));
    assert_eq!(replica(&w, vol, 3).dropped, None);
    let (disk, node) = (replica(&w, vol, 2).disk, w.s.node_name(replica(&w, vol, 2).node));
    let text = format!("volume v: replica 2 on disk {disk} of node {node} dropped, 2 in sync: its disk has failed");
    assert_eq!(last(&w).text, text);
    let v = w.s.volumes[&vol].clone();
    let (shard, term, rid, store_uuid) = (0, v.term, Rid(2), StoreUuid(2));
    apply(&mut w, 3, 78, Command::SyncStart { vol, shard, epoch: v.epoch, term, rid, sync_id: 1 }).unwrap();
    assert!(replica(&w, vol, 2).dropped.is_some(), "it is still out");
    let epoch = w.s.volumes[&vol].epoch;
    apply(&mut w, 3, 79, Command::Add { vol, shard, epoch, term, rid, store_uuid }).unwrap();
    assert_eq!(replica(&w, vol, 2).dropped, None);
}

#[test]
fn a_reason_that_was_not_told_is_not_made_up() {
    let (mut w, vol) = attached();
    let cmd = drop_of(&w, vol, &[(2, None)]);
    apply(&mut w, 3, 77, cmd).unwrap();
    assert_eq!(replica(&w, vol, 2).dropped, None);
    assert!(last(&w).text.ends_with("dropped, 2 in sync"), "{}", last(&w).text);
}

#[test]
fn changes_together_carry_their_reasons_into_one_event_for_a_node() {
    let mut w = World::new(1, 3);
    let vol = w.volume("v", "size=129GiB replicas=3 min_replicas=1");
    attach(&mut w, vol, 1, false);
    let v = w.s.volumes[&vol].clone();
    assert!(v.shards.len() >= 3);
    let on = |s: &ShardRecord| s.replicas.values().find(|r| r.node == NodeId(2)).unwrap().rid;
    let step = |s: &ShardRecord, why| ShardStep::Drop {
        rids: vec![on(s)],
        base: Ver::ZERO,
        told: BTreeMap::new(),
        reasons: [(on(s), why)].into(),
    };
    let whys = [DropReason::Link, DropReason::Link, DropReason::Timeout];
    let changes = v.shards.iter().zip(whys).enumerate();
    let changes = changes.map(|(i, (s, why))| ShardChange { shard: i as u32, what: step(s, why) }).collect();
    apply(&mut w, 3, 5, Command::Together { vol, epoch: v.epoch, term: v.term, changes }).unwrap();
    for (s, reason) in w.s.volumes[&vol].shards.iter().zip(whys) {
        let r = s.replicas.values().find(|r| r.node == NodeId(2)).unwrap();
        assert_eq!(r.dropped, Some(Dropped { reason, at_ms: 5 }));
    }
    let text = "volume v: 3 replicas on node n2 (disks 2) dropped, at least 2 in sync in each shard: \
                it did not answer in time; the link to it was down";
    assert_eq!(last(&w).text, text);
}

#[test]
fn the_last_resort_keeps_older_reasons_and_gives_its_own_to_who_was_in_sync() {
    let (mut w, vol) = attached();
    let cmd = drop_of(&w, vol, &[(2, Some(DropReason::Link))]);
    apply(&mut w, 3, 5, cmd).unwrap();
    let (epoch, lineage) = (w.s.volumes[&vol].epoch, Lineage(9));
    let (operator, reason) = ("o".to_string(), "r".to_string());
    let cmd = Command::ForceInsync { vol, shard: 0, epoch, rid: Rid(3), lineage, operator, reason };
    apply(&mut w, 3, 6, cmd).unwrap();
    assert_eq!(replica(&w, vol, 1).dropped, Some(Dropped { reason: DropReason::Forced, at_ms: 6 }));
    assert_eq!(replica(&w, vol, 2).dropped, Some(Dropped { reason: DropReason::Link, at_ms: 5 }));
    assert_eq!(replica(&w, vol, 3).dropped, None);
}

#[test]
fn a_disk_says_what_is_wrong_with_it_and_since_when() {
    let mut w = World::new(1, 2);
    let disk = DiskId(1);
    let set = |state: DiskState, fault| Command::SetDiskState { disk, state, fault };
    let failed = || DiskState::Failed("EIO".into());
    assert_eq!((w.s.disks[&disk].fault, w.s.disks[&disk].since_ms), (None, 0));
    apply(&mut w, 3, 50, set(failed(), Some(DiskFault::Io))).unwrap();
    assert_eq!((w.s.disks[&disk].fault, w.s.disks[&disk].since_ms), (Some(DiskFault::Io), 50));
    // Told again it is neither news nor a change.
    let (events, rev) = (w.s.events.len(), w.s.disks[&disk].rev);
    apply(&mut w, 3, 60, set(failed(), Some(DiskFault::Io))).unwrap();
    assert_eq!((w.s.events.len(), w.s.disks[&disk].rev, w.s.disks[&disk].since_ms), (events, rev, 50));
    // Other words for the same: it has not changed since.
    apply(&mut w, 3, 70, set(DiskState::Failed("EIO again".into()), Some(DiskFault::Io))).unwrap();
    assert_eq!(w.s.disks[&disk].since_ms, 50);
    apply(&mut w, 3, 80, set(DiskState::Ok, None)).unwrap();
    assert_eq!((w.s.disks[&disk].fault, w.s.disks[&disk].since_ms), (None, 80));
    // It is put on record anew when its node starts: nothing of this is forgotten.
    apply(&mut w, 3, 90, set(failed(), Some(DiskFault::Gone))).unwrap();
    let (node, uuid, path, media) = (NodeId(1), DiskUuid(1), "/b".to_string(), hf_policy::attributes::Media::Ssd);
    apply(&mut w, 3, 91, Command::PutDisk { node, uuid, path, media, capacity: 1 << 40 }).unwrap();
    assert_eq!((w.s.disks[&disk].fault, w.s.disks[&disk].since_ms), (Some(DiskFault::Gone), 90));
}

/// What is new is not written before the cluster has the version, also by commands that are old; and of a command that
/// says more the older version can say the rest.
#[test]
fn an_older_version_says_nothing_of_it() {
    for cmd in samples::commands() {
        assert_eq!(cmd.clone().at(COMMAND_VERSION), cmd);
        let new = matches!(cmd, Command::RenameVolume { .. } | Command::Mute { .. } | Command::Unmute { .. });
        assert_eq!(cmd.clone().at(2).since() <= 2, !new, "{cmd:?}");
    }
    let (mut w, vol) = attached();
    w.s.version = 2;
    let cmd = drop_of(&w, vol, &[(2, Some(DropReason::Disk))]);
    assert!(apply(&mut w, 3, 5, cmd.clone()).unwrap_err().to_string().contains("has version 3, the cluster uses 2"));
    assert!(apply(&mut w, 2, 5, cmd.clone()).unwrap_err().to_string().contains("needs envelope version 3"));
    apply(&mut w, 2, 5, cmd.at(2)).unwrap();
    assert_eq!(replica(&w, vol, 2).dropped, None);
    assert!(last(&w).text.contains("replica 2 on node n"), "{}", last(&w).text);
    let failed = Command::SetDiskState { disk: DiskId(1), state: DiskState::Failed("x".into()), fault: None };
    apply(&mut w, 2, 5, failed).unwrap();
    let (epoch, lineage) = (w.s.volumes[&vol].epoch, Lineage(9));
    let (operator, reason) = ("o".to_string(), "r".to_string());
    let cmd = Command::ForceInsync { vol, shard: 0, epoch, rid: Rid(3), lineage, operator, reason };
    apply(&mut w, 2, 6, cmd).unwrap();
    let (node, uuid, path, media) = (NodeId(1), DiskUuid(9), "/b".to_string(), hf_policy::attributes::Media::Ssd);
    apply(&mut w, 2, 7, Command::PutDisk { node, uuid, path, media, capacity: 1 << 40 }).unwrap();
    let json = serde_json::to_string(&w.s).unwrap();
    for word in ["\"dropped\"", "fault", "since_ms\":5", "mutes"] {
        assert!(!json.contains(word), "{word} stands in {json}");
    }
}

#[test]
fn a_volume_that_is_attached_nowhere_gets_another_name() {
    let (mut w, vol) = attached();
    w.volume("other", "size=1GiB replicas=1");
    let rename = |w: &World, name: &str| {
        let (epoch, name) = (w.s.volumes[&vol].epoch, name.to_string());
        Command::RenameVolume { vol, epoch, name }
    };
    let refused = |w: &mut World, name: &str| {
        let cmd = rename(w, name);
        apply(w, 3, 5, cmd).unwrap_err()
    };
    let e = refused(&mut w, "new");
    assert!(matches!(&e, Refusal::State(why) if why.contains("attached on node n1")), "{e}");
    // While another node only looks after its replicas, it is still node 1's.
    attach(&mut w, vol, 2, true);
    let e = refused(&mut w, "new");
    assert!(matches!(&e, Refusal::State(why) if why.contains("attached on node n1")), "{e}");
    let session = |w: &World| w.s.volumes[&vol].coordinator.as_ref().unwrap().session;
    for _ in 0..2 {
        let cmd = Command::Detach { vol, session: session(&w) };
        apply(&mut w, 3, 5, cmd).unwrap();
    }
    assert!(matches!(refused(&mut w, "other"), Refusal::Exists { .. }));
    assert!(matches!(refused(&mut w, "no name"), Refusal::Invalid(_)));
    let before = w.s.volumes[&vol].epoch;
    let cmd = rename(&w, "new");
    assert_eq!(apply(&mut w, 3, 5, cmd.clone()), Ok(Reply::Done));
    assert_eq!(w.s.volumes[&vol].epoch, before.next());
    assert_eq!((w.s.volume_named("new").map(|v| v.id), w.s.volume_named("v").is_some()), (Some(vol), false));
    assert_eq!((last(&w).kind.as_str(), last(&w).subject.as_str()), ("volume.renamed", "new"));
    assert!(matches!(apply(&mut w, 3, 5, cmd), Err(Refusal::EpochMismatch { .. })));
    let epoch = w.s.volumes[&vol].epoch;
    let cmd = rename(&w, "new");
    assert_eq!(apply(&mut w, 3, 5, cmd), Ok(Reply::Done), "it is called so already");
    assert_eq!(w.s.volumes[&vol].epoch, epoch);
}

fn mute(code: &str, subject: &str, until_ms: u64) -> Command {
    let (code, subject, by, reason) = (code.into(), subject.into(), "o".into(), "why".into());
    Command::Mute { code, subject, by, reason, until_ms, sticky: false, count: 1 }
}

#[test]
fn mutes_are_bounded_end_and_reach_followers() {
    let mut w = World::new(1, 1);
    let mut follower = w.s.clone();
    for i in 0..MUTES_KEPT {
        apply(&mut w, 3, 10, mute("DISK_FAILED", &i.to_string(), 100)).unwrap();
    }
    let e = apply(&mut w, 3, 10, mute("HELD", "", 100)).unwrap_err();
    assert!(matches!(&e, Refusal::State(why) if why.contains("256 health checks are muted already")), "{e}");
    // One that is there is changed.
    apply(&mut w, 3, 10, mute("DISK_FAILED", "7", 200)).unwrap();
    assert_eq!(w.s.mutes.len(), MUTES_KEPT);
    let found = w.s.mutes.iter().find(|m| m.covers("DISK_FAILED", "7")).unwrap();
    assert_eq!((found.until_ms, found.at_ms), (200, 10));
    follower.follow(w.s.delta_since(follower.revision).unwrap()).unwrap();
    assert_eq!((&follower.mutes, follower.mutes_rev), (&w.s.mutes, w.s.mutes_rev));
    // The others have ended by now, and make place.
    apply(&mut w, 3, 100, mute("HELD", "", 300)).unwrap();
    assert_eq!(w.s.mutes.iter().map(|m| m.code.as_str()).collect::<Vec<_>>(), ["DISK_FAILED", "HELD"]);
    let unmute = |code: &str, subject: &str| Command::Unmute { code: code.into(), subject: subject.into() };
    assert!(matches!(apply(&mut w, 3, 100, unmute("HELD", "7")), Err(Refusal::NotFound { .. })));
    apply(&mut w, 3, 100, unmute("HELD", "")).unwrap();
    apply(&mut w, 3, 100, unmute("DISK_FAILED", "7")).unwrap();
    follower.follow(w.s.delta_since(follower.revision).unwrap()).unwrap();
    assert!(follower.mutes.is_empty() && w.s.mutes.is_empty());
    assert_eq!(last(&w).text, "DISK_FAILED of 7 is not muted any more");
}

#[test]
fn a_mute_that_is_not_as_it_should_be_is_refused() {
    let mut w = World::new(1, 1);
    let long = |n: usize| "x".repeat(n + 1);
    let mut with = |code: &str, subject: String, by: String, reason: String, until_ms| {
        let code = code.to_string();
        apply(&mut w, 3, 10, Command::Mute { code, subject, by, reason, until_ms, sticky: false, count: 0 })
    };
    let none = String::new;
    for (code, subject, by, reason, until, why) in [
        ("", none(), none(), none(), 11, "1 to 64 capitals"),
        (&"X".repeat(65), none(), none(), none(), 11, "1 to 64 capitals"),
        ("disk", none(), none(), none(), 11, "1 to 64 capitals"),
        ("DISK", long(MUTE_SUBJECT_BYTES), none(), none(), 11, "the subject of a mute has at most 128 bytes"),
        ("DISK", none(), long(MUTE_SUBJECT_BYTES), none(), 11, "the author of a mute has at most 128 bytes"),
        ("DISK", none(), none(), long(MUTE_REASON_BYTES), 11, "the reason of a mute has at most 512 bytes"),
        ("DISK", none(), none(), none(), 10, "ended before it began"),
    ] {
        let e = with(code, subject, by, reason, until).unwrap_err();
        assert!(matches!(&e, Refusal::Invalid(text) if text.contains(why)), "{e}");
    }
    let most = |n: usize| "x".repeat(n);
    with("DISK_1", most(MUTE_SUBJECT_BYTES), most(MUTE_SUBJECT_BYTES), most(MUTE_REASON_BYTES), 11).unwrap();
}

#[test]
fn a_new_cluster_is_founded_in_the_newest_version() {
    let node = |name: &str| Command::PutNode {
        name: name.into(),
        node: None,
        uuid: BootId(1),
        addr: Addresses::default(),
        labels: BTreeMap::new(),
        version: "0".into(),
        log: Default::default(),
    };
    let s = ClusterState::found(ClusterId(7), "c".into(), node("n1"), 5).unwrap();
    s.check().unwrap();
    assert_eq!((s.version, s.cluster, s.name.as_str()), (COMMAND_VERSION, ClusterId(7), "c"));
    assert_eq!(s.node_named("n1").map(|n| n.id), Some(NodeId(1)));
    const { assert!(FIRST_VERSION < COMMAND_VERSION) };
    assert!(matches!(ClusterState::found(ClusterId(7), "c".into(), node("a b"), 5), Err(Refusal::Invalid(_))));
}

/// The table is complete and says nothing that no command makes: the kinds that the functions of `apply` name are those
/// of the table. Each is found by its word.
#[test]
fn every_kind_of_event_is_in_the_table() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/apply");
    let mut made = BTreeSet::new();
    for file in std::fs::read_dir(dir).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let names = text.split("EventKind::").skip(1);
        made.extend(names.map(|t| t.chars().take_while(char::is_ascii_alphanumeric).collect::<String>()));
    }
    let table: BTreeSet<String> = EventKind::ALL.iter().map(|k| format!("{k:?}")).collect();
    assert_eq!(made, table);
    let words: BTreeSet<&str> = EventKind::ALL.iter().map(|k| k.as_str()).collect();
    assert_eq!(words.len(), EventKind::ALL.len(), "two kinds have one word");
    for kind in EventKind::ALL {
        assert_eq!(EventKind::parse(kind.as_str()), Some(*kind));
        assert!(kind.meaning().ends_with('.') && !kind.severity().as_str().is_empty());
    }
    assert_eq!(EventKind::parse("of.a.later.release"), None);
}

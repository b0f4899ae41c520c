//! Golden bytes of everything that the record stores or sends as JSON: each command, each record and outcome,
//! the image, a delta. `UPDATE=1 cargo test -p hf-meta-core --test all formats` writes them anew; a change of a
//! line that was there before needs a new version of commands (decisions/0035). And the rules of versions:
//! what is unknown is refused, by all alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod samples;

use hf_meta_core::command::{COMMAND_VERSION, DecodeError, FIRST_VERSION, Job, ShardChange, ShardStep};
use hf_meta_core::record::*;
use hf_meta_core::{Command, Delta, Envelope, Logged, Outcome, Refusal, Reply, image};
use hf_policy::attributes::Media;
use hf_policy::policy::parse_pairs;
use hf_policy::*;
use samples::{KINDS, commands, mute, number};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Compares with a file of testdata, or writes it.
fn golden(name: &str, have: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, have).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    for (i, (have, want)) in have.lines().zip(want.lines()).enumerate() {
        assert_eq!(have, want, "{name}, line {}", i + 1);
    }
    assert_eq!(have.lines().count(), want.lines().count(), "{name}: run UPDATE=1 cargo test -p hf-meta-core");
}

const AT: u64 = 1_764_000_000_000;

fn envelope(request: u128, cmd: Command) -> Envelope {
    Envelope { v: cmd.since(), request: RequestId(request), at_ms: AT, cmd }
}

fn own_log() -> OwnLog {
    OwnLog { log: LogId(7), age: 5, starts: [(4, 99), (5, 98)].into(), older: false }
}

/// Applies commands, each under a request id of its own.
struct Runs(u128);

impl Runs {
    fn run(&mut self, s: &mut ClusterState, cmd: Command) -> Outcome {
        self.0 += 1;
        s.apply(&envelope(self.0, cmd))
    }
}

/// Five nodes with a disk each, of which one is removed again, and three volumes whose replicas are made.
fn nodes_and_volumes(s: &mut ClusterState, r: &mut Runs) {
    r.run(s, Command::Init { cluster: ClusterId(7), name: "c".into() }).unwrap();
    for i in 1..=5u64 {
        let at = |port: u32| format!("10.0.0.{i}:{port}");
        let addr = Addresses { api: at(1), data: at(2), nbd: at(3) };
        let (name, uuid, version, log) = (format!("n{i}"), BootId(20 + u128::from(i)), "0.1.0".to_string(), own_log());
        let labels = BTreeMap::from([("rack".to_string(), format!("r{i}"))]);
        r.run(s, Command::PutNode { name, node: None, uuid, addr, labels, version, log: Box::new(log) }).unwrap();
        let (node, uuid, path, media) = (NodeId(i), DiskUuid(30 + u128::from(i)), format!("/disk{i}"), Media::Ssd);
        r.run(s, Command::PutDisk { node, uuid, path, media, capacity: 1 << 40 }).unwrap();
    }
    s.set_members(&[NodeId(1), NodeId(5)]);
    r.run(s, Command::RemoveNode { node: NodeId(5) }).unwrap();
    for (name, attrs) in
        [("a", "size=65GiB replicas=3"), ("b", "size=1GiB replicas=1 label.app=db"), ("c", "size=1GiB replicas=1")]
    {
        let attrs = parse_pairs(attrs.split_whitespace()).unwrap();
        let one = if name == "a" { vec![DiskId(1), DiskId(2), DiskId(3)] } else { vec![DiskId(1)] };
        let shards = vec![one.clone(); if name == "a" { 2 } else { 1 }];
        r.run(s, Command::CreateVolume { name: name.into(), attrs, lineage: Lineage(5), shards }).unwrap();
    }
    let made: Vec<_> = s.volumes.values().flat_map(|v| v.replicas().map(|(_, r)| (v.id, r.rid))).collect();
    for (vol, rid) in made {
        r.run(s, Command::ReplicaMade { vol, rid, store_uuid: StoreUuid(40 + u128::from(rid.0)) }).unwrap();
    }
}

/// A state with every kind of record in it, by commands alone.
fn state() -> ClusterState {
    let (mut s, mut r) = (ClusterState::default(), Runs(100));
    nodes_and_volumes(&mut s, &mut r);
    let (vol, shard, node) = (VolumeId(1), 0, NodeId(1));
    let epoch = |s: &ClusterState| s.volumes[&VolumeId(1)].epoch;
    let e = epoch(&s);
    r.run(&mut s, Command::Attach { vol, epoch: e, node, session: SessionId(11), steal: false, maintenance: false })
        .unwrap();
    let term = s.volumes[&vol].term;
    r.run(&mut s, Command::Activated { vol, term }).unwrap();
    let base = Ver { term, seq: Seq(40) };
    let (rids, told, reasons) = (vec![Rid(2)], [(Rid(2), 77)].into(), BTreeMap::new());
    let e = epoch(&s);
    r.run(&mut s, Command::Drop { vol, shard, epoch: e, term, rids, base, told, reasons }).unwrap();
    let e = epoch(&s);
    r.run(&mut s, Command::AddReplica { vol, shard, epoch: e, disk: DiskId(4) }).unwrap();
    let e = epoch(&s);
    r.run(&mut s, Command::SyncStart { vol, shard, epoch: e, term, rid: Rid(2), sync_id: 9 }).unwrap();
    let e = epoch(&s);
    r.run(&mut s, Command::Move { vol, shard, epoch: e, rid: Rid(3), moving: true }).unwrap();
    r.run(&mut s, Command::PauseJob { of: Job::Replica(Rid(3)), paused: true }).unwrap();
    let e = epoch(&s);
    r.run(&mut s, Command::Leave { vol, shard, epoch: e, rid: Rid(3) }).unwrap();
    let e = epoch(&s);
    r.run(&mut s, Command::SnapAdd { vol, epoch: e, term, id: 1, cuts: vec![base, Ver::ZERO] }).unwrap();
    let e = epoch(&s);
    r.run(&mut s, Command::Scrub { vol, epoch: e, on: true }).unwrap();
    let id = s.volumes[&vol].scrub.as_ref().unwrap().id;
    let e = epoch(&s);
    r.run(
        &mut s,
        Command::Scrubbed { vol, shard, epoch: e, term, id, report: ScrubReport { lost: 1, ..Default::default() } },
    )
    .unwrap();
    r.run(&mut s, Command::PauseJob { of: Job::Scrub(vol), paused: true }).unwrap();
    let e = epoch(&s);
    r.run(
        &mut s,
        Command::Attach { vol, epoch: e, node: NodeId(3), session: SessionId(12), steal: true, maintenance: true },
    )
    .unwrap();
    let e = s.volumes[&VolumeId(3)].epoch;
    r.run(&mut s, Command::DeleteVolume { vol: VolumeId(3), epoch: e }).unwrap();
    let e = s.volumes[&VolumeId(2)].epoch;
    r.run(
        &mut s,
        Command::SetPolicy {
            vol: VolumeId(2),
            epoch: e,
            change: parse_pairs(["size=65GiB"]).unwrap(),
            new_shards: vec![vec![DiskId(2)]],
        },
    )
    .unwrap();
    r.run(&mut s, Command::SetNodeMode { node: NodeId(2), mode: NodeMode::Draining }).unwrap();
    r.run(&mut s, Command::PauseJob { of: Job::Node(NodeId(2)), paused: true }).unwrap();
    r.run(&mut s, Command::SetDiskDraining { disk: DiskId(3), draining: true }).unwrap();
    r.run(&mut s, Command::SetDiskState { disk: DiskId(4), state: DiskState::Failed("it died".into()), fault: None })
        .unwrap();
    r.run(&mut s, Command::Rebalance { on: true }).unwrap();
    r.run(&mut s, Command::PauseJob { of: Job::Rebalance, paused: true }).unwrap();
    r.run(&mut s, Command::DeleteVolume { vol: VolumeId(9), epoch: Epoch(1) }).unwrap_err();
    s.check().unwrap();
    s
}

/// The same state, raised to version 3, with what came with it.
fn state_of_version_3() -> ClusterState {
    let (mut s, mut r) = (state(), Runs(200));
    r.run(&mut s, Command::RaiseVersion { to: 3 }).unwrap();
    let (vol, shard) = (VolumeId(1), 1);
    let (v, term) = (s.volumes[&vol].clone(), s.volumes[&vol].term);
    let base = Ver { term, seq: Seq(50) };
    let rids: Vec<Rid> = v.shards[1].in_sync().into_iter().take(1).collect();
    let reasons = rids.iter().map(|r| (*r, DropReason::Link)).collect();
    let told = BTreeMap::new();
    r.run(&mut s, Command::Drop { vol, shard, epoch: v.epoch, term, rids, base, told, reasons }).unwrap();
    let (state, fault) = (DiskState::Failing("rot".into()), Some(DiskFault::ErrorBudget));
    r.run(&mut s, Command::SetDiskState { disk: DiskId(2), state, fault }).unwrap();
    let (node, uuid, path, media) = (NodeId(1), DiskUuid(99), "/new".to_string(), Media::Ssd);
    s.apply(&Envelope { v: 3, ..envelope(299, Command::PutDisk { node, uuid, path, media, capacity: 1 << 40 }) })
        .unwrap();
    let epoch = s.volumes[&VolumeId(2)].epoch;
    r.run(&mut s, Command::RenameVolume { vol: VolumeId(2), epoch, name: "renamed".into() }).unwrap();
    r.run(&mut s, mute("DISK_FAILED", "n4:/disk4")).unwrap();
    r.run(&mut s, mute("HELD", "")).unwrap();
    s.check().unwrap();
    s
}

fn outcomes() -> Vec<Outcome> {
    let text = || "x".to_string();
    let mut all: Vec<Outcome> = [
        Reply::Done,
        Reply::Node(NodeId(1)),
        Reply::Disk(DiskId(2)),
        Reply::Volume(VolumeId(3)),
        Reply::Attached(Term(4)),
    ]
    .map(Ok)
    .into();
    let refusals = [
        Refusal::EpochMismatch { now: 4 },
        Refusal::StaleTerm { now: 4 },
        Refusal::LastReplica,
        Refusal::Attached { volume: text(), node: text() },
        Refusal::NotAttached,
        Refusal::NotReady(text()),
        Refusal::Exists { kind: text(), name: text() },
        Refusal::NotFound { kind: text(), name: text() },
        Refusal::Sticky(text()),
        Refusal::State(text()),
        Refusal::Busy(text()),
        Refusal::Invalid(text()),
    ];
    all.extend(refusals.map(Err));
    all
}

fn outcomes_of_version_3() -> Vec<Outcome> {
    vec![Err(Refusal::Unplaceable("x".into())), Err(Refusal::NoSpace("x".into()))]
}

/// Every record of the state, and these outcomes, a line each: what it is, and its JSON.
fn records(s: &ClusterState, outcomes: &[Outcome]) -> String {
    let mut lines = Vec::new();
    fn line<T: serde::Serialize>(lines: &mut Vec<String>, kind: &str, t: &T) {
        lines.push(format!("{kind} {}", serde_json::to_string(t).unwrap()));
    }
    s.nodes.values().for_each(|n| line(&mut lines, "node", &**n));
    s.removed_members.values().for_each(|n| line(&mut lines, "removed_member", &**n));
    s.disks.values().for_each(|d| line(&mut lines, "disk", &**d));
    s.volumes.values().for_each(|v| line(&mut lines, "volume", &**v));
    s.tombstones.values().for_each(|t| line(&mut lines, "tombstone", &**t));
    s.events.iter().for_each(|e| line(&mut lines, "event", e));
    s.removals.iter().for_each(|r| line(&mut lines, "removal", r));
    s.mutes.iter().for_each(|m| line(&mut lines, "mute", m));
    outcomes.iter().for_each(|o| line(&mut lines, "outcome", o));
    line(&mut lines, "own_log", &OwnLog { older: true, ..own_log() });
    lines.join("\n") + "\n"
}

#[test]
fn every_command_has_its_bytes() {
    let all = commands();
    let kinds: std::collections::BTreeSet<usize> = all.iter().map(number).collect();
    assert_eq!(kinds.len(), KINDS, "a command is missing in commands()");
    let mut text = String::new();
    for (i, cmd) in all.into_iter().enumerate() {
        let env = envelope(i as u128 + 1, cmd);
        let bytes = env.encode().unwrap();
        assert_eq!(Envelope::decode(&bytes).unwrap(), env);
        text += &(String::from_utf8(bytes).unwrap() + "\n");
    }
    golden("every_command.jsonl", &text);
}

#[test]
fn every_record_has_its_bytes() {
    golden("records.txt", &records(&state(), &outcomes()));
    golden("records_3.txt", &records(&state_of_version_3(), &outcomes_of_version_3()));
}

#[test]
fn the_image_and_a_delta_have_their_bytes() {
    for (s, suffix, behind) in [(state(), "", 12), (state_of_version_3(), "_3", 7)] {
        let bytes = image::encode(&s).unwrap();
        let name = format!("image{suffix}.txt");
        golden(&name, &(String::from_utf8(bytes).unwrap() + "\n"));
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
        let text = std::fs::read_to_string(path).unwrap();
        let back = image::decode(text.trim_end().as_bytes()).unwrap();
        assert_eq!(back, s);
        back.check().unwrap();
        let delta = s.delta_since(s.revision - behind).unwrap();
        let json = serde_json::to_string(&delta).unwrap();
        golden(&format!("delta{suffix}.json"), &(json.clone() + "\n"));
        assert_eq!(serde_json::from_str::<Delta>(&json).unwrap(), delta);
    }
}

/// A state that was written before states had a version loads with the first one.
#[test]
fn a_state_without_a_version_has_the_first() {
    let mut json = serde_json::to_value(state()).unwrap();
    assert_eq!(json["version"], FIRST_VERSION);
    json.as_object_mut().unwrap().remove("version");
    assert_eq!(serde_json::from_value::<ClusterState>(json).unwrap(), state());
}

#[test]
fn a_state_of_an_unknown_version_is_refused() {
    for v in [0, COMMAND_VERSION + 1] {
        let text =
            serde_json::to_string(&state()).unwrap().replace("\"version\":2,\"rev", &format!("\"version\":{v},\"rev"));
        let e = serde_json::from_str::<ClusterState>(&text).unwrap_err().to_string();
        assert!(e.contains(&format!("has version {v}, this release knows 1 to {COMMAND_VERSION}: upgrade")), "{e}");
        let e = image::decode(format!("holdfast-cluster-image 1\n{text}").as_bytes()).unwrap_err().to_string();
        assert!(e.contains("upgrade this node"), "{e}");
    }
}

/// Every place in a JSON value where a field could be added, but for maps whose keys are free.
fn with_one_more_field(v: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    match v {
        Value::Object(map) => {
            let mut more = map.clone();
            more.insert("zzz".into(), Value::Null);
            all.push(Value::Object(more));
            for (key, child) in map.iter().filter(|(k, _)| !["labels", "attrs", "change"].contains(&k.as_str())) {
                all.extend(with_one_more_field(child).into_iter().map(|c| {
                    let mut map = map.clone();
                    map.insert(key.clone(), c);
                    Value::Object(map)
                }));
            }
        }
        Value::Array(list) => {
            for (i, child) in list.iter().enumerate() {
                all.extend(with_one_more_field(child).into_iter().map(|c| {
                    let mut list = list.clone();
                    list[i] = c;
                    Value::Array(list)
                }));
            }
        }
        _ => {}
    }
    all
}

#[test]
fn unknown_fields_are_refused() {
    let mut seen = 0;
    for cmd in commands() {
        let json = serde_json::to_value(envelope(1, cmd)).unwrap();
        for bad in with_one_more_field(&json) {
            let text = serde_json::to_string(&bad).unwrap();
            let e = Envelope::decode(text.as_bytes()).expect_err(&text).to_string();
            assert!(e.contains("cannot be decoded") && (e.contains("zzz") || e.contains("expected")), "{e}");
            seen += 1;
        }
    }
    for s in [state(), state_of_version_3()] {
        for bad in with_one_more_field(&serde_json::to_value(&s).unwrap()) {
            assert!(serde_json::from_value::<ClusterState>(bad.clone()).is_err(), "{bad}");
            seen += 1;
        }
        let delta = serde_json::to_value(s.delta_since(s.revision - 12).unwrap()).unwrap();
        for bad in with_one_more_field(&delta) {
            assert!(serde_json::from_value::<Delta>(bad.clone()).is_err(), "{bad}");
            seen += 1;
        }
    }
    assert!(seen > 300, "{seen} places");
}

/// Members of two releases: one that knows the newest version, and one that cannot even read its commands. As
/// long as the state has the older version both refuse the newer command alike, and their states stay equal
/// to the byte.
#[test]
fn a_command_above_the_states_version_is_refused_by_all_alike() {
    let mut s: ClusterState = serde_json::from_value({
        let mut json = serde_json::to_value(state()).unwrap();
        json["version"] = 1.into();
        json
    })
    .unwrap();
    let v = s.volumes[&VolumeId(1)].clone();
    let what = ShardStep::Add { rid: Rid(2), store_uuid: StoreUuid(1) };
    let cmd =
        Command::Together { vol: v.id, epoch: v.epoch, term: v.term, changes: vec![ShardChange { shard: 0, what }] };
    let readable = envelope(900, cmd).encode().unwrap();
    let mut text: Value = serde_json::from_slice(&readable).unwrap();
    text["cmd"] = serde_json::json!({"of_a_later_release": {}});
    let unreadable = serde_json::to_vec(&text).unwrap();
    assert!(Envelope::decode(&unreadable).is_err());
    let before = image::encode(&s).unwrap();
    let outcomes = [&readable, &unreadable].map(|bytes| s.apply_entry(&Logged::decode(bytes, &s).unwrap()));
    assert_eq!(outcomes[0], outcomes[1]);
    assert!(outcomes[0].as_ref().is_err_and(|e| e.to_string().contains("has version 2, the cluster uses 1")));
    assert_eq!(s.apply(&Envelope::decode(&readable).unwrap()), outcomes[0], "however it comes");
    assert_eq!(image::encode(&s).unwrap(), before, "nothing of it is kept");

    // The raise itself is a command of the version before; then what was refused is applied.
    let mut raise = envelope(901, Command::RaiseVersion { to: 3 });
    raise.v = 1;
    assert!(
        s.apply(&raise).is_err(),
        "version 1 has no such command: it came with 2, which is where all clusters begin"
    );
    s.version = 2;
    assert!(s.apply(&envelope(902, Command::RaiseVersion { to: 2 })).is_ok(), "again: it has it already");
    assert_eq!(s.version, 2);
    assert!(
        matches!(Logged::decode(&unreadable, &s), Err(DecodeError::Json(_))),
        "now it counts: who cannot read it stops"
    );
    let done = s.apply_entry(&Logged::decode(&readable, &s).unwrap());
    assert_eq!(done, Ok(Reply::Done));
}

#[test]
fn nobody_goes_on_with_a_version_that_it_does_not_know() {
    let s = state();
    let bytes = envelope(1, Command::RaiseVersion { to: COMMAND_VERSION + 1 }).encode().unwrap();
    assert!(matches!(Logged::decode(&bytes, &s), Err(DecodeError::TooNew(v)) if v == COMMAND_VERSION + 1));
    let far = Command::RaiseVersion { to: COMMAND_VERSION + 2 };
    assert!(s.clone().apply(&envelope(1, far)).unwrap_err().to_string().contains("one by one"));
    let e = s.clone().apply(&Envelope { v: 1, ..envelope(2, commands()[17].clone()) }).unwrap_err().to_string();
    assert!(e.contains("needs envelope version 2, this one has 1"), "{e}");
}

/// A follower has the version with everything else.
#[test]
fn a_delta_brings_the_version() {
    let (s, mut f) = (state(), state());
    f.revision -= 1;
    f.version = 1;
    f.follow(s.delta_since(f.revision).unwrap()).unwrap();
    assert_eq!(f.version, s.version);
}

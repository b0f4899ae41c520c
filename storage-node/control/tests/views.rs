//! What a volume, a replica, a disk and a node are called, by the record and by what the leader hears. A copy counts
//! only by the record, its node, its disk and a fresh answer; without evidence nothing is ever called ok.

use crate::rows::fail;
use crate::world::*;
use hf_control::model::*;
use hf_control::view::{self, Look};
use hf_meta_core::record::*;
use hf_meta_core::soft::{FRESH_MS, NodeSoft, Soft};
use hf_meta_core::{ClusterState, Command};
use hf_policy::{DiskId, NodeId, Rid, SessionId, StoreUuid, VolumeId};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

fn web(s: &ClusterState, soft: Option<&Soft>) -> Volume {
    let alerts = Raised::default();
    // Long after what is on record was done.
    let look = Look { state: s, soft, alerts: &alerts, here: NodeId(1), wall_ms: WALL_MS + 60_000 };
    view::volume(look, s.volume_named("web").unwrap())
}

fn is(v: &Volume, condition: &str) -> Truth {
    v.conditions.iter().find(|c| c.kind == condition).unwrap().status
}

fn copies(v: &Volume) -> Vec<&'static str> {
    v.replicas.iter().map(|r| r.state.word()).collect()
}

/// A record, what is heard of it, and what volume `web` is called then.
struct Case {
    name: &'static str,
    record: fn(&mut ClusterState),
    hear: fn(&mut Soft),
    state: VolumeState,
    why: &'static str,
    copies: [&'static str; 3],
    /// Ready, Served, Writable, Redundant.
    holds: [Truth; 4],
}

const T: Truth = Truth::True;
const F: Truth = Truth::False;
const U: Truth = Truth::Unknown;

fn at_n1(s: &mut ClusterState) {
    attach(s, "web", 1);
}

fn silence(soft: &mut Soft, nodes: &[u64]) {
    for n in nodes.iter().map(|n| NodeId(*n)) {
        soft.nodes.get_mut(&n).unwrap().heard_ms = 60_000;
        soft.up.remove(&n);
    }
}

fn unheard(soft: &mut Soft, nodes: &[u64]) {
    soft.leading_ms = FRESH_MS - 1;
    nodes.iter().for_each(|n| drop(soft.nodes.remove(&NodeId(*n))));
}

fn lost_disk(soft: &mut Soft, node: u64, fault: DiskFault) {
    let d = told(soft, node).disks.get_mut(&DiskId(node)).unwrap();
    (d.in_service, d.fault) = (false, Some((fault, "it is not what it was".into())));
}

fn waits(soft: &mut Soft) {
    let volumes = Arc::make_mut(&mut told(soft, 1).volumes);
    let v = volumes.get_mut(&VolumeId(1)).unwrap();
    (v.serving, v.waits_for) = (false, "replica 2 owes its promise".into());
}

fn dropped(s: &mut ClusterState, rids: &[u64]) {
    at_n1(s);
    rids.iter().for_each(|r| drop_replica(s, "web", *r, Some(DropReason::Timeout)));
}

fn well(_: &mut Soft) {}

fn plain(_: &mut ClusterState) {}

/// A row of the table.
macro_rules! case {
    ($name:literal, $record:expr, $hear:expr => $state:ident $why:literal, $copies:expr, $holds:expr) => {
        Case {
            name: $name,
            record: $record,
            hear: $hear,
            state: VolumeState::$state,
            why: $why,
            copies: $copies,
            holds: $holds,
        }
    };
}

const IN: &str = "in_sync";

#[rustfmt::skip]
fn evidence_cases() -> Vec<Case> {
    vec![
        case!("well", plain, well => Ok "", [IN, IN, IN], [T, F, F, T]),
        case!("served", at_n1, well => Ok "", [IN, IN, IN], [T, T, T, T]),
        case!("a leader that has just begun", at_n1, |s| unheard(s, &[1, 2, 3]) =>
            Unknown "has not been heard yet", ["unknown"; 3], [T, U, U, U]),
        case!("a node that a new leader has not heard", at_n1, |s| unheard(s, &[2]) =>
            Unknown "has not been heard yet", [IN, "unknown", IN], [T, T, T, U]),
        case!("stale, and still counted as alive", plain, |s| s.nodes.get_mut(&NodeId(2)).unwrap().heard_ms = FRESH_MS =>
            Unknown "has not been heard yet", [IN, "unknown", IN], [T, F, F, U]),
        case!("a silent node", at_n1, |s| silence(s, &[2]) =>
            Degraded "node n2 does not answer", [IN, "away", IN], [T, T, T, F]),
        case!("a node that this leader never heard", at_n1, |s| {
            unheard(s, &[2]);
            (s.leading_ms, s.up) = (60_000, [NodeId(1), NodeId(3), NodeId(4)].into());
        } => Degraded "node n2 does not answer", [IN, "away", IN], [T, T, T, F]),
        case!("two silent nodes", at_n1, |s| silence(s, &[2, 3]) =>
            WritesWait "node n2 does not answer", [IN, "away", "away"], [T, T, F, F]),
        case!("all silent", plain, |s| silence(s, &[1, 2, 3]) =>
            Unavailable "node n1 does not answer", ["away"; 3], [T, F, F, F]),
        case!("one silent, one unheard", plain, |s| { unheard(s, &[1, 2]); silence(s, &[3]); } =>
            Unknown "has not been heard yet", ["unknown", "unknown", "away"], [T, F, F, F]),
        case!("the node that serves is silent", at_n1, |s| silence(s, &[1]) =>
            NotServed "node n1 does not answer", ["away", IN, IN], [T, F, F, F]),
        case!("the node that serves waits", at_n1, waits =>
            NotServed "replica 2 owes its promise", [IN, IN, IN], [T, F, F, T]),
        case!("the node says nothing of it", at_n1, |s| Arc::make_mut(&mut told(s, 1).volumes).clear() =>
            NotServed "does not serve it", [IN, IN, IN], [T, F, F, T]),
        case!("the node tells of the attachment before", at_n1, |s| {
            Arc::make_mut(&mut told(s, 1).volumes).get_mut(&VolumeId(1)).unwrap().session = SessionId(1);
        } => NotServed "does not serve it", [IN, IN, IN], [T, F, F, T]),
    ]
}

#[rustfmt::skip]
fn record_cases() -> Vec<Case> {
    vec![
        case!("dropped", |s| dropped(s, &[2]), well =>
            Degraded "it did not answer in time", [IN, "out", IN], [T, T, T, F]),
        case!("dropped, and its node is silent", |s| dropped(s, &[2]), |s| silence(s, &[2]) =>
            Degraded "it did not answer in time; node n2 does not answer", [IN, "out", IN], [T, T, T, F]),
        case!("min_replicas unmet", |s| dropped(s, &[2, 3]), well =>
            WritesWait "it did not answer in time", [IN, "out", "out"], [T, T, F, F]),
        case!("the only copy in sync is away", |s| { dropped(s, &[1, 2]); attach(s, "web", 2); },
            |s| silence(s, &[3]) => Unavailable "it did not answer in time", ["out", "out", "away"], [T, T, F, F]),
        case!("a disk that is not in service", at_n1, |s| lost_disk(s, 2, DiskFault::Io) =>
            Degraded "disk 2 of node n2", [IN, "disk_down", IN], [T, T, T, F]),
        case!("a disk that is missing", at_n1, |s| lost_disk(s, 2, DiskFault::Gone) =>
            Degraded "it is not what it was", [IN, "disk_down", IN], [T, T, T, F]),
        case!("another disk at its path", plain, |s| lost_disk(s, 2, DiskFault::OtherIdentity) =>
            Degraded "it is not what it was", [IN, "disk_down", IN], [T, F, F, F]),
        case!("not in service, no reason", plain, |s| {
            told(s, 2).disks.get_mut(&DiskId(2)).unwrap().in_service = false;
        } => Degraded "it does not serve", [IN, "disk_down", IN], [T, F, F, F]),
        case!("its node says nothing of it", plain, |s| told(s, 2).disks.clear() =>
            Unknown "says nothing of it", [IN, "unknown", IN], [T, F, F, U]),
        case!("failed on record, and its node says it serves", |s| {
            fail(s, 2, DiskState::Failed("dead".into()), Some(DiskFault::Io));
        }, well => Degraded "dead", [IN, "disk_down", IN], [T, F, F, F]),
        case!("failing", |s| fail(s, 2, DiskState::Failing("bad blocks".into()), None), well =>
            Ok "", [IN, IN, IN], [T, F, F, T]),
        case!("all disks failed", |s| {
            (1..=3).for_each(|d| fail(s, d, DiskState::Failed("dead".into()), None));
        }, well => Unavailable "dead", ["disk_down"; 3], [T, F, F, F]),
        case!("read_only", |s| {
            let v = s.volume_named("web").unwrap();
            let (vol, epoch, change) = (v.id, v.epoch, [("read_only".to_string(), "true".to_string())].into());
            apply(s, Command::SetPolicy { vol, epoch, change, new_shards: vec![] });
            at_n1(s);
        }, well => Ok "", [IN, IN, IN], [T, T, F, T]),
    ]
}

#[test]
fn a_volume_is_called_what_is_known_of_it() {
    for c in evidence_cases().into_iter().chain(record_cases()) {
        let p = World::with(c.record);
        let s = p.state();
        let mut soft = heard(&s, &BTreeSet::new());
        (c.hear)(&mut soft);
        let v = web(&s, Some(&soft));
        let name = c.name;
        assert_eq!((v.state, copies(&v)), (c.state, c.copies.to_vec()), "{name}: {:?}", v.why);
        assert_eq!(v.why.is_none(), c.why.is_empty(), "{name}: {:?}", v.why);
        assert!(v.why.as_deref().unwrap_or("").contains(c.why), "{name}: {:?}", v.why);
        let holds = ["Ready", "Served", "Writable", "Redundant"].map(|k| is(&v, k));
        assert_eq!(holds, c.holds, "{name}");
        assert_eq!(v.copies_ok as usize, c.copies.iter().filter(|c| **c == IN).count(), "{name}");
        assert!(v.replicas.iter().all(|r| (r.state == CopyState::InSync) == r.why.is_none()), "{name}");
        let attached = s.volume_named("web").unwrap().coordinator.is_some();
        assert_eq!((is(&v, "Attached") == T, v.attachment.is_some()), (attached, attached), "{name}");
        if let Some(a) = &v.attachment {
            assert_eq!(a.serving, Some(c.holds[1] == T).filter(|_| c.holds[1] != U), "{name}");
            assert_eq!(a.waits_for.is_some(), a.serving != Some(true), "{name}");
        }
        // Whoever hears no leader knows nothing, whatever the record says.
        let v = web(&s, None);
        assert!(matches!(v.state, VolumeState::Unknown | VolumeState::Unavailable), "{name}: {:?}", v.state);
        assert!(v.replicas.iter().all(|r| r.state != CopyState::InSync), "{name}");
        assert!(is(&v, "Redundant") != T && is(&v, "Served") != T, "{name}");
    }
}

#[test]
fn a_volume_that_was_attached_a_moment_ago_is_not_called_unserved() {
    let s = World::with(at_n1).state();
    let mut soft = heard(&s, &BTreeSet::new());
    Arc::make_mut(&mut told(&mut soft, 1).volumes).clear();
    let alerts = Raised::default();
    let called = |wall_ms| {
        let look = Look { state: &s, soft: Some(&soft), alerts: &alerts, here: NodeId(1), wall_ms };
        let v = view::volume(look, s.volume_named("web").unwrap());
        (v.state, v.attachment.unwrap().serving)
    };
    assert_eq!(called(WALL_MS + FRESH_MS - 1), (VolumeState::Unknown, None), "its node has had no time to tell");
    assert_eq!(called(WALL_MS + FRESH_MS), (VolumeState::NotServed, Some(false)));
}

#[test]
fn a_volume_that_is_made_or_grows_says_so() {
    let mut s = founded(3);
    unmade(&mut s, "web", "size=1GiB", &[1, 2, 3]);
    let soft = heard(&s, &BTreeSet::new());
    let v = web(&s, Some(&soft));
    assert_eq!((v.state, copies(&v)), (VolumeState::Creating, vec!["creating"; 3]));
    assert!(is(&v, "Ready") == F && v.why.unwrap().contains("has not made it yet"));
    let mut soft = heard(&s, &BTreeSet::new());
    told(&mut soft, 2).refused = vec![Rid(2)];
    assert!(web(&s, Some(&soft)).replicas[1].why.as_ref().unwrap().contains("cannot make it"));
    assert_eq!(web(&s, None).state, VolumeState::Creating, "that is on record");
    make(&mut s, VolumeId(1));
    attach(&mut s, "web", 1);
    let v = s.volume_named("web").unwrap();
    let (vol, epoch) = (v.id, v.epoch);
    let change = [("size".to_string(), "2TiB".to_string())].into();
    let shards = (v.shards.len() as u64..(2u64 << 40).div_ceil(hf_policy::SHARD_BYTES))
        .map(|_| vec![DiskId(1), DiskId(2), DiskId(3)]);
    let new_shards: Vec<_> = shards.collect();
    assert!(!new_shards.is_empty());
    apply(&mut s, Command::SetPolicy { vol, epoch, change, new_shards });
    let soft = heard(&s, &BTreeSet::new());
    let v = web(&s, Some(&soft));
    assert_eq!((v.state, is(&v, "Ready")), (VolumeState::Growing, F), "{:?}", v.why);
    assert!(v.usable_bytes < v.size_bytes && v.size_bytes == 2 << 40);
    make(&mut s, VolumeId(1));
    let v = web(&s, Some(&heard(&s, &BTreeSet::new())));
    assert_eq!((v.state, v.usable_bytes), (VolumeState::Ok, 2 << 40));
    // The shard with the fewest copies counts, wherever it is.
    let last = v.replicas.last().unwrap().id;
    drop_replica(&mut s, "web", last, None);
    let v = web(&s, Some(&heard(&s, &BTreeSet::new())));
    assert_eq!((v.state, v.copies_ok, is(&v, "Redundant")), (VolumeState::Degraded, 2, F));
}

#[test]
fn a_copy_that_is_filled_beside_those_that_are_asked_for_is_not_missed() {
    let mut s = World::with(at_n1).state();
    let v = s.volume_named("web").unwrap();
    let (vol, epoch) = (v.id, v.epoch);
    apply(&mut s, Command::AddReplica { vol, shard: 0, epoch, disk: DiskId(4) });
    let v = web(&s, Some(&heard(&s, &BTreeSet::new())));
    assert_eq!((v.state, is(&v, "Redundant")), (VolumeState::Ok, T), "{:?}", v.why);
    assert_eq!(v.replicas[3].state, CopyState::Out);
    // But it does not stand for one of them before it is in sync.
    let v = web(&s, Some(&heard(&s, &[NodeId(2)].into())));
    assert_eq!((v.state, v.copies_ok), (VolumeState::Degraded, 2));
}

#[test]
fn a_volume_that_is_looked_after_belongs_to_the_node_that_is_away() {
    let mut s = World::with(at_n1).state();
    let v = s.volume_named("web").unwrap();
    let (vol, epoch, session) = (v.id, v.epoch, SessionId(77));
    apply(&mut s, Command::Attach { vol, epoch, node: NodeId(2), session, steal: true, maintenance: true });
    let a = web(&s, Some(&heard(&s, &[NodeId(1)].into()))).attachment.unwrap();
    assert_eq!((a.node.as_str(), a.looked_after_by.as_deref(), a.serving), ("n1", Some("n2"), Some(false)));
    // It is back, and does not know yet that it was replaced.
    let mut soft = heard(&s, &BTreeSet::new());
    let stale = hf_meta_core::soft::VolumeTold { session: SessionId(1), serving: true, ..Default::default() };
    Arc::make_mut(&mut told(&mut soft, 1).volumes).insert(vol, stale);
    let v = web(&s, Some(&soft));
    assert_eq!((v.state, v.attachment.unwrap().serving), (VolumeState::NotServed, Some(false)));
}

fn disk_of(s: &ClusterState, soft: Option<&Soft>, id: u64) -> Disk {
    let alerts = Raised::default();
    view::disk(Look { state: s, soft, alerts: &alerts, here: NodeId(1), wall_ms: WALL_MS }, &s.disks[&DiskId(id)])
}

#[test]
fn a_disk_is_called_what_its_node_says_before_what_is_on_record() {
    let mut s = World::new().state();
    let well = heard(&s, &BTreeSet::new());
    let state = |s: &ClusterState, soft: &Soft| {
        let d = disk_of(s, Some(soft), 2);
        assert_eq!(d.why.is_none(), d.state == "ok");
        assert_eq!(d.conditions.iter().all(|c| c.status == T), d.state == "ok");
        (d.state, d.fault)
    };
    let word = |w: &str| Some(w.to_string());
    assert_eq!(state(&s, &well), ("ok".into(), None));
    for (fault, called, kind) in [
        (DiskFault::Io, "failed", "io"),
        (DiskFault::Gone, "missing", "gone"),
        (DiskFault::OtherIdentity, "missing", "other_identity"),
        (DiskFault::Latched, "failed", "latched"),
        (DiskFault::Unreadable, "failed", "unreadable"),
    ] {
        let mut soft = well.clone();
        lost_disk(&mut soft, 2, fault);
        assert_eq!(state(&s, &soft), (called.into(), word(kind)));
    }
    let mut soft = well.clone();
    told(&mut soft, 2).disks.get_mut(&DiskId(2)).unwrap().fault = Some((DiskFault::ErrorBudget, "bad blocks".into()));
    assert_eq!(state(&s, &soft), ("failing".into(), word("error_budget")), "it serves, and the record is behind");
    let mut soft = well.clone();
    silence(&mut soft, &[2]);
    assert_eq!(state(&s, &soft).0, "away");
    unheard(&mut soft, &[2]);
    assert_eq!(state(&s, &soft).0, "unknown");
    assert_eq!(disk_of(&s, None, 2).state, "unknown");
    fail(&mut s, 2, DiskState::Failing("bad blocks".into()), Some(DiskFault::ErrorBudget));
    assert_eq!(state(&s, &well), ("failing".into(), word("error_budget")));
    fail(&mut s, 2, DiskState::Failed("dead".into()), Some(DiskFault::Gone));
    assert_eq!(state(&s, &well), ("missing".into(), word("gone")), "it is failed until the record says that it serves");
    assert_eq!(disk_of(&s, None, 2).state, "missing");
}

#[test]
fn a_node_is_up_only_by_a_fresh_answer() {
    let s = World::new().state();
    let alerts = Raised::default();
    let called = |soft: Option<&Soft>| {
        let look = Look { state: &s, soft, alerts: &alerts, here: NodeId(1), wall_ms: WALL_MS };
        let n = view::node(look, &s.nodes[&NodeId(2)]);
        (n.state, n.part, n.conditions.iter().map(|c| c.status).collect::<Vec<_>>())
    };
    let mut soft = heard(&s, &BTreeSet::new());
    assert_eq!(called(Some(&soft)), ("up".into(), Part::Voter, vec![T, T, T]));
    assert_eq!(called(None), ("unknown".into(), Part::Unknown, vec![U, U, U]));
    let n = told(&mut soft, 2);
    (n.clock_ahead_ms, n.data_dir_full) = (-5_001, true);
    assert_eq!(called(Some(&soft)).2, vec![T, F, F]);
    silence(&mut soft, &[2]);
    assert_eq!(called(Some(&soft)), ("down".into(), Part::Voter, vec![F, U, U]), "what it told is too old");
}

/// How the leader hears one of three nodes: age, whether it counts as alive, its disk, whether it serves.
type Heard = (Option<u64>, bool, u8, bool);

fn some_node() -> impl Strategy<Value = Heard> {
    (prop::option::weighted(0.9, 0..2 * FRESH_MS), any::<bool>(), 0..8u8, prop::bool::weighted(0.9))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
    /// `ok` is said only by the record, fresh nodes, their disks and the word of the node that serves.
    #[test]
    fn ok_is_never_said_without_evidence(
        nodes in prop::array::uniform3(some_node()),
        leading in 0..2 * FRESH_MS,
        attached in prop::option::of(1..=3u64),
        out in prop::option::weighted(0.2, 1..=3u64),
        failed in prop::option::weighted(0.1, 1..=3u64),
        session in prop::bool::weighted(0.9),
    ) {
        let mut s = World::new().state();
        if let Some(out) = out {
            dropped(&mut s, &[out]);
            let v = s.volume_named("web").unwrap();
            let (vol, session) = (v.id, v.coordinator.as_ref().unwrap().session);
            apply(&mut s, Command::Detach { vol, session });
        }
        attached.into_iter().for_each(|n| { let _ = attach(&mut s, "web", n); });
        failed.into_iter().for_each(|d| fail(&mut s, d, DiskState::Failed("dead".into()), None));
        let mut soft = heard(&s, &BTreeSet::new());
        soft.leading_ms = leading;
        for (i, (age, up, disk, serves)) in nodes.iter().enumerate() {
            let id = i as u64 + 1;
            match age {
                Some(age) => soft.nodes.get_mut(&NodeId(id)).unwrap().heard_ms = *age,
                None => drop(soft.nodes.remove(&NodeId(id))),
            }
            if !up { soft.up.remove(&NodeId(id)); }
            if age.is_none() { continue; }
            match disk {
                0 => told(&mut soft, id).disks.clear(),
                1 => lost_disk(&mut soft, id, DiskFault::Gone),
                _ => {}
            }
            for v in Arc::make_mut(&mut told(&mut soft, id).volumes).values_mut() {
                v.serving = *serves;
                if !session { v.session = SessionId(1); }
            }
        }
        let fresh = |n: u64| soft.nodes.get(&NodeId(n)).filter(|n: &&NodeSoft| n.heard_ms < FRESH_MS);
        let copy = |n: u64| out != Some(n) && failed != Some(n)
            && fresh(n).is_some_and(|x| x.told.disks.get(&DiskId(n)).is_some_and(|d| d.in_service));
        let served = attached.is_none_or(|n| session && fresh(n).is_some_and(|x| x.told.volumes[&VolumeId(1)].serving));
        let v = web(&s, Some(&soft));
        prop_assert_eq!(v.state == VolumeState::Ok, (1..=3).all(copy) && served, "{:?} {:?}", v.state, v.why);
        for r in &v.replicas {
            prop_assert_eq!(r.state == CopyState::InSync, copy(r.id), "{:?}", r);
        }
        prop_assert!(v.state != VolumeState::Unavailable || !(1..=3).any(copy));
        prop_assert!(web(&s, None).state != VolumeState::Ok);
    }
}

#[test]
fn a_replica_that_was_made_anew_is_not_in_sync() {
    let mut s = World::with(|s| dropped(s, &[2])).state();
    apply(&mut s, Command::ReplicaMade { vol: VolumeId(1), rid: Rid(2), store_uuid: StoreUuid(99) });
    let v = web(&s, Some(&heard(&s, &BTreeSet::new())));
    assert_eq!(copies(&v), [IN, "out", IN]);
    assert!(v.replicas[1].since.is_some(), "it is known since when");
}

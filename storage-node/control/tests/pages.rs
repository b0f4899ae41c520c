//! Lists: each item exactly once whatever happens between two pages, every filter, and bounds of what one page may look
//! at, hold and be asked for.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "it prints how long a list takes")]
#![allow(clippy::type_complexity, reason = "tables of lists")]

use crate::rows::fail;
use crate::world::*;
use hf_control::error::{Code, Problem};
use hf_control::model::*;
use hf_control::read::{Filter, Query};
use hf_control::view::{Cursor, Look, answer};
use hf_meta_core::record::*;
use hf_meta_core::soft::Soft;
use hf_meta_core::{ClusterState, Command};
use hf_policy::{DiskId, NodeId, VolumeId};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::time::Instant;

fn ask(s: &ClusterState, soft: &Soft, alerts: &Raised, q: &Query) -> Result<String, Problem> {
    answer(Look { state: s, soft: Some(soft), alerts, here: NodeId(1), wall_ms: WALL_MS }, q, None)
}

fn read<T: DeserializeOwned>(s: &ClusterState, q: &Query) -> T {
    let soft = heard(s, &BTreeSet::new());
    serde_json::from_str(&ask(s, &soft, &Raised::default(), q).unwrap()).unwrap()
}

fn many(n: u64) -> ClusterState {
    let mut s = founded(3);
    (0..n).for_each(|i| {
        let _ = volume(&mut s, &format!("v{i:05}"), "size=1MiB replicas=3", &[1, 2, 3]);
    });
    s
}

fn page(s: &ClusterState, after: Option<String>, limit: usize) -> VolumeList {
    read(s, &Query::Volumes(Filter { limit, after, ..Filter::default() }))
}

#[test]
fn pages_give_each_volume_exactly_once() {
    let s = many(2_500);
    for limit in [0, 1_000, 7] {
        let (mut names, mut after, mut pages) = (vec![], None, 0);
        loop {
            let p = page(&s, after, limit);
            assert!(p.items.len() <= if limit == 0 { 100 } else { limit });
            assert_eq!((p.total_estimate, p.revision), (2_500, s.revision));
            names.extend(p.items.into_iter().map(|v| v.name));
            pages += 1;
            after = p.next;
            if after.is_none() {
                break;
            }
        }
        let want: Vec<String> = (0..2_500).map(|i| format!("v{i:05}")).collect();
        assert!(names == want, "limit {limit}");
        assert_eq!(pages, 2_500usize.div_ceil(if limit == 0 { 100 } else { limit }), "no empty page at the end");
    }
}

#[test]
fn pages_give_each_volume_once_while_others_come_and_go() {
    let mut s = many(2_500);
    let (mut names, mut after, mut n) = (Vec::<String>::new(), None, 0u64);
    let mut gone = BTreeSet::new();
    loop {
        let p = page(&s, after, 100);
        names.extend(p.items.into_iter().map(|v| v.name));
        after = p.next;
        if after.is_none() {
            break;
        }
        // Before and behind the cursor, and the very volume that it names.
        let last = names.last().unwrap().clone();
        for name in [last, format!("v{:05}", n * 13 % 2_500), format!("v{:05}", 2_499 - n)] {
            if let Some(v) = s.volume_named(&name).cloned() {
                apply(&mut s, Command::DeleteVolume { vol: v.id, epoch: v.epoch });
                gone.insert(name);
            }
        }
        unmade(&mut s, &format!("a{n}"), "size=1MiB", &[1, 2, 3]);
        unmade(&mut s, &format!("w{n}"), "size=1MiB", &[1, 2, 3]);
        n += 1;
    }
    assert!(gone.len() > 50 && n > 20);
    assert!(names.is_sorted());
    let once: BTreeSet<&String> = names.iter().collect();
    assert_eq!(once.len(), names.len(), "one came twice");
    let stayed = (0..2_500).map(|i| format!("v{i:05}")).filter(|v| !gone.contains(v));
    assert!(stayed.into_iter().all(|v| once.contains(&v)), "one was left out");
}

/// Two volumes, one attached to n2 and degraded, on disks of all kinds.
fn varied() -> ClusterState {
    World::with(|s| {
        volume(s, "db", "size=1GiB replicas=2 label.app=shop label.tier=db", &[1, 4]);
        volume(s, "log", "size=1GiB replicas=1", &[5]);
        attach(s, "db", 2);
        drop_replica(s, "db", 5, None);
        touch(s, "web");
        apply(s, Command::SetNodeMode { node: NodeId(4), mode: NodeMode::Draining });
        fail(s, 3, DiskState::Failing("bad blocks".into()), None);
    })
    .state()
}

fn raised() -> Raised {
    let health = |code: &str| HealthRef {
        code: code.into(),
        severity: hf_control::model::Severity::Warning,
        message: "so".into(),
    };
    let about = [("volume/db", "VOLUME_DEGRADED"), ("node/n4", "NODE_DOWN"), ("disk/3", "DISK_FAILING")];
    Raised(about.map(|(of, code)| (of.to_string(), vec![health(code)])).into())
}

/// The names or numbers of the items that a filter lets through.
fn keys(s: &ClusterState, q: &Query, key: &str) -> Vec<String> {
    let soft = heard(s, &BTreeSet::new());
    let text = ask(s, &soft, &raised(), q).unwrap_or_else(|e| panic!("{q:?}: {e}"));
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let of = |v: &serde_json::Value| v[key].as_str().map_or_else(|| v[key].to_string(), String::from);
    list["items"].as_array().unwrap().iter().map(of).collect()
}

fn by(set: impl FnOnce(&mut Filter)) -> Filter {
    let mut f = Filter::default();
    set(&mut f);
    f
}

#[test]
fn volumes_are_narrowed_by_every_filter() {
    let s = varied();
    let text = |t: &str| Some(t.to_string());
    let volumes = |f: Filter| keys(&s, &Query::Volumes(f), "name").join(" ");
    assert_eq!(volumes(Filter::default()), "db log web");
    assert_eq!(volumes(by(|f| f.name = text("b"))), "db web");
    assert_eq!(volumes(by(|f| f.state = text("degraded"))), "db");
    assert_eq!(volumes(by(|f| f.state = text("ok"))), "log web");
    assert_eq!(volumes(by(|f| f.health = text("VOLUME_DEGRADED"))), "db");
    assert_eq!(volumes(by(|f| f.node = text("n2"))), "db web", "attached there, or a copy is there");
    assert_eq!(volumes(by(|f| f.node = text("n9"))), "");
    assert_eq!(volumes(by(|f| f.disk = Some(5))), "log");
    assert_eq!(volumes(by(|f| f.volume = text("log"))), "log");
    for (label, want) in [
        ("app=shop", "db web"),
        ("app=shop,tier=db", "db"),
        ("app=shop, tier!=db", "web"),
        ("tier", "db"),
        ("app!=shop", "log"),
        ("app=", ""),
        ("", "db log web"),
    ] {
        assert_eq!(volumes(by(|f| f.label = text(label))), want, "{label}");
    }
}

#[test]
fn other_lists_are_narrowed_by_every_filter() {
    let s = varied();
    let text = |t: &str| Some(t.to_string());
    let replicas = |f: Filter| keys(&s, &Query::Replicas(f), "id").join(" ");
    assert_eq!(replicas(Filter::default()), "1 2 3 4 5 6");
    assert_eq!(replicas(by(|f| f.volume = text("db"))), "4 5");
    assert_eq!(replicas(by(|f| f.node = text("n4"))), "5 6");
    assert_eq!(replicas(by(|f| f.disk = Some(1))), "1 4");
    assert_eq!(replicas(by(|f| f.state = text("out"))), "5");
    let nodes = |f: Filter| keys(&s, &Query::Nodes(f), "name").join(" ");
    assert_eq!(nodes(by(|f| f.name = text("n"))), "n1 n2 n3 n4");
    assert_eq!(nodes(by(|f| f.label = text("rack=r0"))), "n2 n4");
    assert_eq!(nodes(by(|f| f.health = text("NODE_DOWN"))), "n4");
    assert_eq!(nodes(by(|f| f.state = text("up"))), "n1 n2 n3 n4");
    assert_eq!(nodes(by(|f| f.node = text("n3"))), "n3");
    assert_eq!(nodes(by(|f| f.disk = Some(5))), "n4");
    assert_eq!(nodes(by(|f| f.disk = Some(99))), "");
    assert_eq!(nodes(by(|f| f.volume = text("db"))), "n1 n4");
    assert_eq!(nodes(by(|f| f.volume = text("nope"))), "");
    let disks = |f: Filter| keys(&s, &Query::Disks(f), "id").join(" ");
    assert_eq!(disks(Filter::default()), "1 2 3 4 5");
    assert_eq!(disks(by(|f| f.node = text("n4"))), "4 5");
    assert_eq!(disks(by(|f| f.state = text("failing"))), "3");
    assert_eq!(disks(by(|f| f.health = text("DISK_FAILING"))), "3");
    assert_eq!(disks(by(|f| f.name = text("/disks/2"))), "2");
    assert_eq!(disks(by(|f| f.disk = Some(2))), "2");
    assert_eq!(disks(by(|f| f.volume = text("db"))), "1 4");
    let jobs = |f: Filter| keys(&s, &Query::Jobs(f), "id").join(" ");
    assert_eq!(jobs(Filter::default()), "disk/3 node/n4 replica/3 replica/5 replica/6 scrub/web");
    assert_eq!(jobs(by(|f| f.name = text("scrub"))), "scrub/web");
    assert_eq!(jobs(by(|f| f.volume = text("web"))), "replica/3 scrub/web");
    assert_eq!(jobs(by(|f| f.node = text("n4"))), "node/n4 replica/5 replica/6");
    assert_eq!(jobs(by(|f| f.disk = Some(3))), "disk/3 replica/3");
    assert_eq!(jobs(by(|f| f.state = text("waiting"))), "replica/3 replica/6 scrub/web");
    // What an item has not got, it is not found by.
    let label = |t: &str| by(|f| f.label = text(t));
    let health = || by(|f| f.health = text("X"));
    assert_eq!(replicas(by(|f| f.name = text("og"))), "6");
    assert_eq!(replicas(label("tier=db")), "4 5");
    assert_eq!(replicas(health()), "");
    assert_eq!(disks(label("rack=r0")), "2 4 5");
    assert_eq!((jobs(health()), jobs(label("a=b"))), (String::new(), String::new()));
    assert_eq!(jobs(label("a!=b")), jobs(Filter::default()));
}

#[test]
fn a_forged_or_foreign_cursor_is_refused_and_so_is_a_limit_out_of_bounds() {
    let s = varied();
    let soft = heard(&s, &BTreeSet::new());
    let lists: [(&str, fn(Filter) -> Query); 5] = [
        ("volume", Query::Volumes),
        ("replica", Query::Replicas),
        ("node", Query::Nodes),
        ("disk", Query::Disks),
        ("job", Query::Jobs),
    ];
    for (kind, list) in lists {
        let get = |f: Filter| ask(&s, &soft, &Raised::default(), &list(f));
        let first: serde_json::Value = serde_json::from_str(&get(by(|f| f.limit = 1)).unwrap()).unwrap();
        let next = first["next"].as_str().unwrap().to_string();
        assert!(next.starts_with(kind) && first["items"].as_array().unwrap().len() == 1);
        let second: serde_json::Value =
            serde_json::from_str(&get(by(|f| f.after = Some(next.clone()))).unwrap()).unwrap();
        assert_ne!(first["items"][0], second["items"][0]);
        let foreign = lists.iter().filter(|(k, _)| *k != kind).map(|(k, _)| Cursor { kind: k, key: "1".into() }.text());
        let forged = ["", "x", "1", "..", "volume", &format!("{next}0"), &format!("{kind}.ff"), &format!("{kind}.%00")];
        let long = format!("{kind}.{}", "61".repeat(400));
        for bad in foreign.chain(forged.map(String::from)).chain([long]) {
            let e = get(by(|f| f.after = Some(bad.clone()))).expect_err(&bad);
            assert_eq!((e.code, e.subject.as_deref()), (Code::Invalid, Some("after")), "{bad}");
        }
        for bad in [1_001, usize::MAX] {
            let e = get(by(|f| f.limit = bad)).unwrap_err();
            assert_eq!((e.code, e.subject.as_deref()), (Code::Invalid, Some("limit")));
        }
        assert!(get(by(|f| f.limit = 1_000)).is_ok());
    }
    for kind in ["replica", "disk"] {
        let after = Some(Cursor { kind, key: "x".into() }.text());
        let q = if kind == "disk" { Query::Disks } else { Query::Replicas };
        assert_eq!(ask(&s, &soft, &Raised::default(), &q(by(|f| f.after = after))).unwrap_err().code, Code::Invalid);
    }
}

#[test]
fn replicas_and_disks_are_paged_by_their_numbers() {
    let mut s = many(40);
    let mut ids = vec![];
    let mut after = None;
    loop {
        let p: ReplicaList = read(&s, &Query::Replicas(Filter { limit: 7, after, ..Filter::default() }));
        assert!(p.total_estimate >= 100, "{}", p.total_estimate);
        ids.extend(p.items.iter().map(|r| r.id));
        after = p.next;
        if after.is_none() {
            break;
        }
        if ids.len() == 14 {
            let v = s.volumes[&VolumeId(5)].clone();
            apply(&mut s, Command::DeleteVolume { vol: v.id, epoch: v.epoch });
        }
    }
    let want: Vec<u64> = (1..=120).filter(|n| !(15..16).contains(n)).collect();
    assert_eq!(ids, want, "replica 15 went with its volume, when 13 and 14 had been listed");
    (4..=12).for_each(|i| {
        let _ = apply(&mut s, put_disk(i, 1));
    });
    let first: DiskList = read(&s, &Query::Disks(by(|f| f.limit = 9)));
    let rest: DiskList = read(&s, &Query::Disks(by(|f| f.after = first.next.clone())));
    let all: Vec<u64> = first.items.iter().chain(&rest.items).map(|d| d.id).collect();
    assert_eq!(all, (1..=12).collect::<Vec<_>>(), "by number, not as text");
}

#[test]
fn events_are_read_on_from_a_revision_without_a_gap() {
    let mut s = World::new().state();
    attach(&mut s, "web", 1);
    // One command that makes two events.
    let v = s.volume_named("web").unwrap();
    let (vol, epoch, term) = (v.id, v.epoch, v.term);
    let rids = [2, 3].map(hf_policy::Rid).to_vec();
    let (base, told, reasons) = (hf_policy::Ver::ZERO, Default::default(), Default::default());
    apply(&mut s, Command::Drop { vol, shard: 0, epoch, term, rids, base, told, reasons });
    for _ in 0..5 {
        touch(&mut s, "web");
    }
    let all = s.events.len();
    for limit in 1..=all {
        let (mut got, mut after) = (vec![], 0);
        loop {
            let p: EventList = read(&s, &Query::Events { after, limit, subject: None, kind: None });
            got.extend(p.items.into_iter().map(|e| (e.revision, e.message)));
            match p.next {
                Some(n) => after = n.parse().unwrap(),
                None => break,
            }
        }
        let want: Vec<_> = s.events.iter().map(|e| (e.rev, e.text.clone())).collect();
        assert_eq!(got, want, "limit {limit}");
    }
    let events = |subject: Option<&str>, kind: Option<&str>| -> EventList {
        let (subject, kind) = (subject.map(String::from), kind.map(String::from));
        read(&s, &Query::Events { after: 0, limit: 0, subject, kind })
    };
    assert!(events(Some("web"), None).items.iter().all(|e| e.subject == "web"));
    assert_eq!(events(None, Some("replica.dropped")).items.len(), 2);
    assert_eq!(events(Some("nope"), None).items.len(), 0);
    let soft = heard(&s, &BTreeSet::new());
    let q = Query::Events { after: 0, limit: 1_001, subject: None, kind: None };
    assert_eq!(ask(&s, &soft, &Raised::default(), &q).unwrap_err().code, Code::Invalid);
}

/// Many volumes, made by inserting their records: to create each by commands takes too long.
fn copies_of(n: u64) -> ClusterState {
    let mut s = founded(3);
    let id = volume(&mut s, "v000000", "size=1GiB replicas=3 label.app=shop", &[1, 2, 3]);
    let first = VolumeRecord::clone(&s.volumes[&id]);
    for i in 1..n {
        let mut v = VolumeRecord { id: VolumeId(i + 1), name: format!("v{i:06}"), ..first.clone() };
        for shard in &mut v.shards {
            let moved = std::mem::take(&mut shard.replicas).into_values().zip(1..);
            let moved = moved.map(|(r, k)| ReplicaRecord { rid: hf_policy::Rid(i * 3 + k), ..r });
            shard.replicas = moved.map(|r| (r.rid, r)).collect();
        }
        s.volumes.insert(v);
    }
    (s.next.volume, s.next.rid) = (n + 1, n * 3 + 1);
    s
}

#[test]
fn a_page_looks_at_a_bounded_number_of_volumes() {
    let s = copies_of(30_000);
    let (mut after, mut pages) = (None, 0);
    loop {
        let p: VolumeList = read(&s, &Query::Volumes(Filter { after, name: Some("nope".into()), ..Filter::default() }));
        assert!(p.items.is_empty());
        pages += 1;
        after = p.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, 2, "it stopped once, and went on where it stopped");
    let mut last = Filter { name: Some("v029999".into()), ..Filter::default() };
    let p: VolumeList = read(&s, &Query::Volumes(last.clone()));
    assert!(p.items.is_empty() && p.next.is_some(), "a short page names the next one");
    last.after = p.next;
    assert_eq!(read::<VolumeList>(&s, &Query::Volumes(last)).items.len(), 1);
}

#[test]
fn a_page_of_a_large_cluster_is_small_and_soon_there() {
    let mut s = copies_of(100_000);
    // The worst that a page usually shows: all attached, many without a copy.
    for i in 0..100 {
        let name = format!("v{i:06}");
        attach(&mut s, &name, 1 + i % 3);
        if i % 3 == 0 {
            drop_replica(&mut s, &name, i * 3 + 1, Some(DropReason::Timeout));
        }
    }
    let soft = heard(&s, &BTreeSet::new());
    let began = Instant::now();
    let text = ask(&s, &soft, &Raised::default(), &Query::Volumes(Filter::default())).unwrap();
    let first = began.elapsed();
    let rounds = 50u32;
    (0..rounds).for_each(|_| drop(ask(&s, &soft, &Raised::default(), &Query::Volumes(Filter::default()))));
    let mean = (began.elapsed() - first) / rounds;
    println!("list of 100 of 100,000 volumes: {} bytes, first {first:?}, then {mean:?} each", text.len());
    let list: VolumeList = serde_json::from_str(&text).unwrap();
    assert_eq!((list.items.len(), list.total_estimate), (100, 100_000));
    assert!(text.len() <= 200_000, "{} bytes", text.len());
    let wide = Filter { limit: 1_000, disk: Some(DiskId(1).0), ..Filter::default() };
    let began = Instant::now();
    let text = ask(&s, &soft, &Raised::default(), &Query::Volumes(wide)).unwrap();
    println!("1,000 by disk: {} bytes, {:?}", text.len(), began.elapsed());
}

//! What single verbs refuse, and what they say while a change is recorded and not in force yet.

use crate::rows::*;
use crate::world::*;
use hf_control::error::{Code, Problem};
use hf_control::model::*;
use hf_control::ports::{NodeAnswer, NodeVerb};
use hf_control::verbs::{Call, cluster, disk, job, node, replica, volume};
use hf_meta_core::record::*;
use hf_meta_core::{ClusterState, Command};
use hf_policy::{DiskId, Lineage, NodeId, Rid, SessionId, VolumeId};
use serde_json::json;

/// Asks, and is refused with this code; nothing changes.
fn refused<T>(p: &World, code: Code, ask: impl FnOnce(&World) -> Result<T, Problem>) -> Problem {
    let before = p.state();
    let Err(e) = ask(p) else { panic!("it was done, and should be {code:?}") };
    assert_eq!(e.code, code, "{e}");
    let mut after = p.state();
    // A refusal may be kept for the request; nothing else of it is.
    (after.requests, after.request_order) = (before.requests.clone(), before.request_order.clone());
    assert_eq!(after, before);
    e
}

fn set(p: &World, pairs: &[(&str, serde_json::Value)]) -> Result<VolumeOutcome, Problem> {
    block_on(volume::set(p, &call(7), "web", &PolicyChange { spec: spec(pairs) }))
}

#[test]
fn create_refuses_what_is_wrong_or_does_not_fit() {
    let p = World::new();
    let ask = |input: NewVolume| move |p: &World| block_on(volume::create(p, &call(1), &input));
    let with = |pairs: &[(&str, serde_json::Value)]| NewVolume { name: "db".into(), spec: spec(pairs) };
    for bad in ["", "-a", "a/b", "a%2Fb", "a\0b", "ü", "\u{202e}x", &"x".repeat(64)] {
        let e = refused(&p, Code::Invalid, ask(new_volume(bad)));
        assert_eq!(e.subject.as_deref(), Some("/name"), "{e}");
    }
    let e = refused(&p, Code::Invalid, ask(with(&[])));
    assert!(e.what.contains("size is required"), "{e}");
    assert_eq!(e.subject.as_deref(), Some("/spec"));
    let e = refused(&p, Code::UnknownAttribute, ask(with(&[("size", json!("1GiB")), ("relpicas", json!(2))])));
    assert!(e.next.contains("replicas") && e.subject.as_deref() == Some("/spec/relpicas"), "{e}");
    let e = refused(&p, Code::Invalid, ask(with(&[("size", json!("1GiB")), ("min_replicas", json!(4))])));
    assert!(e.what.contains("more than replicas"), "{e}");
    assert!(p.is_untouched(), "what is wrong by itself is asked of nobody");
    let e = refused(&p, Code::Exists, ask(new_volume("web")));
    assert_eq!(e.subject.as_deref(), Some("volume/web"));
    // Five copies on four nodes; a node list of one; more than the disks hold.
    for (wish, word) in [
        (with(&[("size", json!("1GiB")), ("replicas", json!(5))]), "5"),
        (with(&[("size", json!("1GiB")), ("nodes", json!("n1"))]), "n2"),
        (with(&[("size", json!("1GiB")), ("failure_domain", json!("rack"))]), "rack"),
        (with(&[("size", json!("1GiB")), ("media", json!("nvme"))]), "nvme"),
    ] {
        for dry_run in [true, false] {
            let Err(e) = block_on(volume::create(&p, &Call { dry_run, ..call(2) }, &wish)) else { panic!("{word}") };
            assert!(e.detail.contains(word), "{e}");
            assert!(matches!(e.status, 400 | 409), "{e}");
        }
    }
    p.inner().silent.extend([NodeId(2), NodeId(3)]);
    let Err(e) = block_on(volume::create(&p, &call(3), &new_volume("db"))) else { panic!() };
    assert!(e.detail.contains("does not answer"), "{e}");
}

#[test]
fn create_says_where_replicas_would_be_and_what_it_waits_for() {
    let p = World::new();
    let tried = block_on(volume::create(&p, &Call { dry_run: true, ..call(1) }, &new_volume("db"))).unwrap();
    let disks = tried.would_place.unwrap();
    assert_eq!((disks.len(), disks[0].len()), (1, 3));
    // No node makes its replicas.
    p.inner().make_ms = None;
    let out = block_on(volume::create(&p, &Call { wait_ms: Some(3_000), ..call(1) }, &new_volume("db"))).unwrap();
    assert!(!out.done && out.message.contains("not ready"), "{out:?}");
    assert!(out.waiting_for.unwrap().contains("replicas"));
    let v = out.volume.unwrap();
    assert_eq!((v.state, v.name.as_str(), v.revision), (VolumeState::Creating, "db", out.revision));
    assert!((3_000..3_100).contains(&p.inner().now_ms));
    // The same once more, when they are made meanwhile.
    p.inner().make_ms = Some(500);
    let out = block_on(volume::create(&p, &call(1), &new_volume("db"))).unwrap();
    assert!(out.done && out.waiting_for.is_none());
    assert_eq!(out.volume.unwrap().state, VolumeState::Ok);
    // Who does not wait is told at once.
    p.inner().make_ms = None;
    let began = p.inner().now_ms;
    let out = block_on(volume::create(&p, &Call { wait_ms: Some(0), ..call(2) }, &new_volume("db2"))).unwrap();
    assert!(!out.done && p.inner().now_ms == began);
}

#[test]
fn a_create_that_is_repeated_is_of_its_own_volume() {
    for again in [false, true] {
        let p = World::new();
        p.inner().fates.push_back(Fate::Lost);
        let Err(e) = block_on(volume::create(&p, &call(1), &new_volume("db"))) else { panic!() };
        assert_eq!(e.code, Code::NotInTime);
        let first = p.state().volume_named("db").unwrap().id;
        assert!(block_on(volume::delete(&p, &call(2), "db")).unwrap().done);
        if again {
            let made = block_on(volume::create(&p, &call(3), &new_volume("db"))).unwrap();
            assert_ne!(made.volume.unwrap().id, first.0);
        }
        let before = p.state();
        let out = block_on(volume::create(&p, &call(1), &new_volume("db"))).unwrap();
        assert!(out.done && out.volume.is_none(), "the volume of this request is gone: {out:?}");
        assert!(out.message.contains("deleted since"), "{out:?}");
        assert_eq!(p.state(), before);
    }
}

#[test]
fn a_change_that_is_repeated_leaves_a_later_volume_of_the_name_alone() {
    let p = World::new();
    let began = p.inner().now_ms;
    assert!(block_on(volume::delete(&p, &call(1), "web")).unwrap().done);
    block_on(volume::create(&p, &call(2), &new_volume("web"))).unwrap();
    let before = p.state();
    assert!(block_on(volume::delete(&p, &call(1), "web")).unwrap().done);
    assert_eq!(p.state(), before, "the outcome of the first one is given, and nothing is deleted");
    assert!(p.inner().now_ms - began < 1_000);
    // While one request is decided again and again, the name becomes another volume's.
    let q = World::new();
    q.inner().fates.push_back(Fate::After(Box::new(|i| {
        let (vol, epoch) = (VolumeId(1), i.state.volumes[&VolumeId(1)].epoch);
        apply(&mut i.state, Command::DeleteVolume { vol, epoch });
        volume(&mut i.state, "web", "size=1GiB", &[1, 2, 3]);
    })));
    let Err(e) = block_on(volume::delete(&q, &call(1), "web")) else { panic!() };
    assert_eq!(e.code, Code::NotFound, "{e}");
    assert!(q.state().volume_named("web").is_some());
}

#[test]
fn set_and_resize_refuse_what_cannot_change_and_wait_until_it_is_in_force() {
    let p = World::new();
    let e = refused(&p, Code::Invalid, |p| set(p, &[]));
    assert_eq!(e.subject.as_deref(), Some("/spec"));
    refused(&p, Code::State, |p| set(p, &[("size", json!(4096))]));
    refused(&p, Code::State, |p| set(p, &[("block_size", json!(512))]));
    refused(&p, Code::Invalid, |p| set(p, &[("min_replicas", json!(5))]));
    refused(&p, Code::UnknownAttribute, |p| set(p, &[("siz", json!(4096))]));
    let resize = |size| move |p: &World| block_on(volume::resize(p, &call(8), "web", &Resize { size }));
    for size in [json!(4097), json!(-1), json!(null), json!([1]), json!("1GiBB"), json!(9007199254740994u64)] {
        let e = refused(&p, Code::Invalid, resize(size));
        assert_eq!(e.subject.as_deref(), Some("/size"), "{e}");
    }
    refused(&p, Code::State, resize(json!("512MiB")));
    assert!(p.inner().proposed.is_empty());
    refused(&p, Code::NotFound, |p| {
        block_on(volume::set(p, &call(9), "nope", &PolicyChange { spec: spec(&[("queue_depth", json!(2))]) }))
    });
    p.inner().in_force = Err("node n1 holds the old policy".into());
    let out = set(&p, &[("queue_depth", json!(9))]).unwrap();
    assert!(!out.done && out.message.contains("not in force"), "{out:?}");
    assert_eq!(out.waiting_for.as_deref(), Some("node n1 holds the old policy"));
    p.inner().in_force = Ok(());
    assert!(set(&p, &[("queue_depth", json!(9))]).unwrap().done, "the same request once more");
    let call = Call { wait_ms: Some(0), ..call(10) };
    let change = PolicyChange { spec: spec(&[("queue_depth", json!(10))]) };
    assert!(!block_on(volume::set(&p, &call, "web", &change)).unwrap().done);
    assert_eq!(p.state().volume_named("web").unwrap().policy().unwrap().queue_depth, 10);
}

#[test]
fn delete_and_rename_refuse_what_is_attached_or_kept() {
    let p = World::with(|s| {
        volume(s, "kept", "size=1GiB sticky=true", &[1, 2, 3]);
        attach(s, "web", 2);
    });
    let e = refused(&p, Code::Attached, |p| block_on(volume::delete(p, &call(1), "web")));
    assert!(e.detail.contains("n2"), "{e}");
    refused(&p, Code::Sticky, |p| block_on(volume::delete(p, &call(2), "kept")));
    refused(&p, Code::NotFound, |p| block_on(volume::delete(p, &call(3), "nope")));
    let to = |name: &str| Rename { name: name.into() };
    let e = refused(&p, Code::State, |p| block_on(volume::rename(p, &call(4), "web", &to("www"))));
    assert!(e.detail.contains("n2") && e.detail.contains("detach"), "{e}");
    refused(&p, Code::Exists, |p| block_on(volume::rename(p, &call(5), "kept", &to("web"))));
    let e = refused(&p, Code::Invalid, |p| block_on(volume::rename(p, &call(6), "kept", &to("a b"))));
    assert_eq!(e.subject.as_deref(), Some("/name"));
    refused(&p, Code::NotFound, |p| block_on(volume::rename(p, &call(7), "nope", &to("x"))));
    let out = block_on(volume::rename(&p, &call(8), "kept", &to("held"))).unwrap();
    assert_eq!(out.volume.unwrap().name, "held");
    assert!(p.state().volume_named("kept").is_none());
}

fn to(node: &str, force: bool) -> Attach {
    Attach { node: Some(node.into()), force }
}

#[test]
fn attach_says_who_has_the_volume_and_who_is_silent() {
    let p = World::with(|s| {
        let _ = attach(s, "web", 2);
    });
    for dry_run in [true, false] {
        let call = Call { dry_run, ..call(1) };
        let e = refused(&p, Code::Attached, |p| block_on(volume::attach(p, &call, "web", &to("n3", false))));
        assert!(e.detail.contains("n2"), "{e}");
        refused(&p, Code::NotFound, |p| block_on(volume::attach(p, &call, "web", &to("n9", false))));
        refused(&p, Code::NotFound, |p| block_on(volume::attach(p, &call, "nope", &to("n3", false))));
    }
    let already = block_on(volume::attach(&p, &call(2), "web", &to("n2", false))).unwrap();
    assert!(already.done && already.message.contains("already"), "{already:?}");
    let taken = block_on(volume::attach(&p, &call(3), "web", &to("n3", true))).unwrap();
    assert!(taken.message.ends_with("nbd://10.0.0.3:10809/web"), "{}", taken.message);
    assert_eq!(taken.volume.unwrap().attachment.unwrap().node, "n3");
    // Without a node: the one that is asked.
    block_on(volume::detach(&p, &call(4), "web")).unwrap();
    let here = block_on(volume::attach(&p, &call(5), "web", &Attach { node: None, force: false })).unwrap();
    assert_eq!(here.volume.unwrap().attachment.unwrap().node, "n1");
    p.inner().silent.insert(NodeId(3));
    for dry_run in [true, false] {
        let call = Call { dry_run, ..call(6) };
        let e = refused(&p, Code::NodeSilent, |p| block_on(volume::attach(p, &call, "web", &to("n3", true))));
        assert!(e.next.contains("another node"), "{e}");
    }
    let asked = p.inner().asked.last().unwrap().1.clone();
    assert!(matches!(asked, NodeVerb::Attach { request, .. } if request == call(6).request), "{asked:?}");
}

#[test]
fn attach_and_detach_tell_what_goes_on() {
    let p = World::new();
    p.inner().answers.push_back(Ok(NodeAnswer::Waits("replica 2 does not answer".into())));
    let out = block_on(volume::attach(&p, &call(1), "web", &to("n3", false))).unwrap();
    assert!(!out.done && out.waiting_for.unwrap().contains("replica 2"));
    p.inner().answers.push_back(Ok(NodeAnswer::Detached));
    let e = refused(&p, Code::Internal, |p| block_on(volume::attach(p, &call(2), "web", &to("n3", false))));
    assert_eq!(e.status, 500);
    p.inner().answers.push_back(Err(Problem::new(Code::NotReady, "it is being created")));
    refused(&p, Code::NotReady, |p| block_on(volume::attach(p, &call(3), "web", &to("n3", false))));
    // Not attached: nothing is to be done, and nobody is asked.
    let p = World::new();
    let out = block_on(volume::detach(&p, &call(4), "web")).unwrap();
    assert!(out.done && out.message.contains("not attached") && p.is_untouched());
    refused(&p, Code::NotFound, |p| block_on(volume::detach(p, &call(5), "nope")));
    let p = World::with(|s| {
        let _ = attach(s, "web", 2);
    });
    p.inner().answers.push_back(Ok(NodeAnswer::Waits("3 requests are open".into())));
    let out = block_on(volume::detach(&p, &call(6), "web")).unwrap();
    assert!(!out.done && out.waiting_for.unwrap().starts_with("3 requests are open"));
    p.inner().silent.insert(NodeId(2));
    let e = refused(&p, Code::NodeSilent, |p| block_on(volume::detach(p, &call(7), "web")));
    assert!(e.what.contains("n2") && e.next.contains("--force"), "{e}");
    // A node that only looks after replicas has nothing to detach.
    let p = World::with(|s| {
        let v = s.volume_named("web").unwrap();
        let (vol, epoch, session) = (v.id, v.epoch, SessionId(5));
        apply(s, Command::Attach { vol, epoch, node: NodeId(2), session, steal: true, maintenance: true });
    });
    assert!(block_on(volume::detach(&p, &call(8), "web")).unwrap().message.contains("not attached"));
    assert!(p.is_untouched());
}

#[test]
fn stats_come_from_the_node_that_has_the_volume() {
    let p = World::new();
    let none = block_on(volume::stats(&p, &call(1), "web")).unwrap();
    assert!(none.node.is_none() && none.points.is_empty() && p.is_untouched());
    refused(&p, Code::NotFound, |p| block_on(volume::stats(p, &call(1), "nope")));
    let p = World::with(|s| {
        let _ = attach(s, "web", 2);
    });
    assert_eq!(block_on(volume::stats(&p, &call(1), "web")).unwrap().node.as_deref(), Some("n2"));
    p.inner().silent.insert(NodeId(2));
    refused(&p, Code::NodeSilent, |p| block_on(volume::stats(p, &call(1), "web")));
}

#[test]
fn force_insync_is_refused_while_it_might_lose_what_is_not_lost() {
    let ask = |input: ForceInsync| move |p: &World| block_on(replica::force(p, &call(1), "web", &input));
    let p = World::with(only_lost_copy);
    let e = refused(&p, Code::Invalid, ask(ForceInsync { confirm: "wep".into(), ..force_of(1) }));
    assert!(e.subject.as_deref() == Some("/confirm") && e.next.contains("web"), "{e}");
    refused(&p, Code::NotFound, ask(force_of(99)));
    refused(&p, Code::NotFound, |p| block_on(replica::force(p, &call(1), "nope", &force_of(1))));
    let e = refused(&p, Code::State, ask(force_of(3)));
    assert!(e.detail.contains("already the only one"), "{e}");
    // The last in sync may come back: its disk works, and its node answers.
    let works = |s: &mut ClusterState| {
        only_lost_copy(s);
        fail(s, 3, DiskState::Ok, None);
    };
    let p = World::with(works);
    let e = refused(&p, Code::State, ask(force_of(1)));
    assert!(e.detail.contains("replica 3 on node n3") && !e.next.is_empty(), "{e}");
    // Its node is gone: it is the operator's word.
    p.inner().silent.insert(NodeId(3));
    assert!(block_on(replica::force(&p, &call(2), "web", &force_of(1))).unwrap().done);
    let v = p.state().volume_named("web").unwrap().clone();
    assert_eq!(v.shards[0].in_sync(), [Rid(1)].into());
    assert!(v.lineage != Lineage(1) && v.coordinator.is_none());
    // A replica that was never filled holds nothing.
    let p = World::with(|s| {
        only_lost_copy(s);
        let v = s.volume_named("web").unwrap();
        let (vol, epoch) = (v.id, v.epoch);
        apply(s, Command::AddReplica { vol, shard: 0, epoch, disk: DiskId(4) });
    });
    p.inner().make_ms = None;
    let rid = p.state().next.rid - 1;
    let e = refused(&p, Code::State, ask(force_of(rid)));
    assert!(e.detail.contains("never filled"), "{e}");
}

#[test]
fn hardware_refuses_what_is_not_there_or_still_holds_something() {
    let p = World::with(|s| fail(s, 2, DiskState::Failed("dead".into()), Some(DiskFault::Io)));
    refused(&p, Code::NotFound, |p| block_on(replica::relocate(p, &call(1), 99)));
    refused(&p, Code::NotFound, |p| block_on(disk::drain(p, &call(2), 99, true)));
    refused(&p, Code::NotFound, |p| block_on(disk::trust(p, &call(3), 99)));
    refused(&p, Code::NotFound, |p| block_on(disk::remove(p, &call(4), 99)));
    refused(&p, Code::NotFound, |p| block_on(node::mode(p, &call(5), "n9", Mode::Draining)));
    refused(&p, Code::NotFound, |p| block_on(node::remove(p, &call(6), "n9")));
    assert!(p.inner().proposed.is_empty());
    let e = refused(&p, Code::State, |p| block_on(disk::trust(p, &call(7), 2)));
    assert!(e.detail.contains("restart its node"), "{e}");
    let e = refused(&p, Code::State, |p| block_on(disk::remove(p, &call(8), 1)));
    assert!(e.detail.contains("web") && e.detail.contains("drain it first"), "{e}");
    refused(&p, Code::State, |p| block_on(node::remove(p, &call(9), "n1")));
    let add = |path: &str| NewDisk { node: None, path: path.into(), size_bytes: None, media: None };
    let long = format!("/{}", "x".repeat(4096));
    for (input, at) in [
        (add(""), "/path"),
        (add("disk"), "/path"),
        (add("/a\0b"), "/path"),
        (add(&long), "/path"),
        (NewDisk { media: Some("any".into()), ..add("/a") }, "/media"),
        (NewDisk { size_bytes: Some(0), ..add("/a") }, "/size_bytes"),
        (NewDisk { size_bytes: Some(1 << 53), ..add("/a") }, "/size_bytes"),
    ] {
        let e = refused(&p, Code::Invalid, |p| block_on(disk::add(p, &call(10), &input)));
        assert_eq!(e.subject.as_deref(), Some(at), "{e}");
    }
    assert!(p.inner().asked.is_empty());
    refused(&p, Code::NotFound, |p| {
        block_on(disk::add(p, &call(11), &NewDisk { node: Some("n9".into()), ..add("/a") }))
    });
    p.inner().silent.insert(NodeId(1));
    refused(&p, Code::NodeSilent, |p| block_on(disk::add(p, &call(12), &add("/a"))));
    p.inner().silent.clear();
    p.inner().answers.push_back(Err(Problem::new(Code::InUse, "it has a file system")));
    refused(&p, Code::InUse, |p| block_on(disk::add(p, &call(13), &add("/a"))));
    let out = block_on(disk::add(&p, &call(14), &add("/a"))).unwrap();
    assert_eq!((out.disk.id, out.disk.node.as_str(), out.disk.state.as_str()), (6, "n1", "ok"));
}

#[test]
fn jobs_have_one_name_and_are_refused_when_there_is_none() {
    let p = World::new();
    for bad in ["", "web", "x/1", "replica/x", "replica/+1", "replica/01", "disk/", "disk/-1", "rebalance/x"] {
        let e = refused(&p, Code::Invalid, |p| block_on(job::pause(p, &call(1), bad, true)));
        assert!(e.next.contains("replica/ID"), "{bad}: {e}");
        refused(&p, Code::Invalid, |p| block_on(job::cancel(p, &call(1), bad)));
    }
    for none in ["node/n9", "disk/99", "replica/99", "scrub/nope"] {
        refused(&p, Code::NotFound, |p| block_on(job::pause(p, &call(2), none, true)));
        refused(&p, Code::NotFound, |p| block_on(job::cancel(p, &call(2), none)));
    }
    assert!(p.inner().proposed.is_empty());
    // They are there, and nothing of theirs goes on.
    for (n, idle) in ["node/n1", "disk/1", "replica/1", "scrub/web", "rebalance/cluster"].into_iter().enumerate() {
        refused(&p, Code::State, |p| block_on(job::pause(p, &call(10 + n as u128), idle, true)));
        let code = if idle == "replica/1" { Code::State } else { Code::NotFound };
        refused(&p, code, |p| block_on(job::cancel(p, &call(20 + n as u128), idle)));
    }
}

#[test]
fn a_cancelled_job_is_no_job_any_more() {
    for row in rows().iter().filter(|r| r.name.starts_with("job cancel")) {
        let p = row.world();
        assert_eq!(jobs_of(&p), 1, "{}", row.name);
        (row.ask)(&p, &call(1)).unwrap();
        assert_eq!(jobs_of(&p), 0, "{}", row.name);
    }
}

fn jobs_of(p: &World) -> usize {
    let q = hf_control::read::Query::Jobs(Default::default());
    let list = block_on(hf_control::ports::Ports::read(p, q)).unwrap();
    let list: JobList = serde_json::from_str(&list).unwrap();
    // A drain is a job, and so is each replica that it moves.
    let own = |j: &&Job| j.kind != JobKind::Replica || j.because == "it is to live elsewhere";
    list.items.iter().filter(own).count()
}

#[test]
fn the_cluster_refuses_wrong_settings_and_mutes() {
    let p = World::new();
    for count in [0, 2, 4, 6, u32::MAX] {
        let e = refused(&p, Code::Invalid, |p| block_on(cluster::voters(p, &call(1), &Voters { count })));
        assert_eq!(e.subject.as_deref(), Some("/count"));
    }
    let e = refused(&p, Code::State, |p| block_on(cluster::finalize(p, &call(2))));
    assert!(e.detail.contains("already"), "{e}");
    for for_seconds in [0, 365 * 86_400 + 1, u64::MAX] {
        let mute = NewMute { for_seconds, ..mute_of("NODE_DOWN") };
        let e = refused(&p, Code::Invalid, |p| block_on(cluster::mute(p, &call(3), &mute, 1)));
        assert_eq!(e.subject.as_deref(), Some("/for_seconds"));
    }
    let long = |n: usize| "x".repeat(n);
    for (n, mute) in [
        mute_of("node_down"),
        mute_of(""),
        NewMute { reason: long(513), ..mute_of("X") },
        NewMute { subject: Some(long(129)), ..mute_of("X") },
    ]
    .into_iter()
    .enumerate()
    {
        refused(&p, Code::Invalid, |p| block_on(cluster::mute(p, &call(4 + n as u128), &mute, 1)));
    }
    refused(&p, Code::NotFound, |p| block_on(cluster::unmute(p, &call(9), "NODE_DOWN", "")));
    // A node that is no member says so, and not that a leader is missing.
    p.inner().here = NodeId(0);
    refused(&p, Code::NotMember, |p| block_on(cluster::rebalance(p, &call(10))));
}

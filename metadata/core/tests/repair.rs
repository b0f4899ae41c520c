//! Repair decides step by step from the record and from which nodes answer. Whatever operators and failures do in
//! between, it ends with the replicas that the policy asks for, never takes a needed replica away, and never fills too
//! many at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::world::World;
use hf_meta_core::Command;
use hf_meta_core::command::Job;
use hf_meta_core::limits::{Going, SYNCS_PER_DISK, SYNCS_PER_NODE, URGENT};
use hf_meta_core::plan::Step;
use hf_meta_core::plan::repair::steps;
use hf_meta_core::record::*;
use hf_policy::policy::parse_pairs;
use hf_policy::*;

#[test]
fn whatever_happens_repair_ends_with_what_the_policy_asks_for() {
    for seed in 0..400 {
        let mut w = World::new(seed, 7);
        for i in 0..4 {
            let attrs = ["size=1GiB", "size=1GiB replicas=2", "size=100GiB", "size=1GiB replicas=1"][i];
            w.volume(&format!("v{i}"), &format!("{attrs} rebuild_after=10m"));
        }
        if w.rnd(2) == 0 {
            let v = w.s.volumes[&VolumeId(1)].clone();
            let node = v.shards[0].replicas.values().next().unwrap().node;
            let (epoch, session) = (v.epoch, SessionId(1));
            w.run(Command::Attach { vol: v.id, epoch, node, session, steal: false, maintenance: false });
        }
        for _ in 0..25 {
            let node = NodeId(1 + w.rnd(7));
            let vol = VolumeId(1 + w.rnd(4));
            match w.rnd(6) {
                0 => {
                    w.run(Command::SetNodeMode { node, mode: NodeMode::Draining });
                }
                1 => {
                    w.run(Command::SetNodeMode { node, mode: NodeMode::Active });
                }
                2 if w.live.up.len() > 5 => {
                    w.live.up.remove(&node);
                    w.live.away.insert(node, 6_000);
                }
                3 => {
                    w.live.away.values_mut().for_each(|ms| *ms = 700_000);
                }
                4 => {
                    w.live.up.insert(node);
                    w.live.away.remove(&node);
                }
                _ => {
                    let epoch = w.s.volumes[&vol].epoch;
                    let change =
                        parse_pairs([format!("replicas={}", 1 + w.rnd(3)).as_str(), "min_replicas=1"]).unwrap();
                    w.run(Command::SetPolicy { vol, epoch, change, new_shards: Vec::new() });
                }
            }
            for _ in 0..w.rnd(4) {
                w.round();
            }
        }
        // Everybody comes back and may hold replicas.
        for i in 1..=7 {
            w.run(Command::SetNodeMode { node: NodeId(i), mode: NodeMode::Active });
            w.live.up.insert(NodeId(i));
        }
        w.live.away.clear();
        w.settle();
        for v in w.s.volumes.values() {
            let want = Policy::from_attrs(&v.attrs).unwrap().replicas as usize;
            for s in &v.shards {
                assert_eq!(
                    (s.replicas.len(), s.in_sync().len()),
                    (want, want),
                    "seed {seed}: volume {}: {s:?}",
                    v.name
                );
                let nodes: std::collections::BTreeSet<NodeId> = s.replicas.values().map(|r| r.node).collect();
                assert_eq!(nodes.len(), want, "seed {seed}: two replicas on one node");
                assert!(s.replicas.values().all(|r| !r.leaving));
            }
        }
        assert!(w.s.tombstones.is_empty());
    }
}

#[test]
fn a_short_absence_and_maintenance_make_nothing_anew() {
    let mut w = World::new(1, 4);
    let v = w.volume("v", "size=1GiB rebuild_after=10m");
    let gone = w.s.volumes[&v].shards[0].replicas.values().next().unwrap().clone();
    w.live.up.remove(&gone.node);
    w.live.away.insert(gone.node, 599_999);
    let adds = |w: &World| steps(&w.s, &w.live).iter().filter(|s| matches!(s, Step::Do(_))).count();
    assert_eq!(adds(&w), 0);
    w.run(Command::SetNodeMode { node: gone.node, mode: NodeMode::Maintenance });
    w.live.away.insert(gone.node, 86_400_000);
    assert_eq!(adds(&w), 0);
    w.run(Command::SetNodeMode { node: gone.node, mode: NodeMode::Active });
    assert_eq!(adds(&w), 1);
    w.run(Command::PauseRebuild { paused: true });
    assert!(steps(&w.s, &w.live).is_empty());
}

/// Filling takes several rounds. At no time has a disk or the cluster more to do than it may, and in the end
/// every shard has its replicas; also where clients wait for each of them, because their volumes need all of
/// their replicas.
#[test]
fn losing_a_third_of_the_nodes_is_no_storm() {
    for (min, per_disk, per_node) in [(1, SYNCS_PER_DISK, SYNCS_PER_NODE), (3, URGENT, URGENT)] {
        let mut w = World::new(3, 9);
        for i in 0..100 {
            w.volume(&format!("v{i}"), &format!("size=1GiB rebuild_after=5s min_replicas={min}"));
        }
        w.lasts = 6;
        for i in 1..=3 {
            w.live.up.remove(&NodeId(i));
            w.live.away.insert(NodeId(i), 60_000);
        }
        let (mut most, mut made) = (0, 0);
        while !whole(&w) {
            w.round();
            made += 1;
            assert!(made < 4_000, "it does not come to an end");
            let disk = |w: &World, g: &Going| w.s.volumes[&g.vol].shards[0].replicas[&g.rid].disk;
            let on: Vec<DiskId> = w.going.keys().map(|g| disk(&w, g)).collect();
            for d in &on {
                assert!(on.iter().filter(|o| *o == d).count() <= per_disk);
            }
            assert!(on.len() <= per_node * 6);
            most = most.max(on.len());
            // No more replicas are made than are soon filled.
            let new = w.s.volumes.values().flat_map(|v| v.shards[0].replicas.values());
            let new = new.filter(|r| w.live.up.contains(&r.node) && !r.in_sync()).count();
            assert!(new <= 2 * 6, "{new} new replicas wait to be filled");
        }
        println!("min_replicas={min}: whole after {made} rounds, at most {most} filled at once");
        assert!(most > 6, "only {most} at once were tried");
    }
}

/// Every shard has three replicas in sync, on nodes that are up.
fn whole(w: &World) -> bool {
    let good = |r: &ReplicaRecord| r.in_sync() && w.live.up.contains(&r.node);
    w.s.volumes.values().flat_map(|v| &v.shards).all(|s| s.replicas.len() == 3 && s.replicas.values().all(good))
}

/// With the node of its coordinator gone, no member would be taken out and none brought in: another node
/// looks after the volume, which then waits for its node.
#[test]
fn a_volume_whose_node_stays_away_is_made_whole_and_given_back() {
    let mut w = World::new(5, 5);
    let v = w.volume("v", "size=1GiB rebuild_after=10m");
    let replicas = |w: &World| w.s.volumes[&v].shards[0].replicas.values().cloned().collect::<Vec<_>>();
    let home = replicas(&w)[0].node;
    let attach = |w: &mut World, node, session| {
        let epoch = w.s.volumes[&v].epoch;
        w.run(Command::Attach { vol: v, epoch, node, session: SessionId(session), steal: true, maintenance: false })
    };
    attach(&mut w, home, 77).unwrap();
    w.live.up.remove(&home);
    w.live.away.insert(home, 599_000);
    // An operator who says that it will be back is believed; so is a short absence.
    assert_eq!(steps(&w.s, &w.live), []);
    w.live.away.insert(home, 600_000);
    w.run(Command::SetNodeMode { node: home, mode: NodeMode::Maintenance });
    assert_eq!(steps(&w.s, &w.live), []);
    w.run(Command::SetNodeMode { node: home, mode: NodeMode::Active });
    let list = steps(&w.s, &w.live);
    assert!(matches!(list[0], Step::Maintain { vol, node, .. } if vol == v && node != home), "{list:?}");
    let term = w.s.volumes[&v].term;
    w.settle();
    let now = replicas(&w);
    assert!(now.len() == 3 && now.iter().all(|r| r.in_sync() && r.node != home), "{now:?}");
    // Its node still has it, under nobody's session: that node begins a new one, and the old one is never served again.
    let a = w.s.volumes[&v].coordinator.clone().unwrap();
    assert_eq!((a.node, a.session, a.maintenance, a.home), (home, SessionId::NONE, false, None));
    assert!(w.s.volumes[&v].term > term);
    assert_eq!(steps(&w.s, &w.live), []);
    // It is looked after again when there is something to do again; its node comes back in the middle of that.
    let other = now[0].node;
    w.live.up.remove(&other);
    w.live.away.insert(other, 700_000);
    w.round();
    let a = w.s.volumes[&v].coordinator.clone().unwrap();
    assert_eq!((a.maintenance, a.home), (true, Some(home)));
    // Another node than the first one may have to go on with it.
    w.live.up.remove(&a.node);
    w.live.away.insert(a.node, 6_000);
    w.round();
    assert_eq!(w.s.volumes[&v].coordinator.as_ref().unwrap().home, Some(home));
    w.live.up.extend([home, a.node]);
    w.live.away.clear();
    attach(&mut w, home, 78).unwrap();
    let a = w.s.volumes[&v].coordinator.clone().unwrap();
    assert_eq!((a.node, a.session, a.maintenance, a.home), (home, SessionId(78), false, None));
}

#[test]
fn replicas_that_nobody_can_fill_take_nothing_of_the_budget() {
    let mut w = World::new(8, 4);
    for i in 0..20 {
        let v = w.volume(&format!("v{i}"), "size=1GiB replicas=2 rebuild_after=10m nodes=n1,n2");
        let epoch = w.s.volumes[&v].epoch;
        let session = SessionId(1 + i);
        w.run(Command::Attach { vol: v, epoch, node: NodeId(1), session, steal: false, maintenance: false });
        let change = parse_pairs(["replicas=3", "nodes=n1,n2,n3"]).unwrap();
        let epoch = w.s.volumes[&v].epoch;
        w.run(Command::SetPolicy { vol: v, epoch, change, new_shards: Vec::new() });
        let disk = DiskId(3);
        let epoch = w.s.volumes[&v].epoch;
        w.run(Command::AddReplica { vol: v, shard: 0, epoch, disk });
    }
    // Their node dies before it has filled any of them. Other volumes are not kept waiting.
    w.live.up.remove(&NodeId(1));
    w.live.away.insert(NodeId(1), 6_000);
    let v = w.volume("other", "size=1GiB replicas=1 nodes=n4");
    let epoch = w.s.volumes[&v].epoch;
    let change = parse_pairs(["replicas=2", "nodes=n4,n2"]).unwrap();
    w.run(Command::SetPolicy { vol: v, epoch, change, new_shards: Vec::new() });
    let list = steps(&w.s, &w.live);
    assert!(matches!(list[..], [Step::Do(Command::AddReplica { vol, .. })] if vol == v), "{list:?}");
}

/// A replica that has left does not block its disk: every node holds a replica, one has left and another one
/// is to go, and the only disk for a new one is where the first was (found by the simulator, with changes of
/// the replica set).
#[test]
fn who_has_left_makes_room_though_others_are_missing() {
    let mut w = World::new(5, 3);
    let vol = w.volume("v", "size=1GiB min_replicas=1");
    let v = w.s.volumes[&vol].clone();
    let rids: Vec<Rid> = v.shards[0].replicas.keys().copied().collect();
    w.run(Command::Attach {
        vol,
        epoch: v.epoch,
        node: NodeId(1),
        session: SessionId(1),
        steal: true,
        maintenance: false,
    });
    let epoch = w.s.volumes[&vol].epoch;
    w.run(Command::Leave { vol, shard: 0, epoch, rid: rids[0] });
    let v = w.s.volumes[&vol].clone();
    w.run(Command::Drop {
        vol,
        shard: 0,
        epoch: v.epoch,
        term: v.term,
        rids: vec![rids[0], rids[1]],
        base: Ver::ZERO,
        told: Default::default(),
        reasons: Default::default(),
    });
    w.settle();
    let s = &w.s.volumes[&vol].shards[0];
    assert_eq!((s.replicas.len(), s.in_sync().len()), (3, 3), "{s:?}");
    assert!(!s.replicas.contains_key(&rids[0]));
}

#[test]
fn a_drain_that_is_held_begins_nothing_and_undoes_nothing() {
    let mut w = World::new(4, 5);
    let v = w.volume("v", "size=1GiB rebuild_after=10m");
    let of = w.s.volumes[&v].shards[0].replicas.values().next().unwrap().clone();
    assert!(w.run(Command::PauseJob { of: Job::Node(of.node), paused: true }).is_none(), "it is not being drained");
    w.run(Command::SetNodeMode { node: of.node, mode: NodeMode::Draining });
    w.run(Command::PauseJob { of: Job::Node(of.node), paused: true }).unwrap();
    assert_eq!(steps(&w.s, &w.live), []);
    // Another replica is lost for good meanwhile: that is seen to all the same.
    let other = w.s.volumes[&v].shards[0].replicas.values().find(|r| r.node != of.node).unwrap().node;
    w.live.up.remove(&other);
    w.live.away.insert(other, 700_000);
    w.settle();
    let nodes = |w: &World| w.s.volumes[&v].shards[0].replicas.values().map(|r| r.node).collect::<Vec<_>>();
    assert!(!nodes(&w).contains(&other) && nodes(&w).contains(&of.node), "{:?}", nodes(&w));
    assert_eq!(w.s.volumes[&v].shards[0].in_sync().len(), 3);
    // Held again in the middle: the replicas that it has brought stay.
    w.run(Command::PauseJob { of: Job::Node(of.node), paused: false });
    w.round();
    w.run(Command::PauseJob { of: Job::Node(of.node), paused: true });
    w.settle();
    assert!(nodes(&w).len() == 4 && nodes(&w).contains(&of.node), "{:?}", nodes(&w));
    w.live.up.insert(other);
    w.live.away.clear();
    w.run(Command::PauseJob { of: Job::Node(of.node), paused: false });
    w.settle();
    assert!(!nodes(&w).contains(&of.node) && nodes(&w).len() == 3);
    // The same of a disk; being in service again ends the hold too.
    let r = w.s.volumes[&v].shards[0].replicas.values().next().unwrap().clone();
    w.run(Command::SetDiskDraining { disk: r.disk, draining: true });
    w.run(Command::PauseJob { of: Job::Disk(r.disk), paused: true }).unwrap();
    assert_eq!(steps(&w.s, &w.live), []);
    w.run(Command::SetDiskDraining { disk: r.disk, draining: false });
    assert!(!w.s.disks[&r.disk].drain_paused);
    w.run(Command::SetDiskDraining { disk: r.disk, draining: true });
    w.settle();
    assert!(w.s.volumes[&v].shards[0].replicas.values().all(|x| x.disk != r.disk));
}

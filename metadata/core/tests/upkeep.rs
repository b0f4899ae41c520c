//! Upkeep: rebalancing comes to an end and leaves disks even; moves, failing disks and scrubs end with what was wanted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::world::World;
use hf_meta_core::Command;
use hf_meta_core::command::Job;
use hf_meta_core::plan::Step;
use hf_meta_core::plan::inventory;
use hf_meta_core::plan::repair::steps;
use hf_meta_core::record::*;
use hf_policy::attributes::Media;
use hf_policy::*;

/// How much fuller the fullest disk is than the emptiest, in percent of the fullest.
fn unevenness(w: &World) -> u64 {
    let placed: Vec<u64> = inventory(&w.s, &w.live).iter().map(|d| d.placed).collect();
    let (max, min) = (placed.iter().max().unwrap(), placed.iter().min().unwrap());
    (max - min) * 100 / max.max(&1)
}

#[test]
fn a_held_job_stands_still_and_goes_on_where_it_was() {
    let mut w = World::new(7, 4);
    let v = w.volume("v", "size=1GiB replicas=2");
    let of = |w: &World, rid: Rid| w.s.volumes[&v].shards[0].replicas.get(&rid).cloned();
    let rids: Vec<Rid> = w.s.volumes[&v].replicas().map(|(_, r)| r.rid).collect();
    let pause = |w: &mut World, of: Job, paused: bool| w.run(Command::PauseJob { of, paused });
    for nothing in
        [Job::Rebalance, Job::Scrub(v), Job::Replica(rids[0]), Job::Replica(Rid(99)), Job::Scrub(VolumeId(9))]
    {
        assert_eq!(pause(&mut w, nothing, true), None, "{nothing:?} does not go on");
    }
    // A held move: the replica stays where it was, and a successor that is there already stays, too.
    let epoch = |w: &World| w.s.volumes[&v].epoch;
    let e = epoch(&w);
    w.run(Command::Move { vol: v, shard: 0, epoch: e, rid: rids[0], moving: true }).unwrap();
    w.round();
    pause(&mut w, Job::Replica(rids[0]), true).unwrap();
    w.settle();
    assert!(of(&w, rids[0]).is_some_and(|r| r.in_sync() && !r.leaving), "a held move went on");
    pause(&mut w, Job::Replica(rids[0]), false).unwrap();
    w.settle();
    assert_eq!(of(&w, rids[0]), None, "the move goes on");
    // A held replica that is out: it is not filled, nobody looks after the volume for it, it takes no budget.
    let v2 = w.s.volumes[&v].clone();
    let session = SessionId(4);
    let node = v2.replicas().next().unwrap().1.node;
    w.run(Command::Attach { vol: v, epoch: v2.epoch, node, session, steal: true, maintenance: false }).unwrap();
    let out = v2.replicas().nth(1).unwrap().1.rid;
    let (e, term) = (epoch(&w), w.s.volumes[&v].term);
    let (rids, base, told, reasons) = (vec![out], Ver::ZERO, Default::default(), Default::default());
    w.run(Command::Drop { vol: v, shard: 0, epoch: e, term, rids, base, told, reasons }).unwrap();
    pause(&mut w, Job::Replica(out), true).unwrap();
    w.run(Command::Detach { vol: v, session }).unwrap();
    w.settle();
    assert!(of(&w, out).is_some_and(|r| !r.in_sync() && r.paused) && w.s.volumes[&v].coordinator.is_none());
    pause(&mut w, Job::Replica(out), false).unwrap();
    w.settle();
    assert!(of(&w, out).is_some_and(|r| r.in_sync()));
    // A scrub.
    let e = epoch(&w);
    w.run(Command::Scrub { vol: v, epoch: e, on: true }).unwrap();
    pause(&mut w, Job::Scrub(v), true).unwrap();
    w.settle();
    assert!(w.s.volumes[&v].scrub.is_some() && w.s.volumes[&v].coordinator.is_none());
    pause(&mut w, Job::Scrub(v), false).unwrap();
    w.settle();
    assert!(w.s.volumes[&v].scrub.is_none() && w.s.volumes[&v].scrubbed.is_some());
    // A rebalancing that is held: no new move is chosen.
    for i in 0..12 {
        w.volume(&format!("w{i}"), "size=9GiB replicas=2 nodes=n1,n2");
    }
    for vol in w.s.volumes.keys().copied().collect::<Vec<_>>() {
        let (epoch, change) = (w.s.volumes[&vol].epoch, hf_policy::policy::parse_pairs(["nodes=default"]).unwrap());
        w.run(Command::SetPolicy { vol, epoch, change, new_shards: vec![] }).unwrap();
    }
    w.run(Command::Rebalance { on: true }).unwrap();
    pause(&mut w, Job::Rebalance, true).unwrap();
    w.settle();
    assert!(w.s.rebalancing && unevenness(&w) > 90, "{}", unevenness(&w));
    pause(&mut w, Job::Rebalance, false).unwrap();
    w.settle();
    assert!(!w.s.rebalancing && unevenness(&w) <= 25, "{}", unevenness(&w));
}

#[test]
fn rebalancing_ends_and_new_nodes_carry_their_share() {
    for seed in 0..60 {
        let mut w = World::new(seed, 3);
        for i in 0..40 {
            let size = ["1GiB", "3GiB", "10GiB"][w.rnd(3) as usize];
            w.volume(&format!("v{i}"), &format!("size={size} replicas=2"));
        }
        for i in 4..=6u64 {
            let put = Command::PutNode {
                node: None,
                name: format!("n{i}"),
                uuid: BootId(u128::from(i)),
                addr: Addresses::default(),
                labels: Default::default(),
                version: String::new(),
                log: Default::default(),
            };
            w.run(put);
            let (node, uuid, path) = (NodeId(i), DiskUuid(u128::from(i)), String::new());
            w.run(Command::PutDisk { node, uuid, path, media: Media::Ssd, capacity: 1 << 40 });
            w.live.up.insert(NodeId(i));
        }
        assert_eq!(unevenness(&w), 100, "the new disks are empty");
        w.run(Command::Rebalance { on: true });
        w.settle();
        assert!(!w.s.rebalancing, "it ends by itself");
        assert!(unevenness(&w) <= 25, "seed {seed}: {} % uneven", unevenness(&w));
        let all = || w.s.volumes.values().flat_map(|v| &v.shards);
        assert!(all().all(|s| s.replicas.len() == 2 && s.in_sync().len() == 2));
        assert!(all().flat_map(|s| s.replicas.values()).all(|r| !r.moving && !r.leaving));
        // On even disks nothing moves.
        let rids =
            |w: &World| -> Vec<Rid> { w.s.volumes.values().flat_map(|v| v.replicas().map(|(_, r)| r.rid)).collect() };
        let before = rids(&w);
        w.run(Command::Rebalance { on: true });
        w.settle();
        assert_eq!(rids(&w), before);
    }
}

#[test]
fn a_replica_moves_on_demand_and_a_failing_disk_is_emptied() {
    let mut w = World::new(5, 5);
    let vol = w.volume("v", "size=1GiB");
    let shard = |w: &World| w.s.volumes[&vol].shards[0].clone();
    let r = shard(&w).replicas.values().next().unwrap().clone();
    let epoch = w.s.volumes[&vol].epoch;
    w.run(Command::Move { vol, shard: 0, epoch, rid: r.rid, moving: true });
    w.settle();
    let s = shard(&w);
    assert!(
        s.in_sync().len() == 3 && !s.replicas.contains_key(&r.rid) && s.replicas.values().all(|x| x.disk != r.disk)
    );
    let failing = s.replicas.values().next().unwrap().disk;
    w.run(Command::SetDiskState { disk: failing, state: DiskState::Failing("rot".into()), fault: None });
    // It serves until its replicas have successors elsewhere: nothing is taken away first.
    assert!(shard(&w).replicas.values().any(|x| x.disk == failing && x.in_sync()));
    w.settle();
    let s = shard(&w);
    assert!(s.in_sync().len() == 3 && s.replicas.values().all(|x| x.disk != failing));
}

#[test]
fn scrubs_begin_when_they_are_due_and_not_all_at_once() {
    let mut w = World::new(7, 3);
    const DAY: u64 = 86_400_000;
    w.live.wall_ms = 1_000 * DAY;
    for i in 0..10 {
        w.volume(&format!("v{i}"), "size=1GiB scrub_interval=1d");
    }
    let never = w.volume("never", "size=1GiB scrub_interval=0");
    let due = |w: &World| steps(&w.s, &w.live).iter().filter(|s| matches!(s, Step::Do(Command::Scrub { .. }))).count();
    assert_eq!(due(&w), 0);
    w.live.wall_ms += DAY - 1;
    assert_eq!(due(&w), 0);
    w.live.wall_ms += 1;
    assert_eq!(due(&w), 3, "one per node at once");
    w.settle();
    let done = |v: &&std::sync::Arc<VolumeRecord>| v.scrubbed.is_some_and(|s| s.report.chunks > 0);
    assert_eq!(w.s.volumes.values().filter(done).count(), 10);
    assert!(w.s.volumes[&never].scrubbed.is_none());
    assert_eq!(due(&w), 0);
}

/// Two disks in one node: replicas that the drain of one has brought to the other stay when the drain is
/// held, and it goes on from there. A replica whose move is held is caught up as any other.
#[test]
fn a_held_drain_keeps_what_it_brought_within_the_node_and_a_held_move_is_no_held_copy() {
    let mut w = World::new(9, 3);
    for i in 1..=3u64 {
        let (node, uuid, path) = (NodeId(i), DiskUuid(100 + u128::from(i)), "second".to_string());
        w.run(Command::PutDisk { node, uuid, path, media: Media::Ssd, capacity: 1 << 40 });
    }
    let v = w.volume("v", "size=1GiB replicas=3");
    let all = |w: &World| w.s.volumes[&v].shards[0].replicas.clone();
    let r = all(&w).into_values().next().unwrap();
    w.run(Command::SetDiskDraining { disk: r.disk, draining: true });
    for _ in 0..50 {
        if all(&w).len() == 4 {
            break;
        }
        w.round();
    }
    let new =
        all(&w).into_values().find(|x| x.node == r.node && x.disk != r.disk).expect("a successor in the same node");
    w.run(Command::PauseJob { of: Job::Disk(r.disk), paused: true }).unwrap();
    w.settle();
    assert!(all(&w).contains_key(&new.rid) && all(&w).contains_key(&r.rid), "{:?}", all(&w));
    w.run(Command::PauseJob { of: Job::Disk(r.disk), paused: false }).unwrap();
    w.settle();
    assert!(all(&w).contains_key(&new.rid) && !all(&w).contains_key(&r.rid) && all(&w).len() == 3);

    let rid = new.rid;
    let e = w.s.volumes[&v].epoch;
    w.run(Command::Move { vol: v, shard: 0, epoch: e, rid, moving: true }).unwrap();
    w.run(Command::PauseJob { of: Job::Replica(rid), paused: true }).unwrap();
    let record = w.s.volumes[&v].clone();
    let node = record.replicas().find(|(_, x)| x.rid != rid).unwrap().1.node;
    let session = SessionId(8);
    let attach = Command::Attach { vol: v, epoch: record.epoch, node, session, steal: true, maintenance: false };
    w.run(attach).unwrap();
    let (e, term) = (w.s.volumes[&v].epoch, w.s.volumes[&v].term);
    w.run(Command::Drop {
        vol: v,
        shard: 0,
        epoch: e,
        term,
        rids: vec![rid],
        base: Ver::ZERO,
        told: Default::default(),
        reasons: Default::default(),
    })
    .unwrap();
    w.run(Command::Detach { vol: v, session }).unwrap();
    w.settle();
    assert!(all(&w).get(&rid).is_some_and(|x| x.in_sync() && x.move_held()), "{:?}", all(&w));
}

/// The name that the command had in logs when drains were the only jobs.
#[test]
fn an_old_pause_is_read() {
    for (text, of) in [
        (r#"{"pause_drain":{"of":{"node":3},"paused":true}}"#, Job::Node(NodeId(3))),
        (r#"{"pause_drain":{"of":{"disk":4},"paused":true}}"#, Job::Disk(DiskId(4))),
    ] {
        assert_eq!(serde_json::from_str::<Command>(text).unwrap(), Command::PauseJob { of, paused: true });
    }
}

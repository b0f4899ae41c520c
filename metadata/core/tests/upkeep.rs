//! Upkeep: rebalancing comes to an end and leaves disks even; moves, failing disks and scrubs end with what was wanted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use hf_meta_core::Command;
use hf_meta_core::plan::inventory;
use hf_meta_core::record::*;
use hf_meta_core::repair::{Step, steps};
use hf_policy::attributes::Media;
use hf_policy::*;
use world::World;

/// How much fuller the fullest disk is than the emptiest, in percent of the fullest.
fn unevenness(w: &World) -> u64 {
    let placed: Vec<u64> = inventory(&w.s, &w.live).iter().map(|d| d.placed).collect();
    let (max, min) = (placed.iter().max().unwrap(), placed.iter().min().unwrap());
    (max - min) * 100 / max.max(&1)
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
        // What is even stays where it is.
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
    w.run(Command::SetDiskState { disk: failing, state: DiskState::Failing("rot".into()) });
    // It serves until what it holds is elsewhere: nothing is taken away first.
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
    let due =
        |w: &World| steps(&w.s, &w.live, 0).iter().filter(|s| matches!(s, Step::Do(Command::Scrub { .. }))).count();
    assert_eq!(due(&w), 0);
    w.live.wall_ms += DAY - 1;
    assert_eq!(due(&w), 0);
    w.live.wall_ms += 1;
    assert_eq!(due(&w), 3, "one per node at once");
    w.settle();
    let done = |v: &&VolumeRecord| v.scrubbed.is_some_and(|s| s.report.chunks > 0);
    assert_eq!(w.s.volumes.values().filter(done).count(), 10);
    assert!(w.s.volumes[&never].scrubbed.is_none());
    assert_eq!(due(&w), 0);
}

//! How many replicas are filled at once: per disk, per cluster, and what no longer counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use hf_meta_core::limits::{Going, SYNCS_PER_DISK, SYNCS_PER_NODE, room};
use hf_meta_core::{Command, Refusal};
use hf_policy::*;
use world::World;

/// Every replica of every volume, as something to fill.
fn all(w: &World) -> Vec<Going> {
    let of = |v: &hf_meta_core::VolumeRecord| {
        v.replicas().map(|(shard, r)| Going { vol: v.id, shard: shard.index, rid: r.rid }).collect::<Vec<_>>()
    };
    w.s.volumes.values().flat_map(of).collect()
}

/// Drops every replica but the first of each volume.
fn dropped(w: &mut World) -> Vec<Going> {
    for v in w.s.volumes.clone().into_values() {
        let node = v.replicas().next().unwrap().1.node;
        let attach = Command::Attach {
            vol: v.id,
            epoch: v.epoch,
            node,
            session: SessionId(1),
            steal: false,
            maintenance: false,
        };
        w.run(attach).unwrap();
        let v = w.s.volumes[&v.id].clone();
        let rids = v.replicas().skip(1).map(|(_, r)| r.rid).collect();
        w.run(Command::Drop { vol: v.id, shard: 0, epoch: v.epoch, term: v.term, rids, base: Ver::ZERO }).unwrap();
    }
    let out = |g: &Going| !w.s.volumes[&g.vol].shards[0].replicas[&g.rid].in_sync();
    all(w).into_iter().filter(out).collect()
}

#[test]
fn neither_a_disk_nor_the_cluster_is_asked_for_more_than_it_may_take() {
    let mut w = World::new(1, 6);
    for i in 0..12 {
        w.volume(&format!("v{i}"), "size=1GiB replicas=3");
    }
    let wanted = dropped(&mut w);
    assert_eq!(wanted.len(), 24);
    let disk = |g: &Going| w.s.volumes[&g.vol].shards[0].replicas[&g.rid].disk;
    for up in [1, 3, 6] {
        let mut going: Vec<Going> = Vec::new();
        let mut refused = Vec::new();
        for g in &wanted {
            match room(&w.s, &going, up, *g) {
                Ok(()) => going.push(*g),
                Err(Refusal::Busy(why)) => refused.push(why),
                Err(e) => panic!("{e}"),
            }
        }
        assert!(!refused.is_empty() && !going.is_empty());
        assert!(going.len() <= SYNCS_PER_NODE * up, "{} at once with {up} nodes", going.len());
        for g in &going {
            assert!(going.iter().filter(|o| disk(o) == disk(g)).count() <= SYNCS_PER_DISK);
            // One that goes on already may begin again (its coordinator was replaced).
            assert_eq!(room(&w.s, &going, up, *g), Ok(()));
        }
    }
}

#[test]
fn what_has_ended_takes_no_place() {
    let mut w = World::new(2, 3);
    for i in 0..6 {
        w.volume(&format!("v{i}"), "size=1GiB replicas=3");
    }
    let in_sync = all(&w);
    let wanted = dropped(&mut w);
    let first = w.s.disks.keys().next().copied().unwrap();
    let here = |w: &World, g: &Going| w.s.volumes[&g.vol].shards[0].replicas[&g.rid].disk == first;
    let there: Vec<Going> = wanted.into_iter().filter(|g| here(&w, g)).collect();
    assert!(there.len() > SYNCS_PER_DISK);
    let (going, next) = (&there[..SYNCS_PER_DISK], there[SYNCS_PER_DISK]);
    assert!(matches!(room(&w.s, going, 3, next), Err(Refusal::Busy(_))));
    assert!(!going[0].is_recorded(&w.s), "allowed, not yet begun");
    // The first one joins: its place is free although somebody may still say that it goes on.
    let (vol, rid) = (going[0].vol, going[0].rid);
    let v = w.s.volumes[&vol].clone();
    w.run(Command::SyncStart { vol, shard: 0, epoch: v.epoch, term: v.term, rid, sync_id: 1 }).unwrap();
    assert!(going[0].is_recorded(&w.s) && room(&w.s, going, 3, next).is_err());
    let v = w.s.volumes[&vol].clone();
    let store_uuid = v.shards[0].replicas[&rid].store_uuid.unwrap();
    w.run(Command::Add { vol, shard: 0, epoch: v.epoch, term: v.term, rid, store_uuid }).unwrap();
    assert_eq!(room(&w.s, going, 3, next), Ok(()));
    // Nonsense from a heartbeat counts for nothing.
    let nonsense: Vec<Going> = (90..99).map(|i| Going { vol: VolumeId(i), shard: 7, rid: Rid(i) }).collect();
    assert_eq!(room(&w.s, &nonsense, 1, next), Ok(()));
    assert!(in_sync.iter().all(|g| Going::of(&Command::ReplicaGone { rid: g.rid }).is_none()));
}

//! How many replicas are filled at once: per disk, per cluster, and what no longer counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::world::World;
use hf_meta_core::limits::{Going, SYNCS_PER_DISK, SYNCS_PER_NODE, URGENT, room};
use hf_meta_core::{Command, Refusal};
use hf_policy::*;

/// Every replica of every volume, as something to fill.
fn all(w: &World) -> Vec<Going> {
    let of = |v: &std::sync::Arc<hf_meta_core::VolumeRecord>| {
        v.replicas().map(|(shard, r)| Going { vol: v.id, shard: shard.index, rid: r.rid }).collect::<Vec<_>>()
    };
    w.s.volumes.values().flat_map(of).collect()
}

/// Drops every replica but the first of each volume.
fn dropped(w: &mut World) -> Vec<Going> {
    for v in w.s.volumes.clone().values() {
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
        w.run(Command::Drop {
            vol: v.id,
            shard: 0,
            epoch: v.epoch,
            term: v.term,
            rids,
            base: Ver::ZERO,
            told: Default::default(),
            reasons: Default::default(),
        })
        .unwrap();
    }
    let out = |g: &Going| !w.s.volumes[&g.vol].shards[0].replicas[&g.rid].in_sync();
    all(w).into_iter().filter(out).collect()
}

#[test]
fn neither_a_disk_nor_the_cluster_is_asked_for_more_than_it_may_take() {
    at_once(1, SYNCS_PER_DISK, SYNCS_PER_NODE);
    // Nor where clients wait for all of them: many at once would all end later.
    at_once(3, URGENT, URGENT);
}

fn at_once(min_replicas: u32, per_disk: usize, per_node: usize) {
    let mut w = World::new(1, 6);
    for i in 0..12 {
        w.volume(&format!("v{i}"), &format!("size=1GiB replicas=3 min_replicas={min_replicas}"));
    }
    let wanted = dropped(&mut w);
    assert_eq!(wanted.len(), 24);
    let disk = |g: &Going| w.s.volumes[&g.vol].shards[0].replicas[&g.rid].disk;
    for up in [1, 3, 6u64] {
        // The nodes that hold the data are up in any case; the number of nodes is what is tried.
        let nodes: std::collections::BTreeSet<NodeId> = (1..=up).map(NodeId).collect();
        let filled =
            |g: &Going| w.s.volumes[&g.vol].shards[0].replicas.values().any(|r| r.in_sync() && nodes.contains(&r.node));
        let wanted: Vec<Going> = wanted.iter().copied().filter(filled).collect();
        let mut going: Vec<Going> = Vec::new();
        let mut refused = Vec::new();
        for g in &wanted {
            match room(&w.s, &going, &nodes, *g) {
                Ok(()) => going.push(*g),
                Err(Refusal::Busy(why)) => refused.push(why),
                Err(e) => panic!("{e}"),
            }
        }
        assert!(up < 6 || (!refused.is_empty() && !going.is_empty()));
        assert!(going.len() <= per_node * up as usize, "{} at once with {up} nodes", going.len());
        for g in &going {
            assert!(going.iter().filter(|o| disk(o) == disk(g)).count() <= per_disk);
            // A sync that is under way may begin again, because its coordinator was replaced.
            assert_eq!(room(&w.s, &going, &nodes, *g), Ok(()));
        }
    }
}

/// Syncs that clients wait for have places of their own on a disk, and no more than those; other syncs count all.
#[test]
fn urgent_ones_have_places_of_their_own_and_not_more() {
    let mut w = World::new(6, 3);
    for i in 0..6 {
        w.volume(&format!("v{i}"), &format!("size=1GiB replicas=3 min_replicas={}", if i < 3 { 1 } else { 3 }));
    }
    let wanted = dropped(&mut w);
    let asks = |g: &Going| w.s.volumes[&g.vol].attrs["min_replicas"] == "3";
    let disk = |g: &Going| w.s.volumes[&g.vol].shards[0].replicas[&g.rid].disk;
    let on = |d: DiskId, urgent: bool| -> Vec<Going> {
        wanted.iter().copied().filter(|g| disk(g) == d && asks(g) == urgent).collect()
    };
    let both = |d: &DiskId| on(*d, true).len() > URGENT && !on(*d, false).is_empty();
    let d = w.s.disks.keys().copied().find(both).expect("a disk with enough of both");
    let (urgent, others) = (on(d, true), on(d, false));
    let up = (1..=9).map(NodeId).collect(); // (So that only the disk's limit counts.)
    // As many other syncs as may be are under way: that is no reason to wait.
    let mut going: Vec<Going> = others.iter().copied().take(SYNCS_PER_DISK).collect();
    for g in &urgent[..URGENT] {
        assert_eq!(room(&w.s, &going, &up, *g), Ok(()));
        going.push(*g);
    }
    assert!(matches!(room(&w.s, &going, &up, urgent[URGENT]), Err(Refusal::Busy(_))), "one more than may");
    // Other syncs wait for those that clients wait for.
    assert!(room(&w.s, &urgent[..URGENT], &up, others[0]).is_err());
    assert_eq!(room(&w.s, &urgent[..1], &up, others[0]), Ok(()));
}

#[test]
fn what_has_ended_takes_no_place() {
    let mut w = World::new(2, 3);
    for i in 0..6 {
        w.volume(&format!("v{i}"), "size=1GiB replicas=3 min_replicas=1");
    }
    let in_sync = all(&w);
    let wanted = dropped(&mut w);
    let first = w.s.disks.keys().next().copied().unwrap();
    let here = |w: &World, g: &Going| w.s.volumes[&g.vol].shards[0].replicas[&g.rid].disk == first;
    let there: Vec<Going> = wanted.into_iter().filter(|g| here(&w, g)).collect();
    assert!(there.len() > SYNCS_PER_DISK);
    let (going, next) = (&there[..SYNCS_PER_DISK], there[SYNCS_PER_DISK]);
    assert!(matches!(room(&w.s, going, &w.live.up, next), Err(Refusal::Busy(_))));
    assert!(!going[0].is_recorded(&w.s), "allowed, not yet begun");
    // The first replica is in sync: its place is free, although a node may still tell that it is being filled.
    let (vol, rid) = (going[0].vol, going[0].rid);
    let v = w.s.volumes[&vol].clone();
    w.run(Command::SyncStart { vol, shard: 0, epoch: v.epoch, term: v.term, rid, sync_id: 1 }).unwrap();
    assert!(going[0].is_recorded(&w.s) && room(&w.s, going, &w.live.up, next).is_err());
    let v = w.s.volumes[&vol].clone();
    let store_uuid = v.shards[0].replicas[&rid].store_uuid.unwrap();
    w.run(Command::Add { vol, shard: 0, epoch: v.epoch, term: v.term, rid, store_uuid }).unwrap();
    assert_eq!(room(&w.s, going, &w.live.up, next), Ok(()));
    // Nonsense from a heartbeat counts for nothing.
    let nonsense: Vec<Going> = (90..99).map(|i| Going { vol: VolumeId(i), shard: 7, rid: Rid(i) }).collect();
    assert_eq!(room(&w.s, &nonsense, &w.live.up, next), Ok(()));
    assert!(in_sync.iter().all(|g| Going::of(&Command::ReplicaGone { rid: g.rid }).is_none()));
}

#[test]
fn who_clients_wait_for_and_who_nobody_can_fill_are_no_part_of_it() {
    let mut w = World::new(3, 3);
    for i in 0..5 {
        w.volume(&format!("v{i}"), "size=1GiB replicas=3 min_replicas=1");
    }
    let urgent = w.volume("urgent", "size=1GiB replicas=3 min_replicas=3");
    let wanted = dropped(&mut w);
    let disk = |w: &World, g: &Going| w.s.volumes[&g.vol].shards[0].replicas[&g.rid].disk;
    let first = disk(&w, wanted.iter().find(|g| g.vol == urgent).unwrap());
    let there: Vec<Going> = wanted.into_iter().filter(|g| disk(&w, g) == first).collect();
    let (mine, others): (Vec<Going>, Vec<Going>) = there.into_iter().partition(|g| g.vol == urgent);
    assert!(others.len() > SYNCS_PER_DISK);
    let (going, next) = (&others[..SYNCS_PER_DISK], others[SYNCS_PER_DISK]);
    assert!(room(&w.s, going, &w.live.up, next).is_err());
    assert_eq!(room(&w.s, going, &w.live.up, mine[0]), Ok(()), "its clients' writes wait");
    // The only source of a sync is gone: it cannot go on, and takes no place.
    let v = &w.s.volumes[&going[0].vol].shards[0];
    let source = v.replicas.values().find(|r| r.in_sync()).unwrap().node;
    let mut up = w.live.up.clone();
    up.remove(&source);
    let next_source = w.s.volumes[&next.vol].shards[0].replicas.values().find(|r| r.in_sync()).unwrap().node;
    if next_source != source {
        assert_eq!(room(&w.s, going, &up, next), Ok(()));
    }
    up.remove(&next_source);
    assert_eq!(room(&w.s, going, &up, next), Ok(()), "nothing to decide where nobody can send");
}

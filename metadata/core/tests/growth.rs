//! A volume that grows over a shard's border while nodes and disks fail: its old shards stay usable whatever becomes of
//! the new shard, and the new shard is made in the end. Changes of many shards at once take one command, and refusals
//! push no outcome out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::world::World;
use hf_meta_core::command::{COMMAND_VERSION, ShardChange, ShardStep};
use hf_meta_core::plan::Step;
use hf_meta_core::plan::repair::steps;
use hf_meta_core::record::*;
use hf_meta_core::{Command, Envelope, Refusal, Reply, plan};
use hf_policy::policy::parse_pairs;
use hf_policy::*;

/// A volume of one shard, attached on node 1.
fn attached(nodes: u64, attrs: &str) -> (World, VolumeId) {
    let mut w = World::new(1, nodes);
    let vol = w.volume("v", attrs);
    attach(&mut w, vol, 1, 11).unwrap();
    (w, vol)
}

fn attach(w: &mut World, vol: VolumeId, node: u64, session: u128) -> Option<Reply> {
    let (epoch, node, session) = (w.s.volumes[&vol].epoch, NodeId(node), SessionId(session));
    w.run(Command::Attach { vol, epoch, node, session, steal: true, maintenance: false })
}

/// Grows the volume, and returns where the new shards are placed.
fn grow(w: &mut World, vol: VolumeId, size: &str) {
    let change = parse_pairs([format!("size={size}").as_str()]).unwrap();
    let v = w.s.volumes[&vol].clone();
    let new_shards = plan::set_policy(&w.s, &w.live, &v, &change, 5).unwrap();
    w.run(Command::SetPolicy { vol, epoch: v.epoch, change, new_shards }).unwrap();
}

fn lose(w: &mut World, node: NodeId, ms: u64) {
    w.live.up.remove(&node);
    w.live.away.insert(node, ms);
}

const G64: u64 = 64 << 30;

/// The node that should make a replica of the new shard dies before it has made it. The volume is attached anew without
/// the new shard, whose replica is made elsewhere at once, because nothing has to be copied.
#[test]
fn a_node_that_is_lost_while_a_volume_grows_locks_nobody_out() {
    let (mut w, vol) = attached(4, "size=64GiB replicas=3");
    grow(&mut w, vol, "128GiB");
    let lost = w.s.volumes[&vol].shards[1].replicas.values().find(|r| r.node != NodeId(1)).unwrap().node;
    lose(&mut w, lost, 6_000);
    w.agents();
    let v = &w.s.volumes[&vol];
    assert_eq!((v.begun(), v.made_size(), v.size), (1, G64, 2 * G64));
    attach(&mut w, vol, 1, 12).expect("what it has can be attached");
    w.settle();
    let v = &w.s.volumes[&vol];
    assert_eq!((v.begun(), v.made_size()), (2, 2 * G64));
    let nodes: Vec<NodeId> = v.shards[1].replicas.values().map(|r| r.node).collect();
    assert!(nodes.len() == 3 && !nodes.contains(&lost), "{nodes:?}");
    assert_eq!(v.shards[1].since, v.term, "no term before that is known to have been served there");
    // What the lost node may have made without telling is deleted when it is back.
    w.live.up.insert(lost);
    w.live.away.clear();
    w.settle();
    assert!(w.s.tombstones.is_empty());
}

/// No other disk can take the replica: the new shard begins with fewer replicas, as every other shard would go on, and
/// the last one is brought in later.
#[test]
fn without_another_place_the_new_shard_begins_with_fewer() {
    let (mut w, vol) = attached(3, "size=64GiB replicas=3 min_replicas=1");
    grow(&mut w, vol, "128GiB");
    lose(&mut w, NodeId(3), 6_000);
    w.settle();
    let v = &w.s.volumes[&vol];
    assert_eq!((v.begun(), v.shards[1].in_sync().len(), v.shards[1].replicas.len()), (2, 2, 3));
    w.live.up.insert(NodeId(3));
    w.live.away.clear();
    w.settle();
    assert_eq!(w.s.volumes[&vol].shards[1].in_sync().len(), 3);
}

/// The same where writes need all replicas: the new shard waits, the volume does not.
#[test]
fn a_shard_that_could_not_be_written_waits_and_the_volume_does_not() {
    let (mut w, vol) = attached(3, "size=64GiB replicas=3 min_replicas=3");
    grow(&mut w, vol, "128GiB");
    lose(&mut w, NodeId(3), 6_000);
    w.settle();
    assert_eq!(w.s.volumes[&vol].begun(), 1);
    attach(&mut w, vol, 2, 12).expect("what it has can be attached");
    w.live.up.insert(NodeId(3));
    w.live.away.clear();
    w.settle();
    assert_eq!(w.s.volumes[&vol].made_size(), 2 * G64);
}

/// A disk's replica table is full: its node says so, and the replica is made on another disk. So is a replica that was
/// added because a shard had too few.
#[test]
fn a_disk_that_cannot_take_a_replica_is_given_none() {
    let (mut w, vol) = attached(5, "size=64GiB replicas=2");
    grow(&mut w, vol, "128GiB");
    let full = w.s.volumes[&vol].shards[1].replicas.values().next().unwrap().disk;
    w.full.insert(full);
    w.settle();
    let v = &w.s.volumes[&vol];
    assert_eq!(v.begun(), 2);
    assert!(v.shards[1].replicas.values().all(|r| r.disk != full));
    // One more replica each; whichever disk is chosen first is full.
    let epoch = v.epoch;
    let change = parse_pairs(["replicas=3"]).unwrap();
    w.run(Command::SetPolicy { vol, epoch, change, new_shards: Vec::new() }).unwrap();
    let list = steps(&w.s, &w.live);
    let Some(Step::Do(Command::AddReplica { disk, .. })) = list.first() else { panic!("{list:?}") };
    w.full.insert(*disk);
    w.settle();
    let v = &w.s.volumes[&vol];
    assert!(v.shards.iter().all(|s| s.in_sync().len() == 3 && s.replicas.len() == 3), "{:?}", v.shards);
    let on = |d: &DiskId| v.replicas().filter(|(_, r)| r.disk == *d).count();
    let at_first: usize = w.full.iter().map(on).sum();
    assert!(at_first <= 2, "what was there before the disks were full stays");
}

/// A new volume of two shards whose second one cannot be made yet: it was never attached, so it is not
/// attached with half of its size. Once there are disks it is whole.
#[test]
fn a_new_volume_is_attached_with_all_of_it_or_not_at_all() {
    let mut w = World::new(1, 4);
    lose(&mut w, NodeId(4), 6_000);
    w.full = (1..=4).map(DiskId).collect();
    let vol = w.volume("v", "size=100GiB replicas=3 min_replicas=3");
    w.full.clear();
    let first: Vec<Rid> = w.s.volumes[&vol].shards[0].replicas.keys().copied().collect();
    for rid in first {
        w.run(Command::ReplicaMade { vol, rid, store_uuid: StoreUuid(rid.0.into()) }).unwrap();
    }
    assert_eq!(w.s.volumes[&vol].begun(), 1);
    assert_eq!(attach(&mut w, vol, 1, 12), None);
    w.settle();
    attach(&mut w, vol, 1, 13).unwrap();
}

/// A shard behind one that is not made is not part of the volume either, though its own replicas are made. It is not
/// served, so one of them that is lost for good is replaced as freely.
#[test]
fn what_waits_behind_an_unmade_shard_is_replaced_as_freely() {
    let (mut w, vol) = attached(4, "size=64GiB replicas=1 min_replicas=1");
    grow(&mut w, vol, "192GiB");
    let of = |w: &World, i: usize| w.s.volumes[&vol].shards[i].replicas.values().next().unwrap().clone();
    let (second, third) = (of(&w, 1), of(&w, 2));
    w.run(Command::ReplicaMade { vol, rid: third.rid, store_uuid: StoreUuid(3) }).unwrap();
    assert_eq!(w.s.volumes[&vol].begun(), 1);
    for node in [second.node, third.node] {
        lose(&mut w, node, 1_000_000);
    }
    w.settle();
    let v = &w.s.volumes[&vol];
    assert_eq!((v.begun(), v.shards[2].replicas.len()), (3, 1));
    assert!(w.live.up.contains(&of(&w, 1).node) && w.live.up.contains(&of(&w, 2).node));
    // From now on none of its replicas may be replaced.
    let (epoch, rid) = (v.epoch, of(&w, 2).rid);
    assert_eq!(w.run(Command::ReplaceUnmade { vol, shard: 2, epoch, rid, disk: None }), None);
}

/// A scrub ends without a shard that is still to be made, and includes it once it is made.
#[test]
fn a_scrub_of_a_volume_that_grows_comes_to_its_end() {
    let (mut w, vol) = attached(3, "size=64GiB replicas=3 min_replicas=3");
    grow(&mut w, vol, "128GiB");
    let epoch = w.s.volumes[&vol].epoch;
    w.run(Command::Scrub { vol, epoch, on: true }).unwrap();
    lose(&mut w, NodeId(3), 6_000);
    for _ in 0..4 {
        w.round();
    }
    assert!(w.s.volumes[&vol].scrub.is_none() && w.s.volumes[&vol].scrubbed.is_some());
}

fn envelope(n: u128, cmd: Command) -> Envelope {
    Envelope { v: COMMAND_VERSION, request: RequestId(n), at_ms: 0, cmd }
}

/// A volume of `shards` shards, attached on node 1.
fn large(shards: u32) -> (World, VolumeId) {
    let mut w = World::new(3, 3);
    w.s.disks.update_all(|d| d.capacity = 1 << 50);
    let vol = w.volume("v", &format!("size={}GiB replicas=3 min_replicas=1", u64::from(shards) * 64));
    attach(&mut w, vol, 1, 11).unwrap();
    (w, vol)
}

/// A node goes, and the coordinator of each shard drops its member there: one command, one commit, one delta,
/// one event, however many shards there are. (As single commands they were 12,880 proposals in 160 commits
/// for 160 shards, and 320,400 with 289 MB of deltas for 800.)
#[test]
fn a_lost_node_costs_one_command_however_many_shards_it_concerns() {
    for shards in [16, 160, 800] {
        let (mut w, vol) = large(shards);
        let v = w.s.volumes[&vol].clone();
        let on = |s: &ShardRecord| s.replicas.values().find(|r| r.node == NodeId(3)).unwrap().rid;
        let drop = |s: &ShardRecord| ShardStep::Drop {
            rids: vec![on(s)],
            base: Ver::new(1, 5),
            told: [(on(s), 9)].into(),
            reasons: Default::default(),
        };
        let change = |(i, s): (usize, &ShardRecord)| ShardChange { shard: i as u32, what: drop(s) };
        let changes: Vec<ShardChange> = v.shards.iter().enumerate().map(change).collect();
        let (before, events) = (w.s.revision, w.s.events.len());
        let cmd = Command::Together { vol, epoch: v.epoch, term: v.term, changes };
        let bytes = envelope(0, cmd.clone()).encode().unwrap().len();
        w.run(cmd).unwrap();
        assert!(w.s.volumes[&vol].shards.iter().all(|s| s.in_sync().len() == 2));
        assert!(w.s.volumes[&vol].replicas().all(|(_, r)| r.in_sync() || r.position == 9));
        assert_eq!((w.s.revision - before, w.s.events.len() - events), (1, 1));
        assert_eq!(w.s.volumes[&vol].epoch, v.epoch.next());
        let delta = serde_json::to_vec(&w.s.delta_since(before).unwrap()).unwrap().len();
        println!("{shards} shards: one command of {bytes} bytes, one delta of {delta} bytes");
        assert!(bytes < 200 * shards as usize + 500 && delta < 1000 * shards as usize + 1000);
    }
}

/// Commands that lose the race are refused in great numbers. What was done before is known all the same: the
/// same request is not done again.
#[test]
fn refusals_push_no_outcome_out() {
    let (mut w, vol) = large(2);
    let v = w.s.volumes[&vol].clone();
    let cmd = Command::SetVoters { voters: 5 };
    assert_eq!(w.s.apply(&envelope(77, cmd.clone())), Ok(Reply::Done));
    let stale =
        |n| envelope(n, Command::SyncStart { vol, shard: 0, epoch: Epoch(1), term: v.term, rid: Rid(1), sync_id: 1 });
    let size = serde_json::to_vec(&w.s).unwrap().len();
    for n in 0..20_000 {
        assert!(matches!(w.s.apply(&stale(1_000 + n)), Err(Refusal::EpochMismatch { .. })));
    }
    assert_eq!(serde_json::to_vec(&w.s).unwrap().len(), size);
    let revision = w.s.revision;
    assert_eq!((w.s.apply(&envelope(77, cmd)), w.s.revision), (Ok(Reply::Done), revision));
    // A refused command that could be done later is refused again.
    let create =
        Command::CreateVolume { name: "v".into(), attrs: (*v.attrs).clone(), lineage: Lineage(2), shards: Vec::new() };
    let refused = w.s.apply(&envelope(78, create.clone()));
    assert!(matches!(refused, Err(Refusal::Exists { .. })));
    let cmd = Command::ForceInsync {
        vol,
        shard: 0,
        epoch: v.epoch,
        rid: Rid(1),
        lineage: Lineage(9),
        operator: String::new(),
        reason: String::new(),
    };
    w.run(cmd).unwrap();
    let epoch = w.s.volumes[&vol].epoch;
    w.run(Command::DeleteVolume { vol, epoch }).unwrap();
    assert_eq!(w.s.apply(&envelope(78, create)), refused);
}

/// A log that an older node wrote means what it meant: refusals are kept, an attach waits for all shards, and
/// `since` is the term in which the shard was asked for.
#[test]
fn commands_of_version_1_mean_what_they_meant() {
    let (mut w, vol) = attached(3, "size=64GiB replicas=3");
    w.run(Command::Activated { vol, term: Term(1) }).unwrap();
    grow(&mut w, vol, "128GiB");
    let v = w.s.volumes[&vol].clone();
    let old = |w: &mut World, n: u128, cmd| w.s.apply(&Envelope { v: 1, request: RequestId(n), at_ms: 0, cmd });
    let (epoch, node, session) = (v.epoch, NodeId(2), SessionId(7));
    let again = Command::Attach { vol, epoch, node, session, steal: true, maintenance: false };
    assert!(matches!(old(&mut w, 900, again), Err(Refusal::NotReady(_))));
    assert!(w.s.requests.contains_key(&RequestId(900)), "kept");
    attach(&mut w, vol, 2, 8).unwrap();
    let made: Vec<Rid> = v.shards[1].replicas.keys().copied().collect();
    for rid in made {
        old(&mut w, 901 + u128::from(rid.0), Command::ReplicaMade { vol, rid, store_uuid: StoreUuid(1) }).unwrap();
    }
    let v = &w.s.volumes[&vol];
    assert_eq!((v.term, v.shards[1].since), (Term(2), Term(1)));
}

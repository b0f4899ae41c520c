//! What a node tells and what the leader then knows: changes only, all of them whatever was lost, in bounded pieces,
//! and nothing that the record does not know.

use hf_meta::heard::{Heard, Took};
use hf_meta::telling::{MOST, Telling};
use hf_meta_core::record::{DiskFault, NodeRecord, VolumeRecord};
use hf_meta_core::soft::{Group, NodeTold, VolumeTold};
use hf_meta_core::{ClusterState, record::DiskRecord};
use hf_meta_proto::pb;
use hf_policy::{DiskId, NodeId, Rid, SessionId, VolumeId};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

const NODE: NodeId = NodeId(2);

/// A record of two nodes, two disks on the second, and volumes 1 to 4 that have `n` replicas between them.
fn record(n: u64) -> ClusterState {
    let mut s = ClusterState { revision: 5, ..ClusterState::default() };
    for id in 1..=2u64 {
        let text = serde_json::json!({
            "id": id, "name": format!("n{id}"), "uuid": format!("{id:032x}"), "version": "9",
            "addr": {"api": "", "data": "", "nbd": ""}, "rev": 1,
        });
        s.nodes.insert(serde_json::from_value::<NodeRecord>(text).unwrap());
    }
    for (id, node) in [(1, 1), (2, 2), (3, 2)] {
        let text = serde_json::json!({
            "id": id, "node": node, "uuid": format!("{id:032x}"), "path": "/d", "media": "ssd",
            "capacity": 1u64 << 40, "state": "ok", "rev": 1,
        });
        s.disks.insert(serde_json::from_value::<DiskRecord>(text).unwrap());
    }
    for id in 1..=4u64 {
        let replica = |rid: u64| {
            let r = serde_json::json!({
                "rid": rid, "disk": 2, "node": 2, "store_uuid": null, "state": "in_sync", "out_since": 1, "position": 0,
            });
            (rid.to_string(), r)
        };
        let replicas: BTreeMap<_, _> = (1..=n).filter(|r| r % 4 == id % 4).map(replica).collect();
        let text = serde_json::json!({
            "id": id, "name": format!("v{id}"), "attrs": {"size": "4096", "replicas": "2"}, "size": 4096, "lineage": hf_policy::Lineage(1),
            "term": 1, "epoch": 1, "coordinator": null, "shards": [{"replicas": replicas}], "snaps": [],
            "activated": 1, "created_ms": 0, "rev": 1,
        });
        s.volumes.insert(serde_json::from_value::<VolumeRecord>(text).unwrap());
    }
    s
}

/// A node that tells, with what it has.
struct Teller {
    telling: Telling,
    replicas: BTreeMap<Rid, u64>,
    volumes: BTreeMap<VolumeId, VolumeTold>,
}

impl Teller {
    fn new(boot: u64, replicas: u64) -> Teller {
        let replicas = (1..=replicas).map(|r| (Rid(r), r << 20)).collect();
        Teller { telling: Telling::new(boot), replicas, volumes: BTreeMap::new() }
    }

    fn say(&mut self) -> pb::HeartbeatRequest {
        let changes = Some(self.telling.say(5, &self.replicas, &self.volumes));
        pb::HeartbeatRequest { node: NODE.0, changes, ..Default::default() }
    }

    /// One beat that is heard and answered. Returns how much it told.
    fn beat(&mut self, h: &mut Heard, s: &ClusterState) -> usize {
        let beat = self.say();
        let c = beat.changes.clone().unwrap();
        let took = h.take(s, beat, 0);
        self.telling.answered(took.seq, took.anew);
        c.rids.len() + c.rids_gone.len() + c.volumes.len() + c.volumes_gone.len()
    }
}

fn told(h: &Heard, s: &ClusterState) -> Arc<NodeTold> {
    h.soft(Group::default(), s).nodes[&NODE].told.clone()
}

fn leader(term: u64, s: &ClusterState) -> Heard {
    let mut h = Heard::default();
    h.lead(term, s.nodes.keys().copied());
    h
}

fn served(serving: bool, waits_for: &str) -> VolumeTold {
    VolumeTold { session: SessionId(7 << 64 | 9), serving, waits_for: waits_for.into(), connections: 2 }
}

#[test]
fn only_what_changed_is_told_and_what_is_gone() {
    let s = record(8);
    let (mut h, mut t) = (leader(1, &s), Teller::new(77, 8));
    t.volumes.insert(VolumeId(1), served(false, "take-over of shard 0 waits for replica 8 on node n2"));
    assert_eq!(t.beat(&mut h, &s), 9);
    assert_eq!(*told(&h, &s).replicas, t.replicas);
    assert_eq!(*told(&h, &s).volumes, t.volumes);
    assert_eq!(t.beat(&mut h, &s), 0, "nothing has changed");
    t.replicas.insert(Rid(3), 1);
    t.volumes.insert(VolumeId(1), served(true, ""));
    assert_eq!(t.beat(&mut h, &s), 2);
    t.replicas.remove(&Rid(4));
    t.volumes.clear();
    assert_eq!(t.beat(&mut h, &s), 2);
    assert_eq!(*told(&h, &s).replicas, t.replicas);
    assert!(told(&h, &s).volumes.is_empty());
    assert_eq!(t.beat(&mut h, &s), 0);
    // What was given out before is not changed by later beats.
    let old = told(&h, &s);
    t.replicas.insert(Rid(1), 99);
    t.beat(&mut h, &s);
    assert_eq!((old.replicas[&Rid(1)], told(&h, &s).replicas[&Rid(1)]), (1 << 20, 99));
}

#[test]
fn a_new_leader_is_told_everything_and_so_is_the_same_one_in_a_later_term() {
    let s = record(8);
    let (mut h, mut t) = (leader(1, &s), Teller::new(77, 8));
    t.beat(&mut h, &s);
    let mut other = leader(2, &s);
    // The first beat builds on what the new leader was not told; it says so.
    let beat = t.say();
    let took = other.take(&s, beat, 0);
    assert_eq!(took, Took { seq: 0, anew: true });
    assert!(other.soft(Group::default(), &s).nodes[&NODE].is_fresh(), "it is a sign of life all the same");
    t.telling.answered(took.seq, took.anew);
    assert_eq!(t.beat(&mut other, &s), 8);
    assert_eq!(*told(&other, &s).replicas, t.replicas);
    // The first leads again. It forgot what it had heard.
    h.lead(3, s.nodes.keys().copied());
    assert!(h.soft(Group::default(), &s).nodes.is_empty());
    t.beat(&mut h, &s);
    t.replicas.remove(&Rid(8));
    assert_eq!(t.beat(&mut h, &s), 7);
    assert_eq!(*told(&h, &s).replicas, t.replicas);
}

#[test]
fn a_new_process_of_a_node_begins_anew() {
    let s = record(8);
    let (mut h, mut t) = (leader(1, &s), Teller::new(77, 8));
    t.beat(&mut h, &s);
    let (mut late, mut t) = (t, Teller::new(78, 2));
    assert_eq!(t.beat(&mut h, &s), 2);
    assert_eq!(*told(&h, &s).replicas, t.replicas, "nothing is left of what the process before has told");
    // A beat of the process before arrives late: nothing of it is taken.
    late.replicas.insert(Rid(1), 5);
    assert_eq!(h.take(&s, late.say(), 0), Took { seq: 0, anew: true });
    assert_eq!(*told(&h, &s).replicas, t.replicas);
}

/// Beats and answers are lost, and beats come late, in all ways that a seeded generator finds; whenever both sides hear
/// each other again, the leader soon knows exactly what there is.
#[test]
fn whatever_is_lost_is_told_again() {
    let s = record(12);
    for seed in 1..=300u64 {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = move |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % n
        };
        let (mut h, mut t, mut term) = (leader(1, &s), Teller::new(seed, 3), 1);
        let mut late = None;
        for _ in 0..60 {
            match random(4) {
                0 => drop(t.replicas.remove(&Rid(1 + random(12)))),
                // (Few values, so that a replica often goes back to what was told before.)
                _ => drop(t.replicas.insert(Rid(1 + random(12)), random(2))),
            }
            match random(3) {
                0 => t.volumes.clear(),
                _ => drop(t.volumes.insert(VolumeId(1 + random(4)), served(random(2) == 0, ""))),
            }
            let beat = t.say();
            match random(6) {
                0 => late = Some(beat),
                1 => drop(h.take(&s, beat, 0)),
                2 => {
                    term += 1;
                    h.lead(term, s.nodes.keys().copied());
                }
                _ => {
                    let took = h.take(&s, beat, 0);
                    t.telling.answered(took.seq, took.anew);
                    if let Some(beat) = late.take().filter(|_| random(2) == 0) {
                        h.take(&s, beat, 0);
                    }
                }
            }
        }
        for _ in 0..3 {
            t.beat(&mut h, &s);
        }
        assert_eq!(*told(&h, &s).replicas, t.replicas, "seed {seed}");
        assert_eq!(*told(&h, &s).volumes, t.volumes, "seed {seed}");
        assert_eq!(t.beat(&mut h, &s), 0, "seed {seed}");
    }
}

#[test]
fn a_beat_tells_a_bounded_number_and_all_are_told_in_the_end() {
    let n = 2 * MOST as u64 + 100;
    let s = record(n);
    let (mut h, mut t) = (leader(1, &s), Teller::new(77, n));
    assert_eq!(MOST, 2_048);
    assert_eq!([(); 4].map(|()| t.beat(&mut h, &s)), [MOST, MOST, 100, 0]);
    assert_eq!(*told(&h, &s).replicas, t.replicas);
    // As many as a beat can tell change all the time: others get their turn.
    t.replicas.insert(Rid(n), 1);
    for i in 0..3 {
        t.replicas.extend((1..=MOST as u64).map(|r| (Rid(r), i)));
        assert!(t.beat(&mut h, &s) <= MOST);
    }
    assert_eq!(told(&h, &s).replicas[&Rid(n)], 1);
    t.replicas.clear();
    assert!([(); 4].map(|()| t.beat(&mut h, &s)).iter().all(|told| *told <= MOST));
    assert!(told(&h, &s).replicas.is_empty());
    // A receiver takes no more than that from a sender that does not keep to it.
    let changes = pb::Changes {
        boot: 9,
        seq: 1,
        anew: true,
        rids: (1..=n).collect(),
        bytes: vec![1; n as usize],
        ..Default::default()
    };
    h.take(&s, pb::HeartbeatRequest { node: NODE.0, changes: Some(changes), ..Default::default() }, 0);
    assert_eq!(told(&h, &s).replicas.len(), MOST);
}

#[test]
fn what_is_not_on_record_is_not_believed() {
    let s = record(8);
    let (mut h, mut t) = (leader(1, &s), Teller::new(77, 9));
    t.volumes.insert(VolumeId(5), served(true, ""));
    t.volumes.insert(VolumeId(1), served(false, &"ä".repeat(1_000)));
    let mut beat = t.say();
    beat.disks = [1, 2, 9].map(|disk| pb::DiskUse { disk, used: 7, ..Default::default() }).into();
    h.take(&s, beat.clone(), 0);
    let known = told(&h, &s);
    assert_eq!((known.replicas.len(), known.replicas.contains_key(&Rid(9))), (8, false));
    assert_eq!(known.volumes.keys().copied().collect::<Vec<_>>(), [VolumeId(1)]);
    assert!(known.volumes[&VolumeId(1)].waits_for.len() <= 512);
    assert_eq!(known.disks.keys().copied().collect::<Vec<_>>(), [DiskId(2)], "1 is another node's, 9 nobody's");
    // Nor is a node that is not on record.
    h.take(&s, pb::HeartbeatRequest { node: 44, ..beat }, 0);
    assert!(!h.liveness(&s).up.contains(&NodeId(44)));
    // The sender's record is newer than the leader's view: it is told once that has caught up, not lost.
    let mut behind = leader(1, &s);
    let old = ClusterState { revision: 4, ..record(0) };
    assert_eq!(behind.take(&old, t.say(), 0), Took::default());
    t.telling.answered(0, true);
    t.beat(&mut behind, &s);
    assert_eq!(told(&behind, &s).replicas.len(), 8);
}

#[test]
fn disks_and_the_clock_are_told_with_every_beat() {
    let s = record(0);
    let mut h = leader(1, &s);
    let fault = |fault: &str| pb::DiskUse {
        disk: 3,
        out_of_service: true,
        fault: fault.into(),
        fault_text: "nothing is there".into(),
        ..Default::default()
    };
    let well = pb::DiskUse { disk: 2, used: 4096, entries: 64, backend: "io_uring".into(), ..Default::default() };
    let beat =
        |disks| pb::HeartbeatRequest { node: NODE.0, disks, wall_ms: 900, data_dir_full: true, ..Default::default() };
    h.take(&s, beat(vec![well, fault("gone")]), 1_000);
    let soft = h.soft(Group::default(), &s);
    let d = soft.disk(NODE, DiskId(2)).unwrap();
    assert!(d.in_service && d.fault.is_none() && d.backend == "io_uring");
    let d = soft.disk(NODE, DiskId(3)).unwrap();
    assert_eq!((d.in_service, d.fault.clone()), (false, Some((DiskFault::Gone, "nothing is there".into()))));
    assert_eq!((soft.nodes[&NODE].told.clock_ahead_ms, soft.nodes[&NODE].told.data_dir_full), (-100, true));
    // A kind of fault that only a later release knows is a fault all the same.
    h.take(&s, beat(vec![fault("melted")]), 1_000);
    let soft = h.soft(Group::default(), &s);
    assert!(soft.disk(NODE, DiskId(3)).unwrap().fault.is_some());
    assert!(soft.disk(NODE, DiskId(2)).is_none(), "what it does not tell of any more is not known any more");
}

#[test]
fn a_node_that_was_never_heard_is_waited_for_and_then_away() {
    let s = record(0);
    let soft = leader(1, &s).soft(Group::default(), &s);
    assert_eq!((soft.up.len(), soft.unheard.len(), soft.nodes.len()), (2, 2, 0));
    let mut late = soft.clone();
    (late.up, late.leading_ms) = (Default::default(), 9_000);
    assert_eq!(late.liveness().away, BTreeMap::from([(NodeId(1), 9_000), (NodeId(2), 9_000)]));
    assert!(soft.liveness().away.is_empty());
}

/// Twice a second from every node: it must cost nothing while nothing happens.
#[test]
fn an_idle_beat_is_small() {
    let s = record(1_000);
    let (mut h, mut t) = (leader(1, &s), Teller::new(u64::MAX, 1_000));
    t.volumes = (1..=4).map(|v| (VolumeId(v), served(true, ""))).collect();
    let all = t.say().encoded_len();
    t.beat(&mut h, &s);
    let mut idle = t.say();
    idle.cluster = vec![1; 16];
    idle.wall_ms = 1_764_500_000_000;
    idle.disks =
        vec![pb::DiskUse { disk: 2, used: 900 << 30, entries: 4096, backend: "io_uring".into(), ..Default::default() }];
    let bytes = idle.encoded_len();
    println!("a beat that tells 1,000 replicas: {all} bytes; idle: {bytes} bytes");
    assert!(bytes <= 100, "{bytes} bytes");
    assert!(all <= 12_000, "{all} bytes");
}

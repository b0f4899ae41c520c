//! Commands by example, and properties over random command sequences: the in-sync set is never emptied, requests are
//! exactly-once, followers converge by deltas, images round-trip.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_meta_core::command::{COMMAND_VERSION, Job, ShardChange, ShardStep};
use hf_meta_core::record::*;
use hf_meta_core::{Command, Envelope, Refusal, Reply, image, plan};
use hf_policy::attributes::Media;
use hf_policy::policy::parse_pairs;
use hf_policy::*;
use std::collections::BTreeMap;

struct World {
    s: ClusterState,
    req: u128,
}

impl World {
    fn new(nodes: u64) -> World {
        let mut w = World { s: ClusterState { version: COMMAND_VERSION, ..ClusterState::default() }, req: 0 };
        w.ok(Command::Init { cluster: ClusterId(7), name: "t".into() });
        for i in 1..=nodes {
            w.ok(Command::PutNode {
                node: None,
                name: format!("n{i}"),
                uuid: BootId(i as u128),
                addr: Addresses { api: format!("h{i}:1"), ..Default::default() },
                labels: BTreeMap::new(),
                version: "0".into(),
                log: Default::default(),
            });
            w.ok(Command::PutDisk {
                node: NodeId(i),
                uuid: DiskUuid(i as u128),
                path: "/d".into(),
                media: Media::Ssd,
                capacity: 1 << 40,
            });
        }
        w
    }
    fn env(&mut self, cmd: Command) -> Envelope {
        self.req += 1;
        Envelope { v: COMMAND_VERSION, request: RequestId(self.req), at_ms: 0, cmd }
    }
    fn run(&mut self, cmd: Command) -> Result<Reply, Refusal> {
        let e = self.env(cmd);
        let out = self.s.apply(&Envelope::decode(&e.encode().unwrap()).unwrap());
        self.s.check().unwrap();
        out
    }
    fn ok(&mut self, cmd: Command) -> Reply {
        self.run(cmd.clone()).unwrap_or_else(|e| panic!("{cmd:?}: {e}"))
    }
    fn volume(&mut self, attrs: &str) -> VolumeId {
        let attrs = parse_pairs(attrs.split_whitespace()).unwrap();
        let live = plan::Liveness { up: self.s.nodes.keys().copied().collect(), ..Default::default() };
        let shards = plan::create_volume(&self.s, &live, "v", &attrs, 1).unwrap();
        let Reply::Volume(id) = self.ok(Command::CreateVolume { name: "v".into(), attrs, lineage: Lineage(1), shards })
        else {
            panic!()
        };
        id
    }
    fn made(&mut self, vol: VolumeId) {
        let rids: Vec<Rid> = self.s.volumes[&vol].replicas().map(|(_, r)| r.rid).collect();
        for rid in rids {
            self.ok(Command::ReplicaMade { vol, rid, store_uuid: StoreUuid(rid.0 as u128) });
        }
    }
    fn v(&self, vol: VolumeId) -> &VolumeRecord {
        &self.s.volumes[&vol]
    }
    fn attach(&mut self, vol: VolumeId, node: u64, steal: bool) -> Result<Reply, Refusal> {
        let epoch = self.v(vol).epoch;
        self.run(Command::Attach {
            vol,
            epoch,
            node: NodeId(node),
            session: SessionId(node as u128),
            steal,
            maintenance: false,
        })
    }
    fn drop_(&mut self, vol: VolumeId, rids: &[u64]) -> Result<Reply, Refusal> {
        let (epoch, term) = (self.v(vol).epoch, self.v(vol).term);
        let rids = rids.iter().map(|r| Rid(*r)).collect();
        self.run(Command::Drop {
            vol,
            shard: 0,
            epoch,
            term,
            rids,
            base: Ver::new(1, 5),
            told: Default::default(),
            reasons: Default::default(),
        })
    }
}

#[test]
fn a_volume_is_attached_once_and_a_steal_raises_the_term() {
    let mut w = World::new(3);
    let v = w.volume("size=1G");
    assert!(matches!(w.attach(v, 1, false), Err(Refusal::NotReady(_))));
    w.made(v);
    assert_eq!(w.attach(v, 1, false), Ok(Reply::Attached(Term(1))));
    assert!(matches!(w.attach(v, 2, false), Err(Refusal::Attached { .. })));
    assert_eq!(w.attach(v, 2, true), Ok(Reply::Attached(Term(2))));
    let stale = w.run(Command::Detach { vol: v, session: SessionId(1) });
    assert_eq!(stale, Err(Refusal::NotAttached), "the old session cannot detach the new one");
}

/// Disks that refused a replica lately get none while other disks will do.
#[test]
fn new_volumes_go_to_disks_that_take_them() {
    let w = World::new(4);
    let mut live = plan::Liveness { up: w.s.nodes.keys().copied().collect(), ..Default::default() };
    let attrs = parse_pairs(["size=1G", "replicas=3"]).unwrap();
    let refusing = *w.s.disks.keys().next().unwrap();
    live.refusing.insert(refusing);
    for salt in 0..50 {
        let shards = plan::create_volume(&w.s, &live, "v", &attrs, salt).unwrap();
        assert!(!shards[0].contains(&refusing), "{shards:?}");
    }
    live.refusing.extend(w.s.disks.keys());
    assert_eq!(plan::create_volume(&w.s, &live, "v", &attrs, 1).unwrap()[0].len(), 3, "nobody else is left");
}

#[test]
fn the_last_in_sync_replica_cannot_be_dropped() {
    let mut w = World::new(3);
    let v = w.volume("size=1G");
    w.made(v);
    w.attach(v, 1, false).unwrap();
    w.drop_(v, &[1]).unwrap();
    assert_eq!(w.drop_(v, &[2, 3]), Err(Refusal::LastReplica));
    w.drop_(v, &[2]).unwrap();
    assert_eq!(w.drop_(v, &[3]), Err(Refusal::LastReplica));
    let position = |w: &World| w.v(v).shards[0].replicas[&Rid(1)].position;
    assert_eq!(position(&w), 0, "nobody said how far its journal was");
    // The drop of a replica that is out already never moves its base.
    let base = |w: &World| w.v(v).shards[0].replicas[&Rid(1)].state.clone();
    let before = base(&w);
    let (epoch, term) = (w.v(v).epoch, w.v(v).term);
    w.ok(Command::Drop {
        vol: v,
        shard: 0,
        epoch,
        term,
        rids: vec![Rid(1)],
        base: Ver::new(9, 9),
        told: Default::default(),
        reasons: Default::default(),
    });
    assert_eq!(base(&w), before);
}

#[test]
fn a_stale_term_or_epoch_changes_nothing() {
    let mut w = World::new(3);
    let v = w.volume("size=1G");
    w.made(v);
    w.attach(v, 1, false).unwrap();
    let epoch = w.v(v).epoch;
    let drop_at = |epoch, term| Command::Drop {
        vol: v,
        shard: 0,
        epoch,
        term,
        rids: vec![Rid(1)],
        base: Ver::ZERO,
        told: Default::default(),
        reasons: Default::default(),
    };
    assert!(matches!(w.run(drop_at(Epoch(epoch.0 - 1), Term(1))), Err(Refusal::EpochMismatch { .. })));
    w.attach(v, 2, true).unwrap();
    let now = w.v(v).epoch;
    assert!(matches!(w.run(drop_at(now, Term(1))), Err(Refusal::StaleTerm { now: 2 })));
    assert_eq!(w.v(v).shards[0].in_sync().len(), 3);
}

#[test]
fn the_same_request_is_applied_once_and_answered_alike() {
    let mut w = World::new(3);
    let attrs = parse_pairs(["size=1G"]).unwrap();
    let shards = vec![vec![DiskId(1), DiskId(2), DiskId(3)]];
    let e = w.env(Command::CreateVolume { name: "x".into(), attrs, lineage: Lineage(1), shards });
    let first = w.s.apply(&e);
    let rev = w.s.revision;
    assert_eq!(w.s.apply(&e), first);
    assert_eq!((w.s.revision, w.s.volumes.len()), (rev, 1));
}

#[test]
fn delete_leaves_tombstones_until_the_data_is_gone() {
    let mut w = World::new(3);
    let v = w.volume("size=1G sticky=true");
    w.made(v);
    let epoch = w.v(v).epoch;
    assert!(matches!(w.run(Command::DeleteVolume { vol: v, epoch }), Err(Refusal::Sticky(_))));
    w.ok(Command::SetPolicy { vol: v, epoch, change: parse_pairs(["sticky=false"]).unwrap(), new_shards: vec![] });
    w.attach(v, 1, false).unwrap();
    let epoch = w.v(v).epoch;
    assert!(matches!(w.run(Command::DeleteVolume { vol: v, epoch }), Err(Refusal::Attached { .. })));
    w.ok(Command::Detach { vol: v, session: SessionId(1) });
    let epoch = w.v(v).epoch;
    w.ok(Command::DeleteVolume { vol: v, epoch });
    assert_eq!(w.s.tombstones.len(), 3);
    w.ok(Command::ReplicaGone { rid: Rid(1) });
    assert_eq!(w.s.tombstones.len(), 2);
}

#[test]
fn storage_made_twice_is_refused() {
    let mut w = World::new(3);
    let v = w.volume("size=1G");
    w.made(v);
    let again = w.run(Command::ReplicaMade { vol: v, rid: Rid(1), store_uuid: StoreUuid(99) });
    assert!(matches!(again, Err(Refusal::Invalid(_))));
}

/// The journal position of a dropped member is recorded with the drop, for the coordinator that brings it back. It says
/// nothing about other storage.
#[test]
fn a_drop_records_how_far_the_journal_was() {
    let mut w = World::new(3);
    let v = w.volume("size=1G replicas=3");
    w.made(v);
    w.attach(v, 1, false).unwrap();
    let (epoch, term) = (w.v(v).epoch, w.v(v).term);
    let told = [(Rid(2), 77)].into();
    w.ok(Command::Drop {
        vol: v,
        shard: 0,
        epoch,
        term,
        rids: vec![Rid(1), Rid(2)],
        base: Ver::new(1, 5),
        told,
        reasons: Default::default(),
    });
    let position = |w: &World, rid| w.v(v).shards[0].replicas[&Rid(rid)].position;
    assert_eq!((position(&w, 1), position(&w, 2)), (0, 77));
    w.ok(Command::ReplicaMade { vol: v, rid: Rid(2), store_uuid: StoreUuid(99) });
    assert_eq!(position(&w, 2), 0);
}

#[test]
fn a_volume_grows_into_new_shards() {
    let mut w = World::new(3);
    let v = w.volume("size=60GiB");
    w.made(v);
    let change = parse_pairs(["size=130GiB"]).unwrap();
    let live = plan::Liveness { up: w.s.nodes.keys().copied().collect(), ..Default::default() };
    let new_shards = plan::set_policy(&w.s, &live, w.v(v), &change, 3).unwrap();
    assert_eq!(new_shards.len(), 2);
    let epoch = w.v(v).epoch;
    w.ok(Command::SetPolicy { vol: v, epoch, change, new_shards });
    assert_eq!(w.v(v).shards.len(), 3);
    assert!(!w.v(v).ready(), "the new shards' replicas are still to be made");
}

fn mute(subject: u64) -> Command {
    let (code, subject, by, reason) = ("DISK_FAILED".into(), subject.to_string(), "o".into(), String::new());
    Command::Mute { code, subject, by, reason, until_ms: 1, sticky: false, count: 0 }
}

/// Any command, also one that makes no sense; most are refused.
fn anything(rnd: &mut impl FnMut(u64) -> u64, v: VolumeId, epoch: Epoch, term: Term) -> Command {
    let rid = Rid(1 + rnd(5));
    match rnd(20) {
        18 => {
            let what = match rnd(3) {
                0 => ShardStep::Drop {
                    rids: vec![rid],
                    base: Ver::ZERO,
                    told: Default::default(),
                    reasons: Default::default(),
                },
                1 => ShardStep::Add { rid, store_uuid: StoreUuid(1) },
                _ => ShardStep::Scrubbed { id: 1 + rnd(9), report: Default::default() },
            };
            let other = ShardChange { shard: rnd(2) as u32, what: what.clone() };
            Command::Together { vol: v, epoch, term, changes: vec![ShardChange { shard: 0, what }, other] }
        }
        19 => {
            let disk = (rnd(2) == 0).then(|| DiskId(1 + rnd(4)));
            Command::ReplaceUnmade { vol: v, shard: rnd(2) as u32, epoch, rid, disk }
        }
        11 => Command::Leave { vol: v, shard: 0, epoch, rid },
        12 => Command::SetNodeMode { node: NodeId(1 + rnd(4)), mode: NodeMode::Draining },
        13 => Command::RemoveNode { node: NodeId(1 + rnd(4)) },
        14 => Command::SetVoters { voters: 1 + 2 * rnd(3) as usize },
        15 => Command::PauseRebuild { paused: rnd(2) == 0 },
        16 => Command::Rebalance { on: rnd(2) == 0 },
        17 => {
            let of = match rnd(5) {
                0 => Job::Node(NodeId(1 + rnd(3))),
                1 => Job::Disk(DiskId(1 + rnd(3))),
                2 => Job::Rebalance,
                3 => Job::Scrub(v),
                _ => Job::Replica(rid),
            };
            Command::PauseJob { of, paused: rnd(2) == 0 }
        }
        0 => Command::Attach {
            vol: v,
            epoch,
            node: NodeId(1 + rnd(3)),
            session: SessionId(1 + rnd(3) as u128),
            steal: rnd(2) == 0,
            maintenance: rnd(4) == 0,
        },
        1 => Command::Detach { vol: v, session: SessionId(1 + rnd(3) as u128) },
        2 | 3 => {
            let (rids, told, reasons) = (vec![rid], Default::default(), [(rid, DropReason::Timeout)].into());
            Command::Drop { vol: v, shard: 0, epoch, term, rids, base: Ver::ZERO, told, reasons }
        }
        4 => Command::SyncStart { vol: v, shard: 0, epoch, term, rid, sync_id: 1 },
        5 => Command::Add { vol: v, shard: 0, epoch, term, rid, store_uuid: StoreUuid(1) },
        6 => Command::AddReplica { vol: v, shard: 0, epoch, disk: DiskId(1 + rnd(4)) },
        7 => Command::RemoveReplica { vol: v, shard: 0, epoch, rid },
        8 => Command::ReplicaGone { rid },
        9 => Command::SetDiskState {
            disk: DiskId(1 + rnd(4)),
            state: DiskState::Failed("x".into()),
            fault: Some(DiskFault::Io),
        },
        _ if rnd(6) == 0 => Command::DeleteVolume { vol: v, epoch },
        _ if rnd(4) == 0 => Command::RenameVolume { vol: v, epoch, name: format!("v{}", rnd(9)) },
        _ if rnd(4) == 0 => mute(rnd(3)),
        _ => Command::Activated { vol: v, term },
    }
}

/// Random commands: invariants hold after each, a follower fed deltas at random moments equals the source,
/// and the image round-trips with equal bytes.
#[test]
fn random_histories_keep_the_invariants_and_followers_converge() {
    for seed in 0..300u64 {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut rnd = move |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % n
        };
        let mut w = World::new(3);
        let v = w.volume("size=1G");
        w.made(v);
        let (mut follower, mut second) = (ClusterState::default(), ClusterState::default());
        for _ in 0..60 {
            let (epoch, term) = w.s.volumes.get(&v).map_or((Epoch(1), Term(0)), |r| (r.epoch, r.term));
            let epoch = if rnd(8) == 0 { Epoch(epoch.0.saturating_sub(1)) } else { epoch };
            let term = if rnd(8) == 0 { Term(term.0.saturating_sub(1)) } else { term };
            let cmd = anything(&mut rnd, v, epoch, term);
            let _ = w.run(cmd);
            if rnd(5) == 0
                && let Some(d) = w.s.delta_since(follower.revision)
            {
                follower.follow(d).unwrap();
            }
            // The second follower follows the first one, and may be behind it.
            if rnd(7) == 0
                && let Some(d) = follower.delta_since(second.revision)
            {
                second.follow(d).unwrap();
            }
        }
        if let Some(d) = w.s.delta_since(follower.revision) {
            follower.follow(d).unwrap();
        }
        if let Some(d) = follower.delta_since(second.revision) {
            second.follow(d).unwrap();
        }
        assert_eq!(
            (&second.volumes, &second.disks, &second.tombstones, &second.nodes),
            (&w.s.volumes, &w.s.disks, &w.s.tombstones, &w.s.nodes),
            "seed {seed}: a follower's follower"
        );
        assert_eq!(
            (&follower.volumes, &follower.disks, &follower.tombstones),
            (&w.s.volumes, &w.s.disks, &w.s.tombstones),
            "seed {seed}"
        );
        assert_eq!((&follower.nodes, &follower.events), (&w.s.nodes, &w.s.events), "seed {seed}");
        let settings = |s: &ClusterState| (s.voters, s.rebuild_paused, s.rebalancing, s.rebalance_paused);
        assert_eq!(settings(&follower), settings(&w.s), "seed {seed}");
        let bytes = image::encode(&w.s).unwrap();
        let back = image::decode(&bytes).unwrap();
        assert_eq!(back, w.s);
        assert_eq!(image::encode(&back).unwrap(), bytes);
    }
}

#[test]
fn images_and_commands_from_the_future_are_refused() {
    assert!(matches!(image::decode(b"holdfast-cluster-image 99\n{}"), Err(image::ImageError::TooNew(99))));
    assert!(matches!(image::decode(b"rubbish"), Err(image::ImageError::Magic)));
    let text = br#"{"v":99,"request":"00000000000000000000000000000001","at_ms":0,"cmd":{"new_thing":{}}}"#;
    assert!(Envelope::decode(text).unwrap_err().to_string().contains("upgrade"));
}

#[test]
fn a_removed_node_does_not_come_back_as_a_new_one() {
    let mut w = World::new(3);
    let put = |node| Command::PutNode {
        node,
        name: "n3".into(),
        uuid: BootId(3),
        addr: Addresses::default(),
        labels: BTreeMap::new(),
        version: "0".into(),
        log: Default::default(),
    };
    w.ok(put(Some(NodeId(3))));
    w.ok(Command::RemoveNode { node: NodeId(3) });
    let env = w.env(put(Some(NodeId(3))));
    let e = w.s.apply(&env).unwrap_err().to_string();
    assert!(e.contains("was removed") && e.contains("empty data_dir"), "{e}");
    assert_eq!(w.s.nodes.len(), 2);
}

#[test]
fn a_name_belongs_to_one_node() {
    let mut w = World::new(2);
    let other = Command::PutNode {
        node: None,
        name: "n2".into(),
        uuid: BootId(77),
        addr: Addresses::default(),
        labels: BTreeMap::new(),
        version: "0".into(),
        log: Default::default(),
    };
    let env = w.env(other);
    let e = w.s.apply(&env).unwrap_err().to_string();
    assert!(e.contains("n2") && e.contains("exists already"), "{e}");
    assert_eq!(w.s.nodes.len(), 2);
}

/// A shard that was added in a term has promised nothing of it: it must not be taken for storage that was put back.
#[test]
fn a_shard_is_known_to_have_been_served_only_after_a_term_that_began_with_it() {
    let mut w = World::new(3);
    let v = w.volume("size=64GiB replicas=2");
    w.made(v);
    let attach = |w: &mut World| {
        let epoch = w.v(v).epoch;
        let cmd =
            Command::Attach { vol: v, epoch, node: NodeId(1), session: SessionId(9), steal: true, maintenance: false };
        let Reply::Attached(term) = w.ok(cmd) else { panic!() };
        w.ok(Command::Activated { vol: v, term });
        term
    };
    assert_eq!(w.v(v).served_term(0), Term(0));
    let first = attach(&mut w);
    assert_eq!(w.v(v).served_term(0), first);
    let epoch = w.v(v).epoch;
    let new_shards = vec![vec![DiskId(1), DiskId(2)]];
    w.ok(Command::SetPolicy { vol: v, epoch, change: parse_pairs(["size=65GiB"]).unwrap(), new_shards });
    w.made(v);
    assert_eq!((w.v(v).served_term(0), w.v(v).served_term(1)), (first, Term(0)));
    let second = attach(&mut w);
    assert_eq!((w.v(v).served_term(0), w.v(v).served_term(1), w.v(v).served_term(2)), (second, second, Term(0)));
}

/// Commands as they stand in logs: they are read, and written again to the same bytes.
#[test]
fn golden_commands_are_read_and_written_as_they_were() {
    for line in include_str!("../testdata/commands.jsonl").lines() {
        let env = Envelope::decode(line.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(String::from_utf8(env.encode().unwrap()).unwrap(), line);
    }
}

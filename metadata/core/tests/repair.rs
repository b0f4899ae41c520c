//! Repair decides step by step from record and liveness; whatever operators and failures do in between, it ends with what the
//! policy asks for, never takes a needed replica away, and starts no storm.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_meta_core::plan::{self, Liveness};
use hf_meta_core::record::*;
use hf_meta_core::repair::{Step, steps};
use hf_meta_core::{Command, Envelope, Reply};
use hf_policy::attributes::Media;
use hf_policy::policy::parse_pairs;
use hf_policy::*;
use std::collections::BTreeMap;

struct World {
    s: ClusterState,
    live: Liveness,
    req: u128,
    x: u64,
}

impl World {
    fn new(seed: u64, nodes: u64) -> World {
        let mut w = World { s: ClusterState::default(), live: Liveness::default(), req: 0, x: seed * 2 + 1 };
        w.run(Command::Init { cluster: ClusterId(7), name: "t".into() });
        for i in 1..=nodes {
            w.run(Command::PutNode {
                name: format!("n{i}"),
                uuid: BootId(i as u128),
                addr: Addresses::default(),
                labels: BTreeMap::from([("rack".into(), format!("r{}", i % 3))]),
                version: String::new(),
            });
            let (node, uuid, path) = (NodeId(i), DiskUuid(i as u128), String::new());
            w.run(Command::PutDisk { node, uuid, path, media: Media::Ssd, capacity: 1 << 40 });
            w.live.up.insert(NodeId(i));
        }
        w
    }

    fn rnd(&mut self, n: u64) -> u64 {
        self.x = self.x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.x >> 33) % n
    }

    fn run(&mut self, cmd: Command) -> Option<Reply> {
        self.req += 1;
        let out = self.s.apply(&Envelope { v: 1, request: RequestId(self.req), at_ms: 0, cmd });
        self.s.check().unwrap();
        out.ok()
    }

    fn volume(&mut self, name: &str, attrs: &str) -> VolumeId {
        let attrs = parse_pairs(attrs.split_whitespace()).unwrap();
        let shards = plan::create_volume(&self.s, &self.live, name, &attrs, self.x).unwrap();
        let cmd = Command::CreateVolume { name: name.into(), attrs, lineage: Lineage(1), shards };
        let Some(Reply::Volume(id)) = self.run(cmd) else { panic!() };
        self.agents();
        id
    }

    /// Nodes that are up make what is recorded, and report what is deleted.
    fn agents(&mut self) {
        let made: Vec<(VolumeId, Rid)> = self
            .s
            .volumes
            .values()
            .flat_map(|v| v.replicas().map(move |(_, r)| (v.id, r)))
            .filter(|(_, r)| r.store_uuid.is_none() && self.live.up.contains(&r.node))
            .map(|(v, r)| (v, r.rid))
            .collect();
        for (vol, rid) in made {
            self.run(Command::ReplicaMade { vol, rid, store_uuid: StoreUuid(rid.0 as u128) });
        }
        let gone: Vec<Rid> =
            self.s.tombstones.values().filter(|t| self.live.up.contains(&t.node)).map(|t| t.rid).collect();
        for rid in gone {
            self.run(Command::ReplicaGone { rid });
        }
    }

    /// Coordinators do their part for one volume: drop who does not answer or leaves, bring in who is out.
    fn coordinator(&mut self, vol: VolumeId) {
        let v = self.s.volumes[&vol].clone();
        let Some(a) = v.coordinator.clone().filter(|a| self.live.up.contains(&a.node)) else { return };
        let _ = a;
        for (i, s) in v.shards.iter().enumerate() {
            let (shard, term) = (i as u32, v.term);
            let epoch = |w: &World| w.s.volumes[&vol].epoch;
            let there = |r: &&ReplicaRecord| r.in_sync() && self.live.up.contains(&r.node);
            let stay = s.replicas.values().filter(there).filter(|r| !r.leaving).count();
            let min = Policy::from_attrs(&v.attrs).unwrap().min_replicas as usize;
            let goes = |r: &&ReplicaRecord| {
                r.in_sync() && (!self.live.up.contains(&r.node) || (r.leaving && stay >= min.max(1)))
            };
            let rids: Vec<Rid> = s.replicas.values().filter(goes).map(|r| r.rid).collect();
            if !rids.is_empty() && stay > 0 {
                let e = epoch(self);
                self.run(Command::Drop { vol, shard, epoch: e, term, rids, base: Ver::ZERO });
                return;
            }
            let out = |r: &&ReplicaRecord| {
                !r.in_sync() && !r.leaving && r.store_uuid.is_some() && self.live.up.contains(&r.node)
            };
            let Some(r) = s.replicas.values().find(out).cloned() else { continue };
            let e = epoch(self);
            self.run(Command::SyncStart { vol, shard, epoch: e, term, rid: r.rid, sync_id: 1 });
            let e = epoch(self);
            self.run(Command::Add { vol, shard, epoch: e, term, rid: r.rid, store_uuid: r.store_uuid.unwrap() });
            return;
        }
    }

    /// One round of the leader's loop; how many steps it took.
    fn round(&mut self) -> usize {
        let list = steps(&self.s, &self.live, self.x);
        let adds = list.iter().filter(|s| matches!(s, Step::Do(Command::AddReplica { .. }))).count();
        assert!(adds <= 2 * self.live.up.len(), "a storm of {adds} new replicas");
        for step in &list {
            match step.clone() {
                Step::Do(cmd) => {
                    // What counts before must count afterwards: only a coordinator takes members out.
                    let before: usize =
                        self.s.volumes.values().flat_map(|v| &v.shards).map(|s| s.in_sync().len()).sum();
                    self.run(cmd);
                    let after: usize = self.s.volumes.values().flat_map(|v| &v.shards).map(|s| s.in_sync().len()).sum();
                    assert_eq!(before, after);
                }
                Step::Maintain { vol, node } => {
                    let epoch = self.s.volumes[&vol].epoch;
                    let session = SessionId(u128::from(self.x));
                    self.run(Command::Attach { vol, epoch, node, session, steal: true, maintenance: true });
                }
                Step::Release { vol, .. } => {
                    let session = self.s.volumes[&vol].coordinator.as_ref().unwrap().session;
                    self.run(Command::Detach { vol, session });
                }
            }
        }
        self.agents();
        let vols: Vec<VolumeId> = self.s.volumes.keys().copied().collect();
        vols.into_iter().for_each(|v| self.coordinator(v));
        self.agents();
        list.len()
    }

    fn settle(&mut self) {
        // Quiet is when several rounds bring neither steps nor changes by coordinators.
        let mut quiet = 0;
        for _ in 0..4000 {
            let before = self.s.revision;
            quiet = if self.round() == 0 && self.s.revision == before { quiet + 1 } else { 0 };
            if quiet == 3 {
                return;
            }
        }
        panic!("repair does not come to an end: {:?}", steps(&self.s, &self.live, 0));
    }
}

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
    let adds = |w: &World| steps(&w.s, &w.live, 0).iter().filter(|s| matches!(s, Step::Do(_))).count();
    assert_eq!(adds(&w), 0);
    w.run(Command::SetNodeMode { node: gone.node, mode: NodeMode::Maintenance });
    w.live.away.insert(gone.node, 86_400_000);
    assert_eq!(adds(&w), 0);
    w.run(Command::SetNodeMode { node: gone.node, mode: NodeMode::Active });
    assert_eq!(adds(&w), 1);
    w.run(Command::PauseRebuild { paused: true });
    assert!(steps(&w.s, &w.live, 0).is_empty());
}

#[test]
fn losing_a_third_of_the_nodes_is_no_storm() {
    let mut w = World::new(3, 9);
    for i in 0..100 {
        w.volume(&format!("v{i}"), "size=1GiB rebuild_after=5s");
    }
    for i in 1..=3 {
        w.live.up.remove(&NodeId(i));
        w.live.away.insert(NodeId(i), 60_000);
    }
    w.settle();
    let all = w.s.volumes.values().flat_map(|v| &v.shards);
    assert!(all.into_iter().all(|s| s.in_sync().len() == 3 && s.replicas.len() == 3));
}

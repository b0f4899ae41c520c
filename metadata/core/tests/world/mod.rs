//! A cluster in miniature for the tests of repair and upkeep: the real record and the real planner, nodes
//! that do at once what the record says, and coordinators that drop, sync and scrub.

use hf_meta_core::command::COMMAND_VERSION;
use hf_meta_core::limits::{Going, room};
use hf_meta_core::plan::Step;
use hf_meta_core::plan::repair::steps;
use hf_meta_core::plan::{self, Liveness};
use hf_meta_core::record::*;
use hf_meta_core::{Command, Envelope, Reply};
use hf_policy::attributes::Media;
use hf_policy::policy::parse_pairs;
use hf_policy::*;
use std::collections::{BTreeMap, BTreeSet};

pub struct World {
    pub s: ClusterState,
    pub live: Liveness,
    req: u128,
    x: u64,
    /// How many rounds the filling of one replica may take at most; at once if none.
    pub lasts: u64,
    /// Syncs that are under way, each with the number of rounds that it still takes.
    pub going: BTreeMap<Going, u64>,
    /// Disks that take no further replica, as if their tables were full.
    pub full: BTreeSet<DiskId>,
}

#[allow(dead_code, reason = "each test file uses what it needs")]
impl World {
    pub fn new(seed: u64, nodes: u64) -> World {
        let s = ClusterState { version: COMMAND_VERSION, ..ClusterState::default() };
        let (live, going, full) = Default::default();
        let mut w = World { s, live, req: 0, x: seed * 2 + 1, lasts: 0, going, full };
        w.run(Command::Init { cluster: ClusterId(7), name: "t".into() });
        for i in 1..=nodes {
            w.run(Command::PutNode {
                node: None,
                name: format!("n{i}"),
                uuid: BootId(i as u128),
                addr: Addresses::default(),
                labels: BTreeMap::from([("rack".into(), format!("r{}", i % 3))]),
                version: String::new(),
                log: Default::default(),
            });
            let (node, uuid, path) = (NodeId(i), DiskUuid(i as u128), String::new());
            w.run(Command::PutDisk { node, uuid, path, media: Media::Ssd, capacity: 1 << 40 });
            w.live.up.insert(NodeId(i));
        }
        w
    }

    pub fn rnd(&mut self, n: u64) -> u64 {
        self.x = self.x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.x >> 33) % n
    }

    pub fn run(&mut self, cmd: Command) -> Option<Reply> {
        self.req += 1;
        let at_ms = self.live.wall_ms;
        let out = self.s.apply(&Envelope { v: COMMAND_VERSION, request: RequestId(self.req), at_ms, cmd });
        self.s.check().unwrap();
        out.ok()
    }

    pub fn volume(&mut self, name: &str, attrs: &str) -> VolumeId {
        let attrs = parse_pairs(attrs.split_whitespace()).unwrap();
        let shards = plan::create_volume(&self.s, &self.live, name, &attrs, self.x).unwrap();
        let cmd = Command::CreateVolume { name: name.into(), attrs, lineage: Lineage(1), shards };
        let Some(Reply::Volume(id)) = self.run(cmd) else { panic!() };
        self.agents();
        id
    }

    /// Nodes that are up make what is recorded, and report what is deleted.
    pub fn agents(&mut self) {
        let unmade =
            self.s.volumes.values().flat_map(|v| v.replicas()).map(|(_, r)| r).filter(|r| r.store_uuid.is_none());
        self.live.refused = unmade.filter(|r| self.full.contains(&r.disk)).map(|r| r.rid).collect();
        let full = &self.full;
        let here = |r: &&ReplicaRecord| self.live.refused.contains(&r.rid);
        let told: Vec<DiskId> =
            self.s.volumes.values().flat_map(|v| v.replicas()).map(|(_, r)| r).filter(here).map(|r| r.disk).collect();
        self.live.refusing.extend(told);
        self.live.refusing.retain(|d| full.contains(d));
        let made: Vec<(VolumeId, Rid)> = self
            .s
            .volumes
            .values()
            .flat_map(|v| v.replicas().map(move |(_, r)| (v.id, r)))
            .filter(|(_, r)| r.store_uuid.is_none() && self.live.up.contains(&r.node) && !self.full.contains(&r.disk))
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

    /// The coordinators of one volume do their part: they drop members that do not answer or leave, and bring
    /// in replicas that are out.
    fn coordinator(&mut self, vol: VolumeId) {
        let v = self.s.volumes[&vol].clone();
        let Some(a) = v.coordinator.clone().filter(|a| self.live.up.contains(&a.node)) else { return };
        let _ = a;
        if let Some(s) = v.scrub.as_ref().filter(|s| !s.paused) {
            let (shard, epoch, term, id) = (s.done.len() as u32, v.epoch, v.term, s.id);
            let report = ScrubReport { chunks: 1, ..Default::default() };
            self.run(Command::Scrubbed { vol, shard, epoch, term, id, report });
            return;
        }
        for (i, s) in v.shards.iter().enumerate().take(v.begun() as usize) {
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
                self.run(Command::Drop {
                    vol,
                    shard,
                    epoch: e,
                    term,
                    rids,
                    base: Ver::ZERO,
                    told: Default::default(),
                    reasons: Default::default(),
                });
                return;
            }
            let out = |r: &&ReplicaRecord| {
                !r.in_sync() && !r.leaving && !r.fill_held() && r.store_uuid.is_some() && self.live.up.contains(&r.node)
            };
            let Some(r) = s.replicas.values().find(out).cloned() else { continue };
            let e = epoch(self);
            if !self.fill(Going { vol, shard, rid: r.rid }, e, term) {
                continue;
            }
            let e = epoch(self);
            self.run(Command::Add { vol, shard, epoch: e, term, rid: r.rid, store_uuid: r.store_uuid.unwrap() });
            return;
        }
    }

    /// Begins a sync, if the leader allows it, or goes on with it. True: the replica is filled.
    fn fill(&mut self, it: Going, epoch: Epoch, term: Term) -> bool {
        let going: Vec<Going> = self.going.keys().copied().collect();
        if !self.going.contains_key(&it) {
            if room(&self.s, &going, &self.live.up, it).is_err() {
                return false;
            }
            let Going { vol, shard, rid } = it;
            self.run(Command::SyncStart { vol, shard, epoch, term, rid, sync_id: 1 });
            let rounds = self.rnd(self.lasts + 1);
            self.going.insert(it, rounds);
        }
        let left = self.going.get_mut(&it).unwrap();
        let through = *left == 0;
        *left = left.saturating_sub(1);
        if through {
            self.going.remove(&it);
        }
        through
    }

    /// One round of the leader's loop. Returns the number of steps that it took.
    pub fn round(&mut self) -> usize {
        let list = steps(&self.s, &self.live);
        let adds = list.iter().filter(|s| matches!(s, Step::Do(Command::AddReplica { .. }))).count();
        assert!(adds <= 2 * self.live.up.len(), "a storm of {adds} new replicas");
        for step in &list {
            match step.clone() {
                Step::Do(cmd) => {
                    // Members before must be members afterwards: only a coordinator takes members out of a
                    // shard that is served.
                    let served = !matches!(cmd, Command::ReplaceUnmade { .. });
                    let before: usize =
                        self.s.volumes.values().flat_map(|v| &v.shards).map(|s| s.in_sync().len()).sum();
                    self.make_before_break(&cmd);
                    self.run(cmd);
                    let after: usize = self.s.volumes.values().flat_map(|v| &v.shards).map(|s| s.in_sync().len()).sum();
                    assert!(before == after || !served);
                }
                Step::Maintain { vol, node, epoch } => {
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

    /// No replica is marked as leaving, or removed while it counts, before as many others are in sync as the
    /// policy asks for.
    fn make_before_break(&self, cmd: &Command) {
        let (Command::Leave { vol, shard, rid, .. } | Command::RemoveReplica { vol, shard, rid, .. }) = cmd else {
            return;
        };
        let v = &self.s.volumes[vol];
        let want = Policy::from_attrs(&v.attrs).unwrap().replicas as usize;
        let all = &v.shards[*shard as usize].replicas;
        let counts = all[rid].in_sync() && !all[rid].leaving;
        let others = all.values().filter(|r| r.rid != *rid && r.in_sync() && !r.leaving).count();
        assert!(!counts || others >= want, "{cmd:?} with {others} others in sync, {want} wanted");
    }

    pub fn settle(&mut self) {
        // Quiet is when several rounds bring neither steps nor changes by coordinators.
        let mut quiet = 0;
        for _ in 0..4000 {
            let before = self.s.revision;
            let still = self.round() == 0 && self.s.revision == before && self.going.is_empty();
            quiet = if still { quiet + 1 } else { 0 };
            if quiet == 3 {
                return;
            }
        }
        panic!("repair does not come to an end: {:?}", steps(&self.s, &self.live));
    }
}

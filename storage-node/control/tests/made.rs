//! A cluster for tests: a record that real commands make, and what a leader would hear of its nodes.

use hf_meta_core::command::COMMAND_VERSION;
use hf_meta_core::record::*;
use hf_meta_core::soft::{DiskTold, NodeSoft, NodeTold, Soft, VolumeTold};
use hf_meta_core::{Command, Envelope, Outcome, Reply};
use hf_policy::attributes::Media;
use hf_policy::policy::parse_pairs;
use hf_policy::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of each disk.
pub const DISK_BYTES: u64 = 1 << 40;

pub struct Made {
    pub s: Arc<ClusterState>,
    pub soft: Soft,
    /// Milliseconds of a monotonic clock.
    pub now: u64,
    req: u128,
}

#[allow(dead_code, reason = "each test file uses what it needs")]
impl Made {
    /// A cluster of nodes n1, n2, … that all answer, each with one disk of the same number.
    pub fn new(nodes: u64) -> Made {
        let soft = Soft { wall_ms: 1_800_000_000_000, leading_ms: 60_000, ..Soft::default() };
        let first = Made::put_node(1, "");
        let state = ClusterState::found(ClusterId(7), "test".into(), first, soft.wall_ms).unwrap();
        let mut m = Made { s: Arc::new(state), soft, now: 1_000_000, req: 0 };
        for i in 1..=nodes {
            m.done(Made::put_node(i, ""));
            let (node, uuid, path) = (NodeId(i), DiskUuid(i.into()), format!("/d{i}"));
            m.done(Command::PutDisk { node, uuid, path, media: Media::Ssd, capacity: DISK_BYTES });
            m.hear(i);
        }
        m.soft.group.leader = Some(NodeId(1));
        m.soft.group.voters = (1..=nodes.min(3)).map(NodeId).collect();
        m
    }

    pub fn put_node(i: u64, version: &str) -> Command {
        Command::PutNode {
            node: None,
            name: format!("n{i}"),
            uuid: BootId(i.into()),
            addr: Addresses::default(),
            labels: BTreeMap::new(),
            version: version.into(),
            log: Default::default(),
        }
    }

    pub fn run(&mut self, cmd: Command) -> Outcome {
        self.req += 1;
        let env = Envelope { v: COMMAND_VERSION, request: RequestId(self.req), at_ms: self.soft.wall_ms, cmd };
        Arc::make_mut(&mut self.s).apply(&env)
    }

    pub fn done(&mut self, cmd: Command) -> Reply {
        let what = format!("{cmd:?}");
        self.run(cmd).unwrap_or_else(|e| panic!("{what}: {e}"))
    }

    /// The leader hears this node now, which tells of its disks.
    pub fn hear(&mut self, node: u64) {
        let id = NodeId(node);
        let disks = self.s.disks.values().filter(|d| d.node == id).map(|d| d.id);
        let fine = DiskTold { used: 0, entries: 1 << 20, in_service: true, fault: None, backend: "threads".into() };
        let told = NodeTold {
            commands: COMMAND_VERSION,
            disks: disks.map(|d| (d, fine.clone())).collect(),
            ..NodeTold::default()
        };
        self.soft.nodes.insert(id, NodeSoft { heard_ms: 0, told: Arc::new(told) });
        self.soft.up.insert(id);
    }

    /// The leader does not hear this node any more.
    pub fn silence(&mut self, node: u64) {
        self.soft.nodes.get_mut(&NodeId(node)).unwrap().heard_ms = 20_000;
        self.soft.up.remove(&NodeId(node));
    }

    /// The node tells something else.
    pub fn tell(&mut self, node: u64, change: impl FnOnce(&mut NodeTold)) {
        change(Arc::make_mut(&mut self.soft.nodes.get_mut(&NodeId(node)).unwrap().told));
    }

    /// The node tells something else of a disk.
    pub fn tell_disk(&mut self, disk: u64, change: impl FnOnce(&mut DiskTold)) {
        let node = self.s.disks[&DiskId(disk)].node;
        self.tell(node.0, |t| change(t.disks.get_mut(&DiskId(disk)).unwrap()));
    }

    /// The node tells how it serves a volume.
    pub fn serve(&mut self, node: u64, vol: VolumeId, serving: bool) {
        let session = self.s.volumes[&vol].coordinator.as_ref().map(|a| a.session).unwrap_or_default();
        let told = VolumeTold { session, serving, ..VolumeTold::default() };
        self.tell(node, |t| drop(Arc::make_mut(&mut t.volumes).insert(vol, told)));
    }

    /// A volume with a replica on each of these disks, all made.
    pub fn volume(&mut self, name: &str, attrs: &str, disks: &[u64]) -> VolumeId {
        let vol = self.unmade(name, attrs, disks);
        self.make(vol);
        vol
    }

    /// A volume whose replicas are still to be made.
    pub fn unmade(&mut self, name: &str, attrs: &str, disks: &[u64]) -> VolumeId {
        let attrs = parse_pairs(attrs.split_whitespace()).unwrap();
        let shards = vec![disks.iter().map(|d| DiskId(*d)).collect()];
        let cmd = Command::CreateVolume { name: name.into(), attrs, lineage: Lineage(1), shards };
        let Reply::Volume(vol) = self.done(cmd) else { panic!("not the reply of a new volume") };
        vol
    }

    /// Every replica of a volume is made.
    pub fn make(&mut self, vol: VolumeId) {
        let unmade = |(_, r): &(ShardId, &ReplicaRecord)| r.store_uuid.is_none();
        let rids: Vec<Rid> = self.s.volumes[&vol].replicas().filter(unmade).map(|(_, r)| r.rid).collect();
        for rid in rids {
            self.done(Command::ReplicaMade { vol, rid, store_uuid: StoreUuid(rid.0.into()) });
        }
    }

    pub fn epoch(&self, vol: VolumeId) -> Epoch {
        self.s.volumes[&vol].epoch
    }

    pub fn attach(&mut self, vol: VolumeId, node: u64) {
        let (epoch, session) = (self.epoch(vol), SessionId(u128::from(node) * 1000 + u128::from(vol.0)));
        let cmd = Command::Attach { vol, epoch, node: NodeId(node), session, steal: true, maintenance: false };
        self.done(cmd);
        let term = self.s.volumes[&vol].term;
        self.done(Command::Activated { vol, term });
    }

    pub fn detach(&mut self, vol: VolumeId) {
        let session = self.s.volumes[&vol].coordinator.as_ref().unwrap().session;
        self.done(Command::Detach { vol, session });
    }

    pub fn rename(&mut self, vol: VolumeId, name: &str) {
        self.done(Command::RenameVolume { vol, epoch: self.epoch(vol), name: name.into() });
    }

    pub fn delete(&mut self, vol: VolumeId) {
        self.done(Command::DeleteVolume { vol, epoch: self.epoch(vol) });
    }

    /// The replica of a volume's first shard on this disk.
    pub fn rid(&self, vol: VolumeId, disk: u64) -> Rid {
        let on = |r: &&ReplicaRecord| r.disk == DiskId(disk);
        self.s.volumes[&vol].shards[0].replicas.values().find(on).unwrap().rid
    }

    /// The coordinator drops the replica on this disk.
    pub fn drop_replica(&mut self, vol: VolumeId, disk: u64) -> Rid {
        let (rid, epoch, term) = (self.rid(vol, disk), self.epoch(vol), self.s.volumes[&vol].term);
        let (rids, reasons) = (vec![rid], BTreeMap::from([(rid, DropReason::Link)]));
        self.done(Command::Drop { vol, shard: 0, epoch, term, rids, base: Ver::ZERO, told: BTreeMap::new(), reasons });
        rid
    }

    /// The replica on this disk is in sync again.
    pub fn add_replica(&mut self, vol: VolumeId, disk: u64) {
        let (rid, epoch, term) = (self.rid(vol, disk), self.epoch(vol), self.s.volumes[&vol].term);
        let store_uuid = self.s.volumes[&vol].shards[0].replicas[&rid].store_uuid.unwrap();
        self.done(Command::SyncStart { vol, shard: 0, epoch, term, rid, sync_id: 1 });
        let epoch = self.epoch(vol);
        self.done(Command::Add { vol, shard: 0, epoch, term, rid, store_uuid });
    }

    /// A cluster of three nodes with so many volumes, each of three replicas, detached.
    pub fn large(volumes: u64) -> Made {
        let mut m = Made::new(3);
        for i in 0..volumes {
            m.volume(&format!("v{i:06}"), "size=1GiB replicas=3", &[1, 2, 3]);
        }
        m
    }
}

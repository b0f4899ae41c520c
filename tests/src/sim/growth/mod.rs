//! A volume of several shards that grows, is taken over and detached while nodes crash, disks are
//! lost and disks refuse replicas: the real record, planner, coordinators and replicas, over a
//! network that delays and reorders.
//!
//! Each register (a block of a shard) has one request in flight at a time, so a read must return
//! the last acknowledged write or one whose outcome is unknown since. At the end faults stop in two
//! steps: first no disk takes a further replica, and the volume must be served with what it has;
//! then disks take replicas again, and everything that was asked for must be there.

mod heal;
mod machines;
mod record;

use super::model::ModelStore;
use super::world::VOL;
use bytes::Bytes;
use hf_meta_core::command::{COMMAND_VERSION, ShardChange, ShardStep};
use hf_meta_core::plan::{self, Liveness};
use hf_meta_core::plan::{Step, repair};
use hf_meta_core::record::*;
use hf_meta_core::{Command, Envelope as MetaEnvelope, Refusal, Reply};
use hf_policy::attributes::Media;
use hf_policy::policy::parse_pairs;
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, ClientOp, ClientReply, Phase};
use hf_repl_core::message::{Envelope, Msg, Nack};
use hf_repl_core::replica::{self as re, Durable};
use hf_repl_core::{Coordinator, IoError, Replica};
use hf_store::sim::Rng;
use std::collections::{BTreeMap, BTreeSet};

const NODES: u64 = 4;
/// The most shards that the volume may have at the end.
const SHARDS: u64 = 4;
/// Registers of each shard, and its blocks.
const REGISTERS: u64 = 3;
const BLOCKS: u64 = 512;

/// The counts of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grown {
    pub growths: u64,
    pub crashes: u64,
    pub lost_disks: u64,
    pub replaced: u64,
    pub together: u64,
    pub attaches: u64,
    pub detaches: u64,
    pub acked: u64,
    pub reads: u64,
}

struct Held {
    shard: ShardId,
    uuid: StoreUuid,
    store: ModelStore,
    replica: Replica,
}

struct Attached {
    session: SessionId,
    shards: Vec<Coordinator>,
    ready: BTreeSet<u32>,
    drained: BTreeSet<u32>,
    stopping: bool,
}

struct Host {
    up: bool,
    down_since: u64,
    boot: BootId,
    /// Its disk takes no further replica.
    full: bool,
    /// Its disk is gone for good.
    lost: bool,
    held: BTreeMap<Rid, Held>,
    attached: Option<Attached>,
}

enum Net {
    ToReplica { from: u64, to: u64, env: Envelope, msg: Msg },
    ToCoordinator { to: u64, env: Envelope, msg: Msg },
    Answer { to: u64, session: SessionId, shard: u32, outcome: co::Proposed },
    Record { to: u64, session: SessionId },
}

/// A change that a coordinator asks for.
struct Wish {
    from: u64,
    session: SessionId,
    shard: u32,
    epoch: Epoch,
    term: Term,
    change: co::Change,
}

#[derive(Default)]
struct Register {
    acked: u64,
    maybe: BTreeSet<u64>,
    busy: bool,
}

/// A request: where it was asked, which register (shard, number), and the tag of a write.
type Asked = (u64, (u32, u64), Option<u64>);

struct World {
    rng: Rng,
    now: Tick,
    state: ClusterState,
    hosts: BTreeMap<u64, Host>,
    net: Vec<(Tick, Net)>,
    wishes: Vec<Wish>,
    registers: BTreeMap<(u32, u64), Register>,
    /// Requests in flight.
    ops: BTreeMap<u64, Asked>,
    next: u64,
    faults: bool,
    out: Grown,
}

/// One run; an error names what went wrong.
pub fn run(seed: u64, steps: u64) -> Result<Grown, String> {
    let mut w = World::new(seed);
    for _ in 0..steps {
        w.step()?;
    }
    w.heal()?;
    Ok(w.out)
}

impl World {
    fn new(seed: u64) -> World {
        let mut w = World {
            rng: Rng::new(seed ^ 0x67_726f_7774),
            now: Tick(1_000_000),
            state: ClusterState { version: COMMAND_VERSION, ..ClusterState::default() },
            hosts: BTreeMap::new(),
            net: Vec::new(),
            wishes: Vec::new(),
            registers: BTreeMap::new(),
            ops: BTreeMap::new(),
            next: 1,
            faults: true,
            out: Grown::default(),
        };
        w.apply(Command::Init { cluster: ClusterId(1), name: "sim".into() }).unwrap();
        for i in 1..=NODES {
            let (uuid, addr, labels) = (BootId(i.into()), Addresses::default(), BTreeMap::new());
            let (name, version, log) = (format!("n{i}"), String::new(), Default::default());
            w.apply(Command::PutNode { node: None, name, uuid, addr, labels, version, log }).unwrap();
            let (node, uuid, path) = (NodeId(i), DiskUuid(i.into()), String::new());
            w.apply(Command::PutDisk { node, uuid, path, media: Media::Ssd, capacity: 1 << 42 }).unwrap();
            let boot = BootId(u128::from(w.id()));
            let (held, attached) = (BTreeMap::new(), None);
            w.hosts.insert(i, Host { up: true, down_since: 0, boot, full: false, lost: false, held, attached });
        }
        let attrs = parse_pairs(["size=64GiB", "replicas=3", "min_replicas=1", "rebuild_after=10s"]).unwrap();
        let shards = vec![vec![DiskId(1), DiskId(2), DiskId(3)]];
        w.apply(Command::CreateVolume { name: "v".into(), attrs, lineage: Lineage(1), shards }).unwrap();
        (1..=NODES).for_each(|n| w.agent(n));
        w
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn volume(&self) -> &VolumeRecord {
        &self.state.volumes[&VOL]
    }

    pub(super) fn apply(&mut self, cmd: Command) -> Result<Reply, Refusal> {
        let request = RequestId(u128::from(self.id()));
        let done = self.state.apply(&MetaEnvelope { v: COMMAND_VERSION, request, at_ms: 0, cmd });
        self.state.check().unwrap();
        let to: Vec<_> = self.hosts.iter().filter_map(|(n, h)| Some((*n, h.attached.as_ref()?.session))).collect();
        to.into_iter().for_each(|(to, session)| self.send(Net::Record { to, session }));
        done
    }

    pub(super) fn send(&mut self, net: Net) {
        let slow = self.faults && self.rng.one_in(12);
        let delay = if slow { self.rng.below(600_000) } else { self.rng.below(2_000) };
        self.net.push((self.now.plus(50 + delay), net));
    }

    pub(super) fn liveness(&self) -> Liveness {
        let mut live = Liveness::default();
        for (n, h) in &self.hosts {
            if h.up {
                live.up.insert(NodeId(*n));
            } else {
                live.away.insert(NodeId(*n), (self.now.0 - h.down_since) / 1_000);
            }
        }
        let unmade = self.volume().replicas().map(|(_, r)| r).filter(|r| r.store_uuid.is_none());
        live.refusing = self.hosts.iter().filter(|(_, h)| h.full).map(|(n, _)| DiskId(*n)).collect();
        live.refused = unmade.filter(|r| self.hosts[&r.node.0].full).map(|r| r.rid).collect();
        live
    }

    pub(super) fn step(&mut self) -> Result<(), String> {
        match self.rng.below(1000) {
            0..=499 => self.deliver()?,
            500..=699 => self.store_step()?,
            700..=829 => self.client()?,
            830..=859 => self.commit(),
            860..=879 => self.lead(),
            880..=899 => {
                let node = 1 + self.rng.below(NODES);
                self.agent(node);
            }
            900..=903 if self.faults => self.grow(),
            904..=905 if self.faults => self.crash()?,
            909..=918 => self.restart()?,
            919 if self.faults => self.lose_disk(),
            920..=923 if self.faults => {
                let node = 1 + self.rng.below(NODES);
                let full = self.rng.one_in(2);
                self.hosts.get_mut(&node).unwrap().full = full;
            }
            924 if self.faults => drop(self.attach()?),
            925..=926 if self.faults => self.detach()?,
            _ => self.tick(8_000)?,
        }
        Ok(())
    }

    pub(super) fn tick(&mut self, us: u64) -> Result<(), String> {
        self.now = self.now.plus(1 + self.rng.below(us));
        let now = self.now;
        for n in 1..=NODES {
            let Some(a) = self.hosts[&n].attached.as_ref() else { continue };
            let due = |c: &Coordinator| c.next_deadline().is_some_and(|d| d <= now);
            let due: Vec<u32> = (0u32..).zip(&a.shards).filter(|(_, c)| due(c)).map(|(i, _)| i).collect();
            due.into_iter().try_for_each(|i| self.coordinator(n, i, co::Input::Tick))?;
            self.serves(n);
        }
        Ok(())
    }
}

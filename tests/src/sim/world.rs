//! The simulated world and its schedule: what its nodes have, and which step comes next.

use super::clients::Asked;
use super::group::{Asker, Group};
use super::lineages::Histories;
use super::net::Net;
use super::run::{Outcome, Stores};
use super::store::SimStore;
use super::swarm::Swarm;
use hf_meta_core::command::COMMAND_VERSION;
use hf_meta_core::record::*;
use hf_meta_core::{Command, Envelope as MetaEnvelope, Refusal};
use hf_policy::attributes::{Media, ReadFrom};
use hf_policy::policy::parse_pairs;
use hf_policy::*;
use hf_repl_core::coordinator as co;
use hf_repl_core::{Coordinator, Replica};
use hf_store::sim::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// The nodes on which the volume begins: 1 to this number.
const FIRST: u64 = 3;
pub(super) const BLOCKS: u64 = 600;
pub(super) const VOL: VolumeId = VolumeId(1);
pub(super) const SHARD: ShardId = ShardId { vol: VOL, index: 0 };

pub(super) struct Host {
    pub(super) up: bool,
    pub(super) boot: BootId,
    pub(super) store: SimStore,
    /// Room on its disk, in units; 0: any amount.
    pub(super) units: usize,
    /// A copy of its disk, taken some time ago, with the storage's id at that time.
    pub(super) image: Option<(SimStore, StoreUuid)>,
    /// Its disk was put back from that copy, which its replica has not noticed.
    pub(super) put_back: bool,
    /// The replica it holds, 0 if none, and its storage; a wipe makes another one.
    pub(super) rid: Rid,
    pub(super) uuid: StoreUuid,
    pub(super) replica: Option<Replica>,
    pub(super) coordinator: Option<Attached>,
}

pub(super) struct Attached {
    pub(super) c: Coordinator,
    pub(super) session: SessionId,
    pub(super) lineage: Lineage,
    /// Requests in flight.
    pub(super) ops: BTreeMap<u64, Asked>,
    /// Replicas that it knows of, those of them that it knows to be in sync, and how many of those
    /// writes need.
    pub(super) knows: BTreeSet<Rid>,
    pub(super) in_sync: BTreeSet<Rid>,
    pub(super) min_replicas: u32,
    /// It is ready to serve, which is to be recorded.
    pub(super) ready: bool,
    /// It was asked to end, since its users have gone; and it has ended, which is to be recorded.
    pub(super) ending: bool,
    pub(super) drained: bool,
    /// It has asked for the place of a sync, and has not given it back.
    pub(super) place: bool,
    pub(super) out: Vec<co::Output>,
}

pub struct Sim {
    pub(super) rng: Rng,
    pub(super) now: Tick,
    pub(super) state: ClusterState,
    pub(super) hosts: BTreeMap<u64, Host>,
    pub(super) net: Vec<(Tick, Net)>,
    pub(super) cut: BTreeSet<(u64, u64)>,
    /// The node on which each replica lives, or lived.
    pub(super) homes: BTreeMap<Rid, u64>,
    /// Real members of the metadata group, if there are any.
    pub(super) group: Option<Group>,
    pub(super) swarm: Swarm,
    /// No message is lost or late for now.
    pub(super) prompt: bool,
    /// Scenes are played.
    pub(super) dramas: bool,
    pub(super) histories: Histories,
    /// Blocks that went bad on a node at some time, or were told to be lost.
    pub(super) ever_bad: BTreeSet<(u64, u64)>,
    pub(super) next: u64,
    pub(super) weights: [u64; 10],
    /// Cuts and crashes end by themselves once in so many steps.
    pub(super) lasting: u64,
    /// Nodes whose users only read for now.
    pub(super) only_read: BTreeSet<u64>,
    /// The longest delay of a message, in microseconds.
    pub(super) slow: u64,
    /// Blocks that most requests are about.
    pub(super) span: u64,
    pub(super) healing: bool,
    /// Some seeds have disks of different, small sizes.
    pub(super) small_disks: bool,
    pub(super) stores: Stores,
    tracing: bool,
    pub(super) outcome: Outcome,
}

impl Sim {
    pub(super) fn new(seed: u64, stores: Stores, swarm: Swarm) -> Sim {
        let mut rng = Rng::new(seed);
        // Every seed has other weights, and so stresses other things (swarm testing).
        let weights = std::array::from_fn(|_| [0, 1, 2, 6][rng.below(4) as usize]);
        let mut s = Sim {
            rng,
            now: Tick(1_000_000),
            state: ClusterState { version: COMMAND_VERSION, ..ClusterState::default() },
            hosts: BTreeMap::new(),
            net: Vec::new(),
            cut: Default::default(),
            homes: BTreeMap::new(),
            group: None,
            swarm,
            prompt: false,
            dramas: true,
            histories: Histories::default(),
            ever_bad: BTreeSet::new(),
            next: 1,
            weights,
            lasting: 1,
            span: 20,
            slow: 400_000,
            only_read: Default::default(),
            healing: false,
            small_disks: false,
            stores,
            tracing: std::env::var_os("HOLDFAST_SIM_TRACE").is_some(),
            outcome: Outcome::default(),
        };
        s.small_disks = s.rng.one_in(6);
        s.lasting = [1, 4, 16, 60][s.rng.below(4) as usize];
        s.slow = [40_000, 400_000, 2_500_000][s.rng.below(3) as usize];
        s.span = [2, 6, 20][s.rng.below(3) as usize];
        s.found();
        s
    }

    /// No in-sync replica has its storage any more.
    pub(super) fn lost_all(&self) -> bool {
        self.outcome.wipes + self.outcome.restores > 0 && !self.record().in_sync.keys().any(|r| self.holds(*r))
    }

    /// A replica has the storage that the record says it has, as far as anybody knows.
    pub(super) fn holds(&self, rid: Rid) -> bool {
        let r = self.state.volumes[&VOL].shards[0].replicas.get(&rid);
        let good = |r: &ReplicaRecord, h: &Host| r.store_uuid == Some(h.uuid) && !h.put_back;
        r.is_some_and(|r| good(r, &self.hosts[&r.node.0]))
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn apply(&mut self, cmd: Command) -> Result<hf_meta_core::Reply, Refusal> {
        if self.group.is_some() {
            let asked = self.raft_propose(0, Asker::Nobody, cmd);
            return Err(Refusal::State(asked.err().unwrap_or("what becomes of it is not known yet".into())));
        }
        let request = RequestId(u128::from(self.id()));
        let said = self.tracing.then(|| format!("{cmd:?}"));
        let (at_ms, done) = (self.wall_ms(), self.tally(&cmd));
        let r = self.state.apply(&MetaEnvelope { v: COMMAND_VERSION, request, at_ms, cmd });
        if r.is_ok() {
            self.outcome.add(&done);
        }
        self.know_homes();
        self.trace(|| format!("RAFT {} -> {r:?}", said.unwrap_or_default()));
        self.state.check().unwrap();
        r
    }

    pub(super) fn know_homes(&mut self) {
        let of_volume = self.state.volumes.get(&VOL).into_iter().flat_map(|v| v.replicas());
        self.homes.extend(of_volume.map(|(_, r)| (r.rid, r.node.0)));
    }

    fn found(&mut self) {
        self.apply(Command::Init { cluster: ClusterId(1), name: "sim".into() }).unwrap();
        for i in 1..=self.nodes() {
            let put = Command::PutNode {
                node: None,
                name: format!("n{i}"),
                uuid: BootId(u128::from(i)),
                addr: Addresses::default(),
                labels: BTreeMap::new(),
                version: String::new(),
                log: Default::default(),
            };
            self.apply(put).unwrap();
            self.apply(Command::PutDisk {
                node: NodeId(i),
                uuid: DiskUuid(u128::from(i)),
                path: String::new(),
                media: Media::Ssd,
                capacity: 1 << 40,
            })
            .unwrap();
        }
        let attrs = self.swarm.attributes();
        let attrs = parse_pairs(attrs.iter().map(String::as_str)).unwrap();
        let shards = vec![vec![DiskId(1), DiskId(2), DiskId(3)]];
        self.apply(Command::CreateVolume { name: "v".into(), attrs, lineage: Lineage(1), shards }).unwrap();
        for i in 1..=FIRST {
            self.apply(Command::ReplicaMade { vol: VOL, rid: Rid(i), store_uuid: StoreUuid(u128::from(i)) }).unwrap();
            let units = if self.small_disks { 1 + self.rng.below(3) as usize } else { 0 };
            let seed = (self.stores == Stores::Real).then(|| self.rng.next_u64());
            let boot = BootId(u128::from(self.id()));
            self.settle_host(i, boot, Rid(i), units, seed);
        }
        for i in FIRST + 1..=self.nodes() {
            let units = if self.small_disks { 1 + self.swarm.rng.below(3) as usize } else { 0 };
            let seed = (self.stores == Stores::Real).then(|| self.swarm.rng.next_u64());
            let boot = BootId(u128::from(self.id()));
            self.settle_host(i, boot, Rid(0), units, seed);
        }
    }

    fn settle_host(&mut self, node: u64, boot: BootId, rid: Rid, units: usize, seed: Option<u64>) {
        let uuid = StoreUuid(u128::from(rid.0));
        let store = SimStore::new(seed, rid, uuid, units, Lineage(1));
        let replica = (rid.0 > 0).then(|| Replica::new(self.clock(node), boot, store.durable(rid, uuid)));
        let (image, coordinator) = (None, None);
        self.hosts.insert(
            node,
            Host { up: true, boot, store, units, image, put_back: false, rid, uuid, replica, coordinator },
        );
    }

    pub(super) fn nodes(&self) -> u64 {
        FIRST + self.swarm.spares
    }

    /// A node, any of them.
    pub(super) fn a_node(&mut self) -> u64 {
        1 + self.rng.below(self.nodes())
    }

    pub(super) fn policy(&self) -> Policy {
        policy_of(&self.state)
    }

    /// `HOLDFAST_SIM_TRACE=1` tells what happens, to see why a seed fails.
    pub(super) fn trace(&self, what: impl FnOnce() -> String) {
        if self.tracing {
            eprintln!("{:>9} {}", self.now.0, what().chars().take(400).collect::<String>());
        }
    }

    pub(super) fn random_step(&mut self) -> Result<(), String> {
        self.outcome.steps += 1;
        self.sometimes()?;
        let w = self.weights;
        match self.rng.below(1000) {
            0..=449 => self.deliver()?,
            450..=599 => self.client_op(None)?,
            600..=799 => self.store_step()?,
            800..=804 => self.tick(600_000)?,
            805..=806 if self.rng.below(12) < w[2] => self.crash()?,
            808 => self.report_storage(),
            809 if self.rng.below(8) < w[7] => self.order_scrub(),
            810 if self.rng.below(8) < w[8] => self.rot(),
            811..=818 if self.rng.one_in(self.lasting) => self.restart()?,
            819..=821 if self.rng.below(8) < w[3] => self.partition()?,
            824..=830 if self.rng.one_in(self.lasting) => self.reconnect()?,
            840 if self.rng.below(12) < w[9] => self.quiet_swap()?,
            837..=839 if self.rng.below(8) < w[9] => self.take_image()?,
            832 if self.rng.below(12) < w[6] => self.drama()?,
            833..=836 if self.someone_joins() && self.rng.one_in(4) => self.drama()?,
            831 if self.rng.below(18) < 1 + w[4] => self.attach(None)?,
            _ => self.tick(6_000)?,
        }
        Ok(())
    }

    /// The record, as it is now.
    pub(super) fn record(&self) -> co::Record {
        record_of(&self.state)
    }

    pub(super) fn tick(&mut self, us: u64) -> Result<(), String> {
        let us = 1 + self.rng.below(us);
        self.now = self.now.plus(us);
        self.raft_time()?;
        for node in 1..=self.nodes() {
            let now = self.clock(node);
            let due =
                self.hosts[&node].coordinator.as_ref().is_some_and(|a| a.c.next_deadline().is_some_and(|d| d <= now));
            if due && self.hosts[&node].up {
                self.coordinator_step(node, co::Input::Tick)?;
            }
            if self.hosts[&node].coordinator.as_ref().is_some_and(|a| a.ready) && self.rng.one_in(4) {
                self.record_served(node)?;
            }
        }
        Ok(())
    }

    pub(super) fn attach(&mut self, at: Option<u64>) -> Result<(), String> {
        let node = at.unwrap_or_else(|| 1 + self.rng.below(self.nodes()));
        if !self.hosts[&node].up || self.cut.contains(&(node, 0)) {
            return Ok(());
        }
        let v = &self.state.volumes[&VOL];
        let session = SessionId(u128::from(self.next + 1_000_000));
        if self.group.is_some() {
            return self.raft_attach(node, session);
        }
        let cmd =
            Command::Attach { vol: VOL, epoch: v.epoch, node: NodeId(node), session, steal: true, maintenance: false };
        self.apply(cmd).map_err(|e| e.to_string())?;
        self.begin_attachment(node, session)
    }

    /// The record on this node says that the volume is attached there.
    pub(super) fn begin_attachment(&mut self, node: u64, session: SessionId) -> Result<(), String> {
        self.outcome.attaches += 1;
        self.id();
        let Some((record, policy)) = self.state_at(node).map(|s| (record_of(s), policy_of(s))) else { return Ok(()) };
        let knows: BTreeSet<Rid> = record.in_sync.keys().chain(record.out.keys()).copied().collect();
        let read_from = if self.rng.one_in(2) { ReadFrom::Spread } else { ReadFrom::Local };
        let mut nearest: Vec<Rid> = knows.iter().copied().collect();
        nearest.sort_by_key(|r| (self.homes[r] != node, *r));
        let cfg = co::Config {
            cluster: ClusterId(1),
            shard: SHARD,
            session,
            node: NodeId(node),
            blocks: BLOCKS,
            min_replicas: policy.min_replicas,
            replica_timeout: 1_000_000,
            read_from: if self.swarm.policy { policy.read_from } else { read_from },
            strict_reads: policy.strict_reads,
            rebuild_impact: 20,
            nearest,
        };
        let (mut out, min_replicas, lineage) = (Vec::new(), policy.min_replicas, record.lineage);
        self.histories.begin(lineage, self.now.0);
        let in_sync = record.in_sync.keys().copied().collect();
        let c = Coordinator::new(self.clock(node), cfg, record, &mut out);
        // The node's earlier attachment ends here; its open writes have unknown outcomes.
        self.hosts.get_mut(&node).unwrap().coordinator = Some(Attached {
            c,
            session,
            lineage,
            ops: BTreeMap::new(),
            knows,
            in_sync,
            min_replicas,
            ready: false,
            ending: false,
            drained: false,
            place: false,
            out: Vec::new(),
        });
        self.outputs(node, out)?;
        self.links(node)?;
        self.announce();
        Ok(())
    }

    /// Tells a coordinator which links are up.
    pub(super) fn links(&mut self, node: u64) -> Result<(), String> {
        let knows = self.hosts[&node].coordinator.as_ref().map(|a| a.knows.clone()).unwrap_or_default();
        knows.into_iter().try_for_each(|rid| self.link(node, rid))
    }

    /// Tells it whether the link to the disk of one replica is up.
    pub(super) fn link(&mut self, node: u64, rid: Rid) -> Result<(), String> {
        let peer = self.homes[&rid];
        let up = self.hosts[&peer].up && self.linked(node, peer) && self.linked(peer, node);
        let boot = self.hosts[&peer].boot;
        let input = if up { co::Input::PeerUp { rid, boot } } else { co::Input::PeerDown { rid } };
        self.coordinator_step(node, input)
    }

    pub(super) fn all_links(&mut self) -> Result<(), String> {
        (1..=self.nodes()).try_for_each(|n| self.links(n))
    }
}

pub(super) fn policy_of(state: &ClusterState) -> Policy {
    Policy::from_attrs(&state.volumes[&VOL].attrs).unwrap()
}

/// The record as the first shard's coordinator sees it.
pub(super) fn record_of(state: &ClusterState) -> co::Record {
    shard_record(state, 0)
}

/// The record as the coordinator of a shard sees it.
pub(super) fn shard_record(state: &ClusterState, index: u32) -> co::Record {
    let v = &state.volumes[&VOL];
    let replicas = &v.shards[index as usize].replicas;
    let in_sync = replicas.values().filter(|r| r.in_sync());
    let out = replicas.values().filter_map(|r| {
        let (base, sync_id) = match r.state {
            ReplicaState::InSync => return None,
            ReplicaState::Out { base } => (base, None),
            ReplicaState::Syncing { base, sync_id } => (base, Some(sync_id)),
        };
        Some((r.rid, co::OutInfo { node: r.node, store_uuid: r.store_uuid, base, position: r.position, sync_id }))
    });
    co::Record {
        activated: v.served_term(index),
        served: v.activated == v.term,
        term: v.term,
        epoch: v.epoch,
        session: v.coordinator.as_ref().map(|a| a.session),
        lineage: v.lineage,
        in_sync: in_sync.map(|r| (r.rid, co::MemberInfo { node: r.node, store_uuid: r.store_uuid.unwrap() })).collect(),
        out: out.collect(),
        paused: replicas.values().filter(|r| r.fill_held()).map(|r| r.rid).collect(),
        scrub_paused: v.scrub.as_ref().is_some_and(|s| s.paused),
        leaving: replicas.values().filter(|r| r.leaving).map(|r| r.rid).collect(),
        scrub: v.scrub.as_ref().filter(|s| !s.done.contains_key(&index)).map(|s| s.id),
    }
}

//! A cluster without a process, thread or clock: the verbs' node over `ClusterState::apply`. The record and the plans
//! are the real ones; nodes, leader and time are scripted.
#![allow(clippy::disallowed_types, reason = "verbs want a node that may be shared between threads; here is only one")]

use hf_control::access::{Caller, Role, Via};
use hf_control::error::{Code, Problem};
use hf_control::model::{Health, HealthRef, Severity, VolumeStats};
use hf_control::ports::{NodeAnswer, NodeVerb, Ports, Unanswered};
use hf_control::read::Query;
use hf_control::verbs::Call;
use hf_control::view::{Alerts, Look, answer};
use hf_meta_core::plan::Liveness;
use hf_meta_core::record::*;
use hf_meta_core::soft::{DiskTold, NodeSoft, NodeTold, Soft, VolumeTold};
use hf_meta_core::{ClusterState, Command, Envelope, Outcome, Reply};
use hf_policy::attributes::Media;
use hf_policy::policy::parse_pairs;
use hf_policy::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// Wall clock at virtual time 0.
pub const WALL_MS: u64 = 1_800_000_000_000;

/// What happens to a proposal.
pub enum Fate {
    /// It is sent to nobody.
    NoLeader,
    /// It is committed, and the leader dies before it answers.
    Lost,
    /// The leader dies before it commits it.
    Dropped,
    /// Somebody else is quicker.
    After(Box<dyn FnOnce(&mut Inner) + Send>),
}

pub struct Inner {
    /// The record as the leader has it.
    pub state: ClusterState,
    /// The record as this node has it.
    pub view: Arc<ClusterState>,
    pub leader: bool,
    pub here: NodeId,
    pub now_ms: u64,
    /// What happens to the next proposals; what follows them is answered.
    pub fates: VecDeque<Fate>,
    /// Every proposal and every question to a node.
    pub proposed: Vec<(RequestId, Command)>,
    pub asked: Vec<(NodeId, NodeVerb)>,
    /// What nodes answer next instead of what they would.
    pub answers: VecDeque<Result<NodeAnswer, Problem>>,
    pub silent: BTreeSet<NodeId>,
    /// Milliseconds after which nodes make a replica; none: they never do.
    pub make_ms: Option<u64>,
    pub in_force: Result<(), String>,
    due: BTreeMap<Rid, u64>,
    random: u128,
}

/// Codes that are raised, by subject.
#[derive(Default)]
pub struct Raised(pub BTreeMap<String, Vec<HealthRef>>);

impl Alerts for Raised {
    fn about(&self, subject: &str) -> Vec<HealthRef> {
        self.0.get(subject).cloned().unwrap_or_default()
    }
    fn health(&self, revision: u64) -> Health {
        let (items, mutes) = (vec![], vec![]);
        Health {
            worst: Severity::Info,
            state: "ok".into(),
            items,
            total: 0,
            counts: Default::default(),
            mutes,
            revision,
        }
    }
}

/// All nodes are heard, all disks serve, and what is attached is served.
pub fn heard(s: &ClusterState, silent: &BTreeSet<NodeId>) -> Soft {
    let mut soft = Soft { wall_ms: WALL_MS, leading_ms: 60_000, ..Soft::default() };
    soft.group.leader = Some(NodeId(1));
    soft.group.voters = s.nodes.keys().copied().take(3).collect();
    for n in s.nodes.keys() {
        let mine = s.disks.values().filter(|d| d.node == *n);
        let disk = |used| DiskTold { used, entries: 100_000, in_service: true, fault: None, backend: "threads".into() };
        let at = |v: &&Arc<VolumeRecord>| v.coordinator.as_ref().is_some_and(|a| a.node == *n && !a.maintenance);
        let serves = |v: &Arc<VolumeRecord>| {
            let session = v.coordinator.as_ref().map(|a| a.session).unwrap_or_default();
            (v.id, VolumeTold { session, serving: true, waits_for: String::new(), connections: 1 })
        };
        let told = NodeTold {
            commands: 3,
            disks: mine.map(|d| (d.id, disk(1 << 20))).collect(),
            volumes: Arc::new(s.volumes_at(*n).filter(at).map(serves).collect()),
            ..NodeTold::default()
        };
        let is_silent = silent.contains(n);
        let heard_ms = if is_silent { 60_000 } else { 500 };
        soft.nodes.insert(*n, NodeSoft { heard_ms, told: Arc::new(told) });
        if !is_silent {
            soft.up.insert(*n);
        }
    }
    soft
}

/// Changes what a node has told.
pub fn told(soft: &mut Soft, node: u64) -> &mut NodeTold {
    Arc::make_mut(&mut soft.nodes.get_mut(&NodeId(node)).unwrap().told)
}

pub fn put_node(i: u64) -> Command {
    let addr = |port| format!("10.0.0.{i}:{port}");
    Command::PutNode {
        name: format!("n{i}"),
        node: None,
        uuid: BootId(i.into()),
        addr: Addresses { api: addr(7421), data: addr(7422), nbd: addr(10809) },
        labels: BTreeMap::from([("rack".into(), format!("r{}", i % 2))]),
        version: "0.1".into(),
        log: Default::default(),
    }
}

pub fn put_disk(id: u64, node: u64) -> Command {
    let (uuid, path) = (DiskUuid(id.into()), format!("/disks/{id}"));
    Command::PutDisk { node: NodeId(node), uuid, path, media: Media::Ssd, capacity: 1 << 40 }
}

/// Applies a command to a record that must take it.
pub fn apply(s: &mut ClusterState, cmd: Command) -> Reply {
    s.apply(&Envelope { v: s.version, request: RequestId::NONE, at_ms: WALL_MS, cmd }).unwrap()
}

/// A cluster of nodes n1, n2, … with a disk each, by the newest version.
pub fn founded(nodes: u64) -> ClusterState {
    let mut s = ClusterState::found(ClusterId(7), "test".into(), put_node(1), WALL_MS).unwrap();
    (2..=nodes).for_each(|i| {
        let _ = apply(&mut s, put_node(i));
    });
    (1..=nodes).for_each(|i| {
        let _ = apply(&mut s, put_disk(i, i));
    });
    s
}

/// Adds a volume with replicas on these disks; its nodes have not made them.
pub fn unmade(s: &mut ClusterState, name: &str, attrs: &str, disks: &[u64]) -> VolumeId {
    let attrs = parse_pairs(attrs.split_whitespace()).unwrap();
    let shards = (0..Policy::from_attrs(&attrs).unwrap().size.div_ceil(SHARD_BYTES))
        .map(|_| disks.iter().map(|d| DiskId(*d)).collect())
        .collect();
    match apply(s, Command::CreateVolume { name: name.into(), attrs, lineage: Lineage(1), shards }) {
        Reply::Volume(id) => id,
        other => panic!("{other:?}"),
    }
}

/// Nodes make what a volume asks of them.
pub fn make(s: &mut ClusterState, vol: VolumeId) {
    let rids: Vec<Rid> =
        s.volumes[&vol].replicas().filter(|(_, r)| r.store_uuid.is_none()).map(|(_, r)| r.rid).collect();
    for rid in rids {
        apply(s, Command::ReplicaMade { vol, rid, store_uuid: StoreUuid(rid.0.into()) });
    }
}

/// Adds a volume whose replicas are made.
pub fn volume(s: &mut ClusterState, name: &str, attrs: &str, disks: &[u64]) -> VolumeId {
    let id = unmade(s, name, attrs, disks);
    make(s, id);
    id
}

pub fn attach(s: &mut ClusterState, name: &str, node: u64) -> SessionId {
    let (vol, epoch) = (s.volume_named(name).unwrap().id, s.volume_named(name).unwrap().epoch);
    let session = SessionId(u128::from(s.revision) + 1000);
    let node = NodeId(node);
    apply(s, Command::Attach { vol, epoch, node, session, steal: true, maintenance: false });
    session
}

/// The coordinator drops a replica of a volume that is attached.
pub fn drop_replica(s: &mut ClusterState, name: &str, rid: u64, reason: Option<DropReason>) {
    let v = s.volume_named(name).unwrap();
    let (vol, epoch, term) = (v.id, v.epoch, v.term);
    let shard = v.replicas().find(|(_, r)| r.rid.0 == rid).unwrap().0.index;
    let reasons = reason.map(|r| (Rid(rid), r)).into_iter().collect();
    let (rids, base, told) = (vec![Rid(rid)], Ver::ZERO, BTreeMap::new());
    apply(s, Command::Drop { vol, shard, epoch, term, rids, base, told, reasons });
}

/// Changes a volume's record as if by somebody else.
pub fn touch(s: &mut ClusterState, name: &str) {
    let Some(v) = s.volume_named(name) else { return };
    let (vol, epoch, on) = (v.id, v.epoch, v.scrub.is_none());
    apply(s, Command::Scrub { vol, epoch, on });
}

impl Inner {
    fn alive(&self) -> Soft {
        heard(&self.state, &self.silent)
    }

    /// Nodes make replicas that are due, and this node hears of what was committed.
    fn turn(&mut self) {
        let Some(after) = self.make_ms else { return };
        let unmade = self.state.volumes.values().flat_map(|v| v.replicas().map(|(s, r)| (s.vol, r)));
        let unmade: Vec<(VolumeId, Rid)> =
            unmade.filter(|(_, r)| r.store_uuid.is_none()).map(|(v, r)| (v, r.rid)).collect();
        for (vol, rid) in unmade {
            let due = *self.due.entry(rid).or_insert(self.now_ms + after);
            if due <= self.now_ms {
                apply(&mut self.state, Command::ReplicaMade { vol, rid, store_uuid: StoreUuid(rid.0.into()) });
            }
        }
    }

    fn commit(&mut self, request: RequestId, cmd: Command) -> Outcome {
        let env = Envelope { v: self.state.version, request, at_ms: WALL_MS + self.now_ms, cmd };
        let outcome = self.state.apply(&env);
        self.state.check().unwrap();
        self.turn();
        outcome
    }

    fn obeys(&mut self, node: NodeId, verb: NodeVerb) -> Result<NodeAnswer, Problem> {
        let session = SessionId(self.random);
        Ok(match verb {
            NodeVerb::Attach { volume, force, request } => {
                let v = self.state.volume_named(&volume).ok_or_else(|| Problem::no("volume", &volume))?.clone();
                if v.coordinator.as_ref().is_some_and(|a| a.node == node && !a.maintenance) {
                    return Ok(NodeAnswer::Attached { term: u64::from(v.term.0), ms: 0, already: true });
                }
                let (vol, epoch, steal) = (v.id, v.epoch, force);
                let cmd = Command::Attach { vol, epoch, node, session, steal, maintenance: false };
                match self.commit(request, cmd)? {
                    Reply::Attached(t) => NodeAnswer::Attached { term: u64::from(t.0), ms: 7, already: false },
                    other => panic!("{other:?}"),
                }
            }
            NodeVerb::Detach { volume } => {
                let v = self.state.volume_named(&volume).unwrap();
                let (vol, session) = (v.id, v.coordinator.as_ref().unwrap().session);
                self.commit(RequestId::NONE, Command::Detach { vol, session })?;
                NodeAnswer::Detached
            }
            NodeVerb::AddDisk { .. } => match self.commit(RequestId::NONE, put_disk(self.state.next.disk, node.0))? {
                Reply::Disk(id) => NodeAnswer::Disk(id.0),
                other => panic!("{other:?}"),
            },
            NodeVerb::Stats { volume } => {
                let node = Some(self.state.node_name(node));
                NodeAnswer::Stats(VolumeStats { volume, node, interval_seconds: 5, points: vec![] })
            }
        })
    }
}

/// The made-up cluster with this node in it.
pub struct World(Mutex<Inner>);

impl World {
    pub fn of(state: ClusterState) -> World {
        let view = Arc::new(state.clone());
        World(Mutex::new(Inner {
            state,
            view,
            leader: true,
            here: NodeId(1),
            now_ms: 0,
            fates: VecDeque::new(),
            proposed: vec![],
            asked: vec![],
            answers: VecDeque::new(),
            silent: BTreeSet::new(),
            make_ms: Some(30),
            in_force: Ok(()),
            due: BTreeMap::new(),
            random: 1 << 64,
        }))
    }

    /// Four nodes with a disk each, a second disk in n4, and volume `web` on n1, n2 and n3, replicas 1 to 3.
    pub fn new() -> World {
        World::with(|_| ())
    }

    pub fn with(setup: impl FnOnce(&mut ClusterState)) -> World {
        let mut s = founded(4);
        apply(&mut s, put_disk(5, 4));
        volume(&mut s, "web", "size=1GiB replicas=3 label.app=shop", &[1, 2, 3]);
        setup(&mut s);
        World::of(s)
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub fn state(&self) -> ClusterState {
        self.inner().state.clone()
    }

    /// Nothing was asked of the cluster.
    pub fn is_untouched(&self) -> bool {
        let i = self.inner();
        i.proposed.is_empty() && i.asked.is_empty()
    }
}

impl Ports for World {
    fn view(&self) -> Arc<ClusterState> {
        self.inner().view.clone()
    }
    fn here(&self) -> NodeId {
        self.inner().here
    }
    async fn freshen(&self) -> bool {
        let mut i = self.inner();
        if i.leader {
            i.view = Arc::new(i.state.clone());
        }
        i.leader
    }
    async fn liveness(&self) -> Option<Liveness> {
        let i = self.inner();
        i.leader.then(|| i.alive().liveness())
    }
    async fn read(&self, query: Query) -> Result<String, Problem> {
        let i = self.inner();
        let (soft, alerts) = (i.leader.then(|| i.alive()), Raised::default());
        let state = if i.leader { &i.state } else { &*i.view };
        let wall_ms = WALL_MS + i.now_ms;
        answer(Look { state, soft: soft.as_ref(), alerts: &alerts, here: i.here, wall_ms }, &query, None)
    }
    async fn propose(&self, request: RequestId, cmd: Command) -> Result<Outcome, Unanswered> {
        let mut i = self.inner();
        if !i.leader {
            return Err(Unanswered::NoLeader("nobody leads".into()));
        }
        i.proposed.push((request, cmd.clone()));
        match i.fates.pop_front() {
            None => Ok(i.commit(request, cmd)),
            Some(Fate::NoLeader) => Err(Unanswered::NoLeader("it has just stopped".into())),
            Some(Fate::Dropped) => Err(Unanswered::Unknown("the leader died".into())),
            Some(Fate::Lost) => {
                drop(i.commit(request, cmd));
                Err(Unanswered::Unknown("the leader died".into()))
            }
            Some(Fate::After(other)) => {
                other(&mut i);
                Ok(i.commit(request, cmd))
            }
        }
    }
    async fn outcome_of(&self, request: RequestId) -> Option<Outcome> {
        let i = self.inner();
        i.state.requests.get(&request).filter(|_| i.leader).cloned()
    }
    async fn changed(&self, revision: u64, patience_ms: u64) {
        let mut i = self.inner();
        let end = i.now_ms + patience_ms;
        loop {
            i.turn();
            if i.leader {
                i.view = Arc::new(i.state.clone());
            }
            if i.view.revision > revision || i.now_ms >= end {
                return;
            }
            i.now_ms += 10.min(end - i.now_ms);
        }
    }
    async fn in_force(&self, _: VolumeId, _: Epoch) -> Result<(), String> {
        self.inner().in_force.clone()
    }
    async fn on_node(&self, node: NodeId, verb: NodeVerb) -> Result<NodeAnswer, Problem> {
        let mut i = self.inner();
        i.asked.push((node, verb.clone()));
        i.random += 1;
        if i.silent.contains(&node) {
            return Err(Problem::new(Code::NodeSilent, "the node does not answer"));
        }
        match i.answers.pop_front() {
            Some(answer) => answer,
            None => i.obeys(node, verb),
        }
    }
    fn now_ms(&self) -> u64 {
        self.inner().now_ms
    }
    fn wall_ms(&self) -> u64 {
        WALL_MS + self.inner().now_ms
    }
    fn random(&self) -> u128 {
        let mut i = self.inner();
        i.random += 1;
        i.random
    }
}

/// Runs what never waits for anybody but the made-up cluster.
pub fn block_on<T>(f: impl Future<Output = T>) -> T {
    let mut f = std::pin::pin!(f);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..1000 {
        if let std::task::Poll::Ready(t) = f.as_mut().poll(&mut cx) {
            return t;
        }
    }
    panic!("it waits for something that never comes")
}

pub fn caller(role: Role) -> Caller {
    Caller { name: "eva".into(), role, via: Via::Tcp }
}

/// A call of an admin with a request of its own.
pub fn call(request: u128) -> Call {
    let request = RequestId(request << 32 | 1);
    Call { caller: caller(Role::Admin), request, dry_run: false, if_epoch: None, id: None, wait_ms: Some(5_000) }
}

//! The only owner of the Raft node: one thread that selects over ticks, messages and proposals, then handles one Ready
//! after another in numbered steps.

use crate::raft_log::{Batch, LogError, RaftLog};
use crate::voters;
use hf_meta_core::plan::Liveness;
use hf_meta_core::{ClusterState, Envelope, Outcome, image};
use hf_policy::{ClusterId, NodeId, RequestId};
use prost_old::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, Message, MessageType, Snapshot};
use raft::{RawNode, StateRole};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Raft's tick.
const TICK: Duration = Duration::from_millis(100);
/// The log is compacted when it has this many entries.
const COMPACT_AFTER: u64 = 2_000;
/// Proposals that wait for their outcome.
const MAX_WAITING: usize = 4096;
/// What a proposal came to.
#[derive(Debug)]
pub enum Proposed {
    /// Applied (or refused) by the cluster.
    Outcome(Outcome),
    /// This node does not lead.
    NotLeader,
    /// Not known: leadership was lost on the way, or too many wait.
    Unknown,
}

enum Input {
    Propose(Envelope, oneshot::Sender<Proposed>),
    Step(Box<Message>),
    Unreachable(u64),
    Live(Liveness),
    Stop(oneshot::Sender<()>),
}

/// What everybody may know about Raft here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// This node leads.
    pub is_leader: bool,
    /// Raft's term.
    pub term: u64,
    /// Voters.
    pub voters: Vec<u64>,
    /// Learners.
    pub learners: Vec<u64>,
    /// Applied index.
    pub applied: u64,
    /// Commands applied since start.
    pub commands: u64,
}

/// A handle to the loop.
#[derive(Clone)]
pub struct MetaHandle {
    tx: SyncSender<Input>,
    /// The applied state, if this node is part of the group.
    pub state: watch::Receiver<Arc<ClusterState>>,
    /// Raft's status.
    pub status: watch::Receiver<RaftStatus>,
    /// Set when the loop has ended on an error.
    pub failed: watch::Receiver<Option<String>>,
}

/// How to start.
pub struct Start {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its log.
    pub log: RaftLog,
    /// After this long without a sign of life a voter is replaced, in milliseconds.
    pub voter_grace_ms: u64,
    /// Where messages go: (to, bytes).
    pub out: mpsc::Sender<(u64, Vec<u8>)>,
}

impl MetaHandle {
    /// Starts the loop's thread.
    pub fn start(s: Start) -> Result<MetaHandle, LogError> {
        let (tx, rx) = sync_channel(8192);
        let state = match s.log.image().data.as_slice() {
            [] => ClusterState::default(),
            data => image::decode(data).map_err(|e| LogError::Damaged(e.to_string()))?,
        };
        let applied = s.log.image().get_metadata().index;
        let cfg = raft::Config {
            id: s.node.0,
            election_tick: 10,
            heartbeat_tick: 2,
            applied,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            ..Default::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&cfg, s.log, &logger).map_err(|e| LogError::Damaged(e.to_string()))?;
        let (state_tx, state_rx) = watch::channel(Arc::new(state.clone()));
        let (status_tx, status_rx) = watch::channel(RaftStatus::default());
        let (failed_tx, failed_rx) = watch::channel(None);
        let handle = MetaHandle { tx, state: state_rx, status: status_rx, failed: failed_rx };
        let mut l = Loop {
            raw,
            state,
            applied,
            commands: 0,
            out: s.out,
            state_tx,
            status_tx,
            waiting: BTreeMap::new(),
            live: Liveness::default(),
            next_plan: Instant::now(),
            voter_grace_ms: s.voter_grace_ms,
            regressed: None,
        };
        std::thread::Builder::new()
            .name("raft".into())
            .spawn(move || {
                let ended = l.run(rx);
                // RocksDB is closed before anybody is told: the process must not exit under it.
                drop(l);
                match ended {
                    Ok(Some(done)) => drop(done.send(())),
                    Ok(None) => {}
                    Err(e) => {
                        tracing::error!("metadata stopped: {e}");
                        let _ = failed_tx.send(Some(e.to_string()));
                    }
                }
            })
            .map_err(|e| LogError::Damaged(format!("cannot start a thread: {e}")))?;
        Ok(handle)
    }

    /// Proposes; the future ends when the outcome is known or certainly will not be.
    pub async fn propose(&self, env: Envelope) -> Proposed {
        let (tx, rx) = oneshot::channel();
        if self.tx.try_send(Input::Propose(env, tx)).is_err() {
            return Proposed::Unknown;
        }
        match tokio::time::timeout(Duration::from_secs(5), rx).await {
            Ok(Ok(p)) => p,
            _ => Proposed::Unknown,
        }
    }

    /// A message from another node, already checked for cluster and addressee. A full queue drops it: Raft repeats.
    pub fn step(&self, bytes: &[u8]) -> bool {
        match Message::decode(bytes) {
            Ok(m) => self.tx.try_send(Input::Step(Box::new(m))).is_ok(),
            Err(_) => false,
        }
    }

    /// A node could not be reached.
    pub fn unreachable(&self, node: u64) {
        let _ = self.tx.try_send(Input::Unreachable(node));
    }

    /// Who answers, as this leader sees it.
    pub fn live(&self, live: Liveness) {
        let _ = self.tx.try_send(Input::Live(live));
    }

    /// Ends the loop.
    pub async fn stop(&self) {
        let (tx, rx) = oneshot::channel();
        if self.tx.try_send(Input::Stop(tx)).is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(5), rx).await;
        }
    }
}

struct Loop {
    raw: RawNode<RaftLog>,
    state: ClusterState,
    applied: u64,
    commands: u64,
    out: mpsc::Sender<(u64, Vec<u8>)>,
    state_tx: watch::Sender<Arc<ClusterState>>,
    status_tx: watch::Sender<RaftStatus>,
    waiting: BTreeMap<RequestId, Vec<oneshot::Sender<Proposed>>>,
    live: Liveness,
    next_plan: Instant,
    voter_grace_ms: u64,
    /// This node's log is older than what it had acknowledged: it must not take part any more.
    regressed: Option<String>,
}

impl Loop {
    /// Runs until told to stop; returns whom to tell.
    fn run(&mut self, rx: Receiver<Input>) -> Result<Option<oneshot::Sender<()>>, LogError> {
        // The only voter need not wait for an election timeout.
        if self.raw.store().conf().voters == [self.raw.raft.id] {
            let _ = self.raw.campaign();
        }
        let mut next_tick = Instant::now() + TICK;
        loop {
            self.on_ready()?;
            self.publish();
            let wait = next_tick.saturating_duration_since(Instant::now());
            match rx.recv_timeout(wait) {
                Ok(Input::Stop(done)) => return Ok(Some(done)),
                Ok(input) => {
                    self.input(input);
                    if let Some(why) = self.regressed.take() {
                        return Err(LogError::Damaged(why));
                    }
                    // Whatever else waits goes into the same Ready: one sync for many proposals.
                    for input in rx.try_iter().take(256) {
                        if let Input::Stop(done) = input {
                            return Ok(Some(done));
                        }
                        self.input(input);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
            if Instant::now() >= next_tick {
                self.raw.tick();
                next_tick = Instant::now() + TICK;
                self.plan_voters();
            }
        }
    }

    fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    fn input(&mut self, input: Input) {
        match input {
            // A non-leader refuses here: raft 0.7.0 would forward proposals, and lose their outcomes.
            Input::Propose(_, tx) if !self.is_leader() => drop(tx.send(Proposed::NotLeader)),
            Input::Propose(_, tx) if self.waiting.len() >= MAX_WAITING => drop(tx.send(Proposed::Unknown)),
            Input::Propose(env, tx) => {
                if let Some(known) = self.state.requests.get(&env.request) {
                    return drop(tx.send(Proposed::Outcome(known.clone())));
                }
                let proposed = env.encode().ok().map(|data| self.raw.propose(Vec::new(), data));
                match proposed {
                    Some(Ok(())) => self.waiting.entry(env.request).or_default().push(tx),
                    _ => drop(tx.send(Proposed::NotLeader)),
                }
            }
            Input::Step(m) => {
                // Local messages never come from outside.
                if raft::raw_node::is_local_msg(m.msg_type()) || m.to != self.raw.raft.id {
                    return;
                }
                // The leader tells to commit only what this node once acknowledged. If that is not here, the data directory
                // is an older one: its votes and acknowledgements are worth nothing (hazard 18).
                let last = self.raw.raft.raft_log.last_index();
                if m.msg_type() == MessageType::MsgHeartbeat && m.commit > last {
                    self.regressed = Some(format!(
                        "this node's metadata ends at entry {last}, but it had acknowledged entry {}: its data directory is an older copy or was damaged. Remove the node from the cluster (holdfast node remove), give it an empty data_dir and join it anew; its disks' data is made anew from the other replicas",
                        m.commit
                    ));
                    return;
                }
                let _ = self.raw.step(*m);
            }
            Input::Unreachable(node) => self.raw.report_unreachable(node),
            Input::Live(live) => self.live = live,
            Input::Stop(_) => {}
        }
    }

    /// One Ready: 1 send what needs no persistence · 2 install a snapshot · 3 collect entries and hard state into one
    /// batch, synced · 4 send what needed it · 5 apply what is committed · 6 advance, persist the commit index, apply.
    fn on_ready(&mut self) -> Result<(), LogError> {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.send(ready.take_messages());
            let mut batch = Batch { hard: ready.hs().cloned(), ..Batch::default() };
            if *ready.snapshot() != Snapshot::default() {
                batch.install = Some(ready.snapshot().clone());
            }
            batch.entries = ready.take_entries();
            let installed = batch.install.clone();
            if batch.hard.is_some() || batch.install.is_some() || !batch.entries.is_empty() {
                self.raw.mut_store().commit(batch)?;
            }
            if let Some(s) = installed {
                self.state = image::decode(&s.data).map_err(|e| LogError::Damaged(e.to_string()))?;
                self.applied = s.get_metadata().index;
            }
            self.send(ready.take_persisted_messages());
            self.apply(ready.take_committed_entries())?;
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                let mut hard = self.raw.raft.hard_state();
                hard.commit = commit;
                self.raw.mut_store().commit(Batch { hard: Some(hard), ..Batch::default() })?;
            }
            self.send(light.take_messages());
            self.apply(light.take_committed_entries())?;
            self.raw.advance_apply();
            self.compact()?;
        }
        if !self.is_leader() && !self.waiting.is_empty() {
            for tx in std::mem::take(&mut self.waiting).into_values().flatten() {
                let _ = tx.send(Proposed::Unknown);
            }
        }
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>) {
        for m in messages {
            let (to, snapshot) = (m.to, m.msg_type() == MessageType::MsgSnapshot);
            let sent = self.out.try_send((to, m.encode_to_vec())).is_ok();
            if snapshot {
                let status = if sent { raft::SnapshotStatus::Finish } else { raft::SnapshotStatus::Failure };
                self.raw.report_snapshot(to, status);
            }
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), LogError> {
        for e in entries {
            self.applied = e.index;
            match e.entry_type() {
                EntryType::EntryNormal if e.data.is_empty() => {}
                EntryType::EntryNormal => {
                    // A command this node cannot read would fork its state: stop instead.
                    let env = Envelope::decode(&e.data).map_err(|x| LogError::Damaged(x.to_string()))?;
                    let outcome = self.state.apply(&env);
                    self.commands += 1;
                    for tx in self.waiting.remove(&env.request).unwrap_or_default() {
                        let _ = tx.send(Proposed::Outcome(outcome.clone()));
                    }
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    let cc = conf_change(&e)?;
                    let conf = self.raw.apply_conf_change(&cc).map_err(|x| LogError::Damaged(x.to_string()))?;
                    self.raw.mut_store().set_conf(conf);
                    // The configuration must survive on its own: an image carries it.
                    self.save_image()?;
                }
            }
        }
        Ok(())
    }

    fn image_now(&self) -> Result<Snapshot, LogError> {
        let data = image::encode(&self.state).map_err(|e| LogError::Damaged(e.to_string()))?;
        let mut s = Snapshot { data, ..Default::default() };
        let term = raft::Storage::term(self.raw.store(), self.applied).map_err(|e| LogError::Damaged(e.to_string()))?;
        s.mut_metadata().index = self.applied;
        s.mut_metadata().term = term;
        *s.mut_metadata().mut_conf_state() = self.raw.store().conf().clone();
        Ok(s)
    }

    fn save_image(&mut self) -> Result<(), LogError> {
        let s = self.image_now()?;
        self.raw.mut_store().commit(Batch { compact: Some(s), ..Batch::default() })
    }

    fn compact(&mut self) -> Result<(), LogError> {
        if self.raw.store().len() > COMPACT_AFTER { self.save_image() } else { Ok(()) }
    }

    fn publish(&mut self) {
        if self.state_tx.borrow().revision != self.state.revision
            || self.state_tx.borrow().cluster != self.state.cluster
        {
            let _ = self.state_tx.send(Arc::new(self.state.clone()));
        }
        let conf = self.raw.store().conf();
        let leader = self.raw.raft.leader_id;
        let status = RaftStatus {
            leader: (leader != 0).then_some(NodeId(leader)),
            is_leader: self.is_leader(),
            term: self.raw.raft.term,
            voters: conf.voters.clone(),
            learners: conf.learners.clone(),
            applied: self.applied,
            commands: self.commands,
        };
        self.status_tx.send_if_modified(|s| {
            let changed = *s != status;
            *s = status;
            changed
        });
    }

    /// Keeps the group at the number of voters that is asked for: nodes join as learners and become voters, all that are missing
    /// at once, when they have caught up (so that a group of one never rests on two); a voter that was removed from the
    /// cluster, or stays away, gives its place to another node.
    fn plan_voters(&mut self) {
        if !self.is_leader() || Instant::now() < self.next_plan {
            return;
        }
        self.next_plan = Instant::now() + Duration::from_millis(500);
        let conf = self.raw.store().conf().clone();
        if !conf.voters_outgoing.is_empty() || self.raw.raft.has_pending_conf() {
            return;
        }
        let present = voters::Present {
            known: self.state.nodes.keys().map(|n| n.0).collect(),
            up: self.live.up.iter().map(|n| n.0).collect(),
            away_ms: self.live.away.iter().map(|(n, ms)| (n.0, *ms)).collect(),
            caught_up: conf.learners.iter().copied().filter(|n| self.caught_up(*n)).collect(),
        };
        let plan = voters::plan(&conf, &present, self.state.voters, self.voter_grace_ms, self.raw.raft.id);
        let Some(change) = plan else { return };
        let _ = self.raw.propose_conf_change(Vec::new(), change);
    }

    fn caught_up(&self, node: u64) -> bool {
        self.raw.raft.prs().get(node).is_some_and(|p| p.matched + 50 >= self.applied && p.matched > 0)
    }
}

fn conf_change(e: &Entry) -> Result<ConfChangeV2, LogError> {
    let damaged = |x: prost_old::DecodeError| LogError::Damaged(x.to_string());
    if e.entry_type() == EntryType::EntryConfChange {
        let v1 = raft::eraftpb::ConfChange::decode(e.data.as_slice()).map_err(damaged)?;
        return Ok(raft::prelude::ConfChangeV2 {
            changes: vec![voters::single(v1.change_type(), v1.node_id)],
            ..Default::default()
        });
    }
    ConfChangeV2::decode(e.data.as_slice()).map_err(damaged)
}

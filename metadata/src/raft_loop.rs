//! The only owner of the Raft node: one thread that selects over ticks, messages and proposals; `member.rs` says what follows.

use crate::log::LogError;
use crate::member::MetaNode;
use crate::raft_log::RaftLog;
use crate::status::{Proposed, RaftStatus};
use hf_meta_core::plan::Liveness;
use hf_meta_core::record::Logs;
use hf_meta_core::{ClusterState, Envelope};
use hf_policy::{ClusterId, LogAge, NodeId};
use prost_old::Message as _;
use raft::eraftpb::{Message, MessageType};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Raft's tick.
const TICK: Duration = Duration::from_millis(100);
enum Input {
    Propose(Envelope, oneshot::Sender<Proposed>),
    Step(Box<Message>, Logs),
    Unreachable(u64),
    SnapshotSent(u64, bool),
    LeaderGone(NodeId),
    Older(LogAge, String),
    Live(Liveness),
    Stop(oneshot::Sender<()>),
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

/// A message on its way to another node.
#[derive(Debug)]
pub struct Outgoing {
    /// Which.
    pub to: u64,
    /// Encoded.
    pub message: Vec<u8>,
    /// The logs at both ends.
    pub logs: Logs,
    /// It carries an image: [`MetaHandle::snapshot_sent`] is to be told what became of it.
    pub snapshot: bool,
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
    /// Ages of logs that are noted on the node's disks, and where.
    pub noted: Vec<(String, LogAge)>,
    /// Where messages go.
    pub out: mpsc::Sender<Outgoing>,
}

impl MetaHandle {
    /// Starts the loop's thread.
    pub fn start(s: Start) -> Result<MetaHandle, LogError> {
        let (tx, rx) = sync_channel(8192);
        let node = MetaNode::new(s.node.0, s.log, s.voter_grace_ms, &s.noted)?;
        let (state_tx, state_rx) = watch::channel(Arc::new(node.state.clone()));
        let (status_tx, status_rx) = watch::channel(node.status());
        let (failed_tx, failed_rx) = watch::channel(None);
        let handle = MetaHandle { tx, state: state_rx, status: status_rx, failed: failed_rx };
        let mut l = Loop { node, out: s.out, state_tx, status_tx };
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

    /// A message from another node, already checked for cluster and addressee, and the logs at both ends. A full queue
    /// drops it: Raft repeats.
    pub fn step(&self, bytes: &[u8], logs: Logs) -> bool {
        match Message::decode(bytes) {
            Ok(m) => self.tx.try_send(Input::Step(Box::new(m), logs)).is_ok(),
            Err(_) => false,
        }
    }

    /// A node could not be reached.
    pub fn unreachable(&self, node: u64) {
        let _ = self.tx.try_send(Input::Unreachable(node));
    }

    /// An image has arrived at a node, or has not. (Until Raft is told it sends that node nothing else, and no other image.)
    pub async fn snapshot_sent(&self, node: u64, sent: bool) {
        while let Err(TrySendError::Full(_)) = self.tx.try_send(Input::SnapshotSent(node, sent)) {
            tokio::time::sleep(TICK).await;
        }
    }

    /// Something that was not there when it started says that this log is an older copy.
    pub fn is_older(&self, noted: LogAge, by: String) {
        let _ = self.tx.try_send(Input::Older(noted, by));
    }

    /// The leader's process is gone for certain: somebody else should lead.
    pub fn leader_gone(&self, leader: NodeId) {
        let _ = self.tx.try_send(Input::LeaderGone(leader));
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
    node: MetaNode<RaftLog, oneshot::Sender<Proposed>>,
    out: mpsc::Sender<Outgoing>,
    state_tx: watch::Sender<Arc<ClusterState>>,
    status_tx: watch::Sender<RaftStatus>,
}

impl Loop {
    /// Runs until told to stop; returns whom to tell.
    fn run(&mut self, rx: Receiver<Input>) -> Result<Option<oneshot::Sender<()>>, LogError> {
        let mut next_tick = Instant::now() + TICK;
        loop {
            self.node.on_ready()?;
            if let Some(what) = hf_policy::broken::take() {
                // Every member takes the same safe branch, so their states stay equal: the group goes on.
                tracing::error!("a rule of the cluster's record does not hold, please report it: {what}");
            }
            self.hand_out();
            // Whoever is told an outcome finds it in the state.
            self.publish();
            self.answer();
            let wait = next_tick.saturating_duration_since(Instant::now());
            match rx.recv_timeout(wait) {
                Ok(Input::Stop(done)) => return Ok(Some(done)),
                Ok(input) => {
                    self.input(input)?;
                    // Whatever else waits goes into the same Ready: one sync for many proposals.
                    for input in rx.try_iter().take(256) {
                        if let Input::Stop(done) = input {
                            return Ok(Some(done));
                        }
                        self.input(input)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
            if Instant::now() >= next_tick {
                self.node.tick();
                next_tick = Instant::now() + TICK;
            }
        }
    }

    fn input(&mut self, input: Input) -> Result<(), LogError> {
        match input {
            Input::Propose(env, tx) => self.node.propose(&env, tx),
            Input::Step(m, logs) => return self.node.step(*m, logs),
            Input::Unreachable(node) => self.node.unreachable(node),
            Input::SnapshotSent(node, sent) => self.node.snapshot_sent(node, sent),
            Input::LeaderGone(node) => self.node.leader_gone(node.0),
            Input::Older(noted, by) => return self.node.is_older(noted, by),
            Input::Live(live) => self.node.live(live),
            Input::Stop(_) => {}
        }
        Ok(())
    }

    fn hand_out(&mut self) {
        for (m, logs) in std::mem::take(&mut self.node.out) {
            let (to, snapshot) = (m.to, m.msg_type() == MessageType::MsgSnapshot);
            let sent = self.out.try_send(Outgoing { to, message: m.encode_to_vec(), logs, snapshot }).is_ok();
            // Else whoever sends it tells what became of it.
            if snapshot && !sent {
                self.node.snapshot_sent(to, false);
            }
        }
    }

    fn answer(&mut self) {
        for (tx, what) in std::mem::take(&mut self.node.answers) {
            let _ = tx.send(what);
        }
    }

    fn publish(&mut self) {
        let state = &self.node.state;
        if self.state_tx.borrow().revision != state.revision || self.state_tx.borrow().cluster != state.cluster {
            let _ = self.state_tx.send(Arc::new(state.clone()));
        }
        let status = self.node.status();
        self.status_tx.send_if_modified(|s| {
            let changed = *s != status;
            match (s.waits, status.waits) {
                (false, true) => tracing::info!(
                    "this metadata log takes no part yet: the group does not know it, or its place is still that of this node's earlier log; the \
                     leader gives it one of its own"
                ),
                (true, false) => tracing::info!("this metadata log takes part"),
                _ => {}
            }
            *s = status;
            changed
        });
    }
}

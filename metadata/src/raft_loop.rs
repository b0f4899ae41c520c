//! The only owner of the Raft node: one thread that selects over ticks, messages and proposals. `member.rs`
//! decides what follows from each.

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

/// The interval of Raft's ticks.
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

/// The handle by which the rest of the node reaches the loop.
#[derive(Clone)]
pub struct MetaHandle {
    tx: SyncSender<Input>,
    /// The newest applied state; empty if this node is not part of the group.
    pub state: watch::Receiver<Arc<ClusterState>>,
    /// This member's place in the group.
    pub status: watch::Receiver<RaftStatus>,
    /// The error on which the loop has ended, if it has.
    pub failed: watch::Receiver<Option<String>>,
}

/// A message on its way to another node.
#[derive(Debug)]
pub struct Outgoing {
    /// Raft id of the addressee.
    pub to: u64,
    /// The encoded Raft message.
    pub message: Vec<u8>,
    /// What is said of the logs at both ends.
    pub logs: Logs,
    /// The message carries an image: [`MetaHandle::snapshot_sent`] is to be told whether it was sent.
    pub snapshot: bool,
}

/// What the loop needs to start.
pub struct Start {
    /// The id of this node.
    pub node: NodeId,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// The storage of its log.
    pub log: RaftLog,
    /// After this long without a sign of life a voter is replaced, in milliseconds.
    pub voter_grace_ms: u64,
    /// Ages of logs that are noted on the node's disks, and where.
    pub noted: Vec<(String, LogAge)>,
    /// The queue of messages to other nodes.
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
                // RocksDB is closed before the end is told: the process must not exit under it.
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

    /// Proposes a command. The future ends when the outcome is known, or certainly never will be here.
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

    /// Takes a message from another node, already checked for cluster and addressee, with what it says of the logs at
    /// both ends. A full queue drops it: Raft repeats. False: it was dropped.
    pub fn step(&self, bytes: &[u8], logs: Logs) -> bool {
        match Message::decode(bytes) {
            Ok(m) => self.tx.try_send(Input::Step(Box::new(m), logs)).is_ok(),
            Err(_) => false,
        }
    }

    /// Tells that a node could not be reached.
    pub fn unreachable(&self, node: u64) {
        let _ = self.tx.try_send(Input::Unreachable(node));
    }

    /// Tells whether an image has arrived at a node. Until then Raft sends that node nothing else.
    pub async fn snapshot_sent(&self, node: u64, sent: bool) {
        while let Err(TrySendError::Full(_)) = self.tx.try_send(Input::SnapshotSent(node, sent)) {
            tokio::time::sleep(TICK).await;
        }
    }

    /// Tells of a noted age that proves this log an older copy, found after the start.
    pub fn is_older(&self, noted: LogAge, by: String) {
        let _ = self.tx.try_send(Input::Older(noted, by));
    }

    /// Tells that the leader's process is certainly gone: another member should lead.
    pub fn leader_gone(&self, leader: NodeId) {
        let _ = self.tx.try_send(Input::LeaderGone(leader));
    }

    /// Tells which nodes answer, as this leader sees it.
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
    /// Runs until told to stop; returns the channel on which the end is to be told.
    fn run(&mut self, rx: Receiver<Input>) -> Result<Option<oneshot::Sender<()>>, LogError> {
        let mut next_tick = Instant::now() + TICK;
        loop {
            self.node.on_ready()?;
            if let Some(what) = hf_policy::broken::take() {
                // Every member takes the same safe branch, so their states stay equal: the group goes on.
                tracing::error!("a rule of the cluster's record does not hold, please report it: {what}");
            }
            self.hand_out();
            // A caller that is told an outcome finds it in the published state.
            self.publish();
            self.answer();
            let wait = next_tick.saturating_duration_since(Instant::now());
            match rx.recv_timeout(wait) {
                Ok(Input::Stop(done)) => return Ok(Some(done)),
                Ok(input) => {
                    self.input(input)?;
                    // All inputs that wait go into the same Ready: one sync for many proposals.
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
            // A message that was queued is reported by its sender.
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

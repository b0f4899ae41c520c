//! One member of the metadata group, without threads, clocks or sockets: it takes inputs, then works off one
//! Ready after another in numbered steps. `raft_loop.rs` runs it over RocksDB; the simulator runs it over a
//! simulated disk (`metadata/tests/raft_sim.rs`).

use crate::log::{Batch, Log, LogError};
use crate::status::{Proposed, RaftStatus};
use crate::voters;
use hf_meta_core::plan::Liveness;
use hf_meta_core::record::{Judgement, LogRecord, Logs, OwnLog};
use hf_meta_core::{ClusterState, Command, Envelope, Logged, Outcome, image};
use hf_policy::{LogAge, NodeId, RequestId};
use prost_old::Message as _;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot};
use raft::{RawNode, StateRole};
use std::collections::BTreeMap;

/// The log is compacted when it has this many entries, or more if there are many volumes.
const COMPACT_AFTER: u64 = 2_000;
/// Requests that may wait for their outcome at once.
const MAX_WAITING: usize = 4096;
/// Ticks between two looks at which nodes should vote.
const PLAN_TICKS: u64 = 5;
/// Ticks of silence (tenths of a second) after which a member stands for election, drawn anew in each term.
/// The range is wide enough that few votes are split, and narrow because a volume on a frozen leader's node
/// waits that long.
pub const ELECTION_TICKS: std::ops::Range<usize> = 10..15;

/// Ticks for which one node is asked to take over leadership before the next one is.
const HEIR_TICKS: u64 = 20;
/// Ticks between two raises of the log's age, while the log changes.
const AGE_TICKS: u64 = 100;

/// A member of the group. `T` is the ticket by which a caller knows its proposal.
pub struct MetaNode<L: Log, T> {
    /// The Raft state machine of raft-rs.
    pub raw: RawNode<L>,
    /// The state after every applied entry.
    pub state: ClusterState,
    applied: u64,
    commands: u64,
    waiting: BTreeMap<RequestId, Vec<T>>,
    live: Liveness,
    ticks: u64,
    compact_after: u64,
    voter_grace_ms: u64,
    /// The index of the last entry, and the hard state, when the log's age was last raised.
    aged: (u64, HardState),
    age_due: bool,
    /// The last judgement of this log was that it takes no part yet.
    waits: bool,
    /// Messages to be sent, in order, each with the logs as they were when it was made.
    pub out: Vec<(Message, Logs)>,
    /// Outcomes of proposals, to be told to their callers.
    pub answers: Vec<(T, Proposed)>,
}

impl<L: Log, T> MetaNode<L, T> {
    /// A member from what is durable. `noted`: log ages that were noted on the node's disks, each with its
    /// place. Fails if one of them proves that the log is an older copy.
    pub fn new(
        id: u64,
        mut log: L,
        voter_grace_ms: u64,
        noted: &[(String, LogAge)],
    ) -> Result<MetaNode<L, T>, LogError> {
        let mut own = log.own().clone();
        if let Some((at, age)) = noted.iter().filter(|(_, a)| own.is_older_than(*a)).max_by_key(|(_, a)| a.age) {
            return Err(LogError::Older { here: own.age, noted: format!("age {}", age.age), by: at.clone() });
        }
        if own.older {
            return Err(LogError::Older { here: own.age, noted: "a newer one".into(), by: "another member".into() });
        }
        own.begin(log.draw()?);
        log.set_own(own)?;
        let state = match log.image().data.as_slice() {
            [] => ClusterState::default(),
            data => image::decode(data).map_err(|e| LogError::Damaged(e.to_string()))?,
        };
        let applied = log.image().get_metadata().index;
        let cfg = raft::Config {
            id,
            election_tick: ELECTION_TICKS.start,
            min_election_tick: ELECTION_TICKS.start,
            max_election_tick: ELECTION_TICKS.end,
            heartbeat_tick: 2,
            applied,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            ..Default::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&cfg, log, &logger).map_err(|e| LogError::Damaged(e.to_string()))?;
        let mut n = MetaNode {
            raw,
            state,
            applied,
            commands: 0,
            waiting: BTreeMap::new(),
            live: Liveness::default(),
            ticks: 0,
            compact_after: COMPACT_AFTER,
            voter_grace_ms,
            aged: (0, HardState::default()),
            age_due: false,
            waits: false,
            out: Vec::new(),
            answers: Vec::new(),
        };
        n.aged = n.end_of_log();
        // The only voter need not wait for an election timeout.
        if n.raw.store().conf().voters == [id] {
            let _ = n.raw.campaign();
        }
        Ok(n)
    }

    /// Sets another bound on the log's length; for tests.
    pub fn compact_after(&mut self, entries: u64) {
        self.compact_after = entries;
    }

    /// Tells that a tenth of a second has passed.
    pub fn tick(&mut self) {
        self.raw.tick();
        self.ticks += 1;
        self.age_due |= self.ticks.is_multiple_of(AGE_TICKS);
        if !self.is_leader() {
            // Which nodes answered when it last led says nothing about now.
            self.live = Liveness::default();
        }
        if self.ticks.is_multiple_of(PLAN_TICKS) {
            self.plan_voters();
        }
    }

    /// Its place in the group, for others to see.
    pub fn status(&self) -> RaftStatus {
        let conf = self.raw.store().conf();
        let leader = self.raw.raft.leader_id;
        RaftStatus {
            leader: (leader != 0).then_some(NodeId(leader)),
            is_leader: self.is_leader(),
            term: self.raw.raft.term,
            voters: conf.voters.clone(),
            learners: conf.learners.clone(),
            changing: !conf.voters_outgoing.is_empty(),
            applied: self.applied,
            commands: self.commands,
            own: self.raw.store().own().clone(),
            waits: self.waits,
        }
    }

    /// Does this member lead the group?
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Proposes a command. The answer comes in `answers`, with the same `ticket`.
    pub fn propose(&mut self, env: &Envelope, ticket: T) {
        // A non-leader refuses here: raft 0.7.0 would forward proposals, and lose their outcomes.
        if !self.is_leader() {
            return self.answers.push((ticket, Proposed::NotLeader));
        }
        if self.waiting.len() >= MAX_WAITING {
            return self.answers.push((ticket, Proposed::Unknown));
        }
        if let Some(known) = self.state.requests.get(&env.request) {
            return self.answers.push((ticket, Proposed::Outcome(known.clone())));
        }
        match env.encode().ok().map(|data| self.raw.propose(Vec::new(), data)) {
            Some(Ok(())) => self.waiting.entry(env.request).or_default().push(ticket),
            _ => self.answers.push((ticket, Proposed::NotLeader)),
        }
    }

    /// Takes a message from another member, with what the sender says of the logs at both ends.
    pub fn step(&mut self, m: Message, logs: Logs) -> Result<(), LogError> {
        // Local messages never come from outside.
        if raft::raw_node::is_local_msg(m.msg_type()) || m.to != self.raw.raft.id {
            return Ok(());
        }
        // Acknowledgements of a log that is gone may still be under way.
        if self.log_record(m.from).is_newer_than(logs.from) {
            return Ok(());
        }
        let (own, told) = (self.raw.store().own(), logs.to);
        let judgement = told.judge(own, self.log_record(m.to));
        self.waits = judgement == Judgement::Waits;
        match judgement {
            Judgement::TakesPart => {}
            Judgement::Waits => return Ok(()),
            Judgement::Older => return self.is_older(told.age, format!("node #{}", m.from)),
        }
        // The leader tells to commit only what this node once acknowledged. If that is not here, the data directory
        // is an older one: its votes and acknowledgements are worth nothing (hazard 18).
        let last = self.raw.raft.raft_log.last_index();
        if m.msg_type() == MessageType::MsgHeartbeat && m.commit > last {
            return self.never_again(LogError::Behind { last, acknowledged: m.commit });
        }
        let _ = self.raw.step(m);
        Ok(())
    }

    /// Ends with an error: `by` has noted an age that proves that this log is an older copy.
    pub fn is_older(&mut self, noted: LogAge, by: String) -> Result<(), LogError> {
        let own = self.raw.store().own();
        let what = if noted.log == own.log { format!("age {}", noted.age) } else { "a later log".into() };
        self.never_again(LogError::Older { here: own.age, noted: what, by })
    }

    /// Notes durably that this log never takes part again, then ends with `why`.
    fn never_again(&mut self, why: LogError) -> Result<(), LogError> {
        let own = OwnLog { older: true, ..self.raw.store().own().clone() };
        self.raw.mut_store().set_own(own)?;
        Err(why)
    }

    fn send(&mut self, messages: Vec<Message>) {
        let from = self.raw.store().own().as_in(self.log_record(self.raw.raft.id));
        for m in messages {
            let logs = Logs { from, to: self.log_record(m.to) };
            self.out.push((m, logs));
        }
    }

    /// What this member's state says of a node's log.
    pub fn log_record(&self, node: u64) -> LogRecord {
        self.state.member(NodeId(node)).map_or(LogRecord::default(), |n| n.log)
    }

    fn end_of_log(&self) -> (u64, HardState) {
        (self.raw.raft.raft_log.last_index(), HardState { commit: 0, ..self.raw.raft.hard_state() })
    }

    /// Raises the log's age now and then while the log changes, so that a copy from before is recognised.
    fn age(&mut self) -> Result<(), LogError> {
        let now = self.end_of_log();
        if std::mem::take(&mut self.age_due) && self.aged != now {
            let own = self.raw.store().own().clone();
            self.raw.mut_store().set_own(OwnLog { age: own.age + 1, ..own })?;
            self.aged = now;
        }
        Ok(())
    }

    /// Tells that a node could not be reached.
    pub fn unreachable(&mut self, node: u64) {
        self.raw.report_unreachable(node);
    }

    /// Tells that the leader's process is gone. This member stands for election without waiting for an
    /// election timeout, and asks the others to vote although they heard the leader lately, as after a
    /// leader's own wish (`MsgTimeoutNow`, Raft thesis §3.10).
    pub fn leader_gone(&mut self, leader: u64) {
        let (me, known) = (self.raw.raft.id, self.raw.raft.leader_id);
        if known != leader && known != 0 || self.is_leader() {
            return;
        }
        let mut m = Message { to: me, from: leader, term: self.raw.raft.term, ..Message::default() };
        m.set_msg_type(MessageType::MsgTimeoutNow);
        let _ = self.raw.step(m);
    }

    /// Tells whether an image was sent to a node.
    pub fn snapshot_sent(&mut self, to: u64, sent: bool) {
        let status = if sent { raft::SnapshotStatus::Finish } else { raft::SnapshotStatus::Failure };
        self.raw.report_snapshot(to, status);
    }

    /// Takes the leader's view of which nodes answer.
    pub fn live(&mut self, live: Liveness) {
        self.live = live;
    }

    /// One Ready: 1 send what needs no persistence · 2 install a snapshot · 3 collect entries and hard state into one
    /// batch, synced · 4 send what needed it · 5 apply what is committed · 6 advance, persist the commit index, apply.
    pub fn on_ready(&mut self) -> Result<(), LogError> {
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
        self.age()?;
        if !self.is_leader() && !self.waiting.is_empty() {
            let lost = std::mem::take(&mut self.waiting).into_values().flatten();
            self.answers.extend(lost.map(|t| (t, Proposed::Unknown)));
        }
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), LogError> {
        for e in entries {
            self.applied = e.index;
            match e.entry_type() {
                EntryType::EntryNormal if e.data.is_empty() => {}
                EntryType::EntryNormal => {
                    // A command this node cannot read would fork its state: stop instead.
                    let entry = Logged::decode(&e.data, &self.state).map_err(|x| LogError::Damaged(x.to_string()))?;
                    let outcome = apply_entry(&mut self.state, &entry, self.raw.store().conf());
                    self.commands += 1;
                    let waited = self.waiting.remove(&entry.request()).unwrap_or_default().into_iter();
                    self.answers.extend(waited.map(|t| (t, Proposed::Outcome(outcome.clone()))));
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    let cc = conf_change(&e)?;
                    let conf = self.raw.apply_conf_change(&cc).map_err(|x| LogError::Damaged(x.to_string()))?;
                    let me = self.raw.raft.id;
                    // A change that an earlier leader proposed can take this one's own vote. raft 0.7.0 lets
                    // it lead on without a place in its own configuration, which commits nothing any more or
                    // panics (raft_sim seeds 1027 and 3166): it steps down.
                    if self.is_leader() && !conf.voters.contains(&me) && !conf.voters_outgoing.contains(&me) {
                        let term = self.raw.raft.term;
                        self.raw.raft.become_follower(term, 0);
                    }
                    self.state.set_members(&members(&conf));
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

    /// An image costs what the whole record is large: with many volumes the log grows longer before the next
    /// one, so that the cost per commit does not grow with the cluster.
    fn compact(&mut self) -> Result<(), LogError> {
        let most = self.compact_after.max(self.state.volumes.len() as u64 / 2);
        if self.raw.store().entries_kept() > most { self.save_image() } else { Ok(()) }
    }

    /// Keeps the group at the number of voters that is asked for. Nodes join as learners; when all that are
    /// missing have caught up they become voters at once, so that a group of one never rests on two. A voter
    /// that was removed from the cluster, or stays away, gives its seat to another node.
    fn plan_voters(&mut self) {
        if !self.is_leader() {
            return;
        }
        let conf = self.raw.store().conf().clone();
        let pending = !conf.voters_outgoing.is_empty() || self.raw.raft.has_pending_conf();
        if pending
            || self.log_record(self.raw.raft.id).nth == 0 && self.state.nodes.contains_key(&NodeId(self.raw.raft.id))
        {
            return;
        }
        // A node gets a seat for the log that it has told of.
        let told = |n: &NodeId| self.log_record(n.0).nth > 0;
        let lost = self.state.nodes.values().chain(self.state.removed_members.values()).filter(|n| n.log.is_lost());
        let present = voters::Present {
            known: self.state.nodes.keys().map(|n| n.0).collect(),
            up: self.live.up.iter().filter(|n| told(n)).map(|n| n.0).collect(),
            relogged: lost.map(|n| n.id.0).collect(),
            away_ms: self.live.away.iter().map(|(n, ms)| (n.0, *ms)).collect(),
            caught_up: conf.learners.iter().copied().filter(|n| self.caught_up(*n)).collect(),
            place: self.state.nodes.values().map(|n| (n.id.0, voters::place(&n.labels))).collect(),
        };
        let me = self.raw.raft.id;
        if !present.known.contains(&me) {
            // This node was removed from the cluster: another one is to lead, and takes this vote away.
            let there = |n: &u64| present.up.contains(n) && !present.relogged.contains(n) && self.caught_up(*n);
            // By turns: a transfer to a node whose log is gone would be waited for, and meanwhile nothing
            // that tells so is proposed (raft_sim seed 1289).
            let heirs: Vec<u64> = conf.voters.iter().copied().filter(|n| *n != me && there(n)).collect();
            let heir = heirs.get((self.ticks / HEIR_TICKS) as usize % heirs.len().max(1)).copied();
            if let Some(n) = heir {
                return self.raw.transfer_leader(n);
            }
        }
        let plan = voters::plan(&conf, &present, self.state.voters, self.voter_grace_ms, me);
        let Some(change) = plan else { return };
        let _ = self.raw.propose_conf_change(Vec::new(), change);
    }

    fn caught_up(&self, node: u64) -> bool {
        self.raw.raft.prs().get(node).is_some_and(|p| p.matched + 50 >= self.applied && p.matched > 0)
    }
}

/// Applies an entry of the log to the record, under the group's configuration at that entry.
pub fn apply_entry(state: &mut ClusterState, entry: &Logged, conf: &ConfState) -> Outcome {
    let outcome = state.apply_entry(entry);
    if matches!(entry, Logged::Command(Envelope { cmd: Command::PutNode { .. }, .. })) {
        // The founder is a member before it has told of its log.
        state.set_members(&members(conf));
    }
    outcome
}

/// Every node that a configuration names.
fn members(c: &ConfState) -> Vec<NodeId> {
    let parts = [&c.voters, &c.voters_outgoing, &c.learners, &c.learners_next];
    parts.into_iter().flatten().map(|n| NodeId(*n)).collect()
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

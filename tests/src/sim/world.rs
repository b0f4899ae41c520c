//! The simulated world and its schedule.

use super::run::{Outcome, Stores};
use super::store::SimStore;
use crate::check::register::History;
use hf_meta_core::record::*;
use hf_meta_core::{Command, Envelope as MetaEnvelope, Refusal};
use hf_policy::attributes::{Media, ReadFrom};
use hf_policy::policy::parse_pairs;
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, Phase};
use hf_repl_core::message::{Envelope, Msg, Nack};
use hf_repl_core::replica as re;
use hf_repl_core::{Coordinator, Replica};
use hf_store::sim::Rng;
use std::collections::BTreeMap;

pub(super) const NODES: u64 = 3;
pub(super) const BLOCKS: u64 = 600;
pub(super) const VOL: VolumeId = VolumeId(1);
pub(super) const SHARD: ShardId = ShardId { vol: VOL, index: 0 };

pub(super) struct Host {
    pub(super) up: bool,
    pub(super) boot: BootId,
    pub(super) store: SimStore,
    /// Room on its disk, in units; 0 is plenty.
    pub(super) units: usize,
    /// A copy of its disk, taken some time ago, with the storage's id at that time.
    pub(super) image: Option<(SimStore, StoreUuid)>,
    /// Its disk was put back from that copy, and nobody knows.
    pub(super) put_back: bool,
    /// Its storage; a wipe makes another one.
    pub(super) uuid: StoreUuid,
    pub(super) replica: Replica,
    pub(super) coordinator: Option<Attached>,
}

pub(super) struct Attached {
    pub(super) c: Coordinator,
    pub(super) session: SessionId,
    /// Requests in flight: client id to (began, what).
    pub(super) ops: BTreeMap<u64, (u64, Vec<u64>, Option<u64>)>,
    pub(super) out: Vec<co::Output>,
}

#[derive(Debug)]
pub(super) enum Net {
    ToReplica { from: u64, to: u64, env: Envelope, msg: Msg },
    ToCoordinator { from: u64, to: u64, env: Envelope, msg: Msg },
    Proposal { from: u64, session: SessionId, cmd: Command },
    Answer { to: u64, session: SessionId, outcome: co::Proposed },
    Record { to: u64, session: SessionId },
}

pub struct Sim {
    pub(super) rng: Rng,
    pub(super) now: Tick,
    pub(super) state: ClusterState,
    pub(super) hosts: BTreeMap<u64, Host>,
    pub(super) net: Vec<(Tick, Net)>,
    pub(super) cut: std::collections::BTreeSet<(u64, u64)>,
    pub(super) history: History,
    pub(super) next: u64,
    pub(super) weights: [u64; 10],
    /// How seldom cuts and crashes end by themselves.
    pub(super) lasting: u64,
    /// Nodes whose users only read for now.
    pub(super) only_read: std::collections::BTreeSet<u64>,
    /// The longest delay of a message, in microseconds.
    pub(super) slow: u64,
    /// How many blocks are hot.
    pub(super) span: u64,
    pub(super) healing: bool,
    /// Some seeds have disks of different, small sizes.
    pub(super) small_disks: bool,
    pub(super) stores: Stores,
    tracing: bool,
    pub(super) outcome: Outcome,
}

impl Sim {
    pub(super) fn new(seed: u64, stores: Stores) -> Sim {
        let mut rng = Rng::new(seed);
        // Swarm: every seed stresses other things.
        let weights = std::array::from_fn(|_| [0, 1, 2, 6][rng.below(4) as usize]);
        let mut s = Sim {
            rng,
            now: Tick(1_000_000),
            state: ClusterState::default(),
            hosts: BTreeMap::new(),
            net: Vec::new(),
            cut: Default::default(),
            history: History::default(),
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
        self.outcome.wipes + self.outcome.restores > 0
            && self.state.volumes[&VOL].shards[0].replicas.values().all(|r| {
                !r.in_sync() || r.store_uuid != Some(self.hosts[&r.rid.0].uuid) || self.hosts[&r.rid.0].put_back
            })
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn apply(&mut self, cmd: Command) -> Result<hf_meta_core::Reply, Refusal> {
        let request = RequestId(u128::from(self.id()));
        let said = self.tracing.then(|| format!("{cmd:?}"));
        let r = self.state.apply(&MetaEnvelope { v: 1, request, at_ms: 0, cmd });
        self.trace(|| format!("RAFT {} -> {r:?}", said.unwrap_or_default()));
        self.state.check().unwrap();
        r
    }

    fn found(&mut self) {
        self.apply(Command::Init { cluster: ClusterId(1), name: "sim".into() }).unwrap();
        for i in 1..=NODES {
            let put = Command::PutNode {
                node: None,
                name: format!("n{i}"),
                uuid: BootId(u128::from(i)),
                addr: Addresses::default(),
                labels: BTreeMap::new(),
                version: String::new(),
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
        let attrs = parse_pairs(["size=4MiB", "min_replicas=1"]).unwrap();
        let shards = vec![vec![DiskId(1), DiskId(2), DiskId(3)]];
        self.apply(Command::CreateVolume { name: "v".into(), attrs, lineage: Lineage(1), shards }).unwrap();
        for i in 1..=NODES {
            self.apply(Command::ReplicaMade { vol: VOL, rid: Rid(i), store_uuid: StoreUuid(u128::from(i)) }).unwrap();
            let units = if self.small_disks { 1 + self.rng.below(3) as usize } else { 0 };
            let uuid = StoreUuid(u128::from(i));
            let seed = (self.stores == Stores::Real).then(|| self.rng.next_u64());
            let store = SimStore::new(seed, i, uuid, units);
            let boot = BootId(u128::from(self.id()));
            let replica = Replica::new(self.now, boot, store.durable(i, uuid));
            self.hosts.insert(
                i,
                Host { up: true, boot, store, units, image: None, put_back: false, uuid, replica, coordinator: None },
            );
        }
    }

    /// `HOLDFAST_SIM_TRACE=1` tells what happens, to see why a seed fails.
    pub(super) fn trace(&self, what: impl FnOnce() -> String) {
        if self.tracing {
            eprintln!("{:>9} {}", self.now.0, what().chars().take(400).collect::<String>());
        }
    }

    pub(super) fn linked(&self, a: u64, b: u64) -> bool {
        a == b || !self.cut.contains(&(a, b))
    }

    fn send(&mut self, net: Net) {
        let faulty = !self.healing;
        let fate = self.rng.below(100);
        let lost = faulty && fate < 2 * self.weights[0] && !matches!(net, Net::Record { .. });
        if lost {
            return;
        }
        let delay = if faulty && self.rng.one_in(10) { self.rng.below(self.slow) } else { self.rng.below(2_000) };
        let at = self.now.plus(50 + delay);
        if faulty
            && fate >= 100 - self.weights[1]
            && let Some(copy) = net.copy()
        {
            let later = self.now.plus(50 + self.rng.below(900_000));
            self.net.push((later, copy));
        }
        self.net.push((at, net));
    }

    pub(super) fn random_step(&mut self) -> Result<(), String> {
        self.outcome.steps += 1;
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

    /// Delivers one message that is due; reordering comes from their times and this choice.
    pub(super) fn deliver(&mut self) -> Result<(), String> {
        let due: Vec<usize> =
            self.net.iter().enumerate().filter(|(_, (at, _))| *at <= self.now).map(|(i, _)| i).collect();
        if due.is_empty() {
            return self.tick(500);
        }
        let i = due[self.rng.below(due.len() as u64) as usize];
        let (_, net) = self.net.swap_remove(i);
        self.trace(|| match &net {
            Net::ToReplica { from, to, env, msg } => {
                format!("{from}>r{to} term {} req {} {msg:?}", env.term.0, env.req)
            }
            Net::ToCoordinator { from, to, env, msg } => format!("r{from}>{to} req {} {msg:?}", env.req),
            other => format!("{other:?}"),
        });
        match net {
            Net::ToReplica { from, to, env, msg } => {
                if self.linked(from, to) && self.hosts[&to].up {
                    self.replica_step(to, re::Input::Message { link: from, env, msg });
                }
            }
            Net::ToCoordinator { from, to, env, msg } => {
                if self.linked(from, to) {
                    let fenced = matches!(msg, Msg::Nack(Nack::StaleTerm { .. })) && env.boot == self.hosts[&from].boot;
                    let theirs = self.is_session(to, env.session);
                    self.coordinator_step(to, co::Input::Message { rid: Rid(from), env, msg })?;
                    let phase = self.hosts[&to].coordinator.as_ref().map(|a| a.c.status());
                    if fenced && theirs && phase.is_some_and(|s| s.phase != Phase::Fenced) {
                        return Err(format!("node {to} was told that its term is over and goes on"));
                    }
                }
            }
            Net::Proposal { from, session, cmd } => {
                let (drop, add) = (matches!(cmd, Command::Drop { .. }), matches!(cmd, Command::Add { .. }));
                let scrub = if let Command::Scrubbed { report, .. } = &cmd { Some(*report) } else { None };
                let over = self.record().session != Some(session);
                let outcome = match self.apply(cmd) {
                    Ok(_) if over => return Err("a change was taken from an attachment that is over".into()),
                    Ok(_) => {
                        self.outcome.drops += u64::from(drop);
                        self.outcome.joins += u64::from(add);
                        self.outcome.scrubs += u64::from(scrub.is_some());
                        self.outcome.healed += scrub.map_or(0, |r| r.repaired);
                        co::Proposed::Done
                    }
                    Err(Refusal::StaleTerm { .. } | Refusal::NotAttached) => co::Proposed::Stale,
                    Err(_) => co::Proposed::Retry,
                };
                self.send(Net::Answer { to: from, session, outcome });
                self.announce();
            }
            Net::Answer { to, session, outcome } => {
                if self.is_session(to, session) {
                    self.coordinator_step(to, co::Input::Proposed(outcome))?;
                }
            }
            Net::Record { to, session } => {
                if self.is_session(to, session) {
                    let record = self.record();
                    let over = record.session != Some(session);
                    self.coordinator_step(to, co::Input::Record(record))?;
                    let phase = self.hosts[&to].coordinator.as_ref().map(|a| a.c.status().phase);
                    if over && phase != Some(Phase::Fenced) {
                        return Err(format!("node {to} knows that its attachment is over and goes on"));
                    }
                }
            }
        }
        Ok(())
    }

    fn is_session(&self, node: u64, session: SessionId) -> bool {
        self.hosts[&node].coordinator.as_ref().is_some_and(|a| a.session == session)
    }

    pub(super) fn record(&self) -> co::Record {
        let v = &self.state.volumes[&VOL];
        let in_sync = v.shards[0].replicas.values().filter(|r| r.in_sync());
        let out = v.shards[0].replicas.values().filter_map(|r| {
            let (base, sync_id) = match r.state {
                ReplicaState::InSync => return None,
                ReplicaState::Out { base } => (base, None),
                ReplicaState::Syncing { base, sync_id } => (base, Some(sync_id)),
            };
            Some((r.rid, co::OutInfo { node: r.node, store_uuid: r.store_uuid, base, sync_id }))
        });
        co::Record {
            activated: v.served_term(0),
            term: v.term,
            epoch: v.epoch,
            session: v.coordinator.as_ref().map(|a| a.session),
            lineage: v.lineage,
            in_sync: in_sync
                .map(|r| (r.rid, co::MemberInfo { node: r.node, store_uuid: r.store_uuid.unwrap() }))
                .collect(),
            out: out.collect(),
            leaving: v.shards[0].replicas.values().filter(|r| r.leaving).map(|r| r.rid).collect(),
            scrub: v.scrub.as_ref().map(|s| s.id),
        }
    }

    /// Every coordinator will see the newest record, sooner or later.
    pub(super) fn announce(&mut self) {
        let to: Vec<_> = self.hosts.iter().filter_map(|(n, h)| Some((*n, h.coordinator.as_ref()?.session))).collect();
        for (to, session) in to {
            // One cut off from Raft learns nothing; 0 stands for Raft.
            if !self.cut.contains(&(to, 0)) {
                self.send(Net::Record { to, session });
            }
        }
    }

    fn replica_step(&mut self, node: u64, input: re::Input) {
        let now = self.now;
        let h = self.hosts.get_mut(&node).unwrap();
        let mut out = Vec::new();
        h.replica.set_credit(h.store.credit());
        h.replica.step(now, input, &mut out);
        let mut sends = Vec::new();
        let renew = out.contains(&re::Output::Renew);
        for o in out {
            match o {
                re::Output::Renew => {}
                re::Output::Store { tag, op } => h.store.submit(tag, op),
                re::Output::Send { link, env, msg } => {
                    sends.push(Net::ToCoordinator { from: node, to: link, env, msg })
                }
            }
        }
        sends.into_iter().for_each(|s| self.send(s));
        if renew {
            self.renew(node);
        }
    }

    /// The storage that was put back becomes another one; its replica begins anew.
    fn renew(&mut self, node: u64) {
        let uuid = StoreUuid(u128::from(self.id()) << 32);
        self.trace(|| format!("RENEWED {node}"));
        let (now, h) = (self.now, self.hosts.get_mut(&node).unwrap());
        if h.store.renew(uuid).is_err() {
            return; // The disk has failed; it will be noticed again.
        }
        h.uuid = uuid;
        h.put_back = false;
        h.replica = Replica::new(now, h.boot, h.store.durable(node, uuid));
        self.outcome.renewals += 1;
    }

    pub(super) fn store_step(&mut self) -> Result<(), String> {
        let node = 1 + self.rng.below(NODES);
        let h = self.hosts.get_mut(&node).unwrap();
        if h.up
            && let Some((tag, answer)) = h.store.complete()
        {
            let (max_ver, credit, position) = (h.store.max_ver(), h.store.credit(), h.store.position());
            self.replica_step(node, re::Input::Store { tag, answer, credit, max_ver, position });
        }
        Ok(())
    }

    pub(super) fn coordinator_step(&mut self, node: u64, input: co::Input) -> Result<(), String> {
        let now = self.now;
        let Some(a) = self.hosts.get_mut(&node).unwrap().coordinator.as_mut() else { return Ok(()) };
        let mut out = std::mem::take(&mut a.out);
        a.c.step(now, input, &mut out);
        a.c.check()?;
        self.outputs(node, out)
    }

    fn outputs(&mut self, node: u64, out: Vec<co::Output>) -> Result<(), String> {
        for o in out {
            match o {
                co::Output::Send { rid, env, msg } => self.send(Net::ToReplica { from: node, to: rid.0, env, msg }),
                co::Output::Propose { epoch, term, change } => {
                    let session = self.hosts[&node].coordinator.as_ref().unwrap().session;
                    let (vol, shard) = (VOL, 0);
                    let cmd = match change {
                        co::Change::Drop { rids, base } => Command::Drop { vol, shard, epoch, term, rids, base },
                        co::Change::SyncStart { rid, sync_id } => {
                            Command::SyncStart { vol, shard, epoch, term, rid, sync_id }
                        }
                        co::Change::Add { rid, store_uuid } => {
                            Command::Add { vol, shard, epoch, term, rid, store_uuid }
                        }
                        co::Change::Scrubbed { id, report } => {
                            // In-sync replicas differ in nothing but rot, whatever happened before.
                            if report.behind + report.diverged > 0 {
                                return Err(format!("a scrub found what must not be: {report:?}"));
                            }
                            Command::Scrubbed { vol, shard, epoch, term, id, report }
                        }
                    };
                    if !self.cut.contains(&(node, 0)) {
                        self.send(Net::Proposal { from: node, session, cmd });
                    }
                }
                co::Output::Reply { id, result } => self.answered(node, id, result)?,
                co::Output::Fenced => {
                    let a = self.hosts.get_mut(&node).unwrap().coordinator.as_ref();
                    let s = a.map(|a| a.c.status());
                    self.outcome.reconciled += s.map_or(0, |s| s.reconciled_blocks);
                    self.outcome.synced += s.map_or(0, |s| s.stats.synced_blocks);
                }
                co::Output::WantSync => self.coordinator_step(node, co::Input::SyncGo)?,
                co::Output::Serving => {
                    let term = self.hosts[&node].coordinator.as_ref().unwrap().c.status().term;
                    if !self.cut.contains(&(node, 0)) && !self.rng.one_in(4) {
                        // Status only: it may be lost.
                        let _ = self.apply(Command::Activated { vol: VOL, term });
                    }
                }
                co::Output::Drained | co::Output::SyncOver => {}
            }
        }
        Ok(())
    }

    pub(super) fn tick(&mut self, us: u64) -> Result<(), String> {
        let us = 1 + self.rng.below(us);
        self.now = self.now.plus(us);
        for node in 1..=NODES {
            let due = self.hosts[&node]
                .coordinator
                .as_ref()
                .is_some_and(|a| a.c.next_deadline().is_some_and(|d| d <= self.now));
            if due && self.hosts[&node].up {
                self.coordinator_step(node, co::Input::Tick)?;
            }
        }
        Ok(())
    }

    pub(super) fn attach(&mut self, at: Option<u64>) -> Result<(), String> {
        let node = at.unwrap_or_else(|| 1 + self.rng.below(NODES));
        if !self.hosts[&node].up || self.cut.contains(&(node, 0)) {
            return Ok(());
        }
        let v = &self.state.volumes[&VOL];
        let session = SessionId(u128::from(self.next + 1_000_000));
        let cmd =
            Command::Attach { vol: VOL, epoch: v.epoch, node: NodeId(node), session, steal: true, maintenance: false };
        self.apply(cmd).map_err(|e| e.to_string())?;
        self.outcome.attaches += 1;
        self.id();
        let cfg = co::Config {
            cluster: ClusterId(1),
            shard: SHARD,
            session,
            node: NodeId(node),
            blocks: BLOCKS,
            min_replicas: 1,
            replica_timeout: 1_000_000,
            read_from: if self.rng.one_in(2) { ReadFrom::Spread } else { ReadFrom::Local },
            rebuild_impact: 20,
            nearest: vec![Rid(node)],
        };
        let mut out = Vec::new();
        let c = Coordinator::new(self.now, cfg, self.record(), &mut out);
        // The node's earlier attachment ends here; its open writes have unknown outcomes.
        self.hosts.get_mut(&node).unwrap().coordinator =
            Some(Attached { c, session, ops: BTreeMap::new(), out: Vec::new() });
        self.outputs(node, out)?;
        self.links(node)?;
        self.announce();
        Ok(())
    }

    /// Tells a coordinator which links are up.
    pub(super) fn links(&mut self, node: u64) -> Result<(), String> {
        for peer in 1..=NODES {
            let up = self.hosts[&peer].up && self.linked(node, peer) && self.linked(peer, node);
            let boot = self.hosts[&peer].boot;
            let rid = Rid(peer);
            let input = if up { co::Input::PeerUp { rid, boot } } else { co::Input::PeerDown { rid } };
            self.coordinator_step(node, input)?;
        }
        Ok(())
    }

    pub(super) fn all_links(&mut self) -> Result<(), String> {
        (1..=NODES).try_for_each(|n| self.links(n))
    }
}

impl Net {
    /// Only what the protocol must survive twice is duplicated.
    fn copy(&self) -> Option<Net> {
        match self {
            Net::ToReplica { from, to, env, msg } => {
                Some(Net::ToReplica { from: *from, to: *to, env: *env, msg: msg.clone() })
            }
            Net::ToCoordinator { from, to, env, msg } => {
                Some(Net::ToCoordinator { from: *from, to: *to, env: *env, msg: msg.clone() })
            }
            _ => None,
        }
    }
}

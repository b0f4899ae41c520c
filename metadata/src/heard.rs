//! The leader's soft state: when each node was heard, and what it told. It decides when to act, never what is true.
//! All of it is of one term of this leader; what an earlier leader heard is forgotten.
//!
//! It takes only what the record knows, and a bounded number of it: a node that tells of strange disks, replicas or
//! volumes is not believed in that. It proposes nothing.

use crate::telling::MOST;
use hf_meta_core::command::FIRST_VERSION;
use hf_meta_core::limits::{Going, room};
use hf_meta_core::plan::Liveness;
use hf_meta_core::record::DiskFault;
use hf_meta_core::soft::{DiskTold, Group, NodeSoft, NodeTold, Soft, SyncTold, VolumeTold};
use hf_meta_core::{ClusterState, Command, Refusal};
use hf_meta_proto::pb;
use hf_policy::{DiskId, NodeId, Rid, SessionId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// After this silence a node is taken for dead (protocol §10).
pub const T_DEAD: Duration = Duration::from_secs(5);
/// A coordinator that was allowed a sync tells of it within this time, or does not do it.
const TOLD: Duration = Duration::from_secs(3);
/// For this long a disk that refused a replica is given no other one.
const REFUSES: Duration = Duration::from_secs(60);

/// Replicas that a node cannot make and that one beat tells of, at most.
pub const MOST_REFUSED: usize = 256;
/// Copies and scrubs that one beat tells of, at most.
const MOST_SYNCS: usize = 4_096;
/// Replicas, and volumes, that are kept of one node, at most.
const MOST_KEPT: usize = 1 << 17;
/// Bytes of a text that a node tells, at most; the rest is cut off.
const MOST_TEXT: usize = 512;

/// The wall clock in Unix milliseconds; 0 before 1970.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// What became of the changes that a beat told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// Their number, if they were taken; otherwise 0.
    pub seq: u64,
    /// They build on what is not known here: everything has to be told anew.
    pub anew: bool,
}

/// A node, as it was heard.
struct Ear {
    heard: Instant,
    told: Arc<NodeTold>,
    /// The process that told of replicas and volumes, and the number of its last beat that was taken.
    upto: Option<(u64, u64)>,
}

/// What the leader has heard.
#[derive(Default)]
pub struct Heard {
    nodes: BTreeMap<NodeId, Ear>,
    /// Nodes that were on record when this node began to lead and that were not heard since.
    unheard: BTreeSet<NodeId>,
    /// Disks that refused a replica, and when.
    refusing: BTreeMap<DiskId, Instant>,
    /// Syncs that were allowed lately; their coordinators may not have told of them yet.
    allowed: BTreeMap<Going, Instant>,
    /// The Raft term in which this node leads and hears, and since when.
    term: u64,
    since: Option<Instant>,
}

impl Heard {
    /// To be called first by the leader. A new leader has heard nobody yet, so it gives every node the time
    /// of [`T_DEAD`] before it takes the node for dead; without that, volumes would be taken from nodes that
    /// live.
    pub fn lead(&mut self, term: u64, all: impl Iterator<Item = NodeId>) {
        if self.term != term {
            *self = Heard { term, since: Some(Instant::now()), unheard: all.collect(), ..Heard::default() };
        }
    }

    fn leading(&self) -> Duration {
        self.since.map_or(T_DEAD, |t| t.elapsed())
    }

    /// Which nodes answer now, or are given time to.
    fn up(&self) -> BTreeSet<NodeId> {
        let heard = self.nodes.iter().filter(|(_, n)| n.heard.elapsed() < T_DEAD).map(|(id, _)| *id);
        let waited_for = self.unheard.iter().filter(|_| self.leading() < T_DEAD).copied();
        heard.chain(waited_for).collect()
    }

    /// All that was heard of the nodes on record. It costs their number and that of their disks, not that of replicas.
    pub fn soft(&self, group: Group, state: &ClusterState) -> Soft {
        let on_record = |id: &NodeId| state.nodes.contains_key(id);
        let heard = |n: &Ear| NodeSoft { heard_ms: n.heard.elapsed().as_millis() as u64, told: n.told.clone() };
        Soft {
            wall_ms: wall_ms(),
            leading_ms: self.leading().as_millis() as u64,
            group,
            nodes: self.nodes.iter().filter(|(id, _)| on_record(id)).map(|(id, n)| (*id, heard(n))).collect(),
            up: self.up().into_iter().filter(on_record).collect(),
            unheard: self.unheard.iter().copied().filter(on_record).collect(),
            refusing: self.refusing.iter().filter(|(_, t)| t.elapsed() < REFUSES).map(|(d, _)| *d).collect(),
        }
    }

    /// Which nodes answer now, and what planning looks at beside that.
    pub fn liveness(&self, state: &ClusterState) -> Liveness {
        self.soft(Group::default(), state).liveness()
    }

    /// Takes a node's heartbeat. `now_ms`: the wall clock here. One that was overtaken by a later one of the same
    /// process is no sign of life; one of a node that was never on record is ignored.
    pub fn take(&mut self, state: &ClusterState, beat: pb::HeartbeatRequest, now_ms: u64) -> Took {
        let id = NodeId(beat.node);
        if !state.nodes.contains_key(&id) && !state.removed_members.contains_key(&id) {
            return Took::default();
        }
        let changes = beat.changes.unwrap_or_default();
        let known = self.nodes.get(&id).map(|n| n.upto);
        if known.flatten().is_some_and(|(boot, seq)| boot == changes.boot && seq >= changes.seq && changes.seq > 0) {
            return Took::default();
        }
        let (mut told, mut upto) = self.nodes.remove(&id).map_or_else(Default::default, |b| (b.told, b.upto));
        let took = verdict(upto, &changes, state);
        let t = Arc::make_mut(&mut told);
        if took.seq > 0 {
            upto = Some((changes.boot, changes.seq));
            apply(t, changes, state);
        }
        t.commands = beat.commands.max(FIRST_VERSION);
        t.clock_ahead_ms = if beat.wall_ms == 0 { 0 } else { beat.wall_ms as i64 - now_ms as i64 };
        t.data_dir_full = beat.data_dir_full;
        t.insecure = beat.insecure;
        let own = |d: &pb::DiskUse| state.disks.get(&DiskId(d.disk)).is_some_and(|r| r.node == id);
        t.disks = beat.disks.into_iter().filter(own).map(|d| (DiskId(d.disk), disk(d))).collect();
        t.syncs = beat.syncs.into_iter().take(MOST_SYNCS).map(sync).collect();
        t.refused = beat.refused.into_iter().take(MOST_REFUSED).map(Rid).collect();
        self.refuse(state, id, &told.refused);
        self.nodes.insert(id, Ear { heard: Instant::now(), told, upto });
        self.unheard.remove(&id);
        took
    }

    /// Notes which disks cannot take a replica.
    fn refuse(&mut self, state: &ClusterState, node: NodeId, rids: &[Rid]) {
        let disk = |rid: &Rid| {
            let v = state.volume_of_replica(*rid)?;
            v.replicas().find(|(_, r)| r.rid == *rid && r.node == node).map(|(_, r)| (r.disk, Instant::now()))
        };
        self.refusing.extend(rids.iter().filter_map(disk));
    }

    /// May the cluster's version be raised? Only while every node that applies the log, or follows the
    /// record, has told this leader that it knows the new one: there is no way back.
    fn all_speak(&self, state: &ClusterState, to: u32) -> Result<(), Refusal> {
        for n in state.nodes.values().chain(state.removed_members.values()) {
            let why = match self.nodes.get(&n.id).map(|e| e.told.commands) {
                Some(known) if known >= to => continue,
                Some(known) => format!("it runs release {}, which knows versions up to {known}", n.version),
                None => "it has not told yet which versions it knows".into(),
            };
            return Err(Refusal::State(format!(
                "the version cannot be raised to {to} because of node {}: {why}",
                n.name
            )));
        }
        Ok(())
    }

    /// May this be proposed now? What fills replicas may have to wait, and a raise of the version needs every node.
    pub fn admit(&mut self, state: &ClusterState, cmd: &Command) -> Result<(), Refusal> {
        if let Command::RaiseVersion { to } = cmd {
            return self.all_speak(state, *to);
        }
        let Some(want) = Going::of(cmd) else { return Ok(()) };
        self.allowed.retain(|_, t| t.elapsed() < TOLD);
        let up = self.up();
        let syncs = self.nodes.iter().filter(|(id, _)| up.contains(id)).flat_map(|(_, n)| &n.told.syncs);
        let told = syncs.filter_map(|s| Some(Going { vol: s.vol, shard: s.shard, rid: s.rid? }));
        let mut going: Vec<Going> = told.filter(|g| g.is_recorded(state)).chain(self.allowed.keys().copied()).collect();
        going.sort();
        going.dedup();
        room(state, &going, &up, want)?;
        self.allowed.insert(want, Instant::now());
        Ok(())
    }
}

/// Can these changes be taken, after those up to `upto` (process, number)?
fn verdict(upto: Option<(u64, u64)>, c: &pb::Changes, state: &ClusterState) -> Took {
    // The sender's record may be newer. What it tells of may be unknown here for a moment, and would be lost.
    if c.seq == 0 || c.revision > state.revision {
        return Took::default();
    }
    if c.anew || upto.is_some_and(|(boot, _)| boot == c.boot) {
        Took { seq: c.seq, anew: false }
    } else {
        Took { seq: 0, anew: true }
    }
}

fn apply(t: &mut NodeTold, c: pb::Changes, state: &ClusterState) {
    if c.anew {
        (t.replicas, t.volumes) = Default::default();
    }
    if !c.rids.is_empty() || !c.rids_gone.is_empty() {
        let replicas = Arc::make_mut(&mut t.replicas);
        for rid in c.rids_gone {
            replicas.remove(&Rid(rid));
        }
        for (rid, bytes) in c.rids.into_iter().map(Rid).zip(c.bytes).take(MOST) {
            if state.volume_of_replica(rid).is_some() && (replicas.len() < MOST_KEPT || replicas.contains_key(&rid)) {
                replicas.insert(rid, bytes);
            }
        }
    }
    if !c.volumes.is_empty() || !c.volumes_gone.is_empty() {
        let volumes = Arc::make_mut(&mut t.volumes);
        for vol in c.volumes_gone {
            volumes.remove(&VolumeId(vol));
        }
        for v in c.volumes.into_iter().take(MOST) {
            let Ok(session) = <[u8; 16]>::try_from(&v.session[..]) else { continue };
            let (vol, session) = (VolumeId(v.vol), SessionId(u128::from_be_bytes(session)));
            if state.volumes.contains_key(&vol) && (volumes.len() < MOST_KEPT || volumes.contains_key(&vol)) {
                let (serving, connections) = (v.serving, v.connections);
                volumes.insert(vol, VolumeTold { session, serving, waits_for: cut(v.waits_for), connections });
            }
        }
    }
}

fn disk(d: pb::DiskUse) -> DiskTold {
    // A fault that only a newer release knows is still a fault.
    let fault = |name: String| serde_json::from_value(name.into()).unwrap_or(DiskFault::Io);
    DiskTold {
        used: d.used,
        entries: d.entries,
        in_service: !d.out_of_service,
        fault: (!d.fault.is_empty()).then(|| (fault(d.fault), cut(d.fault_text))),
        backend: cut(d.backend),
    }
}

fn sync(s: pb::SyncProgress) -> SyncTold {
    SyncTold {
        vol: VolumeId(s.vol),
        shard: s.shard,
        rid: (s.rid != 0).then_some(Rid(s.rid)),
        stage: cut(s.stage),
        chunks: s.chunks,
        chunks_done: s.chunks_done,
        copied_bytes: s.copied_bytes,
        bytes_per_second: s.bytes_per_second,
    }
}

fn cut(mut text: String) -> String {
    let end = (0..=MOST_TEXT.min(text.len())).rev().find(|i| text.is_char_boundary(*i));
    text.truncate(end.unwrap_or(0));
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hf_meta_core::record::{ReplicaRecord, ReplicaState, VolumeRecord};
    use hf_policy::{Epoch, Lineage};

    /// A record of the nodes 1, 2 and 3.
    fn three() -> ClusterState {
        let mut s = ClusterState::default();
        for id in 1..=3u64 {
            let text = serde_json::json!({
                "id": id, "name": format!("n{id}"), "uuid": format!("{id:032x}"), "version": "9",
                "addr": {"api": "", "data": "", "nbd": ""}, "rev": 1,
            });
            s.nodes.insert(serde_json::from_value::<hf_meta_core::record::NodeRecord>(text).unwrap());
        }
        s
    }

    fn beat(h: &mut Heard, s: &ClusterState, node: u64, syncs: Vec<pb::SyncProgress>, commands: u32) {
        h.take(s, pb::HeartbeatRequest { node, syncs, commands, ..Default::default() }, 0);
    }

    /// What a node told counts until it tells something else; what was allowed counts until it is told; other
    /// commands always pass.
    #[test]
    fn the_leader_counts_what_was_told_and_what_it_allowed() {
        let mut s = three();
        let disk = |rid: u64| if rid < 10 { DiskId(1) } else { DiskId(2) };
        let replica = |rid: u64, state| ReplicaRecord::new(Rid(rid), disk(rid), NodeId(1), state, Epoch(1));
        for vol in 1..=6u64 {
            let base = hf_policy::Ver::ZERO;
            let state = if vol <= 2 { ReplicaState::Syncing { base, sync_id: 1 } } else { ReplicaState::Out { base } };
            let both = [replica(vol, state), replica(vol + 10, ReplicaState::InSync)];
            let mut v = volume(vol);
            v.shards[0].replicas = both.into_iter().map(|r| (r.rid, r)).collect();
            s.volumes.insert(v);
        }
        let start = |vol: u64| Command::SyncStart {
            vol: VolumeId(vol),
            shard: 0,
            epoch: Epoch(1),
            term: hf_policy::Term(1),
            rid: Rid(vol),
            sync_id: 9,
        };
        let told =
            |vol: u64| pb::SyncProgress { vol, shard: 0, rid: vol, stage: "copying".into(), ..Default::default() };
        let mut h = Heard::default();
        beat(&mut h, &s, 1, Vec::new(), 0);
        beat(&mut h, &s, 2, vec![told(1), told(2)], 0);
        assert!(matches!(h.admit(&s, &start(3)), Err(Refusal::Busy(_))));
        assert_eq!(h.admit(&s, &start(2)), Ok(()), "it goes on already");
        assert_eq!(h.admit(&s, &Command::PauseRebuild { paused: true }), Ok(()));
        // It tells that both are over: two may begin, before anybody tells of them, and no third.
        h.allowed.clear();
        beat(&mut h, &s, 2, Vec::new(), 0);
        assert_eq!((h.admit(&s, &start(3)), h.admit(&s, &start(4))), (Ok(()), Ok(())));
        assert!(h.admit(&s, &start(5)).is_err());
        // Nobody tells of them for long: they do not go on.
        h.allowed.values_mut().for_each(|t| *t -= TOLD);
        assert_eq!(h.admit(&s, &start(5)), Ok(()));
    }

    #[test]
    fn the_version_is_raised_only_when_every_node_knows_the_new_one() {
        let s = three();
        let (mut h, raise) = (Heard::default(), Command::RaiseVersion { to: 3 });
        let refused = |h: &mut Heard| h.admit(&s, &raise).unwrap_err().to_string();
        beat(&mut h, &s, 1, Vec::new(), 3);
        beat(&mut h, &s, 2, Vec::new(), 0);
        assert!(refused(&mut h).contains("node n2: it runs release 9, which knows versions up to 2"));
        beat(&mut h, &s, 2, Vec::new(), 3);
        assert!(refused(&mut h).contains("node n3: it has not told yet"));
        beat(&mut h, &s, 3, Vec::new(), 4);
        assert_eq!(h.admit(&s, &raise), Ok(()));
        // Another leader knows nothing yet.
        h.lead(5, s.nodes.keys().copied());
        assert!(refused(&mut h).contains("has not told yet"));
    }

    fn volume(id: u64) -> VolumeRecord {
        let text = serde_json::json!({
            "id": id, "name": format!("v{id}"), "attrs": {"size": "4096", "replicas": "2"}, "size": 4096, "lineage": Lineage(1),
            "term": 1, "epoch": 1, "coordinator": null, "shards": [{"replicas": {}}], "snaps": [], "activated": 1,
            "created_ms": 0, "rev": 1,
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_new_leader_takes_nobody_for_dead() {
        let all = || [NodeId(1), NodeId(2), NodeId(3)].into_iter();
        let (mut h, s) = (Heard::default(), three());
        h.lead(4, all());
        assert_eq!(h.liveness(&s).up.len(), 3, "nobody was heard yet, and nobody is dead");
        h.unheard.clear();
        h.lead(4, all());
        assert!(h.liveness(&s).up.is_empty(), "within a term what was heard counts");
        h.lead(9, all());
        assert_eq!(h.liveness(&s).up.len(), 3, "it leads again: what it knew is old");
    }
}

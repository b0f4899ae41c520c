//! Applies commands: request-id deduplication, dispatch, revision.

mod attach;
mod membership;
mod node;
mod together;
mod unmade;
mod upkeep;
mod volume;

use crate::command::{Command, Envelope};
use crate::mutant::{self, Mutant};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::record::*;
use hf_policy::{Epoch, Term, VolumeId};

impl ClusterState {
    /// Applies one committed command. Deterministic: same state and envelope, same result on every node.
    pub fn apply(&mut self, env: &Envelope) -> Outcome {
        if let Some(known) = self.requests.get(&env.request) {
            return known.clone();
        }
        let outcome = if !self.cluster.is_some() && !matches!(env.cmd, Command::Init { .. }) {
            Err(Refusal::Invalid("the cluster is not initialised; run holdfast cluster init".into()))
        } else {
            self.revision += 1;
            let done = self.dispatch(env);
            if done.is_err() {
                self.revision -= 1;
            }
            done
        };
        self.remember(env, &outcome);
        outcome
    }

    /// Coordinators of many shards are refused in great numbers when a node goes: that must not push out what was done.
    fn is_kept(env: &Envelope, outcome: &Outcome) -> bool {
        let again = outcome.as_ref().is_err_and(Refusal::is_final);
        env.request.is_some() && (env.v < 2 || !again || mutant::is(Mutant::KeepsRefusals))
    }

    fn remember(&mut self, env: &Envelope, outcome: &Outcome) {
        if !Self::is_kept(env, outcome) {
            return;
        }
        self.requests.insert(env.request, outcome.clone());
        self.request_order.push_back(env.request);
        while self.request_order.len() > REQUESTS_KEPT {
            if let Some(old) = self.request_order.pop_front() {
                self.requests.remove(&old);
            }
        }
    }

    fn dispatch(&mut self, env: &Envelope) -> Outcome {
        match &env.cmd {
            Command::Init { cluster, name } => self.init(*cluster, name),
            Command::PutNode { .. } => self.put_node(env),
            Command::PutDisk { .. } => self.put_disk(env),
            Command::SetDiskState { disk, state } => self.set_disk_state(env, *disk, state),
            Command::CreateVolume { .. } => self.create_volume(env),
            Command::DeleteVolume { vol, epoch } => self.delete_volume(env.at_ms, *vol, *epoch),
            Command::SetPolicy { .. } => self.set_policy(env),
            Command::ReplicaMade { vol, rid, store_uuid } => self.replica_made(env.v, *vol, *rid, *store_uuid),
            Command::ReplicaGone { rid } => self.replica_gone(*rid),
            Command::Attach { .. } => self.attach(env),
            Command::Detach { vol, session } => self.detach(env.at_ms, *vol, *session),
            Command::Activated { vol, term } => self.activated(*vol, *term),
            Command::Drop { .. } => self.drop_members(env),
            Command::Together { .. } => self.together(env),
            Command::ReplaceUnmade { vol, shard, epoch, rid, disk } => {
                self.replace_unmade(env.at_ms, *vol, *shard, *epoch, *rid, *disk)
            }
            Command::SyncStart { .. } => self.sync_start(env),
            Command::Add { .. } => self.add_member(env),
            Command::AddReplica { vol, shard, epoch, disk } => self.add_replica(*vol, *shard, *epoch, *disk),
            Command::Leave { vol, shard, epoch, rid } => self.leave(*vol, *shard, *epoch, *rid),
            Command::SetNodeMode { node, mode } => self.set_node_mode(env.at_ms, *node, *mode),
            Command::RemoveNode { node } => self.remove_node(env.at_ms, *node),
            Command::SetDiskDraining { disk, draining } => self.set_disk_draining(env.at_ms, *disk, *draining),
            Command::PauseJob { of, paused } => self.pause_job(env.at_ms, *of, *paused),
            Command::RemoveDisk { disk } => self.remove_disk(env.at_ms, *disk),
            Command::SetVoters { voters } => {
                if ![1, 3, 5].contains(voters) {
                    return Err(Refusal::Invalid(format!("{voters} voters: it is 1, 3 or 5")));
                }
                self.voters = *voters;
                Ok(Reply::Done)
            }
            Command::Move { vol, shard, epoch, rid, moving } => self.move_replica(*vol, *shard, *epoch, *rid, *moving),
            Command::Rebalance { on } => self.rebalance(env.at_ms, *on),
            Command::Scrub { vol, epoch, on } => self.scrub(env.at_ms, *vol, *epoch, *on),
            Command::Scrubbed { .. } => self.scrubbed(env),
            Command::PauseRebuild { paused } => {
                self.rebuild_paused = *paused;
                let word = if *paused { "paused" } else { "resumed" };
                self.event(env.at_ms, "rebuild", "cluster", format!("making and moving of replicas {word}"));
                Ok(Reply::Done)
            }
            Command::RemoveReplica { vol, shard, epoch, rid } => self.remove_replica(*vol, *shard, *epoch, *rid),
            Command::ForceInsync { .. } => self.force_insync(env),
            Command::SnapAdd { .. } => self.snap_add(env),
            Command::SnapDel { vol, epoch, id } => self.snap_del(*vol, *epoch, *id),
        }
    }

    /// The volume, if the caller's epoch is the record's.
    fn volume_at(&self, vol: VolumeId, epoch: Epoch) -> Result<&VolumeRecord, Refusal> {
        let v = self.volume(vol)?;
        if v.epoch != epoch {
            return Err(Refusal::EpochMismatch { now: v.epoch.0 });
        }
        Ok(v)
    }

    fn volume(&self, vol: VolumeId) -> Result<&VolumeRecord, Refusal> {
        let v = self.volumes.get(&vol).map(|v| &**v);
        v.ok_or_else(|| Refusal::NotFound { kind: "volume".into(), name: format!("#{vol}") })
    }

    /// A coordinator's command: its term must be the record's, and someone must be attached. The term is asked first, so
    /// that a fenced coordinator learns it is fenced.
    fn volume_of(&self, vol: VolumeId, epoch: Epoch, term: Term) -> Result<&VolumeRecord, Refusal> {
        let v = self.volume(vol)?;
        if v.term != term {
            return Err(Refusal::StaleTerm { now: v.term.0 });
        }
        if v.coordinator.is_none() {
            return Err(Refusal::NotAttached);
        }
        self.volume_at(vol, epoch)
    }

    /// Writes a changed volume back: the one place where an epoch is raised.
    fn put_volume(&mut self, mut v: VolumeRecord) {
        v.epoch = v.epoch.next();
        v.rev = self.revision;
        self.volumes.insert(v);
    }

    fn event(&mut self, at_ms: u64, kind: &str, subject: impl Into<String>, text: impl Into<String>) {
        let event = Event { rev: self.revision, at_ms, kind: kind.into(), subject: subject.into(), text: text.into() };
        self.events.push_back(event);
        while self.events.len() > EVENTS_KEPT {
            self.events.pop_front();
        }
    }

    /// Something is gone as of this revision.
    pub(crate) fn removed(&mut self, what: Removed) {
        self.removals.push_back((self.revision, what));
        while self.removals.len() > REMOVALS_KEPT {
            if let Some(oldest) = self.removals.pop_front() {
                self.removals_floor = oldest.0;
            }
        }
    }

    /// Asserts what must hold after every command; for tests and the simulator.
    pub fn check(&self) -> Result<(), String> {
        for v in self.volumes.values() {
            for (i, s) in v.shards.iter().enumerate() {
                if s.in_sync().is_empty() {
                    return Err(format!("volume {} shard {i}: the in-sync set is empty", v.name));
                }
                if s.replicas.values().any(|r| !self.disks.contains_key(&r.disk) || r.rid.0 >= self.next.rid) {
                    return Err(format!("volume {} shard {i}: a replica without a disk or number", v.name));
                }
            }
            if v.shards.len() as u64 != v.size.div_ceil(hf_policy::SHARD_BYTES) {
                return Err(format!("volume {}: {} shards for {} bytes", v.name, v.shards.len(), v.size));
            }
        }
        Ok(())
    }
}

//! Applies commands: request-id deduplication, dispatch, revision.

mod absent;
mod attach;
mod check;
mod dropped;
mod found;
mod membership;
mod mute;
mod node;
mod together;
mod unmade;
mod upkeep;
mod volume;

use crate::command::{COMMAND_VERSION, Command, Envelope, Header, Logged};
use crate::mutant::{self, Mutant};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::record::*;
use hf_policy::{Epoch, Term, VolumeId, broken, invariant};

/// A command came to the function of another one: [`ClusterState::apply`] sends each to its own. It changes nothing.
fn misrouted(env: &Envelope) -> Outcome {
    broken!("a command was applied as another one: {:?}", env.cmd);
    Err(Refusal::Invalid("this release applied a command as another one: please report it".into()))
}

impl ClusterState {
    /// Applies one committed entry of the log. Deterministic: same state and entry, same result on every
    /// node, whatever its release.
    pub fn apply_entry(&mut self, entry: &Logged) -> Outcome {
        match entry {
            Logged::Command(env) => self.apply(env),
            Logged::Above(header) => self.above(*header),
        }
    }

    /// Refuses an envelope whose version the cluster does not use. The outcome is not kept; a request that was applied
    /// before gets its stored outcome.
    fn above(&self, header: Header) -> Outcome {
        let refused = format!(
            "the command has version {}, the cluster uses {} until all its nodes are upgraded and its version is raised",
            header.v, self.version
        );
        self.requests.get(&header.request).cloned().unwrap_or(Err(Refusal::Invalid(refused)))
    }

    /// Applies one committed command. Deterministic: same state and envelope, same result on every node.
    pub fn apply(&mut self, env: &Envelope) -> Outcome {
        if env.v > self.version {
            return self.above(Header { v: env.v, request: env.request });
        }
        if let Some(known) = self.requests.get(&env.request) {
            return known.clone();
        }
        let outcome = if !self.cluster.is_some() && !matches!(env.cmd, Command::Init { .. }) {
            Err(Refusal::Invalid("the cluster is not initialised; run holdfast cluster init".into()))
        } else {
            let before = self.revision;
            self.revision += 1;
            let done = self.dispatch(env);
            invariant!(self.revision == before + 1, "a command moved the revision from {before} to {}", self.revision);
            if done.is_err() {
                self.revision = before;
            }
            done
        };
        self.remember(env, &outcome);
        outcome
    }

    /// Is the outcome stored for a repeated request? When a node goes, coordinators of many shards are refused in great
    /// numbers: their refusals must not push out what was done.
    fn is_kept(env: &Envelope, outcome: &Outcome) -> bool {
        let again = outcome.as_ref().is_err_and(Refusal::is_final);
        env.request.is_some() && (env.v < 2 || !again || mutant::is(Mutant::KeepsRefusals))
    }

    fn remember(&mut self, env: &Envelope, outcome: &Outcome) {
        if !Self::is_kept(env, outcome) {
            return; // Lawful: it would only be refused again, or it has no id by which it could be asked for.
        }
        let old = self.requests.insert(env.request, outcome.clone());
        invariant!(old.is_none(), "request {} was applied twice", env.request);
        self.request_order.push_back(env.request);
        while self.request_order.len() > REQUESTS_KEPT {
            if let Some(old) = self.request_order.pop_front() {
                let outcome = self.requests.remove(&old);
                invariant!(outcome.is_some(), "request {old} has an order and no outcome");
            }
        }
        let (outcomes, order) = (self.requests.len(), self.request_order.len());
        invariant!(outcomes == order, "{outcomes} outcomes of {order} requests are kept");
    }

    /// Raises the version by one; raised before, it is done again. A member that does not know the version has stopped
    /// at the entry.
    fn raise_version(&mut self, at_ms: u64, to: u32) -> Outcome {
        if to > self.version + 1 {
            return Err(Refusal::State(format!("the cluster's version is {}: it is raised one by one", self.version)));
        }
        if to <= self.version {
            return Ok(Reply::Done); // Lawful: two operators finished the same upgrade.
        }
        invariant!(to <= COMMAND_VERSION, "version {to} is applied, and {COMMAND_VERSION} is the newest that is known");
        self.version = to;
        self.event(
            at_ms,
            EventKind::ClusterVersion,
            "cluster",
            format!("commands are encoded and applied by version {to}"),
        );
        Ok(Reply::Done)
    }

    fn dispatch(&mut self, env: &Envelope) -> Outcome {
        if env.cmd.since() > env.v {
            let (needs, has) = (env.cmd.since(), env.v);
            return Err(Refusal::Invalid(format!("the command needs envelope version {needs}, this one has {has}")));
        }
        match &env.cmd {
            Command::Init { cluster, name } => self.init(*cluster, name),
            Command::PutNode { .. } => self.put_node(env),
            Command::PutDisk { .. } => self.put_disk(env),
            Command::SetDiskState { .. } => self.set_disk_state(env),
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
            Command::ReplaceUnmade { .. } => self.replace_unmade(env),
            Command::SyncStart { .. } => self.sync_start(env),
            Command::Add { .. } => self.add_member(env),
            Command::AddReplica { .. } => self.add_replica(env),
            Command::Leave { .. } => self.leave(env),
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
                self.event(env.at_ms, EventKind::Rebuild, "cluster", format!("making and moving of replicas {word}"));
                Ok(Reply::Done)
            }
            Command::RemoveReplica { vol, shard, epoch, rid } => self.remove_replica(*vol, *shard, *epoch, *rid),
            Command::ForceInsync { .. } => self.force_insync(env),
            Command::SnapAdd { .. } => self.snap_add(env),
            Command::SnapDel { vol, epoch, id } => self.snap_del(*vol, *epoch, *id),
            Command::RaiseVersion { to } => self.raise_version(env.at_ms, *to),
            Command::RenameVolume { vol, epoch, name } => self.rename_volume(env.at_ms, *vol, *epoch, name),
            Command::Mute { .. } => self.mute(env),
            Command::Unmute { code, subject } => self.unmute(env.at_ms, code, subject),
        }
    }

    /// The volume; refused unless the caller's epoch is the record's.
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

    /// The volume of a coordinator's command: the caller's term must be the record's, and the volume
    /// attached. The term is compared first, so that a fenced coordinator learns that it is fenced.
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
    fn put_volume(&mut self, v: VolumeRecord) {
        let name = v.name.clone();
        self.put_renamed(v, &name);
    }

    /// The same for a volume whose name has changed from `was`.
    fn put_renamed(&mut self, mut v: VolumeRecord, was: &str) {
        v.epoch = v.epoch.next();
        v.rev = self.revision;
        let vol = v.id;
        let (epoch, term, shards, size) = (v.epoch, v.term, v.shards.len(), v.size);
        let Some(old) = self.volumes.insert(v) else {
            broken!("volume {vol} is written back, and was not there");
            return;
        };
        // Epochs stop at the highest number, which nothing reaches.
        invariant!(epoch > old.epoch || epoch == Epoch(u64::MAX), "volume {vol}: its epoch falls to {}", epoch.0);
        invariant!(term >= old.term, "volume {vol}: its term falls from {} to {}", old.term.0, term.0);
        invariant!(shards >= old.shards.len() && size >= old.size, "volume {vol} shrinks");
        invariant!(was == old.name, "volume {vol} is taken for {was}, and was called {}", old.name);
    }

    /// Records that a replica's data is to be deleted by its node. The replica has just left its volume.
    fn bury(&mut self, t: Tombstone) {
        let rid = t.rid;
        let old = self.tombstones.insert(t);
        invariant!(old.is_none(), "replica {rid} was removed twice");
    }

    fn event(&mut self, at_ms: u64, kind: EventKind, subject: impl Into<String>, text: impl Into<String>) {
        let (rev, kind) = (self.revision, kind.as_str().to_string());
        let event = Event { rev, at_ms, kind, subject: subject.into(), text: text.into() };
        self.events.push_back(event);
        while self.events.len() > EVENTS_KEPT {
            self.events.pop_front();
        }
    }

    /// Notes a removal for followers, at the present revision.
    pub(crate) fn removed(&mut self, what: Removed) {
        self.removals.push_back((self.revision, what));
        while self.removals.len() > REMOVALS_KEPT {
            if let Some(oldest) = self.removals.pop_front() {
                self.removals_floor = oldest.0;
            }
        }
    }
}

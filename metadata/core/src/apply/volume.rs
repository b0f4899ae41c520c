//! Volumes: create, delete, policy, grow; replicas made and gone.

use super::misrouted;
use crate::command::{Command, Envelope};
use crate::mutant::{self, Mutant};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::record::*;
use hf_policy::policy::{change_online, valid_name};
use hf_policy::{DiskId, Epoch, NodeId, Policy, Rid, SHARD_BYTES, StoreUuid, Term, VolumeId, invariant};

impl ClusterState {
    /// The node of a disk that is to get a new replica. The disk may have failed since that was decided.
    pub(super) fn node_for_new(&self, version: u32, disk: DiskId) -> Result<NodeId, Refusal> {
        let Some(d) = self.disks.get(&disk) else {
            return Err(Refusal::NotFound { kind: "disk".into(), name: format!("#{disk}") });
        };
        if version >= 3 && !self.disk_works(disk) {
            let node = self.node_name(d.node);
            return Err(Refusal::State(format!(
                "disk {disk} of node {node} has failed and gets no replica: try again"
            )));
        }
        Ok(d.node)
    }

    /// New shards with fresh replicas. All are in sync, because nothing has been written yet.
    fn new_shards(&mut self, version: u32, places: &[Vec<DiskId>]) -> Result<Vec<ShardRecord>, Refusal> {
        let mut shards = Vec::new();
        let mut rid = self.next.rid;
        for disks in places {
            let mut shard = ShardRecord::default();
            for disk in disks {
                let node = self.node_for_new(version, *disk)?;
                let replica = ReplicaRecord::new(Rid(rid), *disk, node, ReplicaState::InSync, Epoch(0));
                shard.replicas.insert(Rid(rid), replica);
                rid += 1;
            }
            if shard.replicas.is_empty() {
                return Err(Refusal::Invalid("a shard needs at least one replica".into()));
            }
            shards.push(shard);
        }
        invariant!(rid >= self.next.rid, "numbers of replicas fall from {} to {rid}", self.next.rid);
        self.next.rid = rid;
        Ok(shards)
    }

    pub(super) fn create_volume(&mut self, env: &Envelope) -> Outcome {
        let Command::CreateVolume { name, attrs, lineage, shards } = &env.cmd else { return misrouted(env) };
        valid_name(name).map_err(|why| Refusal::Invalid(format!("volume name \"{name}\": {why}")))?;
        if self.volume_named(name).is_some() {
            return Err(Refusal::Exists { kind: "volume".into(), name: name.clone() });
        }
        let policy = Policy::from_attrs(attrs).map_err(|e| Refusal::Invalid(e.to_string()))?;
        if shards.len() as u64 != policy.size.div_ceil(SHARD_BYTES) {
            return Err(Refusal::Invalid("the placement does not cover the volume".into()));
        }
        let records = self.new_shards(env.v, shards)?;
        let id = VolumeId(self.next.volume);
        self.next.volume += 1;
        let old = self.volumes.insert(VolumeRecord {
            id,
            name: name.clone(),
            attrs: hf_policy::policy::settled(attrs).into(),
            size: policy.size,
            lineage: *lineage,
            term: Term(0),
            epoch: Epoch(1),
            coordinator: None,
            shards: records,
            snaps: Vec::new(),
            activated: Term(0),
            scrub: None,
            scrubbed: None,
            created_ms: env.at_ms,
            rev: self.revision,
        });
        invariant!(old.is_none(), "volume {id} took another one's number");
        let text =
            format!("volume {name} created, {} with {} replicas", hf_policy::format_size(policy.size), policy.replicas);
        self.event(env.at_ms, EventKind::VolumeCreated, name.clone(), text);
        Ok(Reply::Volume(id))
    }

    pub(super) fn delete_volume(&mut self, at_ms: u64, vol: VolumeId, epoch: Epoch) -> Outcome {
        let v = self.volume_at(vol, epoch)?.clone();
        if let Some(a) = v.coordinator.as_ref().filter(|a| !a.maintenance) {
            return Err(Refusal::Attached { volume: v.name.clone(), node: self.node_name(a.node) });
        }
        if v.policy().is_ok_and(|p| p.sticky) {
            return Err(Refusal::Sticky(v.name));
        }
        for (shard, r) in v.replicas() {
            let t = Tombstone { rid: r.rid, shard, disk: r.disk, node: r.node, rev: self.revision };
            self.bury(t);
        }
        let gone = self.volumes.remove(&vol);
        invariant!(gone.is_some(), "volume {vol} was there a moment ago");
        self.removed(Removed::Volume(vol));
        self.event(at_ms, EventKind::VolumeDeleted, v.name.clone(), format!("volume {} deleted", v.name));
        Ok(Reply::Done)
    }

    /// An export is found by its volume's name, so the name of a volume that is attached stays.
    pub(super) fn rename_volume(&mut self, at_ms: u64, vol: VolumeId, epoch: Epoch, name: &str) -> Outcome {
        let mut v = self.volume_at(vol, epoch)?.clone();
        valid_name(name).map_err(|why| Refusal::Invalid(format!("volume name \"{name}\": {why}")))?;
        if v.name == name {
            return Ok(Reply::Done); // Lawful: the state is the one that is asked for.
        }
        if self.volume_named(name).is_some() {
            return Err(Refusal::Exists { kind: "volume".into(), name: name.into() });
        }
        // During a maintenance it is attached to the node that gets it back.
        let attached = v.coordinator.as_ref().and_then(|a| if a.maintenance { a.home } else { Some(a.node) });
        if let Some(node) = attached {
            return Err(Refusal::State(format!(
                "volume {} is attached on node {}, where clients find it by its name: detach it first, then rename it",
                v.name,
                self.node_name(node)
            )));
        }
        let was = std::mem::replace(&mut v.name, name.into());
        self.put_renamed(v, &was);
        self.event(at_ms, EventKind::VolumeRenamed, name, format!("volume {was} is called {name} now"));
        Ok(Reply::Done)
    }

    pub(super) fn set_policy(&mut self, env: &Envelope) -> Outcome {
        let Command::SetPolicy { vol, epoch, change, new_shards } = &env.cmd else { return misrouted(env) };
        let mut v = self.volume_at(*vol, *epoch)?.clone();
        let attrs = change_online(&v.attrs, change).map_err(|e| Refusal::Invalid(e.to_string()))?;
        let attrs = Attrs::from(attrs);
        let policy = attrs.policy().map_err(|e| Refusal::Invalid(e.to_string()))?;
        if (v.shards.len() + new_shards.len()) as u64 != policy.size.div_ceil(SHARD_BYTES) {
            return Err(Refusal::Invalid("the placement does not cover the grown volume".into()));
        }
        let since = v.term;
        v.shards.extend(self.new_shards(env.v, new_shards)?.into_iter().map(|s| ShardRecord { since, ..s }));
        let words: Vec<String> = change.iter().map(|(k, t)| format!("{k}={t}")).collect();
        v.size = policy.size;
        v.attrs = attrs;
        let name = v.name.clone();
        self.put_volume(v);
        self.event(env.at_ms, EventKind::VolumePolicy, name.clone(), format!("volume {name}: {}", words.join(" ")));
        Ok(Reply::Done)
    }

    pub(super) fn replica_made(&mut self, version: u32, vol: VolumeId, rid: Rid, uuid: StoreUuid) -> Outcome {
        let mut v = self.volume(vol)?.clone();
        let before = v.begun();
        let Some(r) = v.shards.iter_mut().find_map(|s| s.replicas.get_mut(&rid)) else {
            return Err(Refusal::NotFound { kind: "replica".into(), name: format!("#{rid}") });
        };
        match r.store_uuid {
            // Lawful: a node repeats what was recorded before the answer reached it.
            Some(known) if known == uuid => return Ok(Reply::Done),
            // Storage was made a second time because the first was lost: its history is unknown, so its base
            // is 0 (I12).
            Some(_) if !r.in_sync() => {
                r.store_uuid = Some(uuid);
                r.position = 0;
                if !mutant::is(Mutant::WipedKeepsBase) {
                    r.state = ReplicaState::Out { base: hf_policy::Ver::ZERO };
                }
            }
            Some(_) => {
                return Err(Refusal::Invalid(format!("replica #{rid} was initialised with other storage before")));
            }
            None => r.store_uuid = Some(uuid),
        }
        if version >= 2 {
            v.begin_shards(before);
        }
        self.put_volume(v);
        Ok(Reply::Done)
    }

    pub(super) fn replica_gone(&mut self, rid: Rid) -> Outcome {
        if self.tombstones.remove(&rid).is_none() {
            return Err(Refusal::NotFound { kind: "tombstone".into(), name: format!("#{rid}") });
        }
        self.removed(Removed::Tombstone(rid));
        Ok(Reply::Done)
    }
}

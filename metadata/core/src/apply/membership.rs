//! Changes of a shard's replica set. The in-sync set never becomes empty except by `ForceInsync` (hazard 3), and only
//! the present coordinator's term changes it.

use super::absent::{no_replica, no_shard};
use super::dropped::{Leavers, drop_of};
use super::misrouted;
use crate::command::{Command, Envelope};
use crate::mutant::{self, Mutant};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::record::*;
use hf_policy::{Epoch, NodeId, Rid, StoreUuid, Ver, VolumeId, invariant};

/// A replica that was syncing becomes a member. Returns its node.
pub(super) fn add_to(v: &mut VolumeRecord, shard: u32, rid: Rid, store_uuid: StoreUuid) -> Result<NodeId, Refusal> {
    let s = v.shards.get_mut(shard as usize).ok_or_else(|| no_shard(shard))?;
    let r = s.replicas.get_mut(&rid).ok_or_else(|| no_replica(rid))?;
    if !matches!(r.state, ReplicaState::Syncing { .. }) {
        return Err(Refusal::Invalid(format!("replica #{rid} is not syncing")));
    }
    r.state = ReplicaState::InSync;
    r.paused &= r.moving;
    r.dropped = None;
    r.store_uuid = Some(store_uuid);
    Ok(r.node)
}

impl ClusterState {
    pub(super) fn drop_members(&mut self, env: &Envelope) -> Outcome {
        let Command::Drop { vol, shard, epoch, term, rids, base, told, reasons } = &env.cmd else {
            return misrouted(env);
        };
        let mut v = self.volume_of(*vol, *epoch, *term)?.clone();
        let gone = drop_of(&mut v, *shard, &Leavers { rids, base: *base, told, reasons, at_ms: env.at_ms })?;
        let left = v.shards[*shard as usize].in_sync().len();
        let name = v.name.clone();
        self.put_volume(v);
        for g in gone {
            let text = self.text_of_drop(env.v, &name, &g, left);
            self.event(env.at_ms, EventKind::ReplicaDropped, name.clone(), text);
        }
        Ok(Reply::Done)
    }

    pub(super) fn sync_start(&mut self, env: &Envelope) -> Outcome {
        let Command::SyncStart { vol, shard, epoch, term, rid, sync_id } = &env.cmd else { return misrouted(env) };
        let mut v = self.volume_of(*vol, *epoch, *term)?.clone();
        let s = v.shards.get_mut(*shard as usize).ok_or_else(|| no_shard(*shard))?;
        let r = s.replicas.get_mut(rid).ok_or_else(|| no_replica(*rid))?;
        let base = match r.state {
            ReplicaState::Out { base } | ReplicaState::Syncing { base, .. } => base,
            ReplicaState::InSync => return Err(Refusal::Invalid(format!("replica #{rid} is in sync"))),
        };
        r.state = ReplicaState::Syncing { base, sync_id: *sync_id };
        self.put_volume(v);
        Ok(Reply::Done)
    }

    pub(super) fn add_member(&mut self, env: &Envelope) -> Outcome {
        let Command::Add { vol, shard, epoch, term, rid, store_uuid } = &env.cmd else { return misrouted(env) };
        let mut v = self.volume_of(*vol, *epoch, *term)?.clone();
        let node = add_to(&mut v, *shard, *rid, *store_uuid)?;
        let name = v.name.clone();
        self.put_volume(v);
        let text = format!("volume {name}: replica {rid} on node {} is in sync", self.node_name(node));
        self.event(env.at_ms, EventKind::ReplicaInsync, name, text);
        Ok(Reply::Done)
    }

    pub(super) fn leave(&mut self, env: &Envelope) -> Outcome {
        let Command::Leave { vol, shard, epoch, rid } = &env.cmd else { return misrouted(env) };
        let mut v = self.volume_at(*vol, *epoch)?.clone();
        let s = v.shards.get_mut(*shard as usize).ok_or_else(|| no_shard(*shard))?;
        // One on a disk that has failed is no reason to let another one go.
        let stays = |r: &ReplicaRecord| if env.v < 3 { r.in_sync() } else { self.is_available(r) };
        let others = s.replicas.values().any(|r| r.rid != *rid && stays(r) && !r.leaving);
        let r = s.replicas.get_mut(rid).ok_or_else(|| no_replica(*rid))?;
        if !others {
            return Err(Refusal::LastReplica);
        }
        r.leaving = true;
        self.put_volume(v);
        Ok(Reply::Done)
    }

    pub(super) fn add_replica(&mut self, env: &Envelope) -> Outcome {
        let Command::AddReplica { vol, shard, epoch, disk } = &env.cmd else { return misrouted(env) };
        let (shard, disk) = (*shard, *disk);
        let mut v = self.volume_at(*vol, *epoch)?.clone();
        let node = self.node_for_new(env.v, disk)?;
        let s = v.shards.get_mut(shard as usize).ok_or_else(|| no_shard(shard))?;
        if s.replicas.values().any(|r| r.disk == disk) {
            return Err(Refusal::Invalid(format!("disk #{disk} holds a replica of this shard already")));
        }
        let rid = Rid(self.next.rid);
        let state = ReplicaState::Out { base: Ver::ZERO };
        s.replicas.insert(rid, ReplicaRecord::new(rid, disk, node, state, v.epoch.next()));
        self.next.rid += 1;
        self.put_volume(v);
        Ok(Reply::Done)
    }

    pub(super) fn remove_replica(&mut self, vol: VolumeId, shard: u32, epoch: Epoch, rid: Rid) -> Outcome {
        let mut v = self.volume_at(vol, epoch)?.clone();
        let s = v.shards.get_mut(shard as usize).ok_or_else(|| no_shard(shard))?;
        let r = s.replicas.get(&rid).ok_or_else(|| no_replica(rid))?;
        if r.in_sync() {
            return Err(Refusal::Invalid(format!("replica #{rid} is in sync; drop it first")));
        }
        let shard = hf_policy::ShardId { vol, index: shard };
        let t = Tombstone { rid, shard, disk: r.disk, node: r.node, rev: self.revision };
        s.replicas.remove(&rid);
        invariant!(!s.replicas.is_empty(), "the only replica of a shard was removed");
        self.bury(t);
        self.put_volume(v);
        Ok(Reply::Done)
    }

    pub(super) fn force_insync(&mut self, env: &Envelope) -> Outcome {
        let Command::ForceInsync { vol, shard, epoch, rid, lineage, operator, reason } = &env.cmd else {
            return misrouted(env);
        };
        let mut v = self.volume_at(*vol, *epoch)?.clone();
        let next = v.epoch.next();
        let s = v.shards.get_mut(*shard as usize).ok_or_else(|| no_shard(*shard))?;
        let Some(chosen) = s.replicas.get(rid) else { return Err(no_replica(*rid)) };
        if env.v >= 3 && !self.disk_works(chosen.disk) {
            return Err(Refusal::State(format!(
                "replica {rid} is on disk {} of node {}, which has failed: bring the disk back (restart its node once it works), or choose another replica",
                chosen.disk,
                self.node_name(chosen.node)
            )));
        }
        for r in s.replicas.values_mut() {
            let base = match r.state {
                ReplicaState::Out { base } if mutant::is(Mutant::ForceKeepsBase) => base,
                _ => Ver::ZERO,
            };
            r.dropped = match r.in_sync() {
                _ if r.rid == *rid => None,
                true if env.v >= 3 => Some(Dropped { reason: DropReason::Forced, at_ms: env.at_ms }),
                true => None,
                false => r.dropped,
            };
            r.state = if r.rid == *rid { ReplicaState::InSync } else { ReplicaState::Out { base } };
            r.out_since = next;
            r.position = 0;
            r.paused &= r.moving;
        }
        v.lineage = *lineage;
        // No replica is known to have promised anything in this history.
        v.activated = hf_policy::Term(0);
        v.term = v.term.next();
        v.coordinator = None;
        let name = v.name.clone();
        self.put_volume(v);
        let text = format!("volume {name} shard {shard}: replica {rid} declared the truth by {operator}: {reason}");
        self.event(env.at_ms, EventKind::VolumeForced, name, text);
        Ok(Reply::Done)
    }

    pub(super) fn snap_add(&mut self, env: &Envelope) -> Outcome {
        let Command::SnapAdd { vol, epoch, term, id, cuts } = &env.cmd else { return misrouted(env) };
        let mut v = self.volume_of(*vol, *epoch, *term)?.clone();
        if cuts.len() != v.shards.len() || v.snaps.iter().any(|s| s.id >= *id) {
            return Err(Refusal::Invalid(format!("snapshot #{id} does not follow the volume's snapshots and shards")));
        }
        v.snaps.push(SnapshotRecord { id: *id, cuts: cuts.clone() });
        self.put_volume(v);
        Ok(Reply::Done)
    }

    pub(super) fn snap_del(&mut self, vol: VolumeId, epoch: Epoch, id: u64) -> Outcome {
        let mut v = self.volume_at(vol, epoch)?.clone();
        let before = v.snaps.len();
        v.snaps.retain(|s| s.id != id);
        if v.snaps.len() == before {
            return Err(Refusal::NotFound { kind: "snapshot".into(), name: format!("#{id}") });
        }
        self.put_volume(v);
        Ok(Reply::Done)
    }
}

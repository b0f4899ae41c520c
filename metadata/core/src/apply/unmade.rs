//! Shards that are not part of their volume yet: the moment when they become part of it, and replicas of them that
//! cannot be made where they were placed.

use super::absent::{no_replica, no_shard};
use super::misrouted;
use crate::command::{Command, Envelope};
use crate::mutant::{self, Mutant};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::record::*;
use hf_policy::{Rid, ShardId, Ver, invariant};

impl VolumeRecord {
    /// Notes for shards that have become part of the volume, which had `before` of them, that they were
    /// served in no term before the present one.
    pub(super) fn begin_shards(&mut self, before: u32) {
        let (now, term) = (self.begun(), self.term);
        invariant!(
            now >= before || mutant::is(Mutant::ReplacesServed),
            "volume {}: {before} shards were part of it, and {now} are",
            self.id
        );
        let fresh = self.shards.iter_mut().take(now as usize).skip(before as usize);
        if !mutant::is(Mutant::PartSinceAsked) {
            fresh.for_each(|s| s.since = term);
        }
    }
}

impl ClusterState {
    /// Replaces a replica of a shard to which nothing was ever written: the new replica is in sync, as the old one was.
    pub(super) fn replace_unmade(&mut self, env: &Envelope) -> Outcome {
        let Command::ReplaceUnmade { vol, shard, epoch, rid, disk } = &env.cmd else { return misrouted(env) };
        let (vol, shard, epoch, rid, disk) = (*vol, *shard, *epoch, *rid, *disk);
        let mut v = self.volume_at(vol, epoch)?.clone();
        let before = v.begun();
        if shard < before && !mutant::is(Mutant::ReplacesServed) {
            return Err(Refusal::State(format!("shard #{shard} of volume {} is part of it already", v.name)));
        }
        let new_node = disk.map(|d| self.node_for_new(env.v, d)).transpose()?;
        let next = v.epoch.next();
        let new_rid = Rid(self.next.rid);
        let s = v.shards.get_mut(shard as usize).ok_or_else(|| no_shard(shard))?;
        let old = s.replicas.get(&rid).filter(|r| r.in_sync()).cloned().ok_or_else(|| no_replica(rid))?;
        if disk.is_some_and(|d| s.replicas.values().any(|r| r.disk == d)) {
            return Err(Refusal::Invalid("that disk holds a replica of this shard already".into()));
        }
        let text = match disk.zip(new_node) {
            Some((disk, node)) => {
                s.replicas.remove(&rid);
                let fresh = ReplicaRecord { rid: new_rid, disk, node, store_uuid: None, ..old.clone() };
                s.replicas.insert(new_rid, fresh);
                self.next.rid += 1;
                let t = Tombstone {
                    rid,
                    shard: ShardId { vol, index: shard },
                    disk: old.disk,
                    node: old.node,
                    rev: self.revision,
                };
                self.bury(t);
                format!("is made on node {} instead", self.node_name(node))
            }
            None => {
                if s.in_sync().len() < 2 {
                    return Err(Refusal::LastReplica);
                }
                let why = Dropped { reason: DropReason::Unmade, at_ms: env.at_ms };
                let (state, dropped) = (ReplicaState::Out { base: Ver::ZERO }, (env.v >= 3).then_some(why));
                let out = ReplicaRecord { state, dropped, out_since: next, ..old.clone() };
                s.replicas.insert(rid, out);
                "is brought in later".into()
            }
        };
        v.begin_shards(before);
        let name = v.name.clone();
        self.put_volume(v);
        let text = format!(
            "volume {name} shard {shard}: node {} does not make replica {rid}, which {text}",
            self.node_name(old.node)
        );
        self.event(env.at_ms, EventKind::ReplicaReplaced, name, text);
        Ok(Reply::Done)
    }
}

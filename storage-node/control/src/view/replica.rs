//! Replicas.

use super::{Evidence, Look, disk_state, evidence};
use crate::model::{CopyState, Replica, Sync, time};
use hf_meta_core::record::{DropReason, ReplicaRecord, ReplicaState, VolumeRecord};
use hf_policy::{CHUNK_BYTES, ShardId};

/// Why a replica was dropped, in words.
fn dropped(reason: DropReason) -> String {
    format!("it was dropped: {}", reason.words())
}

/// A replica's state, by the record and by fresh evidence, and why it is not in sync.
pub fn copy_state(look: Look, r: &ReplicaRecord) -> (CopyState, Option<String>) {
    let node = || look.state.node_name(r.node);
    let disk = look.state.disks.get(&r.disk).map(|d| disk_state(look, d));
    let reason = || r.dropped.as_ref().map(|d| dropped(d.reason));
    let life = evidence(look.soft, r.node);
    match (&r.state, life, disk) {
        (_, _, None) => (CopyState::DiskDown, Some(format!("disk {} is not on record any more", r.disk))),
        (ReplicaState::InSync, Evidence::Silent, _) => {
            (CopyState::Away, Some(format!("node {} does not answer", node())))
        }
        // Whoever looks for the copy that holds everything must be able to tell them apart.
        (_, Evidence::Silent, _) => {
            let why = reason().unwrap_or("it missed writes".into());
            (CopyState::Out, Some(format!("{why}; node {} does not answer", node())))
        }
        (_, _, Some(d)) if matches!(d.word, "failed" | "missing") => {
            (CopyState::DiskDown, Some(format!("disk {} of node {}: {}", r.disk, node(), d.why)))
        }
        (ReplicaState::InSync, _, _) if r.store_uuid.is_none() => {
            let refused = look.soft.and_then(|s| s.nodes.get(&r.node)).is_some_and(|n| n.told.refused.contains(&r.rid));
            let why = if refused { "cannot make it" } else { "has not made it yet" };
            (CopyState::Creating, Some(format!("node {} {why}", node())))
        }
        (ReplicaState::InSync, Evidence::Fresh, Some(d)) if d.serves() => (CopyState::InSync, None),
        (ReplicaState::InSync, _, Some(d)) => (CopyState::Unknown, Some(format!("disk {}: {}", r.disk, d.why))),
        (ReplicaState::Out { .. }, _, _) => (CopyState::Out, Some(reason().unwrap_or("it missed writes".into()))),
        (ReplicaState::Syncing { .. }, _, _) => (CopyState::Syncing, reason()),
    }
}

/// A replica as the API shows it.
pub fn replica(look: Look, v: &VolumeRecord, shard: ShardId, r: &ReplicaRecord) -> Replica {
    let (state, why) = copy_state(look, r);
    let sync = look
        .soft
        .and_then(|s| s.syncs().find(|x| x.rid == Some(r.rid) && x.vol == shard.vol && x.shard == shard.index));
    Replica {
        id: r.rid.0,
        volume: v.name.clone(),
        shard: shard.index,
        node: look.state.node_name(r.node),
        disk: r.disk.0,
        state,
        why,
        since: r.dropped.as_ref().and_then(|d| time(d.at_ms)),
        used_bytes: look.soft.and_then(|s| s.replica_bytes(r.node, r.rid)),
        moving: r.moving || r.leaving,
        held: r.paused,
        sync: sync.map(|x| Sync {
            stage: x.stage.clone(),
            done_bytes: x.chunks_done.saturating_mul(CHUNK_BYTES),
            total_bytes: x.chunks.saturating_mul(CHUNK_BYTES),
            copied_bytes: x.copied_bytes,
            bytes_per_second: x.bytes_per_second,
        }),
    }
}

//! The replicas that the record wants on this node's disks, and those it wants gone: each step may be repeated (desired state in,
//! actual state reported). Data goes only because a tombstone says so (I20).
//!
//! A node that has just begun may see a record from before its last deletion. What that one wants is looked for in the leader's
//! record first, or it would make again what nobody will ever tell it to delete (seeds 1205, 1562 over real raft members).

use super::Begun;
use crate::identity::random;
use crate::member::Member;
use crate::reactor::{Held, Mail};
use hf_meta_core::Command;
use hf_meta_core::record::{ClusterState, ReplicaRecord};
use hf_policy::{BLOCK_BYTES, DiskId, Rid, SessionId, StoreUuid, Term, Ver, VolumeId};
use hf_store::ReplicaRec;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// What each open disk holds.
pub(super) type HeldHere = BTreeMap<DiskId, Vec<Held>>;

/// A last resort gave a volume a new lineage: its replicas here take it, each with the base that the record says.
pub(super) fn adopt_lineages(m: &Member, state: &ClusterState, held: &HeldHere) {
    for v in state.volumes_at(m.node) {
        for (_, r) in v.replicas().filter(|(_, r)| r.node == m.node) {
            let here = held.get(&r.disk).and_then(|l| l.iter().find(|h| h.rid == r.rid));
            let Some(h) = here.filter(|h| h.lineage != v.lineage && h.epoch < v.epoch.0) else { continue };
            let reactor = m.disk_reactor.lock().ok().and_then(|d| d.get(&r.disk).copied());
            if let Some(reactor) = reactor {
                let (disk, rid, lineage, epoch) = (r.disk, h.rid, v.lineage, v.epoch.0);
                m.reactors[reactor].send(Mail::Adopt { disk, rid, lineage, epoch });
            }
        }
    }
}

pub(super) fn make(m: &Arc<Member>, state: &ClusterState, begun: &Arc<Mutex<Begun>>, held: &HeldHere) {
    for v in state.volumes_at(m.node) {
        // One whose storage is gone from a disk that works is made again; one that is other storage than recorded (put back from
        // a copy) is reported. Either counts as unknown from then on.
        let as_recorded = |r: &ReplicaRecord, l: &[Held]| {
            l.iter().any(|h| h.rid == r.rid && r.store_uuid.is_none_or(|known| known == h.store_uuid))
        };
        let lost = |r: &ReplicaRecord| !r.in_sync() && held.get(&r.disk).is_some_and(|l| !as_recorded(r, l));
        let wanted = |r: &ReplicaRecord| r.node == m.node && !r.leaving && (r.store_uuid.is_none() || lost(r));
        for (shard, r) in v.replicas().filter(|(_, r)| wanted(r)) {
            if !begun.lock().is_ok_and(|mut b| b.making.insert(r.rid)) {
                continue;
            }
            let rec = ReplicaRec {
                shard,
                rid: r.rid,
                store_uuid: StoreUuid(random()),
                lineage: v.lineage,
                promised_term: Term(0),
                promised_session: SessionId::NONE,
                stable_known: Ver::ZERO,
                // The whole shard: a volume grows without a change here.
                blocks: hf_policy::SHARD_BYTES / BLOCK_BYTES,
                deleting: false,
                hint_epoch: v.epoch.0,
                hint_name: v.name.clone(),
                hint_size: v.size,
            };
            tokio::spawn(make_one(m.clone(), v.id, r.disk, rec, begun.clone()));
        }
    }
}

async fn make_one(m: Arc<Member>, vol: VolumeId, disk: DiskId, rec: ReplicaRec, begun: Arc<Mutex<Begun>>) {
    let (rid, mut store_uuid) = (rec.rid, rec.store_uuid);
    let reactor = m.disk_reactor.lock().ok().and_then(|d| d.get(&disk).copied());
    // (Without a leader nothing is made: the next round tries again.)
    let fresh = m.freshen().await;
    let wanted =
        m.view.borrow().volumes.get(&vol).is_some_and(|v| v.replicas().any(|(_, r)| r.rid == rid && !r.leaving));
    let mut refused = (reactor.is_none() && fresh && wanted).then(|| "the disk is not in service here".to_string());
    if let Some(reactor) = reactor.filter(|_| fresh && wanted) {
        let (tx, rx) = oneshot::channel();
        m.reactors[reactor].send(Mail::CreateReplica { disk, rec: Box::new(rec), reply: tx });
        let made = match rx.await {
            Ok(Ok(())) => true,
            // Made before a crash that kept the record from hearing of it: tell which storage it has.
            Ok(Err(hf_store::StoreError::Exists(known))) => {
                store_uuid = known;
                true
            }
            Ok(Err(e)) => {
                refused = Some(e.to_string());
                false
            }
            Err(_) => false,
        };
        if made && let Ok(Err(e)) = m.propose_new(Command::ReplicaMade { vol, rid, store_uuid }).await {
            tracing::warn!(replica = %rid, "a new replica was refused: {e}");
        }
    }
    if fresh {
        note_refused(&m, rid, disk, refused);
    }
    if let Ok(mut b) = begun.lock() {
        b.making.remove(&rid);
    }
}

/// The leader is told what cannot be made here, and gives it to another disk; the log is told once.
fn note_refused(m: &Member, rid: Rid, disk: DiskId, why: Option<String>) {
    let Ok(mut unmade) = m.unmade.lock() else { return };
    match why {
        Some(why) if unmade.insert(rid) => {
            tracing::error!(replica = %rid, disk = %disk, "cannot create a replica: {why}; the leader is asked for another place");
        }
        Some(_) => {}
        None => drop(unmade.remove(&rid)),
    }
}

/// What is not wanted here any more need not be told of.
pub(super) fn forget_refused(m: &Member, state: &ClusterState) {
    let Ok(mut unmade) = m.unmade.lock() else { return };
    if !unmade.is_empty() {
        unmade.retain(|rid| state.volume_of_replica(*rid).is_some());
    }
}

/// Data goes only because a tombstone says so (I20).
pub(super) fn delete(m: &Arc<Member>, state: &ClusterState, begun: &Arc<Mutex<Begun>>) {
    for t in state.tombstones.values().filter(|t| t.node == m.node) {
        let reactor = m.disk_reactor.lock().ok().and_then(|d| d.get(&t.disk).copied());
        let Some(reactor) = reactor else { continue };
        // (One that is being made is deleted once it is there.)
        if !begun.lock().is_ok_and(|mut b| !b.making.contains(&t.rid) && b.deleting.insert(t.rid)) {
            continue;
        }
        let (m, begun, disk, rid) = (m.clone(), begun.clone(), t.disk, t.rid);
        tokio::spawn(async move {
            let (tx, rx) = oneshot::channel();
            m.reactors[reactor].send(Mail::DeleteReplica { disk, rid, reply: tx });
            let gone = matches!(rx.await, Ok(Ok(()) | Err(hf_store::StoreError::NoReplica(_))));
            if gone {
                let _ = m.propose_new(Command::ReplicaGone { rid }).await;
            }
            if let Ok(mut b) = begun.lock() {
                b.deleting.remove(&rid);
            }
        });
    }
}

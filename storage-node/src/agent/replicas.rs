//! Makes the replicas that the record wants on this node's disks, and deletes those that it wants gone. Each
//! step may be repeated. Data is deleted only if a tombstone says so (I20).
//!
//! A node that has just started may see a record from before its last deletion. So it looks into the leader's
//! record before it makes a replica; otherwise it would make one again that no tombstone will ever delete
//! (seeds 1205, 1562 over real raft members).

use super::Begun;
use crate::identity::random;
use crate::member::Member;
use hf_meta_core::Command;
use hf_meta_core::record::{ClusterState, ReplicaRecord};
use hf_policy::{BLOCK_BYTES, DiskId, Rid, SessionId, StoreUuid, Term, Ver, VolumeId};
use hf_reactor::{Mail, ReplicaStatus};
use hf_store::ReplicaRec;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// The replicas that each open disk holds.
pub(super) type HeldHere = BTreeMap<DiskId, Vec<ReplicaStatus>>;

/// After a force-insync a volume has a new lineage: the replicas on this node adopt it.
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
        // If a replica's storage is gone from a disk that works, the replica is made again. If its storage is
        // not the recorded one (put back from a copy), that is reported. In both cases its contents count as
        // unknown from then on.
        let as_recorded = |r: &ReplicaRecord, l: &[ReplicaStatus]| {
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
                // A replica always has room for a whole shard, so a volume grows without a change here.
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
    // Without a leader nothing is made; the next round tries again.
    let fresh = m.freshen().await;
    let wanted =
        m.view.borrow().volumes.get(&vol).is_some_and(|v| v.replicas().any(|(_, r)| r.rid == rid && !r.leaving));
    let mut refused = (reactor.is_none() && fresh && wanted).then(|| "the disk is not in service here".to_string());
    if let Some(reactor) = reactor.filter(|_| fresh && wanted) {
        let (tx, rx) = oneshot::channel();
        m.reactors[reactor].send(Mail::CreateReplica { disk, rec: Box::new(rec), reply: tx });
        let made = match rx.await {
            Ok(Ok(())) => true,
            // The replica was made before a crash, and the record does not know it: report the storage that
            // it has.
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
            m.states.warn("new replica", &rid.to_string(), &format!("a new replica was refused: {e}"));
        }
    }
    if fresh {
        note_refused(&m, rid, disk, refused);
    }
    if let Ok(mut b) = begun.lock() {
        b.making.remove(&rid);
    }
}

/// Notes why a replica cannot be made here, or that it could. Heartbeats tell the leader, which chooses
/// another disk; the log has the reason once for each disk.
fn note_refused(m: &Member, rid: Rid, disk: DiskId, why: Option<String>) {
    let Ok(mut unmade) = m.unmade.lock() else { return };
    match why {
        Some(why) if unmade.insert(rid) => {
            let text = format!("cannot create a replica: {why}; the leader is asked for another place");
            m.states.error("no room for a replica", &format!("disk {disk}"), &text);
        }
        Some(_) => {}
        None => drop(unmade.remove(&rid)),
    }
}

/// Forgets notes about replicas that the record no longer has.
pub(super) fn forget_refused(m: &Member, state: &ClusterState) {
    let Ok(mut unmade) = m.unmade.lock() else { return };
    if !unmade.is_empty() {
        unmade.retain(|rid| state.volume_of_replica(*rid).is_some());
    }
}

/// Deletes the replicas that have a tombstone, and no others (I20).
pub(super) fn delete(m: &Arc<Member>, state: &ClusterState, begun: &Arc<Mutex<Begun>>) {
    for t in state.tombstones.values().filter(|t| t.node == m.node) {
        let reactor = m.disk_reactor.lock().ok().and_then(|d| d.get(&t.disk).copied());
        let Some(reactor) = reactor else { continue };
        // A replica that is still being made is deleted in a later round.
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

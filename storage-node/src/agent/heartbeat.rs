//! Tells the leader twice a second that this node lives, what its disks and volumes are doing, and learns who leads.
//! Disks and syncs are told with every beat, replicas and volumes only when they change (docs/decisions/0050).

use super::served;
use crate::member::{Member, wall_ms};
use hf_meta::status::RaftStatus;
use hf_meta::telling::Telling;
use hf_meta_core::command::COMMAND_VERSION;
use hf_meta_core::record::{ClusterState, DiskFault};
use hf_meta_core::soft::DiskTold;
use hf_meta_proto::pb;
use hf_policy::{DiskId, Rid};
use hf_reactor::{DiskStatus, ReactorStatus};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Time between two beats.
const EVERY: Duration = Duration::from_millis(500);

/// Beats for ever.
pub(super) async fn run(m: Arc<Member>) {
    let mut rates = crate::repair::Rates::default();
    let mut telling = Telling::new((m.boot.0 >> 64) as u64);
    loop {
        let mut all = Vec::new();
        for r in &m.reactors {
            all.push(r.status().await);
        }
        let state = m.view.borrow().clone();
        let disks = found(&m, &all);
        let volumes = Arc::new(served::volumes(&m, &state, &all));
        m.served.send_replace(volumes.clone());
        let beat = pb::HeartbeatRequest {
            node: m.node.0,
            cluster: m.cluster.0.to_be_bytes().to_vec(),
            disks: disks.iter().map(|(id, d)| disk_use(*id, d)).collect(),
            syncs: all.iter().flat_map(|r| &r.volumes).flat_map(|v| rates.progress(v)).collect(),
            asks: false,
            refused: m.refused(),
            commands: COMMAND_VERSION,
            wall_ms: wall_ms(),
            data_dir_full: m.data_dir_full.load(Ordering::Relaxed),
            insecure: m.insecure,
            changes: Some(telling.say(state.revision, &replicas(&state, &all), &volumes)),
        };
        m.disks_found.send_replace(Arc::new(disks));
        let whole = beat.changes.as_ref().is_some_and(|c| c.anew);
        if let Some((took, anew)) = tell(&m, &state, beat).await {
            telling.answered(took, anew);
            if anew && !whole {
                continue; // It is told everything at once.
            }
        }
        let _ = tokio::time::timeout(EVERY, m.look.notified()).await;
    }
}

/// The disks of this node that are known: in service, failed, or not opened.
fn found(m: &Member, all: &[ReactorStatus]) -> BTreeMap<DiskId, DiskTold> {
    let troubles = m.trouble.lock().map(|t| t.clone()).unwrap_or_default();
    let closed = troubles.into_iter().map(|(id, t)| (id, DiskTold { fault: Some(t), ..DiskTold::default() }));
    // (A disk whose reactor has it says more of itself.)
    closed.chain(all.iter().flat_map(|r| &r.disks).map(|d| (d.disk, open(d)))).collect()
}

fn open(d: &DiskStatus) -> DiskTold {
    let fault = match (&d.failed, &d.failing) {
        (Some(why), _) if d.latched => Some((DiskFault::Latched, why.clone())),
        (Some(why), _) => Some((DiskFault::Io, why.clone())),
        (None, Some(why)) => Some((DiskFault::ErrorBudget, why.clone())),
        (None, None) => None,
    };
    DiskTold {
        used: (d.stats.units_total - d.stats.units_free) * hf_store::UNIT_BYTES,
        entries: d.stats.entries_used + d.stats.entries_free,
        in_service: d.failed.is_none(),
        fault,
        backend: d.backend.into(),
    }
}

fn disk_use(id: DiskId, d: &DiskTold) -> pb::DiskUse {
    let name = |f: &DiskFault| serde_json::to_value(f).ok()?.as_str().map(str::to_string);
    let (fault, fault_text) = d.fault.as_ref().map(|(f, why)| (name(f), why.clone())).unwrap_or_default();
    pb::DiskUse {
        disk: id.0,
        used: d.used,
        entries: d.entries,
        out_of_service: !d.in_service,
        fault: fault.unwrap_or_default(),
        fault_text,
        backend: d.backend.clone(),
    }
}

/// Bytes that each replica here takes, of those that the record knows.
fn replicas(state: &ClusterState, all: &[ReactorStatus]) -> BTreeMap<Rid, u64> {
    let here = all.iter().flat_map(|r| &r.disks).flat_map(|d| &d.replicas);
    here.filter(|r| state.volume_of_replica(r.rid).is_some()).map(|r| (r.rid, r.bytes)).collect()
}

/// Tells the leader, which may be this node. Returns what the leader says of the changes; none without its answer.
async fn tell(m: &Member, state: &ClusterState, beat: pb::HeartbeatRequest) -> Option<(u64, bool)> {
    let status = m.meta.status.borrow().clone();
    if !status.is_leader {
        return tell_other(m, &status, state, beat).await;
    }
    let (took, live) = {
        let mut h = m.heard.lock().ok()?;
        h.lead(status.term, state.nodes.keys().copied());
        (h.take(state, beat, wall_ms()), h.liveness(state))
    };
    m.meta.live(live);
    Some((took.seq, took.anew))
}

async fn tell_other(
    m: &Member,
    status: &RaftStatus,
    state: &ClusterState,
    beat: pb::HeartbeatRequest,
) -> Option<(u64, bool)> {
    let leader = status.leader.and_then(|l| state.nodes.get(&l)).map(|n| n.addr.api.clone());
    let targets: Vec<String> = match leader {
        Some(l) => vec![l],
        None => state.nodes.values().filter(|n| n.id != m.node).map(|n| n.addr.api.clone()).collect(),
    };
    for addr in targets {
        let Some(r) = m.beat(&addr, beat.clone()).await else { continue };
        if r.leader {
            m.told.says(r.revision);
            m.leader.hint(Some(addr));
            return Some((r.took, r.anew));
        }
        if !r.leader_api.is_empty() {
            m.leader.hint(Some(r.leader_api));
        }
    }
    None
}

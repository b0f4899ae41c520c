//! The agent makes what runs on this node agree with the record. The desired state comes in as the view of
//! the record, the actual state from the reactors. Every step is decided from these two alone, so a restart
//! after a crash at any step finishes what was begun.

mod changes;
mod disks;
mod events;
mod follow;
mod heartbeat;
mod replicas;
mod served;

use crate::export::Entry;
use crate::member::Member;
use crate::node::Node;
use hf_frontends::nbd::ExportInfo;
use hf_meta_core::Command;
use hf_meta_core::record::{Attachment, ClusterState, DiskFault, VolumeRecord};
use hf_policy::{Rid, SessionId, Term, VolumeId};
use hf_reactor::{Event, Mail};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Steps that this process has begun and that the record does not show yet.
#[derive(Default)]
struct Begun {
    making: BTreeSet<Rid>,
    deleting: BTreeSet<Rid>,
    /// Attachments that this process coordinates.
    running: BTreeMap<VolumeId, Running>,
    reattaching: BTreeSet<VolumeId>,
}

/// An attachment that this process coordinates.
#[derive(Clone, Copy)]
struct Running {
    session: SessionId,
    /// The volume's reactor, for as long as the attachment lasts, even if its disk moves to another reactor
    /// meanwhile.
    reactor: usize,
    /// The coordinators have finished their take-over.
    ready: bool,
}

/// Starts the agent's tasks.
pub fn start(node: Arc<Node>, m: Arc<Member>, events: mpsc::UnboundedReceiver<Event>) {
    let begun = Arc::new(Mutex::new(Begun::default()));
    tokio::spawn(follow::raft(m.clone()));
    tokio::spawn(follow::others(node.clone(), m.clone()));
    tokio::spawn(heartbeat::run(m.clone()));
    tokio::spawn(disks::follow(m.clone()));
    tokio::spawn(hf_meta::succession::watch(m.cluster, m.node, m.meta.clone(), m.view.clone()));
    tokio::spawn(crate::repair::run(m.clone()));
    tokio::spawn(crate::watch::run(m.clone()));
    tokio::spawn(events::run(m.clone(), node.dir.path.clone()));
    tokio::spawn(crate::history::keep(m.history.clone(), m.reactors.clone(), crate::member::wall_ms));
    tokio::spawn(tend_reserve(node.clone(), m.clone()));
    tokio::spawn(node.clone().remember_log(m.clone()));
    tokio::spawn(announce(node.clone(), m.clone()));
    tokio::spawn(note_log_age(m.clone()));
    tokio::spawn(feel_pulse(node.clone(), m.clone()));
    tokio::spawn(listen(node, m.clone(), events, begun.clone()));
    tokio::spawn(converge(m, begun));
}

/// After a pause of this process, lets no client in before everything here obeys the newest record.
async fn feel_pulse(node: Arc<Node>, m: Arc<Member>) {
    m.pulse.run(|| m.catch_up(node.put_node())).await;
}

async fn tend_reserve(node: Arc<Node>, m: Arc<Member>) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        // Setting the reserve aside allocates and syncs, which must not block a thread that others wait for.
        let reserve = node.dir.reserve();
        let tended = tokio::task::spawn_blocking(move || reserve.tend().map(|()| reserve.is_all_there_is())).await;
        match tended {
            Ok(Ok(full)) => {
                m.data_dir_full.store(full, Ordering::Relaxed);
                m.states.over("reserve", "");
            }
            Ok(Err(e)) => m.states.warn("reserve", "", &format!("space for the metadata could not be set aside: {e}")),
            Err(e) => m.states.warn("reserve", "", &format!("space for the metadata could not be set aside: {e}")),
        }
    }
}

/// Has the disks note the metadata log's age whenever it rises, so that an older copy of the log shows at the
/// next start.
async fn note_log_age(m: Arc<Member>) {
    let mut status = m.meta.status.clone();
    let mut noted = 0;
    while let Ok(own) = status.wait_for(|s| s.own.age > noted).await.map(|s| s.own.clone()) {
        noted = own.age;
        m.reactors.iter().for_each(|r| r.send(Mail::LogAge(own.age())));
    }
}

/// Proposes this node's record (addresses, labels, log) until a leader has accepted it.
async fn announce_once(node: &Node, m: &Member) {
    loop {
        match m.propose_new(node.put_node()).await {
            Ok(Ok(_)) => return m.states.over("own record", ""),
            Ok(Err(e)) => m.states.error("own record", "", &format!("this node's record was refused: {e}")),
            Err(e) => tracing::debug!("this node's record could not be proposed: {e}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Announces the node again when the record names another log of it: a late proposal of an earlier process
/// was committed after ours.
async fn announce_again(node: Arc<Node>, m: Arc<Member>) {
    let own = m.meta.status.borrow().own.log;
    let mut view = m.view.clone();
    let other = |s: &Arc<ClusterState>| s.nodes.get(&m.node).is_some_and(|n| n.log.nth > 0 && n.log.age.log != own);
    while view.wait_for(other).await.is_ok() {
        announce_once(&node, &m).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// At start, updates the node's record and adds the configured disks.
async fn announce(node: Arc<Node>, m: Arc<Member>) {
    announce_once(&node, &m).await;
    tokio::spawn(announce_again(node.clone(), m.clone()));
    m.freshen().await;
    for d in node.cfg.disks.clone() {
        let known = node.identity.lock().is_ok_and(|i| {
            let real = std::fs::canonicalize(&d.path).unwrap_or_else(|_| d.path.clone());
            i.disks.iter().any(|k| k.path == real)
        });
        if known {
            continue;
        }
        let size = d.size.as_deref().and_then(|s| hf_policy::parse_size(s).ok());
        let media = d.media.as_deref().and_then(hf_policy::attributes::Media::parse);
        let path = d.path.clone();
        match crate::disks::add(&node, crate::disks::NewDisk { path, size, media }).await {
            Ok(id) => tracing::info!(disk = %id, path = %d.path.display(), "disk added"),
            Err(e) => tracing::error!(path = %d.path.display(), "disk not added: {e:#}"),
        }
    }
}

/// Handles the reactors' events: proposals, attachments that begin or end, and failing disks.
async fn listen(node: Arc<Node>, m: Arc<Member>, mut events: mpsc::UnboundedReceiver<Event>, begun: Arc<Mutex<Begun>>) {
    let changes = Arc::new(changes::Changes::default());
    while let Some(e) = events.recv().await {
        match e {
            Event::Propose { shard, session, epoch, term, change } => {
                changes.ask(&m, changes::Asked { shard, session, epoch, term, change });
            }
            Event::Paused { fresh } => {
                let (node, m) = (node.clone(), m.clone());
                tokio::spawn(async move {
                    while !m.catch_up(node.put_node()).await {}
                    let _ = fresh.send(());
                });
            }
            Event::Ready { vol, session, term } => ready(&m, &begun, vol, session, term),
            Event::Fenced { vol, session } | Event::Drained { vol, session } => {
                m.exports.remove(vol, session);
                if let Ok(mut b) = begun.lock()
                    && b.running.get(&vol).is_some_and(|r| r.session == session)
                {
                    b.running.remove(&vol);
                }
                let m = m.clone();
                tokio::spawn(async move {
                    // The detach of a fenced session is refused, which is right. Without a leader the detach
                    // is repeated as long as the record names the session.
                    let named = || {
                        m.view
                            .borrow()
                            .volumes
                            .get(&vol)
                            .and_then(|v| v.coordinator.as_ref())
                            .is_some_and(|a| a.session == session)
                    };
                    while m.propose_new(Command::Detach { vol, session }).await.is_err() && named() {}
                });
            }
            Event::DiskFailed { disk, why } => m.in_trouble(disk, DiskFault::Io, why),
            Event::DiskFailing { disk, why } => {
                tracing::error!(disk = %disk, "disk is failing: {why}");
                m.look.notify_one();
            }
        }
    }
}

fn ready(m: &Arc<Member>, begun: &Mutex<Begun>, vol: VolumeId, session: SessionId, term: Term) {
    let state = m.view.borrow().clone();
    let Some(v) = state.volumes.get(&vol) else { return };
    let running = begun.lock().ok().and_then(|mut b| {
        let r = b.running.get_mut(&vol).filter(|r| r.session == session)?;
        r.ready = true;
        Some(*r)
    });
    if let Some(r) = running {
        publish(m, v, r);
    }
    let m = m.clone();
    tokio::spawn(async move {
        // Clients' requests begin when this is recorded. From then on every member has noted this term, so
        // storage that does not remember it was put back.
        let ours = |s: &ClusterState| s.volumes.get(&vol).is_some_and(|v| v.term == term);
        while m.propose_new(Command::Activated { vol, term }).await.is_err() && ours(&m.view.borrow()) {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
}

/// Exports the volume as its present policy says, or withdraws the export.
fn publish(m: &Member, v: &VolumeRecord, r: Running) {
    let Ok(p) = v.policy() else { return };
    let session = r.session;
    let open = |a: &Attachment| !a.maintenance && !m.exports.is_ending(v.id, session);
    let on = p.exports.nbd && v.coordinator.as_ref().is_some_and(open);
    if m.exports.has(v.id, session) != on {
        m.reactors[r.reactor].send(Mail::Export { vol: v.id, session, on });
    }
    if !on {
        return m.exports.remove(v.id, session);
    }
    m.exports.put(Entry {
        info: ExportInfo {
            name: v.name.clone(),
            size: v.made_size(),
            read_only: p.read_only,
            description: format!("Holdfast volume {}, {} replicas", v.name, p.replicas),
        },
        vol: v.id,
        session,
        reactor: r.reactor,
    });
}

/// The reactor for a volume: that of its local disk if there is one, so that socket and disk share a thread.
fn reactor_of(m: &Member, v: &VolumeRecord) -> usize {
    let map = m.disk_reactor.lock().map(|d| d.clone()).unwrap_or_default();
    let local = v.replicas().filter(|(_, r)| r.node == m.node).find_map(|(_, r)| map.get(&r.disk).copied());
    local.unwrap_or(v.id.0 as usize % m.reactors.len())
}

/// Compares the record with this node, again and again, and begins the steps that are missing.
async fn converge(m: Arc<Member>, begun: Arc<Mutex<Begun>>) {
    let mut rx = m.view.clone();
    loop {
        let state = rx.borrow_and_update().clone();
        for r in &m.reactors {
            r.send(Mail::State(state.clone()));
        }
        let mut held = BTreeMap::new();
        for r in &m.reactors {
            let disks = r.status().await.disks;
            held.extend(disks.into_iter().map(|d| (d.disk, d.replicas)));
        }
        replicas::forget_refused(&m, &state);
        replicas::make(&m, &state, &begun, &held);
        replicas::adopt_lineages(&m, &state, &held);
        replicas::delete(&m, &state, &begun);
        run_attachments(&m, &state, &begun);
        // Reactors handle their mail in order, so an answer now means that they have handled everything
        // above.
        for r in &m.reactors {
            r.status().await;
        }
        m.obeyed.send_replace(state.revision);
        // Every 2 s at least, so that a step that failed is tried again.
        let _ = tokio::time::timeout(Duration::from_secs(2), rx.changed()).await;
    }
}

fn run_attachments(m: &Arc<Member>, state: &ClusterState, begun: &Arc<Mutex<Begun>>) {
    let Ok(mut b) = begun.lock() else { return };
    let newest = m.view.borrow().clone();
    m.exports.forget_ended(|vol| newest.volumes.get(&vol)?.coordinator.as_ref().map(|a| a.session));
    let stale: Vec<(VolumeId, SessionId)> = b
        .running
        .iter()
        .filter(|(vol, s)| {
            let now = state.volumes.get(vol).and_then(|v| v.coordinator.as_ref()).map(|a| a.session);
            now != Some(s.session)
        })
        .map(|(v, s)| (*v, s.session))
        .collect();
    for (vol, session) in stale {
        b.running.remove(&vol);
        m.exports.remove(vol, session);
    }
    for v in state.volumes_at(m.node) {
        let mine = |a: &&Attachment| a.node == m.node || a.home == Some(m.node);
        let Some(a) = v.coordinator.as_ref().filter(mine) else { continue };
        match b.running.get(&v.id) {
            Some(r) if r.session == a.session => {
                // The volume's size or rights may have changed.
                if r.ready {
                    publish(m, v, *r);
                }
            }
            _ if b.reattaching.contains(&v.id) => {}
            _ if m.is_ours(a.session) => {
                let reactor = reactor_of(m, v);
                b.running.insert(v.id, Running { session: a.session, reactor, ready: false });
                m.reactors[reactor].send(Mail::StartVolume { vol: v.id, session: a.session });
                // The detach was asked for before the attachment had begun.
                if m.exports.is_ending(v.id, a.session) {
                    m.reactors[reactor].send(Mail::StopVolume { vol: v.id, session: a.session });
                }
            }
            // Maintenance of the replicas was interrupted; the leader asks again if it is still needed.
            _ if a.maintenance && a.node == m.node => {
                b.reattaching.insert(v.id);
                let (m, begun, vol, session) = (m.clone(), begun.clone(), v.id, a.session);
                tokio::spawn(async move {
                    let _ = m.propose_new(Command::Detach { vol, session }).await;
                    if let Ok(mut b) = begun.lock() {
                        b.reattaching.remove(&vol);
                    }
                });
            }
            // An attachment of an earlier process of this node, or one whose replicas others looked after
            // while the node was away: it begins again under a new term.
            _ => {
                b.reattaching.insert(v.id);
                let (m, begun, vol, epoch) = (m.clone(), begun.clone(), v.id, v.epoch);
                let session = m.new_session();
                tokio::spawn(async move {
                    let cmd = Command::Attach { vol, epoch, node: m.node, session, steal: true, maintenance: false };
                    if let Ok(Err(e)) = m.propose_new(cmd).await {
                        tracing::debug!(volume = %vol, "re-attach: {e}");
                    }
                    if let Ok(mut b) = begun.lock() {
                        b.reattaching.remove(&vol);
                    }
                });
            }
        }
    }
}

//! Disks.

use super::decide::{Call, Decided, VISIBLE_MS, begin, decide, until};
use super::{disk_of, done, node_of, state};
use crate::access::{Verb, may};
use crate::error::{Code, Problem};
use crate::model::{Disk, DiskOutcome, MOST_INTEGER, NewDisk, Outcome};
use crate::ports::{NodeAnswer, NodeVerb, Ports};
use crate::read::Query;
use hf_meta_core::Command;
use hf_meta_core::record::DiskState;
use hf_policy::DiskId;

/// Formats a directory or block device of a node and adds it to the pool.
pub async fn add<P: Ports>(p: &P, call: &Call, input: &NewDisk) -> Result<DiskOutcome, Problem> {
    may(&call.caller, Verb::DiskChange)?;
    let invalid = |at: &str, what: String| Err(Problem::new(Code::Invalid, what).at(at));
    if !input.path.starts_with('/') || input.path.len() > 4096 || input.path.contains('\0') {
        return invalid("/path", format!("path \"{}\" is not an absolute path", input.path.escape_debug()));
    }
    if let Some(m) = input.media.as_ref().filter(|m| !["nvme", "ssd", "hdd"].contains(&m.as_str())) {
        return invalid("/media", format!("media \"{m}\" is not one of nvme, ssd, hdd"));
    }
    const LEAST: u64 = 4096;
    if let Some(n) = input.size_bytes.filter(|n| !(LEAST..MOST_INTEGER).contains(n)) {
        return invalid("/size_bytes", format!("size_bytes = {n} is not from {LEAST} to {}", MOST_INTEGER - 1));
    }
    if call.dry_run {
        return invalid("dry_run", "whether a disk can be added shows only when it is formatted".into());
    }
    begin(p, call, Verb::DiskChange).await?;
    let view = p.view();
    let target = match &input.node {
        None => p.here(),
        Some(n) => node_of(&view, n)?.id,
    };
    let verb = NodeVerb::AddDisk { path: input.path.clone(), size: input.size_bytes, media: input.media.clone() };
    let id = match p.on_node(target, verb).await? {
        NodeAnswer::Disk(id) => id,
        other => return Err(Problem::new(Code::Internal, format!("a node answered {other:?} to a new disk"))),
    };
    p.freshen().await;
    until(p, VISIBLE_MS, |s| s.disks.get(&DiskId(id)).map(|_| ())).await;
    let text = p.read(Query::Disk(id)).await?;
    let disk: Disk = serde_json::from_str(&text).map_err(|e| Problem::new(Code::Internal, e.to_string()))?;
    let message = format!("disk {id} added to node {}", view.node_name(target));
    Ok(DiskOutcome { message, revision: p.view().revision, disk })
}

/// Moves a disk's replicas elsewhere, or stops doing so.
pub async fn drain<P: Ports>(p: &P, call: &Call, id: u64, draining: bool) -> Result<Outcome, Problem> {
    let d: Decided =
        decide(p, call, Verb::DiskChange, |s| Ok(Command::SetDiskDraining { disk: disk_of(s, id)?.id, draining }))
            .await?;
    let said = if draining { "is being drained; watch it with holdfast job list" } else { "is in use again" };
    Ok(done(&d, format!("disk {id} {said}")))
}

/// Trusts a disk again that met more bad blocks than its budget allows.
pub async fn trust<P: Ports>(p: &P, call: &Call, id: u64) -> Result<Outcome, Problem> {
    let d = decide(p, call, Verb::DiskChange, |s| trusted(s, id)).await?;
    Ok(done(&d, format!("disk {id} is trusted again")))
}

pub(super) fn trusted(s: &hf_meta_core::ClusterState, id: u64) -> Result<Command, Problem> {
    let d = disk_of(s, id)?;
    if matches!(d.state, DiskState::Failed(_)) {
        return Err(state(format!("disk {id} has failed for good")).so("restart its node once the disk works again"));
    }
    Ok(Command::SetDiskState { disk: d.id, state: DiskState::Ok, fault: None })
}

/// Forgets a disk that holds nothing any more.
pub async fn remove<P: Ports>(p: &P, call: &Call, id: u64) -> Result<Outcome, Problem> {
    let d = decide(p, call, Verb::DiskChange, |s| Ok(Command::RemoveDisk { disk: disk_of(s, id)?.id })).await?;
    Ok(done(&d, format!("disk {id} removed")))
}

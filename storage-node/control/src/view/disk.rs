//! Disks.

use super::{Evidence, Look, evidence};
use crate::model::{Condition, Disk, Slots, Truth, time};
use hf_meta_core::record::{DiskFault, DiskRecord, DiskState};
use hf_meta_core::soft::DiskTold;

/// A disk's state: one word, the kind of its fault, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskLook {
    /// `ok`, `failing`, `failed`, `missing`, `away` or `unknown`.
    pub word: &'static str,
    /// The kind of its fault, if there is one.
    pub fault: Option<DiskFault>,
    /// Why it is not ok; empty if it is.
    pub why: String,
}

impl DiskLook {
    fn new(word: &'static str, fault: Option<DiskFault>, why: impl Into<String>) -> DiskLook {
        DiskLook { word, fault, why: why.into() }
    }

    /// Does it serve, by fresh evidence?
    pub fn serves(&self) -> bool {
        matches!(self.word, "ok" | "failing")
    }
}

/// The words of a fault in JSON.
fn fault_word(f: DiskFault) -> String {
    serde_json::to_value(f).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

fn lost(fault: Option<DiskFault>) -> &'static str {
    match fault {
        Some(DiskFault::Gone | DiskFault::OtherIdentity) => "missing",
        _ => "failed",
    }
}

/// What is known of a disk: by its node, if that answers, and by the record.
pub fn disk_state(look: Look, d: &DiskRecord) -> DiskLook {
    let told = look.soft.and_then(|s| s.disk(d.node, d.id));
    match (&d.state, evidence(look.soft, d.node), told) {
        // What the node itself says now comes first: the record may be behind.
        (_, Evidence::Fresh, Some(t)) if !t.in_service => {
            let (fault, why) = t.fault.clone().map_or((None, "it does not serve".into()), |(f, w)| (Some(f), w));
            DiskLook::new(lost(fault), fault, why)
        }
        (DiskState::Failed(why), ..) => DiskLook::new(lost(d.fault), d.fault, why.clone()),
        (_, Evidence::Silent, _) => DiskLook::new("away", None, "its node does not answer"),
        (_, Evidence::Unknown, _) => DiskLook::new("unknown", None, "its node has not been heard yet"),
        (_, Evidence::Fresh, None) => DiskLook::new("unknown", None, "its node says nothing of it yet"),
        (DiskState::Failing(why), ..) => DiskLook::new("failing", d.fault, why.clone()),
        // It serves, and its node knows of a fault that is not on record yet.
        (DiskState::Ok, _, Some(DiskTold { fault: Some((fault, why)), .. })) => {
            DiskLook::new("failing", Some(*fault), why.clone())
        }
        (DiskState::Ok, ..) => DiskLook::new("ok", None, ""),
    }
}

/// A disk as the API shows it.
pub fn disk(look: Look, d: &DiskRecord) -> Disk {
    let seen = disk_state(look, d);
    let load = look.state.load(d.id);
    let told = look.soft.and_then(|s| s.nodes.get(&d.node)).and_then(|n| n.told.disks.get(&d.id));
    let node = look.state.node_name(d.node);
    let truth = |serves: bool| match seen.word {
        "unknown" => Truth::Unknown,
        _ => serves.into(),
    };
    let reason = if seen.word == "ok" { "" } else { seen.word };
    Disk {
        id: d.id.0,
        revision: d.rev,
        uuid: d.uuid.to_string(),
        node,
        path: d.path.clone(),
        media: d.media.word().into(),
        capacity_bytes: d.capacity,
        used_bytes: told.filter(|t| t.in_service).map(|t| t.used),
        provisioned_bytes: load.placed,
        replica_slots: Slots { used: load.replicas, total: told.map(|t| t.entries).filter(|e| *e > 0) },
        state: seen.word.into(),
        why: Some(seen.why.clone()).filter(|w| !w.is_empty()),
        fault: seen.fault.map(fault_word),
        since: time(d.since_ms),
        draining: d.draining,
        held: d.drain_paused,
        backend: told.map(|t| t.backend.clone()).filter(|b| !b.is_empty()),
        conditions: vec![
            Condition::new("InService", truth(seen.serves()), reason, seen.why.clone()),
            Condition::new("Healthy", truth(seen.word == "ok"), reason, seen.why.clone()),
        ],
        health: look.alerts.about(&format!("disk/{}", d.id)),
    }
}

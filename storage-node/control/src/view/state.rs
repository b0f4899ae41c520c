//! A volume's state: how many copies of each shard answer, and what follows from that.

use super::{Evidence, Look, copy_state, evidence};
use crate::model::{CopyState, VolumeState};
use hf_meta_core::record::{Attachment, ShardRecord, VolumeRecord};
use hf_meta_core::soft::FRESH_MS;
use hf_policy::{NodeId, Policy, Term};

/// Copies of one shard, by what is known of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardCount {
    /// Copies that are in sync and answer.
    pub ok: u32,
    /// In sync by the record, but there is no fresh evidence yet.
    pub unknown: u32,
    /// In sync by the record, but the node or the disk does not answer.
    pub down: u32,
    /// Not made yet.
    pub creating: u32,
    /// Out, or being caught up.
    pub out: u32,
}

/// What a volume's state follows from.
#[derive(Clone, Debug)]
pub struct VolumeLook {
    /// Its state in one word.
    pub state: VolumeState,
    /// Why it is not ok, in a sentence.
    pub why: Option<String>,
    /// The shard with the fewest copies that answer.
    pub worst: ShardCount,
    /// Does it serve clients? None: it is not attached, or there is no evidence.
    pub serving: Option<bool>,
    /// What it waits for if it is attached and not known to serve.
    pub serving_why: Option<String>,
}

/// The node to which a volume is attached for clients.
pub(super) fn attached_to(a: &Attachment) -> Option<NodeId> {
    a.home.or(if a.maintenance { None } else { Some(a.node) })
}

fn count(look: Look, shard: &ShardRecord, first_why: &mut Option<String>) -> ShardCount {
    let mut c = ShardCount::default();
    for r in shard.replicas.values() {
        let (state, why) = copy_state(look, r);
        let in_sync = r.in_sync() && r.store_uuid.is_some();
        match state {
            CopyState::InSync => c.ok += 1,
            CopyState::Unknown => c.unknown += 1,
            CopyState::Away | CopyState::DiskDown if in_sync => c.down += 1,
            CopyState::Creating => c.creating += 1,
            CopyState::Away | CopyState::DiskDown if r.in_sync() => c.creating += 1,
            CopyState::Away | CopyState::DiskDown | CopyState::Out | CopyState::Syncing => c.out += 1,
        }
        if state != CopyState::InSync && first_why.is_none() {
            *first_why = why.map(|w| format!("replica {}: {w}", r.rid));
        }
    }
    c
}

/// Whether the volume is served: none if it is not attached, or there is no evidence.
fn serving(look: Look, v: &VolumeRecord) -> (Option<bool>, Option<String>) {
    let Some(node) = v.coordinator.as_ref().and_then(attached_to) else { return (None, None) };
    let name = || look.state.node_name(node);
    // What a node tells of an attachment before this one is no evidence: it may be fenced and not know it yet.
    let session = v.coordinator.as_ref().map(|a| a.session);
    let since = v.coordinator.as_ref().map_or(0, |a| a.since_ms);
    let told = look.soft.and_then(|s| s.volume(node, v.id)).filter(|t| Some(t.session) == session);
    match (evidence(look.soft, node), told) {
        (Evidence::Unknown, _) => (None, Some(format!("node {} has not been heard yet", name()))),
        (Evidence::Silent, _) => (Some(false), Some(format!("node {} does not answer", name()))),
        (Evidence::Fresh, Some(t)) if t.serving => (Some(true), None),
        (Evidence::Fresh, Some(t)) if !t.waits_for.is_empty() => (Some(false), Some(t.waits_for.clone())),
        (Evidence::Fresh, Some(_)) => (Some(false), Some(format!("node {} does not serve it", name()))),
        // It may have begun a moment ago, before the node's last heartbeat.
        (Evidence::Fresh, None) if look.wall_ms < since.saturating_add(FRESH_MS) => {
            (None, Some(format!("node {} has not told yet whether it serves it", name())))
        }
        (Evidence::Fresh, None) => (Some(false), Some(format!("node {} does not serve it", name()))),
    }
}

/// What a volume's state follows from.
pub fn look_at(look: Look, v: &VolumeRecord) -> VolumeLook {
    let mut first_why = None;
    let policy = v.policy().ok();
    let (wanted, least) = policy.map_or((1, 1), |p: &Policy| (p.replicas, p.min_replicas));
    let begun = v.begun() as usize;
    let mut worst: Option<ShardCount> = None;
    for shard in v.shards.iter().take(begun.max(1)) {
        let c = count(look, shard, &mut first_why);
        if worst.is_none_or(|w| (c.ok, c.ok + c.unknown) < (w.ok, w.ok + w.unknown)) {
            worst = Some(c);
        }
    }
    let worst = worst.unwrap_or_default();
    let (serving, serving_why) = serving(look, v);
    let attached = v.coordinator.as_ref().is_some_and(|a| attached_to(a).is_some());
    let state = match () {
        () if policy.is_none() => VolumeState::Unavailable,
        () if v.term == Term(0) && !v.ready() => VolumeState::Creating,
        () if worst.ok == 0 && worst.unknown > 0 => VolumeState::Unknown,
        () if worst.ok == 0 => VolumeState::Unavailable,
        () if serving == Some(false) => VolumeState::NotServed,
        () if worst.ok < least && worst.ok + worst.unknown < least => VolumeState::WritesWait,
        () if worst.unknown > 0 || attached && serving.is_none() => VolumeState::Unknown,
        // A copy beyond those that the policy asks for, such as one that is filled to move another, is not missed.
        () if worst.ok < wanted => VolumeState::Degraded,
        () if v.made_size() < v.size => VolumeState::Growing,
        () => VolumeState::Ok,
    };
    let why = match state {
        VolumeState::Ok => None,
        VolumeState::NotServed => serving_why.clone(),
        VolumeState::Growing => Some("replicas of the new part are being created".into()),
        VolumeState::Unavailable if policy.is_none() => Some("this release cannot read its policy".into()),
        VolumeState::Unknown if serving.is_none() && serving_why.is_some() => serving_why.clone(),
        _ => first_why.or(Some(format!("{} of {wanted} copies", worst.ok))),
    };
    VolumeLook { state, why, worst, serving, serving_why }
}

/// A volume's state in one word.
pub fn volume_state(look: Look, v: &VolumeRecord) -> VolumeState {
    look_at(look, v).state
}

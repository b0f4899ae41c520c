//! Volumes.

use super::state::attached_to;
use super::{Look, VolumeLook, job, look_at, replica};
use crate::model::{Attachment, Condition, Replica, Scrubbed, Truth, Volume, VolumeSpec, time};
use hf_meta_core::record::VolumeRecord;

/// Replicas of a volume that are shown in a list.
const IN_LIST: usize = 16;

/// A volume as the API shows it, with all its replicas.
pub fn volume(look: Look, v: &VolumeRecord) -> Volume {
    shown(look, v, usize::MAX)
}

/// A volume as a list shows it: with its first replicas only.
pub fn volume_in_list(look: Look, v: &VolumeRecord) -> Volume {
    shown(look, v, IN_LIST)
}

fn shown(look: Look, v: &VolumeRecord, replicas: usize) -> Volume {
    let seen = look_at(look, v);
    let wanted = v.policy().map_or(0, |p| p.replicas);
    let used: Option<u64> =
        look.soft.and_then(|s| v.replicas().try_fold(0u64, |sum, (_, r)| Some(sum + s.replica_bytes(r.node, r.rid)?)));
    Volume {
        id: v.id.0,
        name: v.name.clone(),
        revision: v.rev,
        epoch: v.epoch.0,
        created_at: time(v.created_ms),
        labels: v.policy().map(|p| p.labels.clone()).unwrap_or_default(),
        spec: VolumeSpec::shown(&v.attrs),
        effective: VolumeSpec::effective(&v.attrs),
        size_bytes: v.size,
        usable_bytes: v.made_size(),
        used_bytes: used,
        state: seen.state,
        why: seen.why.clone(),
        conditions: conditions(v, &seen),
        health: look.alerts.about(&format!("volume/{}", v.name)),
        attachment: attachment(look, v, &seen),
        copies_ok: seen.worst.ok,
        copies_wanted: wanted,
        replicas: some_replicas(look, v, replicas),
        replicas_total: v.replicas().count() as u64,
        jobs: job::names_about(look, v),
        scrubbed: v.scrubbed.map(|s| Scrubbed {
            at: time(s.at_ms),
            chunks: s.report.chunks,
            skipped: s.report.skipped,
            bad: s.report.bad + s.report.behind,
            repaired: s.report.repaired,
            lost: s.report.lost,
            diverged: s.report.diverged,
        }),
    }
}

fn some_replicas(look: Look, v: &VolumeRecord, most: usize) -> Vec<Replica> {
    v.replicas().take(most).map(|(shard, r)| replica(look, v, shard, r)).collect()
}

fn conditions(v: &VolumeRecord, seen: &VolumeLook) -> Vec<Condition> {
    let policy = v.policy().ok();
    let (wanted, least, read_only) = policy.map_or((1, 1, false), |p| (p.replicas, p.min_replicas, p.read_only));
    let attached = v.coordinator.as_ref().is_some_and(|a| attached_to(a).is_some());
    let why = seen.serving_why.clone().unwrap_or_default();
    let (ok, unknown) = (seen.worst.ok, seen.worst.unknown);
    let enough = |n: u32| match () {
        () if ok >= n => Truth::True,
        () if ok + unknown >= n => Truth::Unknown,
        () => Truth::False,
    };
    let copies = format!("{ok} of {wanted} copies answer");
    let ready = v.ready();
    let served = match (attached, seen.serving) {
        (false, _) => Condition::new("Served", false, "NotAttached", "it is not attached"),
        (true, Some(true)) => Condition::new("Served", true, "", ""),
        (true, Some(false)) => Condition::new("Served", false, "Waits", why.clone()),
        (true, None) => Condition::new("Served", Truth::Unknown, "NoEvidence", why.clone()),
    };
    let writable = match (read_only, served.status) {
        (true, _) => Condition::new("Writable", false, "ReadOnly", "its policy says read_only=true"),
        (false, Truth::True) => Condition::new("Writable", enough(least), "Copies", copies.clone()),
        (false, other) => Condition::new("Writable", other, "NotServed", ""),
    };
    let moving = v.replicas().any(|(_, r)| r.moving || r.leaving);
    let mut all = vec![
        Condition::new(
            "Ready",
            ready,
            if ready { "" } else { "Creating" },
            if ready { "" } else { "replicas are still being created" },
        ),
        Condition::new("Attached", attached, "", ""),
        served,
        writable,
        Condition::new("Redundant", enough(wanted), "Copies", copies),
        Condition::new(
            "Placed",
            !moving,
            if moving { "Moving" } else { "" },
            if moving { "replicas are to live elsewhere" } else { "" },
        ),
    ];
    all.iter_mut().for_each(|c| c.observed_epoch = Some(v.epoch.0));
    all
}

fn attachment(look: Look, v: &VolumeRecord, seen: &VolumeLook) -> Option<Attachment> {
    let a = v.coordinator.as_ref()?;
    let node = attached_to(a)?;
    let told = look.soft.and_then(|s| s.volume(node, v.id));
    let nbd = look.state.nodes.get(&node).map(|n| n.addr.nbd.as_str()).filter(|a| !a.is_empty());
    let exported = v.policy().is_ok_and(|p| p.exports.nbd);
    let waits = seen.serving_why.clone();
    Some(Attachment {
        node: look.state.node_name(node),
        term: u64::from(v.term.0),
        since: time(a.since_ms),
        serving: seen.serving,
        waits_for: waits,
        clients: told.map(|t| t.connections),
        uris: nbd.filter(|_| exported).map(|addr| format!("nbd://{addr}/{}", v.name)).into_iter().collect(),
        looked_after_by: (a.home.is_some()).then(|| look.state.node_name(a.node)),
    })
}

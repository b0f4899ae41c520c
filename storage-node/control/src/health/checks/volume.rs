//! What is wrong with a volume.

use super::{Findings, Seen};
use crate::health::HealthCode as Code;
use crate::model::{VolumeState, time};
use crate::view::{VolumeLook, look_at};
use hf_meta_core::plan::{Standing, standing};
use hf_meta_core::record::VolumeRecord;
use hf_policy::Policy;
use hf_policy::placement::{self, DiskView};
use std::collections::BTreeSet;

/// Disks whose reasons a message names, if none can take a copy.
const REASONS: usize = 3;

/// What is wrong with a volume, and its state in one word.
pub fn volume(seen: &Seen, v: &VolumeRecord) -> (VolumeState, Findings) {
    let at = look_at(seen.look(), v);
    let mut found = Findings::new(seen.soft.is_some() && at.state != VolumeState::Unknown);
    match v.policy() {
        Ok(policy) => {
            copies(v, policy, &at, &mut found);
            unplaced(seen, v, policy, &mut found);
            scrub(seen, v, policy, &mut found);
        }
        Err(e) => found.add(Code::VolumeUnavailable, format!("this release cannot read its policy: {e}")),
    }
    if let Some(text) = seen.stuck.get(&v.id) {
        found.add(Code::JobStuck, text);
    }
    if v.scrub.as_ref().is_some_and(|s| s.paused) {
        found.add(Code::Held, "its scrub is held");
    } else if let Some((_, r)) = v.replicas().find(|(_, r)| r.paused) {
        let what = if r.moving { "move" } else { "filling" };
        found.add(Code::Held, format!("the {what} of replica {} is held", r.rid));
    }
    (at.state, found)
}

/// Too few copies, or nobody who serves them.
fn copies(v: &VolumeRecord, policy: &Policy, at: &VolumeLook, found: &mut Findings) {
    if at.state == VolumeState::Creating {
        return; // Lawful: nothing was ever written, and its replicas are being made.
    }
    let (c, wanted) = (at.worst, policy.replicas);
    // A copy of which nothing is known yet has the benefit of the doubt: the findings are not sure then.
    let can = c.ok + c.unknown;
    let why = match at.state {
        VolumeState::NotServed | VolumeState::Unknown => None,
        _ => at.why.as_ref(),
    };
    let why = why.map_or(String::new(), |w| format!(": {w}"));
    let text = format!("{can} of {wanted} copies answer{why}");
    match () {
        () if can == 0 => found.add(Code::VolumeUnavailable, text),
        () if can < policy.min_replicas => {
            found.add(Code::VolumeWritesWait, format!("{text}; min_replicas is {}", policy.min_replicas));
        }
        () if can < wanted => found.add(Code::VolumeDegraded, text),
        () => {}
    }
    if at.serving == Some(false) && can > 0 {
        let why = Some(at.state == VolumeState::NotServed).filter(|x| *x).and(at.why.clone());
        found.add(Code::VolumeNotServed, why.unwrap_or("the node that has it attached does not serve it".into()));
    }
    let report = v.scrubbed.map(|s| s.report).unwrap_or_default();
    if report.lost > 0 || report.diverged > 0 {
        let (lost, diverged) = (report.lost, report.diverged);
        found.add(Code::VolumeBlocksLost, format!("the last scrub met {lost} lost and {diverged} diverged blocks"));
    }
}

/// A copy is missing or may not stay, no replica is there to take its place, and no disk can take one.
fn unplaced(seen: &Seen, v: &VolumeRecord, policy: &Policy, found: &mut Findings) {
    let want = policy.replicas as usize;
    if seen.state.rebuild_paused {
        return; // Lawful: an operator holds it, which has a code of its own.
    }
    let Some((live, pool)) = seen.pool() else { return };
    for (index, s) in (0u32..).zip(&v.shards) {
        let stays = |r: &&hf_meta_core::ReplicaRecord| standing(seen.state, live, policy, r) == Standing::Keep;
        let keep: Vec<_> = s.replicas.values().filter(stays).collect();
        if keep.len() >= want {
            continue;
        }
        let domain = |d: &DiskView| placement::domain_of(policy.failure_domain, d);
        let of = |d: &&DiskView| keep.iter().any(|r| r.disk == d.disk);
        let taken: BTreeSet<String> = pool.iter().filter(of).filter_map(domain).collect();
        let free = |d: &&DiskView| {
            !s.replicas.values().any(|r| r.disk == d.disk) && domain(d).is_none_or(|name| !taken.contains(&name))
        };
        let willing = |d: &&DiskView| !live.refusing.contains(&d.disk);
        let choice: Vec<DiskView> = pool.iter().filter(free).filter(willing).cloned().collect();
        let one = Policy { replicas: 1, min_replicas: 1, ..policy.clone() };
        let Err(refusal) = placement::place(&one, v.shard_bytes(index), &choice, 0) else { continue };
        let reasons = refusal.rejections.iter().take(REASONS);
        let mut text = format!("no disk can take a copy of shard {index}");
        match choice.is_empty() {
            true => text += ": every disk holds one already, or shares a failure domain with one that does",
            false => {
                reasons.for_each(|r| text += &format!("; disk {} of node {}: {} ({})", r.disk, r.node, r.why, r.rule))
            }
        }
        found.add(Code::VolumeUnplaced, text);
        return;
    }
}

fn scrub(seen: &Seen, v: &VolumeRecord, policy: &Policy, found: &mut Findings) {
    let every = policy.scrub_interval / 1000;
    let last = v.scrubbed.map_or(v.created_ms, |s| s.at_ms);
    if every > 0 && v.attachable() && seen.wall_ms >= last.saturating_add(every.saturating_mul(2)) {
        let when = time(last).unwrap_or_default();
        let what =
            if v.scrubbed.is_some() { "the last scrub ended" } else { "it was never scrubbed since it was created" };
        found.add(Code::ScrubOverdue, format!("{what} at {when}"));
    }
}

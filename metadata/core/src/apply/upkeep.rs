//! Upkeep: scrubs, moves of replicas, rebalancing, and jobs that are held. The records say what is wanted; coordinators
//! and the leader carry it out.

use super::absent::{no_replica, no_shard};
use super::misrouted;
use crate::command::{Command, Envelope, Job};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::record::*;
use hf_policy::{DiskId, Epoch, NodeId, Rid, VolumeId};

/// Notes the report of a shard that is scrubbed.
pub(super) fn scrub_of(v: &mut VolumeRecord, shard: u32, id: u64, report: ScrubReport) -> Result<(), Refusal> {
    let shards = v.shards.len();
    let Some(s) = v.scrub.as_mut().filter(|s| s.id == id) else {
        return Err(Refusal::Invalid("that scrub is over".into()));
    };
    if shard as usize >= shards {
        return Err(no_shard(shard));
    }
    s.done.insert(shard, report);
    Ok(())
}

/// Ends the scrub if every shard that is part of the volume is scrubbed; returns the sum of the reports. A
/// shard that is still to be made holds nothing.
pub(super) fn end_scrub(v: &mut VolumeRecord, env: &Envelope) -> Option<ScrubReport> {
    let shards = if env.v < 2 { v.shards.len() as u32 } else { v.begun() };
    let s = v.scrub.as_ref().filter(|s| (0..shards).all(|i| s.done.contains_key(&i)))?;
    let all = s.done.values().fold(ScrubReport::default(), |a, b| a.plus(*b));
    v.scrub = None;
    v.scrubbed = Some(ScrubResult { at_ms: env.at_ms, report: all });
    Some(all)
}

impl ClusterState {
    pub(super) fn scrub(&mut self, at_ms: u64, vol: VolumeId, epoch: Epoch, on: bool) -> Outcome {
        let mut v = self.volume_at(vol, epoch)?.clone();
        if v.scrub.is_some() == on {
            return Ok(Reply::Done); // Lawful: the state is the one that is asked for.
        }
        let name = v.name.clone();
        v.scrub =
            on.then(|| ScrubRecord { id: self.revision, since_ms: at_ms, done: Default::default(), paused: false });
        self.put_volume(v);
        let text = if on { "scrub begins" } else { "scrub given up" };
        self.event(at_ms, EventKind::VolumeScrub, name.clone(), format!("volume {name}: {text}"));
        Ok(Reply::Done)
    }

    pub(super) fn scrubbed(&mut self, env: &Envelope) -> Outcome {
        let Command::Scrubbed { vol, shard, epoch, term, id, report } = &env.cmd else { return misrouted(env) };
        let mut v = self.volume_of(*vol, *epoch, *term)?.clone();
        scrub_of(&mut v, *shard, *id, *report)?;
        let all = end_scrub(&mut v, env);
        let name = v.name.clone();
        self.put_volume(v);
        self.tell_scrub(env.at_ms, &name, all, &[(*shard, *report)]);
        Ok(Reply::Done)
    }

    /// Makes events of what a scrub met: its sum, if it is over, and what cannot be repaired.
    pub(super) fn tell_scrub(
        &mut self,
        at_ms: u64,
        name: &str,
        over: Option<ScrubReport>,
        parts: &[(u32, ScrubReport)],
    ) {
        if let Some(all) = over {
            let text = format!(
                "volume {name} scrubbed: {} chunks, {} bad blocks, {} behind, {} repaired, {} lost, {} diverged, {} chunks skipped",
                all.chunks, all.bad, all.behind, all.repaired, all.lost, all.diverged, all.skipped
            );
            self.event(at_ms, EventKind::VolumeScrubbed, name, text);
        }
        for (shard, report) in parts.iter().filter(|(_, r)| r.lost + r.diverged + r.behind > 0) {
            let text = format!(
                "volume {name} shard {shard}: {} blocks are lost on every replica, {} differ though their versions are equal, {} had lost a write (repaired)",
                report.lost, report.diverged, report.behind
            );
            self.event(at_ms, EventKind::VolumeDamaged, name, text);
        }
    }

    pub(super) fn move_replica(&mut self, vol: VolumeId, shard: u32, epoch: Epoch, rid: Rid, moving: bool) -> Outcome {
        let mut v = self.volume_at(vol, epoch)?.clone();
        let s = v.shards.get_mut(shard as usize).ok_or_else(|| no_shard(shard))?;
        let r = s.replicas.get_mut(&rid).ok_or_else(|| no_replica(rid))?;
        if r.leaving && !moving {
            return Err(Refusal::State(format!("replica #{rid} leaves already: its successor is in sync")));
        }
        r.moving = moving;
        r.paused = false;
        self.put_volume(v);
        Ok(Reply::Done)
    }

    pub(super) fn rebalance(&mut self, at_ms: u64, on: bool) -> Outcome {
        if self.rebalancing == on {
            return Ok(Reply::Done); // Lawful: the state is the one that is asked for.
        }
        (self.rebalancing, self.rebalance_paused) = (on, false);
        let text = if on { "replicas move from full disks to empty ones" } else { "rebalancing is over" };
        self.event(at_ms, EventKind::Rebalance, "cluster", text);
        Ok(Reply::Done)
    }

    pub(super) fn pause_job(&mut self, at_ms: u64, of: Job, paused: bool) -> Outcome {
        let name = match of {
            Job::Node(id) => self.pause_node(id, paused),
            Job::Disk(id) => self.pause_disk(id, paused),
            Job::Rebalance if self.rebalancing => {
                self.rebalance_paused = paused;
                Ok("the rebalancing".to_string())
            }
            Job::Rebalance => Err(Refusal::State("no rebalancing goes on".into())),
            Job::Scrub(vol) => self.pause_scrub(vol, paused),
            Job::Replica(rid) => self.pause_replica(rid, paused),
        }?;
        let word = if paused { "is held" } else { "goes on" };
        self.event(at_ms, EventKind::Job, name.clone(), format!("{name} {word}"));
        Ok(Reply::Done)
    }

    fn pause_node(&mut self, id: NodeId, paused: bool) -> Result<String, Refusal> {
        let rev = self.revision;
        let n = self.nodes.get(&id).ok_or_else(|| not_found("node", id.0))?;
        if n.mode != NodeMode::Draining {
            return Err(Refusal::State(format!("node {} is not being drained", n.name)));
        }
        let name = format!("the drain of node {}", n.name);
        self.nodes.update(&id, |n| (n.drain_paused, n.rev) = (paused, rev));
        Ok(name)
    }

    fn pause_disk(&mut self, id: DiskId, paused: bool) -> Result<String, Refusal> {
        let rev = self.revision;
        let d = self.disks.get(&id).ok_or_else(|| not_found("disk", id.0))?;
        if !d.draining {
            return Err(Refusal::State(format!("disk {id} is not being drained")));
        }
        self.disks.update(&id, |d| (d.drain_paused, d.rev) = (paused, rev));
        Ok(format!("the drain of disk {id}"))
    }

    fn pause_scrub(&mut self, vol: VolumeId, paused: bool) -> Result<String, Refusal> {
        let mut v = self.volume(vol)?.clone();
        let name = v.name.clone();
        let Some(s) = v.scrub.as_mut() else {
            return Err(Refusal::State(format!("volume {name} is not being scrubbed")));
        };
        s.paused = paused;
        self.put_volume(v);
        Ok(format!("the scrub of volume {name}"))
    }

    fn pause_replica(&mut self, rid: Rid, paused: bool) -> Result<String, Refusal> {
        let mut v = VolumeRecord::clone(self.volume_of_replica(rid).ok_or_else(|| no_replica(rid))?);
        let Some(r) = v.shards.iter_mut().find_map(|s| s.replicas.get_mut(&rid)) else { return Err(no_replica(rid)) };
        if r.leaving {
            return Err(Refusal::State(format!("replica #{rid} leaves already: its successor is in sync")));
        }
        if r.in_sync() && !r.moving {
            return Err(Refusal::State(format!(
                "replica #{rid} is in sync and nothing of its own goes on (a drain that moves it is held as node/NAME or disk/ID)"
            )));
        }
        r.paused = paused;
        let name = format!("replica {rid} of volume {}", v.name);
        self.put_volume(v);
        Ok(name)
    }
}

fn not_found(kind: &str, id: u64) -> Refusal {
    Refusal::NotFound { kind: kind.into(), name: format!("#{id}") }
}

//! Upkeep: scrubs, moves of replicas, rebalancing. What the records say is wanted; coordinators and the leader carry it out.

use super::membership::{no_replica, no_shard};
use crate::command::{Command, Envelope, Outcome, Refusal, Reply};
use crate::record::*;
use hf_policy::{Epoch, Rid, VolumeId};

impl ClusterState {
    pub(super) fn scrub(&mut self, at_ms: u64, vol: VolumeId, epoch: Epoch, on: bool) -> Outcome {
        let mut v = self.volume_at(vol, epoch)?.clone();
        if v.scrub.is_some() == on {
            return Ok(Reply::Done);
        }
        let name = v.name.clone();
        v.scrub = on.then(|| ScrubRecord { id: self.revision, since_ms: at_ms, done: Default::default() });
        self.put_volume(v);
        let text = if on { "scrub begins" } else { "scrub given up" };
        self.event(at_ms, "volume.scrub", name.clone(), format!("volume {name}: {text}"));
        Ok(Reply::Done)
    }

    pub(super) fn scrubbed(&mut self, env: &Envelope) -> Outcome {
        let Command::Scrubbed { vol, shard, epoch, term, id, report } = &env.cmd else { return Ok(Reply::Done) };
        let mut v = self.volume_of(*vol, *epoch, *term)?.clone();
        let shards = v.shards.len();
        let Some(s) = v.scrub.as_mut().filter(|s| s.id == *id) else {
            return Err(Refusal::Invalid("that scrub is over".into()));
        };
        if *shard as usize >= shards {
            return Err(no_shard(*shard));
        }
        s.done.insert(*shard, *report);
        let over = s.done.len() == shards;
        let (name, all) = (v.name.clone(), s.done.values().fold(ScrubReport::default(), |a, b| a.plus(*b)));
        if over {
            v.scrub = None;
            v.scrubbed = Some(ScrubResult { at_ms: env.at_ms, report: all });
        }
        self.put_volume(v);
        if over {
            let text = format!(
                "volume {name} scrubbed: {} chunks, {} bad blocks, {} behind, {} repaired, {} lost, {} diverged, {} chunks skipped",
                all.chunks, all.bad, all.behind, all.repaired, all.lost, all.diverged, all.skipped
            );
            self.event(env.at_ms, "volume.scrubbed", name.clone(), text);
        }
        if report.lost + report.diverged + report.behind > 0 {
            let text = format!(
                "volume {name} shard {shard}: {} blocks are lost on every replica, {} differ though their versions are equal, {} had lost a write (repaired)",
                report.lost, report.diverged, report.behind
            );
            self.event(env.at_ms, "volume.damaged", name, text);
        }
        Ok(Reply::Done)
    }

    pub(super) fn move_replica(&mut self, vol: VolumeId, shard: u32, epoch: Epoch, rid: Rid, moving: bool) -> Outcome {
        let mut v = self.volume_at(vol, epoch)?.clone();
        let s = v.shards.get_mut(shard as usize).ok_or_else(|| no_shard(shard))?;
        let r = s.replicas.get_mut(&rid).ok_or_else(|| no_replica(rid))?;
        if r.leaving && !moving {
            return Err(Refusal::Invalid(format!("replica #{rid} leaves already: its successor is in sync")));
        }
        r.moving = moving;
        self.put_volume(v);
        Ok(Reply::Done)
    }

    pub(super) fn rebalance(&mut self, at_ms: u64, on: bool) -> Outcome {
        if self.rebalancing == on {
            return Ok(Reply::Done);
        }
        self.rebalancing = on;
        let text = if on { "replicas move from full disks to empty ones" } else { "rebalancing is over" };
        self.event(at_ms, "rebalance", "cluster", text);
        Ok(Reply::Done)
    }
}

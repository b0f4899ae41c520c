//! Changes that the coordinators of several shards of a volume ask for at once. When a node goes it concerns all of
//! them; as single commands at the same epoch, only one of them could win.

use super::dropped::{Gone, Leavers, drop_of};
use super::membership::add_to;
use super::misrouted;
use super::upkeep::{end_scrub, scrub_of};
use crate::command::{Command, Envelope, ShardChange, ShardStep};
use crate::mutant::{self, Mutant};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::record::*;
use hf_policy::{NodeId, Rid};
use std::collections::{BTreeMap, BTreeSet};

/// The changes that were done, for the events.
#[derive(Default)]
struct Done {
    /// By node: the members that were dropped, each with the number that is left in its shard.
    dropped: BTreeMap<NodeId, Vec<(Gone, usize)>>,
    added: Vec<(Rid, NodeId)>,
    scrubbed: Vec<(u32, ScrubReport)>,
}

impl Done {
    fn one(&mut self, v: &mut VolumeRecord, c: &ShardChange, at_ms: u64) -> Result<(), Refusal> {
        match &c.what {
            ShardStep::Drop { rids, base, told, reasons } => {
                let gone = match drop_of(v, c.shard, &Leavers { rids, base: *base, told, reasons, at_ms }) {
                    Err(Refusal::LastReplica) if mutant::is(Mutant::TogetherDropsLast) => {
                        let all = v.shards[c.shard as usize].replicas.values_mut();
                        all.for_each(|r| r.state = ReplicaState::Out { base: *base });
                        Vec::new()
                    }
                    other => other?,
                };
                let left = v.shards.get(c.shard as usize).map_or(0, |s| s.in_sync().len());
                gone.into_iter().for_each(|g| self.dropped.entry(g.node).or_default().push((g, left)));
            }
            ShardStep::Add { rid, store_uuid } => {
                let node = add_to(v, c.shard, *rid, *store_uuid)?;
                self.added.push((*rid, node));
            }
            ShardStep::Scrubbed { id, report } => {
                scrub_of(v, c.shard, *id, *report)?;
                self.scrubbed.push((c.shard, *report));
            }
        }
        Ok(())
    }
}

impl ClusterState {
    pub(super) fn together(&mut self, env: &Envelope) -> Outcome {
        let Command::Together { vol, epoch, term, changes } = &env.cmd else { return misrouted(env) };
        let mut v = self.volume_of(*vol, *epoch, *term)?.clone();
        let (mut done, mut shards) = (Done::default(), BTreeSet::new());
        let (mut first, mut any) = (None, false);
        for c in changes {
            // A second change of a shard was decided without knowledge of the first.
            let fresh = shards.insert(c.shard);
            let outcome = match fresh {
                true => done.one(&mut v, c, env.at_ms),
                false => Err(Refusal::EpochMismatch { now: v.epoch.0 }),
            };
            match outcome {
                Ok(()) => any = true,
                Err(_) if mutant::is(Mutant::TogetherStopsAtRefusal) => break,
                Err(e) => drop(first.get_or_insert(e)),
            }
        }
        if !any {
            return Err(first.unwrap_or(Refusal::Invalid("no change is asked for".into())));
        }
        let over = end_scrub(&mut v, env).filter(|_| !done.scrubbed.is_empty());
        let name = v.name.clone();
        self.put_volume(v);
        self.tell_together(env, &name, &done);
        self.tell_scrub(env.at_ms, &name, over, &done.scrubbed);
        Ok(Reply::Done)
    }

    /// One event for each node, however many shards it concerns.
    fn tell_together(&mut self, env: &Envelope, name: &str, done: &Done) {
        for (node, gone) in &done.dropped {
            let text = self.text_of_drops(env.v, name, *node, gone);
            self.event(env.at_ms, EventKind::ReplicaDropped, name, text);
        }
        for (rid, node) in &done.added {
            let text = format!("volume {name}: replica {rid} on node {} is in sync", self.node_name(*node));
            self.event(env.at_ms, EventKind::ReplicaInsync, name, text);
        }
    }
}

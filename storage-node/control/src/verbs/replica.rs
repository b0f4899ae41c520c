//! Replicas: where they live, and the last resort.

use super::decide::{Call, begin, decide, decided, find};
use super::state;
use crate::access::Verb;
use crate::error::{Code, Problem};
use crate::model::{ForceInsync, Outcome};
use crate::ports::Ports;
use hf_meta_core::record::{ReplicaRecord, VolumeRecord};
use hf_meta_core::{ClusterState, Command};
use hf_policy::{Lineage, NodeId, Rid};
use std::collections::BTreeSet;

/// Moves a replica to another disk: it is copied first, then removed where it was.
pub async fn relocate<P: Ports>(p: &P, call: &Call, id: u64) -> Result<Outcome, Problem> {
    let mut said = String::new();
    let d = decide(p, call, Verb::ReplicaMove, |s| {
        let (cmd, name) = command(s, id, true)?;
        said = format!("replica {id} of volume {name} moves elsewhere; watch it with holdfast job list");
        Ok(cmd)
    })
    .await?;
    Ok(super::done(&d, said))
}

/// The command that moves a replica, or leaves it where it is, and the name of its volume.
pub(super) fn command(s: &ClusterState, id: u64, moving: bool) -> Result<(Command, String), Problem> {
    let found = s.volume_of_replica(Rid(id)).and_then(|v| Some((v, v.replicas().find(|(_, r)| r.rid.0 == id)?.0)));
    let (v, shard) = found.ok_or_else(|| Problem::no("replica", &id.to_string()))?;
    Ok((Command::Move { vol: v.id, shard: shard.index, epoch: v.epoch, rid: Rid(id), moving }, v.name.clone()))
}

/// The last resort when no in-sync replica will ever come back: one replica is declared the truth. It is refused unless
/// the volume's name is given once more, and while a member of the in-sync set may still answer.
pub async fn force<P: Ports>(p: &P, call: &Call, name: &str, input: &ForceInsync) -> Result<Outcome, Problem> {
    begin(p, call, Verb::VolumeForceInsync).await?;
    let up = p.liveness().await.map(|l| l.up).ok_or_else(|| {
        Problem::new(Code::NoLeader, "no metadata leader answers").because("so it is unknown which nodes live")
    })?;
    let lineage = Lineage(p.random());
    let mut known = None;
    let d = decided(p, call, |s| {
        let v = find(s, call, name, &mut known)?;
        forced(s, &v, name, input, &up, lineage)
    })
    .await?;
    Ok(super::done(
        &d,
        format!("replica {} of volume {name} is the truth now, under a new lineage; attach the volume", input.replica),
    ))
}

fn forced(
    s: &ClusterState,
    v: &VolumeRecord,
    name: &str,
    input: &ForceInsync,
    up: &BTreeSet<NodeId>,
    lineage: Lineage,
) -> Result<Command, Problem> {
    if input.confirm != name {
        return Err(Problem::new(
            Code::Invalid,
            format!("this declares one replica of {name} the truth and abandons what only the others hold"),
        )
        .so(format!("if you mean it, confirm with --confirm {name}"))
        .at("/confirm"));
    }
    let rid = Rid(input.replica);
    let found = v.replicas().find(|(_, r)| r.rid == rid);
    let (shard, replica) = found.ok_or_else(|| Problem::no("replica", &rid.to_string()))?;
    let Some(all) = v.shards.get(shard.index as usize) else { return Err(Problem::no("replica", &rid.to_string())) };
    if replica.in_sync() && all.in_sync().len() == 1 {
        return Err(state("that replica is already the only one in sync").so("attach the volume"));
    }
    if replica.store_uuid.is_none() {
        return Err(state(format!("replica {rid} was never filled")).because("it holds nothing"));
    }
    let works = |r: &ReplicaRecord| up.contains(&r.node) && s.disk_works(r.disk);
    if let Some(other) = all.replicas.values().find(|o| o.in_sync() && o.rid != rid && works(o)) {
        let node = s.node_name(other.node);
        return Err(state(format!("replica {} on node {node} is in sync and may still answer", other.rid))
            .so("attach the volume; or, if it is lost for good, stop that node first"));
    }
    Ok(Command::ForceInsync {
        vol: v.id,
        shard: shard.index,
        epoch: v.epoch,
        rid,
        lineage,
        operator: input.operator.clone(),
        reason: input.reason.clone(),
    })
}

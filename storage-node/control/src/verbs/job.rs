//! Jobs: hold them, let them go on, give them up.

use super::decide::{Call, decide};
use super::{disk_of, done, node_of, state};
use crate::access::Verb;
use crate::error::{Code, Problem};
use crate::model::Outcome;
use crate::ports::Ports;
use crate::view::REBALANCE;
use hf_meta_core::command::Job;
use hf_meta_core::record::NodeMode;
use hf_meta_core::{ClusterState, Command};
use hf_policy::Rid;

/// What the name of a job stands for, and how messages call it.
fn named(s: &ClusterState, id: &str) -> Result<(Job, String), Problem> {
    let unknown = || {
        Problem::new(Code::Invalid, format!("{id} names no job"))
            .so("a job is node/NAME, disk/ID, replica/ID, scrub/VOLUME or rebalance/cluster; holdfast job list shows them")
            .at("id")
    };
    if id == REBALANCE {
        return Ok((Job::Rebalance, "rebalancing".into()));
    }
    let (kind, of) = id.split_once('/').ok_or_else(unknown)?;
    // A job has one name: not also replica/+7 or replica/007.
    let number = || of.parse::<u64>().ok().filter(|n| n.to_string() == of).ok_or_else(unknown);
    Ok(match kind {
        "node" => (Job::Node(node_of(s, of)?.id), format!("the drain of node {of}")),
        "disk" => (Job::Disk(disk_of(s, number()?)?.id), format!("the drain of disk {of}")),
        "replica" => {
            let rid = Rid(number()?);
            s.volume_of_replica(rid).ok_or_else(|| Problem::no("replica", of))?;
            (Job::Replica(rid), format!("replica {of}"))
        }
        "scrub" => {
            let v = s.volume_named(of).ok_or_else(|| Problem::no("volume", of))?;
            (Job::Scrub(v.id), format!("the scrub of volume {of}"))
        }
        _ => return Err(unknown()),
    })
}

/// Holds a job, or lets it go on.
pub async fn pause<P: Ports>(p: &P, call: &Call, id: &str, paused: bool) -> Result<Outcome, Problem> {
    let mut said = String::new();
    let d = decide(p, call, Verb::JobChange, |s| {
        let (of, name) = named(s, id)?;
        let word = match (paused, of) {
            (false, _) => "goes on",
            (true, Job::Scrub(_)) => "is held",
            (true, Job::Replica(_)) => "is held; a copy under way to it stops",
            (true, _) => "is held; copies under way are completed",
        };
        said = format!("{name} {word}");
        Ok(Command::PauseJob { of, paused })
    })
    .await?;
    Ok(done(&d, said))
}

/// Holds all making and moving of replicas, or lets it go on.
pub async fn pause_all<P: Ports>(p: &P, call: &Call, paused: bool) -> Result<Outcome, Problem> {
    let d = decide(p, call, Verb::JobChange, |_| Ok(Command::PauseRebuild { paused })).await?;
    Ok(done(&d, format!("making and moving of replicas {}", if paused { "paused" } else { "resumed" })))
}

/// Gives a job up: a move, a drain, a scrub, or rebalancing.
pub async fn cancel<P: Ports>(p: &P, call: &Call, id: &str) -> Result<Outcome, Problem> {
    let mut said = String::new();
    let d = decide(p, call, Verb::JobChange, |s| {
        let (cmd, text) = cancelled(s, id)?;
        said = text;
        Ok(cmd)
    })
    .await?;
    Ok(done(&d, said))
}

fn cancelled(s: &ClusterState, id: &str) -> Result<(Command, String), Problem> {
    let none = || Problem::no("job", id);
    Ok(match named(s, id)? {
        (Job::Rebalance, _) if !s.rebalancing => return Err(none()),
        (Job::Rebalance, _) => {
            (Command::Rebalance { on: false }, "rebalancing is given up; copies under way are completed".into())
        }
        (Job::Node(node), name) => match s.nodes.get(&node).map(|n| n.mode) {
            Some(NodeMode::Draining) => (
                Command::SetNodeMode { node, mode: NodeMode::Active },
                format!("{name} is given up; the node is active"),
            ),
            _ => return Err(none()),
        },
        (Job::Disk(disk), name) => match s.disks.get(&disk) {
            Some(d) if d.draining => (
                Command::SetDiskDraining { disk, draining: false },
                format!("{name} is given up; the disk is in use again"),
            ),
            Some(d) if matches!(d.state, hf_meta_core::record::DiskState::Failing(_)) => {
                (super::disk::trusted(s, disk.0)?, format!("disk {disk} is trusted again"))
            }
            _ => return Err(none()),
        },
        (Job::Scrub(vol), name) => match s.volumes.get(&vol).filter(|v| v.scrub.is_some()) {
            Some(v) => (Command::Scrub { vol, epoch: v.epoch, on: false }, format!("{name} is given up")),
            None => return Err(none()),
        },
        (Job::Replica(rid), _) => {
            let v = s.volume_of_replica(rid);
            let r = v.and_then(|v| v.replicas().find(|(_, r)| r.rid == rid)).map(|(_, r)| r).ok_or_else(none)?;
            if !r.moving {
                return Err(state(format!("{id} cannot be given up"))
                    .because("the volume's policy, or a drain, asks for it")
                    .so("change the policy, cancel the drain, or hold it with holdfast job pause"));
            }
            let (cmd, volume) = super::replica::command(s, rid.0, false)?;
            (cmd, format!("replica {rid} of volume {volume} stays where it is"))
        }
    })
}

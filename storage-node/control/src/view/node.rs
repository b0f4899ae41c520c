//! Nodes.

use super::Look;
use crate::model::{Condition, Mode, Node, NodeAddresses, Part, Truth};
use hf_meta_core::record::{NodeMode, NodeRecord};
use hf_meta_core::soft::{FRESH_MS, Soft};
use hf_policy::NodeId;

/// What is known of a node's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The leader heard it lately.
    Fresh,
    /// Nobody can tell: no leader answers, or it has just begun to lead and not heard the node yet.
    Unknown,
    /// The leader has not heard it for longer than a living node is silent.
    Silent,
}

/// What is known of a node's life.
pub fn evidence(soft: Option<&Soft>, node: NodeId) -> Evidence {
    let Some(soft) = soft else { return Evidence::Unknown };
    match soft.nodes.get(&node) {
        Some(n) if n.is_fresh() => Evidence::Fresh,
        None if soft.leading_ms < FRESH_MS => Evidence::Unknown,
        _ if soft.up.contains(&node) => Evidence::Unknown,
        _ => Evidence::Silent,
    }
}

/// The state of a node in one word.
pub(super) fn word(e: Evidence) -> &'static str {
    match e {
        Evidence::Fresh => "up",
        Evidence::Unknown => "unknown",
        Evidence::Silent => "down",
    }
}

fn part(look: Look, id: NodeId) -> Part {
    let Some(soft) = look.soft else { return Part::Unknown };
    match &soft.group {
        g if g.leader == Some(id) => Part::Leader,
        g if g.voters.contains(&id) => Part::Voter,
        g if g.learners.contains(&id) => Part::Learner,
        _ => Part::Follower,
    }
}

/// How far a node's clock may be off, in milliseconds.
pub(crate) const CLOCK_MS: i64 = 5_000;

fn conditions(look: Look, n: &NodeRecord, e: Evidence) -> Vec<Condition> {
    let heard = look.soft.and_then(|s| s.nodes.get(&n.id));
    let up = match (e, heard) {
        (Evidence::Fresh, _) => Condition::new("Up", true, "", ""),
        (Evidence::Unknown, _) => Condition::new("Up", Truth::Unknown, "NotHeard", "the leader has not heard it yet"),
        (Evidence::Silent, Some(h)) => {
            Condition::new("Up", false, "Silent", format!("not heard for {} s", h.heard_ms / 1000))
        }
        (Evidence::Silent, None) => Condition::new("Up", false, "Silent", "not heard since the leader leads"),
    };
    let told = heard.filter(|h| h.is_fresh()).map(|h| &h.told);
    let clock = match told {
        None => Condition::new("ClockOk", Truth::Unknown, "NotHeard", ""),
        Some(t) if t.clock_ahead_ms.abs() > CLOCK_MS => {
            let s = t.clock_ahead_ms / 1000;
            Condition::new("ClockOk", false, "Skew", format!("its clock is {s} s ahead of the leader's"))
        }
        Some(_) => Condition::new("ClockOk", true, "", ""),
    };
    let space = match told {
        None => Condition::new("SpaceOk", Truth::Unknown, "NotHeard", ""),
        Some(t) if t.data_dir_full => {
            Condition::new("SpaceOk", false, "DataDirFull", "the file system of its data_dir is almost full")
        }
        Some(_) => Condition::new("SpaceOk", true, "", ""),
    };
    vec![up, clock, space]
}

/// A node as the API shows it.
pub fn node(look: Look, n: &NodeRecord) -> Node {
    let e = evidence(look.soft, n.id);
    let heard = look.soft.and_then(|s| s.nodes.get(&n.id));
    let disks: Vec<u64> = look.state.disks.values().filter(|d| d.node == n.id).map(|d| d.id.0).collect();
    let replicas = disks.iter().map(|d| look.state.load(hf_policy::DiskId(*d)).replicas).sum();
    let attached = look
        .state
        .volumes_at(n.id)
        .filter(|v| v.coordinator.as_ref().is_some_and(|a| !a.maintenance && a.node == n.id || a.home == Some(n.id)));
    Node {
        id: n.id.0,
        name: n.name.clone(),
        revision: n.rev,
        uuid: n.uuid.to_string(),
        addresses: NodeAddresses { api: n.addr.api.clone(), data: n.addr.data.clone(), nbd: n.addr.nbd.clone() },
        labels: n.labels.clone(),
        version: n.version.clone(),
        mode: match n.mode {
            NodeMode::Active => Mode::Active,
            NodeMode::Draining => Mode::Draining,
            NodeMode::Maintenance => Mode::Maintenance,
        },
        held: n.drain_paused,
        part: part(look, n.id),
        state: word(e).into(),
        heard_seconds: heard.map(|h| h.heard_ms as f64 / 1000.0),
        conditions: conditions(look, n, e),
        health: look.alerts.about(&format!("node/{}", n.name)),
        disks,
        replicas,
        attached: attached.count() as u64,
    }
}

//! Nodes.

use super::decide::{Call, decide};
use super::{done, node_of};
use crate::access::Verb;
use crate::error::Problem;
use crate::model::{Mode, Outcome};
use crate::ports::Ports;
use hf_meta_core::Command;
use hf_meta_core::record::NodeMode;

/// Records what the operator wants of a node.
pub async fn mode<P: Ports>(p: &P, call: &Call, name: &str, mode: Mode) -> Result<Outcome, Problem> {
    let (recorded, said) = match mode {
        Mode::Active => (NodeMode::Active, "is active"),
        Mode::Draining => (NodeMode::Draining, "is being drained; watch it with holdfast job list"),
        Mode::Maintenance => (NodeMode::Maintenance, "is in maintenance: nothing is rebuilt while it is away"),
    };
    let d =
        decide(p, call, Verb::NodeChange, |s| Ok(Command::SetNodeMode { node: node_of(s, name)?.id, mode: recorded }))
            .await?;
    Ok(done(&d, format!("node {name} {said}")))
}

/// Forgets a node that holds nothing any more.
pub async fn remove<P: Ports>(p: &P, call: &Call, name: &str) -> Result<Outcome, Problem> {
    let d = decide(p, call, Verb::NodeChange, |s| Ok(Command::RemoveNode { node: node_of(s, name)?.id })).await?;
    Ok(done(&d, format!("node {name} removed; its daemon can be stopped")))
}

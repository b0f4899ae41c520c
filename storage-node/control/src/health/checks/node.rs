//! What is wrong with a node.

use super::{Findings, Seen};
use crate::health::HealthCode as Code;
use crate::view::{CLOCK_MS, Evidence, evidence};
use hf_meta_core::record::{NodeMode, NodeRecord};

/// What is wrong with a node.
pub fn node(seen: &Seen, n: &NodeRecord) -> Findings {
    let life = evidence(seen.soft, n.id);
    let mut found = Findings::new(life == Evidence::Fresh);
    match life {
        Evidence::Unknown => found.add(Code::HealthUnknown, format!("the leader has not heard node {} lately", n.name)),
        // That a node in maintenance is away is what its operator wants.
        Evidence::Silent if n.mode == NodeMode::Maintenance => found.sure = true,
        Evidence::Silent => {
            found.sure = true;
            found.add(Code::NodeDown, format!("the leader does not hear node {}", n.name));
        }
        Evidence::Fresh => {}
    }
    if n.mode == NodeMode::Draining && n.drain_paused {
        found.add(Code::Held, "its drain is held");
    }
    let Some(told) = seen.soft.and_then(|s| s.nodes.get(&n.id)).filter(|n| n.is_fresh()).map(|n| &n.told) else {
        return found;
    };
    if told.clock_ahead_ms.abs() > CLOCK_MS {
        let way = if told.clock_ahead_ms > 0 { "ahead of" } else { "behind" };
        let text = format!("the clock of node {} is {} s {way} the leader's", n.name, told.clock_ahead_ms.abs() / 1000);
        found.add(Code::ClockSkew, text);
    }
    if told.data_dir_full {
        found.add(Code::MetadataSpace, format!("the file system of the data_dir of node {} is full", n.name));
    }
    found
}

//! What is wrong with the cluster as a whole.

use super::{Findings, Seen};
use crate::health::HealthCode as Code;
use crate::view::{Evidence, capacity, evidence};
use hf_meta_core::soft::Soft;
use hf_policy::format_size;
use std::collections::{BTreeMap, BTreeSet};

/// With more than so much of the disks in use, over-commitment is told.
const OVERCOMMIT_FROM: f64 = 0.7;

/// What is wrong with the cluster as a whole.
pub fn cluster(seen: &Seen) -> Findings {
    let mut found = Findings::new(false);
    if seen.insecure {
        found.add(Code::Insecure, "addresses beyond this host are served without encryption");
    }
    let s = seen.state;
    if s.rebuild_paused {
        found.add(Code::Held, "making and moving of replicas is held");
    } else if s.rebalancing && s.rebalance_paused {
        found.add(Code::Held, "the rebalancing is held");
    }
    versions(seen, &mut found);
    let Some(soft) = seen.soft.filter(|s| s.group.leader.is_some()) else {
        found.add(Code::MetadataNoLeader, "no metadata leader answers this node");
        found.add(Code::HealthUnknown, "without a leader nobody hears the nodes");
        return found;
    };
    found.sure = s.nodes.keys().all(|n| evidence(Some(soft), *n) != Evidence::Unknown);
    voters(seen, soft, &mut found);
    pool(seen, &mut found);
    found
}

fn voters(seen: &Seen, soft: &Soft, found: &mut Findings) {
    let s = seen.state;
    let silent = |n: &&hf_policy::NodeId| evidence(Some(soft), **n) == Evidence::Silent;
    let away: Vec<String> = soft.group.voters.iter().filter(silent).map(|n| s.node_name(*n)).collect();
    let voting = soft.group.voters.len();
    // A cluster of fewer nodes cannot have as many voters, and an even number bears no more losses than the odd below.
    let most = s.nodes.len() - usize::from(s.nodes.len().is_multiple_of(2) && !s.nodes.is_empty());
    let wanted = s.voters.min(most);
    if !away.is_empty() {
        let spare = (voting - away.len()).saturating_sub(voting / 2 + 1);
        let text = format!("{} of {voting} nodes that vote do not answer ({})", away.len(), away.join(", "));
        found.add(Code::MetadataDegraded, format!("{text}; {spare} more may be lost before nothing can be changed"));
    } else if voting < wanted {
        found.add(Code::MetadataDegraded, format!("{voting} nodes vote, {wanted} should"));
    }
}

fn pool(seen: &Seen, found: &mut Findings) {
    let c = capacity(seen.look());
    let nodes: BTreeSet<_> = seen.state.disks.values().map(|d| d.node).collect();
    // With one node nothing can be made anew elsewhere, whatever is added to it.
    if c.spare_bytes < 0 && nodes.len() > 1 {
        let (node, lack) = (c.largest_node.clone().unwrap_or_default(), rounded(c.spare_bytes.unsigned_abs()));
        let text = format!("if node {node} were lost, about {} too little would be free elsewhere", format_size(lack));
        found.add(Code::PoolNoSpare, text);
    }
    let full = c.raw_bytes > 0 && c.used_bytes as f64 >= c.raw_bytes as f64 * OVERCOMMIT_FROM;
    if full && c.provisioned_bytes > c.raw_bytes {
        let (may, there) = (format_size(rounded(c.provisioned_bytes)), format_size(rounded(c.raw_bytes)));
        let share = u128::from(c.used_bytes) * 100 / u128::from(c.raw_bytes.max(1));
        found.add(
            Code::PoolOvercommit,
            format!("replicas may grow to {may}, the disks hold {there}; {share} % is in use"),
        );
    }
}

/// A number of bytes rounded up to five binary digits, so that a message does not change with every write.
fn rounded(bytes: u64) -> u64 {
    let step = 1u64 << (64 - bytes.leading_zeros()).saturating_sub(5).max(12);
    bytes.div_ceil(step).saturating_mul(step)
}

fn versions(seen: &Seen, found: &mut Findings) {
    let s = seen.state;
    let mut releases: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for n in s.nodes.values().filter(|n| !n.version.is_empty()) {
        releases.entry(&n.version).or_default().push(&n.name);
    }
    if releases.len() > 1 {
        let some = |names: &[&str]| match names {
            [a, b, c, _, ..] => format!("{a}, {b}, {c} and {} more", names.len() - 3),
            _ => names.join(", "),
        };
        let text: Vec<String> = releases.iter().take(4).map(|(r, names)| format!("{r}: {}", some(names))).collect();
        found.add(Code::VersionSkew, text.join("; "));
    }
    let Some(soft) = seen.soft else { return };
    let told = s.nodes.keys().map(|n| soft.nodes.get(n).filter(|n| n.is_fresh()).map_or(0, |n| n.told.commands));
    let newest = told.min().unwrap_or(0);
    if newest > s.version {
        let text = format!("the record has version {}, and every node knows {newest}", s.version);
        found.add(Code::UpgradeNotFinal, text);
    }
}

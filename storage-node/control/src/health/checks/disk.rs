//! What is wrong with a disk.

use super::{Findings, Seen};
use crate::health::HealthCode as Code;
use crate::view::{Evidence, disk_state, evidence};
use hf_meta_core::record::DiskRecord;

/// A disk is full when so many hundredths are in use: placement gives it nothing more.
const FULL: u128 = 95;
/// A disk is nearly full when so many hundredths are in use.
const NEARLY_FULL: u128 = 85;

/// What is wrong with a disk.
pub fn disk(seen: &Seen, d: &DiskRecord) -> Findings {
    let at = disk_state(seen.look(), d);
    let gone = matches!(at.word, "failed" | "missing");
    let mut found = Findings::new(at.serves() || gone);
    let place = format!("{} of node {}", d.path, seen.state.node_name(d.node));
    match at.word {
        "failed" => found.add(Code::DiskFailed, format!("{place}: {}", at.why)),
        "missing" => found.add(Code::DiskMissing, format!("{place}: {}", at.why)),
        "failing" => found.add(Code::DiskFailing, format!("{place}: {}", at.why)),
        "unknown" if evidence(seen.soft, d.node) == Evidence::Fresh => {
            found.add(Code::HealthUnknown, format!("{place}: {}", at.why));
        }
        _ => {}
    }
    if d.draining && d.drain_paused {
        found.add(Code::Held, "its drain is held");
    }
    let Some(told) = seen.soft.and_then(|s| s.disk(d.node, d.id)).filter(|t| t.in_service) else { return found };
    let share = u128::from(told.used) * 100 / u128::from(d.capacity.max(1));
    let text = format!("{share} % of {place} is in use");
    match share {
        FULL.. => found.add(Code::DiskFull, text),
        NEARLY_FULL.. => found.add(Code::DiskNearFull, text),
        _ => {}
    }
    let taken = seen.state.load(d.id).replicas;
    if told.entries > 0 && taken.saturating_mul(10) > told.entries.saturating_mul(9) {
        found.add(Code::DiskSlots, format!("{taken} of {} replicas that {place} can hold are there", told.entries));
    }
    found
}

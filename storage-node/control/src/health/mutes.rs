//! Which codes are silenced, by the mutes on record.
//!
//! A mute ends when its time is over or an operator ends it. One about every subject ends by itself when more
//! subjects have the code than had it then, unless it is sticky. What is graver has another code, which no mute
//! of this one silences. A mute that ended by itself stays ended here, and [`Mutes::ended`] names it, so that
//! the leader can take it off the record.

use super::table::HealthCode;
use hf_meta_core::ClusterState;
use hf_meta_core::record::Mute;
use std::collections::{BTreeMap, BTreeSet};

/// Identifies a mute: its code, its subject and when it was made.
type Which = (String, String, u64);

fn which(m: &Mute) -> Which {
    (m.code.clone(), m.subject.clone(), m.at_ms)
}

/// The mutes that hold.
#[derive(Default)]
pub struct Mutes {
    hold: BTreeMap<String, Vec<Mute>>,
    ended: BTreeSet<Which>,
}

impl Mutes {
    /// Looks at the record anew. `subjects`: how many have a code now. Returns whether other mutes hold than
    /// before.
    pub fn look(&mut self, state: &ClusterState, wall_ms: u64, subjects: impl Fn(HealthCode) -> u64) -> bool {
        if state.mutes.is_empty() && self.hold.is_empty() {
            self.ended.clear();
            return false; // Lawful: as a rule nothing is muted.
        }
        let on_record: BTreeSet<Which> = state.mutes.iter().map(which).collect();
        self.ended.retain(|w| on_record.contains(w));
        let mut hold: BTreeMap<String, Vec<Mute>> = BTreeMap::new();
        for m in state.mutes.iter().filter(|m| !m.is_over(wall_ms)) {
            let now = HealthCode::parse(&m.code).map_or(0, &subjects);
            if m.subject.is_empty() && !m.sticky && now > m.count {
                self.ended.insert(which(m));
            }
            if !self.ended.contains(&which(m)) {
                hold.entry(m.code.clone()).or_default().push(m.clone());
            }
        }
        std::mem::replace(&mut self.hold, hold) != self.hold
    }

    /// Is this code about this subject silenced?
    pub fn covers(&self, code: HealthCode, subject: &str) -> bool {
        self.hold.get(code.word()).is_some_and(|all| all.iter().any(|m| m.covers(code.word(), subject)))
    }

    /// Is this code silenced about every subject?
    pub(super) fn silences_all(&self, code: HealthCode) -> bool {
        self.hold.get(code.word()).is_some_and(|all| all.iter().any(|m| m.subject.is_empty()))
    }

    /// The mutes that hold, in the order of their codes.
    pub fn all(&self) -> impl Iterator<Item = &Mute> {
        self.hold.values().flatten()
    }

    /// Mutes on record that have ended by themselves before their time: code and subject.
    pub fn ended(&self) -> impl Iterator<Item = (&str, &str)> {
        self.ended.iter().map(|(code, subject, _)| (code.as_str(), subject.as_str()))
    }
}

//! How the API shows what is raised.

use super::table::HealthCode;
use super::tracker::Tracker;
use crate::model::{Health, HealthItem, HealthRef, MuteItem, Severity, time};
use crate::view::Alerts;

/// Items that the health of the cluster shows at most.
const MOST_ITEMS: usize = 1_000;

impl Tracker {
    /// Is the code raised about something for which it is not silenced?
    fn is_heard(&self, code: HealthCode) -> bool {
        if self.mutes.silences_all(code) {
            return false;
        }
        // There are so few mutes that one of the first subjects is heard, if any is.
        let subjects = self.entries.raised().get(&code);
        subjects.is_some_and(|keys| keys.iter().any(|k| !self.mutes.covers(code, self.entries.text(*k))))
    }

    /// The gravest severity that is raised and not silenced; none: nothing is.
    fn worst(&self) -> Option<Severity> {
        self.entries.raised().keys().copied().filter(|c| self.is_heard(*c)).map(HealthCode::severity).max()
    }
}

impl Alerts for Tracker {
    fn about(&self, subject: &str) -> Vec<HealthRef> {
        let shown = |a: super::Alert<'_>| HealthRef {
            code: a.code.word().into(),
            severity: a.code.severity(),
            message: a.message.into(),
        };
        self.raised(subject).into_iter().map(shown).collect()
    }

    fn health(&self, revision: u64) -> Health {
        let worst = self.worst();
        let state = match worst {
            Some(Severity::Error) => "error",
            _ if self.is_unsure() => "unknown",
            Some(Severity::Warning) => "warning",
            Some(Severity::Info) | None => "ok",
        };
        let shown = |a: super::Alert<'_>| {
            let row = a.code.row();
            HealthItem {
                code: row.word.into(),
                severity: row.severity,
                subject: a.subject.into(),
                message: a.message.into(),
                means: row.means.into(),
                action: row.action.into(),
                since: time(a.since_ms),
                muted: a.muted,
            }
        };
        let mute = |m: &hf_meta_core::record::Mute| MuteItem {
            code: m.code.clone(),
            subject: m.subject.clone(),
            by: m.by.clone(),
            reason: m.reason.clone(),
            until: time(m.until_ms),
            sticky: m.sticky,
        };
        Health {
            worst: worst.unwrap_or(Severity::Info),
            state: state.into(),
            items: self.all().take(MOST_ITEMS).map(shown).collect(),
            total: self.entries.raised().values().map(|keys| keys.len() as u64).sum(),
            counts: self.entries.raised().iter().map(|(c, keys)| (c.word().into(), keys.len() as u64)).collect(),
            mutes: self.mutes.all().map(mute).collect(),
            revision,
        }
    }
}

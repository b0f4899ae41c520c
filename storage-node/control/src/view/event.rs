//! Events.

use crate::model::{Event, Severity, time};
use hf_meta_core::record;

/// An event as the API shows it.
pub fn event(e: &record::Event) -> Event {
    let severity = match record::EventKind::parse(&e.kind).map(|k| k.severity()) {
        Some(record::Severity::Error) => Severity::Error,
        Some(record::Severity::Warning) => Severity::Warning,
        Some(record::Severity::Info) | None => Severity::Info,
    };
    Event {
        revision: e.rev,
        at: time(e.at_ms),
        kind: e.kind.clone(),
        severity,
        subject: e.subject.clone(),
        message: e.text.clone(),
    }
}

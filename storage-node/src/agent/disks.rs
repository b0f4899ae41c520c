//! Keeps the record's word on this node's disks true: whenever it differs from what is found here, in either direction,
//! the node proposes what it finds. It compares states again and again and remembers no events, so nothing is missed
//! over a restart, a lost proposal or a change of leader.
//!
//! One thing is said only once in the life of a process: that a disk met more bad blocks than its budget. An operator
//! may trust the disk all the same, and that stands.

use crate::member::Member;
use hf_meta_core::Command;
use hf_meta_core::record::{ClusterState, DiskFault, DiskState};
use hf_meta_core::soft::DiskTold;
use hf_policy::DiskId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two proposals for one disk, at first and at most.
const AGAIN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(60);

/// What to record of a disk; none if the record says it.
fn correction(state: &ClusterState, disk: DiskId, found: &DiskTold, budget_said: bool) -> Option<Command> {
    let d = state.disks.get(&disk)?;
    let (want, fault) = match (&found.fault, &d.state) {
        (Some((fault, why)), _) if !found.in_service => (DiskState::Failed(why.clone()), Some(*fault)),
        (_, DiskState::Failed(_)) if found.in_service => (DiskState::Ok, None),
        (Some((fault, why)), _) if !budget_said => (DiskState::Failing(why.clone()), Some(*fault)),
        _ => return None,
    };
    // (Before version 3 the record cannot say what is wrong.)
    let says_so = d.state == want && (d.fault == fault || state.version < 3);
    (!says_so).then_some(Command::SetDiskState { disk, state: want, fault })
}

/// Corrects the record for as long as the process lives.
pub(super) async fn follow(m: Arc<Member>) {
    let mut found = m.disks_found.subscribe();
    let mut view = m.view.clone();
    let mut waits: BTreeMap<DiskId, (Instant, Duration)> = BTreeMap::new();
    let mut budget_said = BTreeSet::new();
    loop {
        let disks = found.borrow_and_update().clone();
        let state = view.borrow_and_update().clone();
        for (id, told) in disks.iter() {
            let wrong = |s: &ClusterState| {
                let ours = s.disks.get(id).is_some_and(|d| d.node == m.node);
                correction(s, *id, told, budget_said.contains(id)).filter(|_| ours)
            };
            if wrong(&state).is_none() {
                waits.remove(id);
                continue;
            }
            let (due, pause) = waits.get(id).copied().unwrap_or((Instant::now(), AGAIN));
            if due > Instant::now() {
                continue;
            }
            // The record here may be old.
            m.freshen().await;
            let Some(cmd) = wrong(&m.view.borrow()) else { continue };
            let budget = matches!(cmd, Command::SetDiskState { fault: Some(DiskFault::ErrorBudget), .. });
            match m.propose_new(cmd).await {
                Ok(Ok(_)) if budget => drop(budget_said.insert(*id)),
                Ok(Ok(_)) => {}
                Ok(Err(e)) => tracing::debug!(disk = %id, "the state of a disk was refused: {e}"),
                Err(e) => tracing::debug!(disk = %id, "the state of a disk could not be proposed: {e}"),
            }
            waits.insert(*id, (Instant::now() + pause, (pause * 2).min(SELDOM)));
        }
        tokio::select! {
            _ = found.changed() => {}
            _ = tokio::time::sleep(AGAIN) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use hf_meta_core::record::DiskRecord;

    fn record(version: u32, state: DiskState, fault: Option<DiskFault>) -> ClusterState {
        let mut s = ClusterState { version, ..ClusterState::default() };
        let text = serde_json::json!({
            "id": 1, "node": 1, "uuid": format!("{:032x}", 1), "path": "/d", "media": "ssd", "capacity": 1, "state": "ok",
            "rev": 1,
        });
        let d = DiskRecord { state, fault, ..serde_json::from_value(text).unwrap() };
        s.disks.insert(d);
        s
    }

    fn found(in_service: bool, fault: Option<(DiskFault, &str)>) -> DiskTold {
        DiskTold { in_service, fault: fault.map(|(f, t)| (f, t.into())), ..DiskTold::default() }
    }

    fn wants(s: &ClusterState, d: &DiskTold, said: bool) -> Option<(DiskState, Option<DiskFault>)> {
        correction(s, DiskId(1), d, said).map(|c| match c {
            Command::SetDiskState { state, fault, .. } => (state, fault),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_record_is_corrected_in_both_directions_and_left_alone_when_it_is_right() {
        let failed = |why: &str| DiskState::Failed(why.into());
        let gone = found(false, Some((DiskFault::Gone, "missing")));
        let told = Some((failed("missing"), Some(DiskFault::Gone)));
        assert_eq!(wants(&record(3, DiskState::Ok, None), &gone, false), told);
        assert_eq!(wants(&record(3, failed("missing"), Some(DiskFault::Gone)), &gone, false), None);
        // The same words without the kind, as an older release recorded them.
        assert_eq!(wants(&record(3, failed("missing"), None), &gone, false), told);
        assert_eq!(wants(&record(2, failed("missing"), None), &gone, false), None, "it could not be recorded");
        assert_eq!(wants(&record(3, failed("I/O error"), Some(DiskFault::Io)), &gone, false), told);
        let well = found(true, None);
        assert_eq!(
            wants(&record(3, failed("missing"), Some(DiskFault::Gone)), &well, false),
            Some((DiskState::Ok, None))
        );
        assert_eq!(wants(&record(3, DiskState::Ok, None), &well, false), None);
        assert_eq!(wants(&record(3, DiskState::Failing("40".into()), None), &well, false), None, "a person trusts it");
        assert_eq!(wants(&ClusterState::default(), &gone, false), None, "the disk was removed");
    }

    #[test]
    fn bad_blocks_are_told_once_and_then_an_operators_word_stands() {
        let bad = found(true, Some((DiskFault::ErrorBudget, "40 bad blocks")));
        let ok = record(3, DiskState::Ok, None);
        let failing = DiskState::Failing("40 bad blocks".into());
        assert_eq!(wants(&ok, &bad, false), Some((failing, Some(DiskFault::ErrorBudget))));
        assert_eq!(wants(&ok, &bad, true), None, "it was trusted again");
        let failed = record(3, DiskState::Failed("x".into()), None);
        assert_eq!(wants(&failed, &bad, true), Some((DiskState::Ok, None)), "it serves again");
    }
}

//! Health codes and jobs, as the leader sees them; a node that hears no leader says that.

use super::family::{About, Kind, Labels, Metric, Page, gauge};
use crate::member::Member;
use hf_control::model::{HealthItem, JobState};
use hf_control::view::{Look, jobs};
use std::fmt;

/// What is wrong in the cluster.
#[derive(Debug)]
pub struct Wrong {
    /// Health codes that are raised.
    pub items: Vec<HealthItem>,
    /// Jobs by state.
    pub jobs: [JobCount; 3],
}

/// Jobs in one state.
#[derive(Clone, Copy, Debug)]
pub struct JobCount {
    /// The state as the API says it.
    pub state: &'static str,
    /// How many jobs are in it.
    pub jobs: u64,
}

pub const HEALTH: About = About {
    name: "health",
    kind: Kind::Gauge,
    help: "1 for each health code that is raised, by code and subject; a code that is silenced says muted=\"true\". The leader tells, at most 1,000.",
};

pub const JOBS: &[Metric<JobCount>] =
    &[gauge("jobs", "Jobs by state (running, waiting, held); the leader tells.", |j| j.jobs)];

/// What this node knows to be wrong.
pub fn wrong(m: &Member) -> Wrong {
    let state = m.view.borrow().clone();
    let soft = m.soft_as_leader();
    let leads = soft.is_some();
    m.watching.with(|alerts, _| {
        let look = Look { state: &state, soft: soft.as_ref(), alerts, here: m.node, wall_ms: crate::member::wall_ms() };
        let all = if leads { jobs(look) } else { Vec::new() };
        let count =
            |state, word| JobCount { state: word, jobs: all.iter().filter(|j| j.state == state).count() as u64 };
        Wrong {
            items: alerts.health(state.revision).items,
            jobs: [
                count(JobState::Running, "running"),
                count(JobState::Waiting, "waiting"),
                count(JobState::Held, "held"),
            ],
        }
    })
}

/// Writes what is wrong; of jobs only if this node leads.
pub fn write(page: &mut Page, of: &Wrong, leads: bool) -> fmt::Result {
    let line = |i: &HealthItem| -> Labels {
        vec![
            ("code", i.code.clone()),
            ("severity", format!("{:?}", i.severity).to_lowercase()),
            ("subject", i.subject.clone()),
            ("muted", i.muted.to_string()),
        ]
    };
    page.info(&HEALTH, &of.items.iter().map(line).collect::<Vec<_>>())?;
    if leads {
        let own: Vec<_> = of.jobs.iter().map(|j| (vec![("state", j.state.to_string())], j)).collect();
        JOBS.iter().try_for_each(|m| page.lines(m, &own, &[], &Vec::new()))?;
    }
    Ok(())
}

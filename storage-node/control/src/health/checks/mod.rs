//! The checks: which codes hold now, by the record and by what the leader hears, with the evidence in words.
//!
//! They raise nothing, the tracker does. Messages say nothing that moves all the time, such as seconds that go by: a
//! changed message is told to every client that watches.

mod cluster;
mod disk;
mod node;
mod volume;

pub use cluster::cluster;
pub use disk::disk;
pub use node::node;
pub use volume::volume;

use super::table::HealthCode;
use crate::model::{Health, HealthRef, Severity};
use crate::view::{Alerts, Look};
use hf_meta_core::ClusterState;
use hf_meta_core::plan::{Liveness, inventory};
use hf_meta_core::soft::Soft;
use hf_policy::placement::DiskView;
use hf_policy::{NodeId, VolumeId};
use std::cell::OnceCell;
use std::collections::BTreeMap;

/// What checks look at.
pub struct Seen<'a> {
    /// The cluster's record.
    pub state: &'a ClusterState,
    /// What the leader hears; none if no leader answers.
    pub soft: Option<&'a Soft>,
    /// The node that checks.
    pub here: NodeId,
    /// Wall clock, Unix milliseconds.
    pub wall_ms: u64,
    /// The cluster is reached over a network without encryption.
    pub insecure: bool,
    /// Copies and scrubs that stand still, in words.
    pub stuck: &'a BTreeMap<VolumeId, String>,
    /// The disks as placement sees them, made when first asked for.
    pub(super) pool: OnceCell<(Liveness, Vec<DiskView>)>,
}

/// A code that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The code that holds.
    pub code: HealthCode,
    /// The evidence, in a sentence.
    pub message: String,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// The codes that hold.
    pub list: Vec<Finding>,
    /// There was fresh evidence for everything. If not, a code that was not found may hold all the same.
    pub sure: bool,
}

impl Findings {
    fn new(sure: bool) -> Findings {
        Findings { list: Vec::new(), sure }
    }

    fn add(&mut self, code: HealthCode, message: impl Into<String>) {
        self.list.push(Finding { code, message: message.into() });
    }
}

/// Checks look at no alerts.
struct NoAlerts;

impl Alerts for NoAlerts {
    fn about(&self, _: &str) -> Vec<HealthRef> {
        Vec::new()
    }
    fn health(&self, revision: u64) -> Health {
        let (worst, state) = (Severity::Info, "unknown".to_string());
        Health { worst, state, items: Vec::new(), total: 0, counts: Default::default(), mutes: Vec::new(), revision }
    }
}

impl<'a> Seen<'a> {
    pub(super) fn look(&self) -> Look<'a> {
        Look { state: self.state, soft: self.soft, alerts: &NoAlerts, here: self.here, wall_ms: self.wall_ms }
    }

    fn pool(&self) -> Option<&(Liveness, Vec<DiskView>)> {
        let soft = self.soft?;
        Some(self.pool.get_or_init(|| {
            let live = soft.liveness();
            let disks = inventory(self.state, &live);
            (live, disks)
        }))
    }
}

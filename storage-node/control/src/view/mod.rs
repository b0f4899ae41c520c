//! Resources as the API shows them: functions of the record and of what the leader hears.
//!
//! A copy counts only by the record, its node, its disk *and* a fresh answer. Where the answer is missing a view says
//! so: `unknown` while a new leader has not heard the node yet, `away` once the node is silent.

mod cluster;
mod disk;
mod event;
mod job;
mod node;
mod page;
mod replica;
mod state;
mod volume;

pub(crate) use cluster::capacity;
pub use cluster::cluster;
pub use disk::{disk, disk_state};
pub use event::event;
pub use job::{REBALANCE, job, jobs};
pub(crate) use node::CLOCK_MS;
pub use node::{Evidence, evidence, node};
pub use page::{Cursor, MOST_ITEMS, answer, event_limit, event_list};
pub use replica::{copy_state, replica};
pub use state::{ShardCount, VolumeLook, look_at, volume_state};
pub use volume::{volume, volume_in_list};

use crate::model::{Health, HealthRef};
use hf_meta_core::ClusterState;
use hf_meta_core::soft::Soft;
use hf_policy::NodeId;

/// Health codes that are raised now, by subject.
pub trait Alerts: Send + Sync {
    /// Those about one resource, such as `volume/web`.
    fn about(&self, subject: &str) -> Vec<HealthRef>;
    /// All of them.
    fn health(&self, revision: u64) -> Health;
}

/// What a view looks at.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// The record that is looked at.
    pub state: &'a ClusterState,
    /// What the leader hears; none if no leader answers.
    pub soft: Option<&'a Soft>,
    /// Health codes that are raised now.
    pub alerts: &'a dyn Alerts,
    /// The node that answers.
    pub here: NodeId,
    /// Wall clock of the node that answers, Unix milliseconds.
    pub wall_ms: u64,
}

//! Every change that can be asked for. A verb checks who asks, decides a command on the newest record, has it
//! committed once for its request, and says what came of it.
//!
//! | module | what it changes |
//! | --- | --- |
//! | [`volume`] | volumes: create, set, rename, delete, attach, detach, scrub |
//! | [`replica`] | replicas: move, and the last resort |
//! | [`disk`], [`node`] | disks and nodes |
//! | [`job`] | jobs: hold, go on, give up |
//! | [`cluster`] | settings of the whole cluster, health mutes |

pub mod cluster;
mod decide;
pub mod disk;
pub mod job;
pub mod node;
pub mod replica;
pub mod volume;

pub use decide::{Call, Decided, request_id};

use crate::error::{Code, Problem};
use crate::model::Outcome;
use hf_meta_core::ClusterState;
use hf_meta_core::record::{DiskRecord, NodeRecord};
use hf_policy::DiskId;
use std::sync::Arc;

fn node_of<'a>(s: &'a ClusterState, name: &str) -> Result<&'a Arc<NodeRecord>, Problem> {
    s.node_named(name).ok_or_else(|| Problem::no("node", name))
}

fn disk_of(s: &ClusterState, id: u64) -> Result<&Arc<DiskRecord>, Problem> {
    s.disks.get(&DiskId(id)).ok_or_else(|| Problem::no("disk", &id.to_string()))
}

/// What is said of a change. A request that is repeated may find nothing any more of what it did the first time.
fn said(d: &Decided, what: impl Into<String>) -> String {
    match (what.into(), d.dry_run) {
        (what, _) if what.is_empty() => "it was done before".into(),
        (what, true) => format!("nothing was changed; without dry_run: {what}"),
        (what, false) => what,
    }
}

/// The answer to a change that is in force once it is on record.
fn done(d: &Decided, message: impl Into<String>) -> Outcome {
    let (message, waiting_for) = (said(d, message), d.unseen());
    Outcome { message, done: waiting_for.is_none(), waiting_for, revision: d.revision, dry_run: d.dry_run }
}

fn state(what: impl Into<String>) -> Problem {
    Problem::new(Code::State, what)
}

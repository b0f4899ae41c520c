//! What happened in the cluster.

use super::common::list;
use super::{Severity, Time};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// The revision that brought it.
    pub revision: u64,
    /// When it happened, by the clock of the node that proposed it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Time>,
    /// A stable word: `volume.created`, `replica.dropped`, …
    pub kind: String,
    /// How grave it is.
    pub severity: Severity,
    /// The name of the volume, node or disk that it is about.
    pub subject: String,
    /// What happened, in a sentence.
    pub message: String,
}

list!(
    /// A page of events, oldest first.
    EventList of Event
);

//! Health codes as they are raised now, and as they are silenced.

use super::{Severity, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A health code that is raised about a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthRef {
    /// The code, such as `VOLUME_DEGRADED`.
    pub code: String,
    /// How grave it is.
    pub severity: Severity,
    /// What is wrong, in a sentence.
    pub message: String,
}

/// A health code that is raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthItem {
    /// The code, such as `VOLUME_DEGRADED`.
    pub code: String,
    /// How grave it is.
    pub severity: Severity,
    /// The resource, such as `volume/web`, `node/n2`, `disk/7`; `cluster` for the whole.
    pub subject: String,
    /// What is wrong, in a sentence.
    pub message: String,
    /// What the code means.
    pub means: String,
    /// What to do about it.
    pub action: String,
    /// Since when it holds.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Time>,
    /// It is silenced.
    pub muted: bool,
}

/// A silenced health code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MuteItem {
    /// The silenced code.
    pub code: String,
    /// The silenced subject; empty: every subject.
    pub subject: String,
    /// Who silenced it.
    pub by: String,
    /// Why it is silenced.
    pub reason: String,
    /// When the silence ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Time>,
    /// It stays silenced when more subjects have the code.
    pub sticky: bool,
}

/// The health of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// The gravest of the codes that are raised and not silenced; `info`: nothing is wrong.
    pub worst: Severity,
    /// In one word: `ok`, `warning`, `error` or `unknown`.
    pub state: String,
    /// What is raised, the gravest first; at most 1,000.
    pub items: Vec<HealthItem>,
    /// How many are raised.
    pub total: u64,
    /// Subjects of each code that is raised.
    pub counts: BTreeMap<String, u64>,
    /// What is silenced.
    pub mutes: Vec<MuteItem>,
    /// The revision of the record that was read.
    pub revision: u64,
}

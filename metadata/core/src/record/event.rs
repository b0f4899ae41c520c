//! Events: what happened, in one line for people, and the table of their kinds.
//!
//! [`EventKind`] is the one place where kinds are named. The record keeps the word, so that a log with a kind that
//! only a later release knows can still be read.

use serde::{Deserialize, Serialize};

/// An event of the cluster, for `holdfast events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The revision that brought it.
    pub rev: u64,
    /// Unix milliseconds of the proposer's clock.
    pub at_ms: u64,
    /// A stable word, of the table [`EventKind`]: `volume.created`, `replica.dropped`, …
    pub kind: String,
    /// The name of the volume, node or disk that it is about.
    pub subject: String,
    /// What happened, in one line for people.
    pub text: String,
}

/// How much an event or a health check matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It is good to know.
    Info,
    /// Somebody should look at it.
    Warning,
    /// Somebody must do something, or data was at risk.
    Error,
}

impl Severity {
    /// The word for it: `info`, `warning`, `error`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

macro_rules! kinds {
    ($($name:ident $word:literal $severity:ident $meaning:literal),* $(,)?) => {
        /// The kinds of events.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum EventKind { $(#[doc = $meaning] $name),* }

        impl EventKind {
            /// Every kind, in the order of the table.
            pub const ALL: &[EventKind] = &[$(EventKind::$name),*];

            /// The stable word that the record keeps.
            pub const fn as_str(self) -> &'static str {
                match self { $(EventKind::$name => $word),* }
            }

            /// How much such an event matters.
            pub const fn severity(self) -> Severity {
                match self { $(EventKind::$name => Severity::$severity),* }
            }

            /// What such an event means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(EventKind::$name => $meaning),* }
            }
        }
    };
}

kinds! {
    ClusterVersion "cluster.version" Info "The version by which commands are encoded and applied was raised.",
    Job "job" Info "A job is held, or goes on.",
    Rebuild "rebuild" Info "Making and moving of replicas was stopped or resumed for the whole cluster.",
    Rebalance "rebalance" Info "A rebalancing has begun or is over.",
    NodeJoined "node.joined" Info "A node joined the cluster.",
    NodeUpdated "node.updated" Info "A node has told other addresses, labels or another release.",
    NodeMode "node.mode" Info "What is wanted of a node has changed: active, draining or in maintenance.",
    NodeRemoved "node.removed" Info "A node was removed from the cluster.",
    DiskAdded "disk.added" Info "A node has brought a disk.",
    DiskDraining "disk.draining" Info "A disk is being drained, or is in use again.",
    DiskRemoved "disk.removed" Info "A disk was removed from the cluster.",
    DiskOk "disk.ok" Info "A disk is in service.",
    DiskFailing "disk.failing" Warning "A disk met too many bad blocks; what it holds moves elsewhere.",
    DiskFailed "disk.failed" Error "A disk has failed; its replicas count no more.",
    VolumeCreated "volume.created" Info "A volume was created.",
    VolumeDeleted "volume.deleted" Info "A volume was deleted.",
    VolumeRenamed "volume.renamed" Info "A volume has another name.",
    VolumePolicy "volume.policy" Info "Attributes of a volume have changed.",
    VolumeAttached "volume.attached" Info "A volume was attached, or a node looks after its replicas.",
    VolumeDetached "volume.detached" Info "A volume was detached.",
    VolumeWaits "volume.waits" Warning "A volume waits for the node that has it attached, which is away.",
    VolumeForced "volume.forced" Error "The last resort: an operator declared one replica the truth.",
    VolumeScrub "volume.scrub" Info "A scrub has begun or was given up.",
    VolumeScrubbed "volume.scrubbed" Info "A scrub is complete.",
    VolumeDamaged "volume.damaged" Error "A scrub met blocks that are lost, differ or had lost a write.",
    ReplicaDropped "replica.dropped" Warning "Replicas left the in-sync set.",
    ReplicaInsync "replica.insync" Info "A replica is in sync.",
    ReplicaReplaced "replica.replaced" Warning "A replica that its node does not make is made elsewhere, or brought in later.",
    HealthMuted "health.muted" Info "A health check was muted for a while.",
    HealthUnmuted "health.unmuted" Info "A mute was ended before its time.",
}

impl EventKind {
    /// The kind of a word; none if this release does not know it.
    pub fn parse(word: &str) -> Option<EventKind> {
        EventKind::ALL.iter().copied().find(|k| k.as_str() == word)
    }
}

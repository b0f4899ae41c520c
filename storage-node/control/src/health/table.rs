//! The health codes: the one place that names them, with severity, dwell, meaning and action.
//!
//! The order is that of their gravity, and that in which they are shown. A code is never used for anything else once it
//! was released. [`crate::health::checks`] decides when a code holds; a test raises and clears each of them.

use crate::model::Severity;

/// What a code stands for.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The code itself.
    pub code: HealthCode,
    /// The word of the API.
    pub word: &'static str,
    /// How grave it is.
    pub severity: Severity,
    /// What kinds of subjects it is raised about.
    pub about: &'static str,
    /// Milliseconds for which it must hold before it is raised. It is cleared when it has not held for twice that.
    pub dwell_ms: u64,
    /// What it means, in a sentence.
    pub means: &'static str,
    /// What to do about it.
    pub action: &'static str,
}

macro_rules! codes {
    ($($name:ident = $word:literal, $severity:ident, $about:literal, $seconds:literal s: $means:literal => $action:literal;)*) => {
        /// A health code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum HealthCode { $(#[doc = $means] $name,)* }

        /// Every code, the gravest first.
        pub const TABLE: &[Row] = &[$(Row {
            code: HealthCode::$name,
            word: $word,
            severity: Severity::$severity,
            about: $about,
            dwell_ms: $seconds * 1000,
            means: $means,
            action: $action,
        },)*];
    };
}

codes! {
    VolumeUnavailable = "VOLUME_UNAVAILABLE", Error, "volume", 5 s:
        "No copy that holds every acknowledged write answers, so the volume can be neither read nor written."
        => "Bring back a node or disk that holds a copy; the message names one. The last resort, \
            `holdfast volume force-insync`, loses what only the others hold.";
    VolumeBlocksLost = "VOLUME_BLOCKS_LOST", Error, "volume", 0 s:
        "The last scrub met blocks that no copy holds intact, or copies that differ without a sign of which is right."
        => "Restore the volume from a backup, or let its users check what they hold, then scrub it again.";
    VolumeWritesWait = "VOLUME_WRITES_WAIT", Error, "volume", 5 s:
        "Fewer copies answer than the policy's min_replicas, so writes wait; reads go on."
        => "Bring back the node or disk that the message names, or wait until another copy is made.";
    VolumeNotServed = "VOLUME_NOT_SERVED", Error, "volume", 10 s:
        "The volume is attached to a node that does not serve it."
        => "Look at what the node waits for; if it does not come back, attach the volume to another node.";
    MetadataNoLeader = "METADATA_NO_LEADER", Error, "cluster", 10 s:
        "No metadata leader answers: nothing can be changed, and volumes that are attached go on."
        => "Bring back nodes that vote until more than half of them answer.";
    NodeDown = "NODE_DOWN", Error, "node", 5 s:
        "The leader does not hear the node."
        => "Start it, or mend its network. If it will be away for long, put it into maintenance or drain it.";
    DiskFailed = "DISK_FAILED", Error, "disk", 0 s:
        "The disk does not serve, and what it holds is made anew elsewhere."
        => "Replace the disk, add the new one, and remove this one.";
    DiskMissing = "DISK_MISSING", Error, "disk", 0 s:
        "Nothing is at the disk's path, or another disk is."
        => "Connect or mount it again; if it is gone for good, remove it.";
    DiskFull = "DISK_FULL", Error, "disk", 10 s:
        "Less than a twentieth of the disk is free: it gets no more replicas, and writes to it soon fail."
        => "Add disks and rebalance, or delete what is not needed.";
    HealthUnknown = "HEALTH_UNKNOWN", Error, "cluster, node or disk", 10 s:
        "There is no fresh evidence, so whether all is well cannot be told."
        => "See to it that whoever the message names answers.";
    VolumeDegraded = "VOLUME_DEGRADED", Warning, "volume", 10 s:
        "Copies are missing; reads and writes go on."
        => "Nothing, if a copy is being made (see the volume's jobs); else bring back what the message names.";
    VolumeUnplaced = "VOLUME_UNPLACED", Warning, "volume", 30 s:
        "A copy is missing, or is to live elsewhere, and no disk can take it."
        => "Add a disk that the policy allows, or change the policy; the message says what rules each disk out.";
    ScrubOverdue = "SCRUB_OVERDUE", Warning, "volume", 0 s:
        "The volume was not scrubbed for twice its scrub_interval."
        => "Look whether its scrub is held or waits, or begin one: `holdfast volume scrub`.";
    DiskFailing = "DISK_FAILING", Warning, "disk", 0 s:
        "The disk met more bad blocks than its error budget allows; what it holds moves elsewhere."
        => "Replace the disk when it is empty.";
    DiskNearFull = "DISK_NEARFULL", Warning, "disk", 60 s:
        "More than 85 % of the disk is in use."
        => "Add disks and rebalance, or delete what is not needed.";
    DiskSlots = "DISK_SLOTS", Warning, "disk", 60 s:
        "More than nine tenths of the disk's table of replicas are taken."
        => "Add disks, or use fewer, larger volumes.";
    PoolNoSpare = "POOL_NO_SPARE", Warning, "cluster", 60 s:
        "If the fullest node were lost, what it holds could not be made anew on the others."
        => "Add as many bytes as the message says, on other nodes.";
    PoolOvercommit = "POOL_OVERCOMMIT", Warning, "cluster", 60 s:
        "Volumes may grow to more than the disks hold, and 70 % of the disks is in use already."
        => "Add disks before the volumes grow, or delete what is not needed.";
    MetadataDegraded = "METADATA_DEGRADED", Warning, "cluster", 15 s:
        "Nodes that vote on metadata are missing: after more losses nothing can be changed."
        => "Bring back the nodes that the message names, or add nodes.";
    MetadataSpace = "METADATA_SPACE", Warning, "node", 10 s:
        "The file system of the node's data_dir is full but for what is set aside for metadata."
        => "Free space on it.";
    ClockSkew = "CLOCK_SKEW", Warning, "node", 30 s:
        "The node's clock is more than five seconds off the leader's, so the times of events and scrubs are wrong."
        => "Synchronise the clocks, for example with chrony.";
    Insecure = "INSECURE", Warning, "cluster", 0 s:
        "The cluster is reached over a network without encryption, and asks nobody who he is."
        => "Keep its addresses in a network that only its nodes and their clients reach.";
    VersionSkew = "VERSION_SKEW", Warning, "cluster", 86_400 s:
        "Nodes run different releases for more than a day."
        => "Upgrade the nodes that the message names.";
    UpgradeNotFinal = "UPGRADE_NOT_FINAL", Warning, "cluster", 3_600 s:
        "Every node knows a newer version of the record than the one in use."
        => "When there is no way back to the old release any more: `holdfast cluster upgrade finalize`.";
    JobStuck = "JOB_STUCK", Warning, "volume", 0 s:
        "A copy or scrub of the volume has made no progress for ten minutes."
        => "Look at the nodes and disks that take part; pause and resume the job to begin it anew.";
    Held = "HELD", Warning, "cluster, node, disk or volume", 86_400 s:
        "A job was held for more than a day, as far as the present leader knows."
        => "Resume it, or cancel it.";
}

impl HealthCode {
    /// What the code stands for.
    pub fn row(self) -> &'static Row {
        // The table is made from the same list, in the same order.
        &TABLE[self as usize]
    }

    /// The word of the API.
    pub fn word(self) -> &'static str {
        self.row().word
    }

    /// How grave it is.
    pub fn severity(self) -> Severity {
        self.row().severity
    }

    /// The code of a word.
    pub fn parse(word: &str) -> Option<HealthCode> {
        TABLE.iter().find(|r| r.word == word).map(|r| r.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_says_everything() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.code as usize, i);
            assert_eq!(HealthCode::parse(row.word), Some(row.code));
            assert!(row.severity > Severity::Info, "{}", row.word);
            assert!(row.means.ends_with('.') && row.action.ends_with('.') || row.action.ends_with('`'), "{}", row.word);
            assert!(row.word.len() <= hf_meta_core::record::MUTE_CODE_BYTES, "{} cannot be muted", row.word);
        }
        assert!(TABLE.is_sorted_by(|a, b| a.severity >= b.severity), "the gravest first");
        let words: std::collections::BTreeSet<_> = TABLE.iter().map(|r| r.word).collect();
        assert_eq!(words.len(), TABLE.len());
    }
}

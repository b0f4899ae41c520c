//! What a member asks of the storage of its Raft log, and the errors of such a storage.

use hf_meta_core::record::OwnLog;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};

/// The format that this release writes, and the newest it can read.
pub(crate) const FORMAT: &str = "1";

/// The advice to an operator whose node has a log that must not vote.
pub const FORGOT: &str = "What it voted for and acknowledged since is gone, so it must not vote as if it knew. Put the newest copy back; or run holdfast rescue follow on the data_dir (with --seed, the api address of a node that runs, if nothing of the record can be read there) and start the node: it takes part anew once a majority of the voters works without its vote (it is taken from it and given again); or, if no majority is left, holdfast rescue propose";

/// Why a storage cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// RocksDB refused an operation, for another reason than damage.
    #[error("the metadata store: {0}")]
    Db(rocksdb::Error),
    /// The system gave no random numbers for the log's identity.
    #[error("the metadata store: {0}")]
    Io(#[from] std::io::Error),
    /// Stored bytes cannot be decoded or contradict each other.
    #[error("the metadata store is damaged: {0}")]
    Damaged(String),
    /// The storage was written by a later release.
    #[error("the metadata store has format {0}, this release knows up to {FORMAT}; upgrade this node")]
    TooNew(String),
    /// The log is an older copy that was put back.
    #[error("this node's metadata is an older copy, of age {here}: {by} has noted {noted}. {FORGOT}")]
    Older {
        /// The age of the log that is here.
        here: u64,
        /// The age that was noted, in words.
        noted: String,
        /// The disk or node that has noted it.
        by: String,
    },
    /// The log lacks an entry that it had acknowledged: it is an older copy, or damaged.
    #[error(
        "this node's metadata ends at entry {last}, but it had acknowledged entry {acknowledged}: it is an older copy or was damaged. {FORGOT}"
    )]
    Behind {
        /// Index of the log's last entry.
        last: u64,
        /// Index of the last entry that the leader knows to have been acknowledged.
        acknowledged: u64,
    },
}

/// Everything one Ready changes; committed by [`Log::commit`] as one synced batch.
#[derive(Default)]
pub struct Batch {
    /// The new hard state, if it changes.
    pub hard: Option<HardState>,
    /// Entries to append; they replace what stands at their indices and behind.
    pub entries: Vec<Entry>,
    /// A snapshot that replaces everything.
    pub install: Option<Snapshot>,
    /// An image that this node made itself; the log up to its index is removed.
    pub compact: Option<Snapshot>,
}

/// Raft's storage. When [`Log::commit`] returns, all of the batch is durable; after a crash before, all or
/// nothing of it is.
pub trait Log: raft::Storage {
    /// Writes the whole batch with one sync.
    fn commit(&mut self, b: Batch) -> Result<(), LogError>;
    /// The present configuration of the group.
    fn conf(&self) -> &ConfState;
    /// Sets the configuration; it is durable with the next image.
    fn set_conf(&mut self, conf: ConfState);
    /// The newest image.
    fn image(&self) -> &Snapshot;
    /// Number of entries behind the newest image.
    fn entries_kept(&self) -> u64;
    /// What the log says of itself.
    fn own(&self) -> &OwnLog;
    /// Changes what the log says of itself; durable when it returns.
    fn set_own(&mut self, own: OwnLog) -> Result<(), LogError>;
    /// Draws a number for a start that no other start draws; never 0.
    fn draw(&mut self) -> Result<u64, LogError>;
}

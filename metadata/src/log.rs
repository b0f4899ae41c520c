//! What a member asks of the storage of its Raft log, and what can be wrong with one.

use hf_meta_core::record::OwnLog;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};

/// The format that this release writes, and the newest it can read.
pub(crate) const FORMAT: &str = "1";

/// What to do about a log that must not vote.
pub const FORGOT: &str = "What it voted for and acknowledged since is gone, so it must not vote as if it knew. Put the newest copy back; or run holdfast rescue follow on the data_dir (with --seed, the api address of a node that runs, if nothing of the record can be read there) and start the node: it takes part anew once a majority of the voters works without its vote (it is taken from it and given again); or, if no majority is left, holdfast rescue propose";

/// A storage that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// RocksDB refused an operation, and not because of damage.
    #[error("the metadata store: {0}")]
    Db(rocksdb::Error),
    /// No identity could be made for it.
    #[error("the metadata store: {0}")]
    Io(#[from] std::io::Error),
    /// Bytes that are not what they should be.
    #[error("the metadata store is damaged: {0}")]
    Damaged(String),
    /// From the future.
    #[error("the metadata store has format {0}, this release knows up to {FORMAT}; upgrade this node")]
    TooNew(String),
    /// An older copy was put back.
    #[error("this node's metadata is an older copy, of age {here}: {by} has noted {noted}. {FORGOT}")]
    Older {
        /// The log's age.
        here: u64,
        /// What was noted.
        noted: String,
        /// By whom.
        by: String,
    },
    /// An older copy, or damage: what it acknowledged is not there.
    #[error(
        "this node's metadata ends at entry {last}, but it had acknowledged entry {acknowledged}: it is an older copy or was damaged. {FORGOT}"
    )]
    Behind {
        /// Of the log.
        last: u64,
        /// What the leader knows of.
        acknowledged: u64,
    },
}

/// Everything one Ready changes; committed by [`Log::commit`] as one synced batch.
#[derive(Default)]
pub struct Batch {
    /// New hard state.
    pub hard: Option<HardState>,
    /// Entries to append (they replace what stands at their indices and after).
    pub entries: Vec<Entry>,
    /// A snapshot that replaces everything.
    pub install: Option<Snapshot>,
    /// An image of this node's own; the log up to its index goes.
    pub compact: Option<Snapshot>,
}

/// Raft's storage: what [`Log::commit`] was given is durable when it returns, all of it or nothing.
pub trait Log: raft::Storage {
    /// One synced write for everything.
    fn commit(&mut self, b: Batch) -> Result<(), LogError>;
    /// The present configuration.
    fn conf(&self) -> &ConfState;
    /// It has changed; durable with the next image.
    fn set_conf(&mut self, conf: ConfState);
    /// The newest image.
    fn image(&self) -> &Snapshot;
    /// Entries since the image.
    fn entries_kept(&self) -> u64;
    /// What it says of itself.
    fn own(&self) -> &OwnLog;
    /// That changes; durable when it returns.
    fn set_own(&mut self, own: OwnLog) -> Result<(), LogError>;
    /// A number that no other start draws; never 0.
    fn draw(&mut self) -> Result<u64, LogError>;
}

//! The data directory: its lock, the node's identity in `node.json`, and the last view of the record.

pub use hf_host_config::clock::random;
pub use hf_host_config::identity::{FORMAT, Identity, IdentityError, KnownDisk};
use hf_meta_core::ClusterState;
use hf_policy::{BootId, ClusterId, NodeId};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

const FILE: &str = "node.json";
/// Name of the file with the last view of the record, kept by a node without a log.
pub const VIEW: &str = "view.json";

/// A data directory in use by this process. Its lock is held until this is dropped.
pub struct DataDir {
    /// Path of the directory.
    pub path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if it is missing, and locks it. Fails if another process has it.
    pub fn open(path: &Path) -> anyhow::Result<DataDir> {
        std::fs::create_dir_all(path).map_err(|e| anyhow::anyhow!("data_dir {}: {e}", path.display()))?;
        let lock = File::create(path.join("lock"))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            anyhow::bail!("data_dir {} is in use by another holdfast process", path.display());
        }
        Ok(DataDir { path: path.to_path_buf(), _lock: lock })
    }

    /// The space set aside for the metadata for when the file system is full.
    pub fn reserve(&self) -> hf_meta::reserve::Reserve {
        hf_meta::reserve::Reserve::of(&self.path)
    }

    /// Reads the identity. In an empty directory, makes one and saves it.
    pub fn identity(&self) -> anyhow::Result<Identity> {
        let path = self.path.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => Identity::parse(&bytes).map_err(|e| match e {
                IdentityError::TooNew(v) => anyhow::anyhow!(
                    "data_dir {} has format {v}, this release knows up to {FORMAT}: it was written by a newer release; upgrade this node",
                    self.path.display()
                ),
                IdentityError::Damaged(e) => anyhow::anyhow!("{} is damaged: {e}", path.display()),
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if self.path.join("meta").exists() {
                    anyhow::bail!(
                        "data_dir {} holds metadata but no {FILE}: it was damaged; restore it or start with an empty directory as a new node",
                        self.path.display()
                    );
                }
                let id = Identity {
                    format: FORMAT,
                    uuid: BootId(random()),
                    cluster: ClusterId::NONE,
                    node: NodeId(0),
                    disks: Vec::new(),
                    has_log: false,
                };
                self.save(&id)?;
                Ok(id)
            }
            Err(e) => Err(anyhow::anyhow!("{}: {e}", path.display())),
        }
    }

    /// Replaces the identity atomically: the new file is written aside, synced and renamed, then the
    /// directory is synced.
    pub fn save(&self, id: &Identity) -> anyhow::Result<()> {
        let (new, path) = (self.path.join("node.json.new"), self.path.join(FILE));
        let mut f = File::create(&new)?;
        f.write_all(&id.encode()?)?;
        f.sync_all()?;
        std::fs::rename(&new, &path)?;
        File::open(&self.path)?.sync_all()?;
        Ok(())
    }

    /// Saves the view of a node without a log, for a start at which no other node answers and for `holdfast
    /// rescue`. After a crash of the process the last view or the one before is there. After a power loss
    /// there may be none on some file systems; it is written again with the next change.
    pub fn save_view(&self, view: &ClusterState) -> anyhow::Result<()> {
        let new = self.path.join("view.json.new");
        std::fs::write(&new, serde_json::to_vec(view)?)?;
        Ok(std::fs::rename(&new, self.path.join(VIEW))?)
    }

    /// The saved view of the data directory at `path`, if there is a readable one.
    pub fn view(path: &Path) -> Option<ClusterState> {
        serde_json::from_slice(&std::fs::read(path.join(VIEW)).ok()?).ok()
    }
}

//! What a node knows about itself between starts: its data directory's identity, and which disks it was given.

pub use hf_host::clock::random;
pub use hf_host::identity::{FORMAT, Identity, IdentityError, KnownDisk};
use hf_meta_core::ClusterState;
use hf_policy::{BootId, ClusterId, NodeId};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

const FILE: &str = "node.json";
/// What a node without a log knows of the record.
pub const VIEW: &str = "view.json";

/// A data directory in use by this process; the lock goes with it.
pub struct DataDir {
    /// Where.
    pub path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Opens and locks it.
    pub fn open(path: &Path) -> anyhow::Result<DataDir> {
        std::fs::create_dir_all(path).map_err(|e| anyhow::anyhow!("data_dir {}: {e}", path.display()))?;
        let lock = File::create(path.join("lock"))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            anyhow::bail!("data_dir {} is in use by another holdfast process", path.display());
        }
        Ok(DataDir { path: path.to_path_buf(), _lock: lock })
    }

    /// Space for the metadata when the file system is full.
    pub fn reserve(&self) -> hf_meta::reserve::Reserve {
        hf_meta::reserve::Reserve::of(&self.path)
    }

    /// Reads the identity, or makes one in an empty directory.
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

    /// Replaces the identity: written aside, synced, renamed, directory synced.
    pub fn save(&self, id: &Identity) -> anyhow::Result<()> {
        let (new, path) = (self.path.join("node.json.new"), self.path.join(FILE));
        let mut f = File::create(&new)?;
        f.write_all(&id.encode()?)?;
        f.sync_all()?;
        std::fs::rename(&new, &path)?;
        File::open(&self.path)?.sync_all()?;
        Ok(())
    }

    /// Keeps what a node without a log knows of the record: for its next start, while nobody answers, and for `holdfast rescue`. A crash
    /// of the process leaves the last one or the one before; a power loss may leave none on some file systems: it comes with every change.
    pub fn save_view(&self, view: &ClusterState) -> anyhow::Result<()> {
        let new = self.path.join("view.json.new");
        std::fs::write(&new, serde_json::to_vec(view)?)?;
        Ok(std::fs::rename(&new, self.path.join(VIEW))?)
    }

    /// What was kept.
    pub fn view(path: &Path) -> Option<ClusterState> {
        serde_json::from_slice(&std::fs::read(path.join(VIEW)).ok()?).ok()
    }
}

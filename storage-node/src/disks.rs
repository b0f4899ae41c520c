//! The node's disks: formats and adds a new one, and opens the known ones at start. A disk that cannot be
//! opened is reported with what is wrong with it, never formatted again. One that is missing may come back: only a
//! place that can be read and holds nothing is called empty.

use crate::identity::{Identity, KnownDisk, random};
use crate::member::Member;
use crate::node::Node;
use hf_meta_core::record::{DiskFault, DiskState};
use hf_meta_core::{Command, Reply};
use hf_policy::attributes::Media;
use hf_policy::{ClusterId, DiskId, DiskUuid, LogAge, NodeId};
use hf_reactor::Mail;
use hf_reactor::disk::raw::{Blocking, DiskFile, OpenDiskError, check_vacant};
use hf_store::format::superblock::Superblock;
use hf_store::{Config, FormatParams, OpenError, Salt, Store, recovery};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the start waits for a disk's superblock.
const SUPERBLOCK: Duration = Duration::from_secs(5);

fn store_error(path: &Path, source: OpenError) -> OpenDiskError {
    OpenDiskError::Store { path: path.display().to_string(), source }
}

/// Opens the store on a disk and replays its journal.
fn open_store(file: &DiskFile, cfg: Config) -> Result<Store, OpenDiskError> {
    recovery::open(&mut Blocking(file), cfg).map_err(|e| store_error(&file.path, e))
}

/// The reactor for a new disk: the one with the fewest disks.
fn assign(m: &Member, disk: DiskId) -> usize {
    let Ok(mut map) = m.disk_reactor.lock() else { return 0 };
    let count = |i: usize| map.values().filter(|r| **r == i).count();
    let best = (0..m.reactors.len()).min_by_key(|i| count(*i)).unwrap_or(0);
    map.insert(disk, best);
    best
}

/// The age of the metadata log that each of this node's disks has noted. Only superblocks are read; a disk
/// that does not answer in time is left out.
pub async fn noted_ages(id: &Identity) -> Vec<(String, LogAge)> {
    let mut asked = tokio::task::JoinSet::new();
    for (path, uuid, cluster, node) in id.disks.iter().map(|k| (k.path.clone(), k.uuid, id.cluster, id.node)) {
        asked.spawn_blocking(move || {
            let file = DiskFile::look(&path).ok()??;
            let sb = recovery::probe(&mut Blocking(&file)).ok()?;
            let ours = sb.cluster == cluster && sb.disk == uuid && made_by(&sb, node);
            (ours && sb.log_age.is_some()).then(|| (format!("disk {}", path.display()), sb.log_age))
        });
    }
    let mut noted = Vec::new();
    while let Ok(Some(answer)) = tokio::time::timeout(SUPERBLOCK, asked.join_next()).await {
        noted.extend(answer.ok().flatten());
    }
    noted
}

fn hand_over(node: &Node, m: &Member, disk: DiskId, file: DiskFile, mut store: Store) {
    let (own, noted) = (m.meta.status.borrow().own.clone(), store.superblock().log_age);
    if own.is_older_than(noted) {
        // The disk was missing or slow when the log's age was compared. Its note is left as it is.
        return m.meta.is_older(noted, format!("disk {}", file.path.display()));
    }
    // A disk that an older release formatted has no salt yet.
    store.upgrade(Salt(random()));
    store.begin_with(own.age());
    if let Ok(mut t) = m.trouble.lock() {
        t.remove(&disk);
    }
    let reactor = assign(m, disk);
    let mail = Mail::AddDisk { disk, store: Box::new(store), file: Arc::new(file), how: node.cfg.disk_options };
    m.reactors[reactor].send(mail);
}

/// Opens every disk that was given to this node, at start.
pub fn open_known(node: &Node, m: &Member) {
    let (known, cluster) = node.identity.lock().map(|i| (i.disks.clone(), i.cluster)).unwrap_or_default();
    for k in known {
        match open_one(&k, node.cfg.disk_options.store(), cluster, m.node) {
            Ok((file, store)) => hand_over(node, m, k.id, file, store),
            Err(e) => {
                tracing::error!(disk = %k.id, path = %k.path.display(), "disk not in service: {e}");
                m.in_trouble(k.id, e.fault(), e.to_string());
            }
        }
    }
}

/// Whether this node formatted the disk. Disks of older releases say 0.
fn made_by(sb: &Superblock, node: NodeId) -> bool {
    sb.node == NodeId(0) || sb.node == node
}

/// Why a known disk is not in service.
#[derive(Debug, thiserror::Error)]
enum Unopened {
    /// Nothing is at its path.
    #[error("it is missing: {0}; put it back or mount it, and restart this node")]
    Missing(OpenDiskError),
    /// Its place is there and can be read, and nothing of Holdfast is in it.
    #[error(
        "its store is gone: nothing of Holdfast is at its path, so it was wiped or is not mounted; mount it and restart this node, or add it anew with holdfast disk add once that is clear"
    )]
    Empty,
    /// Another disk is in its place.
    #[error("another disk is in its place: {0}; put the right one back, and restart this node")]
    Other(String),
    /// It is there, and cannot be used.
    #[error(transparent)]
    Open(#[from] OpenDiskError),
}

impl Unopened {
    /// The same as the record says it.
    fn fault(&self) -> DiskFault {
        match self {
            Unopened::Missing(_) | Unopened::Empty => DiskFault::Gone,
            Unopened::Other(_) => DiskFault::OtherIdentity,
            Unopened::Open(OpenDiskError::Locked(_) | OpenDiskError::Occupied { .. }) => DiskFault::Busy,
            Unopened::Open(OpenDiskError::Io { source, .. }) if source.kind() == ErrorKind::ResourceBusy => {
                DiskFault::Busy
            }
            Unopened::Open(OpenDiskError::Store { source: OpenError::Disk(_), .. }) => DiskFault::Io,
            Unopened::Open(OpenDiskError::Store { .. }) => DiskFault::Unreadable,
            Unopened::Open(_) => DiskFault::Io,
        }
    }
}

/// Is nothing at its path? (A device that is unplugged leaves its node behind for a moment.)
fn is_missing(e: &OpenDiskError) -> bool {
    let OpenDiskError::Io { source, .. } = e else { return false };
    let kind = source.kind();
    let unplugged = source.raw_os_error().is_some_and(|e| e == libc::ENXIO || e == libc::ENODEV);
    matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory) || unplugged
}

fn open_one(k: &KnownDisk, cfg: Config, cluster: ClusterId, node: NodeId) -> Result<(DiskFile, Store), Unopened> {
    let file = match DiskFile::open(&k.path) {
        Err(e) if is_missing(&e) => return Err(Unopened::Missing(e)),
        Err(OpenDiskError::Kind(what)) => return Err(Unopened::Other(OpenDiskError::Kind(what).to_string())),
        other => other?.ok_or(Unopened::Empty)?,
    };
    file.lock()?;
    let store = match open_store(&file, cfg) {
        Err(OpenDiskError::Store { source: OpenError::NotOurs, .. }) => return Err(Unopened::Empty),
        other => other?,
    };
    let sb = store.superblock();
    if sb.cluster != cluster {
        return Err(Unopened::Other(format!("it belongs to cluster {}", sb.cluster)));
    }
    if !made_by(sb, node) {
        return Err(Unopened::Other(format!("it belongs to node #{} of this cluster", sb.node)));
    }
    if sb.disk != k.uuid {
        return Err(Unopened::Other(format!("it is disk {}, not the {} that was here before", sb.disk, k.uuid)));
    }
    Ok((file, store))
}

/// A disk that is to be added.
pub struct NewDisk {
    /// Directory or device.
    pub path: PathBuf,
    /// Bytes to use, for a disk in a directory.
    pub size: Option<u64>,
    /// The disk's class, if the operator names one; otherwise the kernel is asked.
    pub media: Option<Media>,
}

/// Formats a disk, has it recorded, and puts it into service.
pub async fn add(node: &Arc<Node>, new: NewDisk) -> anyhow::Result<DiskId> {
    let m = node.member().map_err(|e| anyhow::anyhow!("{}", e.message()))?;
    let _one = node.admin.lock().await;
    let path = std::fs::canonicalize(&new.path).map_err(|e| anyhow::anyhow!("{}: {e}", new.path.display()))?;
    let (size, fresh, owner, serving) = (new.size, path.clone(), (m.cluster, m.node), in_service(node, &m, &path));
    let cfg = node.cfg.disk_options.store();
    let (file, store) = tokio::task::spawn_blocking(move || {
        let file = prepare(&fresh, size, owner, &serving)?;
        let store = open_store(&file, cfg)?;
        anyhow::Ok((file, store))
    })
    .await??;
    let uuid = store.superblock().disk;
    let guess = if file.rotational { Media::Hdd } else { Media::Ssd };
    let media = new.media.unwrap_or(guess);
    let capacity = store.superblock().geometry.data_bytes();
    let cmd = Command::PutDisk { node: m.node, uuid, path: path.display().to_string(), media, capacity };
    let id = match m.propose_new(cmd).await?? {
        Reply::Disk(id) => id,
        other => anyhow::bail!("unexpected answer {other:?}"),
    };
    let identity = {
        let mut i = node.identity.lock().map_err(|_| anyhow::anyhow!("identity lock"))?;
        i.disks.retain(|d| d.path != path && d.uuid != uuid);
        i.disks.push(KnownDisk { path, uuid, id });
        i.clone()
    };
    node.dir.save(&identity)?;
    hand_over(node, &m, id, file, store);
    Ok(id)
}

/// The disks at a path that are in service here. A wiped one has the same path, but another identity.
fn in_service(node: &Node, m: &Member, path: &Path) -> Vec<DiskUuid> {
    let here = node.identity.lock().map(|i| i.disks.clone()).unwrap_or_default();
    let view = m.view.borrow();
    let at = view.disks.values().filter(|d| {
        d.node == m.node
            && Path::new(&d.path) == path
            && d.state == DiskState::Ok
            && here.iter().any(|k| k.uuid == d.uuid)
    });
    at.map(|d| d.uuid).collect()
}

/// Opens the disk if it is this node's already; otherwise creates and formats it.
fn prepare(
    path: &Path,
    size: Option<u64>,
    (cluster, node): (ClusterId, NodeId),
    serving: &[DiskUuid],
) -> anyhow::Result<DiskFile> {
    let mut file = match DiskFile::open(path)? {
        Some(f) => f,
        None => {
            let size = size.ok_or_else(|| OpenDiskError::NoSize(path.display().to_string()))?;
            DiskFile::create(path, size / 4096 * 4096)?
        }
    };
    match recovery::probe(&mut Blocking(&file)) {
        Ok(sb) if sb.cluster != cluster => return Err(store_error(path, OpenError::InUse(sb.cluster)).into()),
        Ok(sb) if serving.contains(&sb.disk) => anyhow::bail!("{} is in the pool already", path.display()),
        Ok(sb) if !made_by(&sb, node) => {
            anyhow::bail!(
                "{} belongs to node #{} of this cluster: its replicas are that node's",
                path.display(),
                sb.node
            )
        }
        Ok(_) => file.lock()?,
        Err(OpenError::NotOurs) => {
            file.lock()?;
            check_vacant(&file)?;
            if let Some(size) = size.map(|s| s / 4096 * 4096).filter(|s| path.is_dir() && *s > file.size) {
                file.grow(size)?;
            }
            let p = FormatParams { cluster, node, disk: DiskUuid(random()), journal: None, salt: Salt(random()) };
            recovery::format(&mut Blocking(&file), p).map_err(|e| store_error(path, e))?;
        }
        Err(e) => return Err(store_error(path, e).into()),
    }
    Ok(file)
}

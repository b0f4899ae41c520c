//! Makes a record from disks alone, when no data directory is left. Each disk names its cluster, its node and
//! its replicas, and each replica its volume, lineage and size. The nodes' names and addresses and the
//! volumes' policies are on no disk.

use super::*;
use crate::identity::KnownDisk;
use hf_policy::attributes::Media;
use hf_policy::{BootId, ClusterId, DiskId, NodeId};
use hf_store::format::superblock::Superblock;

/// Name of a cluster that was made from disks alone, because its own name is on no disk.
pub const NAME: &str = "rescued";
/// New numbers begin this far beyond the highest one that was found, because lost disks may know higher ones.
const BEYOND: u64 = 1_000;
/// The largest number of replicas that a policy can ask for.
const MOST_REPLICAS: usize = 5;

/// A record with these disks and their nodes, and nothing else. Disks that cannot be read are noted.
pub(super) fn record(paths: &[PathBuf], notes: &mut Vec<String>) -> anyhow::Result<ClusterState> {
    let mut s = ClusterState { name: NAME.into(), ..ClusterState::default() };
    for path in paths {
        let sb = match superblock(path) {
            Ok(sb) => sb,
            Err(e) => {
                notes.push(format!("{e:#}"));
                continue;
            }
        };
        if s.cluster.is_some() && s.cluster != sb.cluster {
            anyhow::bail!("{} belongs to cluster {}, the others to cluster {}", path.display(), sb.cluster, s.cluster);
        }
        s.cluster = sb.cluster;
        if sb.node == NodeId(0) {
            notes.push(format!("{} does not say which node it belongs to", path.display()));
            continue;
        }
        if s.disks.values().any(|d| d.uuid == sb.disk) {
            continue; // This is another copy of the disk; the newer one counts.
        }
        let node = NodeRecord {
            id: sb.node,
            name: format!("{NAME}-{}", sb.node),
            uuid: BootId(crate::identity::random()),
            addr: Addresses::default(),
            labels: Default::default(),
            version: String::new(),
            mode: NodeMode::Active,
            drain_paused: false,
            log: LogRecord::default(),
            rev: 0,
        };
        if !s.nodes.contains_key(&node.id) {
            s.nodes.insert(node);
        }
        let id = DiskId(s.next.disk);
        s.next.disk += 1;
        let record = DiskRecord {
            id,
            node: sb.node,
            uuid: sb.disk,
            path: path.display().to_string(),
            media: Media::Ssd,
            capacity: sb.geometry.data_bytes(),
            state: DiskState::Ok,
            draining: false,
            drain_paused: false,
            fault: None,
            since_ms: 0,
            rev: 0,
        };
        s.disks.insert(record);
    }
    s.next.node = s.nodes.keys().map(|n| n.0).max().unwrap_or(0) + 1;
    Ok(s)
}

/// Completes the record after the replicas were entered. New numbers begin beyond all that a lost disk can
/// know. Each volume asks for as many replicas as were found, so that none is made or removed although the
/// policy is unknown. Names that are used twice are made different.
pub(super) fn settle(s: &mut ClusterState, notes: &mut Vec<String>) {
    let next = &mut s.next;
    for n in [&mut next.node, &mut next.disk, &mut next.volume, &mut next.rid] {
        *n += BEYOND;
    }
    let mut names = BTreeSet::new();
    s.volumes.update_all(|v| {
        let most = v.shards.iter().map(|s| s.replicas.len()).max().unwrap_or(1);
        v.attrs.set("replicas", most.min(MOST_REPLICAS).to_string());
        // A volume was deleted while a node was away, and another one got its name; no disk says that the
        // first was deleted.
        if !names.insert(v.name.clone()) {
            let other = format!("{:.50}-{}", v.name, v.id);
            notes.push(format!("two volumes were called {}: volume #{} is {other} now", v.name, v.id));
            v.name.clone_from(&other);
            names.insert(other);
        }
    });
}

/// Text about the node's disks that the record knows and that are not where it says, so that they have to be
/// added again.
pub(super) fn elsewhere(id: &Identity, s: &ClusterState) -> String {
    let here = |d: &DiskRecord| id.disks.iter().any(|k| k.uuid == d.uuid);
    let not: Vec<String> = s.disks.values().filter(|d| d.node == id.node && !here(d)).map(|d| d.path.clone()).collect();
    match not.is_empty() {
        true => String::new(),
        false => format!(
            " Its disks of {} were not found here: once the node runs, add each with holdfast disk add; what they hold is kept",
            not.join(", ")
        ),
    }
}

/// The disks of a node that are where the record says, or at the path `own`.
fn disks_here(own: Option<&Path>, node: NodeId, s: &ClusterState) -> Vec<KnownDisk> {
    let at = |d: &DiskRecord, path: &Path| {
        let path = std::fs::canonicalize(path).ok()?;
        let there = superblock(&path).is_ok_and(|sb| sb.disk == d.uuid);
        there.then_some(KnownDisk { path, uuid: d.uuid, id: d.id })
    };
    let of_node = s.disks.values().filter(|d| d.node == node);
    of_node.filter_map(|d| own.and_then(|p| at(d, p)).or_else(|| at(d, Path::new(&d.path)))).collect()
}

/// The cluster and node to which a disk belongs.
pub(super) fn owner(path: &Path) -> anyhow::Result<(ClusterId, NodeId)> {
    let sb = superblock(path)?;
    if sb.node == NodeId(0) {
        anyhow::bail!("{} does not say which node it belongs to", path.display());
    }
    Ok((sb.cluster, sb.node))
}

fn superblock(path: &Path) -> anyhow::Result<Superblock> {
    let file = DiskFile::look(path)?.ok_or_else(|| anyhow::anyhow!("{} holds no Holdfast disk", path.display()))?;
    recovery::probe(&mut Blocking(&file)).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}

/// The identity for a data directory. An empty directory becomes that of the node to which the disk `own`
/// belongs.
pub(super) fn identity(lock: &DataDir, own: Option<&Path>, s: &ClusterState) -> anyhow::Result<Identity> {
    let (id, dir) = (lock.identity()?, lock.path.display());
    let owner = own.map(owner).transpose()?;
    let (cluster, node) = match (id.cluster.is_some(), owner) {
        (true, Some(o)) if o != (id.cluster, id.node) => {
            anyhow::bail!("{dir} belongs to node #{}, and that disk to node #{} of cluster {}", id.node, o.1, o.0)
        }
        (true, _) => (id.cluster, id.node),
        (false, Some(o)) => o,
        (false, None) => anyhow::bail!(
            "{dir} belongs to no node yet: if a node's disks have outlived its data directory, name one of them with --own-disk"
        ),
    };
    match s.nodes.get(&node).filter(|_| cluster == s.cluster) {
        None => anyhow::bail!("{dir} belongs to node #{node} of cluster {cluster}, not to this one"),
        // The uuid is the record's: one made from disks alone does not know the node's old uuid.
        Some(n) if id.cluster.is_some() => Ok(Identity { uuid: n.uuid, ..id }),
        Some(n) => Ok(Identity { cluster, node, uuid: n.uuid, disks: disks_here(own, node, s), ..id }),
    }
}

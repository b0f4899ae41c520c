//! When no data directory is left: what the disks alone say. Each names its cluster, its node and its replicas; each replica its volume,
//! history and size. Names of nodes, where they are, and the volumes' policies are not written there.

use super::*;
use crate::identity::KnownDisk;
use hf_policy::attributes::Media;
use hf_policy::{BootId, ClusterId, DiskId, NodeId};
use hf_store::format::superblock::Superblock;

/// What the cluster is called then: its name is on no disk.
pub const NAME: &str = "rescued";
/// Numbers begin so far beyond the highest that was found: lost disks may know others.
const BEYOND: u64 = 1_000;
/// As many as a policy can ask for.
const MOST_REPLICAS: usize = 5;

/// A record with these disks and their nodes, and nothing else.
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
            continue; // Another copy of it: the newer one counts.
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
            rev: 0,
        };
        s.disks.insert(record);
    }
    s.next.node = s.nodes.keys().map(|n| n.0).max().unwrap_or(0) + 1;
    Ok(s)
}

/// Once replicas were entered: numbers that nobody can have had. And of each volume as many replicas are asked for as were found; nothing
/// is made or taken away because the policy is not known.
pub(super) fn settle(s: &mut ClusterState, notes: &mut Vec<String>) {
    let next = &mut s.next;
    for n in [&mut next.node, &mut next.disk, &mut next.volume, &mut next.rid] {
        *n += BEYOND;
    }
    let mut names = BTreeSet::new();
    s.volumes.update_all(|v| {
        let most = v.shards.iter().map(|s| s.replicas.len()).max().unwrap_or(1);
        v.attrs.set("replicas", most.min(MOST_REPLICAS).to_string());
        // (Deleted while a node was away, and made anew: that it was deleted is on no disk.)
        if !names.insert(v.name.clone()) {
            let other = format!("{:.50}-{}", v.name, v.id);
            notes.push(format!("two volumes were called {}: volume #{} is {other} now", v.name, v.id));
            v.name.clone_from(&other);
            names.insert(other);
        }
    });
}

/// Disks of this node that the record knows and that are not where it says: they have to be added again.
pub(super) fn elsewhere(id: &Identity, s: &ClusterState) -> String {
    let here = |d: &DiskRecord| id.disks.iter().any(|k| k.uuid == d.uuid);
    let not: Vec<String> = s.disks.values().filter(|d| d.node == id.node && !here(d)).map(|d| d.path.clone()).collect();
    match not.is_empty() {
        true => String::new(),
        false => format!(
            " Not found here: its disks of {}. Once it runs, give it each with holdfast disk add; what they hold is kept",
            not.join(", ")
        ),
    }
}

/// Disks of a node, where the record says that they are, or here.
fn disks_here(own: Option<&Path>, node: NodeId, s: &ClusterState) -> Vec<KnownDisk> {
    let at = |d: &DiskRecord, path: &Path| {
        let path = std::fs::canonicalize(path).ok()?;
        let there = superblock(&path).is_ok_and(|sb| sb.disk == d.uuid);
        there.then_some(KnownDisk { path, uuid: d.uuid, id: d.id })
    };
    let of_node = s.disks.values().filter(|d| d.node == node);
    of_node.filter_map(|d| own.and_then(|p| at(d, p)).or_else(|| at(d, Path::new(&d.path)))).collect()
}

/// Which cluster and node a disk belongs to.
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

/// The node that a data directory belongs to. An empty one becomes the node of this disk, which has outlived it.
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
        // (As the record knows it: one from disks alone does not say what it was called before.)
        Some(n) if id.cluster.is_some() => Ok(Identity { uuid: n.uuid, ..id }),
        Some(n) => Ok(Identity { cluster, node, uuid: n.uuid, disks: disks_here(own, node, s), ..id }),
    }
}

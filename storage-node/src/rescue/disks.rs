//! When no data directory is left: what the disks alone say. Each names its cluster, its node and its replicas; each replica its volume,
//! history and size. Names of nodes, where they are, and the volumes' policies are not written there.

use super::*;
use hf_policy::attributes::Media;
use hf_policy::{BootId, ClusterId, DiskId, NodeId};
use hf_store::format::superblock::Superblock;

/// What the cluster is called then: its name is on no disk.
pub const NAME: &str = "rescued";
/// Numbers begin so far beyond the highest that was found: lost disks may know others.
const BEYOND: u64 = 1_000;

/// A record with these disks and their nodes, and nothing else.
pub(super) fn record(paths: &[PathBuf], notes: &mut Vec<String>) -> anyhow::Result<ClusterState> {
    let mut s = ClusterState { name: NAME.into(), ..ClusterState::default() };
    for path in paths {
        let sb = superblock(path)?;
        if s.cluster.is_some() && s.cluster != sb.cluster {
            anyhow::bail!("{} belongs to cluster {}, the others to cluster {}", path.display(), sb.cluster, s.cluster);
        }
        s.cluster = sb.cluster;
        if sb.node == NodeId(0) {
            notes.push(format!("{} does not say which node it belongs to", path.display()));
            continue;
        }
        if s.disks.values().any(|d| d.uuid == sb.disk) {
            notes.push(format!("{} is another copy of disk {}", path.display(), sb.disk));
            continue;
        }
        s.nodes.entry(sb.node).or_insert_with(|| NodeRecord {
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
        });
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
        s.disks.insert(id, record);
    }
    s.next.node = s.nodes.keys().map(|n| n.0).max().unwrap_or(0) + 1;
    Ok(s)
}

/// Once replicas were entered: numbers that nobody can have had. And of each volume as many replicas are asked for as were found; nothing
/// is made or taken away because the policy is not known.
pub(super) fn settle(s: &mut ClusterState) {
    let next = &mut s.next;
    for n in [&mut next.node, &mut next.disk, &mut next.volume, &mut next.rid] {
        *n += BEYOND;
    }
    for v in s.volumes.values_mut() {
        let most = v.shards.iter().map(|s| s.replicas.len()).max().unwrap_or(1);
        let _ = v.attrs.insert("replicas".into(), most.to_string());
    }
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
        Some(_) if id.cluster.is_some() => Ok(id),
        Some(n) => Ok(Identity { cluster, node, uuid: n.uuid, ..id }),
    }
}

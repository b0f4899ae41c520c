//! What only this node can do: attach and detach volumes here, format disks, found or join a cluster.

mod attach;
mod detach;
mod join;

pub use join::{found, join};

use crate::member::Member;
use crate::node::Node;
use hf_control::error::{Code, Problem};
use hf_control::model::{StatsPoint, VolumeStats, time};
use hf_control::ports::{NodeAnswer, NodeVerb};
use hf_meta_core::ClusterState;
use hf_policy::attributes::Media;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an attach or a detach may take until the volume is served, or let go.
const SERVING: Duration = Duration::from_secs(30);

/// Does what this node was asked.
pub async fn run(node: &Arc<Node>, m: &Arc<Member>, verb: NodeVerb) -> Result<NodeAnswer, Problem> {
    m.freshen().await;
    match verb {
        NodeVerb::Attach { volume, force, request } => attach::attach(m, &volume, force, request).await,
        NodeVerb::Detach { volume } => detach::detach(m, &volume).await,
        NodeVerb::AddDisk { path, size, media } => add_disk(node, path, size, media).await,
        NodeVerb::Stats { volume } => stats(m, volume),
    }
}

/// The recent history of a volume that is attached here.
fn stats(m: &Member, volume: String) -> Result<NodeAnswer, Problem> {
    let vol = m.view.borrow().volume_named(&volume).map(|v| v.id).ok_or_else(|| Problem::no("volume", &volume))?;
    let seconds = |us: Option<u64>| us.map(|us| us as f64 / 1e6);
    let points = m.history.of(vol).into_iter().map(|p| StatsPoint {
        at: time(p.at_ms).unwrap_or_default(),
        reads_per_second: p.reads_per_s,
        writes_per_second: p.writes_per_s,
        read_bytes_per_second: p.read_bytes_per_s,
        written_bytes_per_second: p.written_bytes_per_s,
        read_p50_seconds: seconds(p.read_p50_us),
        read_p99_seconds: seconds(p.read_p99_us),
        write_p50_seconds: seconds(p.write_p50_us),
        write_p99_seconds: seconds(p.write_p99_us),
    });
    let (points, node) = (points.collect(), Some(m.view.borrow().node_name(m.node)));
    let interval_seconds = crate::history::STEP.as_secs();
    Ok(NodeAnswer::Stats(VolumeStats { volume, node, interval_seconds, points }))
}

async fn add_disk(
    node: &Arc<Node>,
    path: String,
    size: Option<u64>,
    media: Option<String>,
) -> Result<NodeAnswer, Problem> {
    let media = match media.as_deref().map(Media::parse) {
        None => None,
        Some(Some(m)) => Some(m),
        Some(None) => return Err(Problem::new(Code::Invalid, "no such media").so("use nvme, ssd or hdd").at("/media")),
    };
    let new = crate::disks::NewDisk { path: path.clone().into(), size, media };
    let id = crate::disks::add(node, new)
        .await
        .map_err(|e| Problem::new(Code::State, format!("disk {path} cannot be added")).because(format!("{e:#}")))?;
    Ok(NodeAnswer::Disk(id.0))
}

/// Waits until `see` finds something in this node's view of the record; `None` after `patience`.
async fn until<T>(m: &Member, patience: Duration, mut see: impl FnMut(&ClusterState) -> Option<T>) -> Option<T> {
    let mut rx = m.view.clone();
    let end = Instant::now() + patience;
    loop {
        if let Some(t) = see(&rx.borrow_and_update()) {
            return Some(t);
        }
        let left = end.checked_duration_since(Instant::now())?;
        let _ = tokio::time::timeout(left, rx.changed()).await;
    }
}

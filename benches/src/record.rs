//! `hf-bench record`: the metadata core alone, in one process without disks or network, on clusters of 1,000 nodes with
//! 1,000, 10,000 and 100,000 volumes.
//!
//! What it shows: the cost of one commit must not grow with the cluster. A commit here is what a node does
//! for each one: apply the command, publish the state while a reader holds the one before, and tell a
//! follower what changed, which takes it. The plan of a create, made before its commit, has a column of its
//! own: it looks at every disk. Not measured: Raft, disk, network.

use hf_meta_core::command::COMMAND_VERSION;
use hf_meta_core::plan::{self, Liveness};
use hf_meta_core::record::{Addresses, ClusterState};
use hf_meta_core::{Command, Delta, Envelope, Reply};
use hf_policy::attributes::Media;
use hf_policy::policy::{AttrMap, parse_pairs};
use hf_policy::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NODES: u64 = 1_000;
const SIZES: [u64; 3] = [1_000, 10_000, 100_000];
/// Commits of each kind that are measured, unless they take longer than [`PATIENCE`] together.
const COMMITS: u64 = 5_000;
const PATIENCE: Duration = Duration::from_secs(10);

struct Cluster {
    state: ClusterState,
    live: Liveness,
    request: u128,
    /// What readers have, and a follower's copy.
    published: Arc<ClusterState>,
    follower: ClusterState,
    attrs: AttrMap,
}

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split_whitespace().nth(1).and_then(|p| p.parse::<u64>().ok()).unwrap_or(0) * 4096
}

impl Cluster {
    fn new(volumes: u64) -> Cluster {
        let attrs = parse_pairs(["size=1GiB", "replicas=3", "min_replicas=2", "label.app=db"]).unwrap();
        let published = Arc::new(ClusterState::default());
        let state = ClusterState { version: COMMAND_VERSION, ..ClusterState::default() };
        let (follower, live) = Default::default();
        let mut c = Cluster { state, live, request: 0, published, follower, attrs };
        c.apply(Command::Init { cluster: ClusterId(7), name: "bench".into() });
        for i in 1..=NODES {
            let at = |port: u32| format!("10.0.{}.{}:{port}", i / 250, i % 250);
            let labels = [("zone", i % 3), ("rack", i % 40)].map(|(k, n)| (k.to_string(), format!("{k}{n}")));
            let (node, name, uuid, version) = (None, format!("node-{i}"), BootId(u128::from(i)), "bench".to_string());
            let addr = Addresses { api: at(7400), data: at(7401), nbd: at(10809) };
            c.apply(Command::PutNode {
                node,
                name,
                uuid,
                addr,
                labels: labels.into(),
                version,
                log: Default::default(),
            });
            let (uuid, path) = (DiskUuid(u128::from(i)), "/var/lib/holdfast/disk0".to_string());
            c.apply(Command::PutDisk { node: NodeId(i), uuid, path, media: Media::Nvme, capacity: 8 << 40 });
            c.live.up.insert(NodeId(i));
        }
        for v in 0..volumes {
            // As random placement would, without its cost.
            let disks = (0..3).map(|r| DiskId((v * 7 + r * 331) % NODES + 1)).collect();
            let (attrs, lineage) = (c.attrs.clone(), Lineage(u128::from(v) + 1));
            c.apply(Command::CreateVolume { name: format!("volume-{v}"), attrs, lineage, shards: vec![disks] });
            c.make(VolumeId(v + 1));
        }
        c.publish();
        c
    }

    fn apply(&mut self, cmd: Command) -> Reply {
        self.request += 1;
        let env = Envelope { v: COMMAND_VERSION, request: RequestId(self.request), at_ms: 1_000, cmd };
        self.state.apply(&env).unwrap()
    }

    /// The nodes have made a volume's replicas.
    fn make(&mut self, vol: VolumeId) {
        let rids: Vec<Rid> = self.state.volumes.get(&vol).unwrap().replicas().map(|(_, r)| r.rid).collect();
        for rid in rids {
            self.apply(Command::ReplicaMade { vol, rid, store_uuid: StoreUuid(u128::from(rid.0)) });
        }
    }

    /// Readers and the follower get the state as it is now.
    fn publish(&mut self) {
        self.published = Arc::new(self.state.clone());
        if let Some(delta) = self.published.delta_since(self.follower.revision) {
            let bytes = match &delta {
                Delta::Changes { .. } => serde_json::to_vec(&delta).unwrap(),
                Delta::Whole(_) => Vec::new(),
            };
            let delta = if bytes.is_empty() { delta } else { serde_json::from_slice(&bytes).unwrap() };
            self.follower.follow(delta).unwrap();
        }
    }

    fn commit(&mut self, cmd: Command) {
        self.apply(cmd);
        self.publish();
    }

    /// Where the leader's node would place a new volume.
    fn plan(&self, i: u64) -> Vec<Vec<DiskId>> {
        plan::create_volume(&self.state, &self.live, &format!("new-{i}"), &self.attrs, i).unwrap()
    }

    fn create(&mut self, i: u64, shards: Vec<Vec<DiskId>>) {
        let (name, attrs, lineage) = (format!("new-{i}"), self.attrs.clone(), Lineage(u128::from(i) + 1));
        self.commit(Command::CreateVolume { name, attrs, lineage, shards });
    }

    fn attach(&mut self, vol: VolumeId) {
        let v = self.state.volumes.get(&vol).unwrap();
        let (epoch, node) = (v.epoch, v.replicas().next().unwrap().1.node);
        let session = SessionId(u128::from(vol.0));
        self.commit(Command::Attach { vol, epoch, node, session, steal: true, maintenance: false });
    }

    fn drop_one(&mut self, vol: VolumeId) {
        let v = self.state.volumes.get(&vol).unwrap();
        let rids = v.replicas().last().map(|(_, r)| r.rid).into_iter().collect();
        let (epoch, term, base) = (v.epoch, v.term, Ver { term: v.term, seq: Seq(40) });
        self.commit(Command::Drop {
            vol,
            shard: 0,
            epoch,
            term,
            rids,
            base,
            told: BTreeMap::new(),
            reasons: Default::default(),
        });
    }
}

/// Processor time of this thread, seconds: other work on the machine is not measured.
fn busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Microseconds for each of up to `most` of something.
fn measure(most: u64, mut one: impl FnMut(u64)) -> f64 {
    let (begin, from, mut done) = (Instant::now(), busy(), 0);
    while done < most && begin.elapsed() < PATIENCE {
        one(done);
        done += 1;
    }
    (busy() - from) * 1e6 / done.max(1) as f64
}

/// The whole table.
pub fn run() {
    println!(
        "\n{NODES} nodes with a disk each, volumes of 3 replicas; µs of processor time for each commit: apply, publish, tell a follower\n"
    );
    println!(
        "{:>9} {:>14} {:>9} {:>9} {:>9} {:>14} {:>16}",
        "volumes", "MiB of memory", "create", "attach", "drop", "publish alone", "plan of a create"
    );
    let mut rows = Vec::new();
    for volumes in SIZES {
        let before = resident();
        let mut c = Cluster::new(volumes);
        let memory = resident().saturating_sub(before) as f64 / f64::from(1 << 20);
        // Spread over all volumes.
        let vol = |i: u64| VolumeId((i * 7919) % volumes + 1);
        let most = COMMITS.min(volumes);
        let mut planned = Vec::new();
        let plan = measure(1_000, |i| planned.push(c.plan(i)));
        let mut left = planned.into_iter().cycle();
        let create = measure(COMMITS, |i| c.create(i, left.next().unwrap()));
        let attach = measure(most, |i| c.attach(vol(i)));
        let attached = (0..most).take_while(|i| c.state.volumes.get(&vol(*i)).unwrap().coordinator.is_some()).count();
        let drop = measure(attached as u64, |i| c.drop_one(vol(i)));
        let publish = measure(COMMITS, |_| c.published = Arc::new(c.state.clone()));
        println!("{volumes:>9} {memory:>14.0} {create:>9.1} {attach:>9.1} {drop:>9.1} {publish:>14.1} {plan:>16.1}");
        rows.push([create, attach, drop]);
        assert_eq!(c.follower.volumes.len(), c.state.volumes.len());
    }
    let (small, large) = (rows[0], rows[SIZES.len() - 1]);
    let ratio = |i: usize| large[i] / small[i];
    println!(
        "{:>24} {:>9.2} {:>9.2} {:>9.2}   the most volumes against the fewest",
        "ratio",
        ratio(0),
        ratio(1),
        ratio(2)
    );
    let second = |i: usize| 1e6 / large[i];
    let (creates, attaches, drops) = (second(0), second(1), second(2));
    println!("with the most volumes, each second: {creates:.0} creates, {attaches:.0} attaches, {drops:.0} drops\n");
}

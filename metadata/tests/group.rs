//! The Raft group on real RocksDB directories, its messages carried by hand so that links can be cut: growth
//! to three voters, compaction, a follower that fell behind the log and gets an image, restarts in between,
//! exactly-once over a change of leader. (Hazards 17–19.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_meta::log::Log;
use hf_meta::raft_log::RaftLog;
use hf_meta::raft_loop::Outgoing;
use hf_meta::status::{Proposed, RaftStatus};
use hf_meta::{MetaHandle, Start};
use hf_meta_core::command::COMMAND_VERSION;
use hf_meta_core::plan::Liveness;
use hf_meta_core::record::{Addresses, LogRecord};
use hf_meta_core::{ClusterState, Command, Envelope, Reply, image};
use hf_policy::{BootId, ClusterId, LogAge, NodeId, RequestId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const CLUSTER: ClusterId = ClusterId(7);

#[derive(Default)]
struct Net {
    nodes: BTreeMap<u64, MetaHandle>,
    cut: BTreeSet<u64>,
}

struct Group {
    dir: tempfile::TempDir,
    net: Arc<Mutex<Net>>,
    next: u128,
}

fn put_node(n: u64, release: u64) -> Command {
    Command::PutNode {
        node: None,
        name: format!("n{n}"),
        uuid: BootId(u128::from(n)),
        addr: Addresses { api: format!("n{n}:1"), data: format!("n{n}:2"), nbd: String::new() },
        labels: BTreeMap::new(),
        version: release.to_string(),
        log: Box::default(),
    }
}

impl Group {
    fn path(&self, n: u64) -> PathBuf {
        self.dir.path().join(n.to_string())
    }

    /// The first node founds the cluster.
    fn found() -> Group {
        let dir = tempfile::tempdir().unwrap();
        let mut state = ClusterState { version: COMMAND_VERSION, ..ClusterState::default() };
        for (i, cmd) in [Command::Init { cluster: CLUSTER, name: "t".into() }, put_node(1, 0)].into_iter().enumerate() {
            let env = Envelope { v: COMMAND_VERSION, request: RequestId(i as u128 + 1), at_ms: 0, cmd };
            state.apply(&env).unwrap();
        }
        let g = Group { dir, net: Arc::default(), next: 100 };
        RaftLog::open(&g.path(1)).unwrap().found(1, image::encode(&state).unwrap()).unwrap();
        g
    }

    fn start(&self, n: u64) {
        let (tx, mut rx) = mpsc::channel::<Outgoing>(8192);
        let log = RaftLog::open(&self.path(n)).unwrap();
        let node = NodeId(n);
        let start = Start { node, cluster: CLUSTER, log, out: tx, voter_grace_ms: 1_500, noted: Vec::new() };
        let handle = MetaHandle::start(start).unwrap();
        self.net.lock().unwrap().nodes.insert(n, handle);
        let net = self.net.clone();
        tokio::spawn(async move {
            while let Some(Outgoing { to, message, logs, snapshot }) = rx.recv().await {
                let net = net.lock().unwrap();
                let there = net.nodes.get(&to).filter(|_| !net.cut.contains(&n) && !net.cut.contains(&to));
                if let Some(me) = net.nodes.get(&n).filter(|_| snapshot).cloned() {
                    let sent = there.is_some();
                    tokio::spawn(async move { me.snapshot_sent(to, sent).await });
                }
                match there {
                    Some(peer) => drop(peer.step(&message, logs)),
                    None => net.nodes.get(&n).into_iter().for_each(|me| me.unreachable(to)),
                }
            }
        });
    }

    /// Does what a node does when it has started: it tells the cluster how old its log is.
    async fn announce(&mut self, n: u64) {
        let log = Box::new(self.node(n).status.borrow().own.clone());
        let Command::PutNode { name, uuid, addr, labels, version, .. } = put_node(n, 0) else { unreachable!() };
        let request = self.request();
        let node = Some(NodeId(n));
        self.propose(request, Command::PutNode { node, name, uuid, addr, labels, version, log }).await;
    }

    async fn stop(&self, n: u64) {
        let handle = self.net.lock().unwrap().nodes.remove(&n).unwrap();
        handle.stop().await;
    }

    fn node(&self, n: u64) -> MetaHandle {
        self.net.lock().unwrap().nodes[&n].clone()
    }

    fn cut(&self, n: u64, cut: bool) {
        let mut net = self.net.lock().unwrap();
        if cut {
            net.cut.insert(n)
        } else {
            net.cut.remove(&n)
        };
    }

    /// Tells the leader that every node that runs answers.
    fn tell_live(&self) {
        let net = self.net.lock().unwrap();
        let up: BTreeSet<NodeId> = net.nodes.keys().filter(|n| !net.cut.contains(n)).map(|n| NodeId(*n)).collect();
        let away: BTreeMap<NodeId, u64> = net.cut.iter().map(|n| (NodeId(*n), 60_000)).collect();
        net.nodes.values().for_each(|h| {
            h.live(Liveness { up: up.clone(), away: away.clone(), ..Liveness::default() });
        });
    }

    async fn until(&self, what: &str, mut f: impl FnMut(&Net) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            self.tell_live();
            if f(&self.net.lock().unwrap()) {
                return;
            }
            assert!(Instant::now() < end, "gave up waiting for {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn leader(&self) -> Option<u64> {
        let net = self.net.lock().unwrap();
        net.nodes.iter().find(|(n, h)| !net.cut.contains(n) && h.status.borrow().is_leader).map(|(n, _)| *n)
    }

    /// Proposes with one request id until the outcome is known.
    async fn propose(&self, request: RequestId, cmd: Command) -> Reply {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < end, "no outcome");
            let Some(leader) = self.leader() else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let env = Envelope { v: COMMAND_VERSION, request, at_ms: 0, cmd: cmd.clone() };
            if let Proposed::Outcome(o) = self.node(leader).propose(env).await {
                return o.unwrap();
            }
        }
    }

    fn request(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }

    /// `n` changes, many at once.
    async fn changes(&mut self, n: u64) {
        for batch in 0..n.div_ceil(250) {
            let leader = self.leader().map(|l| self.node(l));
            let mut sent = Vec::new();
            for i in 0..250.min(n - batch * 250) {
                let (request, cmd) = (self.request(), put_node(1, batch * 250 + i + 1));
                let env = Envelope { v: COMMAND_VERSION, request, at_ms: 0, cmd: cmd.clone() };
                let leader = leader.clone();
                let answer = tokio::spawn(async move {
                    match leader {
                        Some(l) => l.propose(env).await,
                        None => Proposed::NotLeader,
                    }
                });
                sent.push((answer, request, cmd));
            }
            for (answer, request, cmd) in sent {
                match answer.await.unwrap() {
                    Proposed::Outcome(o) => drop(o.unwrap()),
                    // The leader was starved, and another one leads by now: the request is repeated, with the same id.
                    _ => drop(self.propose(request, cmd).await),
                }
            }
        }
    }

    async fn three() -> Group {
        let mut g = Group::found();
        g.start(1);
        g.until("the founder to lead", |n| n.nodes[&1].status.borrow().is_leader).await;
        g.announce(1).await;
        for n in [2, 3] {
            let request = g.request();
            g.propose(request, put_node(n, 0)).await;
            g.start(n);
            g.announce(n).await;
        }
        // While the change is under way a majority needs the founder too.
        let three = |s: &RaftStatus| s.voters.len() == 3 && !s.changing;
        g.until("three voters", |n| n.nodes.values().all(|h| three(&h.status.borrow()))).await;
        g
    }

    /// RocksDB is closed before the process ends.
    async fn end(self) {
        let all: Vec<u64> = self.net.lock().unwrap().nodes.keys().copied().collect();
        for n in all {
            self.stop(n).await;
        }
    }

    async fn agree(&self) {
        self.until("equal states", |net| {
            let states: Vec<_> = net.nodes.values().map(|h| h.state.borrow().clone()).collect();
            states.iter().all(|s| **s == *states[0])
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_fell_behind_the_log_gets_an_image_and_survives_restarts() {
    let mut g = Group::three().await;
    for round in 0..3 {
        let leader = g.leader().unwrap();
        let lagging = (1..=3).find(|n| *n != leader).unwrap();
        let was = g.node(lagging).status.borrow().applied;
        // Cut off, or not running at all.
        if round == 1 {
            g.stop(lagging).await
        } else {
            g.cut(lagging, true)
        }
        g.changes(2_600).await;
        g.until("the leader to apply", |n| n.nodes[&leader].status.borrow().applied >= was + 2_600).await;
        if round == 1 {
            g.start(lagging);
        } else {
            g.cut(lagging, false);
        }
        g.agree().await;
        // It got them as an image: far fewer commands were applied than missed.
        g.until("it to have all of them", |n| n.nodes[&lagging].status.borrow().applied >= was + 2_600).await;
        let s = g.node(lagging).status.borrow().clone();
        assert!(round != 1 || s.commands < 2_600, "{} commands applied one by one", s.commands);
        // Its log behind the image is whole: after a restart at once it has the same state, and goes on.
        g.stop(lagging).await;
        let log = RaftLog::open(&g.path(lagging)).unwrap();
        assert!(log.image().get_metadata().index > was, "no image was kept");
        assert!(log.entries_kept() <= 2_700, "the log is not compacted: {}", log.entries_kept());
        drop(log);
        g.start(lagging);
        g.changes(3).await;
        g.agree().await;
    }
    g.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_applied_once_over_changes_of_the_leader() {
    let mut g = Group::three().await;
    for round in 0..4u64 {
        let (leader, request) = (g.leader().unwrap(), g.request());
        let before = g.node(leader).state.borrow().revision;
        let env = Envelope { v: COMMAND_VERSION, request, at_ms: 0, cmd: put_node(2, 90 + round) };
        // The proposal is under way when its leader is cut off; the next leader is asked again, with the same id.
        let old = g.node(leader);
        let first = tokio::spawn(async move { old.propose(env).await });
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        } else {
            let _ = tokio::time::timeout(Duration::from_millis(20), first).await;
        }
        g.cut(leader, true);
        g.propose(request, put_node(2, 90 + round)).await;
        g.cut(leader, false);
        g.propose(request, put_node(2, 90 + round)).await;
        g.agree().await;
        assert_eq!(g.node(leader).state.borrow().revision, before + 1, "round {round}: applied once");
    }
    g.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_voter_gives_its_place_to_another_node() {
    let mut g = Group::three().await;
    let request = g.request();
    g.propose(request, put_node(4, 0)).await;
    g.start(4);
    g.announce(4).await;
    let leader = g.leader().unwrap();
    let lost = (1..=3).find(|n| *n != leader).unwrap();
    g.cut(lost, true);
    let replaced = |s: &RaftStatus| s.voters.contains(&4) && !s.voters.contains(&lost) && !s.changing;
    g.until("the new voter", |n| replaced(&n.nodes[&leader].status.borrow())).await;
    g.changes(5).await;
    // With one more voter cut off there is still a majority: the new one really votes.
    let other = (1..=3).find(|n| *n != leader && *n != lost).unwrap();
    g.cut(other, true);
    let request = g.request();
    g.propose(request, put_node(1, 777)).await;
    g.cut(other, false);
    g.end().await;
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for e in std::fs::read_dir(from).unwrap() {
        let e = e.unwrap();
        std::fs::copy(e.path(), to.join(e.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_data_directory_does_not_vote_again() {
    let mut g = Group::three().await;
    let leader = g.leader().unwrap();
    let n = (1..=3).find(|n| *n != leader).unwrap();
    g.stop(n).await;
    copy_dir(&g.path(n), &g.dir.path().join("old"));
    g.start(n);
    g.changes(30).await;
    g.agree().await;
    g.stop(n).await;
    std::fs::remove_dir_all(g.path(n)).unwrap();
    copy_dir(&g.dir.path().join("old"), &g.path(n));
    g.start(n);
    let node = g.node(n);
    g.until("the node to notice", |_| node.failed.borrow().is_some()).await;
    let why = node.failed.borrow().clone().unwrap();
    assert!(why.contains("older copy") && why.contains("holdfast rescue follow"), "{why}");
    // The others go on without it.
    g.net.lock().unwrap().nodes.remove(&n);
    g.changes(3).await;
    // Its disks say so even before anybody else does.
    let log = RaftLog::open(&g.path(n)).unwrap();
    let own = Log::own(&log).clone();
    let newer = LogAge { age: own.age + 1, ..own.age() };
    let (out, _rx) = mpsc::channel(1);
    let noted = vec![("disk /d".to_string(), newer), ("disk /e".to_string(), LogAge::default())];
    let s = Start { node: NodeId(n), cluster: CLUSTER, log, out, voter_grace_ms: 1_500, noted };
    let e = MetaHandle::start(s).err().unwrap().to_string();
    assert!(e.contains("disk /d has noted") && e.contains("older copy"), "{e}");
    g.end().await;
}

/// No leader is there that could tell by what was acknowledged. A member that asks for its vote, or answers
/// when it stands itself, knows of a newer log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_data_directory_does_not_vote_while_nobody_leads() {
    let mut g = Group::three().await;
    let leader = g.leader().unwrap();
    let n = (1..=3).find(|n| *n != leader).unwrap();
    let other = (1..=3).find(|o| *o != leader && *o != n).unwrap();
    g.stop(n).await;
    copy_dir(&g.path(n), &g.dir.path().join("old"));
    g.start(n);
    g.announce(n).await;
    g.changes(3).await;
    g.agree().await;
    for each in 1..=3 {
        g.stop(each).await;
    }
    std::fs::remove_dir_all(g.path(n)).unwrap();
    copy_dir(&g.dir.path().join("old"), &g.path(n));
    // Without the leader of before, the two of them would be a majority.
    g.start(n);
    g.start(other);
    let node = g.node(n);
    g.until("the node to notice", |_| node.failed.borrow().is_some()).await;
    let why = node.failed.borrow().clone().unwrap();
    assert!(why.contains("older copy") && why.contains("has noted age"), "{why}");
    assert_eq!(g.leader(), None, "a majority was made with it");
    g.net.lock().unwrap().nodes.remove(&n);
    // However often it is started.
    let (out, _rx) = mpsc::channel(1);
    let log = RaftLog::open(&g.path(n)).unwrap();
    let s = Start { node: NodeId(n), cluster: CLUSTER, log, out, voter_grace_ms: 1_500, noted: Vec::new() };
    let e = MetaHandle::start(s).err().unwrap().to_string();
    assert!(e.contains("older copy") && e.contains("another member"), "{e}");
    g.start(leader);
    g.until("the others to go on", |net| net.nodes.values().any(|h| h.status.borrow().is_leader)).await;
    g.changes(3).await;
    g.end().await;
}

/// A disk that was not there at the start comes later, and has noted a newer log: this one stops, also at every later
/// start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_comes_late_is_heard_too() {
    let g = Group::found();
    g.start(1);
    let node = g.node(1);
    let own = node.status.borrow().own.clone();
    node.is_older(LogAge { age: own.age + 1, ..own.age() }, "disk /late".into());
    g.until("the node to end", |_| node.failed.borrow().is_some()).await;
    let why = node.failed.borrow().clone().unwrap();
    assert!(why.contains("disk /late has noted age") && why.contains("older copy"), "{why}");
    g.net.lock().unwrap().nodes.clear();
    let log = RaftLog::open(&g.path(1)).unwrap();
    assert!(Log::own(&log).older);
    g.end().await;
}

/// Three nodes, and no fourth that could take its place: a voter that comes back with an empty log (holdfast
/// rescue follow) loses its vote, and gets one anew when it has everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_log_loses_the_old_ones_vote_and_gets_its_own() {
    let mut g = Group::three().await;
    let leader = g.leader().unwrap();
    let n = (1..=3).find(|n| *n != leader).unwrap();
    g.changes(5).await;
    g.stop(n).await;
    std::fs::remove_dir_all(g.path(n)).unwrap();
    g.start(n);
    // No member knows the new log: whatever it is sent, it takes no part.
    g.changes(20).await;
    assert_eq!(g.node(n).status.borrow().applied, 0, "it takes part with a log that nobody knows");
    g.announce(n).await;
    let record = |net: &Net, of: u64| net.nodes[&of].state.borrow().nodes[&NodeId(n)].log;
    let anew = |r: LogRecord| r.nth == 2 && r.member == Some(2);
    g.until("a place of its own", |net| {
        let s = net.nodes[&leader].status.borrow().clone();
        anew(record(net, leader)) && s.voters.contains(&n) && !s.changing
    })
    .await;
    let gone = |e: &Arc<hf_meta_core::record::NodeRecord>| e.log.member == Some(1);
    assert!(!g.node(leader).state.borrow().nodes.get(&NodeId(n)).is_some_and(gone));
    g.agree().await;
    // It counts: with the other one cut off, the two of them are a majority.
    let other = (1..=3).find(|o| *o != leader && *o != n).unwrap();
    g.cut(other, true);
    let request = g.request();
    g.propose(request, put_node(1, 778)).await;
    g.end().await;
}

/// An address may belong to another cluster by now. A node that asks there is told so; it is neither obeyed nor sent
/// foreign records, which could name its own replicas for deletion.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_is_refused_at_every_call() {
    use hf_meta::service::PeerService;
    use hf_meta_proto::pb::{self, peer_server::Peer};
    use tonic::{Code, Request};
    let g = Group::found();
    g.start(1);
    let meta = g.net.lock().unwrap().nodes[&1].clone();
    let view = meta.state.clone();
    let (_running, stopping) = tokio::sync::watch::channel(false);
    let s = PeerService { cluster: CLUSTER, node: NodeId(1), meta, view, heard: Arc::default(), stopping };
    let other = || ClusterId(CLUSTER.0 + 1).0.to_be_bytes().to_vec();
    let env = Envelope { v: COMMAND_VERSION, request: RequestId(900), at_ms: 0, cmd: put_node(9, 0) };
    let envelope = env.encode().unwrap();
    for cluster in [other(), Vec::new()] {
        let r = s
            .propose(Request::new(pb::ProposeRequest {
                envelope: envelope.clone(),
                cluster: cluster.clone(),
                request: Vec::new(),
                relay: false,
            }))
            .await;
        assert_eq!(r.unwrap_err().code(), Code::PermissionDenied);
        let r =
            s.watch(Request::new(pb::WatchRequest { from_revision: 0, follow: true, cluster: cluster.clone() })).await;
        assert_eq!(r.err().unwrap().code(), Code::PermissionDenied);
        let r = s
            .raft(Request::new(pb::RaftRequest {
                cluster: cluster.clone(),
                from: 2,
                to: 1,
                message: vec![],
                ..Default::default()
            }))
            .await;
        assert_eq!(r.unwrap_err().code(), Code::PermissionDenied);
        let r = s.alive(Request::new(pb::AliveRequest { cluster: cluster.clone() })).await;
        assert_eq!(r.err().unwrap().code(), Code::PermissionDenied);
        let r = s.heartbeat(Request::new(pb::HeartbeatRequest { node: 2, cluster, ..Default::default() })).await;
        assert_eq!(r.unwrap_err().code(), Code::PermissionDenied);
    }
    assert!(!s.view.borrow().nodes.values().any(|n| n.name == "n9"));
    let ours = CLUSTER.0.to_be_bytes().to_vec();
    let r = s.watch(Request::new(pb::WatchRequest { from_revision: 0, follow: true, cluster: ours })).await;
    assert!(r.is_ok());
    g.stop(1).await;
}

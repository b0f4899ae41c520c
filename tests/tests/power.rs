//! Power loss of all nodes at once: the daemons as they are, RocksDB included, on disks that lose
//! what was not synced (`hf_tests::faultfs`). Every acknowledged write is there afterwards, and the
//! cluster comes back by itself. `HOLDFAST_POWER_CYCLES` sets how often (25 in CI). Then disks that
//! fail a write, a sync, or stop answering, and the same under the metadata's RocksDB. (Reads that
//! fail: `bad_sectors.rs`.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_store::sim::Rng;
use hf_tests::cluster::{Cluster, until};
use hf_tests::faultfs::{Call, FaultFs, Keep, Rule};
use hf_tests::nbd::Nbd;
use hf_tests::user::{StopAtEnd, Witness, Worked, failures, nothing_failed, percentile};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// A cluster whose nodes keep everything on disks that can fail.
struct Powered {
    c: Cluster,
    disks: Vec<FaultFs>,
}

impl Powered {
    fn new(n: usize) -> Powered {
        let mut disks = Vec::new();
        let c = Cluster::prepared(n, |node| {
            let fs = FaultFs::mount(&node.dir.join("platters"), &node.dir.join("mnt"));
            node.data_dir = fs.path().join("data");
            node.disk = fs.path().join("disk");
            node.disk_size = "256MiB".into();
            std::fs::create_dir_all(&node.disk).unwrap();
            disks.push(fs);
        });
        Powered { c, disks }
    }

    fn connect(&self, node: usize) -> Nbd {
        until("the export", || Nbd::connect(&self.c.nodes[node].nbd, "v").map_err(|e| e.to_string()))
    }

    /// Users at work on a node while `during` goes on; what each of them went through.
    fn busy(&mut self, node: usize, users: usize, w: &Witness, during: impl FnOnce(&mut Powered)) -> Vec<Worked> {
        let stop = AtomicBool::new(false);
        let conns: Vec<Nbd> = (0..users).map(|_| self.connect(node)).collect();
        std::thread::scope(|s| {
            let (flag, end) = (&stop, StopAtEnd(&stop));
            let users: Vec<_> = conns.into_iter().map(|mut n| s.spawn(move || w.work(&mut n, flag))).collect();
            let mark = w.done() + 150;
            until("users to work", || if w.done() > mark { Ok(()) } else { Err(w.done().to_string()) });
            during(self);
            drop(end);
            users.into_iter().map(|u| u.join().unwrap()).collect()
        })
    }
}

impl Drop for Powered {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.c.status().map_or_else(|e| e, |s| s.to_string()));
        }
        // First the daemons that use the disks, then the disks, then the directory they are in.
        self.c.nodes.iter_mut().for_each(|n| n.kill());
        self.disks.clear();
    }
}

#[test]
fn acknowledged_writes_survive_power_loss_of_all_nodes() {
    let cycles: u64 = std::env::var("HOLDFAST_POWER_CYCLES").ok().and_then(|s| s.parse().ok()).unwrap_or(25);
    let mut p = Powered::new(3);
    let mut rng = Rng::new(cycles);
    p.c.ok(&["volume", "create", "v", "size=16MiB"]);
    let w = Witness::default();
    let (mut undone, mut back) = (0, Vec::new());
    for cycle in 0..cycles {
        let at = (cycle % 3) as usize;
        let name = p.c.nodes[at].name.clone();
        until("attach", || p.c.cli(&["volume", "attach", "v", "--node", &name, "--force"]));
        p.busy(at, 3, &w, |p| {
            // Sometimes the control plane is busy too.
            if cycle % 3 == 1 {
                let _ = p.c.cli(&["volume", "create", &format!("w{cycle}"), "size=8MiB"]);
            }
            // All at once, in the middle of whatever they do.
            for n in &p.c.nodes {
                // SAFETY: children of ours that have not been waited for.
                unsafe { libc::kill(n.pid().unwrap() as i32, libc::SIGSTOP) };
            }
            p.c.nodes.iter_mut().for_each(|n| n.kill());
        });
        let keep = if cycle % 4 == 0 { Keep::Nothing } else { Keep::Some };
        undone += p.disks.iter().map(|d| d.power_loss(keep, &mut rng)).sum::<usize>();
        let began = Instant::now();
        p.c.nodes.iter_mut().for_each(|n| n.start());
        p.c.ready();
        let name = p.c.nodes[(at + 1) % 3].name.clone();
        until("attach after the power loss", || p.c.cli(&["volume", "attach", "v", "--node", &name, "--force"]));
        let mut nbd = p.connect((at + 1) % 3);
        back.push(began.elapsed());
        w.read_all(&mut nbd).unwrap();
        w.judge(&format!("cycle {cycle}"));
        if cycle % 3 == 1 {
            // An answered change of the record is there as well; one that was not answered may be.
            let _ = p.c.cli(&["volume", "delete", &format!("w{cycle}")]);
        }
    }
    assert!(undone as u64 > cycles * 5, "there was next to nothing to lose: {undone} writes");
    let (writes, reads) = w.counts();
    println!(
        "power loss of all nodes: {cycles} cycles, {undone} unsynced writes undone in whole or part, {writes} acknowledged writes, {reads} reads, 0 lost, 0 stale; in use again after: median {} ms, worst {} ms",
        percentile(&mut back, 0.5),
        percentile(&mut back, 1.0)
    );
}

#[test]
fn a_disk_that_fails_costs_its_replica_and_nothing_else() {
    let mut p = Powered::new(3);
    p.c.ok(&["volume", "create", "v", "size=16MiB"]);
    let w = Witness::default();
    let mut failed = 0;
    let state = |p: &Powered, node: usize| {
        let s = p.c.status()?;
        let disk = s["disks"].as_object().unwrap().values().find(|d| d["node"] == node + 1);
        Ok::<_, String>(disk.map_or(serde_json::Value::Null, |d| d["state"].clone()))
    };
    for (round, call, errno) in
        [(0, Call::Sync, libc::EIO), (1, Call::Write, libc::EIO), (2, Call::Write, libc::ENOSPC)]
    {
        let home = p.c.nodes[0].name.clone();
        until("attach", || p.c.cli(&["volume", "attach", "v", "--node", &home]));
        // The first failure is final (C4): later calls succeed, and must not be believed. The
        // coordinator's own disk too.
        let victim = [1, 2, 0][round];
        let worked = p.busy(0, 2, &w, |p| {
            p.disks[victim].rule(Rule { call, path: "holdfast.disk", errno, after: 3, count: 1 });
            until("the disk to be failed", || {
                let s = state(p, victim)?;
                if s["failed"].is_string() { Ok(()) } else { Err(s.to_string()) }
            });
            let mark = w.done() + 150;
            until("work to go on", || if w.done() > mark { Ok(()) } else { Err(w.done().to_string()) });
        });
        assert_eq!(p.disks[victim].faults(), 1);
        assert!(worked.iter().all(|u| u.done > 0));
        nothing_failed(&worked, &format!("{call:?} errno {errno} on n{}", victim + 1));
        failed += failures(&worked);
        // The daemon lives on. After its restart the disk is taken back in, and the missing blocks
        // are copied to it.
        p.disks[victim].clear();
        p.c.nodes[victim].stop();
        p.c.nodes[victim].start();
        until("all replicas to be in sync", || {
            let v = p.c.volume("v");
            let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
            if all.values().all(|r| r["state"] == "in_sync") { Ok(()) } else { Err(v["shards"][0].to_string()) }
        });
        w.read_all(&mut p.connect(0)).unwrap();
        w.judge(&format!("{call:?} errno {errno}"));
    }
    // A disk that does not answer: the same as a node that does not.
    let worked = p.busy(0, 2, &w, |p| {
        p.disks[1].freeze(true);
        let mark = w.done() + 150;
        until("work to go on", || if w.done() > mark { Ok(()) } else { Err(w.done().to_string()) });
        p.disks[1].freeze(false);
    });
    let longest = worked.iter().map(|u| u.longest).max().unwrap();
    nothing_failed(&worked, "frozen disk");
    failed += failures(&worked);
    w.read_all(&mut p.connect(0)).unwrap();
    w.judge("frozen disk");
    println!(
        "a disk that fails a sync, a write, or has no room, and one that hangs: {failed} errors and no wrong byte; longest wait for the hanging one {} ms",
        longest.as_millis()
    );
}

/// One write or sync of RocksDB's own log fails. Data that should be durable may not be, so that
/// node stops, even if later calls succeed (C4). No other node notices, whoever led; restarted, the
/// node takes part and has lost nothing that it acknowledged.
#[test]
fn a_failing_file_system_under_the_metadata_stops_its_node_and_nothing_else() {
    let mut p = Powered::new(3);
    p.c.ok(&["volume", "create", "v", "size=16MiB"]);
    let w = Witness::default();
    // (No space is another matter: the reserve is given up for it, `full.rs`.)
    let rounds = [(Call::Sync, false), (Call::Write, true), (Call::Sync, true), (Call::Write, false)];
    for (round, (call, leads)) in rounds.into_iter().enumerate() {
        let at = p.c.leader();
        let victim = if leads { at } else { (at + 1) % 3 };
        let home = (victim + 1) % 3;
        let name = p.c.nodes[home].name.clone();
        until("attach", || p.c.cli(&["volume", "attach", "v", "--node", &name, "--force"]));
        let worked = p.busy(home, 2, &w, |p| {
            p.disks[victim].rule(Rule { call, path: "data/meta", errno: libc::EIO, after: 2, count: 1 });
            until("the node to stop", || {
                // (Something for the metadata to write; where this node leads, it may not be answered.)
                let _ =
                    p.c.cli(&["volume", "create", &format!("w{round}"), "size=8MiB", "replicas=1", "min_replicas=1"]);
                let _ = p.c.cli(&["volume", "delete", &format!("w{round}")]);
                if p.c.nodes[victim].has_ended() { Ok(()) } else { Err(p.c.nodes[victim].log()) }
            });
            let mark = w.done() + 150;
            until("work to go on", || if w.done() > mark { Ok(()) } else { Err(w.done().to_string()) });
            let change = format!("x{round}");
            until("a change by the others", || {
                p.c.cli(&["volume", "create", &change, "size=8MiB", "replicas=1", "min_replicas=1"])
            });
        });
        nothing_failed(&worked, &format!("{call:?} under the metadata of n{}", victim + 1));
        p.disks[victim].clear();
        p.c.nodes[victim].start();
        p.c.ready();
        until("all replicas to be in sync, and three voters", || {
            let (v, s) = (p.c.volume("v"), p.c.status()?);
            let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
            let three = s["voters"].as_array().is_some_and(|v| v.len() == 3);
            let good = three && all.values().all(|r| r["state"] == "in_sync");
            if good { Ok(()) } else { Err(v["shards"][0].to_string()) }
        });
        assert_eq!(p.c.volume(&format!("x{round}"))["name"], format!("x{round}"));
        w.read_all(&mut p.connect(home)).unwrap();
        w.judge(&format!("{call:?} under the metadata"));
    }
    println!("writes and syncs of the metadata that fail: its node stops, 0 errors for clients, nothing lost");
}

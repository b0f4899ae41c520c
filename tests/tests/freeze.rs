//! Replicas, the coordinator's node and the metadata leader are stopped (SIGSTOP) and continued,
//! also where one node is two of these, under a user whose every operation the history checker
//! judges. The user's waits are printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, until};
use hf_tests::nbd::Nbd;
use hf_tests::user::{StopAtEnd, Witness, limit, nothing_failed, percentile};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

fn signal(c: &Cluster, node: usize, sig: i32) {
    // SAFETY: a child of ours that has not been waited for.
    unsafe { libc::kill(c.nodes[node].pid().unwrap() as i32, sig) };
}

fn connect(c: &Cluster, node: usize) -> Nbd {
    until("the export", || Nbd::connect(&c.nodes[node].nbd, "v").map_err(|e| e.to_string()))
}

fn gets_on(w: &Witness, by: u64) {
    let mark = w.done() + by;
    until("work to go on", || if w.done() >= mark { Ok(()) } else { Err(w.done().to_string()) });
}

fn in_sync(c: &Cluster) -> usize {
    let v = c.volume("v");
    v["shards"][0]["replicas"].as_object().unwrap().values().filter(|r| r["state"] == "in_sync").count()
}

/// All replicas are back in sync.
fn whole(c: &Cluster) {
    until("all replicas to be in sync", || {
        let all = c.volume("v")["shards"][0]["replicas"].as_object().unwrap().len();
        if in_sync(c) == all { Ok(()) } else { Err(format!("{} of {all}", in_sync(c))) }
    });
}

/// A user of the volume on `home` works while another node is stopped, until `over`; how long its
/// longest operation took.
fn freeze_while(c: &Cluster, w: &Witness, (home, victim): (usize, usize), over: impl Fn()) -> Duration {
    let mut nbd = connect(c, home);
    let stop = AtomicBool::new(false);
    let worked = std::thread::scope(|s| {
        let (flag, end) = (&stop, StopAtEnd(&stop));
        let worker = s.spawn(move || w.work(&mut nbd, flag));
        gets_on(w, 80);
        signal(c, victim, libc::SIGSTOP);
        over();
        gets_on(w, 80);
        signal(c, victim, libc::SIGCONT);
        whole(c);
        drop(end);
        worker.join().unwrap()
    });
    nothing_failed(std::slice::from_ref(&worked), &format!("n{} was frozen", victim + 1));
    worked.longest
}

#[test]
fn frozen_replicas_cost_a_bounded_wait_and_no_truth() {
    let rounds: usize = std::env::var("HOLDFAST_FREEZES").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    let w = Witness::default();
    let (mut waits, mut led) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // In turn the node that leads the metadata, which must be replaced before any replica can
        // be dropped, and one that does not lead.
        let leads = c.leader();
        let home = (leads + 1 + round / 2 % 2) % 3;
        let victim = if round % 2 == 0 { leads } else { 3 - leads - home };
        until("the attachment", || c.cli(&["volume", "attach", "v", "--node", &c.nodes[home].name, "--force"]));
        // Until the set has shrunk and work goes on without it.
        let longest = freeze_while(&c, &w, (home, victim), || {
            until("the frozen replica to be dropped", || {
                if in_sync(&c) == 2 { Ok(()) } else { Err(in_sync(&c).to_string()) }
            });
        });
        if round % 2 == 0 { &mut led } else { &mut waits }.push(longest);
    }
    w.judge("frozen replicas");
    for (what, mut waits) in [("", waits), (" whose node leads the metadata", led)] {
        println!(
            "longest wait of a user while a replica was frozen{what}: median {} ms, p99 {} ms (n={})",
            percentile(&mut waits, 0.5),
            percentile(&mut waits, 0.99),
            waits.len()
        );
        limit("a frozen replica", percentile(&mut waits, 0.99), 2_500);
    }
}

/// The metadata leader is stopped while it holds nothing of the volume: another node leads, and the
/// volume's user notices nothing.
#[test]
fn a_frozen_metadata_leader_disturbs_no_volume_beside_it() {
    let c = Cluster::new(3);
    let w = Witness::default();
    let mut waits = Vec::new();
    for round in 0..3 {
        // The leader that was frozen answers the next one again before a volume is placed on it.
        c.ready();
        let leads = c.leader();
        let (home, other) = ((leads + 1) % 3, (leads + 2) % 3);
        let nodes = format!("nodes={},{}", c.nodes[home].name, c.nodes[other].name);
        if round == 0 {
            c.ok(&["volume", "create", "v", "size=16MiB", "replicas=2", &nodes]);
        } else {
            c.ok(&["volume", "set", "v", &nodes]);
            until("the volume to have moved", || {
                let v = c.volume("v");
                let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
                let there = |r: &serde_json::Value| r["state"] == "in_sync" && r["node"] != leads + 1;
                if all.len() == 2 && all.values().all(there) { Ok(()) } else { Err(v["shards"][0].to_string()) }
            });
        }
        until("the attachment", || c.cli(&["volume", "attach", "v", "--node", &c.nodes[home].name, "--force"]));
        waits.push(freeze_while(&c, &w, (home, leads), || {
            until("another leader", || {
                let s = c.status()?;
                if s["leader"] != leads + 1 { Ok(()) } else { Err(s["leader"].to_string()) }
            });
        }));
    }
    w.judge("a frozen leader");
    println!(
        "longest operation while the metadata leader was frozen, beside the volume: {} ms (n={}), 0 errors",
        percentile(&mut waits, 1.0),
        waits.len()
    );
}

#[test]
fn a_frozen_coordinator_that_wakes_after_a_take_over_serves_nothing_old() {
    let rounds: usize = std::env::var("HOLDFAST_TAKEOVERS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    let w = Witness::default();
    let (mut took, mut led) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // With leases and without them; from a node that leads the metadata and from one that does
        // not.
        c.ok(&["volume", "set", "v", &format!("strict_reads={}", round % 4 >= 2)]);
        let leads = c.leader();
        let old = if round % 2 == 0 { leads } else { (leads + 1) % 3 };
        let new = (old + 1 + round / 2 % 2) % 3;
        let attach = |node: usize| c.cli(&["volume", "attach", "v", "--node", &c.nodes[node].name, "--force"]);
        until("the attachment", || attach(old));
        let mut nbd = connect(&c, old);
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            let (flag, seen, end) = (&stop, &w, StopAtEnd(&stop));
            let worker = s.spawn(move || seen.work(&mut nbd, flag));
            gets_on(&w, 80);
            signal(&c, old, libc::SIGSTOP);
            let began = Instant::now();
            until("the take-over", || attach(new));
            if round % 2 == 0 { &mut led } else { &mut took }.push(began.elapsed());
            // New truth on the new side; then the old coordinator wakes with its user's operation still open.
            let mut there = connect(&c, new);
            let other = s.spawn(move || seen.work(&mut there, flag));
            gets_on(&w, 90);
            signal(&c, old, libc::SIGCONT);
            gets_on(&w, 90);
            drop(end);
            // The old side's user may have lost its operation; the new side's had no reason to notice anything.
            nothing_failed(&[other.join().unwrap()], &format!("round {round}, taken over by n{}", new + 1));
            worker.join().unwrap();
        });
        whole(&c);
    }
    w.judge("a frozen coordinator");
    for (what, mut took) in [("does not lead the metadata", took), ("leads the metadata", led)] {
        println!(
            "take-over on request from a frozen node that {what}: median {} ms, worst {} ms (n={})",
            percentile(&mut took, 0.5),
            percentile(&mut took, 1.0),
            took.len()
        );
        limit("a frozen coordinator", percentile(&mut took, 1.0), 3_000);
    }
}

/// Reads need leases: a replica that can no longer give any must not hold them up, even if nothing
/// is written.
#[test]
fn a_volume_that_is_only_read_goes_on_when_replicas_die_or_freeze() {
    let mut c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    connect(&c, 0).write(0, &[7; 1 << 20]).unwrap();
    for frozen in [false, true] {
        let mut nbd = connect(&c, 0);
        let read = |nbd: &mut Nbd, from: Instant, ms: u128| {
            let (mut worst, mut n) = (0, 0);
            while from.elapsed().as_millis() < ms {
                let began = Instant::now();
                assert!(nbd.read(n % 256 * 4096, 4096).unwrap() == [7; 4096]);
                worst = worst.max(began.elapsed().as_millis());
                n += 1;
            }
            (worst, n)
        };
        read(&mut nbd, Instant::now(), 1_000);
        if frozen {
            signal(&c, 2, libc::SIGSTOP)
        } else {
            c.nodes[2].kill()
        }
        let gone = Instant::now();
        let (mut worst, mut n) = (0, 0);
        until("the replica to be dropped", || {
            let (w, k) = read(&mut nbd, Instant::now(), 200);
            (worst, n) = (worst.max(w), n + k);
            if in_sync(&c) == 2 { Ok(()) } else { Err(in_sync(&c).to_string()) }
        });
        println!(
            "a volume that is only read, a replica {}: {n} reads, longest {worst} ms, dropped after {} ms",
            if frozen { "frozen" } else { "killed" },
            gone.elapsed().as_millis()
        );
        if frozen {
            signal(&c, 2, libc::SIGCONT)
        } else {
            c.nodes[2].start()
        }
        whole(&c);
    }
}

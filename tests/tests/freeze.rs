//! SIGSTOP and SIGCONT of replicas, of the coordinator's node and of the metadata leader under a user whose every operation is
//! judged by the history checker; how long the user waits is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, until};
use hf_tests::nbd::Nbd;
use hf_tests::user::{StopAtEnd, Witness, limit, nothing_failed, percentile};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

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
    until("all replicas to be in sync", || if in_sync(c) == 3 { Ok(()) } else { Err(in_sync(c).to_string()) });
}

#[test]
fn frozen_replicas_cost_a_bounded_wait_and_no_truth() {
    let rounds: usize = std::env::var("HOLDFAST_FREEZES").ok().and_then(|s| s.parse().ok()).unwrap_or(10);
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let w = Witness::default();
    let mut waits = Vec::new();
    for round in 0..rounds {
        let victim = 1 + round % 2;
        let mut nbd = connect(&c, 0);
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            let (flag, seen, end) = (&stop, &w, StopAtEnd(&stop));
            let worker = s.spawn(move || seen.work(&mut nbd, flag));
            gets_on(&w, 80);
            signal(&c, victim, libc::SIGSTOP);
            // Until the set has shrunk and work goes on without it.
            until("the frozen replica to be dropped", || {
                if in_sync(&c) == 2 { Ok(()) } else { Err(in_sync(&c).to_string()) }
            });
            gets_on(&w, 80);
            signal(&c, victim, libc::SIGCONT);
            whole(&c);
            drop(end);
            let worked = worker.join().unwrap();
            nothing_failed(std::slice::from_ref(&worked), &format!("round {round}, n{} was frozen", victim + 1));
            waits.push(worked.longest);
        });
    }
    w.judge("frozen replicas");
    println!(
        "longest wait of a user while a replica was frozen: median {} ms, p99 {} ms (n={})",
        percentile(&mut waits, 0.5),
        percentile(&mut waits, 0.99),
        waits.len()
    );
    limit("a frozen replica", percentile(&mut waits, 0.99), 2_500);
}

#[test]
fn a_frozen_coordinator_that_wakes_after_a_take_over_serves_nothing_old() {
    let rounds: usize = std::env::var("HOLDFAST_TAKEOVERS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    let w = Witness::default();
    let (mut took, mut led) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // By leases, and without them; from who leads the metadata, and from who does not.
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

/// Reads need their leases: who can give none any more must not hold them up, also where nothing is written.
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

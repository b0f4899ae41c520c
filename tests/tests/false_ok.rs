//! Never "ok" without a reason: random faults, and every second all living nodes are asked how things stand. What is
//! true is known from outside: which processes live, which disks' files are there.
//!
//! `HOLDFAST_FALSE_OK_SECONDS` says how long (60 by default; `make soak` takes 1,200), `HOLDFAST_FALSE_OK_SEED` which
//! faults.

use hf_tests::cluster::{Cluster, until};
use hf_tests::http;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Evidence counts for 5 s; a heartbeat may have been on its way, and the leader looks every half second. A state
/// that is asked for later than this after a fault must not be ok.
const DWELL: Duration = Duration::from_secs(8);
/// A health code waits for its own dwell of 5 s behind that: the cluster must not be called well later than this.
const DWELL_OF_HEALTH: Duration = Duration::from_secs(14);
/// How long a fault stays.
const STAYS: Duration = Duration::from_secs(18);

/// A fault of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Its process is killed.
    Killed,
    /// Its process is frozen.
    Frozen,
    /// It is started again without its disk's file.
    DiskGone,
}

/// A small generator of numbers (Numerical Recipes' constants); the seed is printed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What was seen.
#[derive(Default)]
struct Seen {
    asked: u64,
    false_ok: Vec<String>,
    /// For each fault the time until no node said ok any more.
    noticed: Vec<Duration>,
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: a child of the test that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

fn disk_file(c: &Cluster, node: usize) -> PathBuf {
    c.nodes[node].disk.join("holdfast.disk")
}

/// Brings the fault about.
fn begin(c: &mut Cluster, node: usize, fault: Fault) {
    match fault {
        Fault::Killed => c.nodes[node].kill(),
        Fault::Frozen => signal(c.nodes[node].pid().unwrap(), libc::SIGSTOP),
        Fault::DiskGone => {
            c.nodes[node].kill();
            let file = disk_file(c, node);
            std::fs::rename(&file, file.with_extension("away")).unwrap();
            c.nodes[node].start();
        }
    }
}

/// Ends the fault.
fn end(c: &mut Cluster, node: usize, fault: Fault) {
    match fault {
        Fault::Killed => c.nodes[node].start(),
        Fault::Frozen => signal(c.nodes[node].pid().unwrap(), libc::SIGCONT),
        Fault::DiskGone => {
            c.nodes[node].kill();
            let file = disk_file(c, node);
            std::fs::rename(file.with_extension("away"), &file).unwrap();
            c.nodes[node].start();
        }
    }
}

/// A resource as one node shows it; none if it does not answer within a second.
fn shown(addr: &str, path: &str) -> Option<Value> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    let reply = http::ask_within(Duration::from_secs(1), addr, &head, "").ok()?;
    reply.good().ok()
}

/// What a node says though something is wrong, each with the time after which it must not.
fn lies(addr: &str, node: &str, fault: Fault) -> Vec<(Duration, String)> {
    let mut found = Vec::new();
    let mut look = |path: &str, field: &str, well: &[&str], dwell: Duration| {
        let Some(v) = shown(addr, path) else { return };
        let word = v[field].as_str().unwrap_or_default().to_string();
        if well.contains(&word.as_str()) {
            found.push((dwell, format!("{addr} says {word} at {path}: {v}")));
        }
    };
    look("/v1/volumes/v", "state", &["ok"], DWELL);
    look("/v1/health", "state", &["ok"], DWELL_OF_HEALTH);
    look("/v1/cluster", "health", &["ok"], DWELL_OF_HEALTH);
    if fault != Fault::DiskGone {
        look(&format!("/v1/nodes/{node}"), "state", &["up"], DWELL);
    }
    let disks = shown(addr, &format!("/v1/disks?node={node}"));
    for d in disks.iter().flat_map(|d| d["items"].as_array()).flatten() {
        if d["state"] == "ok" {
            found.push((DWELL, format!("{addr} says ok of a disk: {d}")));
        }
    }
    let replicas = shown(addr, &format!("/v1/replicas?node={node}"));
    for r in replicas.iter().flat_map(|r| r["items"].as_array()).flatten() {
        if r["state"] == "in_sync" {
            found.push((DWELL, format!("{addr} says in_sync of a replica: {r}")));
        }
    }
    found
}

/// Watches while the fault stays.
fn watch(c: &Cluster, node: usize, fault: Fault, began: Instant, seen: &mut Seen) {
    let others: Vec<&str> =
        c.nodes.iter().enumerate().filter(|(i, _)| *i != node).map(|(_, n)| n.http.as_str()).collect();
    let (mut last_lie, mut next) = (began, Instant::now());
    while began.elapsed() < STAYS {
        for addr in &others {
            let asked = began.elapsed();
            let found = lies(addr, &c.nodes[node].name, fault);
            seen.asked += 1;
            if !found.is_empty() {
                last_lie = Instant::now();
            }
            let due = found.into_iter().filter(|(dwell, _)| asked >= *dwell);
            seen.false_ok.extend(due.map(|(_, l)| format!("{fault:?} after {asked:?}: {l}")));
        }
        next += Duration::from_secs(1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    seen.noticed.push(last_lie - began);
}

#[test]
fn nothing_is_called_ok_that_is_not() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |v| v.parse().unwrap());
    let seconds = number("HOLDFAST_FALSE_OK_SECONDS", 60);
    let seed = number("HOLDFAST_FALSE_OK_SEED", 15);
    println!("HOLDFAST_FALSE_OK_SEED={seed}");
    let mut draw = Draw(seed);
    let mut c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=64MiB", "replicas=3", "rebuild_after=30d"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let well = |c: &Cluster| {
        until("everything to be ok again", || {
            let all = c.nodes.iter().map(|n| {
                let v = shown(&n.http, "/v1/volumes/v").ok_or(format!("{} does not answer", n.name))?;
                if v["state"] == "ok" { Ok(()) } else { Err(format!("{}: {} {}", n.name, v["state"], v["why"])) }
            });
            all.collect::<Result<Vec<()>, String>>()
        });
    };
    well(&c);
    let (began, mut seen) = (Instant::now(), Seen::default());
    let faults = [Fault::Killed, Fault::Frozen, Fault::DiskGone];
    let mut turn = draw.below(3) as usize;
    while began.elapsed() < Duration::from_secs(seconds) {
        let node = draw.below(3) as usize;
        // Every kind comes in turn, from a random one on.
        let fault = faults[turn % 3];
        turn += 1;
        begin(&mut c, node, fault);
        watch(&c, node, fault, Instant::now(), &mut seen);
        end(&mut c, node, fault);
        well(&c);
    }
    let ms: Vec<u128> = seen.noticed.iter().map(Duration::as_millis).collect();
    println!(
        "{} faults, {} looks; false ok after the dwell of {} s: {}; the last ok after a fault came after (ms) {ms:?}",
        seen.noticed.len(),
        seen.asked,
        DWELL.as_secs(),
        seen.false_ok.len()
    );
    assert!(seen.noticed.len() >= 3, "too few faults to judge");
    assert!(seen.asked > 3 * seen.noticed.len() as u64, "too few looks to judge");
    assert_eq!(seen.false_ok, Vec::<String>::new());
}

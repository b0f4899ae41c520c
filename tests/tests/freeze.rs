//! SIGSTOP and SIGCONT of replicas, of the coordinator's node and of the metadata leader under a user whose every operation is
//! judged by the history checker; how long the user waits is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::check::register::History;
use hf_tests::cluster::{Cluster, until};
use hf_tests::nbd::Nbd;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};
use std::time::{Duration, Instant};

const BLOCKS: u64 = 32;

fn signal(c: &Cluster, node: usize, sig: i32) {
    // SAFETY: a child of ours that has not been waited for.
    unsafe { libc::kill(c.nodes[node].pid().unwrap() as i32, sig) };
}

fn tagged(tag: u64) -> Vec<u8> {
    tag.to_le_bytes().repeat(512)
}

fn tag_of(b: &[u8]) -> u64 {
    assert!(b.chunks(8).all(|c| c == &b[..8]), "a torn block was read");
    u64::from_le_bytes(b[..8].try_into().unwrap())
}

/// One user, one operation at a time; what it saw goes into the history.
struct User {
    history: Arc<Mutex<History>>,
    origin: Instant,
    tag: u64,
}

impl User {
    fn now(&self) -> u64 {
        self.origin.elapsed().as_micros() as u64
    }

    /// Works until told to stop or the connection ends; the longest that one operation took.
    fn work(&mut self, nbd: &mut Nbd, stop: &AtomicBool) -> Duration {
        let mut longest = Duration::ZERO;
        let mut i = 0u64;
        while !stop.load(Ordering::Relaxed) {
            i += 1;
            let block = (i * 7) % BLOCKS;
            let began = Instant::now();
            let start = self.now();
            if i.is_multiple_of(3) {
                let Ok(b) = nbd.read(block * 4096, 4096) else { return longest };
                let (tag, end) = (tag_of(&b), self.now());
                self.history.lock().unwrap().read(block, tag, start, end);
            } else if i.is_multiple_of(11) {
                self.tag += 1;
                self.history.lock().unwrap().write_began(self.tag, start, [(block, 0)].into_iter());
                if nbd.trim(block * 4096, 4096).is_err() {
                    return longest;
                }
                let end = self.now();
                self.history.lock().unwrap().write_ended(self.tag, end);
            } else {
                self.tag += 1;
                self.history.lock().unwrap().write_began(self.tag, start, [(block, self.tag)].into_iter());
                if nbd.write(block * 4096, &tagged(self.tag)).is_err() {
                    return longest;
                }
                let end = self.now();
                self.history.lock().unwrap().write_ended(self.tag, end);
            }
            longest = longest.max(began.elapsed());
        }
        longest
    }
}

/// All replicas are back in sync.
fn whole(c: &Cluster) {
    until("all replicas to be in sync", || {
        let v = c.volume("v");
        let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
        if all.values().all(|r| r["state"] == "in_sync") { Ok(()) } else { Err(v["shards"][0].to_string()) }
    });
}

#[test]
fn frozen_replicas_cost_a_bounded_wait_and_no_truth() {
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let history = Arc::new(Mutex::new(History::default()));
    let mut user = User { history: history.clone(), origin: Instant::now(), tag: 0 };
    let mut waits = Vec::new();
    for round in 0..6 {
        let victim = 1 + round % 2;
        let mut nbd = until("the export", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
        let stop = Arc::new(AtomicBool::new(false));
        std::thread::scope(|s| {
            let (flag, user) = (stop.clone(), &mut user);
            let worker = s.spawn(move || user.work(&mut nbd, &flag));
            let seen = history.lock().unwrap().writes;
            until("some work", || if history.lock().unwrap().writes > seen + 50 { Ok(()) } else { Err(String::new()) });
            signal(&c, victim, libc::SIGSTOP);
            // Until the set has shrunk and work goes on without it.
            until("the frozen replica to be dropped", || {
                let v = c.volume("v");
                let n = v["shards"][0]["replicas"]
                    .as_object()
                    .unwrap()
                    .values()
                    .filter(|r| r["state"] == "in_sync")
                    .count();
                if n == 2 { Ok(()) } else { Err(n.to_string()) }
            });
            let seen = history.lock().unwrap().writes;
            until("work to go on", || {
                if history.lock().unwrap().writes > seen + 50 { Ok(()) } else { Err(String::new()) }
            });
            signal(&c, victim, libc::SIGCONT);
            whole(&c);
            stop.store(true, Ordering::Relaxed);
            waits.push(worker.join().unwrap());
        });
    }
    waits.sort();
    println!("longest wait of a user while a replica was frozen, {} rounds: {waits:?}", waits.len());
    history.lock().unwrap().check().unwrap();
}

#[test]
fn a_frozen_coordinator_that_wakes_after_a_take_over_serves_nothing_old() {
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    let history = Arc::new(Mutex::new(History::default()));
    let mut user = User { history: history.clone(), origin: Instant::now(), tag: 0 };
    let mut took = Vec::new();
    for round in 0..4usize {
        let (old, new) = (round % 2, (round + 1) % 2);
        let origin = user.origin;
        let attach = |node: usize| c.cli(&["volume", "attach", "v", "--node", &c.nodes[node].name, "--force"]);
        until("the attachment", || attach(old));
        let mut nbd = until("the export", || Nbd::connect(&c.nodes[old].nbd, "v").map_err(|e| e.to_string()));
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            let worker = s.spawn(|| {
                let mut mine = User { history: history.clone(), origin, tag: 1_000_000 * (round as u64 + 1) };
                mine.work(&mut nbd, &stop);
            });
            let seen = history.lock().unwrap().writes;
            until("some work", || if history.lock().unwrap().writes > seen + 50 { Ok(()) } else { Err(String::new()) });
            signal(&c, old, libc::SIGSTOP);
            let began = Instant::now();
            until("the take-over", || attach(new));
            took.push(began.elapsed());
            let mut there = until("the export", || Nbd::connect(&c.nodes[new].nbd, "v").map_err(|e| e.to_string()));
            // New truth on the new side; then the old coordinator wakes with its user's operation still open.
            let short = AtomicBool::new(false);
            std::thread::scope(|t| {
                let other = t.spawn(|| user.work(&mut there, &short));
                let seen = history.lock().unwrap().writes;
                until("work there", || {
                    if history.lock().unwrap().writes > seen + 60 { Ok(()) } else { Err(String::new()) }
                });
                signal(&c, old, libc::SIGCONT);
                let seen = history.lock().unwrap().writes;
                until("more work", || {
                    if history.lock().unwrap().writes > seen + 60 { Ok(()) } else { Err(String::new()) }
                });
                short.store(true, Ordering::Relaxed);
                other.join().unwrap();
            });
            stop.store(true, Ordering::Relaxed);
            worker.join().unwrap();
        });
        whole(&c);
    }
    took.sort();
    println!("take-over on request from a frozen node, {} rounds: {took:?}", took.len());
    history.lock().unwrap().check().unwrap();
}

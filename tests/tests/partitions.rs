//! Three hosts in network namespaces, cut off from each other along every subset of their links,
//! one way and both ways, while users on both sides go on and volumes are taken over: no stale
//! read, no write that is both refused and there, no late acknowledgement, and everything heals.
//! The cuts of a round follow each other without healing in between, so that sides change while
//! they are apart. `HOLDFAST_PARTITIONS` sets how many volumes are put through a subset (630 in CI:
//! ten through each of the 63), `HOLDFAST_PARTITION_SEED` which subsets follow each other, when,
//! and who takes what (77 in CI).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_store::sim::Rng;
use hf_tests::cluster::{Cluster, binary, until};
use hf_tests::nbd::Nbd;
use hf_tests::netns::Hosts;
use hf_tests::status;
use hf_tests::user::{BLOCKS, StopAtEnd, Witness, Worked, limit, nothing_failed, percentile};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const VOLUMES: usize = 10;
/// Subsets of links that follow each other before all heals.
const IN_A_ROW: usize = 4;
const LINKS: [(usize, usize); 6] = [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)];

struct World {
    c: Cluster,
    hosts: Hosts,
    seen: Vec<Witness>,
}

fn name(v: usize) -> String {
    format!("v{v}")
}

impl World {
    fn new() -> World {
        let hosts = Hosts::new(3);
        let mut i = 0;
        let c = Cluster::prepared(3, |n| {
            i += 1;
            let port = |p: u16| format!("{}:{p}", Hosts::addr(i));
            (n.api, n.data, n.nbd, n.http) = (port(7420), port(7421), port(10809), port(7423));
            n.wrap = hosts.wrap(i);
        });
        let w = World { c, hosts, seen: (0..VOLUMES).map(|_| Witness::default()).collect() };
        for v in 0..VOLUMES {
            w.c.ok(&["volume", "create", &name(v), "size=8MiB"]);
            w.c.ok(&["volume", "attach", &name(v), "--node", &format!("n{}", v % 3 + 1)]);
        }
        w
    }

    /// Uses a volume through one node, whenever that serves it, until told to stop.
    fn use_it(&self, v: usize, node: usize, stop: &AtomicBool, sessions: &AtomicU64) {
        while !stop.load(Ordering::Relaxed) {
            match Nbd::connect(&self.c.nodes[node].nbd, &name(v)) {
                Ok(mut nbd) => {
                    sessions.fetch_add(1, Ordering::Relaxed);
                    self.seen[v].work(&mut nbd, stop);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// A replica is cut off from the coordinators on host 1, which serve all along: how long their users wait.
    fn cut_off(&self, replica: usize, waits: &mut Vec<Duration>) {
        let here: Vec<usize> = (0..VOLUMES).filter(|v| v % 3 == 0).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            let (stop, end) = (&stop, StopAtEnd(&stop));
            let user = |v: &usize| {
                let v = *v;
                s.spawn(move || {
                    let mut nbd = Nbd::connect(&self.c.nodes[0].nbd, &name(v)).unwrap();
                    self.seen[v].work(&mut nbd, stop)
                })
            };
            let users: Vec<_> = here.iter().map(user).collect();
            let get_on = || {
                let marks: Vec<u64> = here.iter().map(|v| self.seen[*v].done() + 100).collect();
                until("users to get on", || {
                    if here.iter().zip(&marks).all(|(v, m)| self.seen[*v].done() >= *m) {
                        Ok(())
                    } else {
                        Err(String::new())
                    }
                });
            };
            get_on();
            [(1, replica), (replica, 1)].iter().for_each(|(a, b)| self.hosts.cut(*a, *b));
            get_on();
            self.hosts.heal();
            drop(end);
            let worked: Vec<Worked> = users.into_iter().map(|u| u.join().unwrap()).collect();
            nothing_failed(&worked, &format!("n{replica} was cut off from n1"));
            waits.extend(worked.iter().map(|w| w.longest));
        });
        self.whole();
    }

    /// The metadata is led by another node than this.
    fn another_leads_than(&self, node: usize) {
        if self.c.leader() != node {
            return;
        }
        let its: Vec<(usize, usize)> = LINKS.into_iter().filter(|(a, b)| [*a, *b].contains(&(node + 1))).collect();
        self.hosts.only(&its);
        let other = [self.c.nodes[(node + 1) % 3].http.clone()];
        until("another leader", || {
            let s = status::whole(&other)?;
            let leader = s["leader"].as_u64().filter(|l| *l != node as u64 + 1);
            leader.map(drop).ok_or_else(|| s["leader"].to_string())
        });
        self.hosts.heal();
        self.whole();
    }

    /// Every volume has all its replicas in sync and is attached.
    fn whole(&self) {
        until("every volume to be whole and in use", || {
            let s = self.c.status()?;
            for v in s["volumes"].as_object().ok_or("no volumes")?.values() {
                let all = v["shards"][0]["replicas"].as_object().ok_or("no replicas")?;
                let home = v["coordinator"].as_object().is_some_and(|a| a["maintenance"] != true);
                if !all.values().all(|r| r["state"] == "in_sync") || !home || all.len() != 3 {
                    return Err(v.to_string());
                }
            }
            Ok(())
        });
    }

    /// Tries to take a volume to a node, asking that node; it need not succeed while links are cut.
    fn take(&self, v: usize, node: usize) -> Child {
        let (http, to) = (self.c.nodes[node].http.clone(), self.c.nodes[node].name.clone());
        Command::new("timeout")
            .arg("2")
            .arg(binary())
            .args(["--endpoint", &http, "volume", "attach", &name(v), "--node", &to, "--force"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Some volumes are taken elsewhere: at times at once, while the old side still counts itself
    /// in, at times only once it was noticed.
    fn takes(&self, rng: &mut Rng) {
        if rng.one_in(2) {
            std::thread::sleep(Duration::from_millis(300 + rng.below(2_500)));
        }
        let chosen: Vec<(usize, usize)> = (0..VOLUMES).map(|v| (v, rng.below(6) as usize)).collect();
        let takers: Vec<Child> = chosen.iter().filter(|(_, to)| *to < 3).map(|(v, to)| self.take(*v, *to)).collect();
        for mut t in takers {
            t.wait().unwrap();
        }
    }

    /// Everybody works on everything while these links are cut, one subset after the other, and
    /// some volumes are taken elsewhere; then all heals. Returns how long healing took.
    fn episode(&self, subsets: &[Vec<(usize, usize)>], rng: &mut Rng) -> Duration {
        let (stop, sessions) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|s| {
            let end = StopAtEnd(&stop);
            for v in 0..VOLUMES {
                for node in 0..3 {
                    let (stop, sessions) = (&stop, &sessions);
                    s.spawn(move || self.use_it(v, node, stop, sessions));
                }
            }
            let marks: Vec<u64> = self.seen.iter().map(|w| w.done() + 10).collect();
            let works = |marks: &[u64]| {
                let idle: Vec<usize> = (0..VOLUMES).filter(|v| self.seen[*v].done() < marks[*v]).collect();
                if idle.is_empty() { Ok(()) } else { Err(format!("nobody gets on with volumes {idle:?}")) }
            };
            until("users to work", || works(&marks));
            for cuts in subsets {
                self.hosts.only(cuts);
                self.takes(rng);
            }
            self.hosts.heal();
            let healed = Instant::now();
            self.whole();
            let marks: Vec<u64> = self.seen.iter().map(|w| w.done() + BLOCKS).collect();
            until("users to go on", || works(&marks));
            let took = healed.elapsed();
            drop(end);
            took
        })
    }
}

#[test]
fn a_replica_that_is_cut_off_costs_a_bounded_wait() {
    let w = World::new();
    let (mut waits, mut led) = (Vec::new(), Vec::new());
    for i in 0..3 {
        let replica = match w.c.leader() {
            0 => 2 + i % 2,
            1 => 3,
            _ => 2,
        };
        w.cut_off(replica, &mut waits);
    }
    // The coordinator asks the metadata leader to drop other members and hears of the decision from
    // it. The third node, which both can reach, has to relay both.
    for _ in 0..3 {
        w.another_leads_than(0);
        w.cut_off(w.c.leader() + 1, &mut led);
    }
    w.seen.iter().enumerate().for_each(|(v, seen)| seen.judge(&format!("volume {v}, replicas cut off")));
    println!(
        "longest wait of a user while a replica was cut off from its coordinator: median {} ms, p99 {} ms (n={})",
        percentile(&mut waits, 0.5),
        percentile(&mut waits, 0.99),
        waits.len()
    );
    limit("a replica cut off", percentile(&mut waits, 0.99), 2_500);
    println!(
        "longest wait of a user while a replica whose node leads the metadata was cut off from its coordinator, and from nobody else: median {} ms, p99 {} ms (n={})",
        percentile(&mut led, 0.5),
        percentile(&mut led, 0.99),
        led.len()
    );
    limit("a replica cut off that leads", percentile(&mut led, 0.99), 2_500);
}

#[test]
fn partitions_along_any_links_show_nobody_anything_wrong_even_rows() {
    partitions(0);
}

#[test]
fn partitions_along_any_links_show_nobody_anything_wrong_odd_rows() {
    partitions(1);
}

/// Every other row of subsets, from row `half` on, on a cluster of its own: the halves run side by side.
fn partitions(half: usize) {
    let env = |key: &str| std::env::var(key).ok().and_then(|s| s.parse::<u64>().ok());
    let seed = env("HOLDFAST_PARTITION_SEED").unwrap_or(77);
    let wanted = (env("HOLDFAST_PARTITIONS").unwrap_or(630) as usize).div_ceil(VOLUMES).max(2 * IN_A_ROW);
    println!("replay: HOLDFAST_PARTITION_SEED={seed} HOLDFAST_PARTITIONS={}", wanted * VOLUMES);
    let w = World::new();
    let mut rng = Rng::new(seed);
    // Every non-empty subset of the six directed links, in some order.
    let mut subsets: Vec<u32> = (1..64).collect();
    for i in (1..subsets.len()).rev() {
        subsets.swap(i, rng.below(i as u64 + 1) as usize);
    }
    let (mut heals, mut cut) = (Vec::new(), 0);
    let links = |set: u32| LINKS.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, l)| *l).collect();
    let order: Vec<Vec<(usize, usize)>> = subsets.iter().cycle().take(wanted).map(|s| links(*s)).collect();
    for (round, row) in order.chunks(IN_A_ROW).enumerate().filter(|(i, _)| i % 2 == half) {
        cut += row.len();
        heals.push(w.episode(row, &mut rng));
        for (v, seen) in w.seen.iter().enumerate() {
            seen.judge(&format!("seed {seed}, round {round}, volume {v}, links cut one after the other: {row:?}"));
        }
    }
    let (writes, reads) = w.seen.iter().map(Witness::counts).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    assert!(writes as usize > heals.len() * VOLUMES * 10 && reads > 0);
    println!(
        "{} partitioned volumes ({} subsets of links, {VOLUMES} volumes each, seed {seed}): {writes} acknowledged writes, {reads} reads, 0 stale, 0 late; whole and in use again after: median {} ms, worst {} ms (n={})",
        cut * VOLUMES,
        cut,
        percentile(&mut heals, 0.5),
        percentile(&mut heals, 1.0),
        heals.len()
    );
}

//! kill -9 of a replica's node, of the metadata leader, of the coordinator's node and of one that
//! is both in turn, under users whose every operation is judged: every acknowledged write is
//! readable afterwards, and nothing else is. `HOLDFAST_KILL_CYCLES` sets how often (100 in CI, a
//! third of them on each of three clusters). How long users wait is printed for each role, with n
//! and percentiles. Then the loss of the whole metadata group.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, until};
use hf_tests::nbd::Nbd;
use hf_tests::user::{StopAtEnd, Witness, Worked, failures, limit, nothing_failed, percentile};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const USERS: usize = 3;

fn connect(c: &Cluster, node: usize) -> Nbd {
    until("the export", || Nbd::connect(&c.nodes[node].nbd, "v").map_err(|e| e.to_string()))
}

fn gets_on(w: &Witness, by: u64) {
    let mark = w.done() + by;
    until("work to go on", || if w.done() >= mark { Ok(()) } else { Err(w.done().to_string()) });
}

/// Users at work through a node while `during` goes on.
fn busy(c: &mut Cluster, node: usize, w: &Witness, during: impl FnOnce(&mut Cluster)) -> Vec<Worked> {
    let stop = AtomicBool::new(false);
    let conns: Vec<Nbd> = (0..USERS).map(|_| connect(c, node)).collect();
    std::thread::scope(|s| {
        let (flag, end) = (&stop, StopAtEnd(&stop));
        let users: Vec<_> = conns.into_iter().map(|mut n| s.spawn(move || w.work(&mut n, flag))).collect();
        gets_on(w, 300);
        during(c);
        drop(end);
        users.into_iter().map(|u| u.join().unwrap()).collect()
    })
}

fn whole(c: &Cluster) {
    until("all replicas to be in sync", || {
        let s = c.status()?;
        let v = s["volumes"].as_object().and_then(|v| v.values().next().cloned()).ok_or("no volume")?;
        let all = v["shards"][0]["replicas"].as_object().ok_or("no replicas")?;
        if all.values().all(|r| r["state"] == "in_sync") { Ok(()) } else { Err(v["shards"][0].to_string()) }
    });
}

/// Attaches on a node, by force or as soon as the old one is taken for dead; until it is in use there.
fn take(c: &Cluster, node: usize, force: bool) -> (Duration, Nbd) {
    let began = Instant::now();
    let args = ["volume", "attach", "v", "--node", &c.nodes[node].name];
    let forced = [&args[..], &["--force"]].concat();
    until("attach elsewhere", || c.cli(if force { &forced } else { &args }));
    let mut nbd = connect(c, node);
    nbd.write(15 << 20, &[7; 4096]).unwrap();
    (began.elapsed(), nbd)
}

/// Whose node is killed; each role has its own measure.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Replica,
    Leader,
    HomeOnRequest,
    HomeByItself,
    HomeThatLeads,
}

/// What is measured, and its limit in milliseconds.
const ROLES: [(Role, &str, u128); 5] = [
    (Role::Replica, "longest wait of a user, a replica's node killed", 300),
    (Role::Leader, "longest wait of a user, the metadata leader's node killed, which held a replica", 300),
    (Role::HomeOnRequest, "the attachment's node killed, in use elsewhere on request", 3_000),
    (Role::HomeByItself, "the attachment's node killed, in use elsewhere without force", 8_000),
    (Role::HomeThatLeads, "the attachment's node killed, which led the metadata, in use elsewhere on request", 3_000),
];

impl Role {
    fn is_home(self) -> bool {
        !matches!(self, Role::Replica | Role::Leader)
    }

    /// A node of three that has the role; the volume moves first if that must be.
    fn victim(self, c: &Cluster, home: &mut usize) -> usize {
        let leads = c.leader();
        let wrong = match self {
            Role::Replica => false,
            Role::Leader | Role::HomeOnRequest | Role::HomeByItself => *home == leads,
            Role::HomeThatLeads => *home != leads,
        };
        if wrong {
            *home = if self == Role::HomeThatLeads { leads } else { (leads + 1) % 3 };
            drop(take(c, *home, true));
        }
        match self {
            Role::Replica => (0..3).find(|n| *n != *home && *n != leads).unwrap(),
            Role::Leader => leads,
            _ => *home,
        }
    }
}

#[test]
fn acknowledged_writes_survive_kill_9_of_any_node_when_n1_begins() {
    kill_in_turn(0);
}

#[test]
fn acknowledged_writes_survive_kill_9_of_any_node_when_n2_begins() {
    kill_in_turn(1);
}

#[test]
fn acknowledged_writes_survive_kill_9_of_any_node_when_n3_begins() {
    kill_in_turn(2);
}

/// A third of the cycles, on a cluster of its own: they run side by side. The volume is attached on node `home` first.
fn kill_in_turn(mut home: usize) {
    let cycles: usize = std::env::var("HOLDFAST_KILL_CYCLES").ok().and_then(|s| s.parse().ok()).unwrap_or(100);
    let cycles = cycles.div_ceil(3).max(ROLES.len());
    let mut c = Cluster::new(3);
    let w = Witness::default();
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    let mut measured = ROLES.map(|_| Vec::new());
    drop(take(&c, home, true));
    for cycle in 0..cycles {
        let (role, ..) = ROLES[cycle % ROLES.len()];
        let victim = role.victim(&c, &mut home);
        let context = format!("cycle {cycle}: n{} had it attached, n{} was killed ({role:?})", home + 1, victim + 1);
        let worked = busy(&mut c, home, &w, |c| {
            c.nodes[victim].kill();
            if !role.is_home() {
                // Far more operations than were in flight when it happened.
                gets_on(&w, 600);
            }
        });
        measured[cycle % ROLES.len()].push(if role.is_home() {
            home = (home + 1 + cycle % 2) % 3;
            take(&c, home, role != Role::HomeByItself).0
        } else {
            nothing_failed(&worked, &context);
            worked.iter().map(|u| u.longest).max().unwrap()
        });
        w.read_all(&mut connect(&c, home)).unwrap();
        w.judge(&context);
        c.nodes[victim].start();
        c.ready();
        whole(&c);
    }
    let (writes, reads) = w.counts();
    println!("{cycles} kill -9 cycles, {writes} acknowledged writes, {reads} reads: 0 lost, 0 stale");
    for ((role, what, most), list) in ROLES.iter().zip(&mut measured) {
        let n = list.len();
        assert!(n >= cycles / ROLES.len(), "{role:?} was killed only {n} times");
        let (p50, p90, p99) = (percentile(list, 0.5), percentile(list, 0.9), percentile(list, 0.99));
        println!("{what}: median {p50} ms, p90 {p90} ms, p99 {p99} ms (n={n})");
        limit(&format!("{role:?}"), p99, *most);
    }
}

#[test]
fn losing_the_metadata_leader_or_all_of_the_group_disturbs_no_healthy_volume() {
    // Three nodes vote; the volume lives on two others.
    let mut c = Cluster::new(5);
    let w = Witness::default();
    let voters = c.status().unwrap()["voters"].as_array().unwrap().clone();
    let id = |i: usize| serde_json::json!(i as u64 + 1);
    let outside: Vec<usize> = (0..5).filter(|i| !voters.contains(&id(*i))).collect();
    let inside: Vec<usize> = (0..5).filter(|i| voters.contains(&id(*i))).collect();
    assert_eq!((outside.len(), inside.len()), (2, 3), "{voters:?}");
    let nodes = format!("nodes={},{}", c.nodes[outside[0]].name, c.nodes[outside[1]].name);
    c.ok(&["volume", "create", "v", "size=16MiB", "replicas=2", &nodes]);
    c.ok(&["volume", "attach", "v", "--node", &c.nodes[outside[0]].name]);
    let leader = c.leader();
    let calm = busy(&mut c, outside[0], &w, |_| gets_on(&w, 3_000));
    let without_leader = busy(&mut c, outside[0], &w, |c| {
        c.nodes[leader].kill();
        gets_on(&w, 3_000);
    });
    let without_raft = busy(&mut c, outside[0], &w, |c| {
        inside.iter().for_each(|i| c.nodes[*i].kill());
        gets_on(&w, 6_000);
    });
    let all = [calm, without_leader, without_raft];
    let failed: usize = all.iter().map(|l| failures(l)).sum();
    ["undisturbed", "without the leader", "without metadata"].iter().zip(&all).for_each(|(x, l)| nothing_failed(l, x));
    let longest = |l: &[Worked]| l.iter().map(|u| u.longest).max().unwrap().as_millis();
    assert!(all.iter().all(|l| l.iter().all(|u| u.done > 500)));
    w.judge("without metadata");
    println!(
        "operations that failed: {failed}; longest one: {} ms undisturbed, {} ms when the metadata leader was killed, {} ms when all voters were",
        longest(&all[0]),
        longest(&all[1]),
        longest(&all[2])
    );
}

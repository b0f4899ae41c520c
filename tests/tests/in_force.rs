//! An answer to a change of a volume means that the attached node obeys: its next client sees the
//! new size, and no write is acknowledged after `read_only`. If that node is silent the answer says
//! so (exit code 6), and it obeys before it serves again. A volume grows over a shard's border
//! though a node is lost in that moment. All on real daemons.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, http_get, run, until};
use hf_tests::nbd::Nbd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const MIB: u64 = 1 << 20;

/// The client at one node's endpoint.
fn at(c: &Cluster, node: usize, args: &[&str]) -> Result<String, String> {
    run(&[&["--endpoint", &c.nodes[node].http], args].concat())
}

fn connect(c: &Cluster, node: usize) -> Nbd {
    until("the export", || Nbd::connect(&c.nodes[node].nbd, "v").map_err(|e| e.to_string()))
}

fn signal(c: &Cluster, node: usize, sig: i32) {
    // SAFETY: a child of ours that has not been waited for.
    unsafe { libc::kill(c.nodes[node].pid().unwrap() as i32, sig) };
}

/// Stops a node: none of its threads runs when this returns.
fn freeze(c: &Cluster, node: usize) {
    signal(c, node, libc::SIGSTOP);
    let tasks = format!("/proc/{}/task", c.nodes[node].pid().unwrap());
    until("all threads to stand still", || {
        let stat =
            |e: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(e.unwrap().path().join("stat")).unwrap();
        let runs = std::fs::read_dir(&tasks).unwrap().map(stat).find(|s| !s.contains(") T "));
        runs.map_or(Ok(()), Err)
    });
}

/// A volume of this size and policy, attached on a node.
fn attached(c: &Cluster, node: usize, attrs: &[&str]) {
    c.ok(&[&["volume", "create", "v"], attrs].concat());
    c.ok(&["volume", "attach", "v", "--node", &c.nodes[node].name.clone()]);
}

#[test]
fn whoever_connects_after_a_resize_sees_the_new_size() {
    let c = Cluster::new(3);
    let home = (c.leader() + 1) % 3;
    attached(&c, home, &["size=16MiB", "replicas=3"]);
    for i in 1..=100 {
        // Asked at a node that is neither the attached one nor always the leader.
        let size = 16 + i;
        at(&c, (home + 1 + i as usize % 2) % 3, &["volume", "resize", "v", &format!("{size}MiB")]).unwrap();
        let nbd = Nbd::connect(&c.nodes[home].nbd, "v").unwrap();
        assert_eq!(nbd.size, size * MIB, "resize {i}");
    }
}

#[test]
fn no_write_is_acknowledged_after_read_only() {
    let c = Cluster::new(3);
    let home = (c.leader() + 1) % 3;
    attached(&c, home, &["size=16MiB", "replicas=3"]);
    let asked = (home + 1) % 3;
    for round in 0..20 {
        let (stop, mut late) = (AtomicBool::new(false), Vec::new());
        std::thread::scope(|s| {
            // Somebody writes all the time; when each write that was acknowledged began and when its
            // answer was seen is noted. (The answer may have come earlier than a busy machine let
            // this thread see it.)
            let (flag, mut busy) = (&stop, connect(&c, home));
            let writer = s.spawn(move || {
                let mut last = None;
                while !flag.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    if busy.write(4096, &[round; 4096]).is_ok() {
                        last = Some((began, Instant::now()));
                    }
                }
                last
            });
            let mut others: Vec<Nbd> = (0..3).map(|_| connect(&c, home)).collect();
            others.iter_mut().for_each(|n| n.write(0, &[round; 4096]).unwrap());
            at(&c, asked, &["volume", "set", "v", "read_only=true"]).unwrap();
            let told = Instant::now();
            for n in &mut others {
                late.extend(n.write(0, &[99; 4096]).ok());
                assert_eq!(n.read(0, 4096).unwrap(), [round; 4096]);
            }
            stop.store(true, Ordering::Relaxed);
            let last = writer.join().unwrap();
            if let Some((began, seen)) = last {
                assert!(began < told, "round {round}: a write that began {:?} late was acknowledged", began - told);
                assert!(seen < told, "round {round}: a write was acknowledged {:?} late", seen - told);
            }
        });
        assert!(late.is_empty(), "round {round}: {} writes were acknowledged", late.len());
        at(&c, asked, &["volume", "set", "v", "read_only=false"]).unwrap();
        connect(&c, home).write(0, &[round; 4096]).unwrap();
    }
}

/// The attached node is stopped, once as a follower of the metadata and once as their leader. What
/// a client sent it meanwhile is refused when it wakes, and the next client sees the new size.
#[test]
fn a_node_that_was_silent_obeys_before_it_serves_again() {
    let c = Cluster::new(3);
    for leads in [false, true] {
        let leader = c.leader();
        let home = if leads { leader } else { (leader + 1) % 3 };
        attached(&c, home, &["size=16MiB", "replicas=3"]);
        let (mut before, mut waiting) = (connect(&c, home), connect(&c, home));
        before.write(0, &[1; 4096]).unwrap();
        freeze(&c, home);
        std::thread::scope(|s| {
            let write = s.spawn(move || waiting.write(0, &[2; 4096]));
            let other = (home + 1) % 3;
            for change in ["read_only=true", "size=32MiB"] {
                let said = until("an answer", || match at(&c, other, &["volume", "set", "v", change]) {
                    // (While the leader is frozen and nobody has succeeded it, nothing is decided.)
                    Err(e) if e.starts_with("[5]") => Err(e),
                    answered => Ok(answered.unwrap_err()),
                });
                assert!(said.starts_with("[6]"), "{change}: {said}");
                assert!(said.contains("recorded, not in force yet") && said.contains("does not answer"), "{said}");
            }
            signal(&c, home, libc::SIGCONT);
            let refused = write.join().unwrap().expect_err("it was sent before, and came after");
            println!("leads={leads}: the write that waited: {refused}");
            let mut after = connect(&c, home);
            assert_eq!(after.size, 32 * MIB);
            assert!(after.write(0, &[3; 4096]).is_err() && before.write(0, &[3; 4096]).is_err());
            assert_eq!(after.read(0, 4096).unwrap(), [1; 4096]);
        });
        // The attachment stands, and a client that asks now is told that it is in force.
        let v = c.volume("v");
        assert_eq!(v["term"], 1, "{v}");
        at(&c, (home + 1) % 3, &["volume", "set", "v", "read_only=false"]).unwrap();
        connect(&c, home).write(0, &[4; 4096]).unwrap();
        c.ok(&["volume", "detach", "v"]);
        c.ok(&["volume", "delete", "v"]);
    }
}

/// Two askers, of whom the second comes before the first one's term is served: it waits for that
/// one and takes nothing away.
#[test]
fn an_attach_that_is_asked_for_again_waits_for_the_first() {
    let c = Cluster::new(3);
    let home = c.leader();
    c.ok(&["volume", "create", "v", "size=16MiB", "replicas=3"]);
    let frozen = (home + 1) % 3;
    freeze(&c, frozen);
    let attach = || at(&c, home, &["volume", "attach", "v", "--node", &c.nodes[home].name]);
    std::thread::scope(|s| {
        let first = s.spawn(attach);
        until("the record to name it", || {
            let v: serde_json::Value =
                serde_json::from_str(&at(&c, home, &["volume", "show", "v", "-o", "json"])?).unwrap();
            if v["attachment"].is_null() { Err("nobody has it".into()) } else { Ok(()) }
        });
        attach().unwrap();
        first.join().unwrap().unwrap();
    });
    signal(&c, frozen, libc::SIGCONT);
    assert_eq!(c.volume("v")["term"], 1);
}

/// Bytes of replication that a node got from others.
fn received(c: &Cluster, node: usize) -> u64 {
    let page = http_get(&c.nodes[node].http, "/metrics").unwrap();
    let lines = page.lines().filter(|l| l.starts_with("holdfast_link_received_bytes_total{"));
    lines.map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// A replica that comes while the volume is attached is read where it is nearer.
#[test]
fn a_replica_that_comes_later_is_read_locally() {
    let c = Cluster::new(3);
    attached(&c, 0, &["size=32MiB", "replicas=1", "nodes=n2"]);
    let mut nbd = connect(&c, 0);
    let data = vec![7; MIB as usize];
    (0..16).for_each(|i| nbd.write(i * MIB, &data).unwrap());
    c.ok(&["volume", "set", "v", "replicas=2", "nodes=n1,n2"]);
    until("the second replica", || {
        let v = c.volume("v");
        let all = v["shards"][0]["replicas"].as_object().unwrap();
        let n = all.values().filter(|r| r["state"] == "in_sync").count();
        if n == 2 { Ok(()) } else { Err(format!("{n} in sync")) }
    });
    let before = received(&c, 0);
    (0..16).for_each(|i| assert_eq!(nbd.read(i * MIB, MIB as u32).unwrap(), data));
    let got = received(&c, 0) - before;
    println!("16 MiB were read, {got} bytes of them from the other node");
    assert!(got < MIB, "{got} bytes came over the network");
}

/// A node dies, and the volume grows over a shard's border before the death is noticed. The old
/// part stays usable, also after another node has taken the volume, and the new part works without
/// the dead node.
#[test]
fn a_volume_that_grows_while_a_node_dies_locks_nobody_out() {
    let mut c = Cluster::prepared(3, |n| n.disk_size = "7GiB".into());
    let leader = c.leader();
    let (home, lost) = ((leader + 1) % 3, (leader + 2) % 3);
    attached(&c, home, &["size=64GiB", "replicas=3", "min_replicas=1"]);
    connect(&c, home).write(0, &[1; 4096]).unwrap();
    c.nodes[lost].kill();
    let said = at(&c, leader, &["volume", "resize", "v", "128GiB"]);
    assert!(said.as_ref().map_or_else(|e| e.starts_with("[6]"), |_| true), "{said:?}");
    let v = c.volume("v");
    assert_eq!(v["shards"].as_array().unwrap().len(), 2);
    // The attachment's node dies too, possibly before the new shard was made; it returns, and the
    // old part is there.
    c.nodes[home].kill();
    c.nodes[home].start();
    let mut nbd = connect(&c, home);
    assert_eq!(nbd.read(0, 4096).unwrap(), [1; 4096]);
    let end = (128 << 30) - 4096;
    until("the new part", || {
        let mut n = Nbd::connect(&c.nodes[home].nbd, "v").map_err(|e| e.to_string())?;
        if n.size < 128 << 30 {
            return Err(format!("{} bytes", n.size));
        }
        n.write(end, &[2; 4096]).map_err(|e| e.to_string())
    });
    let mut nbd = connect(&c, home);
    assert_eq!((nbd.read(0, 4096).unwrap(), nbd.read(end, 4096).unwrap()), (vec![1; 4096], vec![2; 4096]));
    c.nodes[lost].start();
    until("all replicas", || {
        let v = c.volume("v");
        let all = v["shards"].as_array().unwrap().iter().flat_map(|s| s["replicas"].as_object().unwrap().values());
        let n = all.filter(|r| r["state"] == "in_sync").count();
        if n == 6 { Ok(()) } else { Err(format!("{n} of 6 in sync")) }
    });
}

//! Real daemons keep to a volume's policy: writes held below `min_replicas`, read-only volumes,
//! reads spread over the replicas, failure domains and media in placement, and `replica_timeout`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, tool, tool_ok, until};
use hf_tests::nbd::Nbd;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

fn connect(c: &Cluster, node: usize, volume: &str) -> Nbd {
    let mut nbd = until("the export", || Nbd::connect(&c.nodes[node].nbd, volume).map_err(|e| e.to_string()));
    nbd.raw().set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    nbd
}

fn replicas(c: &Cluster, volume: &str) -> Vec<Value> {
    c.volume(volume)["shards"][0]["replicas"].as_object().unwrap().values().cloned().collect()
}

fn in_sync(c: &Cluster, volume: &str, wanted: usize) {
    until("the in-sync set", || {
        let n = replicas(c, volume).iter().filter(|r| r["state"] == "in_sync").count();
        if n == wanted { Ok(()) } else { Err(format!("{n} in sync, not {wanted}")) }
    });
}

/// The names of the nodes that hold a volume's replicas.
fn nodes_of(c: &Cluster, volume: &str) -> BTreeSet<String> {
    let s = c.status().unwrap();
    let name = |r: &Value| s["nodes"][r["node"].to_string()]["name"].as_str().unwrap().to_string();
    replicas(c, volume).iter().map(name).collect()
}

/// The sum of a node's metric over the lines that contain `of`.
fn metric(c: &Cluster, node: usize, name: &str, of: &str) -> u64 {
    let page = tool_ok("curl", &["-sf", &format!("http://{}/metrics", c.nodes[node].http)]);
    let lines = page.lines().filter(|l| l.starts_with(&format!("holdfast_{name}{{")) && l.contains(of));
    lines.map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn below_min_replicas_writes_wait_and_reads_go_on() {
    // Two of the volume's three nodes do not vote, so that killing two leaves a majority: the
    // policy holds the write, not Raft.
    let mut c = Cluster::new(5);
    let voters = c.status().unwrap()["voters"].as_array().unwrap().clone();
    let votes = |i: &usize| voters.contains(&serde_json::json!(*i as u64 + 1));
    let (inside, outside): (Vec<usize>, Vec<usize>) = (0..5).partition(votes);
    let leader = c.leader();
    let voter = inside.into_iter().find(|i| *i != leader).unwrap();
    let (home, other) = (outside[0], outside[1]);
    let nodes = [home, other, voter].map(|i| c.nodes[i].name.clone()).join(",");
    c.ok(&["volume", "create", "v", "size=16MiB", "replicas=3", "min_replicas=2", &format!("nodes={nodes}")]);
    c.ok(&["volume", "attach", "v", "--node", &c.nodes[home].name.clone()]);
    let mut nbd = connect(&c, home, "v");
    nbd.write(0, &[1; 8192]).unwrap();
    c.nodes[other].kill();
    nbd.write(4096, &[2; 4096]).unwrap();
    c.nodes[voter].kill();
    let mut held = connect(&c, home, "v");
    std::thread::scope(|s| {
        let write = s.spawn(move || held.write(8192, &[3; 4096]));
        // Both are out, on record: nothing but the policy holds the write now.
        in_sync(&c, "v", 1);
        for _ in 0..500 {
            assert_eq!(nbd.read(0, 8192).unwrap(), [[1; 4096], [2; 4096]].concat());
        }
        assert!(!write.is_finished(), "a write was answered with one replica in sync: {:?}", write.join());
        assert_eq!(metric(&c, home, "volume_outstanding", "volume=\"v\""), 1);
        c.nodes[other].start();
        write.join().unwrap().unwrap();
    });
    // It is on the one that came back as well: alone it has all of it.
    in_sync(&c, "v", 2);
    nbd.write(12_288, &[4; 4096]).unwrap();
    c.nodes[voter].start();
    in_sync(&c, "v", 3);
    c.nodes[home].kill();
    until("attach elsewhere", || c.cli(&["volume", "attach", "v", "--node", &c.nodes[other].name, "--force"]));
    let all = [[1; 4096], [2; 4096], [3; 4096], [4; 4096]].concat();
    assert_eq!(connect(&c, other, "v").read(0, 16_384).unwrap(), all);
}

#[test]
fn min_replicas_lowered_lets_a_held_write_go() {
    let mut c = Cluster::new(4);
    // The volume's second replica is on the node that does not lead; three voters of four nodes stay a majority.
    let leader = c.leader();
    let (home, other) = (leader, (leader + 1) % 4);
    let nodes = format!("nodes={},{}", c.nodes[home].name, c.nodes[other].name);
    c.ok(&["volume", "create", "v", "size=16MiB", "replicas=2", "min_replicas=2", &nodes]);
    c.ok(&["volume", "attach", "v", "--node", &c.nodes[home].name.clone()]);
    let mut nbd = connect(&c, home, "v");
    c.nodes[other].kill();
    std::thread::scope(|s| {
        let mut held = connect(&c, home, "v");
        let write = s.spawn(move || held.write(0, &[3; 4096]));
        in_sync(&c, "v", 1);
        assert_eq!(nbd.read(4096, 4096).unwrap(), vec![0; 4096]);
        assert!(!write.is_finished());
        c.ok(&["volume", "set", "v", "min_replicas=1"]);
        write.join().unwrap().unwrap();
    });
    assert_eq!(nbd.read(0, 4096).unwrap(), vec![3; 4096]);
}

#[test]
fn a_read_only_volume_refuses_every_change() {
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = connect(&c, 0, "v");
    nbd.write(0, &[1; 4096]).unwrap();
    let flag = |word: &str| tool("nbdinfo", &["--is", word, &c.uri(0, "v")]).is_ok();
    assert!(!flag("read-only"));
    for round in 0..2u8 {
        c.ok(&["volume", "set", "v", "read_only=true"]);
        until("hosts to be shown a read-only device", || if flag("read-only") { Ok(()) } else { Err(String::new()) });
        // The connection that was there before is refused as well, and goes on reading.
        for nbd in [&mut nbd, &mut connect(&c, 0, "v")] {
            let refused = [nbd.write(0, &[9; 4096]), nbd.trim(0, 4096), nbd.zero(0, 4096)];
            for r in refused {
                assert_eq!(r.unwrap_err().raw_os_error(), Some(libc::EPERM));
            }
            assert_eq!(nbd.read(0, 4096).unwrap(), vec![1 + round; 4096]);
            nbd.flush().unwrap();
        }
        c.ok(&["volume", "set", "v", "read_only=false"]);
        until("writes to be taken again", || nbd.write(0, &[2 + round; 4096]).map_err(|e| e.to_string()));
        until("hosts to be shown a writable device", || if flag("read-only") { Err(String::new()) } else { Ok(()) });
    }
    assert_eq!(nbd.read(0, 4096).unwrap(), vec![3; 4096]);
}

#[test]
fn strict_reads_are_confirmed_and_can_be_changed_online() {
    const READS: u64 = 300;
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = connect(&c, 0, "v");
    (0..16u8).for_each(|i| nbd.write(u64::from(i) << 20, &[i; 4096]).unwrap());
    let waits = || metric(&c, 0, "volume_lease_waits_total", "volume=\"v\"");
    let mut read = || {
        let before = waits();
        for i in 0..READS {
            let at = i % 16;
            assert_eq!(nbd.read(at << 20, 4096).unwrap(), vec![at as u8; 4096]);
        }
        waits() - before
    };
    for _ in 0..2 {
        until("reads to rely on leases", || match read() {
            n if n < READS / 10 => Ok(()),
            n => Err(format!("{n} of {READS} reads waited")),
        });
        c.ok(&["volume", "set", "v", "strict_reads=true"]);
        until("every read to be confirmed", || match read() {
            READS => Ok(()),
            n => Err(format!("{n} of {READS} reads waited")),
        });
        c.ok(&["volume", "set", "v", "strict_reads=default"]);
    }
}

#[test]
fn reads_come_from_where_the_policy_says() {
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=32MiB", "scrub_interval=0"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = connect(&c, 0, "v");
    let data: Vec<u8> = (0..16u32 << 20).map(|i| (i / 4096 * 31 + i) as u8).collect();
    nbd.write(0, &data).unwrap();
    // Blocks that are still in memory are not read from a disk.
    until("all of it to be in place on every disk", || {
        let left: Vec<u64> = (0..3).map(|n| metric(&c, n, "disk_overlay_bytes", "")).collect();
        if left == [0, 0, 0] { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let mut reads = |passes: usize| -> Vec<u64> {
        let count = || -> Vec<u64> { (0..3).map(|n| metric(&c, n, "disk_reads_total", "")).collect() };
        let before = count();
        for i in (0..passes).flat_map(|_| 0..data.len() / 4096) {
            assert!(nbd.read(i as u64 * 4096, 4096).unwrap() == data[i * 4096..][..4096], "block {i}");
        }
        count().iter().zip(&before).map(|(a, b)| a - b).collect()
    };
    let blocks = 4096;
    let local = reads(1);
    assert!(local[0] >= blocks && local[1] < blocks / 10 && local[2] < blocks / 10, "read_from=local: {local:?}");
    c.ok(&["volume", "set", "v", "read_from=spread"]);
    let spread = until("reads to be spread", || {
        let n = reads(1);
        if n.iter().all(|n| *n >= blocks / 5) { Ok(n) } else { Err(format!("{n:?}")) }
    });
    c.ok(&["volume", "set", "v", "read_from=local"]);
    until("reads to be local again", || {
        let n = reads(1);
        if n[1] + n[2] < blocks / 10 { Ok(()) } else { Err(format!("{n:?}")) }
    });
    println!("disk reads for 4096 blocks on the three nodes: {local:?} local, {spread:?} spread");
}

#[test]
fn placement_keeps_to_failure_domains_and_media() {
    // Racks a, a, b, c; one node without a label. Two of them have hard disks.
    let racks = ["a", "a", "b", "c", ""];
    let mut i = 0;
    let c = Cluster::prepared(5, |n| {
        n.more = format!("media = \"{}\"\n", if i % 3 == 1 { "hdd" } else { "nvme" });
        if !racks[i].is_empty() {
            n.more += &format!("[labels]\nrack = \"{}\"\n", racks[i]);
        }
        i += 1;
    });
    let set = |names: &[&str]| names.iter().map(|s| s.to_string()).collect::<BTreeSet<_>>();
    let wanted: Vec<BTreeSet<String>> = vec![set(&["n1", "n3", "n4"]), set(&["n2", "n3", "n4"])];
    for i in 0..6 {
        let name = format!("r{i}");
        c.ok(&["volume", "create", &name, "size=8MiB", "replicas=3", "failure_domain=rack"]);
        assert!(wanted.contains(&nodes_of(&c, &name)), "{:?}", nodes_of(&c, &name));
    }
    let e = c.cli(&["volume", "create", "four", "size=8MiB", "replicas=4", "failure_domain=rack"]).unwrap_err();
    assert!(e.contains("cannot place 4 replicas on different racks: only 3 can hold one"), "{e}");
    assert!(e.contains("node n5") && e.contains("no label \"rack\""), "{e}");
    let e = c.cli(&["volume", "create", "zones", "size=8MiB", "replicas=1", "failure_domain=zone"]).unwrap_err();
    assert!(e.contains("only 0 can hold one") && e.contains("no label \"zone\""), "{e}");
    // A change that cannot be kept is refused too, and changes nothing.
    let e = c.cli(&["volume", "set", "r0", "replicas=4"]).unwrap_err();
    assert!(e.contains("cannot place 4 replicas on different racks"), "{e}");
    assert_eq!(replicas(&c, "r0").len(), 3);

    c.ok(&["volume", "create", "slow", "size=8MiB", "replicas=2", "media=hdd"]);
    assert_eq!(nodes_of(&c, "slow"), set(&["n2", "n5"]));
    c.ok(&["volume", "create", "fast", "size=8MiB", "replicas=3", "media=nvme"]);
    assert_eq!(nodes_of(&c, "fast"), set(&["n1", "n3", "n4"]));
    let e = c.cli(&["volume", "create", "more", "size=8MiB", "replicas=3", "media=hdd"]).unwrap_err();
    assert!(e.contains("only 2 can hold one") && e.contains("is nvme, the policy asks for hdd"), "{e}");
    let e = c.cli(&["volume", "create", "none", "size=8MiB", "replicas=1", "media=ssd"]).unwrap_err();
    assert!(e.contains("only 0 can hold one"), "{e}");
    // They are not only placed: they serve.
    c.ok(&["volume", "attach", "slow", "--node", "n5"]);
    let mut nbd = connect(&c, 4, "slow");
    nbd.write(0, &[5; 4096]).unwrap();
    assert_eq!(nbd.read(0, 4096).unwrap(), vec![5; 4096]);
}

/// Freezes a replica for three seconds under a write, and for longer if it is to be dropped and is
/// not yet; how often one was dropped.
fn freeze_under_a_write(c: &Cluster, timeout: &str, dropped: bool) -> u64 {
    c.ok(&["volume", "set", "v", &format!("replica_timeout={timeout}")]);
    let drops = || metric(c, 0, "volume_drops_total", "volume=\"v\"");
    let before = drops();
    let victim = c.nodes.iter().skip(1).position(|n| n.name != c.nodes[c.leader()].name).unwrap() + 1;
    let pid = c.nodes[victim].pid().unwrap() as i32;
    let mut nbd = connect(c, 0, "v");
    nbd.write(0, &[1; 4096]).unwrap();
    // SAFETY: a child of ours that has not been waited for.
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    std::thread::scope(|s| {
        let write = s.spawn(move || nbd.write(0, &[2; 4096]));
        // Not to wait for anything: this is how long it is frozen, three times the default's patience.
        std::thread::sleep(Duration::from_secs(3));
        if dropped {
            until("the drop", || if drops() > before { Ok(()) } else { Err("it stays".into()) });
        }
        // SAFETY: as above.
        unsafe { libc::kill(pid, libc::SIGCONT) };
        write.join().unwrap().unwrap();
    });
    drops() - before
}

#[test]
fn a_replica_frozen_for_less_than_replica_timeout_stays() {
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    assert_eq!(freeze_under_a_write(&c, "40s", false), 0, "it was dropped before its time");
    assert!(replicas(&c, "v").iter().all(|r| r["state"] == "in_sync"));
    // The same with the default: it is dropped, so the longer one is what kept it.
    assert!(freeze_under_a_write(&c, "1s", true) > 0);
    in_sync(&c, "v", 3);
}

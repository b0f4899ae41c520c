//! A disk is restored from an older copy of itself (hazard 2): it looks healthy and carries the
//! right names, but lacks the writes acknowledged since. It must count as storage of unknown
//! history: never a source, and compared as a whole before it is relied upon. The same with a
//! node's data directory (hazard 18): its later votes and acknowledgements are gone, so it must not
//! vote.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, http_get, inspect, run, until};
use hf_tests::nbd::Nbd;
use std::path::PathBuf;

const BLOCKS: u64 = 600;

fn block(version: u64, i: u64) -> Vec<u8> {
    let words = [version, i, version.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i];
    words.iter().flat_map(|w| w.to_le_bytes()).cycle().take(4096).collect()
}

fn file(c: &Cluster, node: usize) -> PathBuf {
    c.nodes[node].dir.join("disk/holdfast.disk")
}

fn copy(from: &PathBuf, to: &PathBuf) {
    let done = std::process::Command::new("cp").args(["--sparse=always", "-f"]).args([from, to]).status().unwrap();
    assert!(done.success());
}

fn connect(c: &Cluster, node: usize) -> Nbd {
    until("the export", || Nbd::connect(&c.nodes[node].nbd, "v").map_err(|e| e.to_string()))
}

fn in_sync(c: &Cluster) {
    until("all replicas in sync", || {
        let v = c.volume("v");
        let replicas = v["shards"][0]["replicas"].as_object().cloned().unwrap_or_default();
        if replicas.values().filter(|r| r["state"] == "in_sync").count() == 3 { Ok(()) } else { Err(v.to_string()) }
    });
}

/// Every block as the node's own replica has it: reads are local.
fn verify(c: &Cluster, node: usize, want: &[u64]) {
    c.ok(&["volume", "attach", "v", "--node", &c.nodes[node].name, "--force"]);
    let mut nbd = connect(c, node);
    for (i, version) in want.iter().enumerate() {
        let got = nbd.read(i as u64 * 4096, 4096).unwrap();
        let good = if *version == 0 { got.iter().all(|b| *b == 0) } else { got == block(*version, i as u64) };
        assert!(good, "block {i} is not version {version} on {}", c.nodes[node].name);
    }
}

fn put_back(c: &mut Cluster, node: usize, image: &PathBuf) {
    copy(image, &file(c, node));
    c.nodes[node].start();
    let name = c.nodes[node].name.clone();
    until("the old storage to be noticed", || {
        let log = c.nodes[node].log();
        if log.contains("put back from an older copy") { Ok(()) } else { Err(format!("{name}: {}", c.volume("v"))) }
    });
    in_sync(c);
}

#[test]
fn a_disk_that_was_put_back_is_noticed_and_compared_as_a_whole() {
    let mut c = Cluster::new(3);
    let mut want = vec![1u64; BLOCKS as usize];
    c.ok(&["volume", "create", "v", "size=64MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = connect(&c, 0);
    for i in 0..BLOCKS {
        nbd.write(i * 4096, &block(1, i)).unwrap();
    }
    let image = c.nodes[2].dir.join("image");
    copy(&file(&c, 2), &image);
    // Within the term: rewritten, zeroed, and some of it while the node is away.
    for i in 100..300 {
        nbd.write(i * 4096, &block(2, i)).unwrap();
        want[i as usize] = 2;
    }
    nbd.zero(300 * 4096, 20 * 4096).unwrap();
    want[300..320].fill(0);
    c.nodes[2].kill();
    for i in 320..330 {
        nbd.write(i * 4096, &block(3, i)).unwrap();
        want[i as usize] = 3;
    }
    put_back(&mut c, 2, &image);
    drop(nbd);
    verify(&c, 2, &want);
    println!("a disk put back within a term: noticed, made equal");

    // Over a change of terms, while nobody has the volume attached and the replica counts as in sync.
    let detach = |c: &Cluster| c.ok(&["volume", "detach", "v"]);
    detach(&c);
    let image = c.nodes[1].dir.join("image");
    c.nodes[1].stop();
    copy(&file(&c, 1), &image);
    c.nodes[1].start();
    c.ready();
    in_sync(&c);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = connect(&c, 0);
    for i in 0..50 {
        nbd.write(i * 4096, &block(4, i)).unwrap();
        want[i as usize] = 4;
    }
    // It has acknowledged what its image lacks: it may have been late for the attach.
    in_sync(&c);
    drop(nbd);
    detach(&c);
    c.nodes[1].kill();
    copy(&image, &file(&c, 1));
    c.nodes[1].start();
    c.ready();
    verify(&c, 1, &want);
    in_sync(&c);
    assert!(c.nodes[1].log().contains("put back from an older copy"));
    verify(&c, 1, &want);
    println!("a disk put back over a change of terms: noticed, made equal");
}

fn copy_dir(from: &PathBuf, to: &PathBuf) {
    let _ = std::fs::remove_dir_all(to);
    let done = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

fn voters(c: &Cluster) -> Result<Vec<u64>, String> {
    let s = c.status()?;
    Ok(s["voters"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64).collect())
}

/// No leader knows what it acknowledged; its own disks do, and without them the nodes that it asks
/// for a vote.
fn says_that_it_takes_part(c: &Cluster, node: usize) {
    until("it to say that it takes part", || {
        let page = http_get(&c.nodes[node].http, "/metrics")?;
        let value = |of: &str| page.lines().find_map(|l| l.strip_prefix(of)?.strip_prefix(" ")?.parse::<u64>().ok());
        let takes_part = value("holdfast_raft_log_waits") == Some(0) && value("holdfast_raft_log_age") >= Some(1);
        if takes_part { Ok(()) } else { Err(page) }
    });
}

#[test]
fn a_data_directory_that_was_put_back_does_not_vote_while_nobody_leads() {
    let mut c = Cluster::new(3);
    let leader = c.leader();
    let (victim, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let (dir, kept) = (c.nodes[victim].data_dir.clone(), c.dir.path().join("kept"));
    let age = |c: &Cluster| {
        let disk = c.nodes[victim].disk.display().to_string();
        inspect(&["disk", &disk])["log_age"].as_u64().unwrap()
    };
    c.nodes[victim].kill();
    copy_dir(&dir, &kept);
    let before = age(&c);
    c.nodes[victim].start();
    c.ready();
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    until("its record to say how old its log is", || {
        let nodes = c.status()?["nodes"].clone();
        let told = nodes[(victim + 1).to_string()]["log"]["age"]["age"].as_u64();
        if told.is_some_and(|a| a > before) { Ok(()) } else { Err(format!("{told:?}, before {before}: {nodes}")) }
    });
    for with_disks in [true, false] {
        c.nodes.iter_mut().for_each(|n| n.kill());
        assert!(age(&c) > before, "its disk has noted nothing: {before}");
        copy_dir(&kept, &dir);
        if !with_disks {
            std::fs::rename(&c.nodes[victim].disk, c.dir.path().join("disk-away")).unwrap();
        }
        // Together they would be a majority, without the entries that only the third one has.
        c.nodes[other].start();
        c.nodes[victim].start();
        assert_eq!(c.nodes[victim].wait_end(), Some(1), "{}", c.nodes[victim].log());
        let by = if with_disks { "disk " } else { "node #" };
        let log = c.nodes[victim].log();
        let said = log.lines().rfind(|l| l.contains("is an older copy")).unwrap_or(&log);
        let reason = said.contains(&format!(": {by}")) && said.contains("has noted age");
        assert!(reason && said.contains("holdfast rescue follow"), "{said}");
        if !with_disks {
            std::fs::rename(c.dir.path().join("disk-away"), &c.nodes[victim].disk).unwrap();
        }
        c.nodes[leader].start();
        until("the others to go on", || c.cli(&["volume", "list"]));
        assert_eq!(c.volume("v")["name"], "v");
    }
    // As the message says, it takes part again, with a vote of its own.
    run(&["rescue", "follow", &dir.display().to_string()]).unwrap();
    votes_anew(&mut c, victim, leader);
}

/// Started again it gets a vote of its own, which counts: without a third one the two are a majority.
fn votes_anew(c: &mut Cluster, victim: usize, third: usize) {
    c.nodes[victim].start();
    let nth = |c: &Cluster| -> Result<String, String> {
        Ok(c.status()?["nodes"][(victim + 1).to_string()]["log"].to_string())
    };
    until("it to have a vote of its own", || {
        let (log, v) = (nth(c)?, voters(c)?);
        let own = log.contains("\"nth\":2") && log.contains("\"member\":2");
        if own && v.len() == 3 { Ok(()) } else { Err(format!("{log} {v:?}")) }
    });
    says_that_it_takes_part(c, victim);
    c.nodes[third].kill();
    until("a change without the third one", || {
        c.cli(&["volume", "create", "w", "size=16MiB", "replicas=2", "min_replicas=1"])
    });
}

/// A voter's metadata rot, in the middle of what RocksDB would otherwise take for the end of its
/// log. It does not start, and says what to do; nothing can be read there, so another node is
/// asked.
#[test]
fn a_node_whose_metadata_are_damaged_does_not_vote_with_what_is_left() {
    let mut c = Cluster::new(3);
    let leader = c.leader();
    let victim = (leader + 1) % 3;
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    let dir = c.nodes[victim].data_dir.clone();
    c.nodes[victim].kill();
    let logs: Vec<PathBuf> = std::fs::read_dir(dir.join("meta"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "log") && p.metadata().unwrap().len() > 0)
        .collect();
    assert!(!logs.is_empty());
    for log in logs {
        // (Behind the first record's header: docs of RocksDB's log format.)
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[11] ^= 0x10;
        std::fs::write(&log, bytes).unwrap();
    }
    c.nodes[victim].start();
    assert_eq!(c.nodes[victim].wait_end(), Some(1), "{}", c.nodes[victim].log());
    let log = c.nodes[victim].log();
    assert!(log.contains("the metadata store is damaged: ") && log.contains("holdfast rescue follow"), "{log}");
    assert_eq!(c.volume("v")["name"], "v");
    // A record of an earlier time may be left; here nothing is.
    let _ = std::fs::remove_file(dir.join("view.json"));
    let (dir, api) = (dir.display().to_string(), c.nodes[leader].api.clone());
    let e = run(&["rescue", "follow", &dir]).unwrap_err();
    assert!(e.starts_with("[1]") && e.contains("is damaged") && e.contains("Give --seed"), "{e}");
    let e = run(&["rescue", "follow", &dir, "--seed", "127.0.0.1:1"]).unwrap_err();
    assert!(e.starts_with("[1]") && e.contains("127.0.0.1:1: "), "{e}");
    let said = run(&["rescue", "propose", "--data-dir", &dir]).unwrap();
    assert!(said.contains("is damaged") && said.contains("what the disks alone say"), "{said}");
    run(&["rescue", "follow", &dir, "--seed", &format!("127.0.0.1:1,{api}")]).unwrap();
    votes_anew(&mut c, victim, leader);
}

/// A node's system disk dies, and with it the data directory; its other disks are whole. The node
/// keeps its identity and its replicas, and joins the group anew. A disk of another node is
/// refused.
#[test]
fn a_node_whose_data_directory_is_lost_is_itself_again_with_its_disks() {
    let mut c = Cluster::new(3);
    let leader = c.leader();
    let (victim, other) = ((leader + 1) % 3, (leader + 2) % 3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    c.nodes[victim].kill();
    let dir = c.nodes[victim].data_dir.clone();
    std::fs::remove_dir_all(&dir).unwrap();
    let (dir, api) = (dir.display().to_string(), c.nodes[leader].api.clone());
    let disk = |i: usize| c.nodes[i].disk.display().to_string();
    let order = |own: &str| run(&["rescue", "follow", &dir, "--own-disk", own, "--seed", &api]);
    let e = order(&dir).unwrap_err();
    assert!(e.starts_with("[1]") && e.contains(&dir), "{e}");
    assert!(order(&disk(victim)).unwrap().contains(&format!("node #{} will follow", victim + 1)));
    let e = order(&disk(other)).unwrap_err();
    assert!(e.contains(&format!("belongs to node #{}, and that disk to node #{}", victim + 1, other + 1)), "{e}");
    votes_anew(&mut c, victim, leader);
    until("its replica to be the one that it was", || {
        let v = c.volume("v");
        let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
        let there = all.values().any(|r| r["node"] == victim as u64 + 1 && r["state"] == "in_sync");
        if all.len() == 3 && there { Ok(()) } else { Err(v["shards"][0].to_string()) }
    });
}

//! Bits rot in the files of real disks. A bad block is served from another replica and repaired at
//! once; with no good copy left the read fails with EIO and never returns zeroes or old data.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, inspect, run, tool_ok, until};
use hf_tests::media::{block, find, pages};
use hf_tests::nbd::Nbd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BLOCKS: u64 = 1536;

/// One bit of each copy of these blocks is flipped.
fn rot(file: &Path, blocks: std::ops::Range<u64>) -> usize {
    flip(file, &find(file, blocks))
}

/// One bit of each of these blocks of the file is flipped.
fn flip(file: &Path, at: &[u64]) -> usize {
    let f = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    for (i, off) in at.iter().enumerate() {
        let off = off + 100 + (i as u64 * 37) % 3900;
        let mut b = [0u8];
        f.read_exact_at(&mut b, off).unwrap();
        f.write_all_at(&[b[0] ^ 1 << (i % 8)], off).unwrap();
    }
    f.sync_all().unwrap();
    at.len()
}

fn metric(c: &Cluster, node: usize, name: &str) -> u64 {
    let page = tool_ok("curl", &["-s", &format!("http://{}/metrics", c.nodes[node].http)]);
    let lines = page.lines().filter(|l| l.starts_with(name));
    lines.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn connect(c: &Cluster, node: usize) -> Nbd {
    until("the export", || Nbd::connect(&c.nodes[node].nbd, "v").map_err(|e| e.to_string()))
}

/// A volume on n1 with every block written.
fn written(c: &Cluster) -> Nbd {
    c.ok(&["volume", "create", "v", "size=64MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = connect(c, 0);
    for i in 0..BLOCKS {
        nbd.write(i * 4096, &block(i)).unwrap();
    }
    nbd
}

#[test]
fn rotten_blocks_are_served_from_elsewhere_and_healed_and_never_passed_off() {
    let mut c = Cluster::new(3);
    drop(written(&c));
    // A clean stop destages everything; the files are at rest.
    c.nodes.iter_mut().for_each(|n| n.stop());
    let files: Vec<PathBuf> = c.nodes.iter().map(|n| n.dir.join("disk/holdfast.disk")).collect();
    let look = |verify: &[&str], i: usize| {
        let dir = files[i].parent().unwrap();
        inspect(&[&["disk", dir.to_str().unwrap()], verify].concat())
    };
    let seen = look(&["--verify"], 0)["replicas"][0].clone();
    assert_eq!(seen["verified"], serde_json::json!({"data_blocks": BLOCKS, "bad_blocks": 0}), "{seen}");
    assert_eq!(seen["volume"], "v");
    // Rot: hundreds of blocks on the reading node, other ones on another, and some on all three.
    assert!(rot(&files[0], 0..400) >= 400);
    assert!(rot(&files[1], 300..1000) >= 700);
    files.iter().for_each(|f| assert!(rot(f, 1000..1004) >= 4));
    assert_eq!(look(&["--verify"], 0)["replicas"][0]["verified"]["bad_blocks"], 404);
    // n1 last: it takes the volume up at once, with those who are there.
    for i in [1, 2, 0] {
        c.nodes[i].start();
        let http = c.nodes[i].http.clone();
        until("the node to answer", || run(&["--endpoint", &http, "cluster", "status"]).map(drop));
    }
    c.ready();
    let mut nbd = connect(&c, 0);
    for i in 0..1000 {
        assert!(nbd.read(i * 4096, 4096).unwrap() == block(i), "block {i}");
    }
    // Nobody has these: an error, not zeros, not anything else; and their neighbours are untouched.
    for i in 1000..1004 {
        assert_eq!(nbd.read(i * 4096, 4096).unwrap_err().raw_os_error(), Some(libc::EIO), "block {i}");
    }
    assert!(nbd.read(1004 * 4096, 4096).unwrap() == block(1004));
    // The blocks that were read are whole again on the reading node.
    until("the repairs", || {
        let n = metric(&c, 0, "holdfast_volume_repaired_blocks_total");
        if n >= 400 { Ok(()) } else { Err(format!("{n} of 400 repaired")) }
    });
    let bad = metric(&c, 0, "holdfast_volume_bad_blocks_total");
    for i in 0..1000 {
        assert!(nbd.read(i * 4096, 4096).unwrap() == block(i), "block {i}, again");
    }
    assert_eq!(metric(&c, 0, "holdfast_volume_bad_blocks_total"), bad, "a healed block was bad again");
    // A lost block is good again as soon as it is written.
    nbd.write(1000 * 4096, &block(1000)).unwrap();
    assert!(nbd.read(1000 * 4096, 4096).unwrap() == block(1000));
    // The disk has met more rot than it may: what it holds would be moved, if there were room elsewhere.
    let s = c.status().unwrap();
    let disk = s["disks"].as_object().unwrap().values().find(|d| d["node"] == 1).unwrap();
    let job = format!("disk/{}", disk["id"]);
    until("the disk's error budget to be noticed", || {
        let jobs = c.cli(&["job", "list"])?;
        if jobs.contains(&job) && jobs.contains("is failing") { Ok(()) } else { Err(jobs) }
    });
    assert!(c.ok(&["events"]).contains("disk.failing"));
    // A scrub finds what nobody has read yet, on every replica.
    c.ok(&["volume", "scrub", "v"]);
    let report = until("the scrub", || {
        let v = c.volume("v");
        if v["scrubbed"].is_null() { Err(v["scrub"].to_string()) } else { Ok(v["scrubbed"]["report"].clone()) }
    });
    assert_eq!(
        (&report["lost"], &report["diverged"], &report["behind"]),
        (&3.into(), &0.into(), &0.into()),
        "{report}"
    );
    let healed = report["repaired"].as_u64().unwrap();
    assert!(healed >= 600, "{report}");
    c.ok(&["job", "cancel", &job]);
    drop(nbd);
    c.nodes.iter_mut().for_each(|n| n.stop());
    for i in 0..3 {
        assert_eq!(look(&["--verify"], i)["replicas"][0]["verified"]["bad_blocks"], 3, "node {i}");
    }
    println!(
        "1,112 blocks rotted: 3 lost on all replicas and reported as lost, all others found and replaced ({healed} by a scrub)"
    );
}

/// A replica's pages rot, and with them the versions and checksums of all its blocks. The next
/// coordinator must not conclude that anything is lost: everything is served from other replicas
/// and repaired within the same attachment.
#[test]
fn rotten_chunk_pages_take_nothing_with_them_and_are_healed() {
    let mut c = Cluster::new(3);
    let nbd = written(&c);
    // n1 has the volume attached and dies with writes in flight: the next coordinator must compare
    // the last ones.
    c.nodes[0].kill();
    drop(nbd);
    c.nodes[1].stop();
    let file = c.nodes[1].dir.join("disk/holdfast.disk");
    let at = pages(&file);
    assert!(at.len() >= 6, "{at:?}");
    flip(&file, &at);
    let verified = |n: &hf_tests::cluster::NodeProcess| {
        inspect(&["disk", n.dir.join("disk").to_str().unwrap(), "--verify"])["replicas"][0]["verified"].clone()
    };
    assert_eq!(verified(&c.nodes[1]), serde_json::json!({"data_blocks": 0, "bad_blocks": BLOCKS}));
    c.nodes[0].start();
    c.nodes[1].start();
    c.ready();
    // A repair that takes longer than half of replica_timeout is not waited for, and not counted: on a slow disk of a
    // busy machine that is not enough.
    c.ok(&["volume", "set", "v", "read_from=local", "replica_timeout=10s"]);
    until("the take-over", || c.cli(&["volume", "attach", "v", "--node", "n2", "--force"]));
    let mut nbd = connect(&c, 1);
    for i in 0..BLOCKS {
        assert!(nbd.read(i * 4096, 4096).unwrap() == block(i), "block {i}");
    }
    // Some by the take-over's comparison, the others when they were read.
    until("the repairs", || {
        let (equal, read) = (
            metric(&c, 1, "holdfast_volume_reconciled_blocks_total"),
            metric(&c, 1, "holdfast_volume_repaired_blocks_total"),
        );
        println!("{BLOCKS} blocks lost with their pages: {equal} made equal by the take-over, {read} mended when read");
        if equal + read >= BLOCKS { Ok(()) } else { Err(c.volume("v").to_string()) }
    });
    c.ok(&["volume", "scrub", "v"]);
    let report = until("the scrub", || {
        let v = c.volume("v");
        if v["scrubbed"].is_null() { Err(v["scrub"].to_string()) } else { Ok(v["scrubbed"]["report"].clone()) }
    });
    let zero = serde_json::json!(0);
    assert_eq!((&report["lost"], &report["diverged"]), (&zero, &zero), "{report}");
    drop(nbd);
    c.nodes.iter_mut().for_each(|n| n.stop());
    for n in &c.nodes {
        assert_eq!(verified(n), serde_json::json!({"data_blocks": BLOCKS, "bad_blocks": 0}), "{}", n.name);
    }
}

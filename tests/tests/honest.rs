//! What is said of a disk that cannot be opened is the truth, and is so again when it works: with real daemons, of
//! which one has lost its disk. Nothing says "ok", and nobody is told for ever that something is under way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, until};
use hf_tests::nbd::{Nbd, Wire};
use serde_json::Value;
use std::time::{Duration, Instant};

/// What the cluster says of the first disk of a node: its health in one word, the kind of its fault if it says one, and
/// the reason. (The only place of this file that knows how that is asked.)
fn disk_of(c: &Cluster, node: u64) -> Result<(String, Option<String>, String), String> {
    let s = c.status()?;
    let disks = s["disks"].as_object().ok_or("no disks")?;
    let d = disks.values().find(|d| d["node"] == node).ok_or("no such disk")?;
    let fault = d["fault"].as_str().map(str::to_string);
    Ok(match &d["state"] {
        Value::String(word) => (word.clone(), fault, String::new()),
        Value::Object(o) => {
            let (word, why) = o.iter().next().ok_or("no state")?;
            (word.clone(), fault, why.as_str().unwrap_or_default().to_string())
        }
        other => return Err(format!("what is {other}?")),
    })
}

/// It is said to have failed, with these words, within ten seconds of the node's start.
fn says_failed(c: &Cluster, node: u64, kind: &str, words: &[&str]) {
    let began = Instant::now();
    let why = until("the disk to be told as failed", || {
        let (word, fault, why) = disk_of(c, node)?;
        if word == "failed" && fault.as_deref() == Some(kind) && words.iter().all(|w| why.contains(w)) {
            return Ok(why);
        }
        Err(format!("{word}, {fault:?}: {why}"))
    });
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}: {why}", began.elapsed());
}

fn says_ok(c: &Cluster, node: u64) {
    let began = Instant::now();
    until("the disk to be ok again", || match disk_of(c, node)? {
        (word, None, _) if word == "ok" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}

/// What a client is told that wants a volume; it does not get it.
fn refusal(addr: &str, export: &str) -> String {
    const GO: u32 = 7;
    let name = Wire::name(export);
    let mut said = Wire::greet(addr).unwrap().option(GO, &[&name[..], &[0, 0]].concat()).unwrap();
    let (kind, text) = said.pop().unwrap();
    assert!(kind >= 1 << 31, "it is served: {kind:#x}");
    String::from_utf8(text).unwrap()
}

/// One node, one disk, one volume: the disk's place is away, then empty, then another process has it, then it is back.
#[test]
fn a_disk_that_cannot_be_opened_is_told_with_its_fault_and_is_ok_when_it_is_back() {
    let mut c = Cluster::new(1);
    c.ok(&["volume", "create", "v", "size=16MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    Nbd::connect(&c.nodes[0].nbd, "v").unwrap().write(4096, &[7; 4096]).unwrap();
    let (disk, aside) = (c.nodes[0].disk.clone(), c.nodes[0].dir.join("aside"));

    c.nodes[0].stop();
    std::fs::rename(&disk, &aside).unwrap();
    c.nodes[0].start();
    says_failed(&c, 1, "gone", &["missing", disk.to_str().unwrap()]);
    let (_, _, why) = disk_of(&c, 1).unwrap();
    assert!(!why.contains("wiped"), "nobody knows that: {why}");
    // Whoever wants the volume is told what it waits for, and where.
    let at_fault = ["take-over of shard 0 waits for replica 1 on node n1", "disk 1", "missing"];
    until("a client to be told why", || {
        let said = refusal(&c.nodes[0].nbd, "v");
        if at_fault.iter().all(|w| said.contains(w)) { Ok(()) } else { Err(said) }
    });
    let began = Instant::now();
    let e = c.cli(&["volume", "attach", "v"]).unwrap_err();
    assert!(at_fault.iter().all(|w| e.contains(w)), "{e}");
    assert!(began.elapsed() < Duration::from_secs(60), "its patience has an end: {:?}", began.elapsed());

    // Its place is there, as before a mount: it may have been wiped.
    c.nodes[0].stop();
    std::fs::create_dir(&disk).unwrap();
    c.nodes[0].start();
    says_failed(&c, 1, "gone", &["nothing of Holdfast is at its path"]);

    c.nodes[0].stop();
    std::fs::remove_dir(&disk).unwrap();
    std::fs::rename(&aside, &disk).unwrap();
    let held = std::fs::File::open(disk.join("holdfast.disk")).unwrap();
    held.try_lock().unwrap();
    c.nodes[0].start();
    says_failed(&c, 1, "busy", &["in use"]);

    c.nodes[0].stop();
    drop(held);
    c.nodes[0].start();
    says_ok(&c, 1);
    let mut nbd = until("the volume to come back", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
    assert_eq!(nbd.read(4096, 4096).unwrap(), vec![7; 4096]);
}

/// The node that lost its disk does not lead. The record is right whoever leads, and the others' writes go on.
#[test]
fn the_lost_disk_of_a_node_that_follows_is_told_and_its_fault_fills_no_log() {
    let mut c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    let victim = (0..3).find(|i| *i != c.leader()).unwrap();
    let user = (0..3).find(|i| *i != victim).unwrap();
    let name = c.nodes[user].name.clone();
    c.ok(&["volume", "attach", "v", "--node", &name]);
    let mut nbd = until("the export", || Nbd::connect(&c.nodes[user].nbd, "v").map_err(|e| e.to_string()));
    nbd.write(0, &[1; 4096]).unwrap();
    let (disk, aside) = (c.nodes[victim].disk.clone(), c.nodes[victim].dir.join("aside"));
    c.nodes[victim].kill();
    let before: Vec<usize> = c.nodes.iter().map(|n| n.log().lines().count()).collect();
    std::fs::rename(&disk, &aside).unwrap();
    c.nodes[victim].start();
    says_failed(&c, victim as u64 + 1, "gone", &["missing"]);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(15) {
        nbd.write(4096, &[2; 4096]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    for (n, before) in c.nodes.iter().zip(before) {
        let lines = n.log().lines().count() - before;
        assert!(lines <= 100, "{} wrote {lines} lines because of one lost disk:\n{}", n.name, n.log());
    }
    c.nodes[victim].kill();
    std::fs::rename(&aside, &disk).unwrap();
    c.nodes[victim].start();
    says_ok(&c, victim as u64 + 1);
}

//! The inspectors: they print and verify every structure of a stopped node, and name the damage
//! that they find.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, inspect, run, tool_ok, until};
use hf_tests::media::{block, find, pages};
use hf_tests::nbd::Nbd;
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Blocks that are written one after the other, each durable by itself.
const BLOCKS: u64 = 40;

fn strings(v: &Value) -> Vec<&str> {
    v.as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

/// A node with a volume and data, killed while the writes are still in the journal.
fn killed() -> Cluster {
    let mut c = Cluster::new(1);
    c.ok(&["volume", "create", "v", "size=16MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    let mut nbd = until("the export", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
    for i in 0..BLOCKS {
        nbd.write((768 + i) * 4096, &block(i)).unwrap();
        nbd.flush().unwrap();
    }
    nbd.zero((768 + BLOCKS) * 4096, 4096).unwrap();
    drop(nbd);
    c.nodes[0].kill();
    c
}

/// A copy of a directory, to be damaged.
fn copy(c: &Cluster, from: &Path, name: &str) -> PathBuf {
    let to = c.dir.path().join(name);
    tool_ok("cp", &["-a", "--sparse=always", from.to_str().unwrap(), to.to_str().unwrap()]);
    to
}

/// Some bits of the file are flipped.
fn damage(file: &Path, at: &[u64]) {
    let f = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    for off in at {
        let mut b = [0u8; 8];
        f.read_exact_at(&mut b, *off).unwrap();
        f.write_all_at(&b.map(|x| x ^ 0x11), *off).unwrap();
    }
}

fn str(p: &Path) -> &str {
    p.to_str().unwrap()
}

#[test]
fn every_structure_can_be_looked_at_from_a_stopped_node() {
    let mut c = killed();
    let (disk, data) = (c.nodes[0].disk.clone(), c.nodes[0].data_dir.clone());
    let (disk, data) = (str(&disk), str(&data));
    let j = inspect(&["journal", disk]);
    let records: Vec<&Value> =
        j["groups"].as_array().unwrap().iter().flat_map(|g| g["records"].as_array().unwrap()).collect();
    let of = |kind: &str, block: u64| records.iter().filter(|r| r["kind"] == kind && r["block"] == block).count();
    assert!(j["damage"].is_null() && (0..BLOCKS).all(|i| of("data", 768 + i) == 1), "{j}");
    assert_eq!(of("zero", 768 + BLOCKS), 1, "{j}");
    let d = inspect(&["disk", disk, "--verify"]);
    assert_eq!(d["replicas"][0]["verified"], serde_json::json!({"data_blocks": BLOCKS, "bad_blocks": 0}), "{d}");
    assert!(strings(&d["superblock_copies"]).iter().filter(|s| s.starts_with("generation ")).count() >= 2, "{d}");
    let replica = d["replicas"][0]["replica"].to_string();
    let chunk = inspect(&["chunk", disk, "--replica", &replica, "--chunk", "3"]);
    let states: Vec<&str> = chunk["blocks"].as_array().unwrap().iter().filter_map(|b| b["state"].as_str()).collect();
    assert_eq!(states, [vec!["data"; BLOCKS as usize], vec!["zero"]].concat(), "{chunk}");
    let e = run(&["inspect", "chunk", disk, "--replica", "99", "--chunk", "3"]).unwrap_err();
    assert!(e.contains("holds no replica 99"), "{e}");
    let r = inspect(&["raft", data, "--log"]);
    assert_eq!((&r["volumes"], &r["voters"][0], &r["damage"]), (&1.into(), &1.into(), &Value::Null), "{r}");
    assert!(r["log"].as_array().unwrap().iter().any(|e| e.to_string().contains("create_volume")), "{r}");
    for words in [vec!["inspect", "journal", disk], vec!["inspect", "raft", data], vec!["inspect", "disk", disk]] {
        assert!(run(&words).unwrap().lines().count() > 4);
    }
    // Nothing of that has changed anything.
    c.nodes[0].start();
    let mut nbd = until("the export", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
    assert!(nbd.read(768 * 4096, 4096).unwrap() == block(0));
}

#[test]
fn damage_of_each_structure_is_said_and_fails_the_command() {
    let mut c = killed();
    let (disk, data) = (c.nodes[0].disk.clone(), c.nodes[0].data_dir.clone());
    in_the_journal(&copy(&c, &disk, "torn"));
    in_superblocks(&copy(&c, &disk, "one"));
    // At rest: a block, and then the pages that know of all blocks.
    c.nodes[0].start();
    until("the export", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
    c.nodes[0].stop();
    in_blocks(&disk);
    in_metadata(&c, &data);
}

/// A group in the middle of the journal, which later ones say was durable.
fn in_the_journal(torn: &Path) {
    let groups = inspect(&["journal", str(torn)])["groups"].as_array().unwrap().clone();
    let at = groups[groups.len() / 2]["at"].as_u64().unwrap();
    damage(&torn.join("holdfast.disk"), &[(64 << 10) + at + 4096 + 50]);
    let j = inspect(&["journal", str(torn)]);
    assert_eq!(j["groups"].as_array().unwrap().len(), groups.len() / 2, "what is before it is shown");
    assert!(j["damage"].as_str().unwrap().contains("journal"), "{}", j["damage"]);
    let d = inspect(&["disk", str(torn), "--verify"]);
    assert_eq!(d["damage"], j["damage"], "{d}");
    let e = run(&["inspect", "chunk", str(torn), "--replica", "1", "--chunk", "3"]).unwrap_err();
    assert!(e.starts_with("[1]") && e.contains("is damaged"), "{e}");
}

/// One copy of several is no harm, and is shown; all of them are.
fn in_superblocks(one: &Path) {
    let copies = |v: &Value, what: &str| strings(&v["superblock_copies"]).iter().filter(|s| **s == what).count();
    let newest = format!("generation {}", inspect(&["disk", str(one)])["generation"]);
    damage(&one.join("holdfast.disk"), &[100]);
    let d = inspect(&["disk", str(one)]);
    assert!(copies(&d, "damaged") == 1 && copies(&d, &newest) >= 1, "{d}");
    let text = run(&["inspect", "disk", str(one)]).unwrap();
    assert!(text.contains("copies: damaged, "), "{text}");
    damage(&one.join("holdfast.disk"), &[4096 + 100, 2 * 4096 + 100, 3 * 4096 + 100]);
    let d = inspect(&["disk", str(one)]);
    assert!(d["damage"].as_str().unwrap().contains("no superblock copy verifies"), "{d}");
    let e = run(&["inspect", "journal", str(one)]).unwrap_err();
    assert!(e.starts_with("[1]") && e.contains("no superblock copy verifies"), "{e}");
}

fn in_blocks(disk: &Path) {
    let file = disk.join("holdfast.disk");
    let bad = |v: &Value| v["blocks"].as_array().unwrap().iter().filter(|b| b["state"] == "bad").count();
    let replica = inspect(&["disk", str(disk)])["replicas"][0]["replica"].to_string();
    let chunk = || inspect(&["chunk", str(disk), "--replica", &replica, "--chunk", "3"]);
    assert_eq!(bad(&chunk()), 0);
    let in_place: Vec<u64> = find(&file, 7..8).iter().map(|at| at + 9).collect();
    damage(&file, &in_place);
    let v = chunk();
    assert!(bad(&v) == 1 && v["blocks"][7]["state"] == "bad", "{v}");
    assert!(v["damage"].as_str().unwrap().starts_with("1 blocks are bad"), "{v}");
    assert_eq!(inspect(&["disk", str(disk), "--verify"])["damage"], v["damage"]);
    assert!(inspect(&["disk", str(disk)])["damage"].is_null(), "without --verify no block is read");
    damage(&file, &pages(&file).iter().map(|at| at + 300).collect::<Vec<_>>());
    let d = inspect(&["disk", str(disk), "--verify"]);
    assert_eq!(d["replicas"][0]["verified"]["data_blocks"], 0, "{d}");
}

/// Whichever of the metadata's files is damaged where the record is read from it.
fn in_metadata(c: &Cluster, data: &Path) {
    let meta = data.join("meta");
    let whole = inspect(&["raft", str(data)]);
    let mut tried = 0;
    for entry in std::fs::read_dir(&meta).unwrap().map(|e| e.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        let len = entry.metadata().unwrap().len();
        if len == 0 || !(name.ends_with(".sst") || name.ends_with(".log") || name.starts_with("MANIFEST")) {
            continue;
        }
        let copy = copy(c, data, &format!("data-{name}"));
        // (Of a log the first record's content, behind its header: others follow it, so it is no
        // tail that a crash has torn.)
        let at = if name.ends_with(".sst") { vec![len / 3, len / 2] } else { vec![7 + 4] };
        damage(&copy.join("meta").join(&name), &at);
        let said = run(&["inspect", "raft", str(&copy), "--log"]);
        println!("{name}, {len} bytes: {}", said.as_ref().map_or_else(|e| e.clone(), |_| "whole".into()));
        let e = said.unwrap_err();
        assert!(e.starts_with("[1]") && e.contains(str(&copy)), "{name}: {e}");
        tried += 1;
    }
    assert!(tried >= 2 && whole["volumes"] == 1, "{tried} files: {whole}");
}

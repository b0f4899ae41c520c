//! Real daemons: replicas are made, moved and removed online, whatever is attached where; the data stays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, until};
use hf_tests::nbd::Nbd;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Instant;

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed) >> 31) as u8).collect()
}

fn replicas(c: &Cluster, volume: &str) -> Vec<Value> {
    c.volume(volume)["shards"][0]["replicas"].as_object().unwrap().values().cloned().collect()
}

/// All replicas are in sync, `n` of them, on these nodes if given; returns the nodes' numbers.
fn settled(c: &Cluster, volume: &str, n: usize, without: Option<u64>) -> BTreeSet<u64> {
    until("the replicas to settle", || {
        let all = replicas(c, volume);
        let good = all.iter().all(|r| r["state"] == "in_sync" && r["leaving"] == false && !r["store_uuid"].is_null());
        let nodes: BTreeSet<u64> = all.iter().map(|r| r["node"].as_u64().unwrap()).collect();
        if good && all.len() == n && nodes.len() == n && without.is_none_or(|w| !nodes.contains(&w)) {
            Ok(nodes)
        } else {
            let jobs = c.cli(&["job", "list"]).unwrap_or_default();
            Err(format!("{}\n{jobs}", serde_json::to_string(&all).unwrap()))
        }
    })
}

struct User {
    nbd: Nbd,
    seed: u64,
}

impl User {
    /// Every write lands and reads back, whatever goes on meanwhile.
    fn work(&mut self) {
        for i in 0..20u64 {
            self.seed += 1;
            let at = (self.seed * 7919 % 60) << 20;
            self.nbd.write(at + i * 4096, &pattern(self.seed, 12_288)).unwrap();
            assert!(self.nbd.read(at + i * 4096, 12_288).unwrap() == pattern(self.seed, 12_288));
        }
    }
}

#[test]
fn replicas_move_come_and_go_under_a_user_that_notices_nothing() {
    let mut c = Cluster::new(4);
    let id = |c: &Cluster, name: &str| {
        let s = c.status().unwrap();
        s["nodes"].as_object().unwrap().values().find(|n| n["name"] == name).unwrap()["id"].as_u64().unwrap()
    };
    c.ok(&["volume", "create", "v", "size=64MiB", "rebuild_after=5s"]);
    let first = settled(&c, "v", 3, None);
    let spare = (1..=4).find(|n| !first.contains(n)).unwrap();
    let at = (0..4).find(|i| first.contains(&id(&c, &c.nodes[*i].name))).unwrap();
    c.ok(&["volume", "attach", "v", "--node", &c.nodes[at].name.clone()]);
    let mut user = User { nbd: Nbd::connect(&c.nodes[at].nbd, "v").unwrap(), seed: 0 };
    let still = pattern(999, 2 << 20);
    user.nbd.write(61 << 20, &still).unwrap();
    user.work();

    // Drain one that is not attached: its replica goes to the spare node.
    let drained = (0..4).find(|i| *i != at && first.contains(&id(&c, &c.nodes[*i].name))).unwrap();
    let name = c.nodes[drained].name.clone();
    let e = c.cli(&["node", "remove", &name]).unwrap_err();
    assert!(e.contains("still holds replicas of v") && e.contains("node drain"), "{e}");
    c.ok(&["node", "drain", &name]);
    user.work();
    let now = settled(&c, "v", 3, Some(id(&c, &name)));
    assert!(now.contains(&spare));
    user.work();
    c.ok(&["node", "activate", &name]);
    assert!(c.ok(&["job", "list"]).contains("nothing to do"));

    // Fewer and more copies, in any step.
    for n in [2, 1, 3, 1, 2] {
        c.ok(&["volume", "set", "v", &format!("replicas={n}"), "min_replicas=1"]);
        user.work();
        settled(&c, "v", n, None);
        user.work();
    }
    // The deleted replicas' data is gone from their nodes.
    until("tombstones to go", || {
        let s = c.status()?;
        if s["tombstones"].as_object().unwrap().is_empty() { Ok(()) } else { Err(s["tombstones"].to_string()) }
    });
    // A node that stays away longer than `rebuild_after` is replaced; its old replica is removed
    // when it returns.
    c.ok(&["volume", "set", "v", "replicas=3"]);
    let before = settled(&c, "v", 3, None);
    let lost = (0..4).find(|i| *i != at && before.contains(&id(&c, &c.nodes[*i].name))).unwrap();
    let lost_id = id(&c, &c.nodes[lost].name);
    c.nodes[lost].kill();
    user.work();
    settled(&c, "v", 3, Some(lost_id));
    user.work();
    c.nodes[lost].start();
    until("tombstones to go", || {
        let s = c.status()?;
        if s["tombstones"].as_object().unwrap().is_empty() { Ok(()) } else { Err(s["tombstones"].to_string()) }
    });
    assert!(user.nbd.read(61 << 20, 2 << 20).unwrap() == still);
}

#[test]
fn detached_volumes_are_looked_after_too() {
    let mut c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=32MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    nbd.write(0, &pattern(1, 1 << 20)).unwrap();
    c.nodes[2].kill();
    nbd.write(4 << 20, &pattern(2, 1 << 20)).unwrap();
    drop(nbd);
    c.ok(&["volume", "detach", "v"]);
    assert_eq!(replicas(&c, "v").iter().filter(|r| r["state"] == "in_sync").count(), 2);
    c.nodes[2].start();
    settled(&c, "v", 3, None);
    // Whoever looked after it lets go, and it was exported nowhere meanwhile.
    until("the volume to be detached again", || {
        let v = c.volume("v");
        if v["coordinator"].is_null() { Ok(()) } else { Err(v["coordinator"].to_string()) }
    });
    assert!(c.ok(&["events"]).contains("looks after its replicas"));
    c.ok(&["volume", "attach", "v", "--node", "n3"]);
    c.nodes[0].kill();
    c.nodes[1].kill();
    // No metadata, no other replica: the copy that came back in while the volume was detached reads alone.
    let mut nbd = Nbd::connect(&c.nodes[2].nbd, "v").unwrap();
    c.nodes[0].start();
    c.nodes[1].start();
    assert!(nbd.read(0, 1 << 20).unwrap() == pattern(1, 1 << 20));
    assert!(nbd.read(4 << 20, 1 << 20).unwrap() == pattern(2, 1 << 20));
}

#[test]
fn the_last_resort_asks_twice_and_leaves_a_trace() {
    let mut c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=32MiB", "replicas=2", "min_replicas=1", "nodes=n2,n3"]);
    c.ok(&["volume", "attach", "v", "--node", "n2"]);
    let mut nbd = Nbd::connect(&c.nodes[1].nbd, "v").unwrap();
    nbd.write(0, &pattern(1, 1 << 20)).unwrap();
    // n3 misses the second write; then n2, the only one in sync, is lost for good.
    c.nodes[2].kill();
    nbd.write(1 << 20, &pattern(2, 1 << 20)).unwrap();
    until("n3 to be out", || {
        let n = replicas(&c, "v").iter().filter(|r| r["state"] == "in_sync").count();
        if n == 1 { Ok(()) } else { Err(n.to_string()) }
    });
    drop(nbd);
    // As long as somebody may have everything, nobody else is declared the truth.
    let rid = replicas(&c, "v").iter().find(|r| r["state"] != "in_sync").unwrap()["rid"].to_string();
    let too_early =
        ["volume", "force-insync", "v", "--replica", &rid, "--operator", "ann", "--reason", "haste", "--confirm", "v"];
    let e = c.cli(&too_early).unwrap_err();
    assert!(e.contains("may still answer"), "{e}");
    c.nodes[1].kill();
    std::fs::remove_file(c.nodes[1].dir.join("disk/holdfast.disk")).unwrap();
    c.nodes[2].start();
    // Without the operator's word the volume stays offline: old data is never passed off as new.
    until("n3 to answer", || match c.cli(&["volume", "attach", "v", "--node", "n3", "--force"]) {
        Err(e) if e.starts_with("[6]") && e.contains("but not served yet") => Ok(()),
        Err(e) => Err(e),
        Ok(o) => panic!("an old copy was served: {o}"),
    });
    let rid = replicas(&c, "v").iter().find(|r| r["state"] != "in_sync").unwrap()["rid"].to_string();
    let order = ["volume", "force-insync", "v", "--replica", &rid, "--operator", "ann", "--reason", "n2 burnt down"];
    let e = c.cli(&order).unwrap_err();
    assert!(e.contains("abandons") && e.contains("--confirm v"), "{e}");
    until("the lost node to be known as lost", || c.cli(&[&order[..], &["--confirm", "v"]].concat()));
    assert!(c.ok(&["events"]).contains("declared the truth by ann: n2 burnt down"));
    until("the volume to serve", || c.cli(&["volume", "attach", "v", "--node", "n3", "--force"]));
    let mut nbd = until("the export", || Nbd::connect(&c.nodes[2].nbd, "v").map_err(|e| e.to_string()));
    assert!(nbd.read(0, 1 << 20).unwrap() == pattern(1, 1 << 20));
    assert!(nbd.read(1 << 20, 1 << 20).unwrap().iter().all(|b| *b == 0), "what only n2 had is given up");
    nbd.write(2 << 20, &pattern(3, 1 << 20)).unwrap();
    // n2 comes back with an empty disk: its replica is not taken for anything, and gets a new place or is made anew.
    c.ok(&["volume", "set", "v", "nodes=n1,n3"]);
    settled(&c, "v", 2, None);
    assert!(nbd.read(2 << 20, 1 << 20).unwrap() == pattern(3, 1 << 20));
}

/// Nobody asks: the node with the attachment dies and stays away, the volume gets its replicas
/// elsewhere, and waits for it.
#[test]
fn a_volume_whose_node_is_gone_is_made_whole_and_waits_for_it() {
    let mut c = Cluster::new(4);
    c.ok(&["volume", "create", "v", "size=64MiB", "rebuild_after=5s", "nodes=n1,n2,n3"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    let data = pattern(5, 8 << 20);
    nbd.write(3 << 20, &data).unwrap();
    c.ok(&["volume", "set", "v", "nodes=n1,n2,n3,n4"]);
    c.nodes[0].kill();
    drop(nbd);
    let gone = Instant::now();
    settled(&c, "v", 3, Some(1));
    println!("three replicas on the other nodes {} ms after the node was lost", gone.elapsed().as_millis());
    let waits = until("the volume to wait for its node", || {
        let v = c.volume("v");
        let a = v["coordinator"].clone();
        if a["node"] == 1 && a["maintenance"] == false { Ok(v) } else { Err(a.to_string()) }
    });
    let term = waits["term"].as_u64().unwrap();
    assert!((2..=3).contains(&term), "looked after once, or twice if the leader was late: {waits}");
    let looked_after = c.ok(&["events"]).matches("looks after its replicas while node n1 is away").count() as u64;
    assert_eq!(term, 1 + looked_after, "each term but the first is one of being looked after");
    // It comes back: the volume is there, with everything that was acknowledged, on new replicas.
    c.nodes[0].start();
    let mut nbd = until("the export", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
    assert!(nbd.read(3 << 20, 8 << 20).unwrap() == data);
    nbd.write(0, &data).unwrap();
    settled(&c, "v", 3, Some(1));
}

/// The abandoned history is not lost after all: its disk returns with newer versions than the truth
/// that was declared meanwhile. It is made equal to that, and nothing of it is ever served.
#[test]
fn an_abandoned_history_that_comes_back_is_not_believed() {
    let mut c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=32MiB", "replicas=2", "min_replicas=1", "nodes=n2,n3"]);
    c.ok(&["volume", "attach", "v", "--node", "n2"]);
    let mut nbd = Nbd::connect(&c.nodes[1].nbd, "v").unwrap();
    nbd.write(0, &pattern(1, 1 << 20)).unwrap();
    c.nodes[2].kill();
    // Only n2 has these: a place that stays empty in the other history, one that is overwritten
    // there, one that is as it was.
    for (at, tag) in [(1 << 20, 2), (2 << 20, 3), (0, 4)] {
        nbd.write(at, &pattern(tag, 1 << 20)).unwrap();
    }
    until("n3 to be out", || match replicas(&c, "v").iter().filter(|r| r["state"] == "in_sync").count() {
        1 => Ok(()),
        n => Err(n.to_string()),
    });
    drop(nbd);
    c.nodes[1].kill();
    c.nodes[2].start();
    let rid = replicas(&c, "v").iter().find(|r| r["state"] != "in_sync").unwrap()["rid"].to_string();
    let order = [
        "volume",
        "force-insync",
        "v",
        "--replica",
        &rid,
        "--operator",
        "ann",
        "--reason",
        "n2 is lost",
        "--confirm",
        "v",
    ];
    until("n3 to be declared the truth", || c.cli(&order));
    until("the volume to serve", || c.cli(&["volume", "attach", "v", "--node", "n3", "--force"]));
    let mut nbd = until("the export", || Nbd::connect(&c.nodes[2].nbd, "v").map_err(|e| e.to_string()));
    nbd.write(2 << 20, &pattern(5, 1 << 20)).unwrap();
    c.nodes[1].start();
    until("n2's replica to be equal to the truth", || {
        let all = replicas(&c, "v");
        let good = all.iter().filter(|r| r["state"] == "in_sync").count();
        if good == 2 && all.len() == 2 { Ok(()) } else { Err(format!("{all:?}")) }
    });
    // n2 alone, from its own disk.
    drop(nbd);
    c.nodes[2].kill();
    until("the take-over", || c.cli(&["volume", "attach", "v", "--node", "n2", "--force"]));
    let mut nbd = until("the export", || Nbd::connect(&c.nodes[1].nbd, "v").map_err(|e| e.to_string()));
    assert!(nbd.read(0, 1 << 20).unwrap() == pattern(1, 1 << 20), "what was given up is served");
    assert!(nbd.read(1 << 20, 1 << 20).unwrap().iter().all(|b| *b == 0), "what was given up is served");
    assert!(nbd.read(2 << 20, 1 << 20).unwrap() == pattern(5, 1 << 20));
}

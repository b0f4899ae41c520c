//! The last resort: two of three voters are lost for good, or the metadata of all nodes, and what
//! is left is begun again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, run, until};
use hf_tests::nbd::Nbd;
use hf_tests::user::{BLOCKS, StopAtEnd, Witness, nothing_failed};
use serde_json::Value;
use std::sync::atomic::AtomicBool;

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&run(&[args, &["-o", "json"]].concat()).unwrap()).unwrap()
}

fn connect(c: &Cluster, node: usize) -> Nbd {
    until("the export", || Nbd::connect(&c.nodes[node].nbd, "v").map_err(|e| e.to_string()))
}

#[test]
fn a_cluster_whose_voters_are_lost_for_good_is_begun_again_with_what_is_left() {
    let mut c = Cluster::new(4);
    let voters = c.status().unwrap()["voters"].as_array().unwrap().clone();
    let votes = |i: usize| voters.contains(&serde_json::json!(i as u64 + 1));
    // The volume lives on all voters; the survivors are one voter and the node that only followed.
    let names: Vec<&str> = (0..4).filter(|i| votes(*i)).map(|i| c.nodes[i].name.as_str()).collect();
    c.ok(&["volume", "create", "v", "size=16MiB", &format!("nodes={}", names.join(","))]);
    let lost: Vec<usize> = (0..4).filter(|i| votes(*i)).take(2).collect();
    let left: Vec<usize> = (0..4).filter(|i| !lost.contains(i)).collect();
    let (voter, follower) = if votes(left[0]) { (left[0], left[1]) } else { (left[1], left[0]) };
    c.ok(&["volume", "attach", "v", "--node", &c.nodes[voter].name]);
    let w = Witness::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let mut nbd = connect(&c, voter);
        let (w, stop, end) = (&w, &stop, StopAtEnd(&stop));
        let user = s.spawn(move || w.work(&mut nbd, stop));
        until("some work", || if w.done() > 3 * BLOCKS { Ok(()) } else { Err(w.done().to_string()) });
        drop(end);
        nothing_failed(&[user.join().unwrap()], "before the loss");
    });
    c.nodes.iter_mut().for_each(|n| n.kill());
    let dir = |i: usize| c.nodes[i].data_dir.display().to_string();
    // As long as a majority of the voters can be read it is certain.
    let two = json(&["rescue", "propose", "--data-dir", &dir(voter), "--data-dir", &dir(lost[0])]);
    assert_eq!(
        (&two["volumes"][0]["guess"], two["volumes"][0]["missing"].as_array().unwrap().len()),
        (&false.into(), 1)
    );
    for i in lost {
        std::fs::remove_dir_all(&c.nodes[i].data_dir).unwrap();
        std::fs::remove_dir_all(&c.nodes[i].disk).unwrap();
    }
    let (voter_dir, follower_dir) = (dir(voter), dir(follower));
    let from = ["--data-dir", &voter_dir, "--data-dir", &follower_dir];
    let p = json(&[&["rescue", "propose"], &from[..]].concat());
    assert_eq!(p["volumes"][0]["volume"], "v", "{p}");
    // One of three voters was read: the two others may have decided more, and two replicas are
    // missing.
    assert_eq!((&p["volumes"][0]["guess"], p["voters_read"].as_array().unwrap().len()), (&true.into(), 1), "{p}");
    assert_eq!(p["volumes"][0]["missing"].as_array().unwrap().len(), 2, "{p}");
    assert_eq!(p["replicas_found"], 1, "{p}");
    let order = [&["rescue", "found", &voter_dir], &from[..]].concat();
    let e = run(&order).unwrap_err();
    assert!(e.contains("--confirm holdfast"), "{e}");
    run(&[&order[..], &["--confirm", "holdfast"]].concat()).unwrap();
    let said = json(&["rescue", "follow", &follower_dir]);
    assert!(said["done"].as_str().unwrap().contains("will follow"), "{said}");
    c.nodes[voter].start();
    c.nodes[follower].start();
    let name = c.nodes[voter].name.clone();
    until("the volume to be in use again", || c.cli(&["volume", "attach", "v", "--node", &name]));
    w.read_all(&mut connect(&c, voter)).unwrap();
    w.judge("after the rescue");
    // The cluster works: a change is possible, the follower sees it, and the lost nodes are
    // replaced.
    let here = format!("nodes={name},{}", c.nodes[follower].name);
    c.ok(&["volume", "set", "v", "replicas=2", "min_replicas=1", &here]);
    until("another replica, on the node that is left", || {
        let v = c.volume("v");
        let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
        let home = |r: &Value| r["node"] == follower as u64 + 1 && r["state"] == "in_sync";
        if all.values().any(home) { Ok(()) } else { Err(v["shards"][0].to_string()) }
    });
}

/// Two volumes with data. n3 was killed before the last writes, so its replica of `v` lacks them.
fn with_data(c: &mut Cluster) -> Witness {
    c.ok(&["volume", "create", "v", "size=16MiB", "min_replicas=1"]);
    c.ok(&["volume", "create", "two", "size=24MiB", "replicas=2", "nodes=n1,n2"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    c.ok(&["volume", "attach", "two", "--node", "n2"]);
    let mut two = until("the export", || Nbd::connect(&c.nodes[1].nbd, "two").map_err(|e| e.to_string()));
    two.write(20 << 20, &[7; 1 << 20]).unwrap();
    drop(two);
    let w = Witness::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let mut nbd = connect(c, 0);
        let (w, stop, end) = (&w, &stop, StopAtEnd(&stop));
        let user = s.spawn(move || w.work(&mut nbd, stop));
        until("some work", || if w.done() > 3 * BLOCKS { Ok(()) } else { Err(w.done().to_string()) });
        // From here on n3 lacks the writes.
        c.nodes[2].kill();
        let before = w.done();
        until("more work", || if w.done() > before + 3 * BLOCKS { Ok(()) } else { Err(w.done().to_string()) });
        drop(end);
        nothing_failed(&[user.join().unwrap()], "before the loss");
    });
    w
}

/// Every node's data directory is gone, as if with the system disks; the pool's disks are left. The
/// volumes are restored from them, each from the replica with the most data; replicas that had been
/// away catch up; policies are lost.
#[test]
fn a_cluster_of_which_only_the_disks_are_left_is_begun_again() {
    let mut c = Cluster::new(3);
    let w = with_data(&mut c);
    c.nodes.iter_mut().for_each(|n| n.kill());
    for i in [0, 2] {
        std::fs::remove_dir_all(&c.nodes[i].data_dir).unwrap();
    }
    // Of n2 its identity is left, and nothing of the record.
    std::fs::remove_dir_all(c.nodes[1].data_dir.join("meta")).unwrap();
    let _ = std::fs::remove_file(c.nodes[1].data_dir.join("view.json"));
    // Somebody made an image of a disk, too.
    let image = c.dir.path().join("image");
    let copied =
        std::process::Command::new("cp").args(["-a", "--sparse=always"]).args([&c.nodes[1].disk, &image]).status();
    assert!(copied.unwrap().success());
    let disks: Vec<String> = c.nodes.iter().map(|n| n.disk.display().to_string()).collect();
    let dirs: Vec<String> = c.nodes.iter().map(|n| n.data_dir.display().to_string()).collect();
    let from: Vec<&str> = disks.iter().flat_map(|d| ["--disk", d]).collect();
    let image = image.display().to_string();
    let p = json(&[&["rescue", "propose", "--data-dir", &dirs[1], "--disk", &image], &from[..]].concat());
    assert_eq!((&p["replicas_found"], &p["disks_read"]), (&5.into(), &4.into()), "{p}");
    for (name, size, replicas) in [("v", 16u64 << 20, 3), ("two", 24 << 20, 2)] {
        let v = p["volumes"].as_array().unwrap().iter().find(|v| v["volume"] == name).unwrap();
        let all = v["shards"][0]["replicas"].as_array().unwrap();
        let count: Vec<&Value> = all.iter().filter(|r| r["counts"] == true).collect();
        assert_eq!((&v["size"], &v["guess"], all.len()), (&size.into(), &true.into(), replicas), "{v}");
        assert!(count.len() == 1 && !count[0]["found"].as_str().unwrap().contains(&disks[2]), "{v}");
    }
    let found = [&["rescue", "found", &dirs[0], "--confirm", "rescued"], &from[..]].concat();
    let e = run(&found).unwrap_err();
    assert!(e.starts_with("[1]") && e.contains("--own-disk"), "{e}");
    run(&[&found[..], &["--own-disk", &disks[0]]].concat()).unwrap();
    // It knows its disk again, also where no configuration names it.
    let id = std::fs::read_to_string(c.nodes[0].data_dir.join("node.json")).unwrap();
    assert!(id.contains(&disks[0]), "{id}");
    c.nodes[0].start();
    let first = c.nodes[0].api.clone();
    for i in [1, 2] {
        let order = ["rescue", "follow", &dirs[i], "--seed", &first, "--own-disk", &disks[i]];
        until("n1 to answer", || run(if i == 1 { &order[..5] } else { &order }));
        c.nodes[i].start();
    }
    c.ready();
    all_is_there(&c, &w);
}

fn all_is_there(c: &Cluster, w: &Witness) {
    let names = |c: &Cluster| c.status().unwrap()["nodes"].to_string();
    assert!(["n1", "n2", "n3"].iter().all(|n| names(c).contains(&format!("\"{n}\""))), "{}", names(c));
    for (name, n) in [("v", 3), ("two", 2)] {
        until("all that there were to be in sync", || {
            let v = c.volume(name);
            let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
            let good = all.len() == n && all.values().all(|r| r["state"] == "in_sync");
            if good { Ok(()) } else { Err(v["shards"][0].to_string()) }
        });
    }
    // Read on the node that had been away: its own copy, which it was given again.
    c.ok(&["volume", "set", "v", "read_from=local"]);
    until("the volume to be in use again", || c.cli(&["volume", "attach", "v", "--node", "n3"]));
    w.read_all(&mut connect(c, 2)).unwrap();
    w.judge("after the rescue");
    until("the other one too", || c.cli(&["volume", "attach", "two", "--node", "n1"]));
    let mut two = until("the export", || Nbd::connect(&c.nodes[0].nbd, "two").map_err(|e| e.to_string()));
    assert!(two.read(20 << 20, 1 << 20).unwrap() == [7; 1 << 20]);
    c.ok(&["volume", "create", "new", "size=16MiB"]);
}

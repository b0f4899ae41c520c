//! The last resort: two of three voters are lost for good, and what is left is begun again.
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
    // One of three voters was read: what the two others may have decided without it nobody knows, and two replicas are missing.
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
    // The cluster works: a change is possible, the follower sees it, and who is lost is replaced.
    let here = format!("nodes={name},{}", c.nodes[follower].name);
    c.ok(&["volume", "set", "v", "replicas=2", "min_replicas=1", &here]);
    until("another replica, on the node that is left", || {
        let v = c.volume("v");
        let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
        let home = |r: &Value| r["node"] == follower as u64 + 1 && r["state"] == "in_sync";
        if all.values().any(home) { Ok(()) } else { Err(v["shards"][0].to_string()) }
    });
}

//! Nodes with two disks and two reactors each: coordinators and replicas of a node sit on different
//! threads and different disks. A disk is added, a replica moves to it and nodes are killed, under
//! users whose every operation is judged. Then a volume of several shards: its users work on both
//! sides of and across a shard's border, and it grows over another one meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, NodeProcess, run, until};
use hf_tests::nbd::Nbd;
use hf_tests::user::{StopAtEnd, Witness, Worked, nothing_failed};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

const SHARD: u64 = 64 << 30;

/// A volume, the node through which it is used, and the witness of its users.
type Used<'a> = (&'a str, usize, &'a Witness);

fn cluster() -> Cluster {
    Cluster::prepared(3, |n| {
        n.disk_size = "4GiB".into();
        n.env.push(("HOLDFAST_REACTORS".into(), "2".into()));
        n.second_disk("4GiB");
    })
}

fn connect(c: &Cluster, node: usize, volume: &str) -> Nbd {
    until("the export", || Nbd::connect(&c.nodes[node].nbd, volume).map_err(|e| e.to_string()))
}

fn gets_on(used: &[Used], by: u64) {
    let marks: Vec<u64> = used.iter().map(|(_, _, w)| w.done() + by).collect();
    until("work to go on", || match used.iter().zip(&marks).find(|((_, _, w), m)| w.done() < **m) {
        None => Ok(()),
        Some(((v, _, w), _)) => Err(format!("volume {v}: {} operations", w.done())),
    });
}

/// Two users of each volume at work while `during` goes on.
fn busy(c: &mut Cluster, used: &[Used], during: impl FnOnce(&mut Cluster)) -> Vec<Worked> {
    let stop = AtomicBool::new(false);
    let conns: Vec<(Nbd, &Witness)> =
        used.iter().flat_map(|(v, node, w)| [(connect(c, *node, v), *w), (connect(c, *node, v), *w)]).collect();
    std::thread::scope(|s| {
        let (flag, end) = (&stop, StopAtEnd(&stop));
        let users: Vec<_> = conns.into_iter().map(|(mut n, w)| s.spawn(move || w.work(&mut n, flag))).collect();
        gets_on(used, 100);
        during(c);
        drop(end);
        users.into_iter().map(|u| u.join().unwrap()).collect()
    })
}

/// Every replica of every shard: (shard, replica).
fn replicas(v: &Value) -> Vec<(usize, Value)> {
    let shards = v["shards"].as_array().unwrap().iter().enumerate();
    shards.flat_map(|(i, s)| s["replicas"].as_object().unwrap().values().map(move |r| (i, r.clone()))).collect()
}

fn whole(c: &Cluster) {
    until("all replicas of all volumes to be in sync", || {
        let s = c.status()?;
        for v in s["volumes"].as_object().ok_or("no volumes")?.values() {
            let settled = |r: &Value| r["state"] == "in_sync" && r["leaving"] == false && !r["store_uuid"].is_null();
            if let Some((shard, r)) = replicas(v).iter().find(|(_, r)| !settled(r)) {
                return Err(format!("{} shard {shard}: {r}", v["name"]));
            }
        }
        Ok(())
    });
}

/// Everything that was written is there, through new connections.
fn verify(c: &Cluster, used: &[Used], context: &str) {
    for (v, node, w) in used {
        w.read_all(&mut connect(c, *node, v)).unwrap_or_else(|e| panic!("{context}: volume {v}: {e}"));
        w.judge(&format!("{context}: volume {v}"));
    }
}

fn reactors(n: &NodeProcess) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", n.pid().unwrap())).unwrap();
    let names = tasks.filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("comm")).ok());
    names.filter(|n| n.starts_with("reactor")).count()
}

/// The disks of a node that hold something of a volume.
fn disks_on(c: &Cluster, volume: &str, node: u64) -> BTreeSet<u64> {
    let all = replicas(&c.volume(volume));
    all.iter().filter(|(_, r)| r["node"] == node).map(|(_, r)| r["disk"].as_u64().unwrap()).collect()
}

/// Adds a disk to the first node and has it take over a volume's replica there.
fn move_to_a_new_disk(c: &Cluster, volume: &str) {
    let path = c.nodes[0].dir.join("disk3");
    std::fs::create_dir_all(&path).unwrap();
    let add = ["--endpoint", &c.nodes[0].http, "disk", "add", path.to_str().unwrap(), "--size", "512MiB"];
    run(&add).unwrap();
    until("the new disk to be in service", || {
        let s = c.status()?;
        let ok = s["disks"].as_object().unwrap().values().filter(|d| d["state"] == "ok").count();
        if ok == 7 { Ok(()) } else { Err(s["disks"].to_string()) }
    });
    let before = disks_on(c, volume, 1);
    let all = replicas(&c.volume(volume));
    let rid = all.iter().find(|(_, r)| r["node"] == 1).unwrap().1["rid"].to_string();
    c.ok(&["volume", "move", volume, "--replica", &rid]);
    until("the replica to be on another disk", || {
        let now = disks_on(c, volume, 1);
        if now.len() == 1 && now.is_disjoint(&before) { Ok(()) } else { Err(format!("{before:?} and now {now:?}")) }
    });
}

#[test]
fn disks_and_reactors_of_a_node_work_together_whatever_moves_or_dies() {
    let mut c = cluster();
    assert!(c.nodes.iter().all(|n| reactors(n) == 2));
    // The shards of one volume are on both disks of every node, so one of them is not on its
    // coordinator's thread; others have a replica here and there, or none where they are attached.
    c.ok(&["volume", "create", "wide", "size=100GiB"]);
    assert!((1..=3).all(|n| disks_on(&c, "wide", n).len() == 2));
    for (name, nodes) in [("moved", "n1,n3"), ("near", "n1,n2"), ("far", "n1,n2"), ("far2", "n1,n2")] {
        c.ok(&["volume", "create", name, "size=16MiB", "replicas=2", &format!("nodes={nodes}")]);
    }
    let seen = [Witness::around(SHARD), Witness::default(), Witness::default(), Witness::default(), Witness::default()];
    let names = [("wide", 0), ("moved", 2), ("near", 0), ("far", 2), ("far2", 2)];
    let used: Vec<Used> = names.iter().zip(&seen).map(|((v, node), w)| (*v, *node, w)).collect();
    for (v, node, _) in &used {
        c.ok(&["volume", "attach", v, "--node", &c.nodes[*node].name.clone()]);
    }
    let worked = busy(&mut c, &used, |c| {
        c.nodes[1].kill();
        gets_on(&used, 300);
        c.nodes[1].start();
        whole(c);
        gets_on(&used, 100);
    });
    nothing_failed(&worked, "n2 was killed and came back");
    verify(&c, &used, "n2 was killed and came back");
    let worked = busy(&mut c, &used, |c| {
        move_to_a_new_disk(c, "moved");
        whole(c);
        gets_on(&used, 100);
    });
    nothing_failed(&worked, "a disk was added");
    verify(&c, &used, "a disk was added");
    // Nodes with attachments die. Their next life takes the attachments up again, also on the disk
    // that was added.
    for victim in [0, 2] {
        let worked = busy(&mut c, &used, |c| {
            c.nodes[victim].kill();
            let others: Vec<Used> = used.iter().filter(|(_, node, _)| *node != victim).copied().collect();
            gets_on(&others, 300);
            c.nodes[victim].start();
            c.ready();
            whole(c);
        });
        let context = format!("n{} was killed, with attachments", victim + 1);
        let stood: Vec<&str> = worked.iter().filter_map(|w| w.failed.as_deref()).collect();
        assert_eq!(stood.len(), 2 * used.iter().filter(|(_, n, _)| *n == victim).count(), "{context}: {stood:?}");
        verify(&c, &used, &context);
    }
}

#[test]
fn a_volume_of_several_shards_grows_over_a_border_under_its_users() {
    let mut c = cluster();
    c.ok(&["volume", "create", "v", "size=100GiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let (old, new) = (Witness::around(SHARD), Witness::around(2 * SHARD));
    let first = [("v", 0, &old)];
    let both = [("v", 0, &old), ("v", 0, &new)];
    let worked = busy(&mut c, &first, |c| {
        c.ok(&["volume", "resize", "v", "136GiB"]);
        until("the export to grow", || match connect(c, 0, "v").size {
            s if s == 136 << 30 => Ok(()),
            s => Err(s.to_string()),
        });
        gets_on(&first, 100);
    });
    nothing_failed(&worked, "it grew");
    assert_eq!(c.volume("v")["shards"].as_array().unwrap().len(), 3);
    // A new shard's replicas are made after the record says so.
    whole(&c);
    let worked = busy(&mut c, &both, |c| {
        c.nodes[2].kill();
        gets_on(&both, 300);
        c.nodes[2].start();
        whole(c);
    });
    nothing_failed(&worked, "n3 was killed and came back");
    verify(&c, &both, "n3 was killed and came back");
    c.nodes[0].kill();
    until("the volume to be taken over", || c.cli(&["volume", "attach", "v", "--node", "n2", "--force"]));
    let there = [("v", 1, &old), ("v", 1, &new)];
    verify(&c, &there, "taken over by n2");
    nothing_failed(&busy(&mut c, &there, |_| gets_on(&there, 100)), "taken over by n2");
    c.nodes[0].start();
    whole(&c);
    verify(&c, &there, "n1 came back");
    let (writes, reads) = [&old, &new].iter().map(|w| w.counts()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    println!("around two shard borders: {writes} acknowledged writes, {reads} reads, 0 lost, 0 stale");
}

//! Exports come and go with the policy, and stay where their volume is coordinated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, until};
use hf_tests::nbd::Nbd;
use std::time::{Duration, Instant};

fn connect(c: &Cluster, node: usize, volume: &str) -> Nbd {
    until("the export", || Nbd::connect(&c.nodes[node].nbd, volume).map_err(|e| e.to_string()))
}

#[test]
fn a_volume_whose_local_replica_moved_to_another_reactor_takes_new_connections() {
    let c = Cluster::prepared(1, |n| {
        n.env.push(("HOLDFAST_REACTORS".into(), "2".into()));
        n.second_disk("512MiB");
    });
    c.ok(&["volume", "create", "v", "size=16MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut old = connect(&c, 0, "v");
    old.write(0, &[1; 4096]).unwrap();
    c.ok(&["volume", "move", "v", "--replica", "1"]);
    until("the move", || {
        let v = c.volume("v");
        let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
        if all.len() == 1 && !all.contains_key("1") { Ok(()) } else { Err(format!("{all:?}")) }
    });
    assert_eq!(old.read(0, 4096).unwrap(), vec![1; 4096], "the old connection");
    let new = until("a new connection to read", || {
        let mut n = Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string())?;
        n.read(0, 4096).map_err(|e| e.to_string())
    });
    assert_eq!(new, vec![1; 4096]);
}

#[test]
fn an_export_taken_away_can_be_given_back_while_attached() {
    let c = Cluster::new(1);
    c.ok(&["volume", "create", "v", "size=16MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    connect(&c, 0, "v").write(0, &[1; 4096]).unwrap();
    c.ok(&["volume", "set", "v", "exports=none"]);
    until("the export to go", || match Nbd::connect(&c.nodes[0].nbd, "v") {
        Ok(_) => Err("it is still served".into()),
        Err(_) => Ok(()),
    });
    c.ok(&["volume", "set", "v", "exports=nbd"]);
    assert_eq!(connect(&c, 0, "v").read(0, 4096).unwrap(), vec![1; 4096]);
}

#[test]
fn a_volume_without_exports_can_be_attached() {
    let c = Cluster::new(1);
    c.ok(&["volume", "create", "w", "size=16MiB", "replicas=1", "exports=none"]);
    assert!(c.ok(&["volume", "attach", "w", "--node", "n1"]).contains("not exported (exports=none)"));
}

#[test]
fn a_connection_that_is_there_ends_when_its_export_is_taken_away() {
    let c = Cluster::new(1);
    c.ok(&["volume", "create", "v", "size=16MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = connect(&c, 0, "v");
    c.ok(&["volume", "set", "v", "exports=none"]);
    until("the connection to end", || match nbd.write(0, &[1; 4096]) {
        Ok(()) => Err("still served".into()),
        Err(_) => Ok(()),
    });
}

/// A detach waits for a write that too few replicas have; nobody gets in meanwhile, and when the
/// replica is back it ends.
#[test]
fn a_volume_that_drains_slowly_is_not_exported_again_and_is_detached_when_its_replica_is_back() {
    let mut c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB", "replicas=2", "min_replicas=2", "nodes=n1,n2"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut client = connect(&c, 0, "v");
    client.write(0, &[1; 4096]).unwrap();
    c.nodes[1].kill();
    let write = std::thread::spawn(move || client.write(4096, &[2; 4096]));
    until("the lost replica to be dropped", || {
        let all = c.volume("v")["shards"][0]["replicas"].as_object().unwrap().clone();
        let in_sync = all.values().filter(|r| r["state"] == "in_sync").count();
        if in_sync == 1 { Ok(()) } else { Err(format!("{all:?}")) }
    });
    let (nodes, nbd) = (c.endpoints(), c.nodes[0].nbd.clone());
    let detach = std::thread::spawn(move || hf_tests::cluster::run(&["--endpoint", &nodes, "volume", "detach", "v"]));
    until("the export to go", || Nbd::connect(&nbd, "v").map_or(Ok(()), |_| Err("it is still served".into())));
    // The agent looks at everything every two seconds.
    let end = Instant::now() + Duration::from_secs(7);
    while Instant::now() < end {
        assert!(Nbd::connect(&nbd, "v").is_err(), "clients get in while the volume is being detached");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!detach.is_finished());
    c.nodes[1].start();
    assert!(detach.join().unwrap().unwrap().contains("detached"));
    // (Its client was not kept waiting for more than five seconds; the write is on both replicas by now.)
    assert!(write.join().unwrap().is_err());
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    assert_eq!(connect(&c, 0, "v").read(4096, 4096).unwrap(), vec![2; 4096]);
}

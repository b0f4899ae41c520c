//! Exports come and go with the policy, and stay where their volume is coordinated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, until};
use hf_tests::nbd::Nbd;

fn connect(c: &Cluster, node: usize, volume: &str) -> Nbd {
    until("the export", || Nbd::connect(&c.nodes[node].nbd, volume).map_err(|e| e.to_string()))
}

#[test]
fn a_volume_whose_local_replica_moved_to_another_reactor_takes_new_connections() {
    let c = Cluster::prepared(1, |n| {
        n.env.push(("HOLDFAST_REACTORS".into(), "2".into()));
        let second = n.dir.join("disk2");
        std::fs::create_dir_all(&second).unwrap();
        n.more = format!("[[disk]]\npath = \"{}\"\nsize = \"512MiB\"\n", second.display());
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
    assert!(c.ok(&["volume", "attach", "w", "--node", "n1"]).contains("not exported"));
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

//! Many small volumes on small disks, on real daemons: the table of replicas grows when it is full;
//! where it may not, a create is refused at once and with the number, and nothing stays half made.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, http_get, until};
use hf_tests::nbd::Nbd;
use serde_json::Value;

/// Replica entries of every disk under 16 GiB before its table grows.
const ENTRIES: u64 = 64;

fn disk(c: &Cluster) -> Value {
    c.items(&["disk", "list"]).unwrap()[0].clone()
}

fn metric(c: &Cluster, name: &str) -> u64 {
    let all = http_get(&c.nodes[0].http, "/metrics").unwrap();
    let line =
        all.lines().find(|l| l.starts_with(&format!("holdfast_{name}{{"))).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn create(c: &Cluster, i: u64) -> Result<String, String> {
    c.cli(&["volume", "create", &format!("v{i}"), "size=8MiB", "replicas=1"])
}

fn all_made(c: &Cluster, n: u64) {
    until("every replica to be made", || match metric(c, "disk_replica_entries") {
        made if made == n => Ok(()),
        made => Err(format!("{made} of {n}")),
    });
}

#[test]
fn the_65th_replica_of_a_small_disk_is_as_good_as_the_first() {
    let mut c = Cluster::prepared(1, |n| n.disk_size = "400MiB".into());
    (0..=ENTRIES).for_each(|i| drop(create(&c, i).unwrap()));
    all_made(&c, ENTRIES + 1);
    let d = disk(&c);
    assert_eq!(d["replica_slots"]["used"], ENTRIES + 1, "{d}");
    assert!(d["replica_slots"]["total"].as_u64().unwrap() > 2 * ENTRIES, "{d}");
    let table = c.ok(&["disk", "list"]);
    assert!(table.contains("REPLICAS") && table.contains("65 of "), "{table}");
    let write = |c: &Cluster| {
        c.ok(&["volume", "attach", "v64", "--node", "n1"]);
        let mut nbd = until("the export", || Nbd::connect(&c.nodes[0].nbd, "v64").map_err(|e| e.to_string()));
        nbd.write(4096, &[7; 4096]).unwrap();
        nbd.flush().unwrap();
    };
    write(&c);
    // It is there after a process that was killed, and after one that stopped in order.
    for kill in [true, false] {
        if kill {
            c.nodes[0].kill()
        } else {
            c.nodes[0].stop()
        }
        c.nodes[0].start();
        c.ready();
        all_made(&c, ENTRIES + 1);
        let read = until("the data", || {
            let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v64").map_err(|e| e.to_string())?;
            nbd.read(4096, 4096).map_err(|e| format!("{e:?}"))
        });
        assert_eq!(read, [7; 4096]);
    }
}

#[test]
fn a_create_that_no_table_has_room_for_is_refused_with_the_number() {
    let c = Cluster::prepared(1, |n| {
        n.disk_size = "400MiB".into();
        n.env.push(("HOLDFAST_DISK_REPLICAS".into(), ENTRIES.to_string()));
    });
    (0..ENTRIES).for_each(|i| drop(create(&c, i).unwrap()));
    all_made(&c, ENTRIES);
    let refused = create(&c, ENTRIES).unwrap_err();
    assert!(refused.contains("its replica table is full: 64 replicas of at most 64"), "{refused}");
    assert!(c.ok(&["disk", "list"]).contains("64 of 64"));
    assert_eq!(metric(&c, "disk_replica_entries_free"), 0);
    assert_eq!(c.ok(&["volume", "list", "-o", "json"]).matches("\"v64\"").count(), 0, "nothing of it is left");
    assert!(!c.nodes[0].log().contains("cannot create a replica"), "a replica that cannot be was asked for");
    // One goes: there is room for one.
    c.ok(&["volume", "delete", "v0"]);
    until("an entry to be free", || create(&c, ENTRIES).map(drop));
    all_made(&c, ENTRIES);
}

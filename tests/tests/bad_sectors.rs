//! Sectors that a disk can no longer read, under real daemons. Each costs the block in it and no
//! other, for every size of client reads and for every replica that is filled from that disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, http_get, inspect, until};
use hf_tests::faultfs::{Call, FaultFs, Rule};
use hf_tests::media::{block, find};
use hf_tests::nbd::Nbd;

const BLOCKS: u64 = 1024;
const FILE: &str = "holdfast.disk";

/// Nodes whose disks lie on file systems that can fail.
struct Disks {
    c: Cluster,
    fs: Vec<FaultFs>,
}

impl Disks {
    fn new(nodes: usize) -> Disks {
        let mut fs = Vec::new();
        let c = Cluster::prepared(nodes, |node| {
            let at = FaultFs::mount(&node.dir.join("platters"), &node.dir.join("mnt"));
            node.disk = at.path().to_path_buf();
            node.disk_size = "128MiB".into();
            fs.push(at);
        });
        Disks { c, fs }
    }

    /// A volume, attached on n1, with every block written.
    fn written(&self, name: &str, attrs: &[&str]) {
        self.c.ok(&[&["volume", "create", name, "size=8MiB"][..], attrs].concat());
        self.c.ok(&["volume", "attach", name, "--node", "n1"]);
        let mut nbd = self.connect(name);
        for i in 0..BLOCKS {
            nbd.write(i * 4096, &block(i)).unwrap();
        }
    }

    fn connect(&self, name: &str) -> Nbd {
        until("the export", || Nbd::connect(&self.c.nodes[0].nbd, name).map_err(|e| e.to_string()))
    }

    /// Stopped cleanly, so that everything is in its place; then the places of these blocks on a node cannot be read.
    fn damage(&mut self, bad: &[(usize, u64)]) {
        self.c.nodes.iter_mut().for_each(|n| n.stop());
        for (node, i) in bad {
            let file = self.c.nodes[*node].dir.join("platters").join(FILE);
            let places = find(&file, *i..*i + 1);
            // (Its copy in the journal is not read again: it was destaged.)
            let at = *places.last().expect("the block is on that disk");
            self.fs[*node].unreadable(FILE, at);
        }
        for n in &mut self.c.nodes {
            n.start();
        }
        self.c.ready();
    }

    /// Nodes with a replica in sync.
    fn homes(&self) -> Vec<u64> {
        let v = self.c.volume("v");
        let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
        all.values().filter(|r| r["state"] == "in_sync").filter_map(|r| r["node"].as_u64()).collect()
    }

    /// Waits until both replicas are elsewhere.
    fn emptied(&self, victim: u64) {
        until("the disk to be emptied", || {
            let homes = self.homes();
            let gone = homes.len() == 2 && !homes.contains(&victim);
            if gone { Ok(()) } else { Err(self.c.volume("v")["shards"][0].to_string()) }
        });
    }

    /// A killed node's journal: where its groups in force are on the disk, and where they end.
    fn journal(&self, node: u64) -> (Vec<u64>, u64) {
        let j = inspect(&["journal", self.c.nodes[node as usize - 1].dir.join("platters").to_str().unwrap()]);
        let of = |g: &serde_json::Value, what: &str| g[what].as_u64().unwrap();
        let groups = j["groups"].as_array().unwrap();
        let last = groups.last().expect("something in the journal");
        let at = groups.iter().map(|g| (64 << 10) + of(g, "at")).collect();
        (at, (64 << 10) + of(last, "at") + of(last, "bytes"))
    }

    /// The sum of a metric over all its labels.
    fn metric(&self, node: usize, name: &str) -> u64 {
        let page = http_get(&self.c.nodes[node].http, "/metrics").unwrap_or_default();
        let lines = page.lines().filter(|l| l.starts_with(&format!("{name}{{")));
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        self.c.nodes.iter_mut().for_each(|n| n.kill());
        self.fs.clear();
    }
}

/// Reads all of it in pieces of a mebibyte; blocks that cannot be had are found by halving. None
/// may be anything but itself.
fn lost(nbd: &mut Nbd) -> Vec<u64> {
    let (mut todo, mut lost) = (vec![(0, 256), (256, 256), (512, 256), (768, 256)], Vec::new());
    while let Some((at, n)) = todo.pop() {
        match nbd.read(at * 4096, (n * 4096) as u32) {
            Ok(data) => {
                for i in 0..n {
                    assert!(data[i as usize * 4096..][..4096] == block(at + i), "block {}", at + i);
                }
            }
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::EIO));
                match n {
                    1 => lost.push(at),
                    _ => todo.extend([(at, n / 2), (at + n / 2, n / 2)]),
                }
            }
        }
    }
    lost.sort_unstable();
    lost
}

#[test]
fn bad_sectors_on_every_disk_cost_nothing_as_long_as_each_block_is_whole_somewhere() {
    let mut d = Disks::new(3);
    d.written("v", &["replicas=2", "nodes=n1,n2"]);
    d.damage(&[(0, 5), (0, 300), (0, 301), (1, 9), (1, 302), (1, 600)]);
    until("attach", || d.c.cli(&["volume", "attach", "v", "--node", "n1", "--force"]));
    d.c.ok(&["volume", "set", "v", "read_from=local"]);
    let bad = || (0..2).map(|n| d.metric(n, "holdfast_disk_bad_blocks_total")).collect::<Vec<_>>();
    assert_eq!(lost(&mut d.connect("v")), [] as [u64; 0], "a read over damage on both sides is put together from both");
    // The reading node's lost blocks were written again there, so they can be read. Of the other
    // node's blocks only those were asked for that it still has.
    until("the repairs", || {
        let left = d.fs[0].left_unreadable();
        if left == 0 { Ok(()) } else { Err(format!("{left} sectors of n1 are not written again")) }
    });
    // (A read that takes long is sent again, and counts again.)
    assert!((3..30).contains(&bad()[0]), "counted on the disk they are on, one by one: {:?}", bad());
    // A third replica is filled from these two, each block from the one that has it; then the two
    // are taken away.
    d.damage(&[(0, 700), (1, 710)]);
    until("attach", || d.c.cli(&["volume", "attach", "v", "--node", "n1", "--force"]));
    d.c.ok(&["volume", "set", "v", "replicas=1", "min_replicas=1", "nodes=n3"]);
    until("it to have moved to n3", || {
        let v = d.c.volume("v");
        let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
        let moved = all.len() == 1 && all.values().all(|r| r["node"] == 3 && r["state"] == "in_sync");
        if moved { Ok(()) } else { Err(v["shards"][0].to_string()) }
    });
    assert_eq!(lost(&mut d.connect("v")), [] as [u64; 0]);
    println!(
        "8 sectors on two disks could not be read: no block was lost, and 3 were written again when they were read"
    );
}

#[test]
fn a_volume_of_one_replica_loses_what_cannot_be_read_and_nothing_beside_it_also_when_it_moves() {
    let mut d = Disks::new(3);
    d.written("v", &["replicas=1", "min_replicas=1", "nodes=n1"]);
    d.damage(&[(0, 5), (0, 300), (0, 301)]);
    until("attach", || d.c.cli(&["volume", "attach", "v", "--node", "n1", "--force"]));
    assert_eq!(lost(&mut d.connect("v")), [5, 300, 301]);
    // A read that fails now and then only: asked again, the disk answers.
    for after in [0, 3, 8] {
        d.fs[0].rule(Rule { call: Call::Read, path: FILE, errno: libc::EIO, after, count: 1 });
        assert_eq!(lost(&mut d.connect("v")), [5, 300, 301]);
    }
    d.c.ok(&["volume", "set", "v", "nodes=n2"]);
    until("it to have moved to n2", || {
        let v = d.c.volume("v");
        let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
        let moved = all.len() == 1 && all.values().all(|r| r["node"] == 2 && r["state"] == "in_sync");
        if moved { Ok(()) } else { Err(v["shards"][0].to_string()) }
    });
    let mut nbd = d.connect("v");
    assert_eq!(lost(&mut nbd), [5, 300, 301], "lost there too, and still no other");
    // All that was written is there.
    for i in [5, 300, 301] {
        nbd.write(i * 4096, &block(i)).unwrap();
    }
    assert_eq!(lost(&mut nbd), [] as [u64; 0]);
    println!("3 sectors of a volume's only replica could not be read: 3 blocks lost, and no more after it moved");
}

/// Nobody reads the volume: the scrub that its policy asks for finds what a disk cannot read any
/// more, mends it, and the disk, which has met more than it may, is emptied onto the node that has
/// none of it yet.
#[test]
fn a_scheduled_scrub_finds_a_failing_disk_which_is_emptied() {
    let mut d = Disks::new(4);
    d.written("v", &["replicas=2"]);
    let victim = d.homes()[0];
    let bad: Vec<(usize, u64)> = (0..300).map(|i| (victim as usize - 1, i * 3)).collect();
    d.damage(&bad);
    d.c.ok(&["volume", "set", "v", "scrub_interval=1m"]);
    let report = until("the scheduled scrub", || {
        let v = d.c.volume("v");
        if v["scrubbed"].is_null() { Err(v["scrub"].to_string()) } else { Ok(v["scrubbed"]["report"].clone()) }
    });
    assert_eq!(
        (&report["bad"], &report["repaired"], &report["lost"]),
        (&300.into(), &300.into(), &0.into()),
        "{report}"
    );
    assert!(d.metric(victim as usize - 1, "holdfast_disk_bad_blocks_total") >= 300);
    d.emptied(victim);
    assert!(d.c.ok(&["events"]).contains("disk.failing"));
    until("attach", || d.c.cli(&["volume", "attach", "v", "--node", "n1", "--force"]));
    assert_eq!(lost(&mut d.connect("v")), [] as [u64; 0]);
    println!(
        "300 sectors of a disk could not be read: a scheduled scrub found and mended them, and the disk was emptied"
    );
}

/// Sectors of the journal: what is in force there is this replica's only copy, so a disk that
/// cannot read it is given up, and its replicas are made anew elsewhere. One that is not in force
/// costs nothing.
#[test]
fn an_unreadable_journal_costs_the_disk_only_where_it_is_in_force() {
    let mut d = Disks::new(3);
    d.written("v", &["replicas=2"]);
    let victim = *d.homes().iter().find(|n| **n != 1).unwrap();
    let at = victim as usize - 1;
    let again = |d: &Disks| {
        let mut nbd = d.connect("v");
        (0..16).for_each(|i| nbd.write(i * 4096, &block(i)).unwrap());
    };
    again(&d);
    d.c.nodes[at].kill();
    let (_, end) = d.journal(victim);
    d.fs[at].unreadable(FILE, end + (64 << 10));
    d.c.nodes[at].start();
    until("it to be in sync again", || {
        let homes = d.homes();
        if homes.len() == 2 && homes.contains(&victim) { Ok(()) } else { Err(format!("{homes:?}")) }
    });
    again(&d);
    d.c.nodes[at].kill();
    let (groups, _) = d.journal(victim);
    d.fs[at].unreadable(FILE, groups[groups.len() / 2]);
    d.c.nodes[at].start();
    d.emptied(victim);
    let events = d.c.ok(&["events"]);
    assert!(events.contains("disk.failed") && events.contains("cannot be read"), "{events}");
    assert_eq!(lost(&mut d.connect("v")), [] as [u64; 0]);
    println!(
        "a sector behind the journal's end cost nothing, one in force the disk: its replica was made anew elsewhere"
    );
}

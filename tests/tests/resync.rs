//! Real daemons: a replica that was away catches up under load, with little more traffic than the
//! bytes it missed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, tool_ok, until};
use hf_tests::nbd::Nbd;

fn metric(c: &Cluster, node: usize, name: &str) -> u64 {
    let page = tool_ok("curl", &["-s", &format!("http://{}/metrics", c.nodes[node].http)]);
    let lines = page.lines().filter(|l| l.starts_with(name) && !l.starts_with('#'));
    lines.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn in_sync(c: &Cluster, volume: &str, n: usize) {
    until("replicas to be in sync", || {
        let v = c.volume(volume);
        let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
        let good = all.values().filter(|r| r["state"] == "in_sync").count();
        if good == n && all.len() == n { Ok(()) } else { Err(v["shards"][0].to_string()) }
    });
}

fn block(tag: u64, at: u64) -> Vec<u8> {
    let mut one = Vec::with_capacity(4096);
    while one.len() < 4096 {
        one.extend_from_slice(&tag.to_le_bytes());
        one.extend_from_slice(&at.to_le_bytes());
    }
    one
}

/// What every block must hold: the tag of the last write, 0 for zero.
struct Model {
    tags: Vec<u64>,
    tag: u64,
}

impl Model {
    fn put(&mut self, nbd: &mut Nbd, at: u64, n: u64) {
        self.tag += 1;
        let data: Vec<u8> = (at..at + n).flat_map(|b| block(self.tag, b)).collect();
        nbd.write(at * 4096, &data).unwrap();
        self.tags[at as usize..(at + n) as usize].fill(self.tag);
    }

    fn trim(&mut self, nbd: &mut Nbd, at: u64, n: u64) {
        nbd.trim(at * 4096, n as u32 * 4096).unwrap();
        self.tags[at as usize..(at + n) as usize].fill(0);
    }

    fn check(&self, nbd: &mut Nbd) {
        for (i, tags) in self.tags.chunks(256).enumerate() {
            let data = nbd.read((i as u64) << 20, tags.len() as u32 * 4096).unwrap();
            for (k, (b, tag)) in data.chunks(4096).zip(tags).enumerate() {
                let at = i as u64 * 256 + k as u64;
                let good = if *tag == 0 { b.iter().all(|x| *x == 0) } else { b == block(*tag, at) };
                assert!(good, "block {at} is not what write {tag} left there");
            }
        }
    }
}

/// n1 dies and n3 takes the volume, so that reads there are of its own copy.
fn on_what_was_away(c: &mut Cluster, node: usize) -> Nbd {
    c.ok(&["volume", "set", "v", "read_from=local"]);
    c.nodes[node].kill();
    until("the take-over", || c.cli(&["volume", "attach", "v", "--node", "n3", "--force"]));
    until("the export", || Nbd::connect(&c.nodes[2].nbd, "v").map_err(|e| e.to_string()))
}

#[test]
fn a_returned_replica_catches_up_under_load_and_then_carries_the_volume() {
    const BLOCKS: u64 = 64 << 8; // 64 MiB
    let mut c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=64MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    let mut model = Model { tags: vec![0; BLOCKS as usize], tag: 0 };
    for i in 0..60 {
        model.put(&mut nbd, i * 256, 256);
    }
    for round in 0..3u64 {
        c.nodes[2].kill();
        // The writes it misses: scattered blocks, a large piece, and a trim.
        for i in 0..200 {
            model.put(&mut nbd, (i * 7919 + round * 31) % BLOCKS, 1);
        }
        model.put(&mut nbd, 40 * 256 + 16, 240);
        model.trim(&mut nbd, (50 + round) * 256, 256);
        let missed = 200 + 240 + 256;
        let before = metric(&c, 0, "holdfast_volume_synced_blocks_total");
        c.nodes[2].start();
        // Live writes go on while it catches up.
        let mut live = 0;
        loop {
            live += 1;
            model.put(&mut nbd, (live * 104_729) % (30 * 256), 1);
            let v = c.volume("v");
            if v["shards"][0]["replicas"].as_object().unwrap().values().all(|r| r["state"] == "in_sync") {
                break;
            }
            assert!(live < 5_000, "it does not come back in: {v}");
        }
        let copied = metric(&c, 0, "holdfast_volume_synced_blocks_total") - before;
        println!("round {round}: {missed} blocks missed, {copied} copied, {live} live writes meanwhile");
        assert!(copied as f64 <= 1.1 * (missed + live) as f64, "{copied} blocks copied for {missed} missed");
    }
    // The replica that was away carries the volume alone, so that reads are of its own copy.
    drop(nbd);
    let mut nbd = on_what_was_away(&mut c, 0);
    model.check(&mut nbd);
    // And the one that was killed last comes back too.
    c.nodes[0].start();
    in_sync(&c, "v", 3);
    model.check(&mut nbd);
}

fn disk_of_n3(c: &Cluster) -> String {
    let s = c.status().unwrap();
    let disk = s["disks"].as_object().unwrap().values().find(|d| d["node"] == 3).unwrap();
    disk["id"].to_string()
}

/// All bytes between these nodes' coordinators and a disk, both ways.
fn link_bytes(c: &Cluster, disk: &str, nodes: &[usize]) -> u64 {
    let ways = ["sent", "received"].map(|way| format!("holdfast_link_{way}_bytes_total{{disk=\"{disk}\"}}"));
    nodes.iter().flat_map(|node| ways.iter().map(|w| metric(c, *node, w))).sum()
}

/// Dirties one block of every chunk (the worst case for the overhead per block), then random
/// blocks, then large pieces. Compares all bytes between the coordinator and the returning disk,
/// both ways, with the dirtied bytes.
#[test]
fn the_traffic_of_a_resync_is_little_more_than_what_was_dirtied() {
    const CHUNKS: u64 = 96;
    let mut c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=96MiB", "rebuild_impact=0%"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    let mut model = Model { tags: vec![0; CHUNKS as usize * 256], tag: 0 };
    for i in 0..CHUNKS {
        model.put(&mut nbd, i * 256, 256);
    }
    let away = disk_of_n3(&c);
    let sparse = |shift: u64| (0..CHUNKS).map(|i| (i * 256 + (i * 37 + shift) % 256, 1)).collect();
    let pieces: [(&str, Vec<(u64, u64)>); 4] = [
        ("one block of every chunk", sparse(0)),
        ("blocks all over the place", (0..400).map(|i| (i * 7919 % (CHUNKS * 256), 1)).collect()),
        ("one block of every chunk, by another coordinator", sparse(100)),
        ("large pieces", (0..12).map(|i| (i * 8 * 256 + 100, 256 - 100)).collect()),
    ];
    let mut node = 0;
    for (what, pieces) in pieces {
        let moves = what.contains("another coordinator");
        if moves {
            // Much was written just before the drop: only who knows how far the disk's journal was
            // then need not look at all of it.
            (0..CHUNKS).for_each(|i| model.put(&mut nbd, i * 256, 256));
        }
        c.nodes[2].kill();
        until("the drop", || {
            let v = c.volume("v");
            if v["shards"][0]["replicas"].to_string().contains("out") { Ok(()) } else { Err(v.to_string()) }
        });
        for (at, n) in &pieces {
            model.put(&mut nbd, *at, *n);
        }
        let dirtied: u64 = pieces.iter().map(|(_, n)| n * 4096).sum();
        if moves {
            drop(nbd);
            c.ok(&["volume", "detach", "v"]);
            node = 1;
            c.ok(&["volume", "attach", "v", "--node", "n2"]);
            nbd = until("the export", || Nbd::connect(&c.nodes[node].nbd, "v").map_err(|e| e.to_string()));
        }
        let before = link_bytes(&c, &away, &[node]);
        c.nodes[2].start();
        in_sync(&c, "v", 3);
        let traffic = link_bytes(&c, &away, &[node]) - before;
        let ratio = traffic as f64 / dirtied as f64;
        println!("resync of {what}: {dirtied} bytes dirtied, {traffic} bytes on the wire: {ratio:.3}");
        assert!(ratio <= 1.1, "{what}: {traffic} bytes for {dirtied}");
    }
    // Now it holds everything.
    drop(nbd);
    let mut nbd = on_what_was_away(&mut c, node);
    model.check(&mut nbd);
}

/// A resync that is interrupted, by the death of its target and by a change of the coordinator,
/// continues where it was: nothing is copied twice.
#[test]
fn a_resync_that_is_interrupted_goes_on_where_it_was() {
    const MIB: u64 = 48;
    let mut c = Cluster::new(3);
    // With clients about, copying is slow: there is time to interrupt it.
    c.ok(&["volume", "create", "v", "size=48MiB", "rebuild_impact=0%"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    let mut model = Model { tags: vec![0; MIB as usize * 256], tag: 0 };
    (0..MIB).for_each(|i| model.put(&mut nbd, i * 256, 256));
    let away = disk_of_n3(&c);
    c.nodes[2].kill();
    (0..MIB).for_each(|i| model.put(&mut nbd, i * 256, 256));
    let dirtied = MIB << 20;
    let before = link_bytes(&c, &away, &[0, 1]);
    c.nodes[2].start();
    // A user reads all the while (which costs that link nothing), until the volume goes.
    let mut user = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    let user = std::thread::spawn(move || (0..).take_while(|i| user.read((i % 96) << 19, 4096).is_ok()).count());
    for part in 1..=3 {
        until("a part to be copied", || {
            let done = link_bytes(&c, &away, &[0, 1]) - before;
            if done >= dirtied * part / 4 { Ok(()) } else { Err(format!("{done} of {dirtied}")) }
        });
        let v = c.volume("v");
        let out = v["shards"][0]["replicas"].as_object().unwrap().values().filter(|r| r["state"] != "in_sync").count();
        assert_eq!(out, 1, "it was through before it was interrupted: {}", v["shards"][0]);
        if part < 3 {
            c.nodes[2].kill();
            c.nodes[2].start();
        } else {
            c.ok(&["volume", "detach", "v"]);
            c.ok(&["volume", "attach", "v", "--node", "n2"]);
            nbd = until("the export", || Nbd::connect(&c.nodes[1].nbd, "v").map_err(|e| e.to_string()));
        }
    }
    assert!(user.join().unwrap() > 0);
    in_sync(&c, "v", 3);
    let traffic = link_bytes(&c, &away, &[0, 1]) - before;
    let ratio = traffic as f64 / dirtied as f64;
    println!(
        "resync of everything, interrupted three times: {dirtied} bytes dirtied, {traffic} on the wire: {ratio:.3}"
    );
    assert!(ratio <= 1.1, "{traffic} bytes for {dirtied}");
    drop(nbd);
    let mut nbd = on_what_was_away(&mut c, 1);
    model.check(&mut nbd);
}

/// Six volumes, attached on two nodes, have a replica on a node that returns. At most two of them
/// are copied to its disk at once, whichever node coordinates them, and in the end all.
#[test]
fn the_return_of_a_node_is_no_storm() {
    const VOLUMES: usize = 6;
    let mut c = Cluster::new(3);
    let name = |i: usize| format!("v{i}");
    let mut users: Vec<Nbd> = Vec::new();
    for i in 0..VOLUMES {
        c.ok(&["volume", "create", &name(i), "size=64MiB", "rebuild_impact=0%"]);
        c.ok(&["volume", "attach", &name(i), "--node", ["n1", "n2"][i % 2]]);
        users.push(Nbd::connect(&c.nodes[i % 2].nbd, &name(i)).unwrap());
    }
    c.nodes[2].kill();
    for nbd in &mut users {
        for at in 0..40 {
            nbd.write(at << 20, &[at as u8 + 1; 1 << 20]).unwrap();
        }
    }
    c.nodes[2].start();
    let mut most = 0;
    until("all to be back in sync", || {
        let (syncs, s) = (c.syncs()?, c.status()?);
        // As the leader counts: begun, and not over by the record (nodes tell twice a second).
        let goes_on = |x: &&serde_json::Value| {
            let v = s["volumes"].as_object().unwrap().values().find(|v| v["name"] == x["volume"]).unwrap();
            let shard = &v["shards"][x["shard"].as_u64().unwrap() as usize];
            x["stage"] != "proposed" && shard["replicas"][x["replica"].to_string()]["state"]["syncing"].is_object()
        };
        let at_once = syncs.iter().filter(goes_on).count();
        most = most.max(at_once);
        assert!(at_once <= 2, "{at_once} syncs to one disk: {syncs:?}");
        let left = s["volumes"].as_object().unwrap().values().flat_map(|v| {
            v["shards"][0]["replicas"].as_object().unwrap().values().filter(|r| r["state"] != "in_sync").cloned()
        });
        let left = left.count();
        if left == 0 { Ok(()) } else { Err(format!("{left} replicas are out: {syncs:?}")) }
    });
    println!("{VOLUMES} replicas of one disk caught up, {most} at once at most");
    c.nodes[0].kill();
    c.nodes[1].kill();
    drop(users);
}

//! Real daemons, real clients: nbdinfo, nbdcopy, qemu-img, qemu-io, fio, on TCP and Unix sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, tool_ok, until};
use hf_tests::nbd::Nbd;
use std::time::Instant;

fn fio(uri: &str, extra: &[&str]) {
    let uri = format!("--uri={uri}");
    let common = [
        "--name=t",
        "--ioengine=nbd",
        &uri,
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--size=32M",
        "--output-format=terse",
    ];
    tool_ok("fio", &[&common[..], extra].concat());
}

#[test]
fn every_client_reads_back_what_it_wrote() {
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=128MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let (tcp, unix) = (c.uri(0, "v"), c.unix_uri(0, "v"));
    let info = tool_ok("nbdinfo", &["--json", &tcp]);
    for word in [
        "\"export-size\": 134217728",
        "\"can_multi_conn\": true",
        "\"can_fua\": true",
        "base:allocation",
        "\"structured\": true",
    ] {
        assert!(info.contains(word), "{word}: {info}");
    }
    assert!(tool_ok("nbdinfo", &["--list", &format!("nbd://{}", c.nodes[0].nbd)]).contains("export=\"v\""));
    // A fresh volume is one hole.
    assert!(tool_ok("nbdinfo", &["--map", "--totals", &unix]).contains("100.0%   3 hole,zero"));

    let dir = c.dir.path();
    let path = |n: &str| dir.join(n).display().to_string();
    let random: Vec<u8> = (0..24u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(path("a.img"), &random).unwrap();
    tool_ok("nbdcopy", &[&path("a.img"), &unix]);
    tool_ok("nbdcopy", &[&tcp, &path("b.img")]);
    let back = std::fs::read(path("b.img")).unwrap();
    assert!(back[..random.len()] == random[..] && back[random.len()..].iter().all(|b| *b == 0));

    tool_ok("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &path("b.img"), &tcp]);
    tool_ok("qemu-img", &["compare", "-f", "raw", "-F", "raw", &path("b.img"), &unix]);
    let map = tool_ok("qemu-img", &["map", "-f", "raw", "--output=json", &tcp]);
    assert!(map.contains("\"data\": false") && map.contains("\"data\": true"), "{map}");

    // Patterns at odd places: partial blocks, zeroes, discards, FUA, flush, beyond a chunk's border.
    let script = [
        "write -P 0x11 0 1M",
        "write -P 0x22 1000k 64k",
        "write -P 0x33 512 1024",
        "write -z 8k 12k",
        "discard 64k 128k",
        "write -f -P 0x44 1044480 8192",
        "flush",
        "read -P 0x33 512 1024",
        "read -P 0x11 1536 6656",
        "read -P 0 8k 12k",
        "read -P 0 64k 128k",
        "read -P 0x44 1044480 8192",
        "read -P 0x22 1000k 20k",
    ];
    let mut args = vec!["-f", "raw"];
    for s in &script {
        args.extend(["-c", s]);
    }
    args.push(&tcp);
    let out = tool_ok("qemu-io", &args);
    assert!(!out.contains("failed") && !out.contains("Pattern"), "{out}");

    fio(&tcp, &["--rw=randwrite", "--bs=4k", "--iodepth=16"]);
    fio(&tcp, &["--rw=write", "--bs=1M", "--iodepth=4", "--fsync=8"]);
    fio(&unix, &["--rw=randtrimwrite", "--bs=64k", "--iodepth=1"]);
    // Sectors of 512 bytes, overlapping blocks and chunks: merged under the range lock.
    c.ok(&["volume", "create", "s", "size=64MiB", "block_size=512"]);
    c.ok(&["volume", "attach", "s", "--node", "n2"]);
    fio(&c.unix_uri(1, "s"), &["--rw=randwrite", "--bsrange=512-64k", "--blockalign=512", "--iodepth=8"]);
    let mut nbd = Nbd::connect(&c.nodes[1].nbd, "s").unwrap();
    let before = nbd.read(0, 8192).unwrap();
    nbd.write(4001, b"odd bytes across a block border, and an odd length: these stay whole..........................................................").unwrap();
    let after = nbd.read(0, 8192).unwrap();
    assert_eq!((&after[..4001], &after[4130..]), (&before[..4001], &before[4130..]));
    assert_eq!(&after[4001..4010], b"odd bytes");
}

#[test]
fn a_volume_works_without_a_local_replica_grows_and_survives_restarts() {
    let mut c = Cluster::new(3);
    c.ok(&["volume", "create", "far", "size=64MiB", "replicas=1", "nodes=n2"]);
    let said = c.ok(&["volume", "attach", "far", "--node", "n1"]);
    assert!(said.contains("attached on node n1"), "{said}");
    fio(&c.uri(0, "far"), &["--rw=randrw", "--bs=4k", "--iodepth=8"]);
    // Grown while attached: new clients see the new size, and the new end is usable.
    c.ok(&["volume", "resize", "far", "96MiB"]);
    until("the export to grow", || {
        let s = tool_ok("nbdinfo", &["--size", &c.uri(0, "far")]);
        if s.trim() == (96 << 20).to_string() { Ok(()) } else { Err(s) }
    });
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "far").unwrap();
    let block: Vec<u8> = (0..4096).map(|i| (i % 251) as u8).collect();
    nbd.write((96 << 20) - 4096, &block).unwrap();
    assert!(c.cli(&["volume", "resize", "far", "64MiB"]).unwrap_err().contains("only grow"));

    // Clean restart of everything, then a crash of everything: the volume comes back by itself, under a new term.
    for kill in [false, true] {
        for n in &mut c.nodes {
            if kill { n.kill() } else { n.stop() }
        }
        c.nodes.iter_mut().for_each(|n| n.start());
        c.ready();
        let mut nbd =
            until("the export to come back", || Nbd::connect(&c.nodes[0].nbd, "far").map_err(|e| e.to_string()));
        assert_eq!(nbd.read((96 << 20) - 4096, 4096).unwrap(), block, "kill: {kill}");
    }
    assert!(c.volume("far")["term"].as_u64().unwrap() >= 3);
    c.ok(&["volume", "detach", "far"]);
    assert!(Nbd::connect(&c.nodes[0].nbd, "far").is_err());
    c.ok(&["volume", "delete", "far"]);
    until("tombstones to go", || {
        let s = c.status()?;
        if s["tombstones"].as_object().unwrap().is_empty() { Ok(()) } else { Err(s["tombstones"].to_string()) }
    });
}

#[test]
fn the_thread_backend_does_the_same_work() {
    let c = Cluster::with(1, &["--disk-backend", "threads"]);
    c.ok(&["volume", "create", "v", "size=64MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    fio(&c.uri(0, "v"), &["--rw=randwrite", "--bs=4k", "--iodepth=16"]);
    assert_eq!(c.status().unwrap()["disks_here"][0]["backend"], "threads");
}

#[test]
fn policy_changes_apply_online_and_metrics_tell() {
    let c = Cluster::new(1);
    c.ok(&["volume", "create", "v", "size=64MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    nbd.write(0, &[7; 8192]).unwrap();
    c.ok(&["volume", "set", "v", "read_only=true"]);
    until("writes to be refused", || match nbd.write(0, &[8; 4096]) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    c.ok(&["volume", "set", "v", "read_only=false"]);
    until("writes to be taken", || nbd.write(0, &[9; 4096]).map_err(|e| e.to_string()));
    nbd.trim(0, 4096).unwrap();
    assert_eq!(nbd.read(0, 4096).unwrap(), vec![0; 4096]);
    nbd.zero(100, 50).unwrap();
    nbd.flush().unwrap();
    let page = tool_ok("curl", &["-s", &format!("http://{}/metrics", c.nodes[0].http)]);
    for m in [
        "holdfast_volume_writes_total{volume=\"v\",shard=\"0\"}",
        "holdfast_disk_journal_groups_total",
        "holdfast_raft_leader 1",
    ] {
        assert!(page.contains(m), "{m}:\n{page}");
    }
    assert_eq!(tool_ok("curl", &["-s", &format!("http://{}/healthz", c.nodes[0].http)]), "ok\n");
    assert!(c.ok(&["events"]).contains("volume.attached"));
}

#[test]
fn the_loss_of_the_leader_disturbs_no_healthy_volume() {
    let mut c = Cluster::new(3);
    let leader = c.leader();
    let (a, b) = ((leader + 1) % 3, (leader + 2) % 3);
    let nodes = format!("nodes={},{}", c.nodes[a].name, c.nodes[b].name);
    c.ok(&["volume", "create", "v", "size=64MiB", "replicas=2", &nodes]);
    c.ok(&["volume", "attach", "v", "--node", &c.nodes[a].name]);
    let mut nbd = Nbd::connect(&c.nodes[a].nbd, "v").unwrap();
    nbd.write(0, &[1; 4096]).unwrap();
    c.nodes[leader].kill();
    let gone = Instant::now();
    // Every write and read goes on, without an error, while nobody leads.
    for i in 0..400u64 {
        nbd.write(i * 4096, &[i as u8; 4096]).unwrap();
        assert_eq!(nbd.read(i * 4096, 4096).unwrap(), vec![i as u8; 4096]);
    }
    let v = c.volume("v");
    assert_eq!(v["term"], 1);
    // A new leader within seconds takes changes again.
    until("a change to be taken", || c.cli(&["volume", "create", "w", "size=8MiB", "replicas=1", &nodes]));
    let ms = gone.elapsed().as_millis();
    println!("the metadata leader killed: a change was taken after {ms} ms");
    // Seconds, also on a machine that does something else.
    assert!(ms < 20_000, "{ms} ms");
}

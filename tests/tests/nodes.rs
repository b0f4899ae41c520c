//! Real daemons in less usual shapes: raw block devices, followers outside the Raft group, systemd,
//! `holdfast dev`, volumes of several shards, requests at the bound, many idle connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, LoopDevice, binary, descriptors, free_ports, run, tool_ok, until};
use hf_tests::http;
use hf_tests::nbd::Nbd;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed) >> 29) as u8).collect()
}

#[test]
fn a_raw_block_device_is_a_disk() {
    let outside = tempfile::tempdir().unwrap();
    let dev = LoopDevice::new(&outside.path().join("raw.img"), 512 << 20);
    // A device that something else lives on is refused, not overwritten.
    tool_ok("mkfs.ext4", &["-q", "-F", &dev.0]);
    let used = Cluster::new(1);
    let e = used.cli(&["disk", "add", &dev.0]).unwrap_err();
    assert!(e.contains("holds an ext2, ext3 or ext4") && e.contains("wipefs -a"), "{e}");
    assert!(tool_ok("blkid", &["-p", "-o", "value", "-s", "TYPE", &dev.0]).contains("ext4"), "it was overwritten");
    drop(used);
    tool_ok("wipefs", &["-q", "-a", &dev.0]);

    let mut c = Cluster::prepared(1, |n| {
        n.disk = dev.0.clone().into();
        n.disk_size = String::new();
    });
    until("the disk to be in service", || {
        let disks = c.status()?["disks_here"].clone();
        if disks[0]["backend"] == "io_uring" { Ok(()) } else { Err(disks.to_string()) }
    });
    c.ok(&["volume", "create", "v", "size=256MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    let data = pattern(1, 3 << 20);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    nbd.write(12_345, &data).unwrap();
    for (round, kill) in [true, false].into_iter().enumerate() {
        if kill {
            c.nodes[0].kill()
        } else {
            c.nodes[0].stop()
        }
        c.nodes[0].start();
        let mut nbd = until("the export", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
        assert!(nbd.read(12_345, data.len() as u32).unwrap() == data, "round {round}");
        nbd.write(200 << 20, &data).unwrap();
    }
    // The device is held: nobody else formats it meanwhile.
    let taken = Command::new("mkfs.ext4").args(["-q", &dev.0]).stdin(Stdio::null()).output().unwrap();
    assert!(!taken.status.success() && String::from_utf8_lossy(&taken.stderr).contains("in use"), "{taken:?}");
}

#[test]
fn nodes_outside_the_raft_group_follow_and_catch_up_after_a_gap() {
    let mut c = Cluster::new(5);
    let s = c.status().unwrap();
    let voters: Vec<u64> = s["voters"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
    assert_eq!(voters.len(), 3, "three voters of five nodes");
    let name = |i: usize| format!("n{}", i + 1);
    let id_of = |n: &str| {
        let nodes = s["nodes"].as_object().unwrap();
        nodes.iter().find(|(_, v)| v["name"] == n).unwrap().0.parse::<u64>().unwrap()
    };
    let outside = (0..5).find(|i| !voters.contains(&id_of(&name(*i)))).unwrap();
    // What it knows itself, whatever the leader would say, and what the leader has on record.
    let recorded = |v: &Value| -> Value { ["id", "name", "epoch", "revision", "spec"].map(|k| v[k].clone()).into() };
    let same = |c: &Cluster| {
        until("the follower to know the same", || {
            let here = http::get(&c.nodes[outside].http, "/v1/volumes?consistency=local")?.good()?;
            let a: Vec<Value> = here["items"].as_array().unwrap().iter().map(recorded).collect();
            let b: Vec<Value> = c.items(&["volume", "list"])?.iter().map(recorded).collect();
            if a == b { Ok(Value::from(a).to_string()) } else { Err(format!("{a:?}\nbut {b:?}")) }
        })
    };
    // A volume on a node that only follows is made, attached and served there.
    c.ok(&["volume", "create", "here", "size=64MiB", "replicas=1", &format!("nodes={}", name(outside))]);
    c.ok(&["volume", "attach", "here", "--node", &name(outside)]);
    let mut nbd = until("the export", || Nbd::connect(&c.nodes[outside].nbd, "here").map_err(|e| e.to_string()));
    nbd.write(0, &[5; 8192]).unwrap();
    // It misses creations, changes and deletions while it is away (a kill: it gets no chance to say goodbye).
    for i in 0..4 {
        c.ok(&[
            "volume",
            "create",
            &format!("g{i}"),
            "size=16MiB",
            "replicas=1",
            &format!("nodes={}", name(1 - outside.min(1))),
        ]);
    }
    same(&c);
    c.nodes[outside].kill();
    c.ok(&["volume", "delete", "g0"]);
    c.ok(&["volume", "set", "g1", "label.x=y"]);
    c.ok(&["volume", "create", "g5", "size=16MiB", "replicas=1", &format!("nodes={}", name(1 - outside.min(1)))]);
    c.nodes[outside].start();
    let known = same(&c);
    assert!(!known.contains("\"g0\"") && known.contains("\"g5\"") && known.contains("label.x"), "{known}");
    let mut nbd = until("the export", || Nbd::connect(&c.nodes[outside].nbd, "here").map_err(|e| e.to_string()));
    assert_eq!(nbd.read(0, 8192).unwrap(), vec![5; 8192]);
    // Commands sent to it reach the leader.
    run(&["--endpoint", &c.nodes[outside].http, "volume", "delete", "g5"]).unwrap();
    assert!(!same(&c).contains("\"g5\""));
}

#[test]
fn systemd_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut c = Cluster::prepared(1, |n| n.env.push(("NOTIFY_SOCKET".into(), path.display().to_string())));
    let said = || {
        let mut b = [0u8; 256];
        let n = socket.recv(&mut b).unwrap();
        String::from_utf8_lossy(&b[..n]).into_owned()
    };
    assert!(said().starts_with("READY=1"));
    c.nodes[0].stop();
    assert!(said().starts_with("STOPPING=1"));
}

#[test]
fn dev_brings_a_cluster_up_and_ctrl_c_stops_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    // Four ports a node, ten apart.
    let base = free_ports(24);
    let start = || {
        Command::new(binary())
            .args(["dev", "--nodes", "3", "--disk-size", "256MiB", "--port", &base.to_string(), "--dir"])
            .arg(dir.path().join("d"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let http = format!("127.0.0.1:{}", base + 3);
    for round in 0..2 {
        let mut dev = start();
        let mut lines = BufReader::new(dev.stdout.take().unwrap()).lines();
        // It says what to do next; then what it says works.
        let next = lines.find(|l| l.as_ref().is_ok_and(|l| l.contains("volume create"))).unwrap().unwrap();
        assert!(next.contains("holdfast"), "{next}");
        let uri = format!("nbd://127.0.0.1:{}/v", base + 2);
        if round == 0 {
            run(&["--endpoint", &http, "volume", "create", "v", "size=32MiB"]).unwrap();
            run(&["--endpoint", &http, "volume", "attach", "v", "--node", "n1"]).unwrap();
            tool_ok("qemu-io", &["-f", "raw", "-c", "write -P 0x5a 0 1M", &uri]);
        } else {
            until("the volume to be back", || hf_tests::cluster::tool("nbdinfo", &["--size", &uri]));
            let out = tool_ok("qemu-io", &["-f", "raw", "-c", "read -P 0x5a 0 1M", &uri]);
            assert!(!out.contains("failed"), "{out}");
        }
        // SAFETY: a child of ours that has not been waited for.
        unsafe { libc::kill(dev.id() as i32, libc::SIGINT) };
        assert!(dev.wait().unwrap().success());
        for i in 0..3 {
            let gone = std::net::TcpListener::bind(("127.0.0.1", base + i * 10));
            assert!(gone.is_ok(), "node {} still listens", i + 1);
        }
    }
}

#[test]
fn a_volume_grows_over_a_shard_border_while_in_use() {
    let mut c = Cluster::prepared(1, |n| n.disk_size = "8GiB".into());
    c.ok(&["volume", "create", "v", "size=63GiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    let data = pattern(3, 1 << 20);
    nbd.write((63 << 30) - data.len() as u64, &data).unwrap();
    c.ok(&["volume", "resize", "v", "130GiB"]);
    let mut nbd = until("the export to grow", || match Nbd::connect(&c.nodes[0].nbd, "v") {
        Ok(n) if n.size == 130 << 30 => Ok(n),
        Ok(n) => Err(n.size.to_string()),
        Err(e) => Err(e.to_string()),
    });
    // Across both borders, and the new end; a trim across one.
    let borders = [(64u64 << 30) - 300_000, (128u64 << 30) - 4_096, (130u64 << 30) - data.len() as u64];
    for at in borders {
        until("the new shards to serve", || nbd.write(at, &data).map_err(|e| e.to_string()));
    }
    nbd.trim((64 << 30) - 4096, 8192).unwrap();
    nbd.flush().unwrap();
    let check = |nbd: &mut Nbd| {
        assert!(nbd.read((63 << 30) - data.len() as u64, 1 << 20).unwrap() == data);
        for at in &borders[1..] {
            assert!(nbd.read(*at, 1 << 20).unwrap() == data, "at {at}");
        }
        let mut cut = data.clone();
        let hole = (300_000 - 4096) as usize;
        cut[hole..hole + 8192].fill(0);
        assert!(nbd.read(borders[0], 1 << 20).unwrap() == cut);
    };
    check(&mut nbd);
    c.nodes[0].kill();
    c.nodes[0].start();
    let mut nbd = until("the export to come back", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
    assert_eq!(nbd.size, 130 << 30);
    check(&mut nbd);
}

#[test]
fn requests_up_to_the_bound_work_and_beyond_it_are_refused() {
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=128MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    let data = pattern(9, 32 << 20);
    nbd.write(777, &data).unwrap();
    assert!(nbd.read(777, 32 << 20).unwrap() == data);
    nbd.zero(1 << 20, 32 << 20).unwrap();
    assert!(nbd.read(1 << 20, 32 << 20).unwrap().iter().all(|b| *b == 0));
    // A read beyond the bound is an error; a write beyond it ends the connection, since its bytes cannot be taken.
    assert!(nbd.read(0, (32 << 20) + 1).is_err());
    assert!(nbd.write(0, &vec![1; (32 << 20) + 1]).is_err());
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    assert!(nbd.read(777, 4096).unwrap() == data[..4096]);
}

#[test]
fn there_is_room_for_so_many_connections_and_no_more() {
    let mut c = Cluster::prepared(1, |n| n.extra = vec!["--nbd-connections".into(), "20".into()]);
    c.ok(&["volume", "create", "v", "size=16MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    let connect = || Nbd::connect(&c.nodes[0].nbd, "v");
    let mut held: Vec<Nbd> = (0..20).map(|_| until("a seat", || connect().map_err(|e| e.to_string()))).collect();
    for _ in 0..5 {
        assert!(connect().is_err(), "one more than there may be");
    }
    // Connected clients are served, and a client that leaves makes room.
    for (i, nbd) in held.iter_mut().enumerate() {
        nbd.write(i as u64 * 4096, &[i as u8 + 1; 4096]).unwrap();
    }
    let page = hf_tests::cluster::http_get(&c.nodes[0].http, "/metrics").unwrap();
    let refused = page.lines().find_map(|l| l.strip_prefix("holdfast_nbd_refused_total ")).unwrap().to_string();
    assert!(refused.parse::<u64>().unwrap() >= 5, "{refused}");
    held.truncate(10);
    let mut more = until("the room of those who left", || connect().map_err(|e| e.to_string()));
    assert_eq!(more.read(19 * 4096, 4096).unwrap(), vec![20; 4096]);
    c.nodes[0].stop();
}

/// The configured bounds are in force: RocksDB logs the options it was given, and the disk reports
/// the memory it uses.
#[test]
fn memory_is_what_the_configuration_allows() {
    let c = Cluster::prepared(1, |n| {
        let flags = ["--write-memory", "4MiB", "--page-memory", "1MiB", "--metadata-memory", "8MiB"];
        n.extra = flags.map(String::from).to_vec();
    });
    c.ok(&["volume", "create", "v", "size=240MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    let metric = |name: &str| {
        let page = hf_tests::cluster::http_get(&c.nodes[0].http, "/metrics").unwrap();
        let line = page.lines().find(|l| l.starts_with(name)).unwrap().to_string();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let (mut overlay, mut pages) = (0, 0);
    for i in 0..6000u64 {
        nbd.write(i * 37 % 240 * 256 * 4096 + i / 240 * 4096, &[i as u8; 4096]).unwrap();
        if i % 20 == 0 {
            overlay = overlay.max(metric("holdfast_disk_overlay_bytes"));
            pages = pages.max(metric("holdfast_disk_cached_pages"));
        }
    }
    assert!(overlay > 1 << 19 && overlay <= (4 << 20) + 4096, "{overlay} bytes wait for their place");
    // 1 MiB of 6 KiB each, of 240 that were touched.
    assert!(pages > 100 && pages <= 170, "{pages} chunk pages");
    let log = std::fs::read_to_string(c.nodes[0].data_dir.join("meta/LOG")).unwrap();
    assert!(log.contains("Options.write_buffer_size: 2097152"), "RocksDB's memtables are not bounded as asked");
    assert!(log.contains("capacity : 4194304"), "RocksDB's cache is not bounded as asked");
}

#[test]
fn thousands_of_idle_connections_cost_little() {
    let n: usize = 3000.min(descriptors().saturating_sub(200));
    let c = Cluster::new(1);
    c.ok(&["volume", "create", "v", "size=64MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    let pid = c.nodes[0].pid().unwrap();
    let rss = || {
        let s = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = s.lines().find(|l| l.starts_with("VmRSS:")).unwrap().to_string();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let mut one = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    one.write(0, &[1; 4096]).unwrap();
    let before = rss();
    let idle: Vec<Nbd> = (0..n).map(|_| Nbd::connect(&c.nodes[0].nbd, "v").unwrap()).collect();
    let each = rss().saturating_sub(before) as f64 / n as f64;
    println!("{n} idle NBD connections: {each:.1} KiB of the daemon's memory each");
    assert!(each < 32.0, "{each} KiB each");
    one.write(4096, &[2; 4096]).unwrap();
    assert_eq!(one.read(4096, 4096).unwrap(), vec![2; 4096]);
    // All of them still work, and leave nothing behind.
    let mut last = idle.into_iter().next_back().unwrap();
    assert_eq!(last.read(0, 4096).unwrap(), vec![1; 4096]);
    until("the connections to go", || {
        let page = tool_ok("curl", &["-s", &format!("http://{}/metrics", c.nodes[0].http)]);
        let line = page.lines().find(|l| l.starts_with("holdfast_nbd_connections")).unwrap_or("").to_string();
        let left: u64 = line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).unwrap_or(u64::MAX);
        if left <= 2 { Ok(()) } else { Err(line) }
    });
}

fn in_sync(c: &Cluster, volume: &str) -> usize {
    let v = c.volume(volume);
    v["shards"][0]["replicas"].as_object().unwrap().values().filter(|r| r["state"] == "in_sync").count()
}

/// Writes 1 MiB pieces until the volume refuses; how many were taken.
fn fill(nbd: &mut Nbd, from: u64, most: u64) -> (u64, Option<i32>) {
    for i in from..most {
        if let Err(e) = nbd.write(i << 20, &pattern(i, 1 << 20)) {
            return (i, e.raw_os_error());
        }
    }
    (most, None)
}

/// Small disks have few chunk entries and much more space: requests of every size up to the largest
/// that is advertised go.
#[test]
fn an_empty_small_disk_takes_requests_of_every_size() {
    let c = Cluster::prepared(2, |n| n.disk_size = "100MiB".into());
    for (i, mib) in [16u64, 32, 1, 8, 31].into_iter().enumerate() {
        let name = format!("v{i}");
        until("room for another volume", || {
            c.cli(&["volume", "create", &name, "size=80MiB", "replicas=2", "min_replicas=2"])
        });
        c.ok(&["volume", "attach", &name, "--node", "n1"]);
        let mut nbd = Nbd::connect(&c.nodes[0].nbd, &name).unwrap();
        // The first volume meets empty disks, those after it the space of the one before, which
        // comes back in the background.
        for at in (0..80 - mib + 1).step_by(mib as usize) {
            let data = pattern(at, (mib as usize) << 20);
            if i == 0 {
                nbd.write(at << 20, &data).unwrap_or_else(|e| panic!("{mib} MiB at {at} MiB of an empty disk: {e}"));
            }
            until("a request for which there is room", || nbd.write(at << 20, &data).map_err(|e| e.to_string()));
            assert!(nbd.read(at << 20, (mib as u32) << 20).unwrap() == data, "{mib} MiB at {at} MiB");
        }
        assert_eq!(in_sync(&c, &name), 2, "{mib} MiB: nobody is dropped");
        c.ok(&["volume", "detach", &name]);
        c.ok(&["volume", "delete", &name]);
    }
}

#[test]
fn full_disks_refuse_alike_and_give_way_when_space_returns() {
    let c = Cluster::prepared(3, |n| n.disk_size = if n.name == "n3" { "128MiB" } else { "256MiB" }.into());
    c.ok(&["volume", "create", "v", "size=512MiB", "replicas=2", "min_replicas=2", "nodes=n1,n2"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    let (full, errno) = fill(&mut nbd, 0, 512);
    assert_eq!(errno, Some(libc::ENOSPC), "after {full} MiB");
    assert!(full > 150, "only {full} MiB of two disks of 256 MiB were used");
    // No replica was dropped, the written data is there, and writes that need no new space succeed.
    assert_eq!(in_sync(&c, "v"), 2);
    assert!(nbd.read(0, 1 << 20).unwrap() == pattern(0, 1 << 20));
    nbd.write(5 << 20, &pattern(77, 1 << 20)).unwrap();
    nbd.write((7 << 20) + 4096, &pattern(78, 4096)).unwrap();
    assert_eq!(nbd.write((full + 1) << 20, &pattern(1, 1 << 20)).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    nbd.trim(16 << 20, 32 << 20).unwrap();
    until("trimmed space to be usable", || nbd.write(full << 20, &pattern(9, 1 << 20)).map_err(|e| e.to_string()));
    assert!(nbd.read(5 << 20, 1 << 20).unwrap() == pattern(77, 1 << 20));
    assert!(nbd.read(16 << 20, 32 << 20).unwrap().iter().all(|b| *b == 0));
    assert_eq!(in_sync(&c, "v"), 2);

    // One member's disk is smaller than the others': above min_replicas it leaves, and the volume goes on without it.
    c.ok(&["volume", "detach", "v"]);
    c.ok(&["volume", "delete", "v"]);
    // The deleted volume's space comes back in the background; until the leader has heard of it, placement refuses.
    until("room for another volume", || {
        c.cli(&["volume", "create", "w", "size=160MiB", "replicas=3", "min_replicas=2"])
    });
    c.ok(&["volume", "attach", "w", "--node", "n1"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "w").unwrap();
    let taken = until("the writes to be taken", || match fill(&mut nbd, 0, 150) {
        // The disks of the deleted volume give their space back in the background.
        (n, Some(libc::ENOSPC)) => Err(format!("refused after {n} MiB")),
        other => Ok(other),
    });
    assert_eq!(taken, (150, None));
    assert_eq!(in_sync(&c, "w"), 2);
    assert!(nbd.read(149 << 20, 1 << 20).unwrap() == pattern(149, 1 << 20));
}

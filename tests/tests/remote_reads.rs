//! Volumes whose only replica is on another host: large and many reads over links of any rate end, at the link's rate, without anything
//! being asked twice, anybody dropped, or memory growing beyond its bound.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, tool_ok};
use hf_tests::nbd::Nbd;
use hf_tests::netns::Hosts;
use std::time::Instant;

struct World {
    c: Cluster,
    hosts: Hosts,
}

/// n1 to n3 on hosts of their own; volumes of `size` whose replica is on n3 and that n2 has attached, full of data.
fn world(volumes: usize, size: usize) -> World {
    let hosts = Hosts::new(3);
    let mut i = 0;
    let c = Cluster::prepared(3, |n| {
        i += 1;
        let port = |p: u16| format!("{}:{p}", Hosts::addr(i));
        (n.api, n.data, n.nbd, n.http) = (port(7420), port(7421), port(10809), port(7423));
        n.wrap = hosts.wrap(i);
        n.disk_size = "1GiB".into();
    });
    for v in 0..volumes {
        c.ok(&["volume", "create", &format!("v{v}"), &format!("size={}MiB", size >> 20), "replicas=1", "nodes=n3"]);
        c.ok(&["volume", "attach", &format!("v{v}"), "--node", "n2"]);
        let mut nbd = Nbd::connect(&c.nodes[1].nbd, &format!("v{v}")).unwrap();
        for at in (0..size).step_by(8 << 20) {
            nbd.write(at as u64, &vec![v as u8 + 1; (8 << 20).min(size - at)]).unwrap();
        }
    }
    World { c, hosts }
}

impl World {
    fn metric(&self, node: usize, name: &str) -> u64 {
        let page = tool_ok("curl", &["-s", &format!("http://{}/metrics", self.c.nodes[node].http)]);
        let lines = page.lines().filter(|l| l.starts_with(name) && !l.starts_with('#'));
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Resident memory of a node's process, in bytes.
    fn resident(&self, node: usize) -> u64 {
        let pid = self.c.nodes[node].pid().unwrap();
        // The process is that of `ip netns exec`, which becomes the daemon.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let kib =
            status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
        kib.unwrap_or(0u64) << 10
    }

    /// Nothing was asked twice on a link that stood, and nobody dropped; what came is little more than what was read.
    fn sound(&self, what: &str, before: (u64, u64), read: u64) {
        let resends = self.metric(1, "holdfast_volume_resends_total") - before.0;
        let received = self.metric(1, "holdfast_link_received_bytes_total") - before.1;
        println!(
            "{what}: {resends} repeated, {:.3} bytes received for each that was read",
            received as f64 / read as f64
        );
        assert_eq!(resends, 0, "{what}: nothing is to be repeated");
        assert!(received <= read * 102 / 100 + (1 << 20), "{what}: {received} bytes came for {read}");
        assert_eq!(self.metric(1, "holdfast_volume_drops_total"), 0, "{what}");
    }

    fn counters(&self) -> (u64, u64) {
        (self.metric(1, "holdfast_volume_resends_total"), self.metric(1, "holdfast_link_received_bytes_total"))
    }
}

/// 16 connections, each with one read of 32 MiB at once, of four volumes: the data-path issue's own case.
#[test]
fn many_large_reads_of_a_remote_replica_end_and_hold_little_memory() {
    const CONNECTIONS: usize = 16;
    let w = world(4, 32 << 20);
    let (before, addr) = (w.counters(), w.c.nodes[1].nbd.clone());
    let (memory, began) = ([w.resident(1), w.resident(2)], Instant::now());
    let mut grown = [0; 2];
    std::thread::scope(|s| {
        let readers: Vec<_> = (0..CONNECTIONS)
            .map(|i| {
                let addr = &addr;
                s.spawn(move || {
                    let v = i % 4;
                    let mut nbd = Nbd::connect(addr, &format!("v{v}")).unwrap();
                    let data = nbd.read(0, 32 << 20).unwrap();
                    assert!(data.iter().all(|b| *b == v as u8 + 1), "other bytes than were written");
                })
            })
            .collect();
        while readers.iter().any(|r| !r.is_finished()) {
            for (at, node) in [1, 2].into_iter().enumerate() {
                grown[at] = grown[at].max(w.resident(node).saturating_sub(memory[at]));
            }
            std::thread::yield_now();
        }
    });
    let read = (CONNECTIONS * 32) as u64;
    println!(
        "{read} MiB in {:.1} s; n2 grew by {} MiB, n3 by {} MiB",
        began.elapsed().as_secs_f64(),
        grown[0] >> 20,
        grown[1] >> 20
    );
    // Half of payload_memory each, and what allocators keep of it.
    assert!(grown[0] < 400 << 20 && grown[1] < 400 << 20, "memory grew by {grown:?} bytes");
    w.sound("unshaped", before, read << 20);
    assert_eq!(Nbd::connect(&addr, "v0").unwrap().read(0, 4096).unwrap(), vec![1; 4096]);
    w.c.ok(&["volume", "detach", "v0"]);
}

/// `nbdcopy` with its defaults, 4 connections with 64 requests each, over slow links, beside plain TCP.
#[test]
fn copies_over_slow_links_take_what_the_link_takes() {
    let w = world(1, 64 << 20);
    for (kbit, bytes) in [(200_000u64, 64u64 << 20), (1_000, 2 << 20)] {
        w.hosts.rate(3, Some(kbit));
        let plain = w.hosts.plain_tcp(3, 2, bytes as usize / 2);
        let (before, began) = (w.counters(), Instant::now());
        let file = w.c.nodes[0].dir.join("copy");
        if bytes == 64 << 20 {
            tool_ok("nbdcopy", &[&w.c.uri(1, "v0"), &file.display().to_string()]);
            assert!(std::fs::read(&file).unwrap().iter().all(|b| *b == 1), "other bytes than were written");
        } else {
            read_many(&w.c.nodes[1].nbd, bytes);
        }
        let rate = bytes as f64 / began.elapsed().as_secs_f64();
        println!("{kbit} kbit/s: {:.2} of plain TCP ({:.2} MB/s)", rate / plain, plain / 1e6);
        w.sound(&format!("{kbit} kbit/s"), before, bytes);
        assert!(rate >= 0.08 * plain, "{kbit} kbit/s: {rate:.0} bytes/s, plain TCP {plain:.0}");
    }
    w.hosts.rate(3, None);
}

/// 4 connections that read `bytes` of the first volume together, 64 KiB at a time each.
fn read_many(addr: &str, bytes: u64) {
    std::thread::scope(|s| {
        for i in 0..4 {
            s.spawn(move || {
                let mut nbd = Nbd::connect(addr, "v0").unwrap();
                for at in 0..bytes / 4 / (64 << 10) {
                    let off = i * (bytes / 4) + at * (64 << 10);
                    assert!(nbd.read(off, 64 << 10).unwrap().iter().all(|b| *b == 1));
                }
            });
        }
    });
}

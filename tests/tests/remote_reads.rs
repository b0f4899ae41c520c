//! Volumes whose only replica is on another host: large and many reads over links of any rate end,
//! at the link's rate, without anything being asked twice, anybody dropped, or memory growing
//! beyond its bound.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::tool_ok;
use hf_tests::nbd::Nbd;
use hf_tests::remote::Remote;
use std::sync::Mutex;
use std::time::Instant;

/// One after the other: each measures what the machine takes.
static MACHINE: Mutex<()> = Mutex::new(());

/// On a link that stood, at most one request in a hundred was repeated and no replica was dropped;
/// little more was received than was read.
fn sound(w: &Remote, what: &str, before: (u64, u64), (read, requests): (u64, u64)) {
    let after = w.counters();
    let (resends, received) = (after.0 - before.0, after.1 - before.1);
    println!("{what}: {resends} repeated, {:.3} bytes received for each that was read", received as f64 / read as f64);
    // (TCP may be silent for a moment itself, where a queue of the network overflows.)
    assert!(resends <= 1 + requests / 100, "{what}: {resends} of {requests} repeated");
    assert!(received <= read * 103 / 100 + (1 << 20), "{what}: {received} bytes came for {read}");
    assert_eq!(w.metric(1, "holdfast_volume_drops_total"), 0, "{what}");
}

/// 16 connections, each with one read of 32 MiB at once, of four volumes: the data-path issue's own case.
#[test]
fn many_large_reads_of_a_remote_replica_end_and_hold_little_memory() {
    const CONNECTIONS: usize = 16;
    let _alone = MACHINE.lock();
    let w = Remote::new(4, 32 << 20);
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
    sound(&w, "unshaped", before, (read << 20, read));
    assert_eq!(Nbd::connect(&addr, "v0").unwrap().read(0, 4096).unwrap(), vec![1; 4096]);
    w.c.ok(&["volume", "detach", "v0"]);
}

/// `nbdcopy` with its defaults, 4 connections with 64 requests each, over slow links, beside plain TCP.
#[test]
fn copies_over_slow_links_take_what_the_link_takes() {
    let _alone = MACHINE.lock();
    let w = Remote::new(1, 64 << 20);
    for (kbit, bytes) in [(1_000u64, 2u64 << 20), (200_000, 64 << 20)] {
        w.hosts.rate(3, Some(kbit));
        let plain = w.hosts.plain_tcp(3, 2, bytes as usize / 2);
        let (before, began) = (w.counters(), Instant::now());
        let file = w.c.nodes[0].dir.join("copy");
        if bytes == 64 << 20 {
            tool_ok("nbdcopy", &[&w.c.uri(1, "v0"), &file.display().to_string()]);
            assert!(std::fs::read(&file).unwrap().iter().all(|b| *b == 1), "other bytes than were written");
        } else {
            w.read_together(bytes, 4);
        }
        let rate = bytes as f64 / began.elapsed().as_secs_f64();
        println!("{kbit} kbit/s: {:.2} of plain TCP ({:.2} MB/s)", rate / plain, plain / 1e6);
        sound(&w, &format!("{kbit} kbit/s"), before, (bytes, bytes >> 16));
        assert!(rate >= 0.08 * plain, "{kbit} kbit/s: {rate:.0} bytes/s, plain TCP {plain:.0}");
    }
    w.hosts.rate(3, None);
}

//! Clients that ask for much and finish nothing, and connections without end: how much other
//! clients of the same node notice. Times are printed; a test fails only at ten times the promised
//! time, because the machine may be busy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, descriptors, http_get, until};
use hf_tests::nbd::{Nbd, Wire};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const MIB: u64 = 1 << 20;
const SIZE: u64 = 128 * MIB;

fn volumes(c: &Cluster, names: &[&str]) {
    for v in names {
        c.ok(&["volume", "create", v, &format!("size={SIZE}"), "replicas=1"]);
        c.ok(&["volume", "attach", v]);
    }
}

fn metric(c: &Cluster, name: &str) -> u64 {
    let page = http_get(&c.nodes[0].http, "/metrics").unwrap();
    let line = page.lines().find_map(|l| l.strip_prefix(&format!("holdfast_{name} ")));
    line.unwrap_or_else(|| panic!("no metric {name}:\n{page}")).parse().unwrap()
}

/// Bytes of payload held for the clients of all volumes.
fn held(c: &Cluster) -> u64 {
    let page = http_get(&c.nodes[0].http, "/metrics").unwrap();
    let lines = page.lines().filter(|l| l.starts_with("holdfast_volume_payload_bytes{"));
    lines.map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// A figure of the daemon's memory in MiB: VmRSS or VmHWM.
fn memory(c: &Cluster, what: &str) -> u64 {
    let s = std::fs::read_to_string(format!("/proc/{}/status", c.nodes[0].pid().unwrap())).unwrap();
    let line = s.lines().find(|l| l.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

fn connect(c: &Cluster, volume: &str) -> Nbd {
    Nbd::connect(&c.nodes[0].nbd, volume).unwrap()
}

fn wires(c: &Cluster, volume: &str, n: usize, structured: bool) -> Vec<Wire> {
    (0..n).map(|_| Wire::go(&c.nodes[0].nbd, volume, structured).unwrap()).collect()
}

/// Waits until the node has begun every request for which there is memory.
fn settled(c: &Cluster, least: u64) {
    until("the node to have nothing to do", || {
        let page = http_get(&c.nodes[0].http, "/metrics").unwrap();
        let busy = page.lines().filter(|l| l.starts_with("holdfast_volume_requests_in_flight{") && !l.ends_with(" 0"));
        let (busy, held) = (busy.count(), held(c));
        if busy == 0 && held > least { Ok(()) } else { Err(format!("{busy} volumes are busy, {held} bytes held")) }
    });
}

/// Writes without blocking until the node takes no more; how many bytes it took.
fn pour(w: &mut Wire, mut bytes: u64) -> u64 {
    let (mut sent, piece) = (0, vec![7u8; 1 << 16]);
    w.s.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    while bytes > 0 {
        match w.s.write(&piece[..piece.len().min(bytes as usize)]) {
            Ok(n) => (sent, bytes) = (sent + n as u64, bytes - n as u64),
            Err(_) => break,
        }
    }
    sent
}

/// Measures how long a client of a volume waits for each kind of request.
fn nobody_waits(c: &Cluster, volume: &str, why: &str) {
    let began = Instant::now();
    let mut one = connect(c, volume);
    let mut said = vec![("connect", began.elapsed())];
    let large = vec![3u8; 32 << 20];
    for (what, len) in [("4 KiB", 4096), ("1 MiB", 1 << 20), ("32 MiB", 32 << 20)] {
        let began = Instant::now();
        one.write(64 * MIB, &large[..len]).unwrap();
        said.push((what, began.elapsed()));
        let began = Instant::now();
        assert_eq!(one.read(64 * MIB, 4096).unwrap(), vec![3; 4096]);
        said.push(("read", began.elapsed()));
    }
    println!("{why}: {said:.1?}");
    for (what, took) in said {
        let most = if what == "32 MiB" { 2500 } else { 1000 };
        assert!(took < Duration::from_millis(most), "{why}: {what} waited {took:?}");
    }
}

#[test]
fn half_sent_writes_hold_nothing_that_others_need() {
    let c = Cluster::prepared(1, |n| n.disk_size = "1GiB".into());
    volumes(&c, &["v", "w"]);
    nobody_waits(&c, "v", "nobody else");
    for (n, most) in [(8, 100), (8, 32 * MIB - 1), (100, 100), (100, 3 * MIB)] {
        let mut greedy = wires(&c, "v", n, false);
        for w in &mut greedy {
            w.send(1, 0, WRITE, 0, 32 << 20, &[]).unwrap();
        }
        let sent: Vec<u64> = greedy.iter_mut().map(|w| pour(w, most)).collect();
        let all = sent.iter().sum::<u64>() >> 20;
        println!("{n} half-sent writes, {all} MiB of them: {} MiB held", held(&c) >> 20);
        nobody_waits(&c, "v", "their volume");
        nobody_waits(&c, "w", "another volume");
        // They are not cut off meanwhile: each may still finish.
        if n == 8 {
            for (w, sent) in greedy.iter_mut().zip(sent) {
                w.s.set_write_timeout(None).unwrap();
                w.s.write_all(&vec![7u8; (32 * MIB - sent) as usize]).unwrap();
                assert_eq!(w.reply().unwrap().error, 0);
            }
            assert_eq!(connect(&c, "v").read(31 * MIB, 4096).unwrap(), vec![7; 4096]);
        }
    }
    until("everything to be given back", || match (held(&c), metric(&c, "payload_bytes")) {
        (0, 0) => Ok(()),
        n => Err(format!("{n:?}")),
    });
}

/// The same of answers that nobody takes; and they are right when they are taken.
#[test]
fn unread_answers_hold_nothing_that_others_need() {
    let c = Cluster::prepared(1, |n| n.disk_size = "1GiB".into());
    volumes(&c, &["v", "w"]);
    let fill: Vec<u8> = (0..32u64 << 20).map(|i| (i >> 12) as u8).collect();
    connect(&c, "v").write(0, &fill).unwrap();
    for structured in [true, false] {
        let mut greedy = wires(&c, "v", 16, structured);
        for w in &mut greedy {
            (0..4).for_each(|i| w.send(i, 0, READ, 0, 32 << 20, &[]).unwrap());
        }
        settled(&c, 32 * MIB);
        nobody_waits(&c, "v", "their volume");
        nobody_waits(&c, "w", "another volume");
        let mut one = greedy.pop().unwrap();
        drop(greedy);
        if structured {
            all_read(&mut one, &fill);
        } else {
            let mut data = vec![0u8; 32 << 20];
            assert_eq!(one.reply().unwrap().error, 0);
            one.s.read_exact(&mut data).unwrap();
            assert!(data == fill);
        }
    }
}

/// Four answers of 32 MiB in chunks, in any order: each whole, none twice, the last chunk of each said to be the last.
fn all_read(w: &mut Wire, fill: &[u8]) {
    let mut seen = [0usize; 4];
    let mut over = [false; 4];
    while over != [true; 4] {
        let mut h = [0u8; 20];
        w.s.read_exact(&mut h).unwrap();
        let (flags, kind) = (u16::from_be_bytes([h[4], h[5]]), u16::from_be_bytes([h[6], h[7]]));
        let (cookie, len) = (h[15] as usize, u32::from_be_bytes(h[16..].try_into().unwrap()) as usize);
        let mut data = vec![0u8; len];
        w.s.read_exact(&mut data).unwrap();
        assert!(kind == 1 && !over[cookie], "chunk of type {kind}");
        let at = u64::from_be_bytes(data[..8].try_into().unwrap()) as usize;
        assert!(data[8..] == fill[at..at + len - 8], "{at}+{len}");
        seen[cookie] += len - 8;
        over[cookie] = flags & 1 == 1;
        assert_eq!(over[cookie], seen[cookie] == 32 << 20);
    }
}

/// Ten volumes with unread reads of 32 MiB: the node's budget holds, and the memory is given back
/// to the system.
#[test]
fn payload_memory_has_a_bound_for_the_node_and_is_given_back() {
    let c = Cluster::prepared(1, |n| {
        n.disk_size = "4GiB".into();
        n.env.push(("HOLDFAST_PAYLOAD_MEMORY".into(), "256MiB".into()));
    });
    let names: Vec<String> = (0..10).map(|i| format!("v{i}")).collect();
    volumes(&c, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let fill = vec![9u8; 32 << 20];
    for v in &names {
        connect(&c, v).write(0, &fill).unwrap();
    }
    let before = memory(&c, "VmRSS");
    let mut greedy: Vec<Wire> = names.iter().enumerate().flat_map(|(i, v)| wires(&c, v, 16, i % 2 == 0)).collect();
    for w in &mut greedy {
        w.send(1, 0, READ, 0, 32 << 20, &[]).unwrap();
    }
    settled(&c, 100 * MIB);
    nobody_waits(&c, "v3", "one of ten");
    let (held, most, peak) = (held(&c), metric(&c, "payload_memory_bytes"), memory(&c, "VmHWM"));
    println!("{} MiB of {} held, {before} MiB before, {peak} MiB at the most", held >> 20, most >> 20);
    assert_eq!(most, 256 * MIB);
    assert!(held <= most && peak < before + 256 + 256, "{before} -> {peak} MiB");
    drop(greedy);
    until("the memory to be given back", || match memory(&c, "VmRSS") {
        now if now < before + 64 => {
            println!("{now} MiB when idle again");
            Ok(())
        }
        now => Err(format!("{before} -> {now} MiB")),
    });
}

/// Peers that connect and say nothing delay nobody, at either port.
#[test]
fn silent_peers_delay_nobody() {
    assert!(descriptors() > 6000, "too few descriptors for this test");
    let mut c = Cluster::new(2);
    c.ok(&["volume", "create", "v", "size=64MiB", "replicas=2", "min_replicas=2"]);
    let n2 = c.nodes[1].data.clone();
    let silent = |addr: &str| TcpStream::connect(addr).unwrap();
    let at_data: Vec<TcpStream> = (0..1200).map(|_| silent(&n2)).collect();
    let began = Instant::now();
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    connect(&c, "v").write(0, &[1; 4096]).unwrap();
    println!("attached and written with 1,200 silent peers at the replica's port: {:?}", began.elapsed());
    drop(at_data);
    let nbd = c.nodes[0].nbd.clone();
    let mut held = Vec::new();
    let mut worst = Duration::ZERO;
    for round in 0..12 {
        held.extend((0..300).map(|_| silent(&nbd)));
        let began = Instant::now();
        assert_eq!(connect(&c, "v").read(0, 4096).unwrap(), vec![1; 4096]);
        worst = worst.max(began.elapsed());
        if round % 4 == 3 {
            println!("{} silent peers: a client waited {worst:?} at the most", held.len());
        }
    }
    assert!(worst < Duration::from_secs(5), "{worst:?}");
    let value = |page: &str, name: &str| {
        let line = page.lines().find_map(|l| l.strip_prefix(&format!("holdfast_{name}{{listener=\"nbd\"}} ")));
        line.unwrap().parse::<u64>().unwrap()
    };
    // Peers that found all places taken wait in the listen queue until the oldest has had its time.
    until("every silent peer to be seen", || {
        let page = http_get(&c.nodes[0].http, "/metrics").unwrap();
        let (here, cut) = (value(&page, "negotiating"), value(&page, "negotiations_cut_total"));
        assert!(here <= 2048, "{here} negotiate at once");
        if here + cut == held.len() as u64 { Ok(()) } else { Err(format!("{here} negotiate, {cut} were cut")) }
    });
    drop(held);
    c.nodes[0].stop();
}

/// How long each of `n` reads of a block takes, in microseconds: median and 99th percentile.
fn latency(nbd: &mut Nbd, n: usize) -> (u64, u64) {
    let mut all: Vec<u64> = (0..n)
        .map(|i| {
            let began = Instant::now();
            nbd.read(i as u64 % 16 * 4096, 4096).unwrap();
            began.elapsed().as_micros() as u64
        })
        .collect();
    all.sort_unstable();
    (all[n / 2], all[n * 99 / 100])
}

/// The cost to other clients when thousands of connections are open to one volume, and when all of
/// them leave at once.
#[test]
fn thousands_of_connections_cost_others_little() {
    let c = Cluster::new(1);
    volumes(&c, &["v", "w"]);
    let mut other = connect(&c, "w");
    other.write(0, &[1; 65536]).unwrap();
    let alone = latency(&mut other, 2000);
    let n = 4000.min(descriptors().saturating_sub(200));
    let began = Instant::now();
    let all: Vec<Nbd> = std::thread::scope(|s| {
        let parts: Vec<_> =
            (0..4).map(|_| s.spawn(|| (0..n / 4).map(|_| connect(&c, "v")).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|p| p.join().unwrap()).collect()
    });
    let came = began.elapsed();
    let began = Instant::now();
    let mut first = all;
    first[0].read(0, 4096).unwrap();
    let request = began.elapsed();
    let beside = latency(&mut other, 2000);
    println!(
        "{n} connections came in {came:?}, the first request took {request:?}; another volume's read: {alone:?} µs alone, {beside:?} beside"
    );
    assert!(request < Duration::from_secs(1), "{request:?}");
    assert!(beside.1 < alone.1 + 10_000, "{alone:?} {beside:?}");
    // All leave at once, by a goodbye, a half-close or a reset, and newcomers come behind them.
    for (i, nbd) in first.iter_mut().enumerate() {
        match i % 2 {
            0 => nbd.raw().write_all(&Nbd::header(0, 0, DISC, 0, 0)).unwrap(),
            _ => nbd.raw().shutdown(Shutdown::Write).unwrap(),
        }
    }
    let began = Instant::now();
    connect(&c, "v").write(0, &[2; 4096]).unwrap();
    println!("a newcomer behind {n} that leave: {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(first);
    until("all connections to end", || match metric(&c, "nbd_connections") {
        1 => Ok(()),
        n => Err(n.to_string()),
    });
}

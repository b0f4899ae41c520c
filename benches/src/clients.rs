//! What many clients cost each other: writes with a flush behind each on many connections, and a volume
//! beside another one that thousands of connections are open to.

use hf_tests::cluster::{Cluster, descriptors};
use hf_tests::nbd::Nbd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Connections that open to one volume while another one is measured.
const MANY: usize = 10_000;

/// Latencies at the median and at the 99th percentile, in microseconds.
fn percentiles(mut all: Vec<u64>) -> (u64, u64) {
    all.sort_unstable();
    let at = |percent: usize| all.get(all.len() * percent / 100).copied().unwrap_or(0);
    (at(50), at(99))
}

fn cluster() -> Cluster {
    let c = Cluster::prepared(1, |n| n.extra = vec!["--nbd-connections".into(), (MANY + 100).to_string()]);
    for v in ["v", "w"] {
        c.ok(&["volume", "create", v, "size=64MiB", "replicas=1"]);
        c.ok(&["volume", "attach", v]);
    }
    c
}

fn connect(c: &Cluster, volume: &str) -> Nbd {
    Nbd::connect(&c.nodes[0].nbd, volume).unwrap()
}

/// How long [`pairs`] measures, in seconds.
pub const SECONDS: usize = 4;

/// 16 connections repeat a 4 KiB write and a flush. Returns pairs a second, and the latency in microseconds (median,
/// 99th percentile) of a write and of a flush.
pub fn pairs(c: &Cluster) -> (usize, (u64, u64), (u64, u64)) {
    let stop = AtomicBool::new(false);
    let (writes, flushes): (Vec<u64>, Vec<u64>) = std::thread::scope(|s| {
        let users: Vec<_> = (0..16u64)
            .map(|user| {
                let (stop, mut nbd) = (&stop, connect(c, "v"));
                s.spawn(move || {
                    let mut seen = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        nbd.write((user * 64 + seen.len() as u64 % 64) * 4096, &[1; 4096]).unwrap();
                        let written = began.elapsed();
                        nbd.flush().unwrap();
                        seen.push((written.as_micros() as u64, (began.elapsed() - written).as_micros() as u64));
                    }
                    seen
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(SECONDS as u64));
        stop.store(true, Ordering::Relaxed);
        users.into_iter().flat_map(|u| u.join().unwrap()).unzip()
    });
    (writes.len() / SECONDS, percentiles(writes), percentiles(flushes))
}

fn flushes(c: &Cluster) {
    let (pairs, (w50, w99), (f50, f99)) = pairs(c);
    println!(
        "16 connections, write and flush: {pairs} pairs a second; write p50 {w50} p99 {w99} µs, flush p50 {f50} p99 {f99} µs"
    );
}

fn reads(nbd: &mut Nbd, until: impl Fn(usize) -> bool) -> (u64, u64) {
    let mut all = Vec::new();
    while !until(all.len()) {
        let began = Instant::now();
        nbd.read(all.len() as u64 % 16 * 4096, 4096).unwrap();
        all.push(began.elapsed().as_micros() as u64);
    }
    percentiles(all)
}

/// Reads of another volume: alone, while connections come, while they are there, while they go.
fn crowd(c: &Cluster) {
    let n = MANY.min(descriptors().saturating_sub(500));
    let mut other = connect(c, "w");
    other.write(0, &[1; 65536]).unwrap();
    let alone = reads(&mut other, |n| n == 5000);
    let over = AtomicBool::new(false);
    let (coming, took, mut all) = std::thread::scope(|s| {
        let came = s.spawn(|| {
            let began = Instant::now();
            let all: Vec<Nbd> = (0..n).map(|_| connect(c, "v")).collect();
            over.store(true, Ordering::Relaxed);
            (began.elapsed(), all)
        });
        let coming = reads(&mut other, |_| over.load(Ordering::Relaxed));
        let (took, all) = came.join().unwrap();
        (coming, took, all)
    });
    let began = Instant::now();
    all[0].read(0, 4096).unwrap();
    let first = began.elapsed();
    let there = reads(&mut other, |n| n == 5000);
    drop(all);
    let going = reads(&mut other, |n| n == 2000);
    println!(
        "{n} connections to another volume came in {took:.1?} (their first request: {first:.1?}); 4 KiB reads beside them, p50 and p99 µs:"
    );
    println!("alone {alone:?}, while they come {coming:?}, while they are there {there:?}, while they go {going:?}");
}

pub fn run() {
    let c = cluster();
    flushes(&c);
    crowd(&c);
}

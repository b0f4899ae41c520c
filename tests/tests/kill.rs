//! kill -9 of a replica's node, the coordinator's node and the metadata leader in turn, under a verifying writer: every
//! acknowledged write is readable afterwards, and nothing else is. `HOLDFAST_KILL_CYCLES` sets how often (20 in CI).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, until};
use hf_tests::nbd::Nbd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BLOCKS: u64 = 512;
const WRITERS: u64 = 4;

/// A writer's view of its blocks: what was acknowledged, and what may or may not have happened.
struct Ledger {
    acked: Vec<u64>,
    open: Vec<u64>,
    worst: Duration,
}

fn block(tag: u64, b: u64) -> Vec<u8> {
    let mut sector = [0u8; 512];
    sector[..8].copy_from_slice(&tag.to_le_bytes());
    sector[8..16].copy_from_slice(&b.to_le_bytes());
    sector.repeat(8)
}

/// Writes its own blocks round and round until told to stop or cut off.
fn writer(addr: String, me: u64, stop: Arc<AtomicBool>, total: Arc<AtomicU64>) -> Ledger {
    let mut l = Ledger { acked: vec![0; BLOCKS as usize], open: vec![0; BLOCKS as usize], worst: Duration::ZERO };
    let Ok(mut nbd) = Nbd::connect(&addr, "v") else { return l };
    let mut tag = me << 48;
    let mut b = me;
    while !stop.load(Ordering::Relaxed) {
        tag += 1;
        b = (b + 7 * WRITERS) % BLOCKS;
        let b = b / WRITERS * WRITERS + me;
        l.open[b as usize] = tag;
        let began = Instant::now();
        if nbd.write(b * 4096, &block(tag, b)).is_err() {
            return l;
        }
        l.worst = l.worst.max(began.elapsed());
        l.acked[b as usize] = tag;
        total.fetch_add(1, Ordering::Relaxed);
    }
    l
}

fn verify(addr: &str, ledgers: &[Ledger], context: &str) {
    let mut nbd = until("the export", || Nbd::connect(addr, "v").map_err(|e| e.to_string()));
    for b in 0..BLOCKS {
        let l = &ledgers[(b % WRITERS) as usize];
        let got = nbd.read(b * 4096, 4096).unwrap();
        assert!(got.chunks(512).all(|s| s == &got[..512]), "{context}: block {b} is torn");
        let tag = u64::from_le_bytes(got[..8].try_into().unwrap());
        let (acked, open) = (l.acked[b as usize], l.open[b as usize]);
        assert!(
            tag == acked || tag == open,
            "{context}: block {b} holds {tag:#x}, acknowledged {acked:#x}, in flight {open:#x}"
        );
    }
}

#[test]
fn acknowledged_writes_survive_kill_9_of_any_node() {
    let cycles: usize = std::env::var("HOLDFAST_KILL_CYCLES").ok().and_then(|s| s.parse().ok()).unwrap_or(21);
    let mut c = Cluster::new(3);
    let (mut stalls, mut takeovers, mut writes) = (Vec::new(), Vec::new(), 0u64);
    for cycle in 0..cycles {
        let at = cycle % 3;
        let role = ["replica", "coordinator", "leader"][cycle / 3 % 3];
        let context = format!("cycle {cycle} ({role})");
        c.ok(&["volume", "create", "v", "size=16MiB"]);
        let home = c.nodes[at].name.clone();
        c.ok(&["volume", "attach", "v", "--node", &home]);
        let stop = Arc::new(AtomicBool::new(false));
        let total = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..WRITERS)
            .map(|i| {
                let (addr, stop, total) = (c.nodes[at].nbd.clone(), stop.clone(), total.clone());
                std::thread::spawn(move || writer(addr, i, stop, total))
            })
            .collect();
        until("writes to flow", || if total.load(Ordering::Relaxed) > 300 { Ok(()) } else { Err(String::new()) });
        let victim = match role {
            "coordinator" => at,
            "replica" => (at + 1) % 3,
            _ => c.leader(),
        };
        c.nodes[victim].kill();
        let survives = victim != at;
        if survives {
            // I/O goes on over the loss: well past what was in flight when it happened.
            let mark = total.load(Ordering::Relaxed);
            until("writes to go on", || {
                if total.load(Ordering::Relaxed) > mark + 1000 { Ok(()) } else { Err(context.clone()) }
            });
        }
        stop.store(true, Ordering::Relaxed);
        let ledgers: Vec<Ledger> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        writes += total.load(Ordering::Relaxed);
        if survives {
            stalls.extend(ledgers.iter().map(|l| l.worst).max());
            verify(&c.nodes[at].nbd, &ledgers, &context);
        }
        // Used on another node: every acknowledged byte is there.
        let other = (0..3).find(|n| *n != victim && *n != at).unwrap();
        let name = c.nodes[other].name.clone();
        let began = Instant::now();
        until("attach elsewhere", || c.cli(&["volume", "attach", "v", "--node", &name, "--force"]));
        takeovers.push(began.elapsed());
        verify(&c.nodes[other].nbd, &ledgers, &format!("{context}, after take-over"));
        c.nodes[victim].start();
        c.ready();
        c.ok(&["volume", "detach", "v"]);
        c.ok(&["volume", "delete", "v"]);
    }
    stalls.sort();
    takeovers.sort();
    let worst = |l: &[Duration]| l.last().map_or(0, |d| d.as_millis());
    let middle = |l: &[Duration]| l.get(l.len() / 2).map_or(0, |d| d.as_millis());
    println!(
        "{cycles} kill -9 cycles, {writes} acknowledged writes, 0 lost; longest stall of a client: median {} ms, worst {} ms (n={}); take-over on request: median {} ms, worst {} ms (n={})",
        middle(&stalls),
        worst(&stalls),
        stalls.len(),
        middle(&takeovers),
        worst(&takeovers),
        takeovers.len()
    );
}

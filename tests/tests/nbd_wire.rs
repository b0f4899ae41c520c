//! NBD byte by byte, against real daemons: clients that leave in every way, the effect on other
//! clients, bounds per volume, and a clean stop under load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, tool_ok, until};
use hf_tests::nbd::{Nbd, Wire};
use std::collections::BTreeSet;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const ZEROES: u16 = 6;
const STATUS: u16 = 7;
const NO_HOLE: u16 = 2;
const DF: u16 = 4;
const REQ_ONE: u16 = 8;
const FAST_ZERO: u16 = 16;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 128 * MIB;

fn cluster(volumes: &[&str]) -> Cluster {
    let c = Cluster::new(1);
    for v in volumes {
        c.ok(&["volume", "create", v, &format!("size={SIZE}"), "replicas=1"]);
        c.ok(&["volume", "attach", v]);
    }
    c
}

fn wire(c: &Cluster, volume: &str, structured: bool) -> Wire {
    Wire::go(&c.nodes[0].nbd, volume, structured).unwrap()
}

fn nbd(c: &Cluster, volume: &str) -> Nbd {
    Nbd::connect(&c.nodes[0].nbd, volume).unwrap()
}

fn metric(c: &Cluster, name: &str) -> u64 {
    let page = tool_ok("curl", &["-s", &format!("http://{}/metrics", c.nodes[0].http)]);
    let line = page.lines().find_map(|l| l.strip_prefix(&format!("holdfast_{name} ")));
    line.unwrap_or_else(|| panic!("no metric {name}:\n{page}")).parse().unwrap()
}

fn of(name: &str, volume: &str) -> String {
    format!("{name}{{volume=\"{volume}\"}}")
}

/// Everything that clients held has been given back; `connections` are still there.
fn idle(c: &Cluster, volume: &str, connections: u64) {
    until("connections to end and their requests to be over", || {
        let seen = ["volume_connections", "volume_requests_in_flight", "volume_payload_bytes"]
            .map(|m| metric(c, &of(m, volume)));
        if seen == [connections, 0, 0] { Ok(()) } else { Err(format!("{volume}: {seen:?}")) }
    });
}

/// Writes of one block each, from block `first` on, in one piece: cookies count from 0.
fn writes(first: u64, n: u64, fill: u8) -> Vec<u8> {
    let one = |i: u64| [Nbd::header(i, 0, WRITE, (first + i) * 4096, 4096), vec![fill; 4096]].concat();
    (0..n).flat_map(one).collect()
}

fn send(w: &mut Wire, bytes: &[u8]) -> std::io::Result<()> {
    std::io::Write::write_all(&mut w.s, bytes)
}

/// Every one of `n` cookies is answered without an error, once, then the connection ends.
fn all_answered(w: &mut Wire, n: u64) {
    let mut open: BTreeSet<u64> = (0..n).collect();
    while !open.is_empty() {
        let r = w.reply().unwrap_or_else(|e| panic!("{} of {n} not answered: {e}", open.len()));
        assert_eq!(r.error, 0);
        assert!(open.remove(&r.cookie), "cookie {} was answered twice", r.cookie);
    }
    assert!(w.at_end());
}

#[test]
fn options_and_flags() {
    let c = cluster(&["v"]);
    let addr = &c.nodes[0].nbd;
    // LIST_META_CONTEXT: all, by namespace, by name, none of another namespace; only after STRUCTURED_REPLY.
    let mut w = Wire::greet(addr).unwrap();
    assert_eq!(w.option(9, &[Wire::name("v"), vec![0; 4]].concat()).unwrap()[0].0, (1 << 31) | 3);
    assert_eq!(w.option(8, &[]).unwrap(), [(1, vec![])]);
    let base = (4, [&[0; 4][..], b"base:allocation"].concat());
    assert_eq!(w.option(9, &[Wire::name("v"), vec![0; 4]].concat()).unwrap(), [base.clone(), (1, vec![])]);
    for (query, hit) in [("base:", true), ("base:allocation", true), ("qemu:", false)] {
        let said = w.option(9, &[Wire::name("v"), vec![0, 0, 0, 1], Wire::name(query)].concat()).unwrap();
        assert_eq!(said[0] == base, hit, "{query}: {said:?}");
    }
    // An unknown option is refused and negotiation goes on; ABORT is acknowledged, then it is over.
    assert_eq!(w.option(99, &[]).unwrap()[0].0, (1 << 31) | 1);
    assert_eq!(w.option(2, &[]).unwrap(), [(1, vec![])]);
    assert!(w.at_end());

    let mut w = wire(&c, "v", true);
    // Zeroes: as a hole, as data over several chunks and odd ends, never fast without a hole.
    assert_eq!(w.ask(FAST_ZERO | NO_HOLE, ZEROES, 0, 4096).unwrap().error, libc::ENOTSUP as u32);
    assert_eq!(w.ask(FAST_ZERO, ZEROES, 0, 4096).unwrap().error, 0);
    assert_eq!(extents(&mut w, 0, 64 * MIB as u32, 0), [(32 * MIB, 3)], "a fresh volume is one hole");
    assert_eq!(w.ask(NO_HOLE, ZEROES, MIB - 4096, 20 * MIB as u32).unwrap().error, 0);
    let map = extents(&mut w, 0, 32 * MIB as u32, 0);
    assert_eq!(map, [(MIB - 4096, 3), (20 * MIB, 0), (11 * MIB + 4096, 3)]);
    assert_eq!(nbd(&c, "v").read(MIB - 8192, 3 << 20).unwrap(), vec![0; 3 << 20]);
    assert_eq!(extents(&mut w, 0, 32 * MIB as u32, REQ_ONE), [(MIB - 4096, 3)]);
    // DF: the whole answer in one chunk.
    nbd(&c, "v").write(2 * MIB, &[5; 4096]).unwrap();
    let r = w.ask(DF, READ, 2 * MIB - 4096, 3 << 20).unwrap();
    assert_eq!((r.kind, r.data.len()), (1, 8 + (3 << 20)));
    assert!(r.data[8..8 + 4096].iter().all(|b| *b == 0) && r.data[8 + 4096..8 + 8192].iter().all(|b| *b == 5));
    // CACHE is taken; beyond the end each command has its error.
    assert_eq!(w.ask(0, CACHE, 0, 1 << 20).unwrap().error, 0);
    for (command, errno) in [(CACHE, libc::EINVAL), (TRIM, libc::EINVAL), (READ, libc::EINVAL), (ZEROES, libc::ENOSPC)]
    {
        assert_eq!(w.ask(0, command, SIZE - 4096, 8192).unwrap().error, errno as u32, "command {command}");
    }
    assert_eq!(w.ask(REQ_ONE, CACHE, 0, 4096).unwrap().error, libc::EINVAL as u32, "a flag of another command");
    assert_eq!(w.ask(0, 88, 0, 4096).unwrap().error, libc::EINVAL as u32);
}

/// What BLOCK_STATUS says, neighbours that are equal joined: bytes and state.
fn extents(w: &mut Wire, off: u64, len: u32, flags: u16) -> Vec<(u64, u32)> {
    let r = w.ask(flags, STATUS, off, len).unwrap();
    assert_eq!((r.kind, r.error), (5, 0));
    let word = |at: usize| u32::from_be_bytes(r.data[at..at + 4].try_into().unwrap());
    let mut list: Vec<(u64, u32)> = Vec::new();
    for at in (4..r.data.len()).step_by(8) {
        match list.last_mut().filter(|l| l.1 == word(at + 4)) {
            Some(l) => l.0 += u64::from(word(at)),
            None => list.push((u64::from(word(at)), word(at + 4))),
        }
    }
    list
}

#[test]
fn clients_leave_in_every_way() {
    let c = cluster(&["v", "w"]);
    goodbyes(&c);
    c.ok(&["volume", "set", "v", "queue_depth=1"]);
    one_at_a_time(&c);
    not_begun(&c);
    late_requests(&c, "reset", Wire::reset);
    late_requests(&c, "half-closed", |w| {
        w.s.shutdown(Shutdown::Write).unwrap();
        w
    });
    c.ok(&["volume", "set", "v", "queue_depth=128"]);
    resets_under_load(&c);
    stalled_clients(&c);
    assert!(!c.nodes[0].log().contains("panicked"), "{}", c.nodes[0].log());
}

/// Whatever was sent before DISC, or before the sending side was shut, is done and answered.
fn goodbyes(c: &Cluster) {
    for half_close in [false, true] {
        let mut w = wire(c, "v", false);
        send(&mut w, &writes(0, 32, 7)).unwrap();
        if half_close {
            w.s.shutdown(Shutdown::Write).unwrap();
        } else {
            w.send(99, 0, DISC, 0, 0, &[]).unwrap();
        }
        all_answered(&mut w, 32);
        // Large answers, too: more than the socket takes at once. A request cut off in the middle is none.
        let mut w = wire(c, "v", true);
        (0..12).for_each(|i| w.send(i, 0, READ, i * MIB, 1 << 20, &[]).unwrap());
        if half_close {
            send(&mut w, &Nbd::header(99, 0, WRITE, 40 * MIB, 8192)).unwrap();
            send(&mut w, &[9; 5000]).unwrap();
            w.s.shutdown(Shutdown::Write).unwrap();
        } else {
            w.send(99, 0, DISC, 0, 0, &[]).unwrap();
        }
        all_answered(&mut w, 12);
    }
    idle(c, "v", 0);
    assert_eq!(nbd(c, "v").read(0, 32 * 4096).unwrap(), vec![7; 32 * 4096]);
    assert_eq!(nbd(c, "v").read(40 * MIB, 8192).unwrap(), vec![0; 8192]);
    idle(c, "v", 0);
}

/// Keeps `n` clients of a volume busy with writes, in windows of 16, while `during` goes on; how
/// many writes were answered.
fn busy(c: &Cluster, volume: &str, n: u64, during: impl FnOnce(&AtomicU64)) -> u64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|s| {
        for user in 0..n {
            let (stop, done) = (&stop, &done);
            s.spawn(move || {
                let mut w = wire(c, volume, false);
                while !stop.load(Ordering::Relaxed) {
                    send(&mut w, &writes(64 * 256 + user * 16, 16, 1 + user as u8)).unwrap();
                    for _ in 0..16 {
                        assert_eq!(w.reply().unwrap().error, 0);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
                w.send(0, 0, DISC, 0, 0, &[]).unwrap();
                assert!(w.at_end());
            });
        }
        // Ends the others when `during` fails, too.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        during(&done);
    });
    done.into_inner()
}

/// `queue_depth` counts over all connections of a volume.
fn one_at_a_time(c: &Cluster) {
    let in_flight = of("volume_requests_in_flight", "v");
    busy(c, "v", 2, |done| {
        let mut seen = [0; 2];
        until("both clients to get on, one request at a time", || {
            let n = metric(c, &in_flight);
            if n > 1 && seen == [0, 0] {
                return Err(format!("{n} in flight: the new depth is not there yet"));
            }
            assert!(n <= 1, "{n} in flight");
            seen[n as usize] += 1;
            if seen[1] >= 20 && done.load(Ordering::Relaxed) > 1000 { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    });
    c.ok(&["volume", "set", "v", "queue_depth=20"]);
    busy(c, "v", 2, |_| {
        until("more at once", || match metric(c, &in_flight) {
            n if n > 16 && n <= 20 => Ok(()),
            n => Err(n.to_string()),
        });
    });
    c.ok(&["volume", "set", "v", "queue_depth=1"]);
    idle(c, "v", 0);
}

/// Requests of a client that left wait behind other clients' requests; the same client returns and
/// writes the same blocks anew. None of its earlier requests may be applied after that.
fn late_requests<T>(c: &Cluster, how: &str, leave: impl Fn(Wire) -> T) {
    busy(c, "v", 4, |_| {
        for round in 0..5 {
            let mut old = wire(c, "v", false);
            // Little data: all of it, and the end after it, is with the node before the new connection is.
            let one = |b: u64| [Nbd::header(b, 0, WRITE, b * 4096, 64), vec![100 + round; 64]].concat();
            send(&mut old, &(0..40).flat_map(one).collect::<Vec<u8>>().repeat(10)).unwrap();
            let left = leave(old);
            let mut new = nbd(c, "v");
            for block in (0..40).rev() {
                new.write(block * 4096, &[200 + round; 4096]).unwrap();
            }
            drop(left);
            // As many as the old ones were, so that one that still waits gets its turn.
            for _ in 0..450 {
                assert_eq!(new.read(0, 4096).unwrap()[0], 200 + round, "{how}, round {round}");
            }
            assert!(new.read(0, 40 * 4096).unwrap().iter().all(|b| *b == 200 + round), "{how}, round {round}");
        }
    });
    idle(c, "v", 0);
}

/// What waits for its turn is not begun when its client is gone by then.
fn not_begun(c: &Cluster) {
    let first = 50 * MIB / 4096;
    busy(c, "v", 4, |_| {
        for i in 0..20 {
            let mut w = wire(c, "v", false);
            send(&mut w, &writes(first + i, 1, 9)).unwrap();
            w.reset();
        }
    });
    idle(c, "v", 0);
    let data = nbd(c, "v").read(first * 4096, 20 * 4096).unwrap();
    let begun = data.chunks(4096).filter(|b| b[0] == 9).count();
    println!("{begun} of 20 were begun");
    assert!(begun < 20);
    idle(c, "v", 0);
}

/// Clients vanish in the middle of many requests: nothing of theirs stays behind, and others do not notice.
fn resets_under_load(c: &Cluster) {
    let mut good = nbd(c, "v");
    busy(c, "v", 2, |done| {
        for round in 0..20u64 {
            let mut lost: Vec<Wire> = (0..3).map(|i| wire(c, "v", i == 0)).collect();
            for w in &mut lost {
                send(w, &writes(round * 8, 60, 50)).unwrap();
                (0..20).for_each(|i| w.send(i, 0, READ, i * MIB, 1 << 20, &[]).unwrap());
                // A payload that is never complete, and zeroes that take long.
                w.send(70, NO_HOLE, ZEROES, 32 * MIB, 16 << 20, &[]).unwrap();
                send(w, &Nbd::header(71, 0, WRITE, 0, 1 << 20)).unwrap();
                send(w, &[1; 1000]).unwrap();
            }
            lost.into_iter().for_each(Wire::reset);
            let at = 60 * MIB + round * 4096;
            good.write(at, &[round as u8; 4096]).unwrap();
            assert_eq!(good.read(at, 4096).unwrap(), [round as u8; 4096]);
        }
        let mark = done.load(Ordering::Relaxed) + 200;
        until("others to get on", || match done.load(Ordering::Relaxed) {
            n if n > mark => Ok(()),
            n => Err(n.to_string()),
        });
    });
    idle(c, "v", 1);
    drop(good);
    idle(c, "v", 0);
    assert_eq!(metric(c, "nbd_connections"), 0);
}

/// Clients that announce much and send little: each holds the memory of one piece, and others of
/// the volume do not wait. (How much more may be tried: floods.rs.)
fn stalled_clients(c: &Cluster) {
    let mut greedy: Vec<Wire> = (0..12).map(|_| wire(c, "v", false)).collect();
    for w in &mut greedy {
        send(w, &Nbd::header(1, 0, WRITE, 0, 32 << 20)).unwrap();
        send(w, &[1; 100]).unwrap();
    }
    let held = of("volume_payload_bytes", "v");
    until("a piece for each", || match metric(c, &held) {
        n if n == 12 * MIB => Ok(()),
        n => Err(n.to_string()),
    });
    let began = Instant::now();
    nbd(c, "w").write(0, &[1; 4096]).unwrap();
    let other = began.elapsed();
    nbd(c, "v").write(0, &[1; 4096]).unwrap();
    println!("another volume waited {other:?}, the same volume {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    drop(greedy);
    idle(c, "v", 0);
}

#[test]
fn a_clean_stop_under_load_answers_what_it_took() {
    const CLIENTS: u64 = 4;
    let mut c = cluster(&["v"]);
    for round in 1..4u8 {
        let mut clients: Vec<Wire> = (0..CLIENTS).map(|_| wire(&c, "v", false)).collect();
        let node = &mut c.nodes[0];
        // Answers that wait because their client does not read yet are given to it all the same.
        let mut slow = Wire::go(&node.nbd, "v", true).unwrap();
        (0..12).for_each(|i| slow.send(i, 0, READ, i * MIB, 1 << 20, &[]).unwrap());
        let log = node.dir.join("log");
        let slow = std::thread::spawn(move || {
            until("the node to stop", || match std::fs::read_to_string(&log).unwrap().matches("stopping").count() {
                n if n == round as usize => Ok(()),
                n => Err(n.to_string()),
            });
            all_answered(&mut slow, 12);
        });
        let started = std::sync::Barrier::new(CLIENTS as usize + 1);
        let answered: Vec<(u64, BTreeSet<u64>)> = std::thread::scope(|s| {
            let users: Vec<_> = clients
                .drain(..)
                .enumerate()
                .map(|(i, mut w)| {
                    let started = &started;
                    s.spawn(move || {
                        let first = i as u64 * 1000;
                        send(&mut w, &writes(first, 400, round)).unwrap();
                        let mut done = BTreeSet::from([w.reply().unwrap().cookie]);
                        started.wait();
                        // Up to the end, which comes when all that was taken is answered; no answer is an error.
                        while let Ok(r) = w.reply() {
                            assert_eq!(r.error, 0);
                            done.insert(r.cookie);
                        }
                        (first, done)
                    })
                })
                .collect();
            started.wait();
            let began = Instant::now();
            node.stop();
            println!("round {round}: stopped after {:?}", began.elapsed());
            users.into_iter().map(|u| u.join().unwrap()).collect()
        });
        slow.join().unwrap();
        assert!(!node.log().contains("did not end in time"), "{}", node.log());
        node.start();
        let mut back = until("the export", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
        for (first, done) in &answered {
            println!("round {round}: {} answered", done.len());
            // Every answered write was done, and every write that was done was answered.
            let data = back.read(first * 4096, 400 * 4096).unwrap();
            let written = (0..400).filter(|i| data[*i as usize * 4096] == round).collect::<BTreeSet<u64>>();
            assert_eq!(written, *done);
        }
    }
}

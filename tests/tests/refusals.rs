//! Refusals at the sockets as the other side sees them: every NBD error that a client can provoke,
//! and replication hellos that cannot be accepted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_repl_core::wire::{HELLO_BYTES, Hello, HelloReply, MAX_VERSION, MIN_VERSION, Refused};
use hf_tests::cluster::{Cluster, run, until};
use hf_tests::nbd::Wire;
use std::io::{Read, Write};
use std::net::TcpStream;

// proto.md, "Error values": numbers of Linux.
const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ESHUTDOWN: u32 = 108;

const READ: u16 = 0;
const WRITE: u16 = 1;
const TRIM: u16 = 4;
const ZEROES: u16 = 6;
const STATUS: u16 = 7;

fn go(c: &Cluster, node: usize, volume: &str, structured: bool) -> Wire {
    until("the export", || Wire::go(&c.nodes[node].nbd, volume, structured).map_err(|e| e.to_string()))
}

#[test]
fn requests_that_cannot_be_done_get_the_number_the_protocol_names() {
    let c = Cluster::new(1);
    for (name, more) in [("v", &[][..]), ("ro", &["read_only=true"][..])] {
        c.ok(&[&["volume", "create", name, "size=64MiB", "replicas=1"], more].concat());
        c.ok(&["volume", "attach", name]);
    }
    const END: u64 = 64 << 20;
    for structured in [false, true] {
        let mut w = go(&c, 0, "v", structured);
        let mut refused = |command: u16, flags: u16, off: u64, len: u32, want: u32| {
            let data = if command == WRITE { vec![7; len as usize] } else { Vec::new() };
            w.send(9, flags, command, off, len, &data).unwrap();
            let r = w.reply().unwrap();
            assert_eq!((r.cookie, r.error), (9, want), "command {command} at {off}+{len}, structured {structured}");
        };
        let too_long = if structured { EOVERFLOW } else { EINVAL };
        refused(READ, 0, 0, (32 << 20) + 1, too_long);
        refused(READ, 0, END - 4096, 8192, EINVAL);
        refused(READ, 0, u64::MAX, 4096, EINVAL);
        refused(WRITE, 0, END - 4096, 8192, ENOSPC);
        refused(ZEROES, 0, END, 4096, ENOSPC);
        refused(TRIM, 0, END, 4096, EINVAL);
        refused(99, 0, 0, 0, EINVAL);
        refused(READ, 1 << 9, 0, 4096, EINVAL);
        if !structured {
            // Nobody negotiated base:allocation.
            refused(STATUS, 0, 0, 4096, EINVAL);
        }
        // The connection stands, and the refused requests wrote nothing.
        w.send(10, 0, READ, END - 4096, 4096, &[]).unwrap();
        let r = w.reply().unwrap();
        assert_eq!((r.cookie, r.error), (10, 0));
        if !structured {
            let mut block = vec![1; 4096];
            w.s.read_exact(&mut block).unwrap();
            assert!(block.iter().all(|b| *b == 0));
        }
        let mut w = go(&c, 0, "ro", structured);
        for command in [WRITE, ZEROES, TRIM] {
            let data = if command == WRITE { vec![7; 4096] } else { Vec::new() };
            w.send(11, 0, command, 0, 4096, &data).unwrap();
            assert_eq!(w.reply().unwrap().error, EPERM, "command {command}");
        }
    }
}

/// A coordinator that another node's attachment has overtaken answers later requests with ESHUTDOWN
/// or not at all, never with success.
#[test]
fn a_coordinator_that_was_overtaken_shuts_its_clients_down() {
    let c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    let mut shut_down = 0;
    for round in 0..4u64 {
        let (old, new) = ((round % 2) as usize, ((round + 1) % 2) as usize);
        c.ok(&["volume", "attach", "v", "--node", &c.nodes[old].name, "--force"]);
        let mut w = go(&c, old, "v", round % 4 < 2);
        w.send(1, 0, WRITE, 0, 4096, &[1; 4096]).unwrap();
        assert_eq!(w.reply().unwrap().error, 0);
        let signal = |sig| {
            // SAFETY: a child of ours that has not been waited for.
            unsafe { libc::kill(c.nodes[old].pid().unwrap() as i32, sig) };
        };
        signal(libc::SIGSTOP);
        let taken =
            run(&["--endpoint", &c.nodes[2].http, "volume", "attach", "v", "--node", &c.nodes[new].name, "--force"]);
        // It is in the socket before the old one wakes.
        w.send(2, 0, WRITE, 0, 4096, &[2; 4096]).unwrap();
        signal(libc::SIGCONT);
        taken.unwrap();
        match w.reply() {
            Ok(r) => {
                assert_eq!((r.cookie, r.error), (2, ESHUTDOWN), "round {round}");
                shut_down += 1;
                assert!(w.at_end(), "it ends a connection that is good for nothing");
            }
            Err(e) => assert!(e.kind() != std::io::ErrorKind::WouldBlock, "no answer and no end: {e}"),
        }
    }
    println!("{shut_down} of 4 were answered with ESHUTDOWN");
    assert!(shut_down > 0, "ESHUTDOWN was never seen");
}

fn hello(addr: &str, frame: &[u8]) -> Option<HelloReply> {
    let mut s = TcpStream::connect(addr).unwrap();
    s.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    s.write_all(frame).unwrap();
    let mut raw = [0; HELLO_BYTES];
    s.read_exact(&mut raw).ok()?;
    let reply = HelloReply::from_frame(&raw).unwrap();
    if reply.refused != Refused::Accepted as i32 {
        assert_eq!(s.read(&mut [0]).unwrap(), 0, "a refused link stays open");
    }
    Some(reply)
}

#[test]
fn hellos_that_cannot_be_accepted_are_answered_with_the_reason() {
    let c = Cluster::new(1);
    let cluster = u128::from_str_radix(c.status().unwrap()["cluster"].as_str().unwrap(), 16).unwrap();
    let good = Hello {
        min_version: MIN_VERSION,
        max_version: MAX_VERSION,
        cluster: cluster.to_be_bytes().to_vec(),
        node: 1,
        boot: vec![7; 16],
        disk: 1,
        ..Hello::default()
    };
    let ask = |h: Hello| hello(&c.nodes[0].data, &h.to_frame()).unwrap();
    let accepted = ask(good.clone());
    assert_eq!((accepted.refused, accepted.version, accepted.boot.len()), (Refused::Accepted as i32, MAX_VERSION, 16));
    let newer = ask(Hello { min_version: MAX_VERSION + 1, max_version: MAX_VERSION + 9, ..good.clone() });
    assert_eq!(newer.refused, Refused::Version as i32);
    assert!(
        newer.text.contains(&format!("{MIN_VERSION}")) && newer.text.contains(&format!("{MAX_VERSION}")),
        "{}",
        newer.text
    );
    // One that speaks newer versions too gets the newest common one.
    assert_eq!(ask(Hello { max_version: MAX_VERSION + 9, ..good.clone() }).version, MAX_VERSION);
    let foreign = ask(Hello { cluster: vec![9; 16], ..good.clone() });
    assert_eq!(foreign.refused, Refused::Cluster as i32);
    let no_disk = ask(Hello { disk: 77, ..good.clone() });
    assert!(
        [Refused::Disk as i32, Refused::NotReady as i32].contains(&no_disk.refused) && !no_disk.text.is_empty(),
        "{no_disk:?}"
    );
    // No hello at all: the end, without a word.
    let mut garbage = good.to_frame();
    garbage[0] ^= 1;
    assert_eq!(hello(&c.nodes[0].data, &garbage), None);
}

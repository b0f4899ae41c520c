//! Bad input of every kind: a clear error (or state), nothing lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, NodeProcess, free_port, run, until};
use hf_tests::nbd::Nbd;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The command must fail with this exit code and say all of this.
fn refused(c: &Cluster, args: &[&str], code: u8, words: &[&str]) {
    let e = c.cli(args).expect_err(&args.join(" "));
    assert!(e.starts_with(&format!("[{code}]")), "{args:?}: {e}");
    for w in words {
        assert!(e.contains(w), "{args:?} should say {w:?}: {e}");
    }
}

#[test]
fn refusals_name_what_why_and_what_next() {
    let c = Cluster::new(1);
    let create = |rest: &[&'static str]| [&["volume", "create"][..], rest].concat();
    refused(&c, &create(&["v", "size=1GiB", "relp=2"]), 2, &["relp", "did you mean \"replicas\""]);
    refused(&c, &create(&["v", "size=0"]), 2, &["size 0", "at least 4KiB"]);
    refused(&c, &create(&["v", "size=9PiB"]), 2, &["beyond the largest volume"]);
    refused(&c, &create(&["v", "size=900TiB", "replicas=1"]), 4, &["over-commit", "do not fit"]);
    refused(&c, &create(&["v", "size=1GiB"]), 4, &["cannot place 3 replicas", "only 1 can hold one"]);
    refused(&c, &create(&["v", "size=1GiB", "replicas=1", "media=nvme"]), 4, &["the policy asks for nvme"]);
    refused(&c, &create(&["v", "size=1GiB", "replicas=1", "nodes=n7"]), 4, &["no node is named n7"]);
    refused(&c, &create(&["a/b", "size=1GiB", "replicas=1"]), 2, &["'/' cannot stand in a name"]);
    refused(&c, &["volume", "attach", "nope"], 3, &["no volume nope"]);
    refused(&c, &["volume", "show", "nope"], 3, &["no volume nope"]);
    c.ok(&["volume", "create", "v", "size=64MiB", "replicas=1", "sticky=true"]);
    refused(&c, &create(&["v", "size=64MiB", "replicas=1"]), 4, &["exists already"]);
    refused(&c, &["volume", "delete", "v"], 4, &["sticky", "sticky=false"]);
    refused(&c, &["volume", "set", "v", "block_size=512"], 4, &["fixed at creation"]);
    refused(&c, &["volume", "attach", "v", "--node", "n9"], 3, &["no node n9"]);
    refused(&c, &["disk", "add", "/nonexistent"], 4, &["/nonexistent"]);
    let empty = c.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    refused(&c, &["disk", "add", empty.to_str().unwrap()], 4, &["say how much of it to use"]);
    refused(&c, &["disk", "add", empty.to_str().unwrap(), "--size", "900TiB"], 4, &["free", "asked for"]);
    refused(&c, &["cluster", "init"], 4, &["part of a cluster already"]);
    let nowhere = format!("127.0.0.1:{}", free_port());
    let e = run(&["--endpoint", &nowhere, "cluster", "status"]).unwrap_err();
    assert!(e.starts_with("[5]") && e.contains("no node answered"), "{e}");
    // After all that: nothing was created, nothing is broken.
    assert_eq!(c.status().unwrap()["volumes"].as_object().unwrap().len(), 1);
    // A shell's completions and the reference are there without any node.
    assert!(run(&["completions", "bash"]).unwrap().contains("holdfast"));
    assert!(run(&["policy", "attributes"]).unwrap().contains("| `replicas` | 1–5 | 3 |"));
}

#[test]
fn garbage_on_any_port_harms_nobody() {
    let c = Cluster::new(1);
    c.ok(&["volume", "create", "v", "size=64MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    let mut good = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    good.write(0, &[3; 4096]).unwrap();
    let n = &c.nodes[0];
    let mut x = 7u64;
    for addr in [&n.api, &n.data, &n.nbd, &n.http] {
        for round in 0..12 {
            let mut s = TcpStream::connect(addr).unwrap();
            let garbage: Vec<u8> = (0..1 + round * 400)
                .map(|_| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (x >> 56) as u8
                })
                .collect();
            let _ = s.write_all(&garbage);
            let _ = s.shutdown(std::net::Shutdown::Write);
            let _ = s.set_read_timeout(Some(std::time::Duration::from_millis(200)));
            let _ = s.read(&mut [0; 64]);
        }
    }
    for round in 0..12usize {
        let mut s = std::os::unix::net::UnixStream::connect(&n.socket).unwrap();
        let _ = s.write_all(&vec![0xa5; 1 + round * 400]);
        let _ = s.shutdown(std::net::Shutdown::Write);
        let _ = s.set_read_timeout(Some(std::time::Duration::from_millis(200)));
        let _ = s.read(&mut [0; 64]);
    }
    // In the transmission phase: a header that is none, a write cut off in the middle, an oversized write.
    let mut broken = Nbd::connect(&n.nbd, "v").unwrap();
    broken.raw().write_all(&[0xee; 28]).unwrap();
    assert!(broken.read(0, 4096).is_err());
    let mut half = Nbd::connect(&n.nbd, "v").unwrap();
    let mut msg = Nbd::header(1, 0, 1, 4096, 8192);
    msg.extend([9; 5000]);
    half.raw().write_all(&msg).unwrap();
    drop(half);
    let mut huge = Nbd::connect(&n.nbd, "v").unwrap();
    huge.raw().write_all(&Nbd::header(1, 0, 1, 0, u32::MAX)).unwrap();
    assert!(huge.read(0, 4096).is_err());
    let mut odd = Nbd::connect(&n.nbd, "v").unwrap();
    assert_eq!(odd.read(64 << 20, 1).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(odd.write(64 << 20, &[1]).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(odd.read(0, 4096).unwrap(), vec![3; 4096]);
    // A request cut off in the middle left nothing half done; the good client never noticed anything.
    assert_eq!(good.read(4096, 8192).unwrap(), vec![0; 8192]);
    assert!(!c.nodes[0].log().contains("panicked"), "{}", c.nodes[0].log());
}

#[test]
fn starts_that_cannot_be_are_refused_with_words() {
    let dir = tempfile::tempdir().unwrap();
    let mut n = NodeProcess::new(dir.path().join("n"), "n");
    let said = |n: &mut NodeProcess, config: &str, code: i32, words: &[&str]| {
        std::fs::remove_file(n.dir.join("log")).ok();
        n.start_with(config);
        assert_eq!(n.wait_end(), Some(code), "{}", n.log());
        words.iter().for_each(|w| assert!(n.log().contains(w), "{w}: {}", n.log()));
    };
    let good = n.config(false);
    // Half-written, misspelt, several problems at once.
    said(&mut n, &good[..good.len() - 4], 2, &["node.toml"]);
    said(&mut n, &format!("{good}\nreacters = 2\n"), 2, &["reacters", "unknown field"]);
    said(
        &mut n,
        "name = \"a b\"\ndata_dir = \"/tmp/x\"\napi = \"nonsense\"\n",
        2,
        &["cannot stand in a name", "is not host:port"],
    );
    // A port in use.
    let taken = std::net::TcpListener::bind(&n.api).unwrap();
    said(&mut n, &good, 1, &["is in use by another process"]);
    drop(taken);
    // A data directory of a newer format, and a damaged one.
    let id = n.dir.join("data/node.json");
    std::fs::write(&id, r#"{"format": 99}"#).unwrap();
    said(&mut n, &good, 1, &["format 99", "newer release", "upgrade this node"]);
    std::fs::write(&id, "{\"form").unwrap();
    said(&mut n, &good, 1, &["node.json is damaged"]);
    std::fs::remove_file(&id).unwrap();
    // Two processes, one directory.
    n.start_with(&good);
    let first = &n;
    until("the first to be up", || if first.log().contains("is up") { Ok(()) } else { Err(first.log()) });
    let mut second = NodeProcess::new(dir.path().join("second"), "m");
    let config = second
        .config(false)
        .replace(&second.dir.join("data").display().to_string(), &n.dir.join("data").display().to_string());
    second.start_with(&config);
    assert_eq!(second.wait_end(), Some(1));
    assert!(second.log().contains("in use by another holdfast process"), "{}", second.log());
    // An unreachable seed.
    let nowhere = format!("127.0.0.1:{}", free_port());
    let began = Instant::now();
    let e = run(&["--endpoint", &n.http, "node", "join", "--seed", &nowhere]).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(50), "asked again and again for {:?}", began.elapsed());
    assert!(e.starts_with("[5]") && e.contains("no seed let this node join") && e.contains(&nowhere), "{e}");
}

#[test]
fn foreign_and_wiped_disks_are_told_apart() {
    let mut a = Cluster::new(1);
    let b = Cluster::new(1);
    // A disk of another cluster.
    let theirs = b.nodes[0].dir.join("disk");
    refused(&a, &["disk", "add", theirs.to_str().unwrap(), "--size", "64MiB"], 4, &["holds a store of cluster"]);
    // A wiped disk: its file is gone. The node comes up, says so, and does not make a new store in its place.
    a.ok(&["volume", "create", "v", "size=64MiB", "replicas=1"]);
    a.ok(&["volume", "attach", "v"]);
    Nbd::connect(&a.nodes[0].nbd, "v").unwrap().write(0, &[1; 4096]).unwrap();
    a.nodes[0].stop();
    let file = a.nodes[0].dir.join("disk/holdfast.disk");
    let aside = a.nodes[0].dir.join("aside");
    std::fs::rename(&file, &aside).unwrap();
    a.nodes[0].start();
    let state = until("the disk to be reported", || {
        let s = a.status()?["disks"]["1"]["state"].to_string();
        if s.contains("failed") { Ok(s) } else { Err(s) }
    });
    assert!(state.contains("its store is gone"), "{state}");
    assert!(!file.exists(), "a wiped disk was formatted silently");
    // It was only not mounted: back in place, everything is there.
    a.nodes[0].stop();
    std::fs::rename(&aside, &file).unwrap();
    a.nodes[0].start();
    let mut nbd = until("the volume to come back", || Nbd::connect(&a.nodes[0].nbd, "v").map_err(|e| e.to_string()));
    assert_eq!(nbd.read(0, 4096).unwrap(), vec![1; 4096]);
    until("the disk to be ok again", || {
        let s = a.status()?["disks"]["1"]["state"].to_string();
        if s.contains("ok") { Ok(()) } else { Err(s) }
    });
}

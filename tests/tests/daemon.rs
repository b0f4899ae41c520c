//! The daemon and its client as an operator meets them: which configuration wins, what the daemon
//! refuses at start, steps that are cut short and repeated, errors for machines, events as they
//! happen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, NodeProcess, binary, free_port, http_get, run, until};
use hf_tests::nbd::Nbd;
use hf_tests::{http, seccomp, status};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

fn is_up(n: &NodeProcess) {
    until("the node to be up", || if n.log().contains("node is up") { Ok(()) } else { Err(n.log()) });
}

/// The daemon ends at once, with this exit code, and says all of this.
fn does_not_start(n: &mut NodeProcess, code: i32, words: &[&str]) {
    assert_eq!(n.wait_end(), Some(code), "{}", n.log());
    words.iter().for_each(|w| assert!(n.log().contains(w), "should say {w:?}: {}", n.log()));
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut n = NodeProcess::new(dir.path().join("n"), "of-the-file");
    let (env_http, flag_api) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    n.env = [("HOLDFAST_NAME", "of-the-environment"), ("HOLDFAST_HTTP", &env_http), ("HOLDFAST_API", "127.0.0.1:1")]
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .to_vec();
    n.extra = vec!["--api".into(), flag_api.clone()];
    n.start();
    is_up(&n);
    run(&["--endpoint", &env_http, "cluster", "init"]).unwrap();
    let s: Value =
        serde_json::from_str(&run(&["--endpoint", &env_http, "node", "list", "-o", "json"]).unwrap()).unwrap();
    assert!(s.to_string().contains("of-the-environment") && !s.to_string().contains("of-the-file"), "{s}");
    assert_eq!(s["items"][0]["addresses"]["api"], flag_api.as_str(), "{s}");
    // The file's own values hold too; those that the environment replaced are not used.
    TcpStream::connect(&n.nbd).unwrap();
    assert!(http_get(&env_http, "/healthz").unwrap().starts_with("HTTP/1.1 200"));
    assert!(
        http_get(&n.http, "/healthz").is_err(),
        "the file's http address is in use although the environment names another"
    );
}

#[test]
fn a_node_needs_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n).display().to_string();
    std::fs::create_dir(path("d1")).unwrap();
    std::fs::create_dir(path("d2")).unwrap();
    let ports: Vec<String> = (0..4).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let log = std::fs::File::create(path("log")).unwrap();
    let mut node = Command::new(binary())
        .args(["node", "--name", "bare", "--data-dir", &path("data"), "--api", &ports[0], "--data", &ports[1]])
        .args(["--label", "rack=r1", "--label", "zone=z1", "--write-memory", "8MiB"])
        .args(["--disk", &format!("{},size=64MiB,media=nvme", path("d1"))])
        .env("HOLDFAST_NBD", &ports[2])
        .env("HOLDFAST_HTTP", &ports[3])
        .env("HOLDFAST_DISKS", format!("{},size=64MiB", path("d2")))
        .stderr(log)
        .spawn()
        .unwrap();
    let init = || run(&["--endpoint", &ports[3], "cluster", "init"]);
    until("the founding", || init().map(drop));
    let s = until("the disk of the flag", || {
        let s = status::whole(&ports[3..])?;
        if s["disks"]["1"].is_object() { Ok(s) } else { Err(s.to_string()) }
    });
    assert_eq!((&s["disks"]["1"]["media"], s["disks"].as_object().unwrap().len()), (&"nvme".into(), 1), "{s}");
    assert_eq!(s["nodes"]["1"]["labels"], serde_json::json!({"rack": "r1", "zone": "z1"}));
    // SAFETY: a child of ours that has not been waited for.
    unsafe { libc::kill(node.id() as i32, libc::SIGTERM) };
    assert!(node.wait().unwrap().success());
}

#[test]
fn a_wrong_configuration_says_every_problem_at_once() {
    let wrong = run(&[
        "node",
        "--name",
        "-",
        "--api",
        "nowhere",
        "--write-memory",
        "1KiB",
        "--page-memory",
        "lots",
        "--metadata-memory",
        "1TiB",
        "--label",
        "rack",
        "--disk",
        "/d,speed=9",
        "--replace-voter-after",
        "1s",
        "--reactors",
        "0",
    ])
    .unwrap_err();
    assert!(wrong.starts_with("[2]"), "{wrong}");
    for problem in [
        "name = \"-\"",
        "data_dir is missing",
        "api = \"nowhere\" is not host:port",
        "write_memory = \"1KiB\" is not from 4MiB to 64GiB",
        "page_memory = \"lots\"",
        "metadata_memory = \"1TiB\" is not from 4MiB to 64GiB",
        "label = \"rack\" is not key=value",
        "disk = \"speed=9\" is neither size=SIZE nor media=MEDIA",
        "replace_voter_after = \"1s\" is below 5s",
        "reactors = 0 is not from 1 to 256",
    ] {
        assert!(wrong.contains(problem), "should say {problem}: {wrong}");
    }
    let wrong = run(&["node", "--name", "n", "--data-dir", "/nowhere", "--disk", "/d,size=big,media=any"]).unwrap_err();
    assert!(
        wrong.contains("disk /d: size = ") && wrong.contains("media = \"any\" is not one of nvme, ssd, hdd"),
        "{wrong}"
    );
}

#[test]
fn nothing_that_is_not_its_own_is_removed_or_shared() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the socket should be.
    let mut n = NodeProcess::new(dir.path().join("n"), "n");
    std::fs::write(&n.socket, "precious").unwrap();
    n.start();
    does_not_start(&mut n, 1, &["nbd_socket", "is not a socket", "choose another path"]);
    assert_eq!(std::fs::read_to_string(&n.socket).unwrap(), "precious");
    // A socket on which somebody listens.
    std::fs::remove_file(&n.socket).unwrap();
    let theirs = UnixListener::bind(&n.socket).unwrap();
    n.start();
    does_not_start(&mut n, 1, &["another process listens there"]);
    // One that a dead process left behind is replaced.
    drop(theirs);
    assert!(n.socket.exists());
    std::fs::remove_file(n.dir.join("log")).unwrap();
    n.start();
    is_up(&n);
    // A disk in use by a node is not taken by another one, nor twice by the same.
    let mut c = Cluster::new(2);
    let disk = c.nodes[0].dir.join("disk").display().to_string();
    let add = |i: usize| run(&["--endpoint", &c.nodes[i].http, "disk", "add", &disk, "--size", "64MiB"]).unwrap_err();
    let (by_itself, by_the_other) = (add(0), add(1));
    assert!(by_itself.starts_with("[4]") && by_itself.contains("in the pool already"), "{by_itself}");
    assert!(by_the_other.starts_with("[4]") && by_the_other.contains("belongs to node #1"), "{by_the_other}");
    // The same path in another node's configuration: it says so, and serves without.
    c.nodes[1].stop();
    c.nodes[0].stop();
    let holder = std::fs::File::open(c.nodes[0].dir.join("disk/holdfast.disk")).unwrap();
    // SAFETY: plain system call on an open descriptor.
    assert_eq!(unsafe { libc::flock(std::os::fd::AsRawFd::as_raw_fd(&holder), libc::LOCK_EX) }, 0);
    c.nodes[0].start();
    c.nodes[1].start();
    disk_says(&c, &["of node 1", "in use by a running Holdfast node"]);
    // Looking at it needs no lock.
    assert!(run(&["inspect", "disk", &disk]).unwrap().contains("superblock"));
    drop(holder);
}

#[test]
fn a_founding_that_was_cut_short_is_finished_and_a_lost_identity_is_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut n = NodeProcess::new(dir.path().join("n"), "n");
    n.start();
    is_up(&n);
    let init = |n: &NodeProcess| run(&["--endpoint", &n.http, "cluster", "init", "-o", "json"]);
    let first: Value = serde_json::from_str(&init(&n).unwrap()).unwrap();
    n.kill();
    // As if the power had gone after the log was founded and before the node took it for its own.
    let file = n.data_dir.join("node.json");
    let good = std::fs::read_to_string(&file).unwrap();
    let mut id: Value = serde_json::from_str(&good).unwrap();
    let none = "0".repeat(id["cluster"].as_str().unwrap().len());
    (id["cluster"], id["node"], id["disks"]) = (none.into(), 0.into(), Value::Array(Vec::new()));
    std::fs::write(&file, id.to_string()).unwrap();
    n.start();
    let again: Value = until("init to be possible", || init(&n).map(|t| serde_json::from_str(&t).unwrap()));
    assert!(first["message"].as_str().unwrap().starts_with("cluster holdfast founded ("), "{first}");
    assert_eq!(again["message"], first["message"]);
    n.kill();
    // Another node's identity beside this metadata: it is somebody's cluster, not to be founded over.
    id["uuid"] = "0123456789abcdef0123456789abcdef".into();
    std::fs::write(&file, id.to_string()).unwrap();
    n.start();
    let e = until("an answer", || match init(&n) {
        Err(e) if e.starts_with("[4]") => Ok(e),
        other => Err(format!("{other:?}")),
    });
    assert!(e.contains("holds the metadata of cluster") && e.contains("node.json"), "{e}");
}

/// A caller that did not hear the answer asks again with the same request id, on another node if need be.
#[test]
fn a_repeated_request_has_the_first_ones_outcome() {
    let c = Cluster::new(3);
    // Whether it is a repeat, or the error's text.
    let ask = |i: usize, method: &str, path: &str, n: u32, body: Value| {
        let key = format!("{n:032x}");
        let r = http::change(&c.nodes[i].http, method, path, &[("Idempotency-Key", &key)], &body).unwrap();
        let replayed = r.header("Idempotency-Replayed") == Some("true");
        r.good().map(|_| replayed)
    };
    let create =
        |i: usize, n: u32, size: &str| ask(i, "POST", "/v1/volumes", n, json!({"name": "v", "spec": {"size": size}}));
    let delete = |i: usize, n: u32| ask(i, "DELETE", "/v1/volumes/v", n, json!({}));
    let volumes = || c.status().unwrap()["volumes"].as_object().unwrap().clone();
    for (i, repeat) in [(0, false), (1, true), (2, true), (0, true)] {
        assert_eq!(create(i, 0x100, "64MiB").unwrap(), repeat);
    }
    assert_eq!(volumes().len(), 1);
    // Another request of the same content is another request.
    assert!(create(1, 0x200, "64MiB").unwrap_err().contains("exists already"));
    // The same key with another request is neither.
    assert!(create(2, 0x100, "65MiB").unwrap_err().contains("the idempotency key was used for another request"));
    for (i, repeat) in [(2, false), (1, true), (0, true)] {
        assert_eq!(delete(i, 0x300).unwrap(), repeat);
    }
    assert_eq!(volumes().len(), 0);
    assert!(delete(1, 0x400).unwrap_err().contains("no volume v"));
    // A late repetition does not touch the volume that has the name now.
    create(0, 0x500, "32MiB").unwrap();
    assert!(delete(1, 0x300).unwrap());
    assert!(create(2, 0x100, "64MiB").unwrap());
    let now = volumes();
    assert_eq!(now.len(), 1);
    assert_eq!(now.values().next().unwrap()["size"], 32 << 20, "{now:?}");
    let fresh = |n: u32| ask(1, "PATCH", "/v1/volumes/v", n, json!({"spec": {"size": "48MiB"}}));
    assert!(!fresh(0x600).unwrap());
    assert!(fresh(0x600).unwrap());
    assert_eq!(volumes().values().next().unwrap()["size"], 48 << 20);
}

#[test]
fn errors_are_json_when_json_was_asked_for() {
    let c = Cluster::new(1);
    let out = |args: &[&str]| {
        let o = Command::new(binary()).args(["--endpoint", &c.nodes[0].http]).args(args).output().unwrap();
        (o.status.code(), String::from_utf8(o.stderr).unwrap(), o.stdout)
    };
    let (code, stderr, stdout) = out(&["volume", "show", "nope", "-o", "json"]);
    let e: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!((code, &e["code"], &e["status"], stdout.len()), (Some(3), &"not_found".into(), &404.into(), 0));
    assert_eq!((&e["what"], &e["fate"]), (&"no volume nope".into(), &"refuse".into()));
    let (code, stderr, _) = out(&["volume", "show", "nope"]);
    assert_eq!((code, stderr.starts_with("holdfast: ")), (Some(3), true), "{stderr}");
    // The command line's own refusals, wherever `-o json` stands.
    for args in
        [&["volume", "shwo", "v", "-o", "json"][..], &["--output=json", "volume", "show"], &["-ojson", "--what"]]
    {
        let (code, stderr, stdout) = out(args);
        let e: Value = serde_json::from_str(&stderr).unwrap();
        assert_eq!((code, &e["code"], stdout.len()), (Some(2), &"invalid".into(), 0), "{args:?}");
        assert!(e["what"].as_str().unwrap().contains("Usage: holdfast"), "{e}");
    }
    let (code, stderr, _) = out(&["volume", "shwo"]);
    assert!(
        code == Some(2) && stderr.starts_with("holdfast: unrecognized") && stderr.contains("similar subcommand"),
        "{stderr}"
    );
    assert_eq!(out(&["--help", "-o", "json"]).0, Some(0));
    // Ports beyond the last one.
    let dir = tempfile::tempdir().unwrap();
    let e = run(&["dev", "--port", "65530", "--dir", dir.path().join("d").to_str().unwrap()]).unwrap_err();
    assert!(e.starts_with("[2]") && e.contains("65535"), "{e}");
}

#[test]
fn events_are_told_as_they_happen() {
    let c = Cluster::new(1);
    let mut follow = Command::new(binary())
        .args(["--endpoint", &c.nodes[0].http, "events", "--follow", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (tx, rx) = std::sync::mpsc::channel();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    std::thread::spawn(move || lines.map_while(Result::ok).all(|l| tx.send(l).is_ok()));
    let next = |what: &str| {
        until(what, || {
            loop {
                let line = rx.try_recv().map_err(|e| e.to_string())?;
                let e: Value = serde_json::from_str(&line).map_err(|e| format!("{e}: {line}"))?;
                if e["kind"] == what {
                    return Ok(e);
                }
            }
        })
    };
    next("disk.added");
    // What happens after it has begun to listen.
    for round in 0..3 {
        let name = format!("v{round}");
        c.ok(&["volume", "create", &name, "size=16MiB", "replicas=1"]);
        let e = next("volume.created");
        assert!(e.to_string().contains(&name), "{e}");
    }
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn a_node_that_is_refused_io_uring_works_with_threads_and_says_so() {
    let mut c = Cluster::prepared(1, |n| n.refused = Some(seccomp::NO_IO_URING));
    until("the disk to be in service", || {
        let disks = c.status()?["disks_here"].clone();
        if disks[0]["backend"] == "threads" { Ok(()) } else { Err(disks.to_string()) }
    });
    assert!(c.nodes[0].log().contains("io_uring refused"), "{}", c.nodes[0].log());
    assert_eq!(c.status().unwrap()["disks_here"][0]["backend"], "threads");
    c.ok(&["volume", "create", "v", "size=64MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    let data: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    for i in 0..16 {
        nbd.write(i << 20, &data).unwrap();
    }
    c.nodes[0].kill();
    // The next life may use io_uring again, on the same disk.
    c.nodes[0].refused = None;
    c.nodes[0].start();
    let mut nbd = until("the volume to come back", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
    for i in 0..16 {
        assert!(nbd.read(i << 20, 1 << 20).unwrap() == data, "MiB {i}");
    }
    assert_eq!(c.status().unwrap()["disks_here"][0]["backend"], "io_uring");
}

fn disk_states(c: &Cluster) -> Result<Vec<String>, String> {
    let disks = c.status()?["disks"].as_object().ok_or("no disks")?.clone();
    Ok(disks.values().map(|d| format!("#{} of node {}: {}", d["id"], d["node"], d["state"])).collect())
}

fn disk_says(c: &Cluster, what: &[&str]) {
    until("the disk to be reported", || {
        let all = disk_states(c)?;
        if all.iter().any(|d| what.iter().all(|w| d.contains(w))) { Ok(()) } else { Err(all.join("; ")) }
    });
}

/// Its bytes are gone, not only its mount: it is never formatted by itself, takes part again when
/// an operator adds it, and holds everything again then.
#[test]
fn a_wiped_disk_is_told_and_serves_again_once_it_is_added() {
    let mut c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=64MiB"]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, "v").unwrap();
    let data: Vec<u8> = (0..4 << 20).map(|i: u32| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    nbd.write(0, &data).unwrap();
    c.nodes[2].kill();
    let disk = c.nodes[2].dir.join("disk");
    let file = disk.join("holdfast.disk");
    let len = std::fs::metadata(&file).unwrap().len();
    std::fs::write(&file, b"").unwrap();
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(len).unwrap();
    c.nodes[2].start();
    disk_says(&c, &["of node 3", "its store is gone", "holdfast disk add"]);
    assert!(std::fs::read(&file).unwrap()[..1 << 20].iter().all(|b| *b == 0), "a wiped disk was formatted by itself");
    nbd.write(8 << 20, &data).unwrap();
    let said = run(&["--endpoint", &c.nodes[2].http, "disk", "add", disk.to_str().unwrap()]).unwrap();
    assert!(said.contains("added"), "{said}");
    until("three replicas, one of them on the new disk", || {
        let v = c.volume("v");
        let all: Vec<Value> = v["shards"][0]["replicas"].as_object().unwrap().values().cloned().collect();
        let good = all.len() == 3 && all.iter().all(|r| r["state"] == "in_sync");
        if good && all.iter().any(|r| r["node"] == 3) { Ok(()) } else { Err(format!("{all:?}")) }
    });
    drop(nbd);
    c.ok(&["volume", "detach", "v"]);
    c.ok(&["volume", "attach", "v", "--node", "n3"]);
    c.ok(&["volume", "set", "v", "read_from=local"]);
    let mut nbd = Nbd::connect(&c.nodes[2].nbd, "v").unwrap();
    assert!(nbd.read(0, 4 << 20).unwrap() == data && nbd.read(8 << 20, 4 << 20).unwrap() == data);
}

#[test]
fn disks_that_were_exchanged_are_told_and_serve_when_they_are_back() {
    let mut c = Cluster::new(2);
    let file = |c: &Cluster, i: usize| c.nodes[i].dir.join("disk/holdfast.disk");
    let exchange = |c: &mut Cluster| {
        c.nodes.iter_mut().for_each(|n| n.stop());
        let (a, b, aside) = (file(c, 0), file(c, 1), c.dir.path().join("aside"));
        std::fs::rename(&a, &aside).unwrap();
        std::fs::rename(&b, &a).unwrap();
        std::fs::rename(&aside, &b).unwrap();
        c.nodes.iter_mut().for_each(|n| n.start());
    };
    exchange(&mut c);
    disk_says(&c, &["of node 1", "belongs to node #2 of this cluster"]);
    disk_says(&c, &["of node 2", "belongs to node #1 of this cluster"]);
    exchange(&mut c);
    until("both to serve again", || {
        let all = disk_states(&c)?;
        if all.iter().all(|d| d.ends_with("\"ok\"")) { Ok(()) } else { Err(all.join("; ")) }
    });
}

/// C11: data that a crashed process left in the page cache may never reach the media. So a disk
/// whose file system cannot be synced is not used, and loses nothing by that.
#[test]
fn a_disk_is_not_trusted_before_its_file_system_is_synced() {
    let mut c = Cluster::new(1);
    c.ok(&["volume", "create", "v", "size=16MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    Nbd::connect(&c.nodes[0].nbd, "v").unwrap().write(4096, &[7; 4096]).unwrap();
    c.nodes[0].kill();
    c.nodes[0].refused = Some(seccomp::SYNCFS_FAILS);
    c.nodes[0].start();
    disk_says(&c, &["of node 1", "cannot be synced", "Input/output error"]);
    assert_eq!(c.status().unwrap()["disks_here"], serde_json::json!([]));
    assert!(Nbd::connect(&c.nodes[0].nbd, "v").is_err(), "it is served from a disk that is not in service");
    c.nodes[0].stop();
    c.nodes[0].refused = None;
    c.nodes[0].start();
    let mut nbd = until("the volume to come back", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
    assert_eq!(nbd.read(4096, 4096).unwrap(), vec![7; 4096]);
}

/// A node whose log is gone and whose identity is not must not vote as if it had never voted, with
/// or without a leader.
#[test]
fn a_voter_whose_metadata_is_gone_does_not_begin_anew() {
    let mut c = Cluster::new(3);
    c.ok(&["volume", "create", "v", "size=16MiB"]);
    let victim = (0..3).find(|i| *i != c.leader()).unwrap();
    let file = c.nodes[victim].data_dir.join("node.json");
    let marked = || std::fs::read_to_string(&file).is_ok_and(|t| t.contains("\"has_log\": true"));
    until("it to remember that it has a log", || if marked() { Ok(()) } else { Err(String::new()) });
    c.nodes[victim].kill();
    std::fs::rename(c.nodes[victim].data_dir.join("meta"), c.dir.path().join("meta-kept")).unwrap();
    c.nodes[victim].start();
    does_not_start(&mut c.nodes[victim], 1, &["what this node has voted for", "holdfast rescue follow"]);
    until("the others to go on", || c.cli(&["volume", "create", "w", "size=16MiB", "replicas=2"]));
    // With its log it is the voter that it was.
    let meta = c.nodes[victim].data_dir.join("meta");
    std::fs::remove_dir_all(&meta).unwrap();
    std::fs::rename(c.dir.path().join("meta-kept"), &meta).unwrap();
    c.nodes[victim].start();
    until("it to be back", || {
        let s = status::whole(&[c.nodes[victim].http.clone()])?;
        if s["volumes"].as_object().is_some_and(|v| v.len() == 2) { Ok(()) } else { Err(s["revision"].to_string()) }
    });
}

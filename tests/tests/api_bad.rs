//! Wrong, forged, hostile and unlucky requests to the REST API of real nodes: each is refused in the words and within
//! the bounds that docs/api.md promises, and nothing else suffers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, descriptors, until};
use hf_tests::http::{Reply, change, get};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How much slower than the design's bounds a machine that many tests share may be.
const SLOW: u32 = 10;

/// Sends a request as it is, and reads what comes, also if the server stops reading before the end of the body.
fn raw<S: Read + Write>(mut s: S, head: &str, body: &[u8]) -> Reply {
    let _ = s.write_all(format!("{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len()).as_bytes());
    let _ = s.write_all(body);
    let mut all = Vec::new();
    let _ = s.read_to_end(&mut all);
    let text = String::from_utf8(all).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no whole answer: {text}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.into(), body: body.into() }
}

fn tcp(addr: &str) -> TcpStream {
    let s = TcpStream::connect(addr).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    s
}

/// A change with a body as it is.
fn post(addr: &str, path: &str, body: &[u8]) -> Reply {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {addr}\r\nHoldfast-CSRF: 1\r\nContent-Type: application/json; charset=utf-8"
    );
    raw(tcp(addr), &head, body)
}

/// The answer is this problem; its whole text.
fn problem(r: &Reply, status: u16, code: &str) -> Value {
    assert_eq!((r.status, r.header("content-type")), (status, Some("application/problem+json")), "{r:?}");
    let p = r.json();
    assert_eq!((p["status"].as_u64(), p["code"].as_str()), (Some(u64::from(status)), Some(code)), "{p}");
    assert!(r.header("holdfast-request").is_some(), "{r:?}");
    p
}

fn volume(addr: &str, name: &str, replicas: u32) -> Reply {
    let body = json!({"name": name, "spec": {"size": "1MiB", "replicas": replicas}});
    change(addr, "POST", "/v1/volumes", &[], &body).unwrap()
}

fn names(addr: &str) -> Vec<String> {
    let list = get(addr, "/v1/volumes?limit=1000").unwrap().good().unwrap();
    list["items"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap().to_string()).collect()
}

/// One node, on which 16 replicas have room, with an API socket.
fn one_node() -> Cluster {
    Cluster::prepared(1, |n| {
        n.extra = vec!["--disk-replicas".into(), "16".into()];
        n.extra.extend(["--api-socket".into(), n.dir.join("api.sock").display().to_string()]);
    })
}

#[test]
fn bodies_names_cursors_keys_and_strangers_are_refused_with_what_is_wrong() {
    let c = one_node();
    let a = c.nodes[0].http.as_str();
    bodies(a);
    paths_and_cursors(a);
    keys(a);
    strangers(a, &c.nodes[0].dir.join("api.sock"));
    no_room(a);
}

fn bodies(a: &str) {
    let spec = |attribute: &str, value: &str| {
        let body = format!(r#"{{"name": "a", "spec": {{"size": "1MiB", "{attribute}": {value}}}}}"#);
        post(a, "/v1/volumes", body.as_bytes())
    };
    let p = problem(&post(a, "/v1/volumes", br#"{"nam": "a", "spec": {"size": "1MiB"}}"#), 400, "unknown_attribute");
    assert!(p["subject"] == "/nam" && p["next"].as_str().unwrap().contains("\"name\""), "{p}");
    let p = problem(&spec("replicaz", "1"), 400, "unknown_attribute");
    assert!(p["subject"] == "/spec/replicaz" && p["next"].as_str().unwrap().contains("replicas"), "{p}");
    let p = problem(&post(a, "/v1/volumes?dryrun=true", b"{}"), 400, "unknown_attribute");
    assert!(p["next"].as_str().unwrap().contains("\"dry_run\""), "{p}");
    let p = problem(&spec("queue_depth", "9007199254740993"), 400, "invalid");
    assert!(p["subject"] == "/spec/queue_depth" && p["why"].as_str().unwrap().contains("2^53"), "{p}");
    for wrong in ["NaN", "Infinity", "1e400", "-1", "null", "[1]", "{}", "1 2", "\"\\ud800\""] {
        assert_eq!(problem(&spec("queue_depth", wrong), 400, "invalid")["fate"], "refuse");
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let p = problem(&spec("queue_depth", &deep), 400, "invalid");
    assert!(p["why"].as_str().unwrap().contains("recursion"), "{p}");
    problem(&post(a, "/v1/volumes", b"{\"name\": \"\xff\xfe\"}"), 400, "invalid");
    let long = format!(r#"{{"name": "a", "spec": {{"size": "1MiB", "label.x": "{}"}}}}"#, "x".repeat(2 << 20));
    problem(&post(a, "/v1/volumes", long.as_bytes()), 413, "too_large");
    let labels: BTreeMap<String, &str> = (0..10_000).map(|i| (format!("label.l{i}"), "x")).collect();
    let body = json!({"name": "a", "spec": labels}).to_string();
    problem(&post(a, "/v1/volumes", body.as_bytes()), 413, "too_large");
    assert_eq!(names(a), Vec::<String>::new(), "what was refused changed nothing");
}

fn paths_and_cursors(a: &str) {
    let (long, most) = ("a".repeat(64), "a".repeat(63));
    for name in ["a%2Fb", "a%00b", "%E2%80%AEabc", "%ff", "..%2f..%2fetc", "%2e%2e", "a%252Fb", " ", long.as_str()] {
        let name = name.replace(' ', "%20");
        problem(&get(a, &format!("/v1/volumes/{name}")).unwrap(), 400, "invalid");
        problem(&change(a, "DELETE", &format!("/v1/volumes/{name}"), &[], &json!({})).unwrap(), 400, "invalid");
    }
    for name in ["a/b", "a\0b", "\u{202e}abc", "", long.as_str()] {
        problem(&volume(a, name, 1), 400, "invalid");
    }
    problem(&get(a, &format!("/v1/volumes/{most}")).unwrap(), 404, "not_found");
    for number in ["9007199254740993", "-1", "1e3", "0x1", "18446744073709551616"] {
        problem(&get(a, &format!("/v1/disks/{number}")).unwrap(), 400, "invalid");
        problem(&get(a, &format!("/v1/replicas?disk={number}")).unwrap(), 400, "invalid");
    }
    for limit in ["0", "1001", "-1", "x"] {
        problem(&get(a, &format!("/v1/volumes?limit={limit}")).unwrap(), 400, "invalid");
    }
    for cursor in ["volume.zz", "node.6131", "volume.", "volume", "x", "volume.c3", "volume.%00", "disk.31"] {
        let r = get(a, &format!("/v1/volumes?after={cursor}")).unwrap();
        if r.status != 200 {
            assert_eq!(problem(&r, 400, "invalid")["subject"], "after");
        } else {
            assert_eq!(cursor, "volume.", "it stands for the beginning");
        }
    }
    let watch = |id: &str| {
        let head = format!("GET /v1/watch HTTP/1.0\r\nHost: {a}\r\nLast-Event-ID: {id}");
        let mut s = tcp(a);
        write!(s, "{head}\r\n\r\n").unwrap();
        BufReader::new(s).lines().map(Result::unwrap)
    };
    for forged in ["zz", "7-1", "000000000000000A-1", "0000000000000007-01"] {
        assert!(watch(forged).next().unwrap().contains(" 400 "), "{forged}");
    }
    let old: Vec<String> = watch("0000000000000007-3").take_while(|l| !l.starts_with("data:")).collect();
    assert!(old[0].contains(" 200 ") && old.last().unwrap() == "event: reset", "{old:?}");
    let began = Instant::now();
    let p = problem(&get(a, "/v1/volumes?min_revision=999999&wait=1").unwrap(), 503, "not_ready");
    assert!(p["fate"] == "retry" && began.elapsed() >= Duration::from_secs(1), "{p}");
}

fn keys(a: &str) {
    let with = |key: &str, name: &str| {
        let body = json!({"name": name, "spec": {"size": "1MiB", "replicas": 1}});
        change(a, "POST", "/v1/volumes", &[("Idempotency-Key", key)], &body).unwrap()
    };
    let first = with("k1", "once");
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, None), "{first:?}");
    let again = with("k1", "once");
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")), "{again:?}");
    assert_eq!(first.json()["volume"]["id"], again.json()["volume"]["id"]);
    problem(&with("k1", "other"), 422, "key_reused");
    problem(&with("k2", "once"), 409, "exists");
    let long = "k".repeat(129);
    for bad in ["", long.as_str(), "a b"] {
        problem(&with(bad, "third"), 400, "invalid");
    }
    let tag = get(a, "/v1/volumes/once").unwrap().header("etag").unwrap().to_string();
    let set = |tag: &str| {
        let body = json!({"spec": {"queue_depth": 7}});
        change(a, "PATCH", "/v1/volumes/once", &[("If-Match", tag)], &body).unwrap()
    };
    for other in ["\"999\"", "W/\"1\"", "\"x\"", "\"1\", \"2\""] {
        problem(&set(other), 412, "epoch_mismatch");
    }
    problem(&set("7"), 400, "invalid");
    assert_eq!(set(&tag).status, 200, "{tag}");
    problem(&set(&tag), 412, "epoch_mismatch");
    assert_eq!(names(a), ["once"]);
}

fn strangers(a: &str, socket: &std::path::Path) {
    let body = json!({"name": "evil", "spec": {"size": "1MiB", "replicas": 1}}).to_string();
    let send = |host: &str, more: &str| {
        raw(tcp(a), &format!("POST /v1/volumes HTTP/1.1\r\nHost: {host}{more}"), body.as_bytes())
    };
    let (csrf, kind) = ("\r\nHoldfast-CSRF: 1", "\r\nContent-Type: application/json");
    problem(&send(a, kind), 403, "forbidden");
    problem(&send(a, csrf), 415, "media_type");
    problem(&send(a, &format!("{csrf}\r\nContent-Type: text/plain")), 415, "media_type");
    problem(&send("evil.example:80", &format!("{csrf}{kind}")), 403, "forbidden");
    problem(&send("127.0.0.1.evil.example", &format!("{csrf}{kind}")), 403, "forbidden");
    assert_eq!(raw(tcp(a), &format!("TRACE /v1/volumes HTTP/1.1\r\nHost: {a}"), b"").status, 405);
    let wrong = raw(tcp(a), &format!("PUT /v1/volumes HTTP/1.1\r\nHost: {a}{csrf}{kind}"), b"{}");
    problem(&wrong, 405, "method");
    assert_eq!(wrong.header("allow"), Some("GET,HEAD,POST"));
    assert_eq!(names(a), ["once"], "strangers changed nothing");
    let s = UnixStream::connect(socket).unwrap();
    let local = raw(s, "POST /v1/volumes HTTP/1.1\r\nHost: x", body.as_bytes());
    assert_eq!(local.status, 201, "the socket needs neither: {local:?}");
    assert_eq!(names(a), ["evil", "once"]);
}

/// What cannot be placed is refused, and the command line ends with 4.
fn no_room(a: &str) {
    problem(&volume(a, "wide", 3), 409, "unplaceable");
    let e =
        hf_tests::cluster::run(&["--endpoint", a, "volume", "create", "wide", "size=1MiB", "replicas=3"]).unwrap_err();
    assert!(e.starts_with("[4]"), "{e}");
    let all: Vec<Reply> = (2..20).map(|i| volume(a, &format!("v{i}"), 1)).collect();
    let (made, refused) = all.split_at(14);
    assert!(made.iter().all(|r| r.status == 201), "{made:?}");
    for r in refused {
        assert_eq!(problem(r, 409, r.json()["code"].as_str().unwrap())["fate"], "refuse");
    }
    assert_eq!(names(a).len(), 16);
}

#[test]
fn many_and_slow_connections_keep_nobody_waiting() {
    assert!(descriptors() > 3000);
    let c = Cluster::new(1);
    let a = c.nodes[0].http.as_str();
    let began = Instant::now();
    let mut slow = tcp(a);
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap();
    let seats: Vec<TcpStream> = (0..900).map(|_| tcp(a)).collect();
    let now = Instant::now();
    assert_eq!(get(a, "/v1/volumes").unwrap().status, 200);
    eprintln!("beside 900 idle connections an answer came in {} ms", now.elapsed().as_millis());
    let more: Vec<TcpStream> = (0..200).map(|_| tcp(a)).collect();
    let turned_away = more.into_iter().map(|mut s| {
        let mut said = String::new();
        s.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let _ = s.read_to_string(&mut said);
        said
    });
    let turned_away: Vec<String> = turned_away.filter(|s| !s.is_empty()).take(1).collect();
    assert!(turned_away.iter().all(|s| s.contains(" 503 ") && s.contains("Retry-After")), "{turned_away:?}");
    assert_eq!(turned_away.len(), 1, "1,100 connections and nobody was turned away");
    let mut rest = Vec::new();
    slow.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let _ = slow.read_to_end(&mut rest);
    let took = began.elapsed();
    eprintln!("a head that never ends was cut off after {} ms", took.as_millis());
    assert!((Duration::from_secs(9)..Duration::from_secs(50)).contains(&took), "{took:?}");
    drop(seats);
    until("others to be served again", || match get(a, "/v1/volumes") {
        Ok(r) if r.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Signals all nodes but the first.
fn signal(c: &Cluster, signal: i32) {
    for n in &c.nodes[1..] {
        // SAFETY: a child of ours that has not been waited for.
        assert_eq!(unsafe { libc::kill(n.pid().unwrap() as i32, signal) }, 0);
    }
}

#[test]
fn a_node_that_is_cut_off_reads_what_it_knows_and_refuses_changes_at_once() {
    let c = Cluster::new(3);
    assert_eq!(volume(&c.nodes[0].http, "v", 3).status, 201);
    signal(&c, libc::SIGSTOP);
    let a = c.nodes[0].http.clone();
    until("the node to notice", || {
        let r = get(&a, "/v1/volumes/v")?;
        match (r.status, r.header("holdfast-stale")) {
            (200, Some(_)) => Ok(()),
            _ => Err(format!("{} {:?}", r.status, r.header("holdfast-stale"))),
        }
    });
    until("health to be unknown", || {
        let h = get(&a, "/v1/health")?.good()?;
        let known = h["items"].as_array().ok_or("no items")?;
        let unknown = h["status"] == "unknown" || known.iter().any(|i| i["code"] == "METADATA_NO_LEADER");
        if unknown { Ok(()) } else { Err(h["status"].to_string()) }
    });
    let began = Instant::now();
    let p = problem(&volume(&a, "w", 1), 503, "no_leader");
    let took = began.elapsed();
    eprintln!("cut off: a change was refused after {} ms", took.as_millis());
    assert!(p["fate"] == "retry" && took < Duration::from_secs(2) * SLOW, "{took:?} {p}");
    signal(&c, libc::SIGCONT);
    until("changes to go on", || match volume(&a, "w", 1) {
        r if r.status == 201 || r.json()["code"] == "exists" => Ok(()),
        r => Err(r.body),
    });
}

#[test]
fn a_leader_that_dies_leaves_one_outcome_for_each_key() {
    let mut c = Cluster::new(3);
    let leader = c.leader();
    let other = c.nodes[(leader + 1) % 3].http.clone();
    let dead = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..4).map(|w| (w, other.clone(), dead.clone())).collect();
    let workers = workers.into_iter().map(|(w, addr, dead)| std::thread::spawn(move || creates(w, &addr, &dead)));
    let workers: Vec<_> = workers.collect();
    until("creates to be under way", || if names(&other).len() >= 4 { Ok(()) } else { Err(String::new()) });
    c.nodes[leader].kill();
    dead.store(true, Ordering::SeqCst);
    let done: Vec<_> = workers.into_iter().map(|w| w.join().unwrap()).collect();
    c.nodes[leader].start();
    let repeats: u32 = done.iter().map(|(_, r)| r).sum();
    let mut wanted: Vec<(String, u64)> = done.into_iter().flat_map(|(ids, _)| ids).collect();
    wanted.sort();
    eprintln!("the leader died among {} creates: {repeats} repeats", wanted.len());
    let list = get(&other, "/v1/volumes?limit=1000").unwrap().good().unwrap();
    let all = list["items"].as_array().unwrap().iter();
    let found: Vec<(String, u64)> =
        all.map(|v| (v["name"].as_str().unwrap().into(), v["id"].as_u64().unwrap())).collect();
    assert_eq!(found, wanted, "each volume exists once, as its creator was told");
}

/// Creates volumes one after the other until five were answered by another leader: their numbers, and how often a
/// request was repeated.
fn creates(worker: usize, addr: &str, dead: &AtomicBool) -> (Vec<(String, u64)>, u32) {
    let (mut ids, mut repeats, mut after) = (Vec::new(), 0, 0);
    for i in 0.. {
        let name = format!("v{worker}-{i}");
        let body = json!({"name": name, "spec": {"size": "1MiB", "replicas": 1}});
        after += usize::from(dead.load(Ordering::SeqCst));
        let (id, asked) = answered(addr, &name, &body);
        repeats += asked - 1;
        ids.push((name, id));
        if after == 5 {
            break;
        }
    }
    (ids, repeats)
}

/// Asks with one key until there is an outcome, then once more: the volume's number, and how often was asked.
fn answered(addr: &str, name: &str, body: &Value) -> (u64, u32) {
    let key = [("Idempotency-Key", name)];
    let mut asked = 0;
    let id = until("an outcome", || {
        asked += 1;
        let r = change(addr, "POST", "/v1/volumes?wait=0", &key, body)?;
        match (r.status, r.json()) {
            (201 | 202, v) => v["volume"]["id"].as_u64().ok_or_else(|| format!("it does not show yet: {v}")),
            (500.., p) if p["fate"] == "retry" || p["fate"] == "unknown" => Err(format!("{}", p["code"])),
            (_, p) => panic!("{name}: {p}"),
        }
    });
    let again = until("the same outcome", || {
        let r = change(addr, "POST", "/v1/volumes?wait=0", &key, body)?;
        match r.status {
            201 | 202 if r.header("idempotency-replayed") == Some("true") => Ok(r.json()["volume"]["id"].as_u64()),
            500.. => Err(r.body),
            _ => panic!("{name}: {r:?}"),
        }
    });
    assert!(again.is_none_or(|a| a == id), "{name}: {again:?}, then {id}");
    (id, asked)
}

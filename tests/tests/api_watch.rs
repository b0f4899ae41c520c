//! The REST API of real nodes under load: 200 watchers hear of a change in time and resume without a gap, and a page
//! of a list of 2,000 volumes is quick and small. The bounds are the design's; of times ten times as much is allowed
//! here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, descriptors};
use hf_tests::http::{Reply, change, get};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How much slower than the design's bounds a machine that many tests share may be.
const SLOW: u32 = 10;

fn volume(addr: &str, name: &str, replicas: u32) -> Reply {
    let body = json!({"name": name, "spec": {"size": "1MiB", "replicas": replicas}});
    change(addr, "POST", "/v1/volumes", &[], &body).unwrap()
}

/// A watch: its lines, from a connection of its own.
struct Watch(BufReader<TcpStream>);

/// A message of a watch.
#[derive(Debug)]
struct Message {
    event: String,
    id: String,
    data: Value,
}

impl Watch {
    fn new(addr: &str, query: &str, last: &str) -> Watch {
        let mut s = TcpStream::connect(addr).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let resume = if last.is_empty() { String::new() } else { format!("Last-Event-ID: {last}\r\n") };
        // Without chunks: each line is a line of the stream.
        write!(s, "GET /v1/watch?{query} HTTP/1.0\r\nHost: {addr}\r\n{resume}\r\n").unwrap();
        let mut r = BufReader::new(s);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(r.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.contains(" 200 ") && head.contains("text/event-stream"), "{head}");
        Watch(r)
    }

    fn next(&mut self) -> Message {
        let mut m = Message { event: String::new(), id: String::new(), data: Value::Null };
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            match line.trim_end().split_once(": ") {
                Some(("event", v)) => m.event = v.into(),
                Some(("id", v)) => m.id = v.into(),
                Some(("data", v)) => m.data = serde_json::from_str(v).unwrap(),
                None if line.trim_end().is_empty() && !m.event.is_empty() => return m,
                _ => {}
            }
        }
    }

    /// The next message for which this holds.
    fn wait(&mut self, mut f: impl FnMut(&Message) -> bool) -> Message {
        loop {
            let m = self.next();
            if f(&m) {
                return m;
            }
        }
    }
}

#[test]
fn watchers_hear_of_every_change_in_time_and_go_on_where_they_were() {
    assert!(descriptors() > 1000);
    let c = Cluster::new(3);
    let a = c.nodes[0].http.as_str();
    let revision = get(a, "/v1/volumes").unwrap().json()["revision"].as_u64().unwrap();
    let mut first = Watch::new(a, &format!("kinds=event&after={revision}"), "");
    assert_eq!(volume(a, "w0", 3).status, 201);
    let seen = first.wait(|m| m.event == "event" && m.data["object"]["subject"] == "w0");
    let bookmark = first.wait(|m| m.event == "bookmark");
    assert!(bookmark.data["revision"].as_u64().unwrap() > revision && !bookmark.id.is_empty(), "{bookmark:?}");
    drop(first);
    for i in 1..6 {
        assert_eq!(volume(a, &format!("w{i}"), 3).status, 201);
    }
    // From the first event on: exactly what the list says, in order, nothing twice.
    let after: u64 = seen.data["key"].as_str().unwrap().parse().unwrap();
    let list = get(a, &format!("/v1/events?after={after}&limit=1000")).unwrap().json();
    let wanted: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|e| &e["message"]).collect();
    let mut resumed = Watch::new(&c.nodes[1].http, "kinds=event", &seen.id);
    let heard: Vec<Value> = (0..wanted.len())
        .map(|_| resumed.wait(|m| m.event != "bookmark" && m.event != "soft").data["object"]["message"].clone())
        .collect();
    assert_eq!(heard.iter().collect::<Vec<_>>(), wanted, "a gap, or something twice");
    crowd(&c);
}

/// 200 watchers over three nodes hear of a change.
fn crowd(c: &Cluster) {
    let revision = get(&c.nodes[0].http, "/v1/volumes").unwrap().json()["revision"].as_u64().unwrap();
    let watchers: Vec<_> = (0..200)
        .map(|i| {
            let mut w = Watch::new(&c.nodes[i % 3].http, &format!("kinds=volume&after={revision}"), "");
            std::thread::spawn(move || {
                w.wait(|m| m.event == "put" && m.data["key"] == "crowd");
                Instant::now()
            })
        })
        .collect();
    let began = Instant::now();
    assert_eq!(volume(&c.nodes[1].http, "crowd", 3).status, 201);
    let committed = began.elapsed();
    let mut took: Vec<Duration> = watchers.into_iter().map(|w| w.join().unwrap() - began).collect();
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    eprintln!("200 watchers: p99 {} ms after the request ({} ms to answer it)", p99.as_millis(), committed.as_millis());
    assert!(p99 < Duration::from_secs(1) * SLOW, "{took:?}");
}

#[test]
fn a_page_of_100_of_2000_volumes_is_quick_and_small() {
    const VOLUMES: usize = 2000;
    let c = Cluster::with(1, &["--disk-replicas", "4096"]);
    let a = c.nodes[0].http.clone();
    let workers: Vec<_> = (0..8)
        .map(|w| {
            let a = a.clone();
            std::thread::spawn(move || {
                for i in (w..VOLUMES).step_by(8) {
                    let body = json!({"name": format!("v{i:04}"), "spec": {"size": "1MiB", "replicas": 1}});
                    let r = change(&a, "POST", "/v1/volumes?wait=0", &[], &body).unwrap();
                    assert!(r.status == 201 || r.status == 202, "{r:?}");
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|w| w.join().unwrap());
    let (mut took, mut bytes, mut seen, mut next) = (Vec::new(), 0, Vec::new(), String::new());
    for round in 0.. {
        let began = Instant::now();
        let r = get(&a, &format!("/v1/volumes?limit=100{next}")).unwrap();
        took.push(began.elapsed());
        bytes = bytes.max(r.body.len());
        let list = r.good().unwrap();
        if round < VOLUMES / 100 {
            seen.extend(list["items"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap().to_string()));
        }
        next = list["next"].as_str().map_or_else(String::new, |n| format!("&after={n}"));
        if round >= 200 {
            break;
        }
    }
    let wanted: Vec<String> = (0..VOLUMES).map(|i| format!("v{i:04}")).collect();
    assert_eq!(seen, wanted, "the pages together are the list");
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    eprintln!("a page of 100 of {VOLUMES} volumes: p99 {} ms, at most {bytes} bytes", p99.as_millis());
    assert!(p99 < Duration::from_millis(50) * SLOW && bytes <= 200_000, "{p99:?}, {bytes} bytes");
}

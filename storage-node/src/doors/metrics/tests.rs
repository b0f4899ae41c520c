//! The page of a made-up node: its bound, its time, its lines; and the reference that is made from the tables.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::family::{About, Metric};
use super::*;
use hf_policy::{DiskId, Epoch, SessionId, Term, Ver, VolumeId};
use hf_reactor::latency::{Latency, Op};
use hf_reactor::{DiskStatus, LinkStatus, VolumeLoad, VolumeStatus};
use hf_repl_core::coordinator::{Phase, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

fn shard(writes: u64) -> Status {
    let stats = hf_repl_core::coordinator::Stats { writes, write_bytes: writes * 4096, ..Default::default() };
    Status {
        phase: Phase::Serving,
        unsealed: None,
        term: Term(1),
        epoch: Epoch(1),
        in_sync: 3,
        outstanding: 0,
        draining: None,
        stable: Ver::default(),
        reconciled_blocks: 0,
        out: 0,
        sync: None,
        scrub: None,
        pace: 1 << 20,
        pace_p99: (writes, 2 * writes),
        stats,
    }
}

/// A volume with so many shards, each of which has seen so many writes.
fn volume(id: u64, shards: usize, writes: u64) -> (VolumeStatus, VolumeLoad) {
    let (vol, session) = (VolumeId(id), SessionId(u128::from(id) + 1));
    let mut latency = Latency::default();
    for i in 0..writes {
        latency.count(Op::Write, 100 + i);
        latency.count(Op::Read, 1_000 + i);
    }
    let shards = (0..shards).map(|_| shard(writes)).collect();
    let status = VolumeStatus { vol, session, over: false, shards, connections: 1, requests: 2, payload: 3, writes: 0 };
    (status, VolumeLoad { vol, session, latency, read_bytes: 0, written_bytes: writes * 4096 })
}

/// A node with these volumes, in two reactors, and so many links in each of them.
fn scrape(volumes: Vec<(VolumeStatus, VolumeLoad)>, links: u64) -> Scrape {
    let mut status = vec![ReactorStatus::default(), ReactorStatus::default()];
    let mut loads = vec![ReactorLoad::default(), ReactorLoad::default()];
    for (i, (s, l)) in volumes.into_iter().enumerate() {
        loads[i % 2].latency.add(&l.latency);
        loads[i % 2].volumes.push(l);
        status[i % 2].volumes.push(s);
    }
    for s in &mut status {
        s.links = (1..=links)
            .map(|d| LinkStatus {
                disk: DiskId(1000 + d),
                sent: d,
                received: 1,
                in_flight: 0,
                window: 0,
                queued: 0,
                coming: 0,
            })
            .collect();
    }
    let member = OfMember {
        wrong: wrong(),
        node: NodeId(1),
        facts: node::Facts { leads: true, ..Default::default() },
        doors: vec![node::Door { name: "nbd", here: 1, cut: 2 }],
        state: Arc::default(),
        status,
        loads,
    };
    Scrape { process: Default::default(), member: Some(member) }
}

/// One code that is raised, and no job.
fn wrong() -> health::Wrong {
    let item = hf_control::model::HealthItem {
        code: "NODE_DOWN".into(),
        severity: hf_control::model::Severity::Error,
        subject: "node/n2".into(),
        message: "it is silent".into(),
        means: "It is silent.".into(),
        action: "Start it.".into(),
        since: None,
        muted: false,
    };
    let jobs = ["running", "waiting", "held"].map(|state| health::JobCount { state, jobs: 0 });
    health::Wrong { items: vec![item], jobs }
}

/// Every line by name and labels.
fn lines(page: &str) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for l in page.lines().filter(|l| !l.starts_with('#')) {
        let (name, value) = l.rsplit_once(' ').unwrap();
        assert!(all.insert(name.to_string(), value.parse().unwrap()).is_none(), "{name} stands twice");
    }
    all
}

fn sum(all: &BTreeMap<String, f64>, name: &str) -> f64 {
    all.iter().filter(|(k, _)| k.strip_prefix(name).is_some_and(|r| r.starts_with('{'))).map(|(_, v)| v).sum()
}

/// The bound holds whatever there is, the page says how much it holds, and nothing that is left out is lost from a sum.
#[test]
fn a_page_is_bounded_and_says_what_it_left_out() {
    let many = |n: u64, shards| (0..n).map(|i| volume(i, shards, i)).collect::<Vec<_>>();
    for (volumes, links) in [(many(3, 1), 2), (many(1000, 1), 40), (many(300, 9), 2000), (vec![volume(0, 900, 5)], 0)] {
        let n = volumes.len() as f64;
        let writes: u64 = volumes.iter().flat_map(|(s, _)| &s.shards).map(|s| s.stats.writes).sum();
        let requests: u64 = volumes.iter().map(|(_, l)| l.latency.of(Op::Write).total()).sum();
        let sent = 2 * (1..=links).sum::<u64>();
        let all = lines(&text(scrape(volumes, links)).unwrap());
        assert!(all.len() <= room::MOST_SERIES, "{} lines", all.len());
        assert_eq!(all["holdfast_metrics_series"], all.len() as f64);
        let left_out = all["holdfast_metrics_series_left_out"];
        assert_eq!(left_out > 0.0, all.keys().any(|k| k.contains("=\"_other\"")), "{left_out} lines left out");
        assert_eq!(sum(&all, "holdfast_volume_writes_total"), writes as f64);
        assert_eq!(sum(&all, "holdfast_volume_connections"), n);
        assert_eq!(sum(&all, "holdfast_link_sent_bytes_total"), sent as f64);
        let of_volumes = |(k, _): &(&String, &f64)| k.starts_with("holdfast_volume_request_duration_seconds_count{");
        let timed: f64 = all.iter().filter(of_volumes).filter(|(k, _)| k.contains("\"write\"")).map(|(_, v)| v).sum();
        assert_eq!(timed, requests as f64);
        assert_eq!(all["holdfast_request_duration_seconds_count{op=\"write\"}"], requests as f64);
    }
}

/// Those that are used most have lines of their own, and a page with room for all leaves nobody out.
#[test]
fn the_busiest_volumes_have_lines_of_their_own() {
    let all = lines(&text(scrape((0..1000).map(|i| volume(i, 1, i)).collect(), 0)).unwrap());
    let has = |metric: &str, id: u64| all.contains_key(&format!("holdfast_{metric}{{volume=\"#{id}\",shard=\"0\"}}"));
    let timed =
        |id| all.contains_key(&format!("holdfast_volume_request_duration_seconds_sum{{volume=\"#{id}\",op=\"read\"}}"));
    assert!(has("volume_reads_total", 999) && has("volume_writes_total", 700) && !has("volume_reads_total", 10));
    assert!((801..1000).all(timed) && !timed(700));
    // Of what cannot be added up the worst is shown.
    assert!(all["holdfast_volume_copy_calm_p99_seconds{volume=\"_other\"}"] < 0.0007);
    let few = lines(&text(scrape((0..100).map(|i| volume(i, 1, i)).collect(), 0)).unwrap());
    assert_eq!(few["holdfast_metrics_series_left_out"], 0.0);
}

/// The time is that of this build, which is optimised; the bound is of the design, 200 ms.
#[test]
fn a_page_of_a_thousand_volumes_takes_less_than_200_ms() {
    let volumes: Vec<_> = (0..1000).map(|i| volume(i, 1, i % 50)).collect();
    let best = (0..5).map(|_| {
        let s = scrape(volumes.clone(), 100);
        let began = Instant::now();
        let page = text(s).unwrap();
        (began.elapsed(), page.len())
    });
    let (took, bytes) = best.min().unwrap();
    println!("{bytes} bytes in {took:?}");
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_histogram_counts_each_request_once_in_every_bucket_above_it() {
    let (status, mut load) = volume(7, 1, 0);
    for us in [40, 50, 51, 90, 4_999_999, 7_000_000] {
        load.latency.count(Op::Flush, us);
    }
    let all = lines(&text(scrape(vec![(status, load)], 0)).unwrap());
    let of = |what: &str| all[&format!("holdfast_volume_request_duration_seconds_{what}")];
    let bucket = |le: &str| of(&format!("bucket{{volume=\"#7\",op=\"flush\",le=\"{le}\"}}"));
    assert_eq!(["5e-05", "0.0001", "0.0002", "1", "5", "+Inf"].map(bucket), [2.0, 4.0, 4.0, 4.0, 5.0, 6.0]);
    assert_eq!(of("count{volume=\"#7\",op=\"flush\"}"), 6.0);
    assert!((of("sum{volume=\"#7\",op=\"flush\"}") - 12.00023).abs() < 1e-6);
    // An operation that nobody asked for takes no lines of a volume, and stands at zero for the node.
    assert!(!all.keys().any(|k| k.contains("volume=\"#7\",op=\"trim\"")));
    assert_eq!(all["holdfast_request_duration_seconds_count{op=\"trim\"}"], 0.0);
}

fn recorded(id: u32, path: &str, state: &str) -> hf_meta_core::record::DiskRecord {
    let uuid = format!("{id:032x}");
    let json = format!(
        r#"{{"id":{id},"node":1,"uuid":"{uuid}","path":{path:?},"media":"ssd","capacity":1,"state":{state},"rev":1}}"#
    );
    serde_json::from_str(&json).unwrap()
}

/// A disk that could not be opened has lines like any other; those of other nodes have none.
#[test]
fn every_recorded_disk_has_a_line() {
    let mut state = ClusterState::default();
    for d in
        [recorded(1, "/a", "\"ok\""), recorded(2, "/b \"x\"\\", "\"ok\""), recorded(3, "/c", r#"{"failed":"EIO"}"#)]
    {
        state.disks.insert(d);
    }
    let mut other = recorded(4, "/d", "\"ok\"");
    other.node = NodeId(2);
    state.disks.insert(other);
    let mut s = scrape(Vec::new(), 0);
    let m = s.member.as_mut().unwrap();
    m.state = Arc::new(state);
    let stats = hf_store::Stats { units_total: 5, ..Default::default() };
    m.status[0].disks.push(DiskStatus {
        disk: DiskId(1),
        stats,
        backend: "threads",
        failed: None,
        latched: false,
        failing: None,
        replicas: vec![],
    });
    let page = text(s).unwrap();
    let all = lines(&page);
    let of = |name: &str| [1, 2, 3, 4].map(|d| all.get(&format!("holdfast_{name}{{disk=\"{d}\"}}")).copied());
    assert_eq!(of("disk_in_service"), [Some(1.0), Some(0.0), Some(0.0), None]);
    assert_eq!(of("disk_failed"), [Some(0.0), Some(0.0), Some(1.0), None]);
    assert_eq!(of("disk_waiting"), [Some(0.0), None, None, None]);
    let escaped =
        r#"holdfast_disk_info{disk="2",path="/b \"x\"\\",media="ssd",uuid="00000000000000000000000000000002"} 1"#;
    assert!(page.contains(escaped), "{page}");
}

fn abouts<T>(table: &'static [Metric<T>]) -> Vec<About> {
    table.iter().map(|m| m.about).collect()
}

/// Heading, labels, metrics.
fn sections() -> Vec<(&'static str, &'static str, Vec<About>)> {
    vec![
        ("The process", "", abouts(node::PROCESS)),
        ("The process", "`version`", vec![node::BUILD]),
        ("The process", "", abouts(EXTENT)),
        ("The node, once it is part of a cluster", "", abouts(node::FACTS)),
        ("The node, once it is part of a cluster", "`listener`", abouts(node::DOORS)),
        ("The node, once it is part of a cluster", "`op`: read, write, flush, trim", vec![request::NODE]),
        ("The cluster, as this node knows it", "`code`, `severity`, `subject`, `muted`", vec![health::HEALTH]),
        ("The cluster, as this node knows it", "`state`", abouts(health::JOBS)),
        ("Each disk of the node that is on record", "`disk`, `path`, `media`, `uuid`", vec![disk::INFO]),
        ("Each disk of the node that is on record", "`disk`", abouts(disk::FARES)),
        ("Each disk of the node that is open", "`disk`", abouts(disk::OPEN)),
        ("Each link to a disk of another node", "`disk`", abouts(link::LINKS)),
        ("All links", "", abouts(link::HELD)),
        ("Each volume that is attached to the node", "`volume`, `class`", vec![volume::INFO]),
        ("Each volume that is attached to the node", "`volume`", abouts(volume::VOLUMES)),
        ("Each volume that is attached to the node", "`volume`, `op`", vec![request::VOLUME]),
        ("Each shard of an attached volume", "`volume`, `shard`", abouts(volume::SHARDS)),
    ]
}

const ABOVE: &str = "# Metrics

Made from the tables in `storage-node/src/doors/metrics/`; `UPDATE=1 cargo test -p holdfast reference` writes it anew.

Every node serves `/metrics` on its `http` address, in the text format of Prometheus. All names begin with `holdfast_`;
the base units are bytes and seconds. A counter begins at zero when the daemon starts, or when the volume is attached.
A client request of more than 1 MiB may be carried out, and then is counted, in pieces.

A page has at most 20,000 series. Where there are more disks, links or volumes than fit, those that matter least
(volumes by the requests of their attachment) are shown together under `_other`: as their sum, for times as the
longest. A count under `_other` may go down when one of them gets series of its own.
";

/// `UPDATE=1` writes it anew.
#[test]
fn the_reference_is_what_the_tables_say() {
    let mut text = String::from(ABOVE);
    let (mut names, mut last) = (BTreeSet::new(), "");
    for (heading, labels, metrics) in sections() {
        if heading != last {
            text += &format!("\n## {heading}\n\n| name | type | labels | help |\n| --- | --- | --- | --- |\n");
            last = heading;
        }
        for m in metrics {
            assert!(names.insert(m.name), "{} is there twice", m.name);
            let counter = m.kind == family::Kind::Counter;
            assert_eq!(counter, m.name.ends_with("_total"), "{} is a {:?}", m.name, m.kind);
            let kind = format!("{:?}", m.kind).to_lowercase();
            text += &format!("| `{}` | {kind} | {labels} | {} |\n", m.name, m.help);
        }
    }
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "run UPDATE=1 cargo test -p holdfast reference");
}

/// No metric is written that the reference does not name.
#[test]
fn the_page_has_no_metric_that_the_reference_lacks() {
    let mut s = scrape(vec![volume(1, 2, 3)], 2);
    let m = s.member.as_mut().unwrap();
    let mut state = ClusterState::default();
    state.disks.insert(recorded(1, "/a", "\"ok\""));
    m.state = Arc::new(state);
    let disk = DiskStatus {
        disk: DiskId(1),
        stats: Default::default(),
        backend: "threads",
        failed: None,
        latched: false,
        failing: None,
        replicas: vec![],
    };
    m.status[0].disks.push(disk);
    let page = text(s).unwrap();
    let written: BTreeSet<&str> =
        page.lines().filter_map(|l| l.strip_prefix("# TYPE holdfast_")?.split(' ').next()).collect();
    let told: BTreeSet<&str> = sections().iter().flat_map(|(_, _, m)| m).map(|m| m.name).collect();
    assert_eq!(written, told);
}

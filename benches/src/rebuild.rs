//! What filling a third replica costs clients, by the volume's `rebuild_impact`. One fio session at a fixed
//! load begins before the filling and goes on after it; every single latency is logged, so that the 99th
//! percentile beside the filling stands against that of the same session just before and after, and those two
//! against each other: what the machine does by itself. The beginning, when the rate is looked for, stands by
//! itself too. The rate that the coordinator allowed, and what it measured itself, are sampled once a second.

use hf_tests::cluster::{Cluster, http_get, tool_ok};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds of load before the filling begins, and after it has ended; the first two of each are not counted.
const CALM: u64 = 32;
/// Seconds in which the rate is looked for.
const BEGIN: u64 = 10;

/// Size of the replica that is filled, in MiB.
fn fill_mib() -> u64 {
    std::env::var("FILL_MIB").ok().and_then(|s| s.parse().ok()).unwrap_or(512)
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// fio at a fixed rate, whose log of latencies is read when it has ended.
struct Load {
    child: Child,
    log: String,
}

impl Load {
    fn start(c: &Cluster, uri: &str, iops: u32) -> Load {
        let log = c.dir.path().join("fio").display().to_string();
        let _ = std::fs::remove_file(format!("{log}_clat.1.log"));
        let child = Command::new("fio")
            .args([
                "--name=b",
                "--ioengine=nbd",
                &format!("--uri={uri}"),
                &format!("--size={}M", fill_mib()),
                "--time_based",
                "--runtime=1200",
            ])
            .args(["--rw=randwrite", "--bs=4k", "--iodepth=8", &format!("--rate_iops={iops}")])
            .args([&format!("--write_lat_log={log}"), "--log_unix_epoch=1"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Load { child, log }
    }

    /// Ends it; times (Unix, ms) and latencies (µs).
    fn stop(mut self) -> Vec<(u64, f64)> {
        let pid = self.child.id().to_string();
        tool_ok("kill", &["-INT", &pid]);
        let _ = self.child.wait();
        let text = std::fs::read_to_string(format!("{}_clat.1.log", self.log)).unwrap();
        let line = |l: &str| {
            let mut f = l.split(',').map(str::trim);
            Some((f.next()?.parse::<f64>().ok()? as u64, f.next()?.parse::<f64>().ok()? / 1000.0))
        };
        text.lines().filter_map(line).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many of a session's latencies are from those times, and their p99.
fn p99(all: &[(u64, f64)], times: &[(u64, u64)]) -> (usize, f64) {
    let within = |at: &u64| times.iter().any(|(from, to)| (*from..*to).contains(at));
    let mut some: Vec<f64> = all.iter().filter(|(at, _)| within(at)).map(|(_, us)| *us).collect();
    some.sort_by(f64::total_cmp);
    (some.len(), some.get(some.len() * 99 / 100).copied().unwrap_or(0.0))
}

/// A gauge of the volume on the node that coordinates it.
fn gauge(page: &str, name: &str) -> f64 {
    let of = |l: &&str| l.starts_with(&format!("holdfast_volume_{name}{{")) && l.contains("rb");
    page.lines().find(of).and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

pub fn run() {
    // Room for the volume, what its writes replace, and a volume whose space is not given back yet.
    let c = &Cluster::prepared(3, |n| (n.sparse, n.disk_size) = (false, format!("{}MiB", 4 * fill_mib())));
    alone(c);
    println!(
        "\n4K rand writes at 1,000 IOPS while a third replica is filled with {} MiB; p99 in µs, of one session",
        fill_mib()
    );
    println!(
        "ratio: beside the filling to {CALM} s before and after it together; quiet: after to before, without any filling"
    );
    println!("rates: MiB/s that the coordinator allowed, second by second (what it measured: undisturbed/beside)\n");
    println!(
        "{:<15} {:>8} {:>8} {:>8} {:>6} {:>6} {:>12} {:>8} {:>12}  rates",
        "rebuild_impact", "before", "beside", "after", "ratio", "quiet", "first 10 s", "n", "filled in, s"
    );
    for impact in ["0%", "20%", "100%"] {
        fill(c, impact);
    }
}

/// A volume of two replicas, attached and written whole.
fn volume(c: &Cluster, attrs: &[&str]) -> String {
    let size = format!("size={}MiB", fill_mib());
    c.ok(&[&["volume", "create", "rb", &size, "replicas=2", "nodes=n1,n2"][..], attrs].concat());
    c.ok(&["volume", "attach", "rb", "--node", "n1"]);
    let uri = c.unix_uri(0, "rb");
    for at in (0..fill_mib()).step_by(64) {
        tool_ok("qemu-io", &["-f", "raw", "-c", &format!("write -P 7 {at}M {}M", 64.min(fill_mib() - at)), &uri]);
    }
    uri
}

fn forget(c: &Cluster) {
    c.ok(&["volume", "detach", "rb"]);
    c.ok(&["volume", "delete", "rb"]);
}

/// Without clients: how fast copying goes when nobody is there to be hurt.
fn alone(c: &Cluster) {
    volume(c, &[]);
    // (Clients are taken to be gone three seconds after their last request.)
    std::thread::sleep(Duration::from_secs(4));
    let began = unix_ms();
    c.ok(&["volume", "set", "rb", "replicas=3", "nodes=n1,n2,n3"]);
    let in_sync = || gauge(&http_get(&c.nodes[0].http, "/metrics").unwrap_or_default(), "in_sync");
    while in_sync() < 3.0 {
        assert!(unix_ms() < began + 300_000, "the third replica is not filled");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (s, mib) = ((unix_ms() - began) as f64 / 1000.0, fill_mib());
    println!("\nA third replica filled without clients: {mib} MiB in {s:.1} s, {:.0} MiB/s", mib as f64 / s);
    forget(c);
}

fn fill(c: &Cluster, impact: &str) {
    let uri = volume(c, &[&format!("rebuild_impact={impact}")]);
    let load = Load::start(c, &uri, 1_000);
    std::thread::sleep(Duration::from_secs(CALM));
    let began = unix_ms();
    c.ok(&["volume", "set", "rb", "replicas=3", "nodes=n1,n2,n3"]);
    let mut rates = Vec::new();
    // Looked at once a second and over HTTP: a command that is run to see is felt more than the copying.
    let full = |of: &dyn Fn(&str) -> f64| of("in_sync") == 3.0;
    for second in 1.. {
        std::thread::sleep(Duration::from_millis((began + second * 1_000).saturating_sub(unix_ms())));
        let page = http_get(&c.nodes[0].http, "/metrics").unwrap_or_default();
        let of = |name: &str| gauge(&page, name);
        let us = |name: &str| (of(name) * 1e6) as u64;
        let (calm, beside) = (us("copy_calm_p99_seconds"), us("copy_beside_p99_seconds"));
        rates.push(format!("{} ({calm}/{beside})", of("copy_rate_bytes") as u64 >> 20));
        if full(&of) {
            break;
        }
        assert!(second < 900, "the third replica is not filled: {page}");
    }
    let ended = unix_ms();
    std::thread::sleep(Duration::from_secs(CALM));
    let all = load.stop();
    let before = (began - (CALM - 2) * 1_000, began);
    let after = (ended + 2_000, ended + CALM * 1_000);
    let p = |times: &[(u64, u64)]| p99(&all, times).1.max(1.0);
    let (n, beside) = p99(&all, &[(began, ended)]);
    println!(
        "{impact:<15} {:>8.0} {beside:>8.0} {:>8.0} {:>6.2} {:>6.2} {:>12.0} {n:>8} {:>12.1}  {}",
        p(&[before]),
        p(&[after]),
        beside / p(&[before, after]),
        p(&[after]) / p(&[before]),
        p(&[(began, ended.min(began + BEGIN * 1_000))]),
        (ended - began) as f64 / 1000.0,
        rates.join(" ")
    );
    forget(c);
}

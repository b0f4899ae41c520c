//! What filling a third replica costs clients, by the volume's `rebuild_impact`. One fio session at a fixed load begins before the filling and
//! lasts until it is done; every single latency is logged, so that the 99th percentile beside the filling stands against the one just
//! before it, of the same session. The rate that the coordinator allowed, and what it measured itself, are sampled once a second.

use hf_tests::cluster::{Cluster, http_get, tool_ok};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds of load before the filling begins; the first two are not counted.
const BEFORE: u64 = 10;

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
                "--size=256M",
                "--time_based",
                "--runtime=600",
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

fn p99(all: &[(u64, f64)], from: u64, to: u64) -> (usize, f64) {
    let mut some: Vec<f64> = all.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, us)| *us).collect();
    some.sort_by(f64::total_cmp);
    (some.len(), some.get(some.len() * 99 / 100).copied().unwrap_or(0.0))
}

/// A gauge of the volume on the node that coordinates it.
fn gauge(page: &str, name: &str) -> u64 {
    let of = |l: &&str| l.starts_with(&format!("holdfast_volume_{name}{{")) && l.contains("rb");
    page.lines().find(of).and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

pub fn run(c: &Cluster) {
    alone(c);
    println!(
        "\n4K rand writes at 1,000 IOPS while a third replica is filled with 256 MiB; p99 against the same session just before"
    );
    println!(
        "rates: MiB/s that the coordinator allowed, second by second (what it measured: p99 in µs, undisturbed/beside)\n"
    );
    println!(
        "{:<16} {:>12} {:>12} {:>7} {:>8} {:>12}  rates",
        "rebuild_impact", "before, µs", "beside, µs", "ratio", "n", "filled in, s"
    );
    for impact in ["0%", "20%", "100%"] {
        fill(c, impact);
    }
}

/// Without clients: how fast copying goes when nobody is there to be hurt.
fn alone(c: &Cluster) {
    const MIB: u64 = 256;
    c.ok(&["volume", "create", "rb", &format!("size={MIB}MiB"), "replicas=2", "nodes=n1,n2"]);
    c.ok(&["volume", "attach", "rb", "--node", "n1"]);
    let uri = c.unix_uri(0, "rb");
    let write = |i: u64| format!("write -P 7 {}M 128M", i * 128);
    for i in 0..MIB / 128 {
        tool_ok("qemu-io", &["-f", "raw", "-c", &write(i), &uri]);
    }
    // (Clients are taken to be gone three seconds after their last request.)
    std::thread::sleep(Duration::from_secs(4));
    let began = unix_ms();
    c.ok(&["volume", "set", "rb", "replicas=3", "nodes=n1,n2,n3"]);
    let in_sync = || gauge(&http_get(&c.nodes[0].http, "/metrics").unwrap_or_default(), "in_sync");
    while in_sync() != 3 {
        assert!(unix_ms() < began + 300_000, "the third replica is not filled");
        std::thread::sleep(Duration::from_millis(50));
    }
    let s = (unix_ms() - began) as f64 / 1000.0;
    println!("\nA third replica filled without clients: {MIB} MiB in {s:.1} s, {:.0} MiB/s", MIB as f64 / s);
    c.ok(&["volume", "detach", "rb"]);
    c.ok(&["volume", "delete", "rb"]);
}

fn fill(c: &Cluster, impact: &str) {
    let attrs = ["size=256MiB", "replicas=2", "nodes=n1,n2"];
    c.ok(&[&["volume", "create", "rb"][..], &attrs, &[&format!("rebuild_impact={impact}")]].concat());
    c.ok(&["volume", "attach", "rb", "--node", "n1"]);
    let uri = c.unix_uri(0, "rb");
    tool_ok("qemu-io", &["-f", "raw", "-c", "write -P 7 0 128M", "-c", "write -P 7 128M 128M", &uri]);
    let load = Load::start(c, &uri, 1_000);
    std::thread::sleep(Duration::from_secs(BEFORE));
    let began = unix_ms();
    c.ok(&["volume", "set", "rb", "replicas=3", "nodes=n1,n2,n3"]);
    let mut rates = Vec::new();
    // Looked at once a second and over HTTP: a command that is run to see is felt more than the copying.
    let full = |of: &dyn Fn(&str) -> u64| of("in_sync") == 3;
    for second in 1.. {
        std::thread::sleep(Duration::from_millis((began + second * 1_000).saturating_sub(unix_ms())));
        let page = http_get(&c.nodes[0].http, "/metrics").unwrap_or_default();
        let of = |name: &str| gauge(&page, name);
        let (calm, beside) = (of("copy_calm_p99_us"), of("copy_beside_p99_us"));
        rates.push(format!("{} ({calm}/{beside})", of("copy_rate_bytes") >> 20));
        if full(&of) {
            break;
        }
        assert!(second < 300, "the third replica is not filled: {page}");
    }
    let ended = unix_ms();
    let all = load.stop();
    let ((_, before), (n, beside)) = (p99(&all, began - (BEFORE - 2) * 1_000, began), p99(&all, began, ended));
    println!(
        "{impact:<16} {before:>12.0} {beside:>12.0} {:>7.2} {n:>8} {:>12.1}  {}",
        beside / before.max(1.0),
        (ended - began) as f64 / 1000.0,
        rates.join(" ")
    );
    c.ok(&["volume", "detach", "rb"]);
    c.ok(&["volume", "delete", "rb"]);
}

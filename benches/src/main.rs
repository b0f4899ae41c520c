//! `make bench`: fio's nbd engine on volumes with 1, 2 and 3 replicas, beside qemu-nbd on a raw file with the
//! same durability (every write durable before it is answered), in one run. Take the ratios; absolute figures
//! mean little on a shared machine.
#![allow(clippy::unwrap_used, clippy::panic)]

mod against;
mod clients;
mod links;
mod rebuild;
mod record;

use hf_tests::cluster::{Cluster, tool_ok, until};
use serde_json::Value;
use std::process::{Child, Command};

/// The jobs: name, fio options, and whether it writes.
const JOBS: &[(&str, &[&str], bool)] = &[
    ("4K rand write QD1", &["--rw=randwrite", "--bs=4k", "--iodepth=1"], true),
    ("4K rand write QD32", &["--rw=randwrite", "--bs=4k", "--iodepth=32"], true),
    ("4K rand read QD1", &["--rw=randread", "--bs=4k", "--iodepth=1"], false),
    ("4K rand read QD32", &["--rw=randread", "--bs=4k", "--iodepth=32"], false),
    ("1M seq write QD8", &["--rw=write", "--bs=1M", "--iodepth=8"], true),
    ("1M seq read QD8", &["--rw=read", "--bs=1M", "--iodepth=8"], false),
];

/// Processor time that a process has used, in seconds.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit(") ").next().unwrap_or("");
    let field = |i: usize| rest.split_whitespace().nth(i).and_then(|s| s.parse::<f64>().ok()).unwrap_or(0.0);
    (field(11) + field(12)) / 100.0
}

struct Row {
    iops: f64,
    p50: f64,
    p99: f64,
    cpu: f64,
}

fn measure(uri: &str, pids: &[u32], job: &[&str], write: bool) -> Row {
    let seconds = std::env::var("BENCH_SECONDS").unwrap_or_else(|_| "4".into());
    let mut rows: Vec<Row> = (0..3).map(|_| once(uri, pids, job, write, &seconds)).collect();
    rows.sort_by(|a, b| a.iops.total_cmp(&b.iops));
    rows.swap_remove(1)
}

fn once(uri: &str, pids: &[u32], job: &[&str], write: bool, seconds: &str) -> Row {
    let (uri, runtime) = (format!("--uri={uri}"), format!("--runtime={seconds}"));
    let common = ["--name=b", "--ioengine=nbd", &uri, "--size=256M", "--time_based", &runtime, "--output-format=json"];
    let before: f64 = pids.iter().map(|p| cpu(*p)).sum();
    let out = tool_ok("fio", &[&common[..], job].concat());
    let used = pids.iter().map(|p| cpu(*p)).sum::<f64>() - before;
    let start = out.find('{').unwrap();
    let v: Value = serde_json::from_str(&out[start..]).unwrap();
    let r = &v["jobs"][0][if write { "write" } else { "read" }];
    let p = |q: &str| r["clat_ns"]["percentile"][q].as_f64().unwrap_or(0.0) / 1000.0;
    let total = r["total_ios"].as_f64().unwrap_or(1.0);
    Row {
        iops: r["iops"].as_f64().unwrap_or(0.0),
        p50: p("50.000000"),
        p99: p("99.000000"),
        cpu: used * 1000.0 / total,
    }
}

struct QemuNbd(Child);
impl Drop for QemuNbd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Without an argument all tables; `rebuild`, `clients`, `links`, `record`: that table alone.
fn main() {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("against") => return against::run(&args.next().unwrap()),
        Some("serve") => return against::serve(),
        Some("rebuild") => return rebuild::run(),
        Some("clients") => return clients::run(),
        Some("links") => return links::run(),
        Some("record") => return record::run(),
        _ => {}
    }
    let c = Cluster::new(3);
    let pids: Vec<u32> = c.nodes.iter().filter_map(|n| n.pid()).collect();
    let mut table: Vec<(String, Vec<Row>)> = Vec::new();

    let file = c.dir.path().join("raw.img").display().to_string();
    let socket = c.dir.path().join("qemu.sock").display().to_string();
    tool_ok("fallocate", &["-l", "256M", &file]);
    tool_ok(
        "dd",
        &["if=/dev/zero", &format!("of={file}"), "bs=1M", "count=256", "oflag=direct", "conv=notrunc", "status=none"],
    );
    let q = Command::new("qemu-nbd")
        .args(["-t", "-f", "raw", "--cache=directsync", "--aio=io_uring", "-k", &socket, "-x", "raw", "-e", "8", &file])
        .spawn()
        .unwrap();
    let q = QemuNbd(q);
    until("qemu-nbd", || if std::path::Path::new(&socket).exists() { Ok(()) } else { Err(String::new()) });
    let uri = format!("nbd+unix:///raw?socket={socket}");
    let base = JOBS.iter().map(|(_, j, w)| measure(&uri, &[q.0.id()], j, *w)).collect();
    table.push(("qemu-nbd, directsync".into(), base));
    drop(q);

    for replicas in 1..=3 {
        let name = format!("r{replicas}");
        let nodes = ["nodes=n1", "nodes=n1,n2", "nodes=n1,n2,n3"][replicas - 1];
        c.ok(&["volume", "create", &name, "size=256MiB", &format!("replicas={replicas}"), nodes]);
        c.ok(&["volume", "attach", &name, "--node", "n1"]);
        let uri = c.unix_uri(0, &name);
        // Every block has data before it is measured.
        once(&uri, &pids, &["--rw=write", "--bs=1M", "--iodepth=4"], true, "3");
        table.push((
            format!("holdfast, {replicas} replica(s)"),
            JOBS.iter().map(|(_, j, w)| measure(&uri, &pids, j, *w)).collect(),
        ));
        c.ok(&["volume", "detach", &name]);
        c.ok(&["volume", "delete", &name]);
    }
    println!(
        "\nmedian of 3 runs; ratio = IOPS against qemu-nbd with the same durability in this run; CPU of all daemons\n"
    );
    println!(
        "{:<20} {:<24} {:>8} {:>6} {:>9} {:>9} {:>14}",
        "job", "target", "IOPS", "ratio", "p50 µs", "p99 µs", "CPU s / 1,000"
    );
    for (i, (job, _, _)) in JOBS.iter().enumerate() {
        for (target, rows) in &table {
            let r = &rows[i];
            let ratio = r.iops / table[0].1[i].iops.max(1.0);
            println!(
                "{job:<20} {target:<24} {:>8.0} {ratio:>6.2} {:>9.0} {:>9.0} {:>14.3}",
                r.iops, r.p50, r.p99, r.cpu
            );
        }
    }
    drop(c);
    clients::run();
    links::run();
    rebuild::run();
    record::run();
}

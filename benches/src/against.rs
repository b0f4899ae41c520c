//! `hf-bench against BINARY` compares this build of the daemon with another one, usually an earlier one. The two run
//! each job in turn, so that both see the same machine. Each build has a cluster of its own, in a process of its own,
//! which is idle while the other one is measured.

use crate::{JOBS, clients, once};
use hf_tests::cluster::Cluster;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Times that each job is run with each build.
const ROUNDS: usize = 5;
/// Bounds of a job's IOPS and of its processor time per operation, as ratios to the other build's.
const LEAST_IOPS: f64 = 0.97;
const MOST_CPU: f64 = 1.03;

/// Keeps one build's cluster and obeys the lines of its standard input. `volume N` makes the volume that is measured,
/// with N replicas; `job N` runs a job of [`JOBS`]; `flushes` runs 16 clients that flush after each write. Each line is
/// answered with one line.
pub fn serve() {
    let c = Cluster::prepared(3, |n| n.sparse = false);
    let pids: Vec<u32> = c.nodes.iter().filter_map(|n| n.pid()).collect();
    let uri = c.unix_uri(0, "v");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (what, n) = line.split_once(' ').unwrap_or((&line, "0"));
        let n: usize = n.parse().unwrap();
        let answer = match what {
            "volume" => {
                if c.cli(&["volume", "detach", "v"]).is_ok() {
                    c.ok(&["volume", "delete", "v"]);
                }
                let nodes = ["nodes=n1", "nodes=n1,n2", "nodes=n1,n2,n3"][n - 1];
                c.ok(&["volume", "create", "v", "size=256MiB", &format!("replicas={n}"), nodes]);
                c.ok(&["volume", "attach", "v", "--node", "n1"]);
                once(&uri, &pids, &["--rw=write", "--bs=1M", "--iodepth=4"], true, "3");
                json!({})
            }
            "job" => {
                let (_, job, write) = JOBS[n];
                let r = once(&uri, &pids, job, write, "3");
                json!({"iops": r.iops, "p99": r.p99, "cpu": r.cpu})
            }
            _ => {
                let before: f64 = pids.iter().map(|p| crate::cpu(*p)).sum();
                let (pairs, writes, flushes) = clients::pairs(&c);
                let used = pids.iter().map(|p| crate::cpu(*p)).sum::<f64>() - before;
                let cpu = used * 1000.0 / (pairs.max(1) * clients::SECONDS) as f64;
                json!({"iops": pairs, "p99": writes.1, "flush_p50": flushes.0, "flush_p99": flushes.1, "cpu": cpu})
            }
        };
        println!("row {answer}");
        std::io::stdout().flush().unwrap();
    }
}

struct Build {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Build {
    fn start(daemon: &str) -> Build {
        let me = std::env::current_exe().unwrap();
        let mut child = Command::new(me)
            .arg("serve")
            .env("HOLDFAST", daemon)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Build { child, to, from }
    }

    fn ask(&mut self, what: &str) -> Value {
        writeln!(self.to, "{what}").unwrap();
        for line in (&mut self.from).lines() {
            if let Some(row) = line.unwrap().strip_prefix("row ") {
                return serde_json::from_str(row).unwrap();
            }
        }
        panic!("the process that keeps a cluster has ended");
    }

    /// It ends when nobody tells it anything any more, and its cluster with it.
    fn end(self) {
        let Build { mut child, to, .. } = self;
        drop(to);
        assert!(child.wait().unwrap().success());
    }
}

fn median(rows: &[Value], what: &str) -> f64 {
    let mut all: Vec<f64> = rows.iter().filter_map(|r| r[what].as_f64()).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

/// Prints the table, and every ratio beyond its bound.
pub fn run(other: &str) {
    let mut builds = [Build::start(other), Build::start(&hf_tests::cluster::binary().display().to_string())];
    println!("median of {ROUNDS} runs of each in turn: {other}, and this build beside it\n");
    let names = ["job", "replicas", "IOPS then", "now", "ratio", "CPU", "p99 then", "now, µs"];
    println!(
        "{:<22} {:>8} {:>10} {:>8} {:>6} {:>6} {:>9} {:>8}",
        names[0], names[1], names[2], names[3], names[4], names[5], names[6], names[7]
    );
    let mut worse = Vec::new();
    for replicas in [1, 3] {
        builds.iter_mut().for_each(|b| drop(b.ask(&format!("volume {replicas}"))));
        let jobs = JOBS.iter().enumerate().map(|(i, (name, ..))| (*name, format!("job {i}")));
        for (name, command) in jobs.chain([("write and flush, 16", "flushes".into())]) {
            let mut rows = [Vec::new(), Vec::new()];
            for round in 0..ROUNDS {
                for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                    rows[which].push(builds[which].ask(&command));
                }
            }
            let [then, now] = &rows;
            let ratio = |what| median(now, what) / median(then, what).max(f64::MIN_POSITIVE);
            println!(
                "{name:<22} {replicas:>8} {:>10.0} {:>8.0} {:>6.2} {:>6.2} {:>9.0} {:>8.0}",
                median(then, "iops"),
                median(now, "iops"),
                ratio("iops"),
                ratio("cpu"),
                median(then, "p99"),
                median(now, "p99"),
            );
            if ratio("iops") < LEAST_IOPS || ratio("cpu") > MOST_CPU {
                worse.push(format!("{name}, {replicas} replica(s)"));
            }
        }
    }
    builds.into_iter().for_each(Build::end);
    println!("\nfewer than {LEAST_IOPS} of the IOPS, or more than {MOST_CPU} of the processor time: {worse:?}");
}

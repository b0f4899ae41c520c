//! `/metrics` of real nodes: Prometheus' own tool has nothing to say against it, every disk on record has its lines,
//! and clients' requests are counted one by one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, tool_ok, until};
use hf_tests::nbd::Nbd;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Every line of a node's page: name with labels, and value.
fn page(c: &Cluster, node: usize) -> Vec<(String, f64)> {
    let text = tool_ok("curl", &["-sf", &format!("http://{}/metrics", c.nodes[node].http)]);
    promtool(&text);
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines.map(|l| l.rsplit_once(' ').unwrap()).map(|(name, value)| (name.into(), value.parse().unwrap())).collect()
}

/// The value of a line that must be there, once.
fn value(page: &[(String, f64)], name: &str) -> f64 {
    let all: Vec<f64> = page.iter().filter(|(n, _)| n.strip_prefix("holdfast_") == Some(name)).map(|l| l.1).collect();
    assert_eq!(all.len(), 1, "{name} in {page:#?}");
    all[0]
}

/// Prometheus' tool, where `deploy/setup.sh test` puts it or where it is installed.
fn promtool(page: &str) {
    let own = PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/holdfast/tools/promtool");
    let program = if own.exists() { own } else { "promtool".into() };
    let mut command = Command::new(program);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut p = command.spawn().expect("promtool cannot be run; make test brings it");
    p.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let o = p.wait_with_output().unwrap();
    let said = [o.stdout, o.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
    assert!(o.status.success() && said.is_empty(), "promtool: {said}\n{page}");
}

#[test]
fn every_recorded_disk_has_lines_though_it_cannot_be_opened() {
    let mut c = Cluster::prepared(2, |n| n.second_disk("1GiB"));
    let disks = |c: &Cluster, node: u64| -> Vec<String> {
        let s = c.status().unwrap();
        let all = s["disks"].as_object().unwrap().iter().filter(|(_, d)| d["node"] == node);
        all.map(|(id, _)| id.clone()).collect()
    };
    until("all disks to be on record", || {
        let n = [disks(&c, 1).len(), disks(&c, 2).len()];
        if n == [2, 2] { Ok(()) } else { Err(format!("{n:?}")) }
    });
    let path = c.nodes[1].dir.join("disk2");
    c.nodes[1].stop();
    std::fs::rename(path.join("holdfast.disk"), path.join("aside")).unwrap();
    c.nodes[1].start();
    c.ready();
    for node in [0, 1] {
        let all = page(&c, node);
        for disk in disks(&c, node as u64 + 1) {
            let info = all.iter().filter(|(n, _)| n.starts_with(&format!("holdfast_disk_info{{disk=\"{disk}\",")));
            let info: Vec<&str> = info.map(|(n, _)| n.as_str()).collect();
            assert_eq!(info.len(), 1, "{info:?}");
            let gone = info[0].contains(&format!("path=\"{}\"", path.display()));
            assert_eq!(value(&all, &format!("disk_in_service{{disk=\"{disk}\"}}")), f64::from(!gone), "{all:#?}");
            value(&all, &format!("disk_failed{{disk=\"{disk}\"}}"));
            let open = all.iter().any(|(n, _)| *n == format!("holdfast_disk_free_bytes{{disk=\"{disk}\"}}"));
            assert_eq!(open, !gone, "disk {disk}: {all:#?}");
        }
        // Of other nodes' disks there is nothing here.
        let lines = all.iter().filter(|(n, _)| n.starts_with("holdfast_disk_in_service{")).count();
        assert_eq!(lines, 2, "{all:#?}");
        let known = all.len() as f64;
        assert_eq!((value(&all, "metrics_series"), value(&all, "metrics_series_left_out")), (known, 0.0));
        let build = all.iter().filter(|(n, v)| n.starts_with("holdfast_build_info{version=\"") && *v == 1.0);
        assert_eq!(build.count(), 1);
    }
}

/// How often each operation was asked for: of the node, and of a volume (0 if it has no line).
fn counted(c: &Cluster, volume: &str) -> [(f64, f64); 4] {
    let all = page(c, 0);
    ["read", "write", "flush", "trim"].map(|op| {
        let of = format!("holdfast_volume_request_duration_seconds_count{{volume=\"{volume}\",op=\"{op}\"}}");
        let volume = all.iter().find(|(n, _)| *n == of).map_or(0.0, |l| l.1);
        (value(&all, &format!("request_duration_seconds_count{{op=\"{op}\"}}")), volume)
    })
}

#[test]
fn requests_of_real_clients_are_counted_one_by_one() {
    let c = Cluster::new(1);
    for v in ["q", "n", "own"] {
        c.ok(&["volume", "create", v, "size=64MiB", "replicas=1"]);
        c.ok(&["volume", "attach", v]);
    }
    // qemu-io begins a request for each of these words, and flushes at its end.
    let mut args = vec!["-f".to_string(), "raw".into(), "-d".into(), "unmap".into()];
    let mut ask = |what: &str, n: u64| {
        args.extend((0..n).flat_map(|i| ["-c".to_string(), format!("{what} {}k 4k", i * 64)]));
    };
    ask("write -P 7", 9);
    ask("read", 14);
    ask("discard", 5);
    args.push(c.uri(0, "q"));
    tool_ok("qemu-io", &args.iter().map(String::as_str).collect::<Vec<_>>());
    let [reads, writes, _, trims] = counted(&c, "q");
    assert_eq!([reads, writes, trims], [(14.0, 14.0), (9.0, 9.0), (5.0, 5.0)]);

    let image = c.dir.path().join("image");
    std::fs::write(&image, vec![3; 8 << 20]).unwrap();
    tool_ok("nbdcopy", &["--request-size=65536", image.to_str().unwrap(), &c.unix_uri(0, "n")]);
    let [_, writes, ..] = counted(&c, "n");
    assert_eq!(writes, (9.0 + 128.0, 128.0));

    let mut own = Nbd::connect(&c.nodes[0].nbd, "own").unwrap();
    let before = counted(&c, "own")[2];
    (0..6).for_each(|_| own.flush().unwrap());
    own.zero(0, 4096).unwrap();
    assert!(own.read(1 << 40, 4096).is_err());
    let [_, _, flushes, trims] = counted(&c, "own");
    assert_eq!((flushes.0 - before.0, flushes.1, trims.1), (6.0, 6.0, 1.0));
    let all = page(&c, 0);
    let sum = value(&all, "volume_request_duration_seconds_sum{volume=\"own\",op=\"flush\"}");
    assert!(sum > 0.0 && sum < 60.0, "{sum} s");

    // What was counted of an attachment that is over stays in the node's sum.
    drop(own);
    c.ok(&["volume", "detach", "q"]);
    until("its lines to go", || {
        let [(reads, of_volume), ..] = counted(&c, "q");
        assert_eq!(reads, 14.0, "the node's sum went down");
        if of_volume == 0.0 { Ok(()) } else { Err(format!("{of_volume} reads")) }
    });
    assert!(!page(&c, 0).iter().any(|(n, _)| n.contains("volume=\"q\"")));
}

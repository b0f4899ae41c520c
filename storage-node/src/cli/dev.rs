//! `holdfast dev`: runs a small cluster on this machine, for trying it out. Ctrl-C stops everything. The data
//! stays in its directory, and the next start goes on with it.

use super::args::DevArgs;
use super::client::Client;
use super::failure::{Failure, usage};
use super::http::{Endpoint, Method};
use super::out::Out;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

fn config(a: &DevArgs, dir: &Path, i: u16) -> String {
    let p = a.port + i * 10;
    let d = dir.display();
    format!(
        "name = \"n{n}\"\ndata_dir = \"{d}/n{n}/data\"\napi = \"127.0.0.1:{p}\"\ndata = \"127.0.0.1:{}\"\nnbd = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\nnbd_socket = \"{d}/n{n}/nbd.sock\"\n\n[[disk]]\npath = \"{d}/n{n}/disk\"\nsize = \"{}\"\n",
        p + 1,
        p + 2,
        p + 3,
        a.disk_size,
        n = i + 1,
    )
}

/// Starts the nodes, founds a cluster if there is none yet, and runs until Ctrl-C.
pub async fn run(a: DevArgs, out: &mut Out) -> Result<(), Failure> {
    let last = u32::from(a.port) + u32::from(a.nodes - 1) * 10 + 3;
    if a.port == 0 || last > 65_535 {
        return Err(usage(format!(
            "--port {}: {} nodes take ports up to {last}; they must be from 1 to 65535",
            a.port, a.nodes
        )));
    }
    hf_policy::parse_size(&a.disk_size).map_err(|e| usage(format!("--disk-size: {e}")))?;
    std::fs::create_dir_all(&a.dir).map_err(anyhow::Error::from)?;
    let dir = std::fs::canonicalize(&a.dir).map_err(anyhow::Error::from)?;
    let exe = std::env::current_exe().map_err(anyhow::Error::from)?;
    let mut children = Vec::new();
    for i in 0..a.nodes {
        let home = dir.join(format!("n{}", i + 1));
        std::fs::create_dir_all(home.join("disk")).map_err(anyhow::Error::from)?;
        let file = home.join("node.toml");
        std::fs::write(&file, config(&a, &dir, i)).map_err(anyhow::Error::from)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(home.join("log"))
            .map_err(anyhow::Error::from)?;
        let errors = log.try_clone().map_err(anyhow::Error::from)?;
        let child = Command::new(&exe)
            .args(["daemon", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(anyhow::Error::from)?;
        children.push(child);
    }
    let result = up(&a, &dir, &mut children, out).await;
    if result.is_ok() && !a.once {
        let mut term =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(anyhow::Error::from)?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = term.recv() => {}
        }
    }
    // (What is said here is said to nobody if the reader has gone; the nodes are stopped all the same.)
    let told = out.line("stopping").and_then(|()| out.flush());
    for c in &children {
        if let Some(pid) = c.id() {
            // SAFETY: signals a child of ours that has not been waited for, so its pid is still its own.
            unsafe { libc::kill(pid as i32, libc::SIGTERM) };
        }
    }
    for c in &mut children {
        let _ = tokio::time::timeout(Duration::from_secs(40), c.wait()).await;
    }
    result.and(told)
}

/// How long one question to a node may take.
const ANSWER: Duration = Duration::from_secs(5);

async fn up(a: &DevArgs, dir: &Path, children: &mut [Child], out: &mut Out) -> Result<(), Failure> {
    let port = |i: u16| a.port + i * 10;
    let client = |i: u16| Client::new(vec![Endpoint::Tcp(format!("127.0.0.1:{}", port(i) + 3))], ANSWER, false);
    let began = Instant::now();
    for i in 0..a.nodes {
        let c = client(i);
        loop {
            alive(dir, children)?;
            let first = format!("127.0.0.1:{}", port(0));
            let (path, body) = match i {
                0 => ("/v1/cluster/init", json!({"name": "dev"})),
                _ => ("/v1/cluster/join", json!({"seeds": [first]})),
            };
            if c.get("/v1/cluster").await.is_ok() || c.change(Method::POST, path, &body).await.is_ok() {
                break;
            }
            if began.elapsed() > Duration::from_secs(60) {
                let n = i + 1;
                return Err(anyhow::anyhow!("node n{n} does not come up; see {}/n{n}/log", dir.display()).into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let c = client(0);
    loop {
        alive(dir, children)?;
        if c.get("/v1/cluster").await.is_ok_and(|x| ready(&x.body, a.nodes)) {
            break;
        }
        if began.elapsed() > Duration::from_secs(90) {
            return Err(anyhow::anyhow!("the cluster does not become ready; see {}/n*/log", dir.display()).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seconds = began.elapsed().as_secs_f32();
    out.line(format_args!("{} nodes are up in {seconds:.1} s, data in {}", a.nodes, dir.display()))?;
    out.print(format_args!(
        "\nThe cluster's page is http://127.0.0.1:{http}/\n\nTry, in another terminal:\n\n  export HOLDFAST_ENDPOINT=127.0.0.1:{http}\n  holdfast status\n  holdfast volume create v1 size=1GiB replicas={}\n  holdfast volume attach v1 --node n1\n  nbdinfo nbd://127.0.0.1:{}/v1\n\nCtrl-C stops all nodes; the next start goes on with the same data.\n",
        a.nodes.min(3),
        a.port + 2,
        http = a.port + 3,
    ))?;
    out.flush()
}

/// Fails if a node has ended, with its last words.
fn alive(dir: &Path, children: &mut [Child]) -> Result<(), Failure> {
    for (i, c) in children.iter_mut().enumerate() {
        if let Ok(Some(s)) = c.try_wait() {
            let log = std::fs::read_to_string(dir.join(format!("n{}/log", i + 1))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(3)..].join("\n");
            return Err(anyhow::anyhow!("node n{} ended ({s}):\n{tail}", i + 1).into());
        }
    }
    Ok(())
}

/// All nodes and disks are there, and as many nodes vote as will.
fn ready(cluster: &Value, nodes: u16) -> bool {
    let n = u64::from(nodes);
    let voters = cluster["voters"].as_array().map_or(0, Vec::len);
    let of = |what: &str, state: &str| cluster[what][state].as_u64().unwrap_or(0) >= n;
    of("nodes", "up") && of("disks", "ok") && (n < 3 || voters >= 3 && cluster["voters_changing"] == false)
}

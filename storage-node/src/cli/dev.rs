//! `holdfast dev`: runs a small cluster on this machine, for trying it out. Ctrl-C stops everything. The data
//! stays in its directory, and the next start goes on with it.

use super::args::DevArgs;
use super::grpc::Client;
use super::failure::{Failure, usage};
use super::out::Out;
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

async fn up(a: &DevArgs, dir: &Path, children: &mut [Child], out: &mut Out) -> Result<(), Failure> {
    let api = |i: u16| format!("127.0.0.1:{}", a.port + i * 10);
    let began = Instant::now();
    let alive = |children: &mut [Child]| -> Result<(), Failure> {
        for (i, c) in children.iter_mut().enumerate() {
            if let Ok(Some(s)) = c.try_wait() {
                let log = std::fs::read_to_string(dir.join(format!("n{}/log", i + 1))).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(3).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                return Err(anyhow::anyhow!("node n{} ended ({s}):\n{}", i + 1, tail.join("\n")).into());
            }
        }
        Ok(())
    };
    for i in 0..a.nodes {
        loop {
            alive(children)?;
            let c = Client::new(&[api(i)]);
            let known = c.status().await.is_ok();
            let done = known || if i == 0 { c.init("dev").await.is_ok() } else { c.join(&[api(0)]).await.is_ok() };
            if done {
                break;
            }
            if began.elapsed() > Duration::from_secs(60) {
                return Err(
                    anyhow::anyhow!("node n{} does not come up; see {}/n{}/log", i + 1, dir.display(), i + 1).into()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let c = Client::new(&[api(0)]);
    loop {
        alive(children)?;
        let ready = c.status().await.is_ok_and(|s| {
            let n = usize::from(a.nodes);
            let count = |k: &str| s[k].as_object().map_or(0, |o| o.len());
            let up = s["up"].as_array().map_or(0, Vec::len);
            let voters = s["voters"].as_array().map_or(0, Vec::len);
            count("disks") >= n && up >= n && (n < 3 || (voters >= 3 && s["voters_changing"] == false))
        });
        if ready {
            break;
        }
        if began.elapsed() > Duration::from_secs(90) {
            return Err(anyhow::anyhow!("the cluster does not become ready; see {}/n*/log", dir.display()).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    out.line(format_args!("{} nodes are up in {:.1} s, data in {}", a.nodes, began.elapsed().as_secs_f32(), dir.display()))?;
    out.print(format_args!(
        "\nTry, in another terminal:\n\n  export HOLDFAST_ENDPOINT={}\n  holdfast node list\n  holdfast volume create v1 size=1GiB replicas={}\n  holdfast volume attach v1 --node n1\n  nbdinfo nbd://127.0.0.1:{}/v1\n\nCtrl-C stops all nodes; the next start goes on with the same data.\n",
        api(0),
        a.nodes.min(3),
        a.port + 2
    ))?;
    out.flush()
}

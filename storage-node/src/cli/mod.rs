//! The command line: parses it and runs the command. Exit codes: 0 done · 1 failed · 2 wrong usage · 3 not
//! found · 4 refused in the present state · 5 no node answered · 6 recorded, but not in force yet.

pub mod args;
pub mod client;
pub mod failure;
mod jobs;
mod show;

pub use args::Format;
use args::*;
use clap::Parser;
use client::Client;
use failure::{Failure, usage};
use std::process::ExitCode;

use hf_meta_proto::pb::{self, change_request::What};

fn logging(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| "info".into());
    let sub = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { sub.json().init() } else { sub.with_ansi(false).init() }
}

/// Parses the command line. Help and wrong usage are printed here; wrong usage is printed as JSON if that was
/// asked for.
pub fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|e| {
        if !e.use_stderr() {
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        if json_wanted(std::env::args_os().map(|a| a.to_string_lossy().into_owned())) {
            let text = e.render().to_string();
            usage(text.trim_end().trim_start_matches("error: ")).print(Format::Json);
        } else {
            let _ = e.print();
        }
        ExitCode::from(2)
    })
}

/// Whether a command line that cannot be parsed asks for JSON.
fn json_wanted(words: impl Iterator<Item = String>) -> bool {
    let words: Vec<String> = words.collect();
    let one = |w: &String| ["-ojson", "-o=json", "--output=json"].contains(&w.as_str());
    words.iter().any(one) || words.windows(2).any(|w| ["-o", "--output"].contains(&w[0].as_str()) && w[1] == "json")
}

/// Runs the command that was parsed.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let endpoints: Vec<String> =
        cli.endpoint.split(',').map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect();
    let c = Client::new(&endpoints);
    let o = cli.output;
    match cli.command {
        Commands::Node(n) => node(&c, *n, o).await,
        Commands::Dev(a) => dev::run(a).await,
        Commands::Cluster(ClusterCommand::Init { name }) => show::text(c.init(&name).await?, o),
        Commands::Cluster(ClusterCommand::Status) => show::cluster(&c.status().await?, o),
        Commands::Cluster(ClusterCommand::Voters { count }) => show::text(c.change(What::Voters(count)).await?, o),
        Commands::Cluster(ClusterCommand::Rebalance) => show::text(c.change(What::Rebalance(true)).await?, o),
        Commands::Disk(DiskCommand::Add { path, size, media }) => {
            let size = size.map(|s| hf_policy::parse_size(&s)).transpose().map_err(usage)?;
            show::text(c.add_disk(&path, size.unwrap_or(0), &media).await?, o)
        }
        Commands::Disk(DiskCommand::List) => show::disks(&c.status().await?, o),
        Commands::Disk(DiskCommand::Drain { id, cancel }) => {
            let what = What::DiskDrain(pb::DiskDrain { disk: id, draining: !cancel });
            show::text(c.change(what).await?, o)
        }
        Commands::Disk(DiskCommand::Remove { id }) => show::text(c.change(What::RemoveDisk(id)).await?, o),
        Commands::Job(j) => job(&c, j, o).await,
        Commands::Inspect(i) => inspect(i, o),
        Commands::Rescue(r) => rescue(r, o).await,
        Commands::Volume(v) => volume(&c, v, o).await,
        Commands::Policy(PolicyCommand::Attributes) => show::attributes(o),
        Commands::Events { follow } => c.events(follow, |e| show::event(e, o)).await,
        Commands::Completions { shell } => {
            let mut cmd = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut cmd, "holdfast", &mut std::io::stdout());
            Ok(())
        }
    }
}

async fn node(c: &Client, n: NodeCommand, o: Format) -> Result<(), Failure> {
    match n.command {
        None => {
            let cfg = crate::config::Config::load(n.run).map_err(usage)?;
            logging(cfg.json_logs);
            Ok(crate::daemon::run(cfg).await?)
        }
        Some(NodeSub::List) => show::nodes(&c.status().await?, o),
        Some(NodeSub::Join { seed }) => show::text(c.join(&seed).await?, o),
        Some(NodeSub::Drain { name }) => show::text(c.change(mode(name, "draining")).await?, o),
        Some(NodeSub::Maintenance { name }) => show::text(c.change(mode(name, "maintenance")).await?, o),
        Some(NodeSub::Activate { name }) => show::text(c.change(mode(name, "active")).await?, o),
        Some(NodeSub::Remove { name }) => show::text(c.change(What::RemoveNode(name)).await?, o),
    }
}

fn inspect(i: InspectCommand, o: Format) -> Result<(), Failure> {
    use crate::inspect::{disk, raft};
    let v = match &i {
        InspectCommand::Disk { path, verify } => disk::disk(path, *verify)?,
        InspectCommand::Journal { path } => disk::journal(path)?,
        InspectCommand::Chunk { path, replica, chunk } => disk::chunk(path, *replica, *chunk)?,
        InspectCommand::Raft { data_dir, log } => raft::raft(data_dir, *log)?,
    };
    match (o, i) {
        (Format::Json, _) => show::json(&v)?,
        (Format::Text, InspectCommand::Disk { .. }) => disk::print(&v),
        (Format::Text, _) => crate::inspect::print(&v),
    }
    match v["damage"].as_str() {
        Some(why) => Err(anyhow::anyhow!("{}: {why}", v["path"].as_str().unwrap_or_default()).into()),
        None => Ok(()),
    }
}

async fn rescue(r: RescueCommand, o: Format) -> Result<(), Failure> {
    let said = match r {
        RescueCommand::Propose { from } => {
            let p = crate::rescue::propose(&from.data_dirs, &from.disks)?;
            match o {
                Format::Json => show::json(&p.report)?,
                Format::Text => crate::inspect::print(&p.report),
            }
            return Ok(());
        }
        RescueCommand::Found { node, from, confirm, own_disk } => {
            let p = crate::rescue::propose(&from.data_dirs, &from.disks)?;
            crate::rescue::found(&node, own_disk.as_deref(), p, &confirm)?
        }
        RescueCommand::Follow { node, seed, own_disk } => {
            let known = match seed.is_empty() {
                true => None,
                false => Some(crate::rescue::record_at(&node, own_disk.as_deref(), &seed).await?),
            };
            crate::rescue::follow(&node, own_disk.as_deref(), known)?
        }
    };
    match o {
        Format::Json => show::json(&serde_json::json!({ "done": said })),
        Format::Text => {
            println!("{said}");
            Ok(())
        }
    }
}

fn mode(node: String, mode: &str) -> What {
    What::NodeMode(pb::NodeMode { node, mode: mode.into() })
}

async fn job(c: &Client, j: JobCommand, o: Format) -> Result<(), Failure> {
    match j {
        JobCommand::Pause { job } => show::text(c.change(jobs::pause(job, true)?).await?, o),
        JobCommand::Resume { job } => show::text(c.change(jobs::pause(job, false)?).await?, o),
        JobCommand::Cancel { job } => show::text(c.change(jobs::cancel(&c.status().await?, &job)?).await?, o),
        JobCommand::List { watch } => loop {
            let left = jobs::list(&c.status().await?, o)?;
            if !watch || left == 0 {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            println!();
        },
    }
}

async fn volume(c: &Client, v: VolumeCommand, o: Format) -> Result<(), Failure> {
    let parse = |attrs: &[String]| hf_policy::policy::parse_pairs(attrs.iter().map(String::as_str)).map_err(usage);
    match v {
        VolumeCommand::Create { name, attrs } => {
            let attrs = parse(&attrs)?;
            // What can be refused without the cluster is refused here.
            hf_policy::Policy::from_attrs(&attrs).map_err(usage)?;
            hf_policy::policy::valid_name(&name).map_err(|e| usage(format!("volume name \"{name}\": {e}")))?;
            show::text(c.create_volume(&name, attrs).await?, o)
        }
        VolumeCommand::List => show::volumes(&c.status().await?, o),
        VolumeCommand::Show { name } => show::volume(&c.status().await?, &name, o),
        VolumeCommand::Delete { name } => show::text(c.delete_volume(&name).await?, o),
        VolumeCommand::Attach { name, node, force } => show::text(c.attach(&name, &node, force).await?, o),
        VolumeCommand::Detach { name } => show::text(c.detach(&name).await?, o),
        VolumeCommand::Resize { name, size } => {
            show::text(c.set_policy(&name, parse(&[format!("size={size}")])?).await?, o)
        }
        VolumeCommand::ForceInsync { name, replica, shard, operator, reason, confirm } => {
            let f = pb::ForceInsync { volume: name, shard, rid: replica, operator, reason, confirm };
            show::text(c.change(What::ForceInsync(f)).await?, o)
        }
        VolumeCommand::Scrub { name } => {
            show::text(c.change(What::Scrub(pb::Scrub { volume: name, on: true })).await?, o)
        }
        VolumeCommand::Move { name, replica, shard } => {
            let m = pb::MoveReplica { volume: name, shard, rid: replica, moving: true };
            show::text(c.change(What::MoveReplica(m)).await?, o)
        }
        VolumeCommand::Set { name, attrs } => show::text(c.set_policy(&name, parse(&attrs)?).await?, o),
    }
}

//! Commands that need no cluster, or work on a stopped one: the attribute reference, inspect, rescue.

use super::args::{InspectCommand, RescueCommand};
use super::failure::Failure;
use super::out::{Format, Out};
use hf_policy::attribute::Kind;
use serde_json::{Value, json};

/// Prints what was read of a stopped node. Damage that was found is a failure.
pub fn inspect(i: InspectCommand, out: &mut Out) -> Result<(), Failure> {
    use crate::inspect::{disk, raft};
    let v = match &i {
        InspectCommand::Disk { path, verify } => disk::disk(path, *verify)?,
        InspectCommand::Journal { path } => disk::journal(path)?,
        InspectCommand::Chunk { path, replica, chunk } => disk::chunk(path, *replica, *chunk)?,
        InspectCommand::Raft { data_dir, log } => raft::raft(data_dir, *log)?,
    };
    match (out.format.is_text(), i) {
        (false, _) => out.value(&v)?,
        (true, InspectCommand::Disk { .. }) => out.print(disk::text(&v))?,
        (true, _) => out.print(crate::inspect::text(&v))?,
    }
    match v["damage"].as_str() {
        Some(why) => Err(anyhow::anyhow!("{}: {why}", v["path"].as_str().unwrap_or_default()).into()),
        None => Ok(()),
    }
}

/// Runs a step of the last resort.
pub async fn rescue(r: RescueCommand, out: &mut Out) -> Result<(), Failure> {
    let said = match r {
        RescueCommand::Propose { from } => {
            let p = crate::rescue::propose(&from.data_dirs, &from.disks)?;
            return match out.format.is_text() {
                true => out.print(crate::inspect::text(&p.report)),
                false => out.value(&p.report),
            };
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
    match out.format.is_text() {
        true => out.line(said),
        false => out.value(&json!({ "done": said })),
    }
}

/// Prints the reference of all attributes. It needs no node: the table is part of the program.
pub fn attributes(out: &mut Out) -> Result<(), Failure> {
    match out.format {
        Format::Text | Format::Wide => out.print(hf_policy::table::reference()),
        Format::Name => hf_policy::TABLE.iter().try_for_each(|a| out.line(format_args!("attribute/{}", a.key))),
        Format::Json | Format::Yaml => {
            out.value(&json!({"items": hf_policy::TABLE.iter().map(attribute).collect::<Vec<_>>()}))
        }
    }
}

/// An attribute as GET /v1/attributes says it.
fn attribute(a: &hf_policy::Attribute) -> Value {
    let (kind, words): (_, &[&str]) = match a.kind {
        Kind::Bytes => ("bytes", &[]),
        Kind::Seconds => ("seconds", &[]),
        Kind::Count => ("count", &[]),
        Kind::Percent => ("percent", &[]),
        Kind::Flag => ("flag", &[]),
        Kind::Word(words) => ("word", words),
        Kind::Names => ("names", &[]),
    };
    let mut v = json!({
        "key": a.key, "values": a.values, "default": a.default.shown(), "online": a.online.text(), "since": a.since,
        "help": a.help, "kind": kind,
    });
    if !words.is_empty() {
        v["words"] = json!(words);
    }
    v
}

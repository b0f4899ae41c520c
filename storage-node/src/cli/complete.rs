//! Completion in shells: words and flags from the command line's own description, names from the cluster.
//!
//! It promises: a shell waits at most [`BOUND`] for names, and gets none if no node answers by then; names are
//! kept for [`FRESH`], so that typing on does not ask again. It uses clap_complete's dynamic engine, which has
//! no stable interface: Cargo.lock pins it, and a test in a real bash notices a change.

use super::client::Client;
use super::context::{self, Said};
use super::failure::{Failure, usage};
use super::http::{Endpoint, encoded};
use super::out::Out;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use serde_json::Value;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

/// The variable by which a completion script asks.
const VARIABLE: &str = "HOLDFAST_COMPLETE";
/// How long a shell waits for names.
const BOUND: Duration = Duration::from_millis(300);
/// How long names are used again.
const FRESH: Duration = Duration::from_secs(10);
/// Names that are offered at most.
const MOST: usize = 1_000;
/// The largest file of kept names that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A volume's name.
    Volume,
    /// A node's name.
    Node,
    /// A disk's number.
    Disk,
    /// A job's name, such as node/n3.
    Job,
    /// A key of a volume's policy.
    Attribute,
    /// A context of the configuration file.
    Context,
}

/// The completion of an argument that names something.
pub fn names(kind: Kind) -> ArgValueCompleter {
    ArgValueCompleter::new(move |begun: &OsStr| {
        let begun = begun.to_string_lossy();
        let all = match kind {
            Kind::Attribute => hf_policy::TABLE.iter().map(|a| format!("{}=", a.key)).collect(),
            Kind::Context => context::names(),
            _ => kept(kind, &begun),
        };
        all.into_iter().filter(|n| n.starts_with(&*begun)).take(MOST).map(CompletionCandidate::new).collect()
    })
}

/// Answers a completion script, if one asks. Then nothing else is to be done.
pub fn answered(command: impl Fn() -> clap::Command) -> bool {
    // (A shell that does not read the answer needs none.)
    CompleteEnv::with_factory(command).var(VARIABLE).try_complete(std::env::args_os(), None).unwrap_or(true)
}

/// Prints the script that makes a shell ask for completions.
pub fn script(shell: clap_complete::Shell, out: &mut Out) -> Result<(), Failure> {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let completer = shells.completer(&name).ok_or_else(|| usage(format_args!("no completion for {name}")))?;
    let mut text = Vec::new();
    completer
        .write_registration(VARIABLE, "holdfast", "holdfast", "holdfast", &mut text)
        .map_err(|e| Failure::failed(format_args!("completion script: {e}")))?;
    out.print(String::from_utf8_lossy(&text))
}

/// The names as they were kept a moment ago, else as the cluster says them now.
fn kept(kind: Kind, begun: &str) -> Vec<String> {
    let words: Vec<String> = std::env::args().collect();
    let flag = |name: &str| {
        let with = words.iter().find_map(|w| w.strip_prefix(&format!("{name}=")).map(String::from));
        with.or_else(|| words.windows(2).find(|w| w[0] == name).map(|w| w[1].clone()))
    };
    let said = Said::here(flag("--endpoint"), flag("--context"));
    let Ok((endpoints, _)) = context::endpoints(&said) else { return Vec::new() };
    let file = file(kind, begun, &endpoints);
    if let Some(names) = file.as_ref().and_then(read) {
        return names;
    }
    let names = asked(kind, begun, endpoints).unwrap_or_default();
    if let (false, Some(file)) = (names.is_empty(), file) {
        // Without a place to keep them, names are asked for each time.
        let _ = write(&file, &names);
    }
    names
}

/// Where names are kept: a directory of the user alone.
fn file(kind: Kind, begun: &str, endpoints: &[Endpoint]) -> Option<PathBuf> {
    let directory = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = directory("XDG_RUNTIME_DIR")
        .or_else(|| directory("XDG_CACHE_HOME"))
        .or_else(|| Some(directory("HOME")?.join(".cache")))?;
    let mut hash = DefaultHasher::new();
    let ends: Vec<String> = endpoints.iter().map(Endpoint::to_string).collect();
    (kind, narrowed(kind, begun), ends).hash(&mut hash);
    Some(base.join("holdfast").join(format!("names-{:016x}", hash.finish())))
}

/// The part of a name by which the server narrows its list; names of a large cluster are more than one page.
fn narrowed(kind: Kind, begun: &str) -> &str {
    if matches!(kind, Kind::Volume | Kind::Node) { begun } else { "" }
}

fn read(file: &PathBuf) -> Option<Vec<String>> {
    let f = std::fs::File::open(file).ok()?;
    let about = f.metadata().ok()?;
    let fresh = about.modified().ok()?.elapsed().ok()? < FRESH;
    if !fresh || about.uid() != rustix::process::geteuid().as_raw() {
        return None;
    }
    let mut text = String::new();
    f.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text.lines().map(String::from).collect())
}

fn write(file: &PathBuf, names: &[String]) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let new = file.with_extension(std::process::id().to_string());
    let mut f = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = f.write_all(names.join("\n").as_bytes()).and_then(|()| std::fs::rename(&new, file));
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}

/// The names as the cluster says them, within the bound.
fn asked(kind: Kind, begun: &str, endpoints: Vec<Endpoint>) -> Option<Vec<String>> {
    let (list, field) = match kind {
        Kind::Volume => ("volumes", "name"),
        Kind::Node => ("nodes", "name"),
        Kind::Disk => ("disks", "id"),
        Kind::Job => ("jobs", "id"),
        Kind::Attribute | Kind::Context => return None,
    };
    let part = encoded(narrowed(kind, begun));
    let part = if part.is_empty() { part } else { format!("&name={part}") };
    let path = format!("/v1/{list}?limit={MOST}&consistency=local{part}");
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let client = Client::new(endpoints, BOUND, false);
    let answer = rt.block_on(async { tokio::time::timeout(BOUND, client.get(&path)).await });
    let items = answer.ok()?.ok()?.body["items"].as_array()?.clone();
    let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    Some(items.iter().map(|i| word(&i[field])).filter(|n| !n.contains('\n')).collect())
}

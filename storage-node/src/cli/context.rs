//! Contexts: named clusters in the operator's own configuration file, and which endpoints a command uses.
//!
//! It promises: the file is the owner's alone (mode 0600; one that others can read is refused, because it will
//! hold secrets), a change replaces it whole, and a key that nobody knows is refused. What a flag says wins over
//! the environment, and that over the file.

use super::failure::{Failure, usage};
use super::http::Endpoint;
use super::out::Out;
use super::table;
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where a node's API answers unless something else is said.
const DEFAULT: &str = "127.0.0.1:7423";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Contexts that a file may hold.
const MAX_CONTEXTS: usize = 1_000;

/// What is done with contexts.
#[derive(Subcommand, Debug)]
pub enum ContextCommand {
    /// List all contexts; the one in use has a star.
    List,
    /// Use a context from now on.
    Use {
        /// Name of the context.
        name: String,
    },
    /// Make or change a context: its endpoints are those of --endpoint, which this needs.
    Set {
        /// Name of the context.
        name: String,
    },
    /// Remove a context.
    Remove {
        /// Name of the context.
        name: String,
    },
    /// Show which endpoints a command would use now, and why.
    Show,
}

/// One named cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    /// Endpoints of its nodes, in the order to try them.
    endpoints: Vec<String>,
}

/// The file as it is written.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Name of the context in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    context: BTreeMap<String, Context>,
}

/// What a command line and its environment say about endpoints.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// The flag --endpoint.
    pub endpoint: Option<String>,
    /// The flag --context.
    pub context: Option<String>,
    /// The variable HOLDFAST_ENDPOINT.
    pub endpoint_variable: Option<String>,
    /// The variable HOLDFAST_CONTEXT.
    pub context_variable: Option<String>,
}

impl Said {
    /// What these flags and the environment of this process say.
    pub fn here(endpoint: Option<String>, context: Option<String>) -> Said {
        let variable = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        Said {
            endpoint,
            context,
            endpoint_variable: variable("HOLDFAST_ENDPOINT"),
            context_variable: variable("HOLDFAST_CONTEXT"),
        }
    }
}

/// The configuration file's path; none if the environment names no home.
fn path() -> Option<PathBuf> {
    let directory = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = directory("XDG_CONFIG_HOME").or_else(|| Some(directory("HOME")?.join(".config")))?;
    Some(base.join("holdfast/config.toml"))
}

fn known_path() -> Result<PathBuf, Failure> {
    path().ok_or_else(|| usage("no place for contexts: neither XDG_CONFIG_HOME nor HOME is an absolute path; set one"))
}

/// Reads the file; one that does not exist is empty.
fn load(path: &Path) -> Result<File, Failure> {
    let at = path.display();
    let mut file = match std::fs::File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(File::default()),
        Err(e) => return Err(Failure::failed(format_args!("{at}: {e}"))),
    };
    let about = file.metadata().map_err(|e| Failure::failed(format_args!("{at}: {e}")))?;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(usage(format_args!(
            "{at} has mode {mode:04o}: others than its owner may use it; run chmod 600 {at}"
        )));
    }
    let mut text = String::new();
    let read = Read::by_ref(&mut file).take(MAX_FILE).read_to_string(&mut text);
    read.map_err(|e| Failure::failed(format_args!("{at}: {e}")))?;
    toml::from_str(&text).map_err(|e| usage(format_args!("{at}: {}", e.to_string().trim_end())))
}

/// Replaces the file.
fn save(path: &Path, file: &File) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::failed(format_args!("{}: {e}", path.display()));
    let text = toml::to_string(file).map_err(|e| failed(&e))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory).map_err(|e| failed(&e))?;
    let new = path.with_extension(format!("toml.{}", std::process::id()));
    let written = (|| {
        let mut f = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        f.write_all(text.as_bytes())?;
        f.sync_all()?;
        std::fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written.map_err(|e| failed(&e))
}

fn no_context(name: &str, file: &File) -> Failure {
    let known: Vec<&str> = file.context.keys().map(String::as_str).collect();
    let known = if known.is_empty() { "there is none yet".into() } else { format!("there are {}", known.join(", ")) };
    Failure::own(3, "not_found", format_args!("no context {name}: {known}; holdfast context set makes one"))
}

fn parsed<'a>(texts: impl Iterator<Item = &'a str>, whose: &str) -> Result<Vec<Endpoint>, Failure> {
    let texts = texts.map(str::trim).filter(|t| !t.is_empty());
    let all: Result<Vec<Endpoint>, String> = texts.map(str::parse).collect();
    match all {
        Ok(all) if all.is_empty() => Err(usage(format_args!("{whose} names no endpoint"))),
        all => all.map_err(|e| usage(format_args!("{whose}: {e}"))),
    }
}

/// The names of all contexts; none if the file cannot be read.
pub fn names() -> Vec<String> {
    let file = path().and_then(|p| load(&p).ok()).unwrap_or_default();
    file.context.into_keys().collect()
}

/// The endpoints that a command uses, and who says so.
pub fn endpoints(said: &Said) -> Result<(Vec<Endpoint>, String), Failure> {
    chosen(said, path().as_deref())
}

fn chosen(said: &Said, path: Option<&Path>) -> Result<(Vec<Endpoint>, String), Failure> {
    let listed = |text: &str, whose: &str| Ok((parsed(text.split(','), whose)?, whose.to_string()));
    if let Some(text) = &said.endpoint {
        return listed(text, "--endpoint");
    }
    // A flag that would be passed over in silence could let a change happen in the wrong cluster.
    if let (None, Some(text)) = (&said.context, &said.endpoint_variable) {
        return listed(text, "HOLDFAST_ENDPOINT");
    }
    let named = said.context.as_ref().or(said.context_variable.as_ref());
    let file = match path {
        Some(path) => load(path)?,
        None => File::default(),
    };
    match named.or(file.current.as_ref()) {
        None => listed(DEFAULT, "the default"),
        Some(name) => {
            let context = file.context.get(name).ok_or_else(|| no_context(name, &file))?;
            let whose = format!("context {name}");
            Ok((parsed(context.endpoints.iter().map(String::as_str), &whose)?, whose))
        }
    }
}

fn valid(name: &str) -> Result<(), Failure> {
    let fits = (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if fits {
        Ok(())
    } else {
        Err(usage(format_args!("context name \"{name}\": use 1 to 64 letters, digits, -, _ or .")))
    }
}

/// Runs `holdfast context …`.
pub fn run(command: ContextCommand, said: &Said, out: &mut Out) -> Result<(), Failure> {
    let path = known_path()?;
    match command {
        ContextCommand::List => list(&load(&path)?, out),
        ContextCommand::Use { name } => {
            let mut file = load(&path)?;
            if !file.context.contains_key(&name) {
                return Err(no_context(&name, &file));
            }
            file.current = Some(name.clone());
            save(&path, &file)?;
            done(out, &name, "is in use")
        }
        ContextCommand::Set { name } => {
            valid(&name)?;
            let text =
                said.endpoint.as_ref().ok_or_else(|| usage("context set needs --endpoint with its endpoints"))?;
            let endpoints = parsed(text.split(','), "--endpoint")?.iter().map(Endpoint::to_string).collect();
            let mut file = load(&path)?;
            file.context.insert(name.clone(), Context { endpoints });
            if file.context.len() > MAX_CONTEXTS {
                return Err(usage(format_args!("more than {MAX_CONTEXTS} contexts; remove some first")));
            }
            save(&path, &file)?;
            done(out, &name, "is set")
        }
        ContextCommand::Remove { name } => {
            let mut file = load(&path)?;
            if file.context.remove(&name).is_none() {
                return Err(no_context(&name, &file));
            }
            file.current = file.current.filter(|c| *c != name);
            save(&path, &file)?;
            done(out, &name, "is removed")
        }
        ContextCommand::Show => {
            let (endpoints, whose) = endpoints(said)?;
            let endpoints: Vec<String> = endpoints.iter().map(Endpoint::to_string).collect();
            if !out.format.is_text() {
                return out.value(&serde_json::json!({"source": whose, "endpoints": endpoints}));
            }
            out.line(format_args!("source     {whose}\nendpoints  {}", endpoints.join(",")))
        }
    }
}

fn done(out: &mut Out, name: &str, what: &str) -> Result<(), Failure> {
    match out.format.is_text() {
        true => out.line(format_args!("context {name} {what}")),
        false => out.value(&serde_json::json!({"context": name, "done": what})),
    }
}

fn list(file: &File, out: &mut Out) -> Result<(), Failure> {
    use super::out::Format;
    let rows = file.context.iter().map(|(name, c)| (name, file.current.as_ref() == Some(name), c.endpoints.join(",")));
    match out.format {
        Format::Text | Format::Wide => {
            let row = |(name, used, ends): (&String, bool, String)| {
                vec![if used { "*".into() } else { String::new() }, name.clone(), ends]
            };
            table::print(out, &["", "NAME", "ENDPOINTS"], &rows.map(row).collect::<Vec<_>>())
        }
        Format::Name => file.context.keys().try_for_each(|name| out.line(format_args!("context/{name}"))),
        Format::Json | Format::Yaml => {
            let one = |(name, used, _): (&String, bool, String)| serde_json::json!({"name": name, "current": used, "endpoints": file.context[name].endpoints});
            out.value(&serde_json::json!({"items": rows.map(one).collect::<Vec<_>>()}))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> Vec<Endpoint> {
        vec![Endpoint::Tcp(text.into())]
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdfast/config.toml");
        let chosen = |said: &Said| chosen(said, Some(&path));
        let mut said = Said::default();
        assert_eq!(chosen(&said).unwrap(), (tcp(DEFAULT), "the default".into()));
        let context = |end: &str| Context { endpoints: vec![end.into()] };
        let all = [("a", "a:1"), ("b", "b:1")].map(|(n, e)| (n.to_string(), context(e)));
        save(&path, &File { current: Some("a".into()), context: all.into() }).unwrap();
        assert_eq!(chosen(&said).unwrap(), (tcp("a:1"), "context a".into()));
        said.context_variable = Some("b".into());
        assert_eq!(chosen(&said).unwrap().0, tcp("b:1"));
        said.endpoint_variable = Some("c:1,d:1".into());
        assert_eq!(chosen(&said).unwrap().0, [tcp("c:1"), tcp("d:1")].concat());
        said.context = Some("a".into());
        assert_eq!(chosen(&said).unwrap().0, tcp("a:1"));
        said.endpoint = Some("e:1".into());
        assert_eq!(chosen(&said).unwrap(), (tcp("e:1"), "--endpoint".into()));
        let said = Said { context: Some("x".into()), ..Said::default() };
        assert_eq!(chosen(&said).unwrap_err().code, 3);
        let said = Said { endpoint: Some(" , ".into()), ..Said::default() };
        assert_eq!(chosen(&said).unwrap_err().code, 2);
    }

    #[test]
    fn a_file_that_others_can_read_or_nobody_understands_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        save(&path, &File::default()).unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(load(&path).unwrap(), File::default());
        for bad in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bad)).unwrap();
            let e = load(&path).unwrap_err();
            let said = e.said(super::super::out::Format::Text).unwrap();
            assert!(e.code == 2 && said.contains(&format!("chmod 600 {}", path.display())), "{said}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for bad in ["token = \"x\"", "[context.a]\nendpoint = [\"a:1\"]", "current = 7"] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(load(&path).unwrap_err().code, 2, "{bad}");
        }
    }
}

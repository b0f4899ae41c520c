//! Which tests there are: cargo builds the workspace and names its test binaries; each binary names
//! its tests.

use crate::weights::{Weight, Weights};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One test: a binary, and the name by which the binary knows it.
pub struct Test {
    /// For people and filters: `package/binary test`.
    pub name: String,
    pub exe: PathBuf,
    /// The package's directory, where cargo runs its tests too.
    pub dir: PathBuf,
    /// The name by which the binary knows it.
    pub test: String,
    pub weight: Weight,
}

/// A test binary.
struct Binary {
    /// Its name, as `package/target`.
    name: String,
    exe: PathBuf,
    dir: PathBuf,
}

/// The packages whose rules can be broken on purpose.
const MUTANTS: &[&str] =
    &["test", "--no-run", "-p", "hf-tests", "-p", "hf-repl-core", "-p", "hf-meta-core", "-p", "hf-store"];
const MUTANTS_ONLY: &[&str] = &["--features", "mutants", "--test", "pure", "--test", "all"];

/// Every test of the workspace. For `make check` the binary of real daemons is not even linked;
/// with `mutants`, those tests of the second build are added that the first one lacks.
pub fn tests(check: bool, mutants: bool, weights: &Weights) -> Vec<Test> {
    let all: &[&str] = if check {
        &["test", "--no-run", "--workspace", "--lib", "--bins", "--test", "all", "--test", "pure", "--test", "tidy"]
    } else {
        &["build", "--workspace", "--all-targets"]
    };
    let mut tests: Vec<Test> = built(all).iter().flat_map(|b| listed(b, weights)).collect();
    assert!(tests.len() > 300, "only {} tests were found", tests.len());
    if mutants {
        let known: BTreeSet<String> = tests.iter().map(|t| t.name.clone()).collect();
        let more = built(&[MUTANTS, MUTANTS_ONLY].concat());
        let more: Vec<Test> =
            more.iter().flat_map(|b| listed(b, weights)).filter(|t| !known.contains(&t.name)).collect();
        assert!(more.len() >= 5, "only {} tests of broken rules were found", more.len());
        tests.extend(more);
    }
    tests
}

/// Lets cargo build; the test binaries that it then has.
fn built(args: &[&str]) -> Vec<Binary> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let out = Command::new(cargo)
        .args(args)
        .args(["--locked", "--message-format", "json-render-diagnostics"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    if !out.status.success() {
        eprintln!("cargo {} failed", args.join(" "));
        std::process::exit(1);
    }
    String::from_utf8(out.stdout).unwrap().lines().filter_map(|l| binary(&serde_json::from_str(l).ok()?)).collect()
}

/// The test binary that a message of cargo's is about.
fn binary(m: &Value) -> Option<Binary> {
    if m["reason"] != "compiler-artifact" || m["profile"]["test"] != true {
        return None;
    }
    let exe = PathBuf::from(m["executable"].as_str()?);
    let dir = Path::new(m["manifest_path"].as_str()?).parent()?.to_path_buf();
    let toml = std::fs::read_to_string(dir.join("Cargo.toml")).ok()?;
    let package = toml.lines().find_map(|l| l.strip_prefix("name = "))?.trim_matches('"').to_string();
    let kind = m["target"]["kind"][0].as_str()?;
    let target = if kind == "test" { m["target"]["name"].as_str()? } else { kind };
    Some(Binary { name: format!("{package}/{target}"), exe, dir })
}

fn listed(b: &Binary, weights: &Weights) -> Vec<Test> {
    let out = Command::new(&b.exe).args(["--list", "--format", "terse"]).current_dir(&b.dir).output().unwrap();
    assert!(out.status.success(), "{}: {}", b.exe.display(), String::from_utf8_lossy(&out.stderr));
    let names = String::from_utf8(out.stdout).unwrap();
    let names = names.lines().filter_map(|l| l.strip_suffix(": test"));
    let test = |t: &str| {
        let name = format!("{} {t}", b.name);
        Test { weight: weights.of(&name), name, exe: b.exe.clone(), dir: b.dir.clone(), test: t.into() }
    };
    names.map(test).collect()
}

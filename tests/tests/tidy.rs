//! House style, kept by machine: purity of the pure packages, arrows between packages, file and function sizes (with a
//! ratchet), words of documents that must match the tree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

/// The larger checks, a file each.
mod tidy {
    pub mod layout;
    pub mod modules;
    pub mod printing;
    pub mod prose;
}

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources() -> Vec<(String, String)> {
    let out = Command::new("git").args(["ls-files", "*.rs"]).current_dir(root()).output().unwrap();
    let list = String::from_utf8(out.stdout).unwrap();
    let all: Vec<_> =
        list.lines().filter_map(|p| Some((p.to_string(), std::fs::read_to_string(root().join(p)).ok()?))).collect();
    assert!(all.len() > 50, "git ls-files found {} sources", all.len());
    all
}

/// Package, directory, and which packages of ours it may use.
const PURE: &[(&str, &str, &[&str])] = &[
    ("hf-policy", "volume-policy", &[]),
    ("hf-meta-core", "metadata/core", &["hf-policy"]),
    ("hf-repl-core", "replication/core", &["hf-policy", "hf-meta-core"]),
    ("hf-store", "storage-node/chunk-store", &["hf-policy"]),
    ("hf-frontends", "storage-node/frontends", &["hf-policy"]),
    ("hf-control", "storage-node/control", &["hf-policy", "hf-meta-core"]),
    ("hf-replica-host", "storage-node/replica-host", &["hf-policy", "hf-meta-core", "hf-repl-core", "hf-store"]),
];

#[test]
fn pure_packages_link_nothing_impure() {
    const BANNED: &[&str] =
        &["tokio", "rocksdb", "io-uring", "rand", "tonic", "raft", "libc", "mio", "socket2", "getrandom"];
    for (package, _, ours) in PURE {
        let out = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "-e", "normal", "--prefix", "none", "-p", package])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let tree = String::from_utf8(out.stdout).unwrap();
        assert!(tree.contains(package));
        for line in tree.lines() {
            let name = line.split_whitespace().next().unwrap_or("");
            assert!(!BANNED.contains(&name), "{package} links {name}");
            assert!(
                !name.starts_with("hf-") || name == *package || ours.contains(&name),
                "{package} may not use {name}"
            );
        }
    }
}

#[test]
fn pure_packages_say_nothing_impure() {
    const BANNED: &[&str] = &[
        "std::fs",
        "std::net",
        "std::thread",
        "std::time::Instant",
        "SystemTime",
        "std::process",
        "HashMap",
        "HashSet",
        "Mutex",
        "RwLock",
        "tokio::",
        "rand::",
        "std::env",
    ];
    let lists: Vec<String> =
        PURE.iter().map(|(_, d, _)| std::fs::read_to_string(root().join(d).join("clippy.toml")).unwrap()).collect();
    assert!(lists.iter().all(|l| *l == lists[0]), "the pure packages' ban lists differ");
    for (path, text) in sources() {
        if !PURE.iter().any(|(_, d, _)| path.starts_with(&format!("{d}/src/"))) {
            continue;
        }
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            for b in BANNED {
                assert!(!line.contains(b), "{path}:{}: {b} in a pure package", i + 1);
            }
        }
    }
}

/// Architecture §4: a write passes no lock of ours and no other thread. What is shared between
/// threads is shared outside its path.
#[test]
fn the_write_path_takes_no_lock() {
    const PATH: &[&str] = &[
        "replication/",
        "storage-node/chunk-store/src/",
        "storage-node/replica-host/src/",
        "storage-node/frontends/src/",
        "storage-node/reactor/src/",
    ];
    // Blocking work on threads of its own, away from the path.
    const ASIDE: [&str; 2] = ["storage-node/reactor/src/disk/raw.rs", "storage-node/reactor/src/disk/threads.rs"];
    // An order among tasks of one thread that have to wait anyway.
    const WAITS: [&str; 2] = ["storage-node/reactor/src/volume/intake.rs", "replication/src/budget.rs"];
    const BANNED: &[&str] =
        &["Mutex", "RwLock", ".lock()", "parking_lot", "block_on(", "block_in_place", "spawn_blocking"];
    let mut looked_at = 0;
    for (path, text) in sources() {
        let tests = path.contains("/tests/") || path.contains("/testdata/");
        if tests
            || WAITS.contains(&path.as_str())
            || ASIDE.contains(&path.as_str())
            || !PATH.iter().any(|p| path.starts_with(p))
        {
            continue;
        }
        looked_at += 1;
        let code = text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"));
        for (i, line) in code {
            // (The thread's own loop begins with block_on; the scrub's lock is one of block ranges.)
            let begins = path == "storage-node/reactor/src/lib.rs" && line.contains("LocalSet::new().block_on");
            let lawful = begins || line.contains("scrub.lock()");
            BANNED.iter().for_each(|b| assert!(lawful || !line.contains(b), "{path}:{}: {b} on the write path", i + 1));
        }
    }
    assert!(looked_at > 60, "only {looked_at} files were looked at");
    // The fast path, when nobody waits, in each of them.
    let fast = [("fn try_take(self", "async fn take(self"), ("fn try_take_in_turn", "async fn wait_for")];
    for (path, (from, to)) in WAITS.iter().zip(fast) {
        let gate = sources().into_iter().find(|(p, _)| p == path).unwrap().1;
        let fast = gate.split(from).nth(1).unwrap().split(to).next().unwrap().to_string();
        assert!(!fast.contains("lock"), "{path}: a lock is taken although nobody waits");
    }
}

#[test]
fn imports_go_one_way() {
    // A package may not depend on one that stands later in this list.
    const ORDER: &[(&str, &[&str])] = &[
        ("volume-policy", &["hf-meta", "hf-repl", "hf-store", "hf-frontends", "holdfast"]),
        ("metadata", &["hf-repl", "hf-store", "hf-frontends", "holdfast"]),
        ("metadata/proto", &["hf-meta.", "hf-repl", "hf-store", "rocksdb"]),
        ("replication", &["hf-meta.", "hf-store", "hf-frontends", "holdfast", "rocksdb"]),
    ];
    for (dir, banned) in ORDER {
        let toml = std::fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
        for line in toml.lines() {
            assert!(!banned.iter().any(|b| line.starts_with(b)), "{dir}/Cargo.toml: {line}");
        }
    }
}

/// Files over 500 lines: none may join, none may grow. Shrink the number when you shrink the file.
const LONG_FILES: &[(&str, usize)] = &[];
/// Functions over 70 lines that stand today.
const LONG_FUNCTIONS: usize = 6;

#[test]
fn files_and_functions_stay_small() {
    let (mut long, mut functions) = (Vec::new(), Vec::new());
    for (path, text) in sources() {
        let lines = text.lines().count();
        let bound = LONG_FILES.iter().find(|(p, _)| *p == path).map_or(500, |(_, n)| *n);
        if lines > bound {
            long.push(format!("{path}: {lines} lines, bound {bound}"));
        }
        let mut start: Option<(usize, String, usize)> = None;
        for (i, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let t = line.trim_start();
            let is_fn = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub async fn "]
                .iter()
                .any(|p| t.starts_with(p));
            if start.is_none() && is_fn && !t.ends_with(';') {
                start = Some((i, t.to_string(), indent));
            } else if let Some((at, name, level)) = &start
                && t == "}"
                && indent == *level
            {
                if i - at > 70 {
                    functions.push(format!("{path}:{}: {} lines: {name}", at + 1, i - at));
                }
                start = None;
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
    assert!(
        functions.len() <= LONG_FUNCTIONS,
        "{} functions over 70 lines, at most {LONG_FUNCTIONS}:\n{}",
        functions.len(),
        functions.join("\n")
    );
}

#[test]
fn every_source_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{path} does not begin with //!");
    }
}

#[test]
fn the_map_matches_the_tree() {
    let map = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut named = 0;
    for word in map.split(|c: char| c.is_whitespace() || "`()|,;:".contains(c)) {
        let looks_like_path =
            word.contains('/') && !word.contains("//") && (word.ends_with(".rs") || word.ends_with('/'));
        if looks_like_path {
            assert!(root().join(word).exists(), "docs/architecture.md names {word}, which does not exist");
            named += 1;
        }
    }
    assert!(named > 25, "the map names only {named} places");
    // And the other way round: every directory of sources is on the map, so that a new one cannot come unseen.
    let mut dirs = BTreeSet::new();
    for (file, _) in sources() {
        let dir = Path::new(&file).parent().unwrap().to_string_lossy().into_owned();
        // Tests, fuzz targets and build scripts stand beside what they belong to.
        if dir.contains("/src") || dir.ends_with("src") {
            dirs.insert(dir);
        }
    }
    assert!(dirs.len() > 15, "{dirs:?}");
    for dir in dirs {
        assert!(map.contains(&format!("{dir}/")), "the map does not show {dir}/");
    }
}

/// A new attribute is one file; this test fails while the table does not name it.
#[test]
fn every_file_of_an_attribute_is_in_the_table() {
    let names = std::fs::read_dir(root().join("volume-policy/src/attributes")).unwrap();
    let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> = names.filter_map(|n| Some(n.strip_suffix(".rs")?.to_string())).collect();
    files.retain(|f| f != "mod" && f != "label");
    files.sort();
    let mut keys: Vec<&str> = hf_policy::TABLE.iter().map(|a| a.key).collect();
    keys.sort();
    assert_eq!(files, keys);
}

#[test]
fn the_attribute_reference_is_the_generated_one() {
    let file = root().join("docs/attributes.md");
    let want = hf_policy::table::reference();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &want).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), want, "run UPDATE=1 cargo test -p hf-tests --test tidy");
}

#[test]
fn decisions_are_numbered_and_complete() {
    let mut seen = 0;
    for e in std::fs::read_dir(root().join("docs/decisions")).unwrap() {
        let path = e.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for part in ["## Context", "## Choice", "## Rival", "## Revisit when"] {
            assert!(text.contains(part), "{} lacks {part}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 5);
}

//! `make demo`, run whole: it tells its story in these lines, and leaves nothing behind, also when
//! it fails half-way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{binary, free_ports};
use std::path::Path;
use std::process::{Command, Output};

/// The base of the demo's ports: base + 10 · node + 0..3, four nodes.
fn ports() -> u16 {
    free_ports(44)
}

fn demo(binary: &Path, dir: &Path, patience: &str) -> Output {
    Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/demo.sh"))
        .env("HOLDFAST", binary)
        .env("TMPDIR", dir)
        .env("HOLDFAST_DEMO_PORT", ports().to_string())
        .env("HOLDFAST_DEMO_PATIENCE", patience)
        .output()
        .unwrap()
}

fn nothing_left(dir: &Path) {
    let files: Vec<_> = std::fs::read_dir(dir).unwrap().collect();
    assert!(files.is_empty(), "the demo left {files:?}");
    let ours = dir.display().to_string();
    for p in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(p.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(!line.contains(&ours), "the demo left a process: {line}");
    }
}

#[test]
fn the_demo_tells_its_whole_story_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = demo(&binary(), dir.path(), "180");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}\n{}", String::from_utf8_lossy(&out.stderr));
    let mut rest: &str = &said;
    for line in [
        "three daemons started",
        "one cluster: three metadata voters",
        "the cluster's page is http://127.0.0.1:",
        "health    ok",
        "read back through n1: identical",
        "n2 is dead",
        "0 errors, all verified",
        "NODE_DOWN",
        "node/n2",
        "VOLUME_DEGRADED",
        "volume/web",
        "the image is identical still",
        "read through n3: identical",
        "e2fsck finds the file system clean",
        "n2 is back and in sync",
        "byte for byte the same",
        "its replica moved",
        "the disk is healed",
        "health    ok",
        "nothing is left behind",
    ] {
        let at = rest.find(line).unwrap_or_else(|| panic!("not told in its place: {line}\n{said}"));
        rest = &rest[at..];
    }
    nothing_left(dir.path());
}

#[test]
fn a_demo_that_fails_says_so_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = demo(Path::new("/bin/false"), dir.path(), "1");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        !out.status.success() && said.contains("gave up waiting for") && said.contains("The demo failed"),
        "{said}"
    );
    nothing_left(dir.path());
}

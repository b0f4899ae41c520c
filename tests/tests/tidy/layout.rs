//! Every test is run: each file of tests is a module of a test binary, and there are no doc tests,
//! which the runner would not run.

use super::super::{root, sources};

/// Test binaries' directories, and the files in them that are roots.
const ROOTS: &[&str] = &["all", "real", "pure", "tidy"];

#[test]
fn every_file_of_tests_is_in_a_binary() {
    let files = sources();
    let mut looked_at = 0;
    for (path, _) in &files {
        let Some((dir, file)) = path.rsplit_once('/') else { continue };
        if !dir.ends_with("/tests") || dir.contains("/src") || dir.contains("/fuzz") {
            continue;
        }
        let name = file.trim_end_matches(".rs");
        if ROOTS.contains(&name) {
            let toml = std::fs::read_to_string(root().join(dir).join("../Cargo.toml")).unwrap();
            assert!(toml.contains(&format!("path = \"tests/{file}\"")), "{path} is not a test of its Cargo.toml");
            continue;
        }
        looked_at += 1;
        let roots = files.iter().filter(|(p, _)| ROOTS.iter().any(|r| *p == format!("{dir}/{r}.rs")));
        let named = roots.filter(|(_, t)| t.lines().any(|l| l == format!("mod {name};"))).count();
        // (A package with one file of tests leaves it to cargo to find it.)
        let alone = !files.iter().any(|(p, _)| *p == format!("{dir}/all.rs") || *p == format!("{dir}/real.rs"));
        assert!(named == 1 || alone && name == "properties", "{path} is a module of {named} test binaries, not of one");
    }
    assert!(looked_at > 60, "only {looked_at} files were looked at");
}

#[test]
fn there_are_no_doc_tests() {
    for (path, text) in sources() {
        let mut open = false;
        for (i, line) in text.lines().enumerate() {
            let t = line.trim_start();
            let Some(doc) = t.strip_prefix("///").or_else(|| t.strip_prefix("//!")) else { continue };
            if let Some(kind) = doc.trim().strip_prefix("```") {
                assert!(open || kind == "text", "{path}:{}: a doc test: nobody runs it; say ```text", i + 1);
                open = !open;
            }
        }
    }
}

//! Golden transcripts of the coordinator and the replica (`testdata/*.txt`): the protocol's
//! specification by example. How they are written and run stands in `script/mod.rs`; `UPDATE=1`
//! writes them anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::script::{self, Machine, difference, files, run};

/// Runs every file of one machine; none may say anything else than what is committed.
fn transcripts(prefix: &str, at_least: usize, mut new: impl FnMut() -> Box<dyn Machine>) {
    let all = files(prefix);
    assert!(all.len() >= at_least, "only {} transcripts of {prefix}", all.len());
    let mut wrong = Vec::new();
    for path in all {
        let committed = std::fs::read_to_string(&path).unwrap();
        let now = run(&committed, &mut *new());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &now).unwrap();
        } else {
            wrong.extend(difference(&path.display().to_string(), &committed, &now));
        }
    }
    assert!(wrong.is_empty(), "{}\nif that is meant: UPDATE=1, and read the difference", wrong.join("\n"));
}

#[test]
fn the_coordinator_says_what_its_transcripts_say() {
    transcripts("coordinator_", 9, || Box::<script::coordinator::World>::default());
}

#[test]
fn the_replica_says_what_its_transcripts_say() {
    transcripts("replica_", 4, || Box::<script::replica::World>::default());
}

/// A line changed, left out or added in any transcript is noticed, and so is an answer to a
/// question that was not asked.
#[test]
fn a_transcript_with_any_line_changed_is_refused() {
    let mut tried = 0;
    for path in files("coordinator_") {
        let whole = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        for i in (0..lines.len()).filter(|i| !lines[*i].is_empty() && !lines[*i].starts_with(['#', '>'])) {
            let mut without = lines.clone();
            without.remove(i);
            let changed = format!("{}\n", without.join("\n"));
            let now = run(&changed, &mut script::coordinator::World::default());
            assert!(difference("", &changed, &now).is_some(), "{}: line {} is not needed", path.display(), i + 1);
            assert_eq!(now, whole, "outputs do not depend on what was committed");
            tried += 1;
        }
    }
    assert!(tried > 100, "only {tried} lines");
}

/// Rules that no transcript can show: they are kept by the cluster's record, and
/// `metadata/core/tests/rules.rs` shows each of them; or only several take-overs show them
/// (`stopping.rs`, and the simulator). Those of links and of the growth of volumes have tests of
/// their own.
#[cfg(feature = "mutants")]
const UNSEEN: &[&str] = &["UnservedTermsCount", "WipedKeepsBase", "AttachKeepsTerm", "ForceKeepsBase"];

/// Every other rule, broken on purpose, changes some transcript.
#[cfg(feature = "mutants")]
#[test]
fn a_broken_rule_shows_in_some_transcript() {
    use hf_meta_core::mutant;
    let said = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).unwrap();
        let replica = path.file_name().unwrap().to_string_lossy().starts_with("replica_");
        let run = || match replica {
            true => run(&text, &mut script::replica::World::default()),
            false => run(&text, &mut script::coordinator::World::default()),
        };
        std::panic::catch_unwind(run).is_ok_and(|now| now == text)
    };
    let all: Vec<_> = files("coordinator_").into_iter().chain(files("replica_")).collect();
    let mut unseen = Vec::new();
    let elsewhere =
        |m: &&mutant::Mutant| [mutant::OF_LINKS, mutant::GROWTH, mutant::RECORD].iter().any(|l| l.contains(m));
    for m in mutant::ALL.iter().filter(|m| !elsewhere(m)) {
        mutant::set(Some(*m));
        if all.iter().all(|p| said(p)) {
            unseen.push(format!("{m:?}"));
        }
    }
    mutant::set(None);
    assert!(all.iter().all(|p| said(p)), "without a broken rule every transcript holds");
    assert_eq!(unseen, UNSEEN);
}

//! Comments as a stranger reads them: no doc comment of one or two words, no line of comment over
//! 120 columns. It also counts what else the house counts: assertions, long files.

use super::super::sources;

/// Columns of a line of comment.
const COLUMNS: usize = 120;

/// Doc comments of one or two words: line numbers and texts.
fn terse(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut now: Option<(usize, String)> = None;
    for (i, line) in text.lines().chain([""]).enumerate() {
        let doc = line.trim_start().strip_prefix("///").filter(|rest| !rest.starts_with('/'));
        match (doc, &mut now) {
            (Some(words), Some((_, all))) => *all += words,
            (Some(words), None) => now = Some((i + 1, words.to_string())),
            (None, _) => found.extend(now.take().filter(|(_, all)| all.split_whitespace().count() <= 2)),
        }
    }
    found
}

/// Lines of comment that are too long, by their numbers.
fn wide(text: &str) -> Vec<usize> {
    let long = |l: &str| l.trim_start().starts_with("//") && l.chars().count() > COLUMNS;
    text.lines().enumerate().filter(|(_, l)| long(l)).map(|(i, _)| i + 1).collect()
}

#[test]
fn comments_are_sentences_of_a_readable_width() {
    let mut bad = Vec::new();
    for (path, text) in sources() {
        bad.extend(terse(&text).iter().map(|(n, t)| format!("{path}:{n}: a doc comment of one or two words:{t}")));
        bad.extend(wide(&text).iter().map(|n| format!("{path}:{n}: a line of comment over {COLUMNS} columns")));
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn what_the_house_counts() {
    let all = sources();
    let found = super::modules::look(&all);
    let product =
        |p: &&(String, String)| p.0.contains("src/") && !p.0.starts_with("tests/") && !p.0.ends_with("/broken.rs");
    let assertions = |t: &str| t.matches("broken!(").count() + t.matches("invariant!(").count();
    println!(
        "circles {}, arrows up {}, doc comments of one or two words {}, lines of comment over {COLUMNS} columns {}, assertions {}, files over 400 lines {}",
        found.circles.len(),
        found.up.len(),
        all.iter().map(|(_, t)| terse(t).len()).sum::<usize>(),
        all.iter().map(|(_, t)| wide(t).len()).sum::<usize>(),
        all.iter().filter(product).map(|(_, t)| assertions(t)).sum::<usize>(),
        all.iter().filter(|(_, t)| t.lines().count() > 400).count(),
    );
    found.circles.iter().chain(&found.up).for_each(|c| println!("{c}"));
    assert_eq!(terse("/// One word.\nfn f() {}\n/// Two\n/// words.\n/// Here are three.\n").len(), 1);
    assert_eq!(terse("    /// Which.\n    x: u8,\n").len(), 1);
}

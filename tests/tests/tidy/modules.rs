//! The modules of each crate and what they import from each other: no circle, and no arrow that
//! runs up.
//!
//! An arrow leads from the file of a module to the file of another one that it names (`use`, or a
//! path from `crate` or `super`; a name that a module passes on with `pub use` leads to the file it
//! comes from). A module may use what its own ancestors define: that arrow is not counted. A
//! *circle* is a set of files of which each reaches each. An arrow *runs up* if it joins two
//! neighbours (modules with the same parent, each with all that is below it) that already reach
//! each other in the other direction.

use std::collections::{BTreeMap, BTreeSet};

/// A module's path inside its crate, from the root.
type Path = Vec<String>;
/// Who names whom.
type Arrows<N> = BTreeSet<(N, N)>;

/// Circles that stand today, by the directory that holds them all. None may join; strike what is
/// gone.
const CIRCLES: &[&str] = &["storage-node/chunk-store/src", "tests/src/sim"];
/// Pairs of neighbours that reach each other although their files do not. None may join; strike
/// what is gone.
const UP: &[&str] = &[
    "storage-node/chunk-store/src: engine, journal, overlay, requests, space, table",
    "storage-node/chunk-store/src: format, geometry",
];

/// What a look at all crates found.
pub struct Found {
    pub circles: Vec<String>,
    pub up: Vec<String>,
}

/// Looks at every crate of the workspace.
pub fn look(sources: &[(String, String)]) -> Found {
    let roots: BTreeSet<&str> = sources.iter().filter_map(|(p, _)| p.find("/src/").map(|at| &p[..at + 4])).collect();
    let mut found = Found { circles: Vec::new(), up: Vec::new() };
    for root in roots {
        let inside = sources.iter().filter_map(|(p, t)| Some((p.strip_prefix(root)?.strip_prefix('/')?, t)));
        let files: BTreeMap<Path, String> =
            inside.filter(|(p, _)| !p.ends_with("tests.rs")).map(|(p, t)| (module(p), code(t))).collect();
        let arrows = arrows(&files);
        let circles = circles(&arrows);
        found.circles.extend(circles.iter().map(|c| format!("{}: {}", place(root, &common(c)), names(c))));
        found.up.extend(up(root, &arrows, &circles));
    }
    found
}

#[test]
fn modules_form_no_circle_and_no_arrow_runs_up() {
    let found = look(&super::super::sources());
    let new = |c: &&String| !CIRCLES.iter().any(|known| c.starts_with(&format!("{known}: ")));
    let circles: Vec<&String> = found.circles.iter().filter(new).collect();
    assert!(circles.is_empty(), "modules in a circle:\n{circles:#?}");
    let up: Vec<&String> = found.up.iter().filter(|u| !UP.contains(&u.as_str())).collect();
    assert!(up.is_empty(), "modules that reach each other both ways:\n{up:#?}");
}

#[test]
fn a_circle_is_found() {
    let file = |path: &str, text: &str| (format!("x/src/{path}"), text.to_string());
    let found = |a: &str, c: &str| {
        let facade = file("b/mod.rs", "mod c;\npub mod d;\npub use c::C;");
        let f = look(&[file("lib.rs", ""), file("a.rs", a), facade, file("b/c.rs", c), file("b/d.rs", "")]);
        (f.circles.len(), f.up.len())
    };
    assert_eq!(found("use crate::b::C;", "use crate::e::A;"), (0, 0));
    assert_eq!(found("use crate::b::C;", "use crate::{x, a::{A, B}};"), (1, 0));
    assert_eq!(found("fn f() { crate::b::c::f() }", "fn g() { super::super::a::f() }"), (1, 0));
    // (No file reaches itself; only the neighbours `a` and `b` reach each other.)
    assert_eq!(found("use crate::b::d::D;", "use crate::a::A;"), (0, 1));
}

/// The module that a file is, by its path below `src`.
fn module(path: &str) -> Path {
    let mut parts: Path = path.trim_end_matches(".rs").split('/').map(String::from).collect();
    if parts.last().is_some_and(|l| ["mod", "lib", "main"].contains(&l.as_str())) {
        parts.pop();
    }
    parts
}

/// A file without its comments and its module of tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    text.lines().map(|l| l.split("//").next().unwrap_or(l)).collect::<Vec<_>>().join("\n")
}

/// Every path that `use` declarations name, groups spelled out, and whether they are passed on
/// (`pub`).
fn used(code: &str) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].trim_end_matches(' ');
        let begins = before.is_empty()
            || before.ends_with(['\n', ';', '{', '}'])
            || before.ends_with("pub")
            || before.ends_with(')');
        let Some(end) = code[at..].find(';').filter(|_| begins) else { continue };
        let line = before.rsplit('\n').next().unwrap_or("");
        spell("", &code[at + 4..at + end], line.contains("pub"), &mut all);
    }
    all
}

fn spell(prefix: &str, tree: &str, public: bool, all: &mut Vec<(String, bool)>) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or(tree);
        if !name.is_empty() {
            all.push((format!("{prefix}{name}"), public));
        }
        return;
    };
    let (mut depth, mut from) = (0, 0);
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                spell(&format!("{prefix}{head}"), &group[from..i], public, all);
                from = i + 1;
            }
            _ => {}
        }
    }
    spell(&format!("{prefix}{head}"), &group[from..], public, all);
}

/// Paths from `crate` or `super` anywhere in the code.
fn named(code: &str) -> Vec<String> {
    let from = |word: &str| -> Vec<String> {
        let path = |at: usize| {
            code[at..].split(|c: char| !(c.is_alphanumeric() || "_:".contains(c))).next().unwrap_or("").to_string()
        };
        code.match_indices(word).map(|(at, _)| path(at)).collect()
    };
    [from("crate::"), from("super::")].concat()
}

/// Where a path leads from a module, as a path from the crate's root; none if it leaves the crate.
fn absolute(module: &Path, path: &str, files: &BTreeMap<Path, String>) -> Option<Path> {
    let mut words: Vec<&str> = path.split("::").filter(|w| !w.is_empty()).collect();
    let mut base = module.clone();
    match *words.first()? {
        "crate" => {
            base.clear();
            words.remove(0);
        }
        "self" => drop(words.remove(0)),
        "super" => {
            while words.first() == Some(&"super") {
                base.pop();
                words.remove(0);
            }
        }
        first => {
            let child: Path = [base.clone(), vec![first.to_string()]].concat();
            files.contains_key(&child).then_some(())?;
        }
    }
    base.extend(words.into_iter().map(String::from));
    Some(base)
}

fn arrows(files: &BTreeMap<Path, String>) -> Arrows<Path> {
    let mut passed: BTreeMap<Path, BTreeMap<String, Path>> = BTreeMap::new();
    for (m, text) in files {
        for (path, _) in used(text).into_iter().filter(|(_, public)| *public) {
            if let (Some(to), Some(name)) = (absolute(m, &path, files), path.rsplit("::").next()) {
                passed.entry(m.clone()).or_default().insert(name.to_string(), to);
            }
        }
    }
    let mut all = BTreeSet::new();
    for (m, text) in files {
        let paths = used(text).into_iter().map(|(p, _)| p).chain(named(text));
        let ends = paths.filter_map(|p| resolve(absolute(m, &p, files)?, files, &passed));
        all.extend(ends.filter(|to| !m.starts_with(to)).map(|to| (m.clone(), to)));
    }
    all
}

/// The file that defines what a path names.
fn resolve(
    mut path: Path,
    files: &BTreeMap<Path, String>,
    passed: &BTreeMap<Path, BTreeMap<String, Path>>,
) -> Option<Path> {
    for _ in 0..5 {
        let n = (0..=path.len()).rev().find(|n| files.contains_key(&path[..*n]))?;
        let next = path.get(n).and_then(|name| passed.get(&path[..n])?.get(name));
        match next.filter(|to| **to != path) {
            Some(to) => path = [to.clone(), path[n + 1..].to_vec()].concat(),
            None => return Some(path[..n].to_vec()),
        }
    }
    None
}

/// The sets of two or more of which each reaches each.
fn circles<N: Ord + Clone>(arrows: &Arrows<N>) -> Vec<BTreeSet<N>> {
    let reach = |from: &N| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(n) = next.pop() {
            for (_, to) in arrows.iter().filter(|(a, _)| *a == n) {
                if seen.insert(to.clone()) {
                    next.push(to.clone());
                }
            }
        }
        seen
    };
    let all: BTreeMap<N, BTreeSet<N>> = arrows.iter().map(|(a, _)| (a.clone(), reach(a))).collect();
    let with = |n: &N| -> BTreeSet<N> {
        all[n].iter().filter(|o| all.get(*o).is_some_and(|r| r.contains(n))).cloned().collect()
    };
    let sets: BTreeSet<BTreeSet<N>> = all.keys().map(with).filter(|s| s.len() > 1).collect();
    sets.into_iter().collect()
}

/// Pairs of neighbours that reach each other, outside the circles of files.
fn up(root: &str, arrows: &Arrows<Path>, circles: &[BTreeSet<Path>]) -> Vec<String> {
    let mut levels: BTreeMap<Path, Arrows<String>> = BTreeMap::new();
    for (a, b) in arrows {
        let n = a.iter().zip(b).take_while(|(x, y)| x == y).count();
        let known = circles.iter().any(|c| c.contains(a) && c.contains(b));
        if n < a.len() && n < b.len() && !known {
            levels.entry(a[..n].to_vec()).or_default().insert((a[n].clone(), b[n].clone()));
        }
    }
    let tied = |(level, arrows): (&Path, &Arrows<String>)| -> Vec<String> {
        let sets = self::circles(arrows).into_iter();
        sets.map(|s| format!("{}: {}", place(root, level), s.into_iter().collect::<Vec<_>>().join(", "))).collect()
    };
    levels.iter().flat_map(tied).collect()
}

/// The innermost module that holds them all.
fn common(all: &BTreeSet<Path>) -> Path {
    let first = all.first().cloned().unwrap_or_default();
    let n =
        (0..=first.len()).rev().find(|n| all.iter().all(|p| p.len() > *n && p.starts_with(&first[..*n]))).unwrap_or(0);
    first[..n].to_vec()
}

fn place(root: &str, module: &Path) -> String {
    [&[root.to_string()][..], module].concat().join("/")
}

fn names(all: &BTreeSet<Path>) -> String {
    all.iter().map(|p| p.join("::")).collect::<Vec<_>>().join(", ")
}

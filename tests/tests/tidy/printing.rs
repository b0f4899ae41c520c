//! The binary prints through one place, which knows what to do when the reader has gone or the output is full.
//! `println!` would panic there.

use super::super::sources;

/// The file that prints.
const PRINTS: &str = "storage-node/src/cli/out.rs";
/// What nobody else may say.
const BANNED: [&str; 6] = ["println!", "print!", "eprintln!", "eprint!", "io::stdout()", "io::stderr()"];

/// Lines of code that print, by their numbers.
fn printing(text: &str) -> Vec<usize> {
    let code = text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"));
    code.filter(|(_, l)| BANNED.iter().any(|b| l.contains(b))).map(|(i, _)| i + 1).collect()
}

#[test]
fn one_file_of_the_binary_prints() {
    let (mut bad, mut looked_at) = (Vec::new(), 0);
    for (path, text) in sources() {
        // (A file of tests is not in the binary, and prints what it measured.)
        if path.starts_with("storage-node/src/") && path != PRINTS && !path.ends_with("/tests.rs") {
            looked_at += 1;
            bad.extend(printing(&text).iter().map(|n| format!("{path}:{n}: prints beside {PRINTS}")));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(looked_at > 40, "only {looked_at} files were looked at");
    assert_eq!(printing("// println!\nfn f() {\n    eprintln!(\"x\");\n    print!();\n}\n"), [3, 4]);
}

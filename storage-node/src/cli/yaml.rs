//! Writes a JSON value as YAML 1.2, and also so that readers of YAML 1.1 understand the same.
//!
//! It promises: a text that some reader could take for something else (a number, a date, `no`, `~`, a comment)
//! stands in double quotes with the escapes of JSON, which are those of YAML. It reads nothing and keeps the
//! order of keys that the value has. Not a crate: those that are left of serde_yaml have had no release in two
//! years, and this half of YAML is short.

use serde_json::Value;

/// A value as a document that ends with a line feed.
pub fn document(v: &Value) -> String {
    let mut out = String::new();
    match v {
        Value::Object(o) if !o.is_empty() => block(v, 0, &mut out),
        Value::Array(a) if !a.is_empty() => block(v, 0, &mut out),
        _ => out = scalar(v) + "\n",
    }
    out
}

/// A map or list that is not empty, a line for each entry; the first line's indentation is already there if
/// `out` ends inside a line.
fn block(v: &Value, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    let begin = |out: &mut String| {
        if out.is_empty() || out.ends_with('\n') {
            out.push_str(&pad);
        }
    };
    match v {
        Value::Object(o) => {
            for (key, v) in o {
                begin(out);
                out.push_str(&text(key));
                out.push(':');
                below(v, depth + 1, "\n", out);
            }
        }
        Value::Array(a) => {
            for v in a {
                begin(out);
                out.push('-');
                below(v, depth + 1, " ", out);
            }
        }
        _ => {}
    }
}

/// What follows a key or a dash: a scalar on the same line, else a block.
fn below(v: &Value, depth: usize, between: &str, out: &mut String) {
    let nested = matches!(v, Value::Object(o) if !o.is_empty()) || matches!(v, Value::Array(a) if !a.is_empty());
    if nested {
        out.push_str(between);
        block(v, depth, out);
    } else {
        out.push(' ');
        out.push_str(&scalar(v));
        out.push('\n');
    }
}

fn scalar(v: &Value) -> String {
    match v {
        Value::String(s) => text(s),
        // (JSON writes null, numbers, true, false, {} and [] as YAML does.)
        other => other.to_string(),
    }
}

/// A text, in quotes unless no reader can take it for anything else.
fn text(s: &str) -> String {
    const WORDS: [&str; 12] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "nil"];
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let letter_first = s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    if letter_first && s.chars().all(plain) && !WORDS.contains(&s.to_ascii_lowercase().as_str()) {
        return s.into();
    }
    let mut quoted = String::new();
    for c in Value::from(s).to_string().chars() {
        // JSON leaves these as they are; YAML takes them for line ends or forbids them.
        let odd = matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
        if odd { quoted += &format!("\\u{:04x}", c as u32) } else { quoted.push(c) }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn maps_and_lists_nest() {
        let v = json!({
            "items": [{"name": "web", "replicas": [1, 2]}, [], [["a"], "b"]],
            "next": null, "size_bytes": 268435456u64, "more": {"labels": {}, "ok": true, "rate": 1.5},
        });
        let want = "items:\n  - name: web\n    replicas:\n      - 1\n      - 2\n  - []\n  - - - a\n    - b\n\
            next: null\nsize_bytes: 268435456\nmore:\n  labels: {}\n  ok: true\n  rate: 1.5\n";
        // (Maps of this build of serde_json are sorted or not: the same keys in either order.)
        let sorted = |s: &str| {
            let mut l: Vec<String> = s.lines().map(String::from).collect();
            l.sort();
            l
        };
        assert_eq!(sorted(&document(&v)), sorted(want));
        assert_eq!(document(&json!([])), "[]\n");
        assert_eq!(document(&json!("x y")), "\"x y\"\n");
        assert_eq!(document(&json!([{"a": [1]}])), "- a:\n    - 1\n");
    }

    #[test]
    fn what_could_be_mistaken_is_quoted() {
        for plain in ["web", "n1", "in_sync", "/dev/sdb", "a-b.c/d", "Ready"] {
            assert_eq!(text(plain), plain);
        }
        let quoted = [
            "",
            "no",
            "Yes",
            "NULL",
            "true",
            "~",
            "1",
            "1e3",
            "0x1f",
            "-",
            "- a",
            "2026-11-30",
            "12:30",
            "a: b",
            "a #b",
            "#",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "{",
            "[",
            "|",
            ">",
            " a",
            "a ",
            "'a'",
            ".inf",
            "=",
            "<<",
            "?",
            "é",
        ];
        for q in quoted {
            assert_eq!(text(q), format!("\"{q}\""));
        }
        assert_eq!(text("a\"\\\n\t\u{0}"), "\"a\\\"\\\\\\n\\t\\u0000\"");
        assert_eq!(text("a\u{85}\u{2028}\u{7f}\u{feff}"), "\"a\\u0085\\u2028\\u007f\\ufeff\"");
    }
}

//! `holdfast inspect`: shows any structure of a stopped node as text or JSON. It reads and verifies; it
//! writes nothing.

pub mod disk;
pub mod raft;

use serde_json::Value;

/// A value as text for people: one line per leaf; short objects are on one line.
pub fn text(v: &Value) -> String {
    let mut text = String::new();
    lines(v, 0, &mut text);
    text
}

fn flat(v: &Value) -> Option<String> {
    match v {
        Value::String(s) => Some(s.clone()),
        Value::Null => Some("–".into()),
        Value::Array(a) if a.is_empty() => Some("none".into()),
        Value::Array(_) => None,
        Value::Object(o) => {
            let parts: Option<Vec<String>> =
                o.iter().map(|(k, v)| flat(v).filter(|t| t.len() < 60).map(|t| format!("{k} {t}"))).collect();
            parts.map(|p| p.join(", ")).filter(|t| t.len() < 160)
        }
        other => Some(other.to_string()),
    }
}

fn lines(v: &Value, depth: usize, text: &mut String) {
    let pad = "  ".repeat(depth);
    match v {
        Value::Object(o) => {
            for (k, v) in o {
                match flat(v) {
                    Some(t) => *text += &format!("{pad}{k:<22} {t}\n"),
                    None => {
                        *text += &format!("{pad}{k}\n");
                        lines(v, depth + 1, text);
                    }
                }
            }
        }
        Value::Array(a) => {
            for v in a {
                match flat(v) {
                    Some(t) => *text += &format!("{pad}- {t}\n"),
                    None => {
                        *text += &format!("{pad}-\n");
                        lines(v, depth + 1, text);
                    }
                }
            }
        }
        other => *text += &format!("{pad}{}\n", flat(other).unwrap_or_default()),
    }
}

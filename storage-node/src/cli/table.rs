//! Tables for people: a line of heads, then the rows, columns as wide as their widest cell. It knows nothing of
//! what the cells mean.

use super::failure::Failure;
use super::out::Out;
use serde_json::Value;

/// A value as a word.
pub fn word(v: Option<&Value>) -> String {
    match v {
        Some(Value::String(s)) => s.clone(),
        None | Some(Value::Null) => "–".into(),
        Some(other) => other.to_string(),
    }
}

/// The columns that one character takes on a terminal, nearly: East Asian wide characters take two.
fn width(text: &str) -> usize {
    text.chars().map(|c| 1 + usize::from(matches!(c as u32, 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xff00..=0xff60 | 0x1f300..=0x1faff | 0x20000..=0x3fffd))).sum()
}

/// The lines of a table. A row shorter than the heads ends with empty cells.
pub fn lines(heads: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
    let widths: Vec<usize> = (0..heads.len())
        .map(|i| rows.iter().map(|r| width(&cell(r, i))).chain([width(heads[i])]).max().unwrap_or(0))
        .collect();
    let line = |row: Vec<String>| -> String {
        let pad = |(i, c): (usize, &String)| c.clone() + &" ".repeat(widths[i] - width(c));
        row.iter().enumerate().map(pad).collect::<Vec<_>>().join("  ").trim_end().into()
    };
    let head = line(heads.iter().map(|h| h.to_string()).collect());
    let body = rows.iter().map(|r| line((0..heads.len()).map(|i| cell(r, i)).collect()));
    std::iter::once(head).chain(body).collect()
}

/// Prints a table.
pub fn print(out: &mut Out, heads: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    lines(heads, rows).iter().try_for_each(|l| out.line(l))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |a: &str, b: &str| vec![a.to_string(), b.to_string()];
        let t = lines(&["NAME", "SIZE"], &[row("web", "1GiB"), row("a-long-name", "–"), row("日本", "x"), vec![]]);
        assert_eq!(t, ["NAME         SIZE", "web          1GiB", "a-long-name  –", "日本         x", ""]);
    }
}

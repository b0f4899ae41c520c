//! `label.<key>`: free labels; the only place where unknown words are welcome.

/// Checks a label's key (without the prefix) and its text.
pub fn check(key: &str, value: &str) -> Result<String, String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if key.is_empty() || key.len() > 63 || !key.chars().all(ok) {
        return Err("a label's key has 1 to 63 letters, digits, or - _ . /".into());
    }
    if value.len() > 255 || value.chars().any(char::is_control) {
        return Err("a label's text has at most 255 bytes and no control characters".into());
    }
    Ok(value.to_string())
}

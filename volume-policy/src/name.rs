//! What volumes, nodes and clusters may be called.

/// Checks a volume's or node's name: DNS-like, so that it fits URIs, file names and labels.
pub fn valid_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name cannot be empty".into());
    }
    if name.len() > 63 {
        return Err(format!("a name has at most 63 characters, this one has {}", name.len()));
    }
    if let Some(c) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_.".contains(*c))) {
        return Err(format!("{c:?} cannot stand in a name; use letters, digits, '-', '_' and '.'"));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("a name begins with a letter or a digit".into());
    }
    Ok(())
}

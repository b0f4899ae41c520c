//! The attribute table: the single source of every policy attribute's name, type, unit, default and help.
//!
//! CLI flags, help, `docs/attributes.md`, API checks and stored records are generated from it or pass
//! attributes through as typed key/value. Adding one = a file in `attributes/`, its name in `attributes/mod.rs`, and the
//! line that enforces it. Strict: an unknown key is refused with the nearest valid one.

pub use crate::attributes::TABLE;
use crate::attributes::label;
use crate::policy::AttrMap;

/// May an attribute change after creation?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Online {
    /// At any time, effective at once.
    Yes,
    /// Only to larger values.
    Grow,
    /// Changing it moves data; refused until replica sets can change online.
    MovesData,
    /// Fixed at creation.
    No,
}

impl Online {
    /// One word for tables.
    pub fn text(self) -> &'static str {
        match self {
            Online::Yes => "yes",
            Online::Grow => "grow",
            Online::MovesData => "moves data",
            Online::No => "no",
        }
    }
}

/// What an attribute is when nobody set it.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// It must be set.
    Required,
    /// A value in normal form.
    Text(&'static str),
    /// It follows from others.
    Computed {
        /// How, for people.
        shown: &'static str,
        /// From what is set.
        text: fn(&AttrMap) -> String,
    },
}

impl Fallback {
    /// For people; empty when there is none.
    pub fn shown(self) -> &'static str {
        match self {
            Fallback::Required => "",
            Fallback::Text(t) => t,
            Fallback::Computed { shown, .. } => shown,
        }
    }
}

/// One attribute of a volume's policy.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// Its name at every door.
    pub key: &'static str,
    /// What a value looks like, for people.
    pub values: &'static str,
    /// When nobody set it.
    pub default: Fallback,
    /// Whether it can change later.
    pub online: Online,
    /// The release that brought it.
    pub since: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Checks a value and returns its normal form.
    pub check: fn(&str) -> Result<String, String>,
}

/// As a value of any attribute: what it is when nobody set it.
pub const DEFAULT: &str = "default";

/// The prefix of free labels.
pub const LABEL_PREFIX: &str = "label.";

/// Why an attribute was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttrError {
    /// No attribute of that name.
    #[error("unknown attribute \"{key}\"{}", hint(.nearest))]
    Unknown {
        /// What was given.
        key: String,
        /// The nearest valid key, if one is near.
        nearest: Option<String>,
    },
    /// The value does not fit.
    #[error("attribute {key}: {why}")]
    Value {
        /// Which attribute.
        key: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// Given twice.
    #[error("attribute {0} is given twice")]
    Twice(String),
    /// Not given and without a default.
    #[error("attribute {0} is required (holdfast policy attributes lists them all)")]
    Missing(&'static str),
    /// Cannot change after creation.
    #[error("attribute {key} cannot change to {to} on an existing volume: {why}")]
    NotOnline {
        /// Which attribute.
        key: String,
        /// The refused value.
        to: String,
        /// The rule.
        why: &'static str,
    },
}

fn hint(nearest: &Option<String>) -> String {
    match nearest {
        Some(k) => format!("; did you mean \"{k}\"?"),
        None => "; holdfast policy attributes lists them all, free text goes under label.<key>".into(),
    }
}

/// Finds an attribute by its exact key.
pub fn find(key: &str) -> Option<&'static Attribute> {
    TABLE.iter().find(|a| a.key == key)
}

/// Checks one key and value; returns the value's normal form.
pub fn check(key: &str, value: &str) -> Result<String, AttrError> {
    let fail = |why| AttrError::Value { key: key.into(), why };
    if let Some(label) = key.strip_prefix(LABEL_PREFIX) {
        return label::check(label, value).map_err(fail);
    }
    match find(key) {
        Some(_) if value.trim() == DEFAULT => Ok(DEFAULT.into()),
        Some(a) => (a.check)(value.trim()).map_err(fail),
        None => Err(AttrError::Unknown { key: key.into(), nearest: nearest(key) }),
    }
}

/// The valid key nearest to a wrong one, if within a third of its length (at least two edits).
pub fn nearest(key: &str) -> Option<String> {
    let wrong = key.to_lowercase().replace('-', "_");
    let limit = (wrong.len() / 3).max(2);
    TABLE
        .iter()
        .map(|a| {
            let row = distances(&wrong, a.key);
            let whole = row[a.key.len()];
            // People type beginnings: the best match against any beginning of the key counts, the whole key breaks ties.
            (row.get(3..).and_then(|r| r.iter().min()).copied().unwrap_or(whole), whole, a.key)
        })
        .min()
        .filter(|(d, _, _)| *d <= limit)
        .map(|(_, _, k)| k.to_string())
}

/// Levenshtein distances of `a` to every beginning of `b`.
fn distances(a: &str, b: &str) -> Vec<usize> {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = if ca == *cb { diagonal } else { 1 + diagonal.min(row[j]).min(row[j + 1]) };
            diagonal = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row
}

/// The reference page, generated: `docs/attributes.md` and `holdfast policy attributes`.
pub fn reference() -> String {
    let mut out = String::from(
        "# Policy attributes\n\nGenerated by `holdfast policy attributes`; do not edit. Every value can also be `default`: as if it had never been set.\n\n\
         | attribute | values | default | changes online | since | effect |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for a in TABLE {
        let default = Some(a.default.shown()).filter(|d| !d.is_empty()).unwrap_or("–");
        out += &format!(
            "| `{}` | {} | {} | {} | {} | {} |\n",
            a.key,
            a.values.replace('|', "\\|"),
            default,
            a.online.text(),
            a.since,
            a.help
        );
    }
    out += "| `label.<key>` | text, empty for none | – | yes | 0.1 | free labels; everything else must be an attribute above |\n";
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_valid_value_in_normal_form() {
        for a in TABLE {
            let text = match a.default {
                Fallback::Required => continue,
                Fallback::Text(t) => t.to_string(),
                Fallback::Computed { text, .. } => text(&AttrMap::new()),
            };
            assert_eq!(check(a.key, &text).as_ref(), Ok(&text), "{}", a.key);
        }
    }

    #[test]
    fn a_typo_is_refused_with_the_nearest_key() {
        for (wrong, right) in [
            ("relp", Some("replicas")),
            ("replica", Some("replicas")),
            ("repilcas", Some("replicas")),
            ("siz", Some("size")),
            ("read-only", Some("read_only")),
            ("frobnicate", None),
        ] {
            match check(wrong, "1") {
                Err(AttrError::Unknown { nearest, .. }) => assert_eq!(nearest.as_deref(), right, "{wrong}"),
                other => panic!("{wrong}: {other:?}"),
            }
        }
    }
}

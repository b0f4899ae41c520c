//! What an attribute of a volume's policy is: its name, its values, what happens when nobody sets it, and why a value is refused.

use std::collections::BTreeMap;

/// Attributes as given and stored: key to normal-form text. Only what was set; defaults are not stored.
pub type AttrMap = BTreeMap<String, String>;

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

//! What an attribute of a volume's policy is: its name, its values, its default, and why a value is refused.

use std::collections::BTreeMap;

/// Attributes as given and stored: key to normal-form text. Only what was set; defaults are not stored.
pub type AttrMap = BTreeMap<String, String>;

/// May an attribute change after creation?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Online {
    /// It may change at any time, and takes effect at once.
    Yes,
    /// It may change to larger values only.
    Grow,
    /// Changing it moves data; refused until replica sets can change online.
    MovesData,
    /// It is fixed at creation.
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

/// The default of an attribute.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// There is none: the attribute must be set.
    Required,
    /// A value, in normal form.
    Text(&'static str),
    /// The default follows from other attributes.
    Computed {
        /// How it follows, for people.
        shown: &'static str,
        /// The default, from the attributes that are set.
        text: fn(&AttrMap) -> String,
    },
}

impl Fallback {
    /// The default in words, for people; empty when there is none.
    pub fn shown(self) -> &'static str {
        match self {
            Fallback::Required => "",
            Fallback::Text(t) => t,
            Fallback::Computed { shown, .. } => shown,
        }
    }
}

/// What the values of an attribute are, for interfaces that know more than text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A number of bytes; as text with a unit, such as `10GiB`.
    Bytes,
    /// A time in seconds; as text with a unit, such as `10m`.
    Seconds,
    /// A whole number.
    Count,
    /// A share of 100; as text with or without `%`.
    Percent,
    /// True or false.
    Flag,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Names, separated by commas; none: any.
    Names,
}

/// One attribute of a volume's policy.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// Its key, the same in every interface.
    pub key: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// What a value looks like, for people.
    pub values: &'static str,
    /// Its value when it is not set.
    pub default: Fallback,
    /// Whether it can change later.
    pub online: Online,
    /// The release that introduced it.
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
        /// The key that was given.
        key: String,
        /// The nearest valid key, if one is near.
        nearest: Option<String>,
    },
    /// The value is not valid for the attribute.
    #[error("attribute {key}: {why}")]
    Value {
        /// The key of the attribute.
        key: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// The attribute is given twice.
    #[error("attribute {0} is given twice")]
    Twice(String),
    /// The attribute is not given and has no default.
    #[error("attribute {0} is required (holdfast policy attributes lists them all)")]
    Missing(&'static str),
    /// The attribute cannot change to this value while the volume exists.
    #[error("attribute {key} cannot change to {to} on an existing volume: {why}")]
    NotOnline {
        /// The key of the attribute.
        key: String,
        /// The refused value.
        to: String,
        /// The rule that forbids the change.
        why: &'static str,
    },
}

fn hint(nearest: &Option<String>) -> String {
    match nearest {
        Some(k) => format!("; did you mean \"{k}\"?"),
        None => "; holdfast policy attributes lists them all, free text goes under label.<key>".into(),
    }
}

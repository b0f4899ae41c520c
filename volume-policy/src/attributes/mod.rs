//! One file per attribute: its values, their meaning and their check.

use crate::attribute::{AttrError, AttrMap, Attribute, Fallback, Kind, LABEL_PREFIX, Online};
use crate::unit::parse_duration_us;
use std::borrow::Cow;
use std::collections::BTreeMap;

pub mod block_size;
pub mod exports;
pub mod failure_domain;
pub mod label;
pub mod media;
pub mod min_replicas;
pub mod nodes;
pub mod queue_depth;
pub mod read_from;
pub mod read_only;
pub mod rebuild_after;
pub mod rebuild_impact;
pub mod replica_timeout;
pub mod replicas;
pub mod scrub_interval;
pub mod size;
pub mod sticky;
pub mod strict_reads;

pub use exports::Exports;
pub use failure_domain::FailureDomain;
pub use media::Media;
pub use read_from::ReadFrom;

/// The table, and the typed view of it, from one list: a new attribute is a file, its name here, and the line
/// that enforces it.
macro_rules! attributes {
    ($($name:ident),* $(,)?) => {
        /// Every attribute, in the order people read them.
        pub const TABLE: &[Attribute] = &[$($name::ATTR),*];

        /// A volume's policy: every attribute with its type. What a value means, and its unit, stands with
        /// the attribute.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Policy {
            $(#[doc = concat!("[`", stringify!($name), "`](crate::attributes::", stringify!($name), "::Value)")]
            pub $name: $name::Value,)*
            /// Free labels, without the prefix.
            pub labels: BTreeMap<String, String>,
        }

        impl Policy {
            /// Types a map; what is not in it has its default. Nothing that spans attributes is checked here.
            pub(crate) fn typed(attrs: &AttrMap) -> Result<Policy, AttrError> {
                Ok(Policy {
                    $($name: {
                        let value = given(&$name::ATTR, attrs)?;
                        $name::parse(&value).map_err(|why| AttrError::Value { key: $name::ATTR.key.into(), why })?
                    },)*
                    labels: labels(attrs),
                })
            }
        }
    };
}

attributes! {
    size,
    replicas,
    min_replicas,
    failure_domain,
    nodes,
    media,
    rebuild_after,
    rebuild_impact,
    scrub_interval,
    replica_timeout,
    queue_depth,
    block_size,
    read_from,
    strict_reads,
    read_only,
    sticky,
    exports,
}

/// The value that was set, or the default.
pub(crate) fn given<'a>(a: &Attribute, attrs: &'a AttrMap) -> Result<Cow<'a, str>, AttrError> {
    match (attrs.get(a.key), a.default) {
        (Some(v), _) => Ok(v.trim().into()),
        (None, Fallback::Text(t)) => Ok(t.into()),
        (None, Fallback::Computed { text, .. }) => Ok(text(attrs).into()),
        (None, Fallback::Required) => Err(AttrError::Missing(a.key)),
    }
}

fn labels(attrs: &AttrMap) -> BTreeMap<String, String> {
    attrs.iter().filter_map(|(k, v)| Some((k.strip_prefix(LABEL_PREFIX)?.to_string(), v.clone()))).collect()
}

fn integer(value: &str, min: u32, max: u32) -> Result<u32, String> {
    match value.parse::<u32>() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ => Err(format!("\"{value}\" is not a whole number from {min} to {max}")),
    }
}

fn boolean(value: &str) -> Result<bool, String> {
    match value.to_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("\"{value}\" is neither true nor false")),
    }
}

fn one_of(value: &str, allowed: &[&'static str]) -> Result<&'static str, String> {
    let v = value.to_lowercase();
    let known = allowed.iter().find(|a| **a == v);
    known.copied().ok_or_else(|| format!("\"{value}\" is not one of {}", allowed.join(", ")))
}

fn word<T>(value: &str, words: &[&'static str], parse: fn(&str) -> Option<T>) -> Result<T, String> {
    let w = one_of(value, words)?;
    parse(w).ok_or_else(|| format!("\"{w}\" has no meaning"))
}

/// Parses a duration into microseconds; refuses one outside of the bounds.
fn duration(value: &str, least: &str, most: &str) -> Result<u64, String> {
    let us = parse_duration_us(value)?;
    if us < parse_duration_us(least)? || us > parse_duration_us(most)? {
        return Err(format!("{value} is outside {least} to {most}"));
    }
    Ok(us)
}

/// Declares an enumerated attribute value: the type, its words, and its parser.
macro_rules! word_enum {
    ($(#[$m:meta])* $name:ident { $($(#[$vm:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$m])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$vm])* $variant),* }
        impl $name {
            /// Every word, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),*];
            /// The value of a word; none if the word is unknown.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
            /// The word that it is written with.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }
    };
}
pub(crate) use word_enum;

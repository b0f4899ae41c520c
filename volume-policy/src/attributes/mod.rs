//! One file per attribute: its values, their meaning and their check.

use crate::attribute::{Attribute, Online};

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

pub use failure_domain::FailureDomain;
pub use media::Media;
pub use read_from::ReadFrom;

fn integer(value: &str, min: u64, max: u64) -> Result<String, String> {
    match value.parse::<u64>() {
        Ok(n) if (min..=max).contains(&n) => Ok(n.to_string()),
        _ => Err(format!("\"{value}\" is not a whole number from {min} to {max}")),
    }
}

fn boolean(value: &str) -> Result<String, String> {
    match value.to_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok("true".into()),
        "false" | "no" | "off" | "0" => Ok("false".into()),
        _ => Err(format!("\"{value}\" is neither true nor false")),
    }
}

fn one_of(value: &str, allowed: &[&str]) -> Result<String, String> {
    let v = value.to_lowercase();
    if allowed.contains(&v.as_str()) { Ok(v) } else { Err(format!("\"{value}\" is not one of {}", allowed.join(", "))) }
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
            /// From its word.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
            /// Its word.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }
    };
}
pub(crate) use word_enum;

//! Mutes: health checks that an operator does not want to hear of for a while.
//!
//! The record keeps them, so that every node shows the same and a mute survives the leader. Whether a mute still holds
//! (its end, more subjects, a higher severity) is decided by who evaluates health; here only those that have ended are
//! dropped, when the next one is made or ended.

use serde::{Deserialize, Serialize};

/// Mutes that a cluster can have.
pub const MUTES_KEPT: usize = 256;
/// Bytes that the code of a muted check may have.
pub const MUTE_CODE_BYTES: usize = 64;
/// Bytes that the subject of a mute, or the name of its author, may have.
pub const MUTE_SUBJECT_BYTES: usize = 128;
/// Bytes that the reason of a mute may have.
pub const MUTE_REASON_BYTES: usize = 512;

/// A health check that is muted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mute {
    /// The code of the check: capitals, digits and `_`.
    pub code: String,
    /// What the check is about; empty: every subject.
    pub subject: String,
    /// Who muted it.
    pub by: String,
    /// Why, for people.
    pub reason: String,
    /// When it was muted, Unix milliseconds of the proposer's clock.
    pub at_ms: u64,
    /// When the mute ends, Unix milliseconds.
    pub until_ms: u64,
    /// It stays although the check is raised for more, or more severely.
    pub sticky: bool,
    /// For how many subjects the check was raised when it was muted.
    pub count: u64,
}

impl Mute {
    /// Has it ended by this moment, in Unix milliseconds?
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.until_ms <= now_ms
    }

    /// Is it of this check, about this subject?
    pub fn covers(&self, code: &str, subject: &str) -> bool {
        self.code == code && (self.subject.is_empty() || self.subject == subject)
    }

    /// Is it made as it should be? The error says in words what is not.
    pub fn check(&self) -> Result<(), String> {
        let capital = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        if self.code.is_empty() || self.code.len() > MUTE_CODE_BYTES || !self.code.chars().all(capital) {
            return Err(format!("a health code has 1 to {MUTE_CODE_BYTES} capitals, digits and _"));
        }
        for (what, text, most) in [
            ("subject", &self.subject, MUTE_SUBJECT_BYTES),
            ("author", &self.by, MUTE_SUBJECT_BYTES),
            ("reason", &self.reason, MUTE_REASON_BYTES),
        ] {
            if text.len() > most {
                return Err(format!("the {what} of a mute has at most {most} bytes, this one {}", text.len()));
            }
        }
        if self.until_ms <= self.at_ms {
            return Err("the mute would have ended before it began: give a later end".into());
        }
        Ok(())
    }
}
